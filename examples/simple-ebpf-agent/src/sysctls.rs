//! Settings of the kernel that packets to other nodes need. Settings for all links stay unchanged,
//! except forwarding.

use cnikit::netlink::{self, Ipv4Conf, Route, Sysctl, SysctlName};
use cnikit::spec::IfName;
use ipnetwork::IpNetwork;
use tracing::info;

/// `rp_filter`: strict, and loose.
const STRICT: i32 = 1;
const LOOSE: i32 = 2;

/// The neighbor entries for each node in the segment. Other machines need entries, too.
const NEIGHBORS_PER_NODE: usize = 4;

/// Turns on forwarding for the families of the pods. Returns a message for each failure: pods of
/// this node still reach each other.
#[must_use]
pub fn enable_forwarding(own: &[IpNetwork]) -> Vec<String> {
    let families = [(Sysctl::Ipv4Forward, true), (Sysctl::Ipv6Forward, false)];
    let needed = families.into_iter().filter(|(_, is_ipv4)| own.iter().any(|cidr| cidr.is_ipv4() == *is_ipv4));
    // A change of IPv6 forwarding would delete routes that the node has from router advertisements.
    let is_off = needed.filter(|(setting, _)| !matches!(setting.read(), Ok(value) if value != 0));
    let changed = is_off.map(|(setting, is_ipv4)| match if is_ipv4 { setting.write(1).err() } else { None } {
        None if is_ipv4 => None,
        None => {
            Some(format!("{setting} is 0, so pods reach only their node: sysctl -w net.ipv6.conf.all.forwarding=1"))
        }
        Some(error) => Some(format!("pods reach only their node: {error}")),
    });
    changed.flatten().collect()
}

/// Sets the reverse path filter of links to loose, if it is strict. The direct way and the tunnel
/// have different links, and a node can send by one while the other node sends by the other.
///
/// # Errors
///
/// Fails if a setting cannot be written.
pub fn loosen_reverse_path_filters<'a>(links: impl IntoIterator<Item = &'a IfName>) -> netlink::Result<()> {
    for link in links {
        let setting = Sysctl::Ipv4Conf(link, Ipv4Conf::RpFilter);
        if setting.read()? == STRICT {
            setting.write(LOOSE)?;
            info!("set net.ipv4.conf.{link}.rp_filter to {LOOSE}: nodes can send by two links");
        }
    }
    Ok(())
}

/// Raises the limits of neighbor tables, if the nodes in the same segment could fill them: the
/// kernel then drops packets ("neighbor table overflow"). Returns a message for each failure.
#[must_use]
pub fn raise_neighbor_limits(routes: &[Route]) -> Vec<String> {
    let mut problems = Vec::new();
    for (family, is_ipv4) in [("ipv4", true), ("ipv6", false)] {
        let nodes = routes.iter().filter_map(|route| route.gateway).filter(|hop| hop.is_ipv4() == is_ipv4).count();
        // The hard limit first, because the soft one must not exceed it.
        let entries = nodes * NEIGHBORS_PER_NODE;
        for (limit, number) in [("gc_thresh3", entries), ("gc_thresh2", entries / 2)] {
            let setting = format!("net.{family}.neigh.default.{limit}");
            problems.extend(raise(&setting, number).err().map(|error| {
                format!("{error}; {nodes} nodes are in the same network segment: sysctl -w {setting}={number}")
            }));
        }
    }
    problems
}

/// Raises a setting to a number, unless it is as high.
fn raise(setting: &str, number: usize) -> Result<(), String> {
    let name: SysctlName = setting.parse().map_err(|error: cnikit::spec::Error| error.to_string())?;
    let sysctl = Sysctl::Named(&name);
    // The limits of the first network namespace apply to all, and only that one has the setting.
    let Ok(found) = sysctl.read() else { return Ok(()) };
    if usize::try_from(found).is_ok_and(|found| found >= number) {
        return Ok(());
    }
    let number = i32::try_from(number).unwrap_or(i32::MAX);
    sysctl.write(number).map_err(|error| error.to_string())?;
    info!("set {setting} to {number}");
    Ok(())
}
