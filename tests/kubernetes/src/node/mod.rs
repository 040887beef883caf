//! A node: a set of namespaces with a network link to the other nodes.

pub(crate) mod init;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cgroups::Cgroups;
use crate::layout::Layout;
use crate::process::{run, wait_until};
use crate::settings::{UNDERLAY_PREFIXES, WORLD, addresses, node_name};

/// The time for a process to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The plugin on a node.
pub(crate) const PLUGIN: &str = "/opt/cni/bin/simple-ebpf-cni";

/// The name of the world outside, among the holders of namespaces.
const WORLD_NAME: &str = "world";

/// The bridge of the world outside, which connects the nodes.
const UNDERLAY: &str = "underlay";

/// A node of the cluster, by its number.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    layout: Layout,
    number: u8,
}

/// The network outside of the cluster: a bridge between the nodes, and their default gateway.
#[derive(Debug, Clone)]
pub(crate) struct World {
    layout: Layout,
}

impl World {
    pub(crate) fn new(layout: &Layout) -> Self {
        Self { layout: layout.clone() }
    }

    /// Creates the network.
    pub(crate) fn start(&self) -> Result<()> {
        if holder(&self.layout, WORLD_NAME).is_some() {
            return Ok(());
        }
        let mut unshare = Command::new("setsid");
        unshare.args(["unshare", "--net", "--mount", "--propagation", "slave"]).arg(std::env::current_exe()?);
        start_holder(&self.layout, WORLD_NAME, unshare.arg("hold-world"))?;
        let mut script = format!("ip link set lo up; ip link add {UNDERLAY} type bridge; ip link set {UNDERLAY} up\n");
        for (address, prefix) in addresses(WORLD).iter().zip(UNDERLAY_PREFIXES) {
            let no_detection = if address.is_ipv6() { " nodad" } else { "" };
            script += &format!("ip address add {address}/{prefix} dev {UNDERLAY}{no_detection}\n");
        }
        script += "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1\n";
        run(self.command("sh")?.args(["-ec", &script]))?;
        Ok(())
    }

    /// A command in this network.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let pid = holder(&self.layout, WORLD_NAME).context("the cluster's network is gone: make cluster-down")?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid.to_string(), "--mount", "--net", "--"]).arg(program);
        Ok(command)
    }

    /// Deletes the network.
    pub(crate) fn stop(&self) -> Result<()> {
        kill_holder(&self.layout, WORLD_NAME)
    }
}

impl Node {
    pub(crate) fn new(layout: &Layout, number: u8) -> Self {
        Self { layout: layout.clone(), number }
    }

    /// The number, from 1.
    pub(crate) fn number(&self) -> u8 {
        self.number
    }

    /// The name in Kubernetes.
    pub(crate) fn name(&self) -> String {
        node_name(self.number)
    }

    /// Whether the node runs.
    pub(crate) fn is_up(&self) -> bool {
        holder(&self.layout, &self.name()).is_some()
    }

    /// The process that holds the namespaces.
    fn pid(&self) -> Result<Pid> {
        holder(&self.layout, &self.name()).with_context(|| format!("{} does not run", self.name()))
    }

    /// Creates the namespaces and the link to the other nodes.
    pub(crate) fn boot(&self) -> Result<()> {
        if self.is_up() {
            return Ok(());
        }
        let name = self.name();
        let cgroups = Cgroups::new(&self.layout)?;
        cgroups.create(&name)?;
        let state = self.layout.node(self.number, "");
        // Containers have their own /proc, with the boot id of the machine. The agent is one.
        let is_first = !state.exists();
        fs::create_dir_all(&state)?;
        let mut unshare = joined(&cgroups.roots(&name));
        unshare
            .args(["setsid", "unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--cgroup"])
            .args(["--fork", "--kill-child", "--propagation", "slave"])
            .arg(std::env::current_exe()?)
            .args(["hold-node", "--name", &name, "--state"])
            .arg(&state);
        if !is_first {
            let boot_id = fs::read_to_string("/proc/sys/kernel/random/uuid").context("cannot draw a boot id")?;
            unshare.args(["--boot-id", boot_id.trim()]);
        }
        let pid = start_holder(&self.layout, &name, &mut unshare)?;
        cgroups.delegate(&name)?;
        self.connect(pid)
    }

    /// Creates the link between the node and the world outside.
    fn connect(&self, pid: Pid) -> Result<()> {
        let port = format!("port{}", self.number);
        let script = format!(
            "ip link add {port} type veth peer name eth0 netns {pid}; ip link set {port} master {UNDERLAY} up\n"
        );
        run(World::new(&self.layout).command("sh")?.args(["-ec", &script]))?;
        let mut script = "ip link set lo up; ip link set eth0 up\n".to_owned();
        for ((address, gateway), prefix) in addresses(self.number).iter().zip(addresses(WORLD)).zip(UNDERLAY_PREFIXES) {
            let no_detection = if address.is_ipv6() { " nodad" } else { "" };
            script += &format!("ip address add {address}/{prefix} dev eth0{no_detection}\n");
            script += &format!("ip route add default via {gateway}\n");
        }
        // An operator of a node sets these in /etc/sysctl.d: docs/operations.md.
        script += "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1\n";
        run(self.command("sh")?.args(["-ec", &script]))?;
        Ok(())
    }

    /// A command in all namespaces and in the control groups of the node.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let pid = self.pid()?.to_string();
        let mut command = joined(&Cgroups::new(&self.layout)?.of_daemons(&self.name()));
        command.args(["nsenter", "--target", &pid, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]);
        command.arg(program);
        Ok(command)
    }

    /// A command in the network of the node, with the mounts and the folder of the caller.
    pub(crate) fn command_in_network(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid()?.to_string(), "--net", "--"]).arg(program);
        Ok(command)
    }

    /// Runs a script of the shell on the node.
    pub(crate) fn shell(&self, script: &str) -> Result<String> {
        run(self.command("sh")?.args(["-ec", script]))
    }

    /// The log of a daemon, as a path on this machine.
    pub(crate) fn log(&self, daemon: &str) -> PathBuf {
        self.layout.node(self.number, "var/log").join(daemon).with_extension("log")
    }

    /// The JSON report of a command of the plugin: `pods`.
    pub(crate) fn report(&self, command: &str) -> Result<Value> {
        let text = self.shell(&format!("{PLUGIN} {command} --json"))?;
        serde_json::from_str(&text).with_context(|| format!("{command} on {}: not JSON: {text}", self.name()))
    }

    /// Starts a daemon that does not run.
    pub(crate) fn start_daemon(&self, name: &str, command: &[String]) -> Result<()> {
        let log = self.log(name);
        let log = File::options().create(true).append(true).open(&log);
        let log = log.with_context(|| format!("cannot write the log of {name}"))?;
        let mut starter = self.command("sh")?;
        // Detached, so that it outlives this process and no signal of a terminal reaches it.
        starter
            .args([
                "-c",
                "echo $$ >\"$0\"; cd /; export TMPDIR=\"$1\"; shift; exec setsid \"$@\"",
                &pid_file(name),
                init::TMP,
            ])
            .args(command);
        starter.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = starter.spawn().with_context(|| format!("cannot start {name}"))?;
        // Reaps the process that entered the namespaces, which waits for the daemon.
        thread::spawn(move || child.wait());
        wait_until(&format!("the start of {name}"), PATIENCE, || Ok(self.runs(name)))
    }

    /// Whether a daemon runs.
    pub(crate) fn runs(&self, name: &str) -> bool {
        self.shell(&format!("kill -0 $(cat {})", pid_file(name))).is_ok()
    }

    /// Sends a signal to a daemon, and waits for its end.
    pub(crate) fn stop_daemon(&self, name: &str, signal: &str) -> Result<()> {
        self.shell(&format!("kill -{signal} $(cat {})", pid_file(name)))
            .with_context(|| format!("cannot stop {name}"))?;
        wait_until(&format!("the end of {name}"), PATIENCE, || Ok(!self.runs(name)))
    }

    /// Kills all processes of the node at once, as a power failure does.
    pub(crate) fn kill(&self) -> Result<()> {
        kill_holder(&self.layout, &self.name())?;
        Cgroups::new(&self.layout)?.remove(&self.name())
    }
}

/// The file with a daemon's process id, on the node's `/run`.
fn pid_file(daemon: &str) -> String {
    format!("{}/{daemon}.pid", init::RUN)
}

/// A command that joins control groups. The caller adds the program.
fn joined(groups: &[PathBuf]) -> Command {
    let mut command = Command::new("sh");
    let groups: Vec<_> = groups.iter().map(|group| group.display().to_string()).collect();
    let script = "for group in $0; do echo $$ >\"$group/cgroup.procs\" || exit 1; done; exec \"$@\"";
    command.args(["-c", script, &groups.join(" ")]);
    command
}

/// Starts a process that prints its id when the namespaces are ready, and records its identity.
fn start_holder(layout: &Layout, name: &str, command: &mut Command) -> Result<Pid> {
    let path = layout.holder(name);
    fs::create_dir_all(path.parent().context("a folder of holders")?)?;
    let log = path.with_extension("log");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?);
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line).with_context(|| format!("cannot read the output of {name}"))?;
    }
    let Some(pid) = line.trim().parse().ok().and_then(Pid::from_raw) else {
        // The process has ended, or ends without a reader of its output.
        let _ = child.kill();
        let _ = child.wait();
        bail!("cannot create the namespaces of {name}: {}", fs::read_to_string(&log).unwrap_or_default().trim());
    };
    thread::spawn(move || child.wait());
    let started = start_time(pid).with_context(|| format!("{name} ended at once"))?;
    fs::write(&path, format!("{pid} {started}\n"))?;
    Ok(pid)
}

/// The process that holds namespaces, if it runs.
fn holder(layout: &Layout, name: &str) -> Option<Pid> {
    let text = fs::read_to_string(layout.holder(name)).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    let pid = Pid::from_raw(pid.parse().ok()?)?;
    // A later process may have the same id.
    (start_time(pid)? == started).then_some(pid)
}

/// Kills the process that holds namespaces. The kernel then kills all processes in its PID
/// namespace.
fn kill_holder(layout: &Layout, name: &str) -> Result<()> {
    if let Some(pid) = holder(layout, name) {
        kill_process(pid, Signal::KILL).with_context(|| format!("cannot kill process {pid}, which holds {name}"))?;
        wait_until(&format!("the end of {name}"), PATIENCE, || Ok(holder(layout, name).is_none()))?;
    }
    match fs::remove_file(layout.holder(name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The start time of a process, unless it has ended. A zombie has ended.
fn start_time(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses. It may contain spaces.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18).map(str::to_owned) }
}
