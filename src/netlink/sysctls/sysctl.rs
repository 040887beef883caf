//! Reading and writing settings.

use std::{
    fmt::{self, Display},
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::fs::OFlags;
use tracing::debug;

use super::{ipv6::Ipv6Conf, name::SysctlName};
use crate::netlink::error::{Error, Result};
use crate::spec::IfName;

/// A setting of a network namespace, below `/proc/sys/net`, or [any](Sysctl::Named) below
/// `/proc/sys`.
///
/// The kernel shows every *thread* the settings of its own namespace, so a pod's settings must be
/// written from inside. One visit is enough for the settings and the socket:
///
/// ```no_run
/// use cnikit::netlink::{Ipv6Conf, Netns, Socket, Sysctl};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let eth0 = "eth0".parse()?;
/// let pod = Netns::open("/run/netns/blue")?;
/// let inside = pod.run(|| {
///     Sysctl::Ipv6Conf(&eth0, Ipv6Conf::AcceptRa).write(0)?;
///     Socket::open()
/// })??;
/// # Ok(())
/// # }
/// ```
///
/// A setting is shown by its path, not by the dotted name of sysctl(8), because an interface name
/// may contain a dot.
///
/// ```
/// use cnikit::netlink::{Ipv6Conf, Sysctl};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let vlan = "eth0.5".parse()?;
/// let setting = Sysctl::Ipv6Conf(&vlan, Ipv6Conf::Forwarding);
/// assert_eq!(setting.to_string(), "/proc/sys/net/ipv6/conf/eth0.5/forwarding");
/// # Ok(())
/// # }
/// ```
///
/// The values follow the kernel's
/// [ip-sysctl](https://www.kernel.org/doc/html/latest/networking/ip-sysctl.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sysctl<'a> {
    /// IPv4 packets are routed, `net.ipv4.ip_forward`. A *change* resets the other IPv4 settings of
    /// all links to the defaults of routers or of hosts: see [`Sysctl::ensure`].
    Ipv4Forward,
    /// IPv6 packets are routed by all links, `net.ipv6.conf.all.forwarding`. Links with
    /// [`Ipv6Conf::AcceptRa`] 1 then ignore router advertisements. With 2 they accept them.
    Ipv6Forward,
    /// IPv4 frames on bridges pass iptables (0 or 1), `net.bridge.bridge-nf-call-iptables`. Missing
    /// unless `br_netfilter` is loaded.
    BridgeNfCallIptables,
    /// As [`Sysctl::BridgeNfCallIptables`], for IPv6 and ip6tables.
    BridgeNfCallIp6tables,
    /// An IPv4 setting of one link.
    Ipv4Conf(&'a IfName, Ipv4Conf),
    /// An IPv6 setting of one link. Missing if the kernel has no IPv6, or was started with
    /// `ipv6.disable=1`.
    Ipv6Conf(&'a IfName, Ipv6Conf),
    /// The default IPv6 setting of links that are created later, below `net.ipv6.conf.default`.
    /// Missing under the same conditions as [`Sysctl::Ipv6Conf`].
    Ipv6Default(Ipv6Conf),
    /// An IPv4 setting below `net.ipv4.conf.all`. The kernel combines it with the setting of each
    /// link, by a rule that depends on the setting.
    Ipv4All(Ipv4Conf),
    /// The default IPv4 setting of links that are created later, below `net.ipv4.conf.default`.
    Ipv4Default(Ipv4Conf),
    /// An IPv6 setting below `net.ipv6.conf.all`. A write of some settings, such as
    /// [`Ipv6Conf::DisableIpv6`], changes all links. Missing under the same conditions as
    /// [`Sysctl::Ipv6Conf`].
    Ipv6All(Ipv6Conf),
    /// The setting with this name. It is the namespace's own only below `net`: see
    /// [`SysctlName::is_network`].
    ///
    /// ```no_run
    /// use cnikit::netlink::{Netns, Sysctl, SysctlName};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let name: SysctlName = "net.ipv4.tcp_rmem".parse()?;
    /// let pod = Netns::open("/run/netns/blue")?;
    /// pod.run(|| Sysctl::Named(&name).ensure_text("4096 131072 6291456"))??;
    /// # Ok(())
    /// # }
    /// ```
    Named(&'a SysctlName),
}

/// The IPv4 settings of a link, with their names below `/proc/sys/net/ipv4/conf/<link>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ipv4Conf {
    /// `accept_redirects`: ICMP redirects are accepted (0 or 1).
    AcceptRedirects,
    /// `arp_announce`: the source address of ARP requests (0 to 2).
    ArpAnnounce,
    /// `arp_ignore`: the addresses that ARP answers for (0 to 8).
    ArpIgnore,
    /// `arp_notify`: a gratuitous ARP is sent when the link comes up (0 or 1).
    ArpNotify,
    /// `forwarding`: packets that arrive at the link are routed (0 or 1).
    Forwarding,
    /// `proxy_arp`: ARP answers for addresses that are routed through other links (0 or 1).
    ProxyArp,
    /// `route_localnet`: 127.0.0.0/8 is routed like other addresses (0 or 1).
    RouteLocalnet,
    /// `rp_filter`: source addresses are checked against the routes: not (0), strictly (1), loosely
    /// (2).
    RpFilter,
    /// `send_redirects`: the link sends ICMP redirects for shorter paths (0 or 1).
    SendRedirects,
}

/// The directory of the settings of network namespaces, if it is not `/proc/sys/net`.
static NET_DIRECTORY: OnceLock<PathBuf> = OnceLock::new();

fn net_directory() -> &'static Path {
    NET_DIRECTORY.get().map_or(Path::new("/proc/sys/net"), PathBuf::as_path)
}

impl Sysctl<'_> {
    /// Uses another mount of `/proc/sys/net` for all settings below `net`, in the whole process. A
    /// runtime makes `/proc/sys` read-only for its containers. A container can have the directory
    /// `/proc/sys/net` of the host at another path, where it is writable. The kernel shows there
    /// the settings of the reader's namespace, too.
    ///
    /// Call it once, before the first access. A second call returns its argument as the error, and
    /// changes nothing.
    ///
    /// ```
    /// use cnikit::netlink::Sysctl;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # std::fs::create_dir(dir.path().join("ipv4"))?;
    /// # std::fs::write(dir.path().join("ipv4/ip_forward"), "7\n")?;
    /// # let mount = dir.path().to_owned();
    /// Sysctl::set_net_directory(mount).expect("the first call");
    /// assert_eq!(Sysctl::Ipv4Forward.read()?, 7);
    /// assert!(Sysctl::set_net_directory("/elsewhere").is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The path, if an earlier call has set another one.
    pub fn set_net_directory(path: impl Into<PathBuf>) -> std::result::Result<(), PathBuf> {
        NET_DIRECTORY.set(path.into())
    }

    /// Reads the value in the namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// [`Error::SysctlMissing`] if the kernel has no such setting or the namespace has no such
    /// link, [`Error::Sysctl`] otherwise.
    pub fn read(self) -> Result<i32> {
        let value = self.read_text()?.parse();
        value.map_err(|error| self.failed("read", io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    /// Sets the value in the namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// As for [`Sysctl::read`]. [`Error::Sysctl`] with `EINVAL` for an invalid value, with `EROFS`
    /// or `EACCES` if `/proc/sys` is not writable, as in most containers.
    pub fn write(self, value: i32) -> Result<()> {
        self.write_text(&value.to_string())
    }

    /// Sets the value unless it is already set. Returns whether the value changed.
    ///
    /// A correct value needs no write permission, and a change with side effects does not happen.
    ///
    /// # Errors
    ///
    /// As for [`Sysctl::write`].
    pub fn ensure(self, value: i32) -> Result<bool> {
        let differs = self.read()? != value;
        if differs {
            self.write(value)?;
        }
        Ok(differs)
    }

    /// Reads the value in the namespace of the calling thread, as text without the line feed at the
    /// end. The kernel separates several numbers by tabs.
    ///
    /// # Errors
    ///
    /// [`Error::SysctlMissing`] as for [`Sysctl::read`], [`Error::Sysctl`] otherwise. `EISDIR` for
    /// the name of a directory, `EACCES` for a setting that can only be written.
    pub fn read_text(self) -> Result<String> {
        let mut text = String::new();
        let opened = self.open(OpenOptions::new().read(true));
        let read = opened.and_then(|mut file| file.read_to_string(&mut text));
        read.map_err(|error| self.failed("read", error))?;
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    /// Sets the value in the namespace of the calling thread, as text. Spaces or tabs separate
    /// several numbers.
    ///
    /// # Errors
    ///
    /// As for [`Sysctl::write`].
    pub fn write_text(self, value: &str) -> Result<()> {
        // A missing file must not be created: procfs would return a permission error.
        let opened = self.open(OpenOptions::new().write(true));
        debug!(setting = %self, value, "set");
        // One write(2), because the kernel takes each write as a separate value.
        let written = opened.and_then(|mut file| file.write_all(value.as_bytes()));
        written.map_err(|error| self.failed("write", error))
    }

    /// Sets the value as text unless it is already set. Returns whether the value changed. White
    /// space between numbers does not make a difference.
    ///
    /// # Errors
    ///
    /// As for [`Sysctl::write`].
    pub fn ensure_text(self, value: &str) -> Result<bool> {
        let differs = !self.read_text()?.split_whitespace().eq(value.split_whitespace());
        if differs {
            self.write_text(value)?;
        }
        Ok(differs)
    }

    /// Whether the calling thread could set a value. The check does not change the setting.
    #[must_use]
    pub fn is_writable(self) -> bool {
        self.open(OpenOptions::new().write(true)).is_ok()
    }

    /// procfs has no symbolic links below `/proc/sys`. The flag refuses one in another file system
    /// that is mounted there.
    fn open(self, options: &mut OpenOptions) -> io::Result<File> {
        options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(self.path())
    }

    fn path(self) -> PathBuf {
        let net = net_directory();
        match self {
            Self::Ipv4Forward => net.join("ipv4/ip_forward"),
            Self::Ipv6Forward => net.join("ipv6/conf/all/forwarding"),
            Self::BridgeNfCallIptables => net.join("bridge/bridge-nf-call-iptables"),
            Self::BridgeNfCallIp6tables => net.join("bridge/bridge-nf-call-ip6tables"),
            Self::Ipv4Conf(link, setting) => net.join("ipv4/conf").join(link.as_str()).join(setting.name()),
            Self::Ipv6Conf(link, setting) => net.join("ipv6/conf").join(link.as_str()).join(setting.name()),
            Self::Ipv6Default(setting) => net.join("ipv6/conf/default").join(setting.name()),
            Self::Ipv4All(setting) => net.join("ipv4/conf/all").join(setting.name()),
            Self::Ipv4Default(setting) => net.join("ipv4/conf/default").join(setting.name()),
            Self::Ipv6All(setting) => net.join("ipv6/conf/all").join(setting.name()),
            Self::Named(name) => match name.as_str().strip_prefix("net/") {
                Some(below) => net.join(below),
                None => name.path(),
            },
        }
    }

    fn failed(self, operation: &'static str, source: io::Error) -> Error {
        let path = self.path();
        match source.kind() {
            io::ErrorKind::NotFound => Error::SysctlMissing { path },
            _ => Error::Sysctl { operation, path, source },
        }
    }
}

impl Display for Sysctl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().display().fmt(f)
    }
}

impl Ipv4Conf {
    const fn name(self) -> &'static str {
        match self {
            Self::AcceptRedirects => "accept_redirects",
            Self::ArpAnnounce => "arp_announce",
            Self::ArpIgnore => "arp_ignore",
            Self::ArpNotify => "arp_notify",
            Self::Forwarding => "forwarding",
            Self::ProxyArp => "proxy_arp",
            Self::RouteLocalnet => "route_localnet",
            Self::RpFilter => "rp_filter",
            Self::SendRedirects => "send_redirects",
        }
    }
}
