//! RFC 3339 text: which points in time it can represent.

use std::time::{Duration, SystemTime};

/// 9999-12-31T23:59:59Z in seconds since the Unix epoch: the last second of a year with four
/// digits.
const MAX_SECONDS: u64 = 253_402_300_799;

/// The representable time closest to `time`.
///
/// `humantime` panics on a time before 1970 and fails on a time after 9999. A wrong clock must not
/// fail a call.
pub(crate) fn clamp(time: SystemTime) -> SystemTime {
    let epoch = SystemTime::UNIX_EPOCH;
    time.clamp(epoch, epoch + Duration::from_secs(MAX_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_outside_rfc_3339_are_clamped() {
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        let after = SystemTime::UNIX_EPOCH + Duration::from_secs(MAX_SECONDS + 1);
        assert_eq!(humantime::format_rfc3339_seconds(clamp(before)).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(humantime::format_rfc3339_seconds(clamp(after)).to_string(), "9999-12-31T23:59:59Z");
    }
}
