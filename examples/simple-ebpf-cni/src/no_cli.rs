//! Replaces the commands in a build without the feature `cli`.

use std::process::ExitCode;

use cnikit::plugin::Log;
use cnikit::spec::Version;
use simple_ebpf_cni::naming::NAME;
use tracing::error;

/// Whether this process has arguments and no `CNI_COMMAND`. Without arguments, the library prints
/// the plugin's name and version.
pub(crate) fn is_cli_invocation() -> bool {
    std::env::var_os("CNI_COMMAND").is_none_or(|command| command.is_empty()) && std::env::args_os().len() > 1
}

/// Reports that the commands are missing.
pub(crate) fn run(_versions: &[Version]) -> ExitCode {
    // This is the only place that sets the global subscriber, so it cannot fail.
    let _ = tracing::subscriber::set_global_default(Log::to_stderr(NAME));
    error!("this build of {NAME} {} has no commands: build it with the feature \"cli\"", crate::VERSION);
    ExitCode::FAILURE
}
