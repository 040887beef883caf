use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::process::ExitCode;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::stdio::dup2_stdout;

use super::dispatch::dispatch_to;
use super::{Context as _, Log, Plugin, PluginError};

/// Runs a plugin as a program: the last expression of its `main`.
///
/// The only function of the library that reads the process's environment and standard input, and
/// writes to standard output. Standard error is the plugin's: a [`Log`] writes warnings and errors
/// there, unless the program has set another subscriber. It gets from here on what anybody prints to
/// standard output: a `println!` that was forgotten, or a program that the plugin
/// calls, cannot spoil the document. Nor does such a program keep the caller waiting for its end.
///
/// A panic becomes an error document, unless the program is built with `panic = "abort"`.
pub fn run(plugin: &impl Plugin) -> ExitCode {
    // One that is set already is the program's choice.
    let _ = tracing::subscriber::set_global_default(Log::to_stderr(plugin.info().name));
    match serve(plugin) {
        Ok(exit_code) => ExitCode::from(exit_code),
        Err(failure) => {
            // A document after a part of one would be none.
            tracing::error!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn serve(plugin: &impl Plugin) -> Result<u8, PluginError> {
    let mut wire = take_stdout().context("take standard output")?;
    // A terminal has no configuration: a person who tries `CNI_COMMAND=VERSION` by hand gets an
    // answer.
    let stdin = io::stdin();
    let stdin: &mut dyn Read = if stdin.is_terminal() { &mut io::empty() } else { &mut stdin.lock() };
    dispatch_to(&mut wire, plugin, &|name| std::env::var_os(name), stdin)
}

/// Moves standard output to where nobody else writes, and leaves standard error in its place.
///
/// For good: what sits in the buffer of `print!` is written when the process ends, and a thread may
/// outlive its verb.
fn take_stdout() -> io::Result<File> {
    // Past the three that programs take for granted.
    let wire = fcntl_dupfd_cloexec(io::stdout(), 3)?;
    dup2_stdout(io::stderr())?;
    Ok(wire.into())
}
