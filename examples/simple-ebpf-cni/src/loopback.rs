//! The plugin `loopback`: brings up the interface `lo` of a pod.
//!
//! containerd (by default) and CRI-O start no pod without a plugin of this name, and a node without
//! other plugins has none. `install` creates a symbolic link `loopback` to the binary.

use std::path::{Path, PathBuf};

use cnikit::netlink::{INTERFACE_DIFFERS, IfIndex, Netns};
use cnikit::plugin::{AddRequest, CheckRequest, DelRequest, Plugin, PluginError, PluginInfo};
use cnikit::spec::{AddResult, Interface, IpConfig, MacAddr};
use serde::de::IgnoredAny;

/// The file name of the plugin.
pub(crate) const NAME: &str = "loopback";

/// The plugin has no keys of its own, and ignores `CNI_IFNAME`, as the reference plugin does.
pub(crate) struct Loopback;

/// Whether this process was started as `loopback`. The runtime passes the path of the plugin.
pub(crate) fn is_called() -> bool {
    std::env::args_os().next().is_some_and(|program| Path::new(&program).file_name().is_some_and(|name| name == NAME))
}

impl Plugin for Loopback {
    type Config = IgnoredAny;

    fn info(&self) -> PluginInfo {
        PluginInfo { name: NAME, version: crate::VERSION, summary: "Brings up lo.", docs: "docs/operations.md" }
    }

    fn add(&self, request: &AddRequest<IgnoredAny>) -> Result<AddResult, PluginError> {
        let pod = Netns::open(&request.netns)?.socket()?;
        pod.set_up(IfIndex::LOOPBACK)?;
        if let Some(previous) = &request.prev_result {
            return Ok(previous.clone());
        }
        let mut result = AddResult::default();
        let lo = Interface::new("lo").mac(MacAddr::new([0; 6])).sandbox(&request.netns);
        let lo = result.push_interface(lo);
        let addresses = pod.addresses(IfIndex::LOOPBACK)?.into_iter().filter(|address| address.ip().is_loopback());
        result.ips = addresses.map(|address| IpConfig::new(address).interface(lo)).collect();
        Ok(result)
    }

    fn del(&self, request: &DelRequest<IgnoredAny>) -> Result<(), PluginError> {
        // After a reboot, a path with a process id may lead to another pod, which must keep its lo.
        let is_of_process = |path: &&PathBuf| path.starts_with("/proc") && path.ends_with("ns/net");
        let netns = request.netns.as_ref().filter(|path| !is_of_process(path));
        match netns.and_then(|netns| Netns::open(netns).ok()) {
            Some(pod) => Ok(pod.socket()?.set_down(IfIndex::LOOPBACK)?),
            None => Ok(()),
        }
    }

    fn check(&self, request: &CheckRequest<IgnoredAny>) -> Result<(), PluginError> {
        let differs =
            |found: String| Err(PluginError::new(INTERFACE_DIFFERS, format!("{found}: create the pod again")));
        let pod = Netns::open(&request.netns)?.socket()?;
        if !pod.link_by_index(IfIndex::LOOPBACK)?.is_some_and(|lo| lo.up) {
            return differs("lo is down".into());
        }
        let present = pod.addresses(IfIndex::LOOPBACK)?;
        // A chained result has the addresses of other interfaces, too.
        let mut expected = request.prev_result.ips.iter().map(|ip| ip.address).filter(|it| it.ip().is_loopback());
        match expected.find(|address| !present.contains(address)) {
            Some(missing) => differs(format!("lo does not have {missing}")),
            None => Ok(()),
        }
    }
}
