//! One network's pins.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;
use tracing::info_span;
use zerocopy::FromZeros as _;

use super::layout::RawNetConfig;
use super::map::Map;
use super::maps::{CounterMap, LinkMap, MAPS, NET_CONFIG, NET_DROPS, NET_STATS, ONLY, PortMap};
use super::port_xdp::XdpPins;
use super::program::{Program, ProgramName};
use super::{Drops, Error, NetConfig, NetStats, Result, bpffs, migrate, skeleton};
use crate::spec::NetworkName;

/// Version of the maps' layout, the last part of the pins' path: a build whose maps differ keeps its
/// pins beside the old ones instead of tripping over them.
const LAYOUT: u32 = 2;

/// What the name of the directory starts with that says which build the programs are of. The BPF file system holds pins
/// and directories, and nothing else.
const BUILD_MARK: &str = "build-";

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

    /// The networks that have pins below `root`, of whichever layout. A directory that does not exist has none.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] when the directory cannot be listed.
    pub fn networks(root: impl AsRef<Path>) -> Result<Vec<NetworkName>> {
        let mut networks: Vec<NetworkName> =
            names(root.as_ref())?.iter().filter_map(|name| name.to_str()?.replace(':', ".").parse().ok()).collect();
        networks.sort_unstable();
        Ok(networks)
    }

    /// The directory that holds the pins.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.layout(LAYOUT)
    }

    /// The directory for the pins of [links](super::TcxLink) by which the programs are attached. They outlive a change of
    /// the layout, and [`remove`](Self::remove) detaches them.
    #[must_use]
    pub fn link_pins(&self) -> PathBuf {
        self.network.join("links")
    }

    /// Loads the programs and pins them with their maps, unless that is done already.
    ///
    /// Costs some tens of microseconds when the pins are there, some 20 ms when they are not. Callers that race load once.
    ///
    /// Programs of another build are replaced by this build's, on the maps that are there: what is counted and known of
    /// pods stays. Whoever attached the old ones is to attach the new ones in their place ([`Program::id`] tells them
    /// apart). Where an older layout is pinned, its rows are copied, so that pods keep their counters and direct delivery;
    /// [`remove_outdated`](Self::remove_outdated) is to follow when its programs are replaced. An incomplete set, which
    /// only a hand that removed pins leaves, is replaced by a complete one with empty maps.
    ///
    /// # Errors
    ///
    /// [`Error::Mount`] and [`Error::NotBpffs`] for the file system, [`Error::Load`] and
    /// [`Error::Rejected`] when the kernel refuses the programs, [`Error::Locked`] when another
    /// loader hangs, [`Error::NewerLayout`] after a downgrade, [`Error::Layout`] for maps that do not
    /// fit, [`Error::Pin`] for the rest.
    ///
    /// # Kernel
    ///
    /// 5.10; `CAP_BPF` and `CAP_NET_ADMIN`, before 6.12 with `CAP_PERFMON`, and `CAP_SYS_ADMIN` where
    /// the BPF file system has to be mounted.
    pub fn ensure(&self) -> Result<()> {
        self.refuse_newer()?;
        if self.is_current()? {
            return Ok(());
        }
        let _span = info_span!("load", pins = %self.network.display()).entered();
        bpffs::ensure_directory(&self.root)?;
        let _lock = self.lock()?;
        self.refuse_newer()?;
        if self.is_current()? {
            return Ok(());
        }

        // Pins are collected aside and published by renames: nobody ever opens half of anything, and
        // what a killed loader left is swept by the next one.
        let loading = self.network.join("loading");
        remove_tree(&loading)?;
        let published = self.publish(&loading);
        if published.is_err() {
            // The error to report is the load's. The network's directory goes only if it is empty.
            let _ = remove_tree(&loading);
            let _ = fs::remove_dir(&self.network);
        }
        published
    }

    /// Whether all pins are there, of whichever build.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] when the directory cannot be listed, and nothing is known of what is in there.
    pub fn is_complete(&self) -> Result<bool> {
        self.has([])
    }

    /// Whether all pins are there, and the programs are this build's.
    fn is_current(&self) -> Result<bool> {
        self.has([self.build.as_str()])
    }

    /// Whether all pins are there, and `more` beside them. One list costs less than a look for each.
    fn has<const N: usize>(&self, more: [&str; N]) -> Result<bool> {
        let found = names(&self.directory())?;
        let maps = MAPS.iter().map(|shape| shape.name);
        let programs = ProgramName::ALL.map(ProgramName::as_str);
        Ok(maps.chain(programs).chain(more).all(|pin| found.iter().any(|name| name == pin)))
    }

    /// Whether [`ensure`](Self::ensure) could be expected to succeed, and the maps to be opened: what is pinned fits this
    /// build, or the BPF file system can be written, or has a place to be mounted; and this process may use bpf(2).
    /// Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Mount`]; [`Error::Load`] when the kernel refuses to make a map; [`Error::NewerLayout`], [`Error::Layout`]
    /// or [`Error::Pin`] for what is pinned, and for a file system that cannot be written.
    pub fn probe(&self) -> Result<()> {
        self.refuse_newer()?;
        if self.is_complete()? {
            MAPS.iter().try_for_each(|shape| Map::open(&self.directory(), shape).map(drop))?;
        }
        if !self.is_current()? {
            bpffs::probe(&self.network)?;
        }
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

    /// Removes the pins of older layouts, to be called when none of their programs is attached any more. Costs one look
    /// into a directory when there are none.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn remove_outdated(&self) -> Result<()> {
        let outdated = |layouts: Vec<u32>| layouts.into_iter().filter(|layout| *layout < LAYOUT).collect::<Vec<_>>();
        if outdated(self.layouts()?).is_empty() {
            return Ok(());
        }
        let _lock = self.lock()?;
        outdated(self.layouts()?).into_iter().try_for_each(|layout| remove_tree(&self.layout(layout)))
    }

    /// Opens one of the programs.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] when it is not there or may not be opened.
    pub fn program(&self, name: ProgramName) -> Result<Program> {
        Program::open(&self.directory(), name)
    }

    /// Opens `pkt_count` and `pkt_count_v6`: what each address sent and received.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] when one is not there or may not be opened, [`Error::Layout`] when it is not
    /// this build's.
    pub fn counters(&self) -> Result<CounterMap> {
        CounterMap::open(&self.directory())
    }

    /// Opens `pod_ifindex` and `pod_ifindex_v6`: who owns each address.
    ///
    /// # Errors
    ///
    /// As [`counters`](Self::counters).
    pub fn ports(&self) -> Result<PortMap> {
        PortMap::open(&self.directory())
    }

    /// Opens `port_config` and `port_drops`: what each port may do, and what it was not let do.
    ///
    /// # Errors
    ///
    /// As [`counters`](Self::counters).
    pub fn links(&self) -> Result<LinkMap> {
        LinkMap::open(&self.directory(), &self.xdp_pins())
    }

    /// Tells the programs of their network; cheap when it says nothing new.
    ///
    /// # Errors
    ///
    /// As [`counters`](Self::counters), and [`Error::Map`].
    pub fn configure(&self, config: NetConfig) -> Result<()> {
        let map = Map::open(&self.directory(), &NET_CONFIG)?;
        if read_config(&map)? == config { Ok(()) } else { map.put(&ONLY, &RawNetConfig::from(config), "the row") }
    }

    /// What the programs were last told of their network; zeros, and nothing turned on, before the first time.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn config(&self) -> Result<NetConfig> {
        read_config(&Map::open(&self.directory(), &NET_CONFIG)?)
    }

    /// The network's verdicts since its programs were loaded, added up over the CPUs.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn stats(&self) -> Result<NetStats> {
        Ok(Map::open(&self.directory(), &NET_STATS)?.sum(&ONLY, "the row")?.unwrap_or_default())
    }

    /// What was dropped at all ports of the network since its programs were loaded, added up over the CPUs.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn drops(&self) -> Result<Drops> {
        Ok(Map::open(&self.directory(), &NET_DROPS)?.sum(&ONLY, "the row")?.unwrap_or_default())
    }

    /// Like the links, these outlive a change of the layout: the addresses in there are the kernel's.
    fn xdp_pins(&self) -> XdpPins {
        XdpPins::of(&self.network)
    }

    /// The directory of one layout.
    fn layout(&self, layout: u32) -> PathBuf {
        self.network.join(format!("v{layout}"))
    }

    /// The layouts that are pinned, in no order.
    fn layouts(&self) -> Result<Vec<u32>> {
        let number = |name: OsString| name.to_str()?.strip_prefix('v')?.parse().ok();
        Ok(names(&self.network)?.into_iter().filter_map(number).collect())
    }

    /// A newer build works by maps that this one does not know. Were this one to load its own beside them, the pods that
    /// are there would have no rows, and the programs of both would take turns.
    fn refuse_newer(&self) -> Result<()> {
        match self.layouts()?.into_iter().max() {
            Some(found) if found > LAYOUT => Err(Error::NewerLayout { path: self.layout(found), found, known: LAYOUT }),
            _ => Ok(()),
        }
    }

    /// Loads and removals take turns. The lock is the root's, as the network's directory itself comes
    /// and goes: a lock on one that was removed would keep nobody out.
    fn lock(&self) -> Result<File> {
        bpffs::lock(&self.root, bpffs::PATIENCE)
    }

    /// Loads into a directory of its own and publishes that.
    fn publish(&self, loading: &Path) -> Result<()> {
        bpffs::create_directories(loading)?;
        if self.is_complete()? { self.replace_programs(loading) } else { self.publish_new(loading) }
    }

    fn publish_new(&self, loading: &Path) -> Result<()> {
        let xdp = self.xdp_pins();
        skeleton::load_and_pin(loading, &xdp)?;
        let older = self.layout(1);
        if migrate::is_layout_1(&older) {
            migrate::from_layout_1(&older, loading, &xdp)?;
            xdp.watch_all(loading);
        }
        bpffs::create_directories(&loading.join(&self.build))?;
        let published = self.directory();
        remove_tree(&published)?;
        fs::rename(loading, &published).map_err(|error| Error::pin("publish the pins as", &published, error))
    }

    /// Renames this build's programs over those of another, one by one: both work on the same maps. The mark comes last,
    /// so that a kill in between leaves the work to the next caller.
    fn replace_programs(&self, loading: &Path) -> Result<()> {
        let published = self.directory();
        MAPS.iter().try_for_each(|shape| Map::open(&published, shape).map(drop))?;
        let xdp = self.xdp_pins();
        skeleton::load_onto(&published, loading, &xdp)?;
        xdp.watch_all(&published);
        for name in ProgramName::ALL {
            let (new, old) = (loading.join(name.as_str()), published.join(name.as_str()));
            fs::rename(&new, &old).map_err(|error| Error::pin("replace the pin", &old, error))?;
        }
        for name in names(&published)? {
            if name.as_encoded_bytes().starts_with(BUILD_MARK.as_bytes()) {
                remove_tree(&published.join(name))?;
            }
        }
        bpffs::create_directories(&published.join(&self.build))?;
        remove_tree(loading)
    }
}

fn read_config(map: &Map) -> Result<NetConfig> {
    Ok(map.read(&ONLY, "the row")?.unwrap_or_else(RawNetConfig::new_zeroed).into())
}

/// The names in a directory; none if there is no such directory. An ADD lists three: the C library would map memory for
/// each, and unmap it.
fn names(directory: &Path) -> Result<Vec<OsString>> {
    let failed = |errno: Errno| Error::pin("list the pins in", directory, errno);
    let opened = rustix::fs::open(directory, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let directory = match opened {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        opened => opened.map_err(failed)?,
    };
    let (mut names, mut space) = (Vec::new(), [MaybeUninit::uninit(); 2048]);
    let mut entries = RawDir::new(directory, &mut space);
    while let Some(entry) = entries.next() {
        let entry = match entry {
            // The directory was removed meanwhile, so nothing is in it.
            Err(Errno::NOENT) => break,
            entry => entry.map_err(failed)?,
        };
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::pin("remove the pins in", path, error)),
        _ => Ok(()),
    }
}
