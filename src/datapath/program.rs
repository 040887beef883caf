//! The names of the programs.

/// The name of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgramName {
    /// `cni_tc_main`, for the ingress hooks.
    Main,
    /// `cni_tc_egress`, for the egress hooks.
    Egress,
}

impl ProgramName {
    pub(super) const ALL: [Self; 2] = [Self::Main, Self::Egress];

    /// The name of the program in the C source, and of its pin.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Main => "cni_tc_main",
            Self::Egress => "cni_tc_egress",
        }
    }
}
