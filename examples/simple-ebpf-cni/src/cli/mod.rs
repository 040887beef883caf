//! The commands for administrators.
//!
//! A container runtime passes its command in `CNI_COMMAND`, an administrator in the arguments. Each
//! command has its own module, with the options and a function `run`. Modules depend on each other
//! in one direction, without a circle: `format`, `advice` and `grpc`, then `error`, `output`,
//! `agent`, `inventory`, `doctor`, and the other commands.

mod advice;
mod agent;
mod doctor;
mod error;
mod format;
mod gc;
mod grpc;
mod import;
mod install;
mod inventory;
mod leases;
mod manifest;
mod nodes;
mod optional;
mod options;
mod output;
#[cfg(feature = "pages")]
mod pages;
mod paths;
mod pods;
mod privileges;
mod raw_mode;
mod repair;
mod status;
mod table;
mod top;
mod uninstall;
mod wait;

use std::io;
use std::process::ExitCode;

#[cfg(feature = "pages")]
use clap::CommandFactory as _;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, Subcommand};
use cnikit::plugin::Log;
use cnikit::spec::Version;
use tracing::error;

use crate::{NAME, VERSION};
use error::Error;
use options::EXIT_STATUS;
use output::Output;

const STYLES: Styles =
    Styles::styled().header(AnsiColor::Green.on_default().bold()).literal(AnsiColor::Cyan.on_default().bold());

/// A CNI plugin. Container runtimes call it with CNI_COMMAND in the environment. These commands are
/// for administrators.
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
    Nodes(nodes::Options),
    Status(status::Options),
    Doctor(doctor::Options),
    Repair(repair::Options),
    Gc(gc::Options),
    Install(install::Options),
    Uninstall(uninstall::Options),

    /// Show the owner of each address, or import the leases of another plugin
    Leases(leases::Options),

    /// Sleep until a signal arrives. The main container of the DaemonSet runs this command
    Wait,

    #[cfg(feature = "pages")]
    Completions(pages::Completions),
    #[cfg(feature = "pages")]
    Man(pages::Man),
}

/// Whether this process has arguments and no `CNI_COMMAND`. Without arguments the library prints
/// the plugin's name and version.
pub(crate) fn is_cli_invocation() -> bool {
    std::env::var_os("CNI_COMMAND").is_none_or(|command| command.is_empty()) && std::env::args_os().len() > 1
}

/// Runs the command in the arguments. `versions` are the CNI versions that the plugin supports.
pub(crate) fn run(versions: &[Version]) -> ExitCode {
    let options = Options::parse();
    // This is the only place that sets the global subscriber, so it cannot fail.
    let _ = tracing::subscriber::set_global_default(Log::to_stderr(NAME));
    let mut output = Output::to_stdout();
    let result = match &options.command {
        Command::Pods(options) => pods::run(options, &mut output),
        Command::Top(options) => top::run(options, &mut output),
        Command::Nodes(options) => nodes::run(options, &mut output),
        Command::Status(options) => status::run(options, &mut output),
        Command::Doctor(options) => doctor::run(options, versions, &mut output),
        Command::Repair(options) => repair::run(options, &mut output),
        Command::Gc(options) => gc::run(options, &mut output),
        Command::Install(options) => install::run(options, versions, &mut output),
        Command::Uninstall(options) => uninstall::run(options, &mut output),
        Command::Leases(options) => leases::run(options, &mut output),
        Command::Wait => wait::run(),
        #[cfg(feature = "pages")]
        Command::Completions(options) => pages::completions(options, Options::command(), &mut output),
        #[cfg(feature = "pages")]
        Command::Man(options) => pages::man(options, Options::command()),
    };
    let flushed = output.flush();
    match result.and(flushed) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader such as head may close the pipe early. This is not an error.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_definition_is_valid() {
        super::Options::command().debug_assert();
    }
}
