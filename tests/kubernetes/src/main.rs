//! A real Kubernetes cluster in private namespaces of this machine, with the plugin as its network.
//!
//! Each node has its own network, mounts, processes, host name and control groups, a containerd, a
//! kubelet and a kube-proxy. The first node also has the control plane. A network namespace outside
//! of the cluster connects the nodes and is their default gateway. Nothing of the machine's own
//! network, mounts and settings changes. `make cluster` and `make test-kubernetes` run this
//! program.
//!
//! | module | content |
//! |---|---|
//! | [`cluster`], [`deploy`] | start and stop; the installation of the plugin |
//! | [`suite`], [`cases`] | the tests, and the clusters on which they run |
//! | [`node`], [`cgroups`], [`modules`] | namespaces, mounts, control groups, kernel modules |
//! | [`daemons`], [`credentials`], [`images`] | what runs on a node |
//! | [`kubectl`] | the client of the API |
//! | [`diagnosis`] | the report of a failure |
//! | [`machine`] | the state of the machine, before and after |
//! | [`layout`], [`settings`], [`process`], [`output`] | files, options, programs, messages |

mod cases;
mod cgroups;
mod cluster;
mod credentials;
mod daemons;
mod deploy;
mod diagnosis;
mod images;
mod kubectl;
mod layout;
mod machine;
mod modules;
mod node;
mod output;
mod process;
mod settings;
mod suite;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};

use crate::cluster::{Cluster, down};
use crate::kubectl::Kubectl;
use crate::layout::Layout;
use crate::node::{Node, World, init};
use crate::output::{line, step};
use crate::process::{catch_signals, ignore_signals, was_interrupted};
use crate::settings::Settings;

/// A real Kubernetes cluster in private namespaces of this machine
#[derive(Debug, Parser)]
#[command(name = "cluster", max_term_width = 100)]
struct Options {
    /// Folder of programs, images and state
    #[arg(long, value_name = "DIR", default_value = "target/kubernetes", global = true)]
    dir: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster, and install the plugin on its nodes
    Up {
        #[command(flatten)]
        settings: Settings,
        /// Binary of the plugin; without it the nodes have no network and are not ready
        #[arg(long, value_name = "FILE")]
        plugin: Option<PathBuf>,
    },
    /// Stop the cluster, and delete everything of it
    Down,
    /// Call kubectl for the cluster
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a command on a node, as root
    On {
        /// Number of the node; 0 is the world outside
        node: u8,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    Test(suite::Options),
    /// Kill all processes of a node at once, and boot it again
    Reboot {
        /// Number of the node
        node: u8,
    },
    #[command(hide = true)]
    HoldNode(init::Options),
    #[command(hide = true)]
    HoldWorld,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    match &options.command {
        Command::Up { settings, plugin } => up(&as_root(&options.dir)?, settings, plugin.as_ref()),
        Command::Down => {
            catch_signals()?;
            ignore_signals();
            report_down(&as_root(&options.dir)?)
        }
        Command::Kubectl { arguments } => replace(Kubectl::new(&as_root(&options.dir)?).command()?.args(arguments)),
        Command::On { node, command } => {
            let layout = as_root(&options.dir)?;
            let mut process = match node {
                0 => World::new(&layout).command(&command[0])?,
                number => Node::new(&layout, *number).command(&command[0])?,
            };
            replace(process.args(&command[1..]))
        }
        Command::Reboot { node } => {
            let cluster = Cluster::running(&as_root(&options.dir)?)?;
            cluster.reboot(&cluster.node(*node))
        }
        Command::Test(test) if test.list => suite::list(test),
        Command::Test(test) => suite::run(&as_root(&options.dir)?, test),
        Command::HoldNode(options) => init::run_node(options),
        Command::HoldWorld => init::run_world(),
    }
}

/// The files of the cluster, for a command that needs root.
fn as_root(dir: &Path) -> Result<Layout> {
    if !rustix::process::geteuid().is_root() {
        bail!("namespaces need root: run this as root or with sudo");
    }
    Layout::new(dir)
}

/// Starts a cluster. After an error or a signal, nothing of it is left.
fn up(layout: &Layout, settings: &Settings, plugin: Option<&PathBuf>) -> Result<()> {
    catch_signals()?;
    let started = Instant::now();
    let cluster = Cluster::claim(layout, settings)?;
    step(&format!("Starting a cluster: {}", settings.summary()));
    let result = cluster.start(&step).and_then(|()| {
        let Some(plugin) = plugin else { return Ok(()) };
        step("Installing the plugin by deploy/");
        cluster.deploy(plugin)
    });
    if let Err(error) = result {
        if !was_interrupted() {
            eprintln!("{}", cluster.diagnosis());
        }
        ignore_signals();
        eprintln!("cluster: {error:#}");
        if let Ok(logs) = cluster.keep_logs() {
            eprintln!("cluster: the logs of the daemons are in {}", logs.display());
        }
        report_down(layout)?;
        bail!("the cluster did not start, and nothing of it is left");
    }
    step(&format!("The cluster runs ({} s). To use it:", started.elapsed().as_secs()));
    let kubectl = layout.kubectl();
    line(&format!("  {} get pods --all-namespaces --output wide", kubectl.display()));
    line(&format!("  {} run web --image {} -- netexec", kubectl.display(), images::AGNHOST_IMAGE));
    line("  make cluster-down");
    Ok(())
}

fn report_down(layout: &Layout) -> Result<()> {
    if !layout.state().exists() {
        step("No cluster runs");
        return Ok(());
    }
    let changes = down(layout)?;
    if changes.is_empty() {
        step("The cluster is gone. Links, routes, mounts, sysctls and control groups of this machine are as before");
    } else {
        step(
            "The cluster is gone. The following of this machine has changed since the start, perhaps by other programs:",
        );
        changes.iter().for_each(|change| line(&format!("  {change}")));
    }
    Ok(())
}

/// Becomes another program.
fn replace(command: &mut Process) -> Result<()> {
    Err(command.exec()).with_context(|| format!("cannot run {}", command.get_program().display()))
}
