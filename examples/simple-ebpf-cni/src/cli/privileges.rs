//! The capabilities of this process.

use std::fs;

use super::error::Error;

/// The capabilities that the commands need, with the number of the bit in `/proc/self/status`.
const CAPABILITIES: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21), ("CAP_BPF", 39)];

/// Returns an error if this process cannot read networks. It would report that none exist.
pub(crate) fn require() -> Result<(), Error> {
    missing().map_or(Ok(()), |missing| Err(Error::Unprivileged { missing }))
}

/// The missing capabilities, separated by commas.
pub(crate) fn missing() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    let effective = effective.unwrap_or_default();
    let missing = CAPABILITIES.iter().filter(|(_, bit)| effective >> bit & 1 == 0);
    let missing: Vec<&str> = missing.map(|(name, _)| *name).collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}
