//! Complete steps as a runtime runs them, one process each, for the real `host-local` and for this
//! library.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cnikit::ipam::{IpamConfig, LOCK_TIMEOUT, Pool, Store};
use cnikit::spec::AttachmentKey;
use tempfile::TempDir;

use crate::{Keeper, owner};

const PLACES: [&str; 2] = ["/usr/lib/cni/host-local", "/opt/cni/bin/host-local"];
const NETWORK: &str = "bench";
/// Makes this program run one step.
const STEP: &str = "CNIKIT_BENCH_STEP";

pub(crate) struct HostLocal {
    binary: &'static str,
    config: String,
    _dir: TempDir,
}

/// This program in the role of a plugin.
pub(crate) struct Ours {
    binary: PathBuf,
    config: String,
}

impl HostLocal {
    /// `None` if the plugin is not installed.
    pub(crate) fn holding(held: usize, pool: &Pool) -> Option<Self> {
        let binary = PLACES.into_iter().find(|place| Path::new(place).exists())?;
        let dir = tempfile::tempdir().expect("a directory");
        let leases = dir.path().join(NETWORK);
        fs::create_dir(&leases).expect("a directory");
        for (number, address) in (0..held).zip(pool.iter_from(None)) {
            let text = format!("{}\r\neth0", owner(number).container_id);
            fs::write(leases.join(address.to_string()), text).expect("room");
            fs::write(leases.join("last_reserved_ip.0"), address.to_string()).expect("room");
        }
        Some(Self { binary, config: config(dir.path()), _dir: dir })
    }
}

impl Ours {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { binary: std::env::current_exe().expect("this program"), config: config(dir) }
    }
}

fn config(dir: &Path) -> String {
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "{NETWORK}", "type": "host-local",
            "ipam": {{"type": "host-local", "dataDir": "{}", "ranges": [[{{"subnet": "10.0.0.0/8"}}]]}}}}"#,
        dir.display()
    )
}

fn run(binary: &Path, verb: &str, owner: &AttachmentKey, config: &str) {
    let mut command = Command::new(binary);
    command.env_clear().env(STEP, "1").env("CNI_COMMAND", verb).env("CNI_CONTAINERID", owner.container_id.as_str());
    command.env("CNI_IFNAME", "eth0").env("CNI_NETNS", "/proc/self/ns/net").env("CNI_PATH", "/");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a process");
    child.stdin.take().expect("a pipe").write_all(config.as_bytes()).expect("a reader");
    assert!(child.wait().expect("a status").success());
}

impl Keeper for HostLocal {
    fn allocate(&mut self, owner: &AttachmentKey) -> IpAddr {
        run(Path::new(self.binary), "ADD", owner, &self.config);
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    }

    fn release(&mut self, owner: &AttachmentKey) {
        run(Path::new(self.binary), "DEL", owner, &self.config);
    }
}

impl Keeper for Ours {
    fn allocate(&mut self, owner: &AttachmentKey) -> IpAddr {
        run(&self.binary, "ADD", owner, &self.config);
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    }

    fn release(&mut self, owner: &AttachmentKey) {
        run(&self.binary, "DEL", owner, &self.config);
    }
}

pub(crate) fn is_step() -> bool {
    std::env::var_os(STEP).is_some()
}

/// The entry point of the processes of [`Ours`].
pub(crate) fn step() {
    #[derive(serde::Deserialize)]
    struct Config {
        ipam: IpamConfig,
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).expect("a configuration");
    let config: Config = serde_json::from_str(&text).expect("a configuration");
    let variable = |name| std::env::var(name).expect("a variable");
    let owner = AttachmentKey {
        container_id: variable("CNI_CONTAINERID").parse().expect("an id"),
        ifname: variable("CNI_IFNAME").parse().expect("an ifname"),
    };
    let store = Store::open(config.ipam.data_dir().expect("a directory")).expect("a store");
    let mut locked = store.lock(LOCK_TIMEOUT).expect("the lock");
    match variable("CNI_COMMAND").as_str() {
        "ADD" => drop(locked.allocate(&owner, config.ipam.pools(), &[]).expect("a lease")),
        _ => drop(locked.release(&owner).expect("a release")),
    }
}
