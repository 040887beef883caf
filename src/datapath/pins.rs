//! One network's pins.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use libbpf_rs::{MapCore, MapHandle};

use super::error::io_error;
use super::maps::{CounterMap, PortMap};
use super::{Error, NetConfig, NetStats, Result, bpffs, maps, skeleton};
use crate::spec::NetworkName;

/// Version of the maps' layout, the last part of the pins' path: a build whose maps differ keeps its
/// pins beside the old ones instead of tripping over them.
const LAYOUT: u32 = 1;

/// What the name of the directory starts with that says which build the programs are of. The BPF file system holds pins
/// and directories, and nothing else.
const BUILD_MARK: &str = "build-";

/// What a complete set of pins consists of.
const PINS: [&str; 6] = [
    maps::PKT_COUNT,
    maps::POD_IFINDEX,
    maps::NET_CONFIG,
    maps::NET_STATS,
    ProgramName::Main.as_str(),
    ProgramName::Egress.as_str(),
];

/// One network's programs and maps, pinned in `<root>/<network>/v<layout>/`.
///
/// This is the place, not its contents: nothing is opened before it is asked for.
#[derive(Clone, Debug)]
pub struct Datapath {
    root: PathBuf,
    network: PathBuf,
    /// The name of the directory beside the pins that says whose the programs are.
    build: String,
}

/// One of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramName {
    /// `cni_tc_main`, for the ingress hooks.
    Main,
    /// `cni_tc_egress`, for the egress hooks.
    Egress,
}

/// A loaded program, to be attached by its file descriptor.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    id: u32,
}

impl Datapath {
    /// The set of `network` below the directory `root`, such as `/sys/fs/bpf/my-plugin`.
    ///
    /// The BPF file system takes no `.` in a name, so `root` must do without; one in the network's
    /// name becomes `:`, which no network's name contains.
    #[must_use]
    pub fn new(root: impl AsRef<Path>, network: &NetworkName) -> Self {
        let root = root.as_ref();
        let network = root.join(network.as_str().replace('.', ":"));
        Self { root: root.to_owned(), network, build: format!("{BUILD_MARK}{}", env!("CNI_TC_BUILD")) }
    }

    /// The directory that holds the pins.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.network.join(format!("v{LAYOUT}"))
    }

    /// Loads the programs and pins them with their maps, unless that is done already.
    ///
    /// Costs a few microseconds when the pins are there, some 30 ms when they are not. Callers that race load once.
    ///
    /// Programs of another build are replaced by this build's, on the maps that are there: what is counted and known of
    /// pods stays. Whoever attached the old ones is to attach the new ones in their place ([`Program::id`] tells them
    /// apart). An incomplete set, which only a hand that removed pins leaves, is replaced by a complete one with empty
    /// maps.
    ///
    /// # Errors
    ///
    /// [`Error::Mount`] and [`Error::NotBpffs`] for the file system, [`Error::Load`] and
    /// [`Error::Rejected`] when the kernel refuses the programs, [`Error::Locked`] when another
    /// loader hangs, [`Error::Layout`] for maps that do not fit, [`Error::Pin`] for the rest.
    ///
    /// # Kernel
    ///
    /// 5.10; `CAP_BPF` and `CAP_NET_ADMIN`, and `CAP_SYS_ADMIN` where the BPF file system has to be
    /// mounted.
    pub fn ensure(&self) -> Result<()> {
        if self.is_current() {
            return Ok(());
        }
        bpffs::ensure_directory(&self.root)?;
        let _lock = self.lock()?;
        if self.is_current() {
            return Ok(());
        }

        // Pins are collected aside and published by renames: nobody ever opens half of anything, and
        // what a killed loader left is swept by the next one.
        let loading = self.network.join("loading");
        remove_tree(&loading)?;
        bpffs::create_directories(&loading)?;
        let published = if self.is_complete() { self.replace_programs(&loading) } else { self.publish_new(&loading) };
        if published.is_err() {
            // The error to report is the load's. The network's directory goes only if it is empty.
            let _ = remove_tree(&loading);
            let _ = fs::remove_dir(&self.network);
        }
        published
    }

    /// Whether all pins are there, of whichever build.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let directory = self.directory();
        PINS.iter().all(|pin| directory.join(pin).exists())
    }

    /// Whether all pins are there, and the programs are this build's.
    fn is_current(&self) -> bool {
        self.directory().join(&self.build).exists() && self.is_complete()
    }

    /// Whether [`ensure`](Self::ensure) could be expected to succeed: the BPF file system is there or has a place to be
    /// mounted, and this process may use bpf(2). Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Mount`], or [`Error::Load`] when the kernel refuses to make a map.
    pub fn probe(&self) -> Result<()> {
        bpffs::probe(&self.network)?;
        skeleton::probe()
    }

    /// Removes the pins of every layout. Programs live on as long as they are attached, maps as long
    /// as their programs. Absent is success.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] names what could not be removed, [`Error::Locked`] the lock of a loader that
    /// hangs.
    pub fn remove(&self) -> Result<()> {
        // Without the pins there may be no root either, and so nothing to lock.
        match self.network.try_exists() {
            Ok(false) => Ok(()),
            Ok(true) => {
                let _lock = self.lock()?;
                remove_tree(&self.network)
            }
            Err(error) => Err(Error::pin("look for the pins in", &self.network, error)),
        }
    }

    /// Opens one of the programs.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] when it is not there or may not be opened.
    pub fn program(&self, name: ProgramName) -> Result<Program> {
        let path = self.directory().join(name.as_str());
        let opened = libbpf_rs::Program::fd_from_pinned_path(&path)
            .and_then(|fd| Ok((libbpf_rs::Program::id_from_fd(fd.as_fd())?, fd)));
        match opened {
            Ok((id, fd)) => Ok(Program { fd, id }),
            Err(error) => Err(Error::pin("open the pinned program", path, io_error(error))),
        }
    }

    /// Opens `pkt_count`: what each pod address sent and received.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] when it is not there or may not be opened, [`Error::Layout`] when it is not
    /// this build's.
    pub fn counters(&self) -> Result<CounterMap> {
        self.map(maps::PKT_COUNT, CounterMap::SIZES).map(CounterMap::new)
    }

    /// Opens `pod_ifindex`: where each pod address lives.
    ///
    /// # Errors
    ///
    /// As [`counters`](Self::counters).
    pub fn ports(&self) -> Result<PortMap> {
        self.map(maps::POD_IFINDEX, PortMap::SIZES).map(PortMap::new)
    }

    /// Tells the programs of their network; cheap when it says nothing new.
    ///
    /// # Errors
    ///
    /// As [`counters`](Self::counters), and [`Error::Map`].
    pub fn configure(&self, config: NetConfig) -> Result<()> {
        let map = self.map(maps::NET_CONFIG, maps::NET_CONFIG_SIZES)?;
        if maps::read_config(&map)? == config { Ok(()) } else { maps::write_config(&map, config) }
    }

    /// What the programs were last told of their network; zeros before the first time.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn config(&self) -> Result<NetConfig> {
        maps::read_config(&self.map(maps::NET_CONFIG, maps::NET_CONFIG_SIZES)?)
    }

    /// The network's verdicts since its programs were loaded, added up over the CPUs.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn stats(&self) -> Result<NetStats> {
        maps::read_stats(&self.map(maps::NET_STATS, maps::NET_STATS_SIZES)?)
    }

    /// Loads and removals take turns. The lock is the root's, as the network's directory itself comes
    /// and goes: a lock on one that was removed would keep nobody out.
    fn lock(&self) -> Result<File> {
        bpffs::lock(&self.root, bpffs::PATIENCE)
    }

    fn publish_new(&self, loading: &Path) -> Result<()> {
        skeleton::load_and_pin(loading)?;
        bpffs::create_directories(&loading.join(&self.build))?;
        let published = self.directory();
        remove_tree(&published)?;
        fs::rename(loading, &published).map_err(|error| Error::pin("publish the pins as", &published, error))
    }

    /// Renames this build's programs over those of another, one by one: both work on the same maps. The mark comes last,
    /// so that a kill in between leaves the work to the next caller.
    fn replace_programs(&self, loading: &Path) -> Result<()> {
        self.counters()?;
        self.ports()?;
        self.config()?;
        self.stats()?;
        let published = self.directory();
        skeleton::load_onto(&published, loading)?;
        for name in [ProgramName::Main, ProgramName::Egress] {
            let (new, old) = (loading.join(name.as_str()), published.join(name.as_str()));
            fs::rename(&new, &old).map_err(|error| Error::pin("replace the pin", &old, error))?;
        }
        for entry in
            fs::read_dir(&published).map_err(|error| Error::pin("list the pins in", &published, error))?.flatten()
        {
            if entry.file_name().as_encoded_bytes().starts_with(BUILD_MARK.as_bytes()) {
                remove_tree(&entry.path())?;
            }
        }
        bpffs::create_directories(&published.join(&self.build))?;
        remove_tree(loading)
    }

    fn map(&self, name: &str, expected: (usize, usize)) -> Result<MapHandle> {
        let path = self.directory().join(name);
        let map = MapHandle::from_pinned_path(&path)
            .map_err(|error| Error::pin("open the pinned map", &path, io_error(error)))?;
        let found = (map.key_size() as usize, map.value_size() as usize);
        if found == expected { Ok(map) } else { Err(Error::Layout { path, expected, found }) }
    }
}

impl ProgramName {
    /// The program's name, in the C source and as a pin.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Main => "cni_tc_main",
            Self::Egress => "cni_tc_egress",
        }
    }
}

impl Program {
    /// The kernel's id for the program, by which `bpftool prog show id` knows it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::pin("remove the pins in", path, error)),
        _ => Ok(()),
    }
}
