//! CHECK: an interface compared with the result of its ADD.

use std::fmt::{self, Display};

use ipnetwork::IpNetwork;

use super::configure::{Part, destination};
use crate::netlink::{
    error::{Error, Result},
    links::Link,
    netns::Netns,
    operation::Operation,
    routes::Route,
    socket::Socket,
};
use crate::spec::{AddResult, ErrorCode, HasErrorCode, IfName, MacAddr};

/// The code of [`VerifyError::Differs`]. The codes up to 103 belong to the errors of the module
/// `ipam`.
pub const INTERFACE_DIFFERS: ErrorCode = ErrorCode::plugin_specific(104);

/// The error of [`Netns::verify`].
///
/// `?` converts it into a `PluginError` with its [code](HasErrorCode): [`INTERFACE_DIFFERS`] or the
/// code of the [`Error`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The interface differs from the result.
    #[error("interface {ifname} differs from the result of its ADD: {}", joined(differences, "; "))]
    Differs {
        /// The interface.
        ifname: IfName,
        /// All differences, at least one.
        differences: Vec<Difference>,
    },
    /// The namespace or its objects could not be read.
    #[error(transparent)]
    Netlink(#[from] Error),
}

/// A difference between an interface and the result of its ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The namespace has no interface with this name.
    LinkMissing,
    /// The interface is down.
    LinkDown,
    /// The interface has another MAC.
    Mac {
        /// The MAC in the result.
        expected: MacAddr,
        /// The MAC of the interface.
        found: Option<MacAddr>,
    },
    /// The interface does not have an address.
    Address {
        /// The address in the result.
        expected: IpNetwork,
        /// The addresses of the interface with the same family.
        found: Vec<IpNetwork>,
    },
    /// The interface has an address that it cannot use, because another machine on the link uses it
    /// (duplicate address detection failed).
    DuplicateAddress {
        /// The address.
        address: IpNetwork,
    },
    /// The namespace does not have a route.
    Route {
        /// The route in the result. Without a table, any table is right.
        expected: Route,
        /// The routes of the namespace to the same destination, through all links.
        found: Vec<Route>,
    },
}

impl Netns {
    /// Compares an interface of the namespace with the result of its ADD, for CHECK. The function
    /// has the meaning of `ip.ValidateExpectedInterfaceIPs` and `ip.ValidateExpectedRoute` of the
    /// reference plugins.
    ///
    /// * The interface exists, is up, and has the MAC of the result if the result has one.
    /// * It has each address of the result that names it or names no interface, with the prefix
    ///   length.
    /// * Each route that [`Netns::configure`] would add is there: destination, link, gateway, and
    ///   each of table, MTU, MSS, priority and scope that the result states. Without a table in the
    ///   result, the route may be in any table: a later plugin such as `sbr` moves routes.
    ///
    /// More addresses and routes are no difference. The MTU of the interface is not compared,
    /// because a later plugin such as `tuning` may change it. Routes that a later plugin added are
    /// in `prevResult` as well: remove them from `result` if they use another interface.
    ///
    /// ```no_run
    /// use cnikit::{
    ///     netlink::{Netns, VerifyError},
    ///     spec::{AddResult, IfName},
    /// };
    ///
    /// fn check(netns: &str, ifname: &IfName, prev_result: &AddResult) -> Result<(), VerifyError> {
    ///     Netns::open(netns)?.verify(ifname, prev_result)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`VerifyError::Differs`] with all differences. [`VerifyError::Netlink`] if the namespace
    /// cannot be entered or read.
    ///
    /// # Kernel
    ///
    /// Needs `CAP_SYS_ADMIN` to enter the namespace.
    #[doc(alias = "ValidateExpectedInterfaceIPs")]
    #[doc(alias = "ValidateExpectedRoute")]
    pub fn verify(&self, ifname: &IfName, result: &AddResult) -> Result<(), VerifyError> {
        let socket = self.socket()?;
        let part = Part::of(result, ifname);
        let differences = match socket.link_by_name(ifname)? {
            Some(link) => differences(&socket, &link, &part)?,
            None => vec![Difference::LinkMissing],
        };
        if differences.is_empty() {
            return Ok(());
        }
        Err(VerifyError::Differs { ifname: ifname.clone(), differences })
    }
}

impl HasErrorCode for VerifyError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Differs { .. } => INTERFACE_DIFFERS,
            Self::Netlink(error) => error.code(),
        }
    }
}

fn differences(socket: &Socket, link: &Link, part: &Part<'_>) -> Result<Vec<Difference>> {
    let operation = Operation::on_link("list the addresses of", link.index);
    let mut differences = Vec::new();
    if !link.up {
        differences.push(Difference::LinkDown);
    }
    if let Some(expected) = part.mac.filter(|expected| link.mac != Some(*expected)) {
        differences.push(Difference::Mac { expected, found: link.mac });
    }
    let addresses = socket.addresses_of(&operation, link.index)?;
    for expected in part.ips.iter().map(|ip| ip.address) {
        match addresses.iter().find(|found| found.address == expected) {
            Some(found) if found.dad_failed => {
                differences.push(Difference::DuplicateAddress { address: expected });
            }
            Some(_) => (),
            None => {
                let found = addresses.iter().map(|found| found.address);
                let found = found.filter(|found| found.is_ipv4() == expected.is_ipv4()).collect();
                differences.push(Difference::Address { expected, found });
            }
        }
    }
    let routes = socket.routes_of_all_tables()?;
    for (_, expected) in part.routes(link.index) {
        let to_it = |found: &&Route| destination(found) == destination(&expected);
        let found: Vec<Route> = routes.iter().filter(to_it).cloned().collect();
        if !found.iter().any(|found| satisfies(found, &expected)) {
            differences.push(Difference::Route { expected, found });
        }
    }
    Ok(differences)
}

/// Whether a route of the kernel has all values that the expected route states.
fn satisfies(found: &Route, expected: &Route) -> bool {
    fn states<T: PartialEq>(found: Option<T>, expected: Option<T>) -> bool {
        expected.is_none() || found == expected
    }
    found.oif == expected.oif
        && found.gateway == expected.gateway
        && states(found.effective_mtu(), expected.effective_mtu())
        && states(found.effective_advmss(), expected.effective_advmss())
        // 0 is the kernel's default for table and priority.
        && states(found.table, expected.table.filter(|table| *table != 0))
        && states(found.priority, expected.priority.filter(|priority| *priority != 0))
        && (found.dst.is_ipv6() || states(found.scope, expected.scope))
}

impl Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkMissing => f.write_str("the link is missing"),
            Self::LinkDown => f.write_str("the link is down"),
            Self::Mac { expected, found: Some(found) } => write!(f, "the MAC is {found}, not {expected}"),
            Self::Mac { expected, found: None } => write!(f, "the link has no MAC, not {expected}"),
            Self::Address { expected, found } if found.is_empty() => {
                write!(f, "the address {expected} is missing (no address of its family)")
            }
            Self::Address { expected, found } => {
                write!(f, "the address {expected} is missing (present: {})", joined(found, ", "))
            }
            Self::DuplicateAddress { address } => {
                write!(f, "another machine on the link uses the address {address}")
            }
            Self::Route { expected, found } if found.is_empty() => {
                write!(f, "the route {} is missing (no route to its destination)", Whole(expected))
            }
            Self::Route { expected, found } => {
                let found: Vec<Whole<'_>> = found.iter().map(Whole).collect();
                write!(f, "the route {} is missing (present: {})", Whole(expected), joined(&found, ", "))
            }
        }
    }
}

/// A route with all its values.
struct Whole<'a>(&'a Route);

impl Display for Whole<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(route) = self;
        write!(f, "{route}")?;
        let scope = route.scope.map(u32::from).filter(|_| route.dst.is_ipv4());
        for (name, value) in [
            ("table", route.table),
            ("priority", route.priority),
            ("mtu", route.mtu),
            ("advmss", route.advmss),
            ("scope", scope),
        ] {
            if let Some(value) = value {
                write!(f, " {name} {value}")?;
            }
        }
        Ok(())
    }
}

fn joined(items: &[impl Display], separator: &str) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(separator)
}
