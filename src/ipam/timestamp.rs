//! Points in time as [RFC 3339] text in UTC, with a resolution of one second.
//!
//! [RFC 3339]: https://www.rfc-editor.org/rfc/rfc3339

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serializer, de};

use crate::utc;

/// The current time, truncated to the resolution of the text.
pub(super) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds_of(SystemTime::now()))
}

pub(super) fn text(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(utc::clamp(time)).to_string()
}

pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(*time))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text)
        .ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(&text), &"a time such as 2006-01-02T15:04:05Z"))
}

/// Seconds since the Unix epoch. A clock set before 1970 counts as 1970 and does not fail the
/// lease.
fn seconds_of(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Accepts only the exact format that [`text`] writes. `humantime` also accepts fractions and leap
/// seconds.
fn parse(written: &str) -> Option<SystemTime> {
    let time = humantime::parse_rfc3339(written).ok()?;
    (text(time) == written).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    /// The Gregorian calendar repeats after 400 years, which have this many days.
    const ERA: u64 = 146_097;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

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
            assert_eq!(super::text(at(seconds)), text);
            assert_eq!(parse(text), Some(at(seconds)));
        }
    }

    #[test]
    fn every_day_of_four_centuries_round_trips() {
        for seconds in (0..ERA).map(|day| day * DAY + 45_296) {
            assert_eq!(parse(&text(at(seconds))), Some(at(seconds)));
        }
    }

    #[test]
    fn invalid_times_are_rejected() {
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
            "2001-01-01T00:00:00.0Z",
            "2001-01-01T23:59:60Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
