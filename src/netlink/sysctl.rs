use std::{
    fmt::{self, Display},
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use tracing::debug;

use super::{
    error::{Error, Result},
    ipv6::Ipv6Conf,
};
use crate::spec::IfName;

/// A setting of a network namespace, below `/proc/sys/net`.
///
/// The kernel shows every *thread* the settings of its own namespace, so those of a pod are written from inside. One
/// visit does for them and for the socket:
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
/// It is named by its path and not by the dotted name that sysctl(8) takes: a dot in an interface's name is part of the
/// name.
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
/// The values are those of the kernel's
/// [ip-sysctl](https://www.kernel.org/doc/html/latest/networking/ip-sysctl.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sysctl<'a> {
    /// IPv4 packets are routed, `net.ipv4.ip_forward`. A *change* resets the other IPv4 settings of all links to the
    /// defaults for routers or for hosts: see [`Sysctl::ensure`].
    Ipv4Forward,
    /// IPv6 packets are routed by all links, `net.ipv6.conf.all.forwarding`. Links whose [`Ipv6Conf::AcceptRa`] is 1 no
    /// longer heed routers from then on; 2 makes them.
    Ipv6Forward,
    /// IPv4 frames on bridges pass iptables (0 or 1), `net.bridge.bridge-nf-call-iptables`. Missing unless
    /// `br_netfilter` is loaded.
    BridgeNfCallIptables,
    /// As [`Sysctl::BridgeNfCallIptables`], for IPv6 and ip6tables.
    BridgeNfCallIp6tables,
    /// An IPv4 setting of one link.
    Ipv4Conf(&'a IfName, Ipv4Conf),
    /// An IPv6 setting of one link. Missing on a kernel without IPv6, or started with `ipv6.disable=1`.
    Ipv6Conf(&'a IfName, Ipv6Conf),
    /// The IPv6 setting that links get which are created later, below `net.ipv6.conf.default`. Missing as
    /// [`Sysctl::Ipv6Conf`].
    Ipv6Default(Ipv6Conf),
}

/// The IPv4 settings of a link, by their names below `/proc/sys/net/ipv4/conf/<link>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ipv4Conf {
    /// `accept_redirects`: ICMP redirects are heeded (0 or 1).
    AcceptRedirects,
    /// `arp_announce`: which source address ARP requests carry (0 to 2).
    ArpAnnounce,
    /// `arp_ignore`: which addresses ARP answers for (0 to 8).
    ArpIgnore,
    /// `arp_notify`: a gratuitous ARP is sent when the link comes up (0 or 1).
    ArpNotify,
    /// `forwarding`: packets that come in by the link are routed (0 or 1).
    Forwarding,
    /// `proxy_arp`: ARP answers for addresses that are routed by other links (0 or 1).
    ProxyArp,
    /// `route_localnet`: 127.0.0.0/8 is an address range like others here (0 or 1).
    RouteLocalnet,
    /// `rp_filter`: sources are checked against the routes: not (0), strictly (1), loosely (2).
    RpFilter,
    /// `send_redirects`: senders are told of a shorter way (0 or 1).
    SendRedirects,
}

impl Sysctl<'_> {
    /// The value in the namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// [`Error::SysctlMissing`] where the kernel has no such setting or the namespace no such link, [`Error::Sysctl`]
    /// else.
    pub fn read(self) -> Result<i32> {
        let text = fs::read_to_string(self.path()).map_err(|error| self.failed("read", error))?;
        let value = text.trim_end().parse();
        value.map_err(|error| self.failed("read", io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    /// Sets the value in the namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// As for [`Sysctl::read`]; [`Error::Sysctl`] with `EINVAL` for a value that the setting does not take, with
    /// `EROFS` or `EACCES` where `/proc/sys` may not be written, as in most containers.
    pub fn write(self, value: i32) -> Result<()> {
        // A file that is absent must not be created: procfs would call that a want of permission.
        let opened = OpenOptions::new().write(true).open(self.path());
        debug!(setting = %self, value, "set");
        // One write(2): the kernel takes each for a value of its own.
        let written = opened.and_then(|mut file| file.write_all(value.to_string().as_bytes()));
        written.map_err(|error| self.failed("write", error))
    }

    /// Sets the value unless it is that already; true where it was not.
    ///
    /// What is right already needs no permission, and settings whose change has side effects keep still.
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

    /// Whether the calling thread could set a value. Nothing is set to find out.
    pub fn is_writable(self) -> bool {
        OpenOptions::new().write(true).open(self.path()).is_ok()
    }

    fn path(self) -> PathBuf {
        let net = Path::new("/proc/sys/net");
        match self {
            Self::Ipv4Forward => net.join("ipv4/ip_forward"),
            Self::Ipv6Forward => net.join("ipv6/conf/all/forwarding"),
            Self::BridgeNfCallIptables => net.join("bridge/bridge-nf-call-iptables"),
            Self::BridgeNfCallIp6tables => net.join("bridge/bridge-nf-call-ip6tables"),
            Self::Ipv4Conf(link, setting) => net.join("ipv4/conf").join(link.as_str()).join(setting.name()),
            Self::Ipv6Conf(link, setting) => net.join("ipv6/conf").join(link.as_str()).join(setting.name()),
            Self::Ipv6Default(setting) => net.join("ipv6/conf/default").join(setting.name()),
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
