//! The commands for people. A container runtime says what it wants in `CNI_COMMAND`; a person does in arguments.
//!
//! Each command has a file of its own: its options, and a function that runs it.

mod attached;
mod check;
mod doctor;
mod import;
mod install;
mod leases;
mod manifest;
mod network;
mod node;
mod output;
#[cfg(feature = "pages")]
mod pages;
mod pods;
mod remedy;
mod repair;
mod status;
mod table;
mod terminal;
mod text;
mod top;
mod trial;
mod uninstall;
mod wait;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

#[cfg(feature = "pages")]
use clap::CommandFactory as _;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, Subcommand};
use cnikit::plugin::Log;
use cnikit::{datapath, ipam, netlink, plugin, runtime, spec};
use tracing::error;

use crate::{NAME, VERSION};
use output::Output;

const STYLES: Styles =
    Styles::styled().header(AnsiColor::Green.on_default().bold()).literal(AnsiColor::Cyan.on_default().bold());

const EXIT_STATUS: &str = "\
Exit status:
  0  done
  1  it could not be done; standard error says why
  2  the command line is wrong";

/// A CNI plugin: container runtimes call it with CNI_COMMAND in the environment. These commands are for people.
#[derive(Debug, Parser)]
#[command(name = NAME, version = VERSION, styles = STYLES, max_term_width = 110, after_help = EXIT_STATUS)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Pods(pods::Options),
    Top(top::Options),
    Status(status::Options),
    Doctor(doctor::Options),
    Repair(repair::Options),
    Install(install::Options),
    Uninstall(uninstall::Options),

    /// Show who holds which address, or take over the leases of another plugin
    Leases(leases::Options),

    /// Do nothing until a signal ends it: the main container of a DaemonSet that has installed the plugin
    Wait,

    #[cfg(feature = "pages")]
    Completions(pages::Completions),
    #[cfg(feature = "pages")]
    Man(pages::Man),
}

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Leases(#[from] ipam::Error),

    #[error(transparent)]
    Network(#[from] runtime::Error),

    #[error("{} has no plugin of the type {NAME}; name a file that configures it", .path.display())]
    NotOurs { path: PathBuf },

    #[error("{} cannot be used", .path.display())]
    Config { path: PathBuf, source: spec::Error },

    #[error("{} cannot be used", .path.display())]
    NoList { path: PathBuf, source: runtime::Error },

    #[error(
        "{} gives {NAME} no ranges of its own to import into: write the ranges of the leases into it, such as \
         \"subnet\": \"10.244.1.0/24\"; leases of the plugin in \"ipam.type\" are that plugin's to keep",
        .path.display()
    )]
    NoRanges { path: PathBuf },

    #[error("{} keeps no leases of a network {network}; {}", .data_dir.display(), or_one_of(.present))]
    NoSuchNetwork { network: spec::NetworkName, data_dir: PathBuf, present: Vec<String> },

    #[error("there is no network {network} on this node; {}", or_one_of(.present))]
    UnknownNetwork { network: spec::NetworkName, present: Vec<String> },

    #[error(transparent)]
    Datapath(#[from] datapath::Error),

    #[error(transparent)]
    Netlink(#[from] netlink::Error),

    #[error(transparent)]
    Library(#[from] cnikit::Error),

    #[error(transparent)]
    Plugin(#[from] plugin::PluginError),

    #[error("cannot {operation} {}{}", .path.display(), remedy::of_file(.source))]
    File { operation: &'static str, path: PathBuf, source: io::Error },

    #[error("cannot read what was installed from {}; correct or remove the file", .path.display())]
    Manifest { path: PathBuf, source: serde_json::Error },

    #[error("another install or uninstall works on {} just now; wait until it has ended", .data_dir.display())]
    Busy { data_dir: PathBuf },

    #[error("{} is not as {NAME} wrote it, if it did; remove it, or overwrite it by --force", .path.display())]
    Foreign { path: PathBuf },

    #[error("the network {network} is configured by {} already; remove that, or add to it by --force", .path.display())]
    Configured { network: spec::NetworkName, path: PathBuf },

    #[error("{} sorts before any name there could be; remove it, or be content with a place after it by --order", .first.display())]
    NotFirst { first: PathBuf },

    #[error("{} attached, as {NAME} pods shows; remove {1} first, or leave {1} without a plugin by --force", are(*.pods), them(*.pods))]
    Attached { pods: usize },

    #[error("this process lacks {missing}: run it as root")]
    Unprivileged { missing: String },

    /// What was looked at is not well. The command has shown what, and what to do.
    #[error("{}", text::count(*.0, "problem"))]
    Problems(usize),

    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),

    #[error("cannot write to standard output")]
    Output(#[from] io::Error),

    #[error("cannot write JSON")]
    Json(#[from] serde_json::Error),
}

/// Whether it is a person who runs this program, and for more than to hear what it is.
pub(crate) fn is_cli_invocation() -> bool {
    std::env::var_os("CNI_COMMAND").is_none_or(|command| command.is_empty()) && std::env::args_os().len() > 1
}

/// Does what the arguments say.
pub(crate) fn run() -> ExitCode {
    let options = Options::parse();
    // Nobody else has set one.
    let _ = tracing::subscriber::set_global_default(Log::to_stderr(NAME));
    let mut output = Output::to_stdout();
    let done = match &options.command {
        Command::Pods(options) => pods::run(options, &mut output),
        Command::Top(options) => top::run(options, &mut output),
        Command::Status(options) => status::run(options, &mut output),
        Command::Doctor(options) => doctor::run(options, &mut output),
        Command::Repair(options) => repair::run(options, &mut output),
        Command::Install(options) => install::run(options, &mut output),
        Command::Uninstall(options) => uninstall::run(options, &mut output),
        Command::Leases(options) => leases::run(options, &mut output),
        Command::Wait => wait::run(),
        #[cfg(feature = "pages")]
        Command::Completions(options) => pages::completions(options, Options::command(), &mut output),
        #[cfg(feature = "pages")]
        Command::Man(options) => pages::man(options, Options::command()),
    };
    let written = output.flush();
    match done.and(written) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has seen enough, such as head, is no failure.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            error!("{}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with what led to it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn or_one_of(present: &[String]) -> String {
    if present.is_empty() { "there is none at all".into() } else { format!("there are {}", present.join(", ")) }
}

fn them(pods: usize) -> &'static str {
    if pods == 1 { "it" } else { "them" }
}

fn are(pods: usize) -> String {
    format!("{} {}", text::count(pods, "pod"), if pods == 1 { "is" } else { "are" })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Options::command().debug_assert();
    }
}
