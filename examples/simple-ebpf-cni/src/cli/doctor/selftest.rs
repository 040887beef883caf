//! A self-test of the kernel features that an ADD needs, in temporary namespaces.
//!
//! A missing kernel option, a module that cannot be loaded and a security policy each make one step
//! fail, and the step names the feature.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use cnikit::datapath::Datapath;
use cnikit::netlink::{BridgeSpec, Netns, VethEnd, VethPair};
use cnikit::spec::{self, Attachment};
use tracing::warn;

use crate::cli::advice;
use simple_ebpf_cni::config::AttachMode;
use simple_ebpf_cni::naming;
use simple_ebpf_cni::programs::Programs;

/// A failed step, and its fix.
#[derive(Debug)]
pub(crate) struct SelfTestFailure {
    pub(crate) found: String,
    pub(crate) remedy: String,
}

/// A step, and the kernel option and module that it requires.
struct Requirement {
    step: &'static str,
    option: &'static str,
    module: &'static str,
}

const NAMESPACE: Requirement = Requirement::new("create a network namespace", "CONFIG_NET_NS", "");
const BRIDGE: Requirement = Requirement::new("create a bridge", "CONFIG_BRIDGE", "bridge");
const PAIR: Requirement = Requirement::new("create a veth pair", "CONFIG_VETH", "veth");
const QDISC: Requirement =
    Requirement::new("add a clsact qdisc with shared blocks", "CONFIG_NET_SCH_INGRESS", "sch_ingress");
const PROGRAMS: Requirement = Requirement::new("load the eBPF programs", "CONFIG_BPF_SYSCALL", "");
const FILTER: Requirement = Requirement::new("attach the eBPF programs", "CONFIG_NET_CLS_BPF", "cls_bpf");

/// Creates a bridge, a veth pair, the programs and the filters, and deletes all of them.
pub(crate) fn run() -> Result<(), SelfTestFailure> {
    let attachment = attachment().map_err(|error| NAMESPACE.failure(error.into()))?;
    PROGRAMS.check(naming::datapath(&attachment.network).probe())?;

    let (node, pod) = (NAMESPACE.check(Netns::create())?, NAMESPACE.check(Netns::create())?);
    let host = NAMESPACE.check(node.socket())?;
    let bridge = BRIDGE.check(host.create_bridge(&BridgeSpec::new(simple_ebpf_cni::config::default_bridge()).up()))?;
    let outside = VethEnd::new(attachment.host_ifname(), attachment.host_mac());
    let inside = VethEnd::new(attachment.ifname.clone(), attachment.container_mac());
    let pair = VethPair::new(outside, inside, &pod).master(bridge).host_index(attachment.host_ifindex()).host_up();
    let port = PAIR.check(host.create_veth(&pair))?.host;
    QDISC.check(host.create_clsact(bridge, naming::shared_blocks(&attachment.network)))?;

    remove_stale_pins();
    let pins = Pins(PathBuf::from(format!("{}{}", prefix(), process::id())));
    let datapath = Datapath::new(&pins.0, &attachment.network);
    PROGRAMS.check(datapath.ensure())?;
    let programs = PROGRAMS.check(Programs::open(&host, &datapath, &attachment.network))?;
    FILTER.check(programs.ensure_attached(&host))?;
    QDISC.check(programs.attach_port(&host, &attachment.host_ifname(), port, AttachMode::Clsact))
}

fn attachment() -> Result<Attachment, spec::Error> {
    Ok(Attachment::new("selftest".parse()?, "selftest".parse()?, "eth0".parse()?))
}

impl Requirement {
    const fn new(step: &'static str, option: &'static str, module: &'static str) -> Self {
        Self { step, option, module }
    }

    fn check<T>(&self, result: Result<T, impl Into<cnikit::Error>>) -> Result<T, SelfTestFailure> {
        result.map_err(|error| self.failure(error.into()))
    }

    fn failure(&self, error: cnikit::Error) -> SelfTestFailure {
        let remedy = match &error {
            cnikit::Error::Bpf(error) => advice::for_datapath(error),
            cnikit::Error::Netlink(error) => advice::for_netlink_option(error, self.option, self.module),
            _ => advice::REPORT.to_owned(),
        };
        SelfTestFailure { found: format!("cannot {}: {error}", self.step), remedy }
    }
}

/// The prefix of the directory for pins. The process id follows.
fn prefix() -> String {
    format!("{}-selftest-", naming::PINS)
}

/// Removes the pins of killed self-tests. A running self-test is never this old.
fn remove_stale_pins() {
    const STALE: Duration = Duration::from_secs(600);
    let root = Path::new(naming::PINS).parent();
    let entries = root.and_then(|root| fs::read_dir(root).ok()).into_iter().flatten();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let is_selftest = path.to_str().is_some_and(|path| path.starts_with(&prefix()));
        let age = || fs::metadata(&path).ok()?.modified().ok()?.elapsed().ok();
        if is_selftest && age().is_some_and(|age| age > STALE) {
            drop(Pins(path));
        }
    }
}

/// The temporary directory for pins, beside the pins of networks. The drop removes it.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        // A process that can pin can also remove. The name of the directory identifies leftovers.
        if let Err(error) = fs::remove_dir_all(&self.0)
            && self.0.exists()
        {
            warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}
