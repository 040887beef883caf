//! The eBPF programs: loaded once for each network, attached to the host end of each pod.

use std::{error::Error, mem::MaybeUninit, os::fd::AsFd as _};

use cnikit::bpf::{NewPins, PinSet};
use cnikit::netlink::{BpfFilter, FilterTarget, INTERFACE_DIFFERS, SharedBlocks, Socket};
use cnikit::plugin::{Context as _, PluginError, Result};
use cnikit::spec::{ErrorCode, IfIndex, NetworkName};
use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};
use libbpf_rs::{ErrorKind, MapCore as _, MapFlags, MapHandle};

mod count {
    #![allow(warnings, unsafe_code, clippy::all, clippy::pedantic, reason = "libbpf-cargo generates this file")]
    include!(concat!(env!("OUT_DIR"), "/count.skel.rs"));
}

/// The object file, which identifies the build of the programs.
const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/count.bpf.o"));

/// The pins of a network. They stay after the last pod, as the chain for masquerading does.
pub(crate) struct Counters(PinSet);

impl Counters {
    pub(crate) fn of(network: &NetworkName) -> Self {
        Self(PinSet::new("/sys/fs/bpf/ptp-ebpf", network))
    }

    pub(crate) fn probe(&self) -> Result<()> {
        Ok(self.0.probe(OBJECT)?)
    }

    /// Loads the programs if necessary, and begins to count at a host end.
    pub(crate) fn attach(&self, host: &Socket, host_end: IfIndex) -> Result<()> {
        self.0.ensure(OBJECT, load)?;
        let counter = self.map()?.update(&host_end.get().to_ne_bytes(), &[0; 16], MapFlags::ANY);
        counter.with_code(ErrorCode::IO).context("create the counter")?;
        host.ensure_clsact(host_end, SharedBlocks::default())?;
        for (target, name) in hooks(host_end) {
            host.replace_filter(&target, &BpfFilter::new(&self.0.open_program(name)?, name))?;
        }
        Ok(())
    }

    pub(crate) fn check(&self, host: &Socket, host_end: IfIndex) -> Result<()> {
        for (target, name) in hooks(host_end) {
            if !host.filters(&target)?.iter().any(|filter| filter.name.as_deref() == Some(name)) {
                let msg = format!("{target} has no program {name}: create the pod again");
                return Err(PluginError::new(INTERFACE_DIFFERS, msg));
            }
        }
        Ok(())
    }

    /// Deletes the counter of a host end. The kernel deletes the filters with the link.
    pub(crate) fn forget(&self, host_end: IfIndex) -> Result<()> {
        if !self.0.is_complete()? {
            return Ok(());
        }
        match self.map()?.delete(&host_end.get().to_ne_bytes()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_code(ErrorCode::IO).context("delete the counter")
            }
            _ => Ok(()),
        }
    }

    fn map(&self) -> Result<MapHandle> {
        MapHandle::from_pinned_path(self.0.path_of("packets")).with_code(ErrorCode::IO).context("open the counters")
    }
}

fn load(pins: &NewPins<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut storage = MaybeUninit::uninit();
    let mut open = count::CountSkelBuilder::default().open(&mut storage)?;
    // The counters of an older build survive.
    if let Some(existing) = pins.existing_map("packets")? {
        open.maps.packets.reuse_fd(existing.as_fd())?;
    }
    let skeleton = open.load()?;
    pins.pin("packets", &skeleton.maps.packets)?;
    pins.pin("ptp-ebpf-sent", &skeleton.progs.count_sent)?;
    Ok(pins.pin("ptp-ebpf-received", &skeleton.progs.count_received)?)
}

/// Each hook of a host end, with the name of its program and filter.
fn hooks(host_end: IfIndex) -> [(FilterTarget, &'static str); 2] {
    [(FilterTarget::Ingress(host_end), "ptp-ebpf-sent"), (FilterTarget::Egress(host_end), "ptp-ebpf-received")]
}
