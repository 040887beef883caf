//! A small plugin for the tests of the suite. It follows every rule, or has the one flaw that
//! `flaw` in its configuration names.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use cnikit::ipam::{Range, Store};
use cnikit::netlink::{IfIndex, Netns, Socket, VethEnd, VethPair};
use cnikit::plugin::{
    self, AddRequest, CheckRequest, DelRequest, GcRequest, Plugin, PluginError, PluginInfo, StatusRequest,
};
use cnikit::spec::{AddResult, Attachment, AttachmentKey, ErrorCode, Interface, IpConfig, MacAddr, Route, Version};
use ipnetwork::IpNetwork;
use serde::Deserialize;

const LOCK: Duration = Duration::from_secs(10);

struct Flawed;

#[derive(Deserialize)]
struct Config {
    subnet: IpNetwork,
    #[serde(default)]
    flaw: String,
}

impl Config {
    fn has(&self, flaw: &str) -> bool {
        self.flaw == flaw
    }

    fn range(&self) -> Result<Range, PluginError> {
        Ok(Range::new(self.subnet, None)?)
    }
}

fn failed(msg: impl Into<String>) -> PluginError {
    PluginError::new(const { ErrorCode::plugin_specific(100) }, msg)
}

fn store(network: &str) -> Result<Store, PluginError> {
    Ok(Store::open(format!("/var/lib/cni/flawed/{network}"))?)
}

/// Removes the state of an attachment on the host.
fn free(attachment: &Attachment) -> Result<(), PluginError> {
    Socket::open()?.delete_link_by_name(&attachment.host_ifname())?;
    store(attachment.network.as_str())?.lock(LOCK)?.release(&attachment.key())?;
    Ok(())
}

impl Plugin for Flawed {
    type Config = Config;

    fn info(&self) -> PluginInfo {
        PluginInfo { name: "flawed-cni", version: "1.0.0", summary: "Breaks rules on demand.", docs: "cni-conformance" }
    }

    fn versions(&self) -> &[Version] {
        &Version::ALL
    }

    fn add(&self, request: &AddRequest<Config>) -> Result<AddResult, PluginError> {
        let (attachment, config) = (&request.attachment, &request.config);
        let netns = Netns::open(&request.netns)?;
        let pod = netns.socket()?;
        if let Some(link) = pod.link_by_name(&attachment.ifname)? {
            if config.has("free-live") {
                store(attachment.network.as_str())?.lock(LOCK)?.release(&attachment.key())?;
            }
            if config.has("replace") {
                pod.delete_link(link.index)?;
            }
            return Err(failed(format!("{} has an interface {}", request.netns.display(), attachment.ifname)));
        }
        if config.has("slow") {
            std::thread::sleep(Duration::from_secs(600));
        }
        // State of a killed ADD belongs to this attachment.
        free(attachment)?;
        self.attach(request, &netns, &pod).inspect_err(|_| _ = free(attachment))
    }

    fn del(&self, request: &DelRequest<Config>) -> Result<(), PluginError> {
        let flaw = request.config.as_ref().map(|config| config.flaw.clone()).unwrap_or_default();
        let lease = store(request.attachment.network.as_str())?.lease(&request.attachment.key())?;
        match flaw.as_str() {
            "del-once" if lease.is_none() => Err(failed("no such attachment")),
            "del-needs-netns" if request.netns.is_none() => Err(failed("no namespace")),
            "leak-link" => {
                Ok(_ = store(request.attachment.network.as_str())?.lock(LOCK)?.release(&request.attachment.key())?)
            }
            "end-netns" => {
                free(&request.attachment)?;
                let ended =
                    request.netns.as_ref().map(|netns| std::process::Command::new("umount").arg(netns).status());
                ended.transpose().map(drop).map_err(|error| failed(format!("umount: {error}")))
            }
            "leak-lease" => Ok(Socket::open()?.delete_link_by_name(&request.attachment.host_ifname())?),
            _ => free(&request.attachment),
        }
    }

    fn check(&self, request: &CheckRequest<Config>) -> Result<(), PluginError> {
        let attachment = &request.attachment;
        if request.config.has("blind-check") {
            return Ok(());
        }
        let lease = store(attachment.network.as_str())?.lease(&attachment.key())?;
        let Some(lease) = lease else { return Err(failed("the lease is gone")) };
        let pod = Netns::open(&request.netns)?.socket()?;
        let Some(link) = pod.link_by_name(&attachment.ifname)? else { return Err(failed("the interface is gone")) };
        let there = pod.addresses(link.index)?;
        if !lease.addresses.iter().all(|address| there.contains(address)) {
            return Err(failed("an address is gone"));
        }
        if !pod.routes(link.index)?.iter().any(|route| route.dst.prefix() == 0) {
            return Err(failed("the default route is gone"));
        }
        Ok(())
    }

    fn gc(&self, request: &GcRequest<Config>) -> Result<(), PluginError> {
        let config = &request.config;
        let valid: &[AttachmentKey] = match request.valid_attachments.list() {
            Some(_) if config.has("gc-frees-all") => &[],
            Some(list) => list,
            None if config.has("gc-without-list") => &[],
            None => return Ok(()),
        };
        if config.has("gc-idle") {
            return Ok(());
        }
        let network = &request.net_conf.name;
        let leases = store(network.as_str())?.leases()?.collect::<Result<Vec<_>, _>>()?;
        for lease in leases {
            if !valid.contains(&lease.owner) {
                free(&lease.owner.in_network(network))?;
            }
        }
        Ok(())
    }

    fn status(&self, request: &StatusRequest<Config>) -> Result<(), PluginError> {
        let range = request.config.range()?;
        let usage = store(request.net_conf.name.as_str())?.usage(&range.into())?;
        if usage.iter().all(|range| range.free() == 0) && !request.config.has("blind-status") {
            return Err(PluginError::new(ErrorCode::PLUGIN_NOT_AVAILABLE, "all addresses are taken"));
        }
        Ok(())
    }
}

impl Flawed {
    fn attach(&self, request: &AddRequest<Config>, netns: &Netns, pod: &Socket) -> Result<AddResult, PluginError> {
        let (attachment, config) = (&request.attachment, &request.config);
        let range = config.range()?;
        let leases = store(attachment.network.as_str())?;
        let lease = leases.lock(LOCK)?.allocate(&attachment.key(), &[range.clone().into()], &[])?;
        let mut address = lease.addresses[0];
        if config.has("one-address") {
            address = range.with_prefix(range.last());
        }

        let host_end = VethEnd::new(attachment.host_ifname(), attachment.host_mac());
        let pod_end = VethEnd::new(attachment.ifname.clone(), attachment.container_mac());
        let pair = Socket::open()?.create_veth(&VethPair::new(host_end, pod_end, netns).host_up())?;
        pod.set_up(IfIndex::LOOPBACK)?;
        pod.set_up(pair.peer)?;
        pod.add_address(pair.peer, address)?;
        let default = cnikit::netlink::Route::default_via(range.gateway(), pair.peer);
        if !config.has("no-route") {
            // A second interface of a container gets no default route.
            match pod.add_route(&default) {
                Err(cnikit::netlink::Error::Exists { .. }) | Ok(()) => {}
                Err(error) => return Err(error.into()),
            }
        }

        let mut mac = attachment.container_mac();
        if config.has("wrong-mac") {
            mac = MacAddr::new([2, 0, 0, 0, 0, 1]);
        }
        let mut result = AddResult::default();
        result.push_interface(Interface::new(attachment.host_ifname()).mac(attachment.host_mac()));
        let inside =
            result.push_interface(Interface::new(&attachment.ifname).mac(mac).mtu(1500).sandbox(&request.netns));
        let ip = IpConfig::new(address).gateway(range.gateway()).interface(inside);
        Ok(result.with_ip(ip).with_route(Route::new(default.dst)))
    }
}

/// Serves the call, then changes the answer if the flaw requires it.
fn main() -> ExitCode {
    let mut stdin = Vec::new();
    let read = std::io::stdin().read_to_end(&mut stdin);
    let config: serde_json::Value = serde_json::from_slice(&stdin).unwrap_or_default();
    let mut output = plugin::dispatch(&Flawed, &|name| std::env::var_os(name), &mut stdin.as_slice());
    let mut document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    match config["flaw"].as_str().unwrap_or_default() {
        "exit-zero" => output.exit_code = 0,
        "mute-errors" if output.exit_code != 0 => output.stdout.clear(),
        "own-codes" if output.exit_code != 0 => document["code"] = 100.into(),
        "old-result" if output.exit_code == 0 && !document.is_null() => document["cniVersion"] = "0.3.1".into(),
        "talks" if document.is_null() => document = serde_json::json!({}),
        _ => {}
    }
    if !document.is_null() && !output.stdout.is_empty() || config["flaw"] == "talks" {
        output.stdout = document.to_string().into_bytes();
    }
    if config["flaw"] == "junk" {
        output.stdout.splice(..0, *b"attaching ...\n").for_each(drop);
    }
    let written = read.and_then(|_| std::io::stdout().write_all(&output.stdout));
    if written.is_ok() { ExitCode::from(output.exit_code) } else { ExitCode::FAILURE }
}
