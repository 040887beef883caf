use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::MacAddr;
use super::lenient::{empty_as_none, null_as_default};

/// The result of an `ADD`, with the fields of the newest version of the specification.
///
/// It has no version: [`to_json`](Self::to_json) formats it for any version. The dispatcher uses
/// the configuration's version. See [ADD Success](https://www.cni.dev/docs/spec/#add-success).
///
/// ```
/// use cnikit::spec::{AddResult, Interface, IpConfig, MacAddr, Route};
///
/// let mut result = AddResult::default();
/// result.push_interface(Interface::new("cni0"));
/// result.push_interface(Interface::new("veth3243").mtu(1500));
/// let mac = MacAddr::new([2, 0, 0, 0, 0, 5]);
/// let eth0 = Interface::new("eth0").mac(mac).sandbox("/run/netns/blue");
/// let eth0 = result.push_interface(eth0);
/// let ip = IpConfig::new("10.1.0.5/16".parse()?).gateway("10.1.0.1".parse()?);
/// let result = result
///     .with_ip(ip.interface(eth0))
///     .with_route(Route::new("0.0.0.0/0".parse()?));
/// assert_eq!(result.ips[0].interface, Some(2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddResult {
    /// The interfaces of the attachment, including interfaces on the host. Tools expect three of a
    /// bridge plugin: the bridge, the host interface, the container interface. An IPAM plugin
    /// returns none.
    pub interfaces: Vec<Interface>,
    /// The addresses.
    pub ips: Vec<IpConfig>,
    /// The routes.
    pub routes: Vec<Route>,
    /// The DNS configuration of the container.
    pub dns: Dns,
    /// Keys that the result's version does not define. They are passed through unchanged, because a
    /// plugin in a chain must preserve them.
    pub other: Map<String, Value>,
}

/// An interface of the attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Interface {
    /// The name. A string, because behind a hypervisor it need not be a valid name for the kernel.
    pub name: String,
    /// The hardware address. A string, because links other than Ethernet have longer addresses; see
    /// [`Interface::mac_addr`].
    #[serde(default, deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The MTU in bytes; from 1.1.0 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The location of the interface: the path of a network namespace, or a hypervisor's
    /// identifier; `None` on the host.
    #[serde(default, deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// The absolute path of a socket that represents the interface; from 1.1.0 on.
    #[serde(default, deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub socket_path: Option<String>,
    /// The PCI device behind the interface; from 1.1.0 on.
    #[serde(default, rename = "pciID", deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub pci_id: Option<String>,
    /// Keys that the result's version does not define.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An address of the attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct IpConfig {
    /// The address with the prefix length of its subnet.
    pub address: IpNetwork,
    /// The subnet's default gateway. It implies no route: [`AddResult::routes`] lists the routes.
    #[serde(default, deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The interface of the address, as an index into [`AddResult::interfaces`]. An IPAM plugin
    /// sets none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// Keys that the result's version does not define.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A route of the attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Route {
    /// The destination.
    pub dst: IpNetwork,
    /// The next hop. If absent, the gateway of an address may be used.
    #[serde(default, deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// The MTU along the path, in bytes; from 1.1.0 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The TCP segment size to advertise, in bytes; from 1.1.0 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// The metric: lower is preferred; from 1.1.0 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// The routing table; from 1.1.0 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// The scope: 0 global, 253 link, 254 host; from 1.1.0 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
    /// Keys that the result's version does not define.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A DNS configuration. Its strings are not validated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Dns {
    /// The servers' addresses, most preferred first.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain for short names.
    #[serde(default, deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The domains to search for short names, most preferred first.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options for the resolver.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl AddResult {
    /// Adds an interface and returns its index, for [`IpConfig::interface`].
    pub fn push_interface(&mut self, interface: Interface) -> usize {
        self.interfaces.push(interface);
        self.interfaces.len() - 1
    }

    /// Assigns all addresses to the interface with this index, as a plugin does with the addresses
    /// of an IPAM plugin.
    pub fn assign_ips(&mut self, interface: usize) {
        self.ips.iter_mut().for_each(|ip| ip.interface = Some(interface));
    }

    /// Adds an interface.
    #[must_use]
    pub fn with_interface(mut self, interface: Interface) -> Self {
        self.interfaces.push(interface);
        self
    }

    /// Adds an address.
    #[must_use]
    pub fn with_ip(mut self, ip: IpConfig) -> Self {
        self.ips.push(ip);
        self
    }

    /// Adds a route.
    #[must_use]
    pub fn with_route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// Sets the DNS configuration.
    #[must_use]
    pub fn dns(mut self, dns: Dns) -> Self {
        self.dns = dns;
        self
    }

    /// The interface of this name in this sandbox (`None` is the host), with its index.
    #[must_use]
    pub fn interface(&self, name: &str, sandbox: Option<&Path>) -> Option<(usize, &Interface)> {
        let matches =
            |interface: &Interface| interface.name == name && interface.sandbox.as_deref().map(Path::new) == sandbox;
        self.interfaces.iter().enumerate().find(|(_, interface)| matches(interface))
    }

    /// The addresses of the interface with this index.
    pub fn ips_of(&self, interface: usize) -> impl Iterator<Item = &IpConfig> {
        self.ips.iter().filter(move |ip| ip.interface == Some(interface))
    }
}

impl Interface {
    /// Creates an interface on the host.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Sets the hardware address.
    #[must_use]
    pub fn mac(mut self, mac: MacAddr) -> Self {
        self.mac = Some(mac.to_string());
        self
    }

    /// Sets the MTU in bytes.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Sets the namespace of the interface by its path: for the container interface, the value of
    /// `CNI_NETNS`.
    ///
    /// JSON has no bytes that are not UTF-8: each of them becomes U+FFFD. Such a path then names
    /// another file or none.
    #[must_use]
    pub fn sandbox(mut self, netns: impl AsRef<Path>) -> Self {
        self.sandbox = Some(netns.as_ref().to_string_lossy().into_owned());
        self
    }

    /// The hardware address, if it is an Ethernet address.
    #[must_use]
    pub fn mac_addr(&self) -> Option<MacAddr> {
        self.mac.as_deref()?.parse().ok()
    }
}

impl IpConfig {
    /// Creates an address with the prefix length of its subnet.
    #[must_use]
    pub fn new(address: IpNetwork) -> Self {
        Self { address, gateway: None, interface: None, other: Map::new() }
    }

    /// Sets the index of the interface.
    #[must_use]
    pub fn interface(mut self, index: usize) -> Self {
        self.interface = Some(index);
        self
    }

    /// Sets the subnet's gateway.
    #[must_use]
    pub fn gateway(mut self, gateway: IpAddr) -> Self {
        self.gateway = Some(gateway);
        self
    }
}

impl Route {
    /// Creates a route to this destination.
    #[must_use]
    pub fn new(dst: IpNetwork) -> Self {
        let other = Map::new();
        Self { dst, gw: None, mtu: None, advmss: None, priority: None, table: None, scope: None, other }
    }

    /// Creates the default route of the gateway's family.
    ///
    /// ```
    /// use cnikit::spec::Route;
    ///
    /// let route = Route::default_via("fd00::1".parse()?);
    /// assert_eq!((route.dst.to_string(), route.gw), ("::/0".into(), Some("fd00::1".parse()?)));
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    pub fn default_via(gateway: IpAddr) -> Self {
        let unspecified = match gateway {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        // 0 is a valid prefix length for both families.
        let everything = IpNetwork::new(unspecified, 0).unwrap_or_else(|_| unspecified.into());
        Self::new(everything).via(gateway)
    }

    /// Sets the next hop.
    #[must_use]
    pub fn via(mut self, gw: IpAddr) -> Self {
        self.gw = Some(gw);
        self
    }
}

impl Dns {
    /// Adds a name server.
    ///
    /// ```
    /// use cnikit::spec::Dns;
    ///
    /// let dns = Dns::default().with_nameserver("10.1.0.1").domain("example.org").with_search("a.example.org");
    /// assert_eq!((dns.nameservers.len(), dns.search.len(), dns.is_empty()), (1, 1, false));
    /// ```
    #[must_use]
    pub fn with_nameserver(mut self, nameserver: impl Into<String>) -> Self {
        self.nameservers.push(nameserver.into());
        self
    }

    /// Sets the local domain.
    #[must_use]
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// Adds a domain to search.
    #[must_use]
    pub fn with_search(mut self, domain: impl Into<String>) -> Self {
        self.search.push(domain.into());
        self
    }

    /// Adds an option for the resolver.
    #[must_use]
    pub fn with_option(mut self, option: impl Into<String>) -> Self {
        self.options.push(option.into());
        self
    }

    /// Whether the configuration is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nameservers.is_empty() && self.domain.is_none() && self.search.is_empty() && self.options.is_empty()
    }
}
