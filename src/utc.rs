//! Calendar arithmetic for the timestamps in the library's files.

/// Seconds in a day.
pub(crate) const DAY: u64 = 86_400;
/// Days in an era of 400 years, after which the Gregorian calendar repeats.
pub(crate) const ERA: u64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01. The arithmetic counts years from March, so that a leap day
/// ends its year.
pub(crate) const EPOCH: u64 = 719_468;

/// Formats seconds since the Unix epoch as date and time in UTC, in the form of [RFC 3339] without
/// the zone letter.
///
/// [RFC 3339]: https://www.rfc-editor.org/rfc/rfc3339
pub(crate) fn date_time(seconds: u64) -> String {
    let days = seconds / DAY + EPOCH;
    let of_era = days % ERA;
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (year * 365 + year / 4 - year / 100);
    // From March on, each 5 months have 153 days.
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = days / ERA * 400 + year + carry;
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}
