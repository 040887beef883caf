//! `uninstall`: removes the files that `install` has written and, with `--purge`, the state of the
//! networks.

mod agent;
mod files;
mod options;
mod purge;
mod report;

use std::path::Path;

use cnikit::netlink::{Link, Socket};

pub(crate) use options::Options;

use super::error::Error;
use super::inventory::NodeNetwork;
use super::inventory::pods::pods;
use super::manifest::{InstallLock, Manifest};
use super::output::Output;
use report::Report;
use simple_ebpf_cni::config::DEFAULT_DATA_DIR;
use simple_ebpf_cni::naming;

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<(), Error> {
    let options = &options.clone().absolute()?;
    let data_dir = options.data_dir.as_deref().unwrap_or(Path::new(DEFAULT_DATA_DIR));
    let had_data_dir = data_dir.exists();
    let _lock = if options.dry_run { None } else { Some(InstallLock::acquire(data_dir)?) };
    let mut manifest = Manifest::read(data_dir)?;
    let (networks, mut others) = options.networks(&manifest)?;
    let dirs = options.dirs(&manifest);
    let host = Socket::open()?;
    if !options.force {
        check_no_pods(&networks, &host.links()?)?;
    }
    let mut report = Report { dry_run: options.dry_run, ..Report::default() };
    if !options.dry_run {
        remember_leases(&networks, data_dir, &mut manifest)?;
    }
    // Configurations are removed first, so that no runtime starts an ADD of a network that is being
    // removed.
    // The agent may have replaced a file of `install`, which is no changed file then.
    report.remove_agent_configurations(&dirs, options)?;
    report.remove_configurations(&mut manifest, options)?;
    others.extend(report.remaining_networks(&dirs, &manifest, options)?);
    if options.purge {
        for network in &networks {
            let result = report.purge(network, &host, options.force);
            report.record(&network.name, result);
            report.purge_remembered(network, &mut manifest)?;
        }
        // The agent has one network, and its objects do not name it.
        if options.network.is_none() {
            report.purge_agent(&host)?;
        }
        report.remove_empty(Path::new(naming::PINS));
        if report.had_masquerading {
            report.mention_forwarding();
        }
    }
    // The binary is removed last, because another run needs it after a failure.
    report.remove_binaries(&mut manifest, options, &others, &dirs)?;
    if options.purge && had_data_dir {
        if options.dry_run {
            report.plan_manifest_removal(&manifest, &networks);
        }
        report.remove_empty(data_dir);
    }
    if options.network.is_none() && others.is_empty() && !report.has_failed {
        report.remove_orphan_record();
    }
    if options.json {
        output.json(&report)?
    } else {
        report.write(output)?
    }
    Ok(report.failures.into_result()?)
}

/// Stores lease directories that only the configurations name, so that the next run finds them if
/// this run is killed.
fn remember_leases(networks: &[NodeNetwork], data_dir: &Path, manifest: &mut Manifest) -> Result<(), Error> {
    for network in networks {
        let dir = network.store.dir().parent().filter(|dir| *dir != data_dir && network.store.dir().exists());
        let is_new = !manifest.leases().contains_key(&network.name);
        if let Some(dir) = dir.filter(|_| is_new) {
            manifest.remember_leases(&network.name, dir)?;
        }
    }
    Ok(())
}

fn check_no_pods(networks: &[NodeNetwork], links: &[Link]) -> Result<(), Error> {
    let mut attached = 0;
    for network in networks {
        attached += pods(network, links)?.iter().filter(|pod| pod.host_interface.is_some()).count();
    }
    if attached == 0 { Ok(()) } else { Err(Error::Attached { pods: attached }) }
}
