//! A complete plugin: brings up the loopback interface of a pod, as the first plugin of many chains
//! does.
//!
//! ```sh
//! cargo build --example minimal-plugin && target/debug/examples/minimal-plugin
//! ```

use std::process::ExitCode;

use cnikit::netlink::{IfIndex, Netns};
use cnikit::plugin::{self, AddRequest, CheckRequest, DelRequest, Plugin, PluginError, PluginInfo};
use cnikit::spec::{AddResult, Interface};

struct Loopback;

impl Plugin for Loopback {
    type Config = serde::de::IgnoredAny; // no keys of its own

    fn info(&self) -> PluginInfo {
        PluginInfo { name: "minimal-plugin", version: "1.0.0", summary: "Brings up lo.", docs: "examples/" }
    }

    fn add(&self, request: &AddRequest<Self::Config>) -> Result<AddResult, PluginError> {
        Netns::open(&request.netns)?.socket()?.set_up(IfIndex::LOOPBACK)?;
        let lo = Interface::new("lo").sandbox(&request.netns);
        Ok(request.prev_result.clone().unwrap_or_default().with_interface(lo))
    }

    fn check(&self, request: &CheckRequest<Self::Config>) -> Result<(), PluginError> {
        let lo = Netns::open(&request.netns)?.socket()?.link_by_index(IfIndex::LOOPBACK)?;
        let differs = || PluginError::new(cnikit::spec::ErrorCode::plugin_specific(100), "lo is down");
        lo.filter(|lo| lo.up).map(drop).ok_or_else(differs)
    }

    fn del(&self, _: &DelRequest<Self::Config>) -> Result<(), PluginError> {
        Ok(()) // the kernel deletes lo with the namespace
    }
}

fn main() -> ExitCode {
    plugin::run(&Loopback)
}
