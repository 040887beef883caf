//! A chained plugin like `tuning`: changes an interface and sysctls of a pod. DEL restores them.
//!
//! ```json
//! { "cniVersion": "1.1.0", "name": "lan", "plugins": [
//!   { "type": "macvlan", "ipam": { "type": "host-local", "subnet": "192.0.2.0/24" } },
//!   { "type": "tuning", "mac": "02:00:00:00:00:05", "mtu": 1400, "promisc": true, "txQLen": 500,
//!     "sysctl": { "net.core.somaxconn": "500", "net.ipv4.conf.IFNAME.arp_filter": "1" } }
//! ] }
//! ```
//!
//! All keys are optional, also `allmulti`. `IFNAME` becomes the name of the interface. The runtime
//! can request a MAC, for example by the capability `mac`. `dataDir` has the former values, and is
//! below `/run` by default. To try the plugin, continue as in `examples/macvlan.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cnikit::netlink::{INTERFACE_DIFFERS, Link, Netns, Sysctl, SysctlName};
use cnikit::plugin::{self, AddRequest, CheckRequest, DelRequest, GcRequest};
use cnikit::plugin::{Plugin, PluginError, PluginInfo, Result, StateDir};
use cnikit::spec::{AddResult, Args, ErrorCode, IfName, MacAddr, NetConf, NetworkName};
use serde::{Deserialize, Serialize};
use serde_json::json;

struct Tuning;

/// The configuration, and the former values. An absent value does not change.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Settings {
    mac: Option<MacAddr>,
    mtu: Option<u32>,
    promisc: Option<bool>,
    allmulti: Option<bool>,
    tx_q_len: Option<u32>,
    sysctl: BTreeMap<SysctlName, String>,
    data_dir: Option<PathBuf>,
}

/// The namespace and the index of an interface, and its values before the ADD.
type Saved = ((u64, u32), Settings);

impl Settings {
    /// The checked values for one interface.
    fn wanted(&self, net_conf: &NetConf, args: &Args, ifname: &IfName) -> Result<Self> {
        let mac = net_conf.requested_mac(args)?.or(self.mac);
        let mut wanted = Self { mac, sysctl: BTreeMap::new(), data_dir: None, ..self.clone() };
        for (name, value) in &self.sysctl {
            // This form has slashes between its parts: the name of an interface may have dots.
            let name: SysctlName = name.as_str().replace("IFNAME", ifname.as_str()).parse()?;
            if !name.is_network() {
                let msg = format!("sysctl {name} would change the host: use settings below net/ only");
                return Err(PluginError::new(ErrorCode::INVALID_CONFIG, msg));
            }
            wanted.sysctl.insert(name, value.clone());
        }
        Ok(wanted)
    }

    /// The present values of the same settings.
    fn present(&self, pod: &Netns, link: &Link) -> Result<Self> {
        let value = |name: &SysctlName| Ok((name.clone(), Sysctl::Named(name).read_text()?.replace('\t', " ")));
        Ok(Self {
            mac: self.mac.and(link.mac),
            mtu: self.mtu.and(Some(link.mtu)),
            promisc: self.promisc.and(Some(link.promiscuous)),
            allmulti: self.allmulti.and(Some(link.allmulti)),
            tx_q_len: self.tx_q_len.and(Some(link.txqlen)),
            sysctl: pod.run(|| self.sysctl.keys().map(value).collect::<Result<_>>())??,
            data_dir: None,
        })
    }

    fn apply(&self, pod: &Netns, link: &Link) -> Result<()> {
        let socket = pod.socket()?;
        self.mac.map(|mac| socket.set_mac(link.index, mac)).transpose()?;
        self.mtu.map(|mtu| socket.set_mtu(link.index, mtu)).transpose()?;
        self.promisc.map(|on| socket.set_promiscuous(link.index, on)).transpose()?;
        self.allmulti.map(|on| socket.set_allmulti(link.index, on)).transpose()?;
        self.tx_q_len.map(|packets| socket.set_txqlen(link.index, packets)).transpose()?;
        Ok(pod.run(|| self.sysctl.iter().try_for_each(|(name, value)| Sysctl::Named(name).write_text(value)))??)
    }

    fn state(&self, network: &NetworkName) -> StateDir {
        StateDir::new(self.data_dir.as_deref().unwrap_or(Path::new("/run/cni/tuning")), network)
    }
}

impl Plugin for Tuning {
    type Config = Settings;

    fn info(&self) -> PluginInfo {
        PluginInfo { name: "tuning", version: "1.0.0", summary: "Tunes an interface.", docs: "examples/" }
    }

    fn add(&self, request: &AddRequest<Settings>) -> Result<AddResult> {
        let (attachment, config) = (&request.attachment, &request.config);
        let mut result = request.require_prev_result()?.clone();
        let wanted = config.wanted(&request.net_conf, &request.args, &attachment.ifname)?;
        let pod = Netns::open(&request.netns)?;
        let link = pod.socket()?.require_link(&attachment.ifname)?;
        let (state, id) = (config.state(&attachment.network), (pod.id().inode, link.index.get()));
        // A repeated ADD keeps the first values.
        if state.read::<Saved>(&attachment.key())?.is_none_or(|saved| saved.0 != id) {
            state.write(&attachment.key(), &(id, wanted.present(&pod, &link)?))?;
        }
        wanted.apply(&pod, &link).map_err(|error| error.rolled_back(self.del(&request.clone().into())))?;
        if let Some((own, _)) = result.interface(attachment.ifname.as_str(), Some(&request.netns)) {
            let own = &mut result.interfaces[own];
            own.mac = wanted.mac.map(|mac| mac.to_string()).or(own.mac.take());
            own.mtu = wanted.mtu.or(own.mtu);
        }
        Ok(result)
    }

    fn del(&self, request: &DelRequest<Settings>) -> Result<()> {
        let (attachment, key) = (&request.attachment, request.attachment.key());
        let state = request.config.as_ref()?.state(&attachment.network);
        if let Some((id, former)) = state.read::<Saved>(&key)?
            && let Some(pod) = request.netns.as_ref().and_then(|netns| Netns::open(netns).ok())
            && let Some(link) = pod.socket()?.link_by_name(&attachment.ifname)?
            && id == (pod.id().inode, link.index.get())
        // a later pod may have the same path
        {
            former.apply(&pod, &link)?;
        }
        state.remove(&key)
    }

    fn check(&self, request: &CheckRequest<Settings>) -> Result<()> {
        let (ifname, pod) = (&request.attachment.ifname, Netns::open(&request.netns)?);
        let wanted = request.config.wanted(&request.net_conf, &request.args, ifname)?;
        let present = wanted.present(&pod, &pod.socket()?.require_link(ifname)?)?;
        let differs = format!("{ifname} has {}, not {}: create the pod again", json!(present), json!(wanted));
        if present == wanted { Ok(()) } else { Err(PluginError::new(INTERFACE_DIFFERS, differs)) }
    }

    fn gc(&self, request: &GcRequest<Settings>) -> Result<()> {
        request
            .valid_attachments
            .list()
            .map_or(Ok(()), |valid| request.config.state(&request.net_conf.name).retain(valid))
    }
}

fn main() -> ExitCode {
    plugin::run(&Tuning)
}
