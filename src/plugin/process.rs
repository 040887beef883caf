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
/// writes to standard output.
///
/// Standard error is free for the plugin: a [`Log`] writes warnings and errors there, unless the
/// program has set another subscriber. From this call on, standard output is redirected to standard
/// error. A forgotten `println!`, or a program that the plugin runs, therefore cannot corrupt the
/// document. Such a program cannot keep the caller waiting for the end of standard output either.
///
/// A panic becomes an error document, unless the program is built with `panic = "abort"`.
pub fn run(plugin: &impl Plugin) -> ExitCode {
    // Keep a subscriber that the program has set.
    let _ = tracing::subscriber::set_global_default(Log::to_stderr(plugin.info().name));
    match serve(plugin) {
        Ok(exit_code) => ExitCode::from(exit_code),
        Err(error) => {
            // After a partial document, a second one would be unreadable.
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(plugin: &impl Plugin) -> Result<u8, PluginError> {
    let mut writer = take_stdout().context("duplicate standard output")?;
    // A terminal has no configuration. Reading nothing lets a user try `CNI_COMMAND=VERSION` by
    // hand.
    let stdin = io::stdin();
    let stdin: &mut dyn Read = if stdin.is_terminal() { &mut io::empty() } else { &mut stdin.lock() };
    dispatch_to(&mut writer, plugin, &|name| std::env::var_os(name), stdin)
}

/// Moves standard output to a private descriptor, and replaces it by standard error.
///
/// Permanently: the buffer of `print!` is written when the process ends, and a thread may outlive
/// its verb.
fn take_stdout() -> io::Result<File> {
    // Not a descriptor of a standard stream.
    let writer = fcntl_dupfd_cloexec(io::stdout(), 3)?;
    dup2_stdout(io::stderr())?;
    Ok(writer.into())
}
