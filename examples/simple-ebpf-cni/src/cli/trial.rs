//! A trial of all that an ADD asks of the kernel, in namespaces that nobody else sees. Options of the kernel's build, modules
//! that cannot be loaded, a security policy: whatever stands in the way shows here, by what it is in the way of.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use cnikit::datapath::Datapath;
use cnikit::netlink::{BridgeSpec, Netns, VethEnd, VethPair};
use cnikit::spec::{self, Attachment};
use simple_ebpf_cni::config::AttachMode;
use simple_ebpf_cni::naming;
use simple_ebpf_cni::programs::Programs;
use tracing::warn;

use super::{chain, remedy};

/// What could not be done, and what to do about it.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) found: String,
    pub(crate) remedy: String,
}

/// Something that is asked of the kernel, and what it needs for that.
struct Need {
    what: &'static str,
    option: &'static str,
    module: &'static str,
}

const NAMESPACE: Need = Need::of("make a network namespace", "CONFIG_NET_NS", "");
const BRIDGE: Need = Need::of("make a bridge", "CONFIG_BRIDGE", "bridge");
const PAIR: Need = Need::of("make a veth pair", "CONFIG_VETH", "veth");
const QDISC: Need = Need::of("add a clsact qdisc with shared blocks", "CONFIG_NET_SCH_INGRESS", "sch_ingress");
const PROGRAMS: Need = Need::of("load the eBPF programs", "CONFIG_BPF_SYSCALL", "");
const FILTER: Need = Need::of("attach the eBPF programs", "CONFIG_NET_CLS_BPF", "cls_bpf");

/// Makes a bridge, a pair, the programs and the filters, and lets them go again.
pub(crate) fn run() -> Result<(), Trouble> {
    let attachment = attachment().map_err(|error| NAMESPACE.trouble(error.into()))?;
    PROGRAMS.meet(naming::datapath(&attachment.network).probe())?;

    let (node, pod) = (NAMESPACE.meet(Netns::create())?, NAMESPACE.meet(Netns::create())?);
    let host = NAMESPACE.meet(node.socket())?;
    let bridge = BRIDGE.meet(host.create_bridge(&BridgeSpec::new(simple_ebpf_cni::config::default_bridge()).up()))?;
    let outside = VethEnd { name: attachment.host_ifname(), mac: attachment.host_mac() };
    let inside = VethEnd { name: attachment.ifname.clone(), mac: attachment.container_mac() };
    let pair = VethPair::new(outside, inside, &pod).master(bridge).host_index(attachment.host_ifindex()).host_up();
    let port = PAIR.meet(host.create_veth(&pair))?.host;
    QDISC.meet(host.create_clsact(bridge, naming::shared_blocks(&attachment.network)))?;

    sweep();
    let pins = Pins(PathBuf::from(format!("{}{}", prefix(), process::id())));
    let datapath = Datapath::new(&pins.0, &attachment.network);
    PROGRAMS.meet(datapath.ensure())?;
    let programs = PROGRAMS.meet(Programs::open(&host, &datapath, &attachment.network))?;
    FILTER.meet(programs.ensure_attached(&host))?;
    QDISC.meet(programs.attach_port(&host, &attachment.host_ifname(), port, AttachMode::Clsact))
}

fn attachment() -> Result<Attachment, spec::Error> {
    Ok(Attachment::new("trial".parse()?, "trial".parse()?, "eth0".parse()?))
}

impl Need {
    const fn of(what: &'static str, option: &'static str, module: &'static str) -> Self {
        Self { what, option, module }
    }

    fn meet<T>(&self, outcome: Result<T, impl Into<cnikit::Error>>) -> Result<T, Trouble> {
        outcome.map_err(|error| self.trouble(error.into()))
    }

    fn trouble(&self, error: cnikit::Error) -> Trouble {
        let remedy = match &error {
            cnikit::Error::Datapath(error) => remedy::of_datapath(error),
            cnikit::Error::Netlink(error) => remedy::of_netlink_by(error, self.option, self.module),
            _ => remedy::REPORT.to_owned(),
        };
        Trouble { found: format!("{}: {}", self.what, chain(&error)), remedy }
    }
}

/// What the pins of every trial begin with, before the number of its process.
fn prefix() -> String {
    format!("{}-trial-", naming::PINS)
}

/// Removes the pins of trials that were ended before they came to that. No trial takes as long.
fn sweep() {
    const STALE: Duration = Duration::from_secs(600);
    let root = Path::new(naming::PINS).parent();
    let entries = root.and_then(|root| fs::read_dir(root).ok()).into_iter().flatten();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let is_trial = path.to_str().is_some_and(|path| path.starts_with(&prefix()));
        let age = || fs::metadata(&path).ok()?.modified().ok()?.elapsed().ok();
        if is_trial && age().is_some_and(|age| age > STALE) {
            drop(Pins(path));
        }
    }
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
