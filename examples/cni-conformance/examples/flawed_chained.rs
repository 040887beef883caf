//! A chained plugin for the tests of the suite: it sets the MTU of the previous plugin's interface.
//! It follows every rule, or has the one flaw that `flaw` in its configuration names.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use cnikit::netlink::{Link, Netns, Socket};
use cnikit::plugin::{self, AddRequest, CheckRequest, Context as _, DelRequest, GcRequest, Plugin};
use cnikit::plugin::{PluginError, PluginInfo};
use cnikit::spec::{AddResult, Attachment, AttachmentKey, ErrorCode, Version};
use serde::Deserialize;

const STATE: &str = "/var/lib/cni/flawed-chained";

struct Flawed;

#[derive(Deserialize)]
struct Config {
    mtu: u32,
    #[serde(default)]
    flaw: String,
}

impl Config {
    fn has(&self, flaw: &str) -> bool {
        self.flaw == flaw
    }
}

fn failed(msg: impl Into<String>) -> PluginError {
    PluginError::new(const { ErrorCode::plugin_specific(100) }, msg)
}

/// The file with the MTU from before the ADD.
fn saved_mtu(attachment: &Attachment) -> PathBuf {
    PathBuf::from(STATE).join(format!("{}-{}", attachment.container_id, attachment.ifname))
}

fn link_of(pod: &Socket, attachment: &Attachment) -> Result<Link, PluginError> {
    pod.link_by_name(&attachment.ifname)?.ok_or_else(|| failed(format!("no interface {}", attachment.ifname)))
}

impl Plugin for Flawed {
    type Config = Config;

    fn info(&self) -> PluginInfo {
        PluginInfo { name: "flawed-chained", version: "1.0.0", summary: "Sets the MTU.", docs: "cni-conformance" }
    }

    fn versions(&self) -> &[Version] {
        &Version::ALL
    }

    fn add(&self, request: &AddRequest<Config>) -> Result<AddResult, PluginError> {
        let (attachment, config) = (&request.attachment, &request.config);
        let result = match &request.prev_result {
            Some(result) => result.clone(),
            None if config.has("needs-nothing") => AddResult::default(),
            None => return Err(failed("prevResult is missing")),
        };
        let pod = Netns::open(&request.netns)?.socket()?;
        let link = link_of(&pod, attachment)?;
        fs::create_dir_all(STATE).context("create the state directory")?;
        let file = saved_mtu(attachment);
        // A repeated ADD must not overwrite the original MTU.
        if !file.exists() {
            fs::write(&file, link.mtu.to_string()).context("save the MTU")?;
        }
        pod.set_mtu(link.index, config.mtu)?;
        Ok(if config.has("drops-result") { without_interfaces(result) } else { result })
    }

    fn del(&self, request: &DelRequest<Config>) -> Result<(), PluginError> {
        let attachment = &request.attachment;
        let has = |flaw: &str| request.config.as_ref().is_ok_and(|config| config.has(flaw));
        let file = saved_mtu(attachment);
        let mtu = fs::read_to_string(&file).ok().and_then(|text| text.parse().ok());
        let pod = request.netns.as_ref().and_then(|netns| Netns::open(netns).ok()?.socket().ok());
        if let (Some(pod), Some(mtu)) = (pod, mtu)
            && let Ok(link) = link_of(&pod, attachment)
        {
            match () {
                () if has("deletes-interface") => pod.delete_link(link.index)?,
                () if has("keeps-mtu") => {}
                () => pod.set_mtu(link.index, mtu)?,
            }
        }
        if file.exists() && !has("leaks-file") {
            fs::remove_file(&file).context("forget the MTU")?;
        }
        Ok(())
    }

    fn check(&self, request: &CheckRequest<Config>) -> Result<(), PluginError> {
        let link = link_of(&Netns::open(&request.netns)?.socket()?, &request.attachment)?;
        if link.mtu == request.config.mtu { Ok(()) } else { Err(failed(format!("the MTU is {}", link.mtu))) }
    }

    fn gc(&self, request: &GcRequest<Config>) -> Result<(), PluginError> {
        let Some(valid) = request.valid_attachments.list() else { return Ok(()) };
        let names: Vec<String> =
            valid.iter().map(|AttachmentKey { container_id, ifname, .. }| format!("{container_id}-{ifname}")).collect();
        for entry in fs::read_dir(STATE).into_iter().flatten().flatten() {
            if !names.iter().any(|name| entry.file_name() == name.as_str()) {
                fs::remove_file(entry.path()).context("forget an MTU")?;
            }
        }
        Ok(())
    }
}

fn without_interfaces(mut result: AddResult) -> AddResult {
    result.interfaces.clear();
    result.ips.iter_mut().for_each(|ip| ip.interface = None);
    result
}

fn main() -> ExitCode {
    plugin::run(&Flawed)
}
