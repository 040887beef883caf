//! Shared functions of the tests of commands.

use std::fs;
use std::path::PathBuf;

use cnikit_testbed::{Command, Output};
use serde_json::{Value, json};

use crate::support::{NAME, Network};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_simple-ebpf-cni");

/// Runs the binary with these arguments and an empty environment.
#[track_caller]
pub(crate) fn command(line: &str) -> Output {
    Command::new(BINARY).env_clear().words(line).output()
}

/// The standard output of a successful command.
#[track_caller]
pub(crate) fn shown(line: &str) -> String {
    let output = command(line);
    assert!(output.status.success(), "{output:#?}");
    assert_eq!(output.stderr, "");
    output.stdout
}

/// The standard error of a command that fails without output.
#[track_caller]
pub(crate) fn refused(status: i32, line: &str) -> String {
    let output = command(line);
    assert_eq!((output.status.code(), output.stdout.as_str()), (Some(status), ""), "{output:#?}");
    output.stderr
}

/// Writes the network's configuration to a file, as one plugin of a list.
pub(crate) fn conflist(network: &Network) -> PathBuf {
    conflist_of(network, &network.config)
}

/// Writes another configuration of the network to a file, as one plugin of a list.
pub(crate) fn conflist_of(network: &Network, config: &Value) -> PathBuf {
    let file = network.host.scratch().join("10-blackbox.conflist");
    let mut ours = config.clone();
    ours.as_object_mut().expect("an object").retain(|key, _| key != "cniVersion" && key != "name");
    let list = json!({ "cniVersion": "1.0.0", "name": NAME, "plugins": [{ "type": "tuning" }, ours] });
    fs::write(&file, list.to_string()).expect("room");
    file
}

/// The cells of a table, starting with the header.
pub(crate) fn cells(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect()).collect()
}

/// The JSON output of a successful command.
#[track_caller]
pub(crate) fn json_of(line: &str) -> Value {
    serde_json::from_str(&shown(line)).expect("JSON")
}
