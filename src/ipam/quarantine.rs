use std::fmt;
use std::path::PathBuf;

use super::error::Error;

/// A damaged file that was found in the place of a lease and moved away; see
/// [`StoreGuard::quarantined`](super::StoreGuard::quarantined).
#[derive(Debug)]
#[non_exhaustive]
pub struct Quarantined {
    /// The original path.
    pub file: PathBuf,
    /// The path of the kept copy. It stays until an operator removes it.
    pub kept: PathBuf,
    /// The error of the read.
    pub error: Error,
}

impl fmt::Display for Quarantined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was damaged and is now {}: ", self.file.display(), self.kept.display())?;
        // Only the cause: the remedy in the message of the error no longer applies.
        match &self.error {
            Error::CorruptLease { source, .. } => source.fmt(f),
            Error::Io { source, .. } => source.fmt(f),
            error => error.fmt(f),
        }
    }
}
