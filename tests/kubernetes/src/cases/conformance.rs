//! The [sig-network] conformance tests of Kubernetes.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::bench::Bench;
use crate::output;
use crate::process::{run, tail};

/// The tests of the short form: each kind of path that the plugin has a part in.
pub(crate) const SHORT_CONFORMANCE: [&str; 10] = [
    "Granular Checks: Pods should function for intra-pod communication: http",
    "Granular Checks: Pods should function for intra-pod communication: udp",
    "Granular Checks: Pods should function for node-pod communication: http",
    "Granular Checks: Pods should function for node-pod communication: udp",
    "Services should serve a basic endpoint from pods",
    "Services should be able to change the type from ExternalName to NodePort",
    "Services should have session affinity work for service with type clusterIP",
    "Services should serve multiport endpoints from pods",
    "DNS should provide DNS for services",
    "HostPort validates that there is no conflict between pods with same hostPort",
];

/// All tests of the network that each cluster must pass.
const CONFORMANCE: &str = r"\[sig-network\].*\[Conformance\]";

/// The least number of tests that must have run, so that a focus without a match is a failure.
const LEAST: usize = 47;

/// The failures in the message. The report has all of them.
const MOST_FAILURES: usize = 5;

/// The processes that share the tests.
const PROCESSES: &str = "4";

/// The tests pass.
pub(super) fn sig_network(bench: &Bench) -> Result<()> {
    let layout = bench.cluster.layout();
    let reports = layout.reports();
    fs::create_dir_all(&reports)?;
    let (focus, least) = if bench.is_short {
        let names: Vec<_> = SHORT_CONFORMANCE.iter().map(|name| escaped(name)).collect();
        (format!(r"({}).*\[Conformance\]", names.join("|")), SHORT_CONFORMANCE.len())
    } else {
        (CONFORMANCE.to_owned(), LEAST)
    };
    let mut ginkgo = bench.cluster.node(1).command_in_network(layout.program("ginkgo"))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let kubectl = layout.program("kubectl");
    let bin = kubectl.parent().context("a folder of programs")?.display();
    ginkgo
        .env("KUBECONFIG", layout.control_plane("admin.conf"))
        .env("KUBECACHEDIR", layout.kubectl_cache())
        .env("PATH", format!("{bin}:{path}"))
        .args(["--procs", PROCESSES, "--no-color", "--silence-skips", "--timeout", "60m"])
        .args(["--focus", &focus, "--skip", r"\[Disruptive\]|\[Slow\]|\[Flaky\]|\[Serial\]"])
        .args(["--json-report", "network.json", "--output-dir"])
        .arg(&reports)
        .arg(layout.program("e2e.test"))
        .args(["--", "--provider", "skeleton", "--num-nodes", "-1", "--minStartupPods", "0", "--kubeconfig"])
        .arg(layout.control_plane("admin.conf"));
    let report = reports.join("network.json");
    // A report of an earlier run must not count as this one's.
    let _ = fs::remove_file(&report);
    let output = run(&mut ginkgo);
    let text = match (fs::read(&report), &output) {
        (Ok(text), _) => text,
        (Err(_), Err(error)) => bail!("the tests of Kubernetes did not run: {error:#}"),
        (Err(error), Ok(output)) => bail!("{}: {error}\n{}", report.display(), tail(output)),
    };
    judge(&serde_json::from_slice(&text)?, least)?;
    output.map(drop)
}

/// Fails if a test has failed, or if too few have run.
fn judge(report: &Value, least: usize) -> Result<()> {
    let specs =
        report.as_array().into_iter().flatten().flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten());
    let mut passed = 0;
    let mut failures = Vec::new();
    let mut seconds = Duration::ZERO;
    for spec in specs.filter(|spec| spec["LeafNodeType"] == "It") {
        match spec["State"].as_str() {
            Some("passed") => {
                passed += 1;
                seconds += Duration::from_nanos(spec["RunTime"].as_u64().unwrap_or_default());
            }
            Some("skipped" | "pending") => {}
            state => failures.push(format!(
                "{} {}: {}\n{}",
                state.unwrap_or("without a state:"),
                spec["LeafNodeText"],
                spec["Failure"]["Location"]["FileName"],
                tail(spec["Failure"]["Message"].as_str().unwrap_or_default()),
            )),
        }
    }
    output::note(&format!(
        "{passed} [sig-network] tests passed, {} failed ({} s of tests)",
        failures.len(),
        seconds.as_secs()
    ));
    let shown = failures.iter().take(MOST_FAILURES).map(String::as_str).collect::<Vec<_>>().join("\n\n");
    ensure!(failures.is_empty(), "{} tests failed, for example:\n{shown}", failures.len());
    ensure!(passed >= least, "only {passed} of at least {least} tests have run");
    Ok(())
}

/// A name as a regular expression.
fn escaped(name: &str) -> String {
    let special = |c: char| matches!(c, '.' | '(' | ')' | '[' | ']' | '+' | '*' | '?' | '|' | '$' | '^');
    name.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
