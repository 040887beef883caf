//! A trial of all that an ADD asks of the kernel, in namespaces that nobody else sees. Options of the kernel's build, modules
//! that cannot be loaded, a security policy: whatever stands in the way shows here, by what it is in the way of.

use std::fs;
use std::path::PathBuf;
use std::process;

use cnikit::datapath::Datapath;
use cnikit::netlink::{BridgeSpec, Netns, VethEnd, VethPair};
use cnikit::plugin::{Failure, Step as _};
use cnikit::spec::Attachment;
use tracing::warn;

use crate::config::Attach;
use crate::programs::Programs;
use crate::{bridge, network};

/// Makes a bridge, a pair, the programs and the filters, and lets them go again.
pub(crate) fn run() -> Result<(), Failure> {
    let attachment = Attachment::new("trial".parse()?, "trial".parse()?, "eth0".parse()?);
    network::datapath(&attachment.network).probe().step("call bpf(2)")?;

    let namespaces = "make a network namespace (CONFIG_NET_NS)";
    let (node, pod) = (Netns::create().step(namespaces)?, Netns::create().step(namespaces)?);
    let host = node.socket().step(namespaces)?;
    let bridge = host.create_bridge(&BridgeSpec::new("cbr0".parse()?).up()).step("make a bridge (CONFIG_BRIDGE)")?;
    let outside = VethEnd { name: attachment.host_ifname(), mac: attachment.host_mac() };
    let inside = VethEnd { name: attachment.ifname.clone(), mac: attachment.container_mac() };
    let pair = VethPair::new(outside, inside, &pod).master(bridge).host_index(attachment.host_ifindex()).host_up();
    let port = host.create_veth(&pair).step("make a veth pair (CONFIG_VETH)")?.host;
    let blocks = bridge::blocks(&attachment.network);
    host.create_clsact(bridge, blocks).step("add a clsact qdisc with shared blocks (CONFIG_NET_SCH_INGRESS)")?;

    let pins = Pins(PathBuf::from(format!("{}-trial-{}", network::PINS, process::id())));
    let datapath = Datapath::new(&pins.0, &attachment.network);
    datapath.ensure().step("load the eBPF programs (CONFIG_BPF_SYSCALL)")?;
    let programs = Programs::open(&datapath, &attachment.network)?;
    programs.ensure_attached(&host).step("attach the eBPF programs (CONFIG_NET_CLS_BPF)")?;
    programs.join(&host, &attachment, port, Attach::Clsact).step("have a port share them")
}

/// Where the programs are pinned meanwhile: beside the pins of networks, where none of their owners looks.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        // The file system refuses nobody who could pin there; what would stay is named for what it is.
        if let Err(error) = fs::remove_dir_all(&self.0)
            && self.0.exists()
        {
            warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}
