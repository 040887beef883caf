//! Small words for tables and what stands below them.

/// As many characters of a container's id as `crictl` shows.
const SHORT_ID: usize = 13;

/// A container's id as tables show it.
pub(crate) fn short(id: &str) -> &str {
    // Ids are of ASCII characters.
    id.get(..SHORT_ID).unwrap_or(id)
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
