//! Points in time as [RFC 3339] text in UTC, to the second.
//!
//! [RFC 3339]: https://www.rfc-editor.org/rfc/rfc3339

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serializer, de};

use crate::utc::{self, DAY, EPOCH, ERA};

/// The present, cut to what the text can tell.
pub(super) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds_of(SystemTime::now()))
}

pub(super) fn text(time: SystemTime) -> String {
    format(seconds_of(time))
}

pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(*time))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text)
        .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(&text), &"a time such as 2006-01-02T15:04:05Z"))
}

/// A clock set before 1970 is not worth a failed lease: it counts as the start of that year.
fn seconds_of(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The text of so many seconds after the start of 1970.
fn format(seconds: u64) -> String {
    format!("{}Z", utc::date_time(seconds))
}

/// The seconds after the start of 1970 that [`format`] made `text` of; nothing for any other text.
fn parse(text: &str) -> Option<u64> {
    let part = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (part(0..4)?, part(5..7)?, part(8..10)?);
    let (hour, minute, second) = (part(11..13)?, part(14..16)?, part(17..19)?);
    let (from_march, carry) = if month > 2 { (month - 3, 0) } else { (month + 9, 1) };
    let year = year.checked_sub(carry)?;
    let days =
        year / 400 * ERA + year % 400 * 365 + year % 400 / 4 - year % 400 / 100 + (153 * from_march + 2) / 5 + day;
    let seconds = days.checked_sub(EPOCH + 1)? * DAY + hour * 3_600 + minute * 60 + second;
    // Writing it again finds whatever is out of bounds or out of place.
    (format(seconds) == text).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `date -u -d @<seconds> +%FT%TZ`.
    const KNOWN: [(u64, &str); 7] = [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_399, "2000-02-28T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (951_868_800, "2000-03-01T00:00:00Z"),
        (1_735_689_599, "2024-12-31T23:59:59Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
    ];

    #[test]
    fn known_times_are_written_and_read() {
        for (seconds, text) in KNOWN {
            assert_eq!(format(seconds), text);
            assert_eq!(parse(text), Some(seconds));
        }
    }

    #[test]
    fn every_day_of_four_centuries_survives() {
        for seconds in (0..ERA).map(|day| day * DAY + 45_296) {
            assert_eq!(parse(&format(seconds)), Some(seconds));
        }
    }

    #[test]
    fn what_is_no_time_is_not_read() {
        for text in [
            "",
            "2000",
            "1969-12-31T23:59:59Z",
            "2001-02-29T00:00:00Z",
            "2001-00-01T00:00:00Z",
            "2001-13-01T00:00:00Z",
            "2001-01-00T00:00:00Z",
            "2001-01-01T24:00:00Z",
            "2001-01-01T00:60:00Z",
            "2001-01-01 00:00:00Z",
            "2001-01-01T00:00:00+01:00",
            "2001-01-01T00:00:00Zé",
            "0000-01-01T00:00:00Z",
            "+001-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
