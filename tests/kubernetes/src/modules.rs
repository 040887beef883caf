//! Modules of the kernel that the nodes need. The kernel loads modules of packet filters by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::layout::Layout;
use crate::output;
use crate::process::run;

/// A module, and a path that exists if the kernel has it.
const MODULES: [(&str, &str); 2] =
    [("br_netfilter", "/proc/sys/net/bridge/bridge-nf-call-iptables"), ("overlay", "/sys/module/overlay")];

/// Loads missing modules, and records them for [`unload`].
pub(crate) fn load(layout: &Layout) -> Result<()> {
    let missing: Vec<_> =
        MODULES.into_iter().filter(|(_, path)| !Path::new(path).exists()).map(|(name, _)| name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    fs::write(record(layout), missing.join(" "))?;
    for name in &missing {
        run(Command::new("modprobe").arg(name)).with_context(|| format!("the nodes need the module {name}"))?;
    }
    if missing.contains(&"br_netfilter") {
        // The module would pass the packets of the machine's own bridges to its packet filter. Each
        // node has its own settings, which are on.
        for family in ["iptables", "ip6tables", "arptables"] {
            fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{family}"), "0")?;
        }
    }
    output::note(&format!("loaded the modules {}, until the cluster is deleted", missing.join(", ")));
    Ok(())
}

/// Unloads the modules that [`load`] has loaded. A module with other users stays.
pub(crate) fn unload(layout: &Layout) {
    let loaded = fs::read_to_string(record(layout)).unwrap_or_default();
    for name in loaded.split_whitespace() {
        // The comparison of the machine reports the settings of a module that stays.
        let _ = run(Command::new("modprobe").args(["--remove", name]));
    }
}

fn record(layout: &Layout) -> PathBuf {
    layout.state().join("loaded-modules")
}
