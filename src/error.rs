use crate::spec::{ErrorCode, HasErrorCode};

/// The result type of functions that call several modules.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of any module of the library.
///
/// For functions that call several modules. The error of each module carries the details.
///
/// ```
/// fn ifname_of(text: &str) -> Result<cnikit::spec::IfName, cnikit::Error> {
///     Ok(text.parse()?)
/// }
///
/// assert!(matches!(ifname_of("a/b"), Err(cnikit::Error::Spec(_))));
/// ```
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
#[non_exhaustive]
pub enum Error {
    /// An error of [`spec`](crate::spec).
    Spec(#[from] crate::spec::Error),
    /// An error of [`plugin`](crate::plugin).
    Plugin(#[from] crate::plugin::Error),
    /// An error of [`runtime`](crate::runtime).
    Runtime(#[from] crate::runtime::Error),
    /// An error of [`ipam`](crate::ipam).
    #[cfg(feature = "ipam")]
    Ipam(#[from] crate::ipam::Error),
    /// An error of [`netlink`](crate::netlink).
    #[cfg(feature = "netlink")]
    Netlink(#[from] crate::netlink::Error),
    /// An error of [`bpf`](crate::bpf) or of `datapath`.
    #[cfg(feature = "bpf")]
    Bpf(#[from] crate::bpf::Error),
}

impl HasErrorCode for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Spec(error) => error.code(),
            Self::Plugin(error) => error.code(),
            Self::Runtime(error) => error.code(),
            #[cfg(feature = "ipam")]
            Self::Ipam(error) => error.code(),
            #[cfg(feature = "netlink")]
            Self::Netlink(error) => error.code(),
            #[cfg(feature = "bpf")]
            Self::Bpf(error) => error.code(),
        }
    }
}
