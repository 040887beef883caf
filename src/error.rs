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

#[cfg(test)]
mod tests {
    use std::error::Error as StdError;
    use std::io;

    use crate::spec::Command;
    use crate::{plugin, runtime, spec};

    const REASON: &str = "No such file or directory (os error 2)";

    fn missing() -> io::Error {
        io::Error::from_raw_os_error(2)
    }

    fn malformed() -> serde_json::Error {
        serde_json::from_str::<()>("[").unwrap_err()
    }

    /// The text has the reason once, and a printed chain of sources cannot repeat it.
    fn assert_reason(error: &dyn StdError, reason: &str) {
        assert_eq!(error.to_string().matches(reason).count(), 1, "{error}");
        assert!(error.source().is_none(), "{error:?}");
    }

    #[test]
    fn errors_of_spec_contain_their_reason() {
        use spec::Error;

        let source = || malformed().into();
        for error in [
            Error::NotJson { source: source() },
            Error::InvalidKey { key: "name", source: source() },
            Error::InvalidConfig { path: String::new(), source: source() },
            Error::InvalidResult { version: spec::Version::V1_0_0, source: source() },
            Error::Unwritable { source: source() },
            Error::InvalidPrevResult { source: Box::new(Error::NotJson { source: source() }) },
        ] {
            assert_reason(&error, &malformed().to_string());
            assert_reason(&super::Error::from(error), &malformed().to_string());
        }
    }

    #[test]
    fn errors_of_plugin_contain_their_reason() {
        use plugin::Error;

        assert_reason(&Error::Stdin { source: missing() }, REASON);
        assert_reason(&Error::NetnsUnreadable { path: "/x".into(), source: missing() }, REASON);
    }

    #[test]
    fn errors_of_runtime_contain_their_reason() {
        use runtime::Error;

        let unreadable = || Error::Io { operation: "read", path: "/x".into(), source: missing() };
        assert_eq!(unreadable().to_string(), format!("cannot read /x: {REASON}"));
        assert_reason(&unreadable(), REASON);
        assert_reason(&Error::File { path: "/y".into(), source: Box::new(unreadable()) }, REASON);
        assert_reason(&Error::Start { plugin: "/x".into(), source: missing() }, REASON);
        assert_reason(&Error::Pipe { plugin: "/x".into(), command: Command::Add, source: missing() }, REASON);

        let reason = malformed().to_string();
        let invalid = || spec::Error::NotJson { source: malformed().into() };
        let (plugin, command) = ("/x".into(), Command::Add);
        assert_reason(&Error::NotJson { plugin, command, output: "[".into(), source: malformed() }, &reason);
        assert_reason(&Error::InvalidResponse { plugin: "/x".into(), command, source: invalid() }, &reason);
        assert_reason(&Error::InvalidPlugin { index: 0, source: invalid() }, &reason);
        assert_reason(&Error::CorruptCache { path: "/x".into(), source: malformed() }, &reason);
        let source = std::env::join_paths(["a:b"]).unwrap_err();
        assert!(Error::Path { source }.source().is_none());
    }

    #[test]
    fn a_rollback_with_the_reason_of_the_add_does_not_repeat_it() {
        use runtime::Error;
        use spec::ErrorCode;

        let failed = |plugin: &str, command, msg: &str| Error::Plugin {
            plugin: plugin.into(),
            command,
            code: ErrorCode::TRY_AGAIN,
            msg: msg.into(),
            details: String::new(),
        };
        let left = vec![failed("/a", Command::Del, "no daemon"), failed("/b", Command::Del, "no link")];
        let error = Error::RollbackFailed { cause: Box::new(failed("/a", Command::Add, "no daemon")), left };
        assert_eq!(
            error.to_string(),
            "/a failed ADD with code 11: no daemon; the rollback failed too: /a failed DEL for the same reason; \
             /b failed DEL with code 11: no link"
        );
    }

    #[cfg(feature = "ipam")]
    #[test]
    fn errors_of_ipam_contain_their_reason() {
        use crate::ipam::Error;

        let io =
            |errno| Error::Io { operation: "write", path: "/x".into(), source: io::Error::from_raw_os_error(errno) };
        assert_reason(&io(2), REASON);
        assert_eq!(
            io(28).to_string(),
            "cannot write /x: No space left on device (os error 28); \
             free space or inodes on that file system, or choose another directory"
        );
        let reason = malformed().to_string();
        assert_reason(&Error::CorruptLease { path: "/x".into(), owner: None, source: malformed() }, &reason);
        assert_reason(&Error::NotATable { path: "/x".into(), source: malformed() }, &reason);
        let invalid = "".parse::<spec::ContainerId>().unwrap_err();
        let reason = invalid.to_string();
        assert_reason(&crate::ipam::SkipReason::NoOwner(invalid), &reason);
    }

    #[cfg(feature = "netlink")]
    #[test]
    fn errors_of_netlink_contain_their_reason() {
        use crate::netlink::Error;

        let (operation, object) = ("create bridge", || "cbr0".to_owned());
        let link = || "cbr0".parse::<spec::IfName>().unwrap();
        for error in [
            Error::Socket { operation, object: object(), source: missing() },
            Error::Message { operation, object: object(), source: missing().into() },
            Error::NetnsOpen { path: "/x".into(), source: missing() },
            Error::Netns { operation: "enter", source: missing() },
            Error::Probe { link: link(), source: missing() },
            Error::PciDevice { address: "0000:00:00.0".into(), source: missing() },
            Error::Announce { link: link(), source: missing() },
            Error::Sysctl { operation: "read", path: "/x".into(), source: missing() },
        ] {
            assert_reason(&error, REASON);
        }
        let source = io::Error::from_raw_os_error(1);
        assert_eq!(
            Error::Netns { operation: "enter", source }.to_string(),
            "cannot enter a network namespace: Operation not permitted (os error 1); CAP_SYS_ADMIN is needed"
        );
    }

    #[cfg(feature = "bpf")]
    #[test]
    fn errors_of_bpf_contain_their_reason() {
        use crate::bpf::Error;

        for error in [
            Error::Mount { path: "/x".into(), source: missing() },
            Error::Load { source: missing() },
            Error::Rejected { source: missing() },
            Error::Pin { operation: "open", path: "/x".into(), source: missing() },
            Error::Map { operation: "put 10.244.1.2".into(), map: "endpoints", source: missing() },
            Error::Program { id: 7, source: missing() },
            Error::Tcx { operation: "attach to", object: "eth0".into(), source: missing() },
        ] {
            assert_reason(&error, REASON);
        }
        let path = "/x".into();
        assert_eq!(
            Error::Mount { path, source: missing() }.to_string(),
            format!(
                "cannot mount the BPF file system on /x: {REASON}; mount it by hand (mount -t bpf bpf /x) on a kernel \
                 with CONFIG_BPF_SYSCALL, or give the process CAP_SYS_ADMIN"
            )
        );
    }

    #[cfg(feature = "conformance")]
    #[test]
    fn errors_of_conformance_contain_their_reason() {
        use crate::conformance::Error;

        let netns = crate::netlink::Error::Netns { operation: "create", source: missing() };
        let invalid = spec::Error::NotAnObject;
        assert_reason(&Error::PrevResult(spec::Error::NotAnObject), &invalid.to_string());
        for error in [
            Error::Plugin { path: "/x".into(), source: missing() },
            Error::Start { path: "/x".into(), source: missing() },
            Error::Host { operation: "create", path: "/x".into(), source: missing() },
            Error::Netlink(netns),
        ] {
            assert_reason(&error, REASON);
        }
    }
}
