//! `completions` and `man`: files for packages of the plugin.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use super::error::Error;
use super::output::Output;
use crate::NAME;

/// Write completions for a shell to standard output.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell, such as bash, zsh or fish
    shell: Shell,
}

/// Write a manual page for each command into a directory.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// An existing directory
    dir: PathBuf,
}

pub(crate) fn completions(options: &Completions, mut command: clap::Command, output: &mut Output) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, NAME, &mut script);
    Ok(output.raw().write_all(&script)?)
}

pub(crate) fn man(options: &Man, command: clap::Command) -> Result<(), Error> {
    let written = clap_mangen::generate_to(command, &options.dir);
    written.map_err(|source| Error::File { operation: "write manual pages to", path: options.dir.clone(), source })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap_complete::Shell;

    use crate::NAME;
    use crate::cli::Options;

    #[test]
    fn every_command_is_completed_and_has_a_page() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Options::command(), NAME, &mut script);
            let script = String::from_utf8(script).expect("UTF-8");
            for command in ["pods", "top", "status", "doctor", "install", "uninstall", "leases"] {
                assert!(script.contains(command), "{shell}: {command}");
            }
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(Options::command()).render(&mut page).expect("a write to memory");
        let page = String::from_utf8(page).expect("UTF-8");
        assert!(page.contains("simple\\-ebpf\\-cni\\-doctor(1)"), "{page}");
    }
}
