//! The benchmark command works, and its output is complete. No time is asserted, because machines
//! differ and are busy.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const COMMAND: &str = env!("CARGO_BIN_EXE_cnikit-bench");

/// The plugin of the same build. `cargo test --workspace` builds it for its own tests.
fn plugin() -> Option<PathBuf> {
    let plugin = Path::new(COMMAND).with_file_name("simple-ebpf-cni");
    let found = plugin.exists();
    if !found {
        eprintln!("SKIP: {} was not built", plugin.display());
    }
    found.then_some(plugin)
}

/// Runs a measurement with the minimum number of rounds, and returns its figures.
fn measure(what: &str, options: &[&str]) -> Option<Vec<Value>> {
    measure_with(what, options, "results.json").map(|(figures, _)| figures)
}

/// As [`measure`], with the name of the results. Returns the printed tables, too.
fn measure_with(what: &str, options: &[&str], results: &str) -> Option<(Vec<Value>, String)> {
    if !cnikit_testbed::privileged() {
        return None;
    }
    let plugin = plugin()?;
    let folder = tempfile::tempdir().expect("a folder");
    // One rival is enough here, if it is installed.
    let peers = folder.path().join("peers");
    std::fs::create_dir(&peers).expect("a folder");
    for name in ["bridge", "host-local"] {
        std::os::unix::fs::symlink(Path::new("/usr/lib/cni").join(name), peers.join(name)).expect("a link");
    }
    let json = folder.path().join("results.json");
    let mut command = Command::new(COMMAND);
    command
        .args([what, "--quick", "--rounds", "1"])
        .args(options)
        .arg("--plugin")
        .arg(plugin)
        .arg("--peers")
        .arg(peers);
    let output = command.arg("--json").arg(&json).output().expect("the command starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(stdout.contains("| cnikit"), "no table: {output:?}");

    let results = std::fs::read(folder.path().join(results)).expect("results");
    let report: Value = serde_json::from_slice(&results).expect("JSON");
    for key in ["date", "cpu", "cpus", "kernel", "load", "versions"] {
        assert!(!report["machine"][key].is_null(), "{key} is missing");
    }
    let figures = report["figures"].as_array().expect("figures").clone();
    for figure in &figures {
        let [min, p50, p90, p99, max] = ["min", "p50", "p90", "p99", "max"].map(|key| figure[key].as_f64());
        assert!(min.is_some() && min <= p50 && p50 <= p90 && p90 <= p99 && p99 <= max, "{figure}");
    }
    Some((figures, stdout))
}

/// Checks that a figure of this plugin exists and is greater than zero.
#[track_caller]
fn assert_measured(figures: &[Value], measure: &str, case: &str, load: u64) {
    let is_it = |figure: &&Value| {
        figure["measure"] == measure
            && figure["case"] == case
            && figure["load"] == load
            && figure["implementation"] == "cnikit"
    };
    let figure = figures.iter().find(is_it).unwrap_or_else(|| panic!("no {measure}, {case}, {load} in {figures:#?}"));
    assert!(figure["p50"].as_f64() > Some(0.0), "{figure}");
}

#[test]
fn commands_are_measured() {
    let Some(figures) = measure("add", &["--pods", "2"]) else { return };
    for case in ["IPv4", "IPv4, disk", "dual stack", "IPv4, masquerade", "IPv4, masquerade, nftables"] {
        for verb in ["ADD", "CHECK", "DEL"] {
            assert_measured(&figures, verb, case, 2);
        }
    }
    for width in [1, 4, 16] {
        assert_measured(&figures, "ADD rate", "IPv4", width);
        assert_measured(&figures, "DEL rate", "IPv4", width);
    }
    for measure in ["memory, ADD", "CPU, ADD", "CPU, DEL", "first ADD"] {
        assert_measured(&figures, measure, "IPv4", 0);
    }
    assert!(figures.iter().any(|figure| figure["measure"] == "ADD" && figure["implementation"] == "floor"));
}

#[test]
fn invalid_option_ends_with_status_2() {
    let output = Command::new(COMMAND).args(["add", "--rounds", "many"]).output().expect("the command starts");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn packets_are_measured_on_each_path() {
    let Some(figures) = measure("net", &["--pods", "2", "--section", "one-node"]) else { return };
    for measure in ["TCP_RR p50", "TCP_RR p99", "TCP_STREAM", "UDP", "connections"] {
        assert_measured(&figures, measure, "IPv4", 2);
    }
    for way in ["cnikit", "cnikit, direct off", "veth pair", "loopback"] {
        assert!(figures.iter().any(|figure| figure["implementation"] == way), "{way} was not measured");
    }
}

#[test]
fn packets_to_another_node_are_measured_on_each_path() {
    let options = ["--section", "other-node"];
    let Some((figures, tables)) = measure_with("net", &options, "results-other-node.json") else { return };
    for way in ["veth pair", "cnikit, direct", "cnikit, VXLAN", "bridge, routes", "bridge, VXLAN"] {
        for measure in ["TCP_RR p50", "TCP_RR p50, one thread", "UDP_RR p50", "TCP_CRR p50", "TCP_STREAM"] {
            let is_it = |figure: &&Value| figure["measure"] == measure && figure["implementation"] == way;
            let figure = figures.iter().find(is_it).unwrap_or_else(|| panic!("no {measure} of {way}: {figures:#?}"));
            assert!(figure["p50"].as_f64() > Some(0.0), "{figure}");
        }
    }
    for goal in ["`cnikit, direct`: TCP_RR", "`cnikit, VXLAN`: TCP_RR", "`cnikit, direct`: TCP_STREAM"] {
        assert!(tables.contains(goal), "no goal {goal}: {tables}");
    }
}
