//! What tests of the commands for people share.

use std::fs;
use std::path::PathBuf;

use cnikit_testbed::{Command, Output};
use serde_json::{Value, json};

use crate::support::{NAME, Network};

/// The binary under test, as a person calls it.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_simple-ebpf-cni");

/// The binary with these arguments, run by a person.
#[track_caller]
pub(crate) fn command(line: &str) -> Output {
    Command::new(BINARY).env_clear().words(line).output()
}

/// What it shows when all goes well.
#[track_caller]
pub(crate) fn shown(line: &str) -> String {
    let output = command(line);
    assert!(output.status.success(), "{output:#?}");
    assert_eq!(output.stderr, "");
    output.stdout
}

/// What it says when it does nothing.
#[track_caller]
pub(crate) fn refused(status: i32, line: &str) -> String {
    let output = command(line);
    assert_eq!((output.status.code(), output.stdout.as_str()), (Some(status), ""), "{output:#?}");
    output.stderr
}

/// The network's configuration in a file, as one plugin of a list.
pub(crate) fn conflist(network: &Network) -> PathBuf {
    conflist_of(network, &network.config)
}

/// Another configuration of the network in a file, as one plugin of a list.
pub(crate) fn conflist_of(network: &Network, config: &Value) -> PathBuf {
    let file = network.host.scratch().join("10-blackbox.conflist");
    let mut ours = config.clone();
    ours.as_object_mut().expect("an object").retain(|key, _| key != "cniVersion" && key != "name");
    let list = json!({ "cniVersion": "1.0.0", "name": NAME, "plugins": [{ "type": "tuning" }, ours] });
    fs::write(&file, list.to_string()).expect("room");
    file
}

/// The cells of a table, header first.
pub(crate) fn cells(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect()).collect()
}

/// What it shows as JSON when all goes well.
#[track_caller]
pub(crate) fn json_of(line: &str) -> Value {
    serde_json::from_str(&shown(line)).expect("JSON")
}
