//! A plugin like `macvlan`: gives a pod an interface with its own MAC on a link of the host. An
//! IPAM plugin supplies the addresses.
//!
//! ```json
//! { "cniVersion": "1.1.0", "name": "lan", "type": "macvlan", "master": "ens3", "mode": "bridge", "mtu": 1500,
//!   "ipam": { "type": "host-local", "subnet": "192.0.2.0/24", "routes": [{ "dst": "0.0.0.0/0" }] } }
//! ```
//!
//! * `master`: the link of the host; the default is the link of the default route.
//! * `mode`: `bridge` (default), `private`, `vepa` or `passthru`.
//! * `mtu`: in bytes; the default is the MTU of `master`.
//! * `ipam`: optional. Without it, the interface has no addresses.
//!
//! The runtime can request a MAC: capability `mac`, `args.cni.mac`, or `MAC` in `CNI_ARGS`.
//!
//! To try it, save the configuration as `/etc/cni/net.d/10-lan.conf`. Then run:
//!
//! ```sh
//! cargo build --example macvlan --example runtime
//! export CNI_PATH=$PWD/target/debug/examples:/opt/cni/bin
//! sudo ip netns add blue
//! sudo -E target/debug/examples/runtime add lan blue /run/netns/blue
//! sudo -E target/debug/examples/runtime del lan blue /run/netns/blue
//! ```

use std::process::ExitCode;

use cnikit::netlink::{INTERFACE_DIFFERS, Link, LinkKind, LinkSpec, Macvlan, MacvlanMode, Netns, Socket};
use cnikit::plugin::{self, AddRequest, CheckRequest, Context as _, DelRequest, GcRequest, StatusRequest};
use cnikit::plugin::{Plugin, PluginError, PluginInfo, Result};
use cnikit::runtime::{Delegate, Delegated, Prior};
use cnikit::spec::{AddResult, ErrorCode, IfIndex, IfName, Interface};
use serde::Deserialize;

struct MacvlanPlugin;

#[derive(Deserialize)]
struct Config {
    master: Option<IfName>,
    #[serde(default)]
    mode: MacvlanMode,
    mtu: Option<u32>,
}

impl Config {
    /// The link of the host below the pod's interface.
    fn parent(&self, host: &Socket) -> Result<IfIndex> {
        let missing = || PluginError::new(ErrorCode::INVALID_CONFIG, "the host has no default route: set `master`");
        let master = match &self.master {
            Some(name) => host.require_link(name).with_code(ErrorCode::INVALID_CONFIG).context("`master`")?,
            None => host.uplink()?.ok_or_else(missing)?,
        };
        // On a macvlan, the kernel uses its parent.
        Ok(macvlan_of(&master).map_or(master.index, |macvlan| macvlan.parent))
    }
}

fn macvlan_of(link: &Link) -> Option<Macvlan> {
    if let Some(LinkKind::Macvlan(macvlan)) = link.details() { Some(macvlan) } else { None }
}

impl Plugin for MacvlanPlugin {
    type Config = Config;

    fn info(&self) -> PluginInfo {
        PluginInfo { name: "macvlan", version: "1.0.0", summary: "Attaches pods to a LAN.", docs: "examples/" }
    }

    fn add(&self, request: &AddRequest<Config>) -> Result<AddResult> {
        let (attachment, config) = (&request.attachment, &request.config);
        let (host, pod) = (Socket::open()?, Netns::open(&request.netns)?);
        let mac = request.net_conf.requested_mac(&request.args)?.unwrap_or_else(|| attachment.container_mac());
        let macvlan = Macvlan::new(config.parent(&host)?, config.mode);
        let link = LinkSpec::new(attachment.ifname.clone(), macvlan);
        // DEL recognizes the interface by this index, which depends on the attachment alone.
        let mut link = link.netns(&pod).mac(mac).index(attachment.host_ifindex());
        link.mtu = config.mtu;
        // A repeated ADD fails here, before it changes anything: the interface exists.
        let index = host.create_link(&link)?;
        configure(request, &pod).map_err(|error| error.rolled_back(pod.socket().and_then(|pod| pod.delete_link(index))))
    }

    fn del(&self, request: &DelRequest<Config>) -> Result<()> {
        // The kernel deletes the interface with the namespace, unless the namespace still exists.
        // Its path may refer to the namespace of another pod, so the index must be the own one.
        if let Some(pod) = request.netns.as_ref().and_then(|netns| Netns::open(netns).ok()) {
            let (pod, own) = (pod.socket()?, request.attachment.host_ifindex());
            if pod.link_by_index(own)?.is_some_and(|link| link.name == request.attachment.ifname) {
                pod.delete_link(own)?;
            }
        }
        Delegate::ipam(request)?.map(|ipam| ipam.del()).transpose()?;
        Ok(())
    }

    fn check(&self, request: &CheckRequest<Config>) -> Result<()> {
        let (ifname, config, pod) = (&request.attachment.ifname, &request.config, Netns::open(&request.netns)?);
        pod.verify(ifname, &request.prev_result)?;
        // The default route may have changed since the ADD.
        let parent = config.master.as_ref().map(|_| config.parent(&Socket::open()?)).transpose()?;
        let found = macvlan_of(&pod.socket()?.require_link(ifname)?);
        if !found.is_some_and(|it| it.mode == config.mode && parent.is_none_or(|parent| parent == it.parent)) {
            let msg = format!("{ifname} has another mode or parent than in the configuration: create the pod again");
            return Err(PluginError::new(INTERFACE_DIFFERS, msg));
        }
        Delegate::ipam(request)?.map(|ipam| ipam.check()).transpose()?;
        Ok(())
    }

    fn gc(&self, request: &GcRequest<Config>) -> Result<()> {
        Delegate::ipam(request)?.map(|ipam| ipam.gc()).transpose()?;
        Ok(())
    }

    fn status(&self, request: &StatusRequest<Config>) -> Result<()> {
        request.config.parent(&Socket::open()?).with_code(ErrorCode::PLUGIN_NOT_AVAILABLE)?;
        Delegate::ipam(request)?.map(|ipam| ipam.status()).transpose()?;
        Ok(())
    }
}

/// Requests addresses and applies them. After an error, the addresses are released.
fn configure(request: &AddRequest<Config>, pod: &Netns) -> Result<AddResult> {
    let ifname = &request.attachment.ifname;
    // The new interface proves that no address of this attachment is in use.
    let delegated = Delegate::ipam(request)?.map(|ipam| ipam.add(Prior::Absent)).transpose()?;
    let mut result = delegated.as_ref().map(|delegated| delegated.result().clone()).unwrap_or_default();
    result.routes = pod.configure(ifname, &result)?.routes;
    pod.announce(ifname, &result.ips.iter().map(|ip| ip.address.ip()).collect::<Vec<_>>())?;

    let link = pod.socket()?.require_link(ifname)?;
    let eth0 = result.push_interface(Interface::from(&link).sandbox(&request.netns));
    result.assign_ips(eth0);
    if !request.net_conf.dns.is_empty() {
        result.dns = request.net_conf.dns.clone();
    }
    drop(delegated.map(Delegated::commit));
    Ok(result)
}

fn main() -> ExitCode {
    plugin::run(&MacvlanPlugin)
}
