//! Removal of optional plugins from a network configuration.

use std::ops::Range;

use cnikit::runtime::{Error, NetworkConfigList};
use cnikit::spec::PluginType;
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow, default)]
    plugins: Vec<&'a RawValue>,
}

/// Removes plugins from a list, and returns the removed ones. All other bytes stay, because an
/// operator compares the file with its source.
pub(crate) fn without(
    list: NetworkConfigList,
    missing: &[&PluginType],
) -> Result<(NetworkConfigList, Vec<PluginType>), Error> {
    let is_missing: Vec<bool> = list.plugins.iter().map(|plugin| missing.contains(&&plugin.plugin_type)).collect();
    if !is_missing.contains(&true) {
        return Ok((list, Vec::new()));
    }
    let text = list.as_bytes();
    // The list has been parsed from the same text.
    let places: Vec<Range<usize>> = serde_json::from_slice(text).map_or_else(
        |_| Vec::new(),
        |List { plugins }| plugins.iter().map(|plugin| place(plugin.get(), text)).collect(),
    );
    let mut remaining = text.to_vec();
    for (index, place) in places.iter().enumerate().rev().filter(|(index, _)| is_missing.get(*index) == Some(&true)) {
        // The comma after the plugin goes with it, or the comma before if a plugin stays there.
        let has_before = is_missing[..index].contains(&false);
        let cut = match places.get(index + 1) {
            _ if has_before => places[index - 1].end..place.end,
            Some(next) => place.start..next.start,
            None => place.clone(),
        };
        remaining.drain(cut);
    }
    let mut left_out: Vec<PluginType> = Vec::new();
    for plugin in missing.iter().copied() {
        if list.plugins.iter().any(|listed| listed.plugin_type == *plugin) && !left_out.contains(plugin) {
            left_out.push(plugin.clone());
        }
    }
    Ok((NetworkConfigList::parse(remaining)?, left_out))
}

/// The place of a part within its text.
fn place(part: &str, text: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_removed(text: &str, missing: &[&str], expected: &str, left_out: &[&str]) {
        let missing: Vec<PluginType> = missing.iter().map(|name| name.parse().unwrap()).collect();
        let list = NetworkConfigList::parse(text).unwrap();
        let (list, removed) = without(list, &missing.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(std::str::from_utf8(list.as_bytes()).unwrap(), expected);
        assert_eq!(removed.iter().map(PluginType::as_str).collect::<Vec<_>>(), left_out);
    }

    #[test]
    fn only_the_plugin_and_its_comma_are_removed() {
        let text = "{ \"name\" : \"n\", \"x\":1e3,\n \"plugins\": [\n  {\"type\":\"ours\",\"z\":1, \"a\":2},\n  \
            { \"type\": \"portmap\", \"b\": [{}, \"]},\"] } ],\"cniVersion\":\"1.0.0\" }\n";
        let expected = "{ \"name\" : \"n\", \"x\":1e3,\n \"plugins\": [\n  {\"type\":\"ours\",\"z\":1, \"a\":2} ],\
            \"cniVersion\":\"1.0.0\" }\n";
        assert_removed(text, &["portmap"], expected, &["portmap"]);
        assert_removed(text, &["tuning"], text, &[]);
        assert_removed(text, &[], text, &[]);
    }

    #[test]
    fn any_position_and_number_of_plugins_can_be_removed() {
        let list = |plugins: &[&str]| {
            let plugins: Vec<String> = plugins.iter().map(|plugin| format!("{{\"type\":\"{plugin}\"}}")).collect();
            format!("{{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"plugins\":[{}]}}", plugins.join(", "))
        };
        for listed in [
            &["a", "ours"][..],
            &["a", "b", "ours"],
            &["a", "ours", "b"],
            &["ours", "a", "b"],
            &["a", "ours", "a", "other", "b"],
        ] {
            let kept: Vec<&str> = listed.iter().copied().filter(|plugin| !["a", "b"].contains(plugin)).collect();
            let removed: Vec<&str> = ["a", "b"].into_iter().filter(|plugin| listed.contains(plugin)).collect();
            assert_removed(&list(listed), &["a", "b", "a"], &list(&kept), &removed);
        }
    }
}
