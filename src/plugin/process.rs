use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use super::{Plugin, dispatch};

/// Runs a plugin as a program: the last expression of its `main`.
///
/// The only function of the library that reads the process's environment and standard input, and
/// writes to standard output. Standard error is the plugin's, for logs.
pub fn run(plugin: &impl Plugin) -> ExitCode {
    // A terminal has no configuration: a person who tries `CNI_COMMAND=VERSION` by hand gets an
    // answer.
    let stdin = io::stdin();
    let stdin: &mut dyn Read = if stdin.is_terminal() { &mut io::empty() } else { &mut stdin.lock() };
    let output = dispatch(plugin, &|name| std::env::var_os(name), stdin);

    let mut stdout = io::stdout().lock();
    match stdout.write_all(&output.stdout).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::from(output.exit_code),
        // The caller has not got the result, so it may not believe in one.
        Err(error) => {
            let _ = writeln!(io::stderr(), "cannot write to standard output: {error}");
            ExitCode::FAILURE
        }
    }
}
