//! Small words for tables and what stands below them.

use std::time::{Duration, SystemTime};

use cnikit::spec::KubernetesPod;

/// As many characters of a container's id as `docker ps` shows.
const SHORT_ID: usize = 12;

/// The text of a cell whose value is unknown.
pub(crate) const UNKNOWN: &str = "-";

/// The longest pod that a table shows in full, in characters: most names are shorter, and one of 253 characters would push
/// all other columns off the screen.
const LONGEST_POD: usize = 64;

/// How many digits an id has that a runtime has drawn.
const DRAWN_ID: usize = 64;

/// A container's id as tables show it. Names that people and clients give begin alike, and are shown in full.
pub(crate) fn short(id: &str) -> &str {
    let is_drawn = id.len() == DRAWN_ID && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_drawn { &id[..SHORT_ID] } else { id }
}

/// A pod as tables show it: `<namespace>/<name>`, cut if it is very long.
pub(crate) fn pod(pod: &KubernetesPod, no_trunc: bool) -> String {
    let text = if pod.is_unnamed() { UNKNOWN.to_owned() } else { pod.to_string() };
    if no_trunc || text.chars().count() <= LONGEST_POD {
        return text;
    }
    text.chars().take(LONGEST_POD - 1).chain(['…']).collect()
}

/// Values in one cell.
pub(crate) fn list(values: &[impl ToString]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A number of things, in the plural where it is not one.
pub(crate) fn count(number: usize, what: &str) -> String {
    let plural = match what {
        _ if number == 1 => "",
        _ if what.ends_with('s') => "es",
        _ => "s",
    };
    format!("{number} {what}{plural}")
}

/// The verb for a number of things: "1 pod has", "2 pods have".
pub(crate) fn have(number: usize) -> &'static str {
    if number == 1 { "has" } else { "have" }
}

/// The same of a regular verb: "1 row leads", "2 rows lead".
pub(crate) fn verb(number: usize, verb: &str) -> String {
    format!("{verb}{}", if number == 1 { "s" } else { "" })
}

/// A number of bytes with three digits at the most before its unit.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if number < 1000 {
        return format!("{number} B");
    }
    // In tenths of the unit, which are cut off and not rounded: 999,999 bytes are no 1000.0 kB.
    let (mut tenths, mut unit) = (number / 100, 0);
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        (tenths, unit) = (tenths / 1000, unit + 1);
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// How long ago something was, in its greatest unit. A clock that was set back makes it now.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits_and_a_unit() {
        let shown = [0, 999, 1000, 999_999, 1_000_000, 123_456_789, u64::MAX].map(bytes);
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "123.4 MB", "18.4 EB"]);
    }

    #[test]
    fn durations_are_told_in_their_greatest_unit() {
        let shown = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(|secs| duration(Duration::from_secs(secs)));
        assert_eq!(shown, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
    }
}
