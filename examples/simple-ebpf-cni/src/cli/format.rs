//! Text for tables and messages: names, numbers, units, plurals.

use std::time::{Duration, SystemTime};

use cnikit::spec::{AttachmentKey, ContainerId, IfName, KubernetesPod};
use serde::{Serialize, Serializer};

/// The number of characters of a container id in tables, as in `docker ps`.
const SHORT_ID: usize = 12;

/// The text of a cell with an unknown value.
pub(crate) const UNKNOWN: &str = "-";

/// The number of characters after which tables cut a pod name. Most names are shorter. A name of
/// 253 characters would push the other columns off the screen.
const MAX_POD: usize = 64;

/// The number of hexadecimal digits in a container id that a runtime has generated.
const GENERATED_ID: usize = 64;

/// A container id for tables. Names from users and clients have common prefixes, so they stay
/// whole.
pub(crate) fn short(id: &str) -> &str {
    let is_generated = id.len() == GENERATED_ID && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_generated { &id[..SHORT_ID] } else { id }
}

/// A pod for tables: `<namespace>/<name>`, cut if it is too long.
pub(crate) fn pod(pod: &KubernetesPod, no_trunc: bool) -> String {
    let text = if pod.is_unnamed() { UNKNOWN.to_owned() } else { pod.to_string() };
    if no_trunc || text.chars().count() <= MAX_POD {
        return text;
    }
    text.chars().take(MAX_POD - 1).chain(['…']).collect()
}

/// Values separated by commas.
pub(crate) fn list(values: &[impl ToString]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A number of objects: "1 pod", "2 pods".
pub(crate) fn count(number: usize, noun: &str) -> String {
    let plural = match noun {
        _ if number == 1 => "",
        _ if noun.ends_with('s') => "es",
        _ if noun.ends_with('y') => return format!("{number} {}ies", noun.trim_end_matches('y')),
        _ => "s",
    };
    format!("{number} {noun}{plural}")
}

/// A number of objects with a verb: "1 pod is", "2 pods are".
pub(crate) fn count_are(number: usize, noun: &str) -> String {
    format!("{} {}", count(number, noun), if number == 1 { "is" } else { "are" })
}

/// The verb for a number of objects: "1 pod has", "2 pods have".
pub(crate) fn have(number: usize) -> &'static str {
    if number == 1 { "has" } else { "have" }
}

/// A regular verb for a number of objects: "1 entry leads", "2 entries lead".
pub(crate) fn verb(number: usize, verb: &str) -> String {
    format!("{verb}{}", if number == 1 { "s" } else { "" })
}

/// A number of bytes with at most three digits before its decimal unit.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if number < 1000 {
        return format!("{number} B");
    }
    // Tenths of the unit, rounded down: 999,999 bytes must not become 1000.0 kB.
    let (mut tenths, mut unit) = (number / 100, 0);
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        (tenths, unit) = (tenths / 1000, unit + 1);
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// The time since a moment, in one unit. A clock that was set back gives zero.
pub(crate) fn age(since: SystemTime) -> String {
    duration(since.elapsed().unwrap_or_default())
}

fn duration(elapsed: Duration) -> String {
    match elapsed.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Serializes an owner with the keys of a lease file. The protocol spells `containerID`.
pub(crate) fn owner_keys<S: Serializer>(owner: &Option<AttachmentKey>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Keys<'a> {
        container_id: &'a ContainerId,
        ifname: &'a IfName,
    }
    let keys = owner.as_ref().map(|AttachmentKey { container_id, ifname }| Keys { container_id, ifname });
    keys.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits_and_a_unit() {
        let shown = [0, 999, 1000, 999_999, 1_000_000, 123_456_789, u64::MAX].map(bytes);
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "123.4 MB", "18.4 EB"]);
    }

    #[test]
    fn durations_have_one_unit() {
        let shown = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(|secs| duration(Duration::from_secs(secs)));
        assert_eq!(shown, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
    }

    #[test]
    fn nouns_have_a_plural() {
        let shown = [count(1, "entry"), count(2, "entry"), count(0, "address"), count(2, "pod")];
        assert_eq!(shown, ["1 entry", "2 entries", "0 addresses", "2 pods"]);
    }
}
