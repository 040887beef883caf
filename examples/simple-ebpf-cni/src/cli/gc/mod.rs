//! `gc`: frees what belongs to pods that the container runtime does not know.

mod runtime;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use clap::builder::styling::Style;
use cnikit::ipam::{self, Lease};
use cnikit::netlink::{Link, Socket};
use cnikit::plugin::PluginError;
use cnikit::spec::{Attachment, AttachmentKey, ContainerId, IfName, KubernetesPod, NetworkName};
use ipnetwork::IpNetwork;
use serde::Serialize;

use super::error::Error;
use super::format::{self, count, list, short};
use super::inventory::{CachedTenants, NodeNetwork};
use super::options::ReportOptions;
use super::output::{DIM, ERROR, Output};
use super::table::Table;
use crate::verbs::detach::{AttachmentLock, detach};
use crate::verbs::gc::{Held, remove_unowned};
use runtime::Listed;
use simple_ebpf_cni::veth;

/// The time from an ADD until its runtime lists the pod. The kubelet gives up a pod's creation
/// after 4 minutes, twice its default `runtimeRequestTimeout`.
const SETTLED: Duration = Duration::from_secs(300);

const EXIT_STATUS: &str = "\
Exit status:
  0  success; kept attachments are listed
  1  the runtime's list could not be read and nothing changed, or an attachment could not be removed
  2  the command line is invalid";

/// Free the addresses of pods that the container runtime does not know any more.
///
/// Asks the runtime for its pod sandboxes. An attachment that the runtime does not list is removed
/// if its interface on the node is gone. With an interface, it may belong to another client of the
/// runtime (ctr, nerdctl) or to podman, so it stays and is listed.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Options {
    #[command(flatten)]
    report: ReportOptions,

    /// Socket of the runtime [default: $CONTAINER_RUNTIME_ENDPOINT, or the socket of containerd,
    /// CRI-O or cri-dockerd]
    #[arg(long, value_name = "ENDPOINT", conflicts_with = "valid")]
    runtime_endpoint: Option<PathBuf>,

    /// Read the ids of all valid containers from a file, one per line (- for standard input, which
    /// must not be empty). /dev/null lists none
    #[arg(long, value_name = "FILE")]
    valid: Option<PathBuf>,

    /// Also remove unlisted attachments that have an interface or were imported, if they are older
    /// than 5 minutes. Their pods lose the network
    #[arg(long)]
    force: bool,

    /// Print the changes without making them
    #[arg(long, short = 'n')]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    dry_run: bool,
    /// The file or socket of the list.
    source: String,
    /// The number of attachments of listed containers.
    listed: usize,
    /// The other attachments.
    unlisted: Vec<Unlisted>,
    /// Remains without an attachment that could not be removed.
    problems: Vec<String>,
}

/// An attachment of a container that is not in the list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Unlisted {
    network: NetworkName,
    container_id: ContainerId,
    ifname: IfName,
    #[serde(flatten)]
    kubernetes: KubernetesPod,
    addresses: Vec<IpNetwork>,
    result: Outcome,
    /// The reason of another result than a removal.
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Outcome {
    /// With `--dry-run`: would be removed.
    Removed,
    Kept,
    Failed,
}

/// A lease from before the runtime's list.
struct Candidate {
    lease: Lease,
    /// The file cannot be read. Whether the lease was imported is unknown.
    is_damaged: bool,
}

/// The parameters of a run.
struct Collector<'a> {
    options: &'a Options,
    /// A moment before the leases and the list were read.
    before: SystemTime,
    host: &'a Socket,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<(), Error> {
    let ReportOptions { selector, json } = &options.report;
    // In this order: a pod that an ADD attaches after the list was made is no candidate.
    let before = SystemTime::now();
    let networks = selector.networks()?;
    let candidates = networks.iter().map(candidates).collect::<Result<Vec<_>, _>>()?;
    let listed = match &options.valid {
        Some(path) => Listed::read(path)?,
        None => Listed::ask(options.runtime_endpoint.as_deref())?,
    };
    let is_listed = |candidate: &Candidate| listed.contains(&candidate.lease.owner.container_id);
    let (all, known) = candidates
        .iter()
        .flatten()
        .fold((0, 0), |(all, known), candidate| (all + 1, known + usize::from(is_listed(candidate))));
    // A command in front of a pipe that fails writes nothing.
    let is_piped = options.valid.as_deref() == Some(Path::new("-"));
    if is_piped && listed.ids.is_empty() && all > 0 && !options.force {
        return Err(Error::EmptyList { list: listed.source });
    }
    // The list may be of another runtime, or of none.
    if options.force && known == 0 && all > 0 {
        return Err(Error::NoneListed { list: listed.source });
    }
    let host = Socket::open()?;
    let collector = Collector { options, before, host: &host };
    let mut report = Report {
        dry_run: options.dry_run,
        source: listed.source.clone(),
        listed: known,
        unlisted: Vec::new(),
        problems: Vec::new(),
    };
    for (network, candidates) in networks.iter().zip(candidates) {
        let here = collector.is_here(network, &candidates)?;
        for candidate in candidates.into_iter().filter(|candidate| !is_listed(candidate)) {
            let one = collector.unlisted(network, candidate, here);
            let place = report.unlisted.partition_point(|other| other.addresses < one.addresses);
            report.unlisted.insert(place, one);
        }
        if here && !options.dry_run {
            let failure = collector.remove_unowned(network).err();
            report.problems.extend(failure.map(|error| format!("{}: {error}", network.name)));
        }
    }
    if *json {
        output.json(&report)?
    } else if networks.is_empty() {
        output.line(selector.no_network())?
    } else {
        report.write(output)?
    }
    match report.number(Outcome::Failed) + report.problems.len() {
        0 => Ok(()),
        problems => Err(Error::Problems(problems)),
    }
}

fn candidates(network: &NodeNetwork) -> Result<Vec<Candidate>, Error> {
    let mut cache = CachedTenants::new(&network.name);
    let mut candidates = Vec::new();
    for lease in network.store.leases()? {
        candidates.extend(match lease {
            Ok(mut lease) => {
                lease.pod = cache.pod_of(&lease);
                Some(Candidate { lease, is_damaged: false })
            }
            Err(error) => network.store.salvage(&error)?.map(|lease| Candidate { lease, is_damaged: true }),
        });
    }
    Ok(candidates)
}

impl Collector<'_> {
    /// Whether this process is in the network namespace of the pods' host ends: it sees the bridge
    /// or an interface. Elsewhere, each interface would look removed.
    fn is_here(&self, network: &NodeNetwork, candidates: &[Candidate]) -> Result<bool, Error> {
        let links = self.host.links()?;
        if network.bridge(&links).is_some_and(|bridge| network.owns(bridge, self.host)) {
            return Ok(true);
        }
        let host_end = |candidate: &Candidate| candidate.attachment(network).host_ifname();
        let names: Vec<IfName> = candidates.iter().map(host_end).collect();
        Ok(links.iter().any(|link| names.contains(&link.name)))
    }

    /// Removes the attachment, if this is safe.
    fn unlisted(&self, network: &NodeNetwork, candidate: Candidate, is_here: bool) -> Unlisted {
        let (result, reason) = match self.remove(network, &candidate, is_here) {
            Ok(None) => (Outcome::Removed, None),
            Ok(reason) => (Outcome::Kept, reason),
            Err(error) => (Outcome::Failed, Some(error.to_string())),
        };
        let Lease { owner, addresses, pod: kubernetes, .. } = candidate.lease;
        let AttachmentKey { container_id, ifname } = owner;
        Unlisted { network: network.name.clone(), container_id, ifname, kubernetes, addresses, result, reason }
    }

    /// Removes the attachment, or returns the reason to keep it.
    fn remove(
        &self,
        network: &NodeNetwork,
        candidate: &Candidate,
        is_here: bool,
    ) -> Result<Option<String>, PluginError> {
        let (store, owner) = (&network.store, &candidate.lease.owner);
        // From here to the end, no other call creates or removes the attachment.
        let lock = match store.lock_owner(owner, Duration::ZERO) {
            Err(ipam::Error::LockTimeout { .. }) => return Ok(Some("an ADD or DEL of it is running".into())),
            lock => AttachmentLock::from(lock?),
        };
        // A container that was started again has a new lease.
        if !candidate.is_damaged && store.lease(owner)?.is_none_or(|now| now.created != candidate.lease.created) {
            return Ok(Some("another call has just changed it".into()));
        }
        if !is_here {
            return Ok(Some("neither its bridge nor its interface is in this network namespace".into()));
        }
        let attachment = candidate.attachment(network);
        let host_end = veth::host_end(&attachment, self.host)?;
        let reason = self.reason_to_keep(candidate, host_end.as_ref());
        if reason.is_none() && !self.options.dry_run {
            detach(&attachment, self.host, store, &lock)?;
        }
        Ok(reason)
    }

    /// `None` if the pod is gone, or if it is old enough for `--force`.
    fn reason_to_keep(&self, candidate: &Candidate, host_end: Option<&Link>) -> Option<String> {
        let Candidate { lease, is_damaged } = candidate;
        let reason = match host_end {
            Some(link) => format!("its interface {} exists", link.name),
            None if *is_damaged => "its lease file is damaged".into(),
            None if lease.imported => "it was imported, and its interface has an unknown name".into(),
            None => return None,
        };
        let is_settled = self.before.duration_since(lease.created).is_ok_and(|age| age >= SETTLED);
        match (self.options.force, is_settled) {
            (false, _) => Some(reason),
            (true, false) => Some("it is younger than 5 minutes, and the runtime may not list it yet".into()),
            (true, true) => None,
        }
    }

    /// Removes everything that no lease leads to.
    fn remove_unowned(&self, network: &NodeNetwork) -> Result<(), PluginError> {
        let NodeNetwork { name, store, .. } = network;
        let Held { leases, in_progress } = Held::read(store)?;
        let leased = leases.into_iter().flatten().map(|lease| lease.owner);
        let spared = leased.chain(in_progress).map(|owner| owner.in_network(name)).collect();
        remove_unowned(self.host, name, store, &spared)
    }
}

impl Candidate {
    fn attachment(&self, network: &NodeNetwork) -> Attachment {
        self.lease.owner.clone().in_network(&network.name)
    }
}

impl Report {
    fn write(&self, output: &mut Output) -> Result<(), Error> {
        let Self { source, listed, unlisted, problems, .. } = self;
        let mut table = Table::new(["NAMESPACE/POD", "NETWORK", "ADDRESS", "CONTAINER", "IFNAME", "RESULT"]);
        let removed = if self.dry_run { "would be removed" } else { "removed" };
        for one in unlisted {
            let reason = one.reason.as_deref().unwrap_or_default();
            let (style, result) = match one.result {
                Outcome::Removed => (Style::new(), removed.to_owned()),
                Outcome::Kept => (DIM, format!("kept: {reason}")),
                Outcome::Failed => (ERROR, format!("failed: {reason}")),
            };
            let cells = [
                format::pod(&one.kubernetes, false),
                one.network.to_string(),
                list(&one.addresses),
                short(one.container_id.as_str()).to_owned(),
                one.ifname.to_string(),
                result,
            ];
            table.row(style, cells);
        }
        table.write(output)?;
        for problem in problems {
            output.styled(ERROR, problem)?;
        }
        if unlisted.is_empty() {
            return output.line(format_args!(
                "Nothing to remove: {source} lists {} of this node, and none is missing.",
                count(*listed, "attachment")
            ));
        }
        output.line("")?;
        let number = |result| self.number(result);
        let (gone, kept) = (count(number(Outcome::Removed), "attachment"), number(Outcome::Kept));
        output.line(format_args!("{gone} {removed}, {kept} kept; {source} lists {listed} more"))
    }

    fn number(&self, result: Outcome) -> usize {
        self.unlisted.iter().filter(|one| one.result == result).count()
    }
}
