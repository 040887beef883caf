//! Removal of optional plugins from a network configuration.

use std::ops::Range;

use cnikit::runtime::{Error, NetworkConfigList};
use cnikit::spec::PluginType;

/// Removes plugins from a list, and returns the removed ones. All other bytes stay, because an
/// operator compares the file with its source.
pub(crate) fn without(
    list: NetworkConfigList,
    missing: &[&PluginType],
) -> Result<(NetworkConfigList, Vec<PluginType>), Error> {
    let is_missing: Vec<bool> = list.plugins.iter().map(|plugin| missing.contains(&&plugin.plugin_type)).collect();
    let text = list.as_bytes();
    let places = places(text);
    // They differ for a key that is written with escapes, or twice. Then the plugins stay.
    if !is_missing.contains(&true) || places.len() != is_missing.len() {
        return Ok((list, Vec::new()));
    }
    let mut remaining = text.to_vec();
    for (index, place) in places.iter().enumerate().rev().filter(|(index, _)| is_missing[*index]) {
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

/// The places of the plugins in the text of a valid list.
///
/// The type `RawValue` of serde_json knows the places, too. Its feature makes the code of each
/// serialized struct longer: 25 KB in the binary.
fn places(text: &[u8]) -> Vec<Range<usize>> {
    let (mut places, mut start, mut depth, mut in_plugins) = (Vec::new(), 0, 0, false);
    // The last string outside of lists and inner objects: before a list, it is the key.
    let mut key = 0..0;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => {
                let first = at + 1;
                at = first;
                while text.get(at).is_some_and(|byte| *byte != b'"') {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                if depth == 1 {
                    key = first..at;
                }
            }
            b'{' | b'[' => {
                in_plugins |= depth == 1 && *byte == b'[' && text.get(key.clone()) == Some(b"plugins");
                if depth == 2 {
                    start = at;
                }
                depth += 1;
            }
            b'}' | b']' => {
                depth -= 1;
                if in_plugins && depth == 2 {
                    places.push(start..at + 1);
                }
                in_plugins &= depth > 1;
            }
            _ => {}
        }
        at += 1;
    }
    places
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
    fn only_the_list_of_plugins_counts() {
        let text = r#"{"name":"plugins","x":[{"type":"portmap"}],"y":{"plugins":[{"type":"portmap"}]},
            "\\\"plugins":[{"a":1}],"plugins":[{"type":"ours","s":"\"}],[{\\"}, {"type":"portmap"}],"cniVersion":"1.0.0"}"#;
        let expected = text.replace(r#"}, {"type":"portmap"}]"#, "}]");
        assert_removed(text, &["portmap"], &expected, &["portmap"]);
    }

    #[test]
    fn a_list_in_an_unusual_form_stays() {
        for text in [
            r#"{"cniVersion":"1.0.0","name":"n","plug\u0069ns":[{"type":"ours"},{"type":"portmap"}]}"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"x"}],"plugins":[{"type":"ours"},{"type":"portmap"}]}"#,
        ] {
            assert_removed(text, &["portmap"], text, &[]);
        }
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
