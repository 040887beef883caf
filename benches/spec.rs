//! The time to parse a configuration and to format a result, in each version of the specification.
//!
//! ```sh
//! cargo bench --no-default-features --bench spec
//! ```
//!
//! Benchmarks are named `spec/<case>-<version>/<implementation>`:
//!
//! * `cnikit`: to and from its types, with validation.
//! * `serde_json`: to and from a JSON tree, without validation.

use std::hint::black_box;

use cnikit::spec::{AddResult, RawConfig, Version};
use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::{Value, json};

/// A configuration with the usual keys and the result of a previous plugin.
fn config(version: Version, result: &Value) -> String {
    json!({
        "cniVersion": version.as_str(), "name": "podnet", "type": "simple-ebpf-cni", "bridge": "cbr0", "ipMasq": true,
        "capabilities": { "portMappings": true, "ips": true },
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.1.0.0/16", "gateway": "10.1.0.1" }]] },
        "dns": { "nameservers": ["10.1.0.1"] },
        "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] },
        "prevResult": result,
    })
    .to_string()
}

/// The specification's example of each version's result.
fn golden(version: Version) -> Value {
    let path = format!("{}/tests/golden/cni/result-{}.json", env!("CARGO_MANIFEST_DIR"), version.as_str());
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn configs(criterion: &mut Criterion) {
    for version in Version::ALL {
        let text = config(version, &golden(version));
        let read = |text: &str| {
            let raw = RawConfig::parse(text).expect("a configuration");
            let config = raw.net_conf().expect("a configuration");
            assert_eq!(config.cni_version, version);
            let previous = raw.prev_result().expect("a result").expect("a result");
            assert!(!previous.ips.is_empty());
            (config, previous)
        };
        let mut group = criterion.benchmark_group(format!("spec/config-{}", version.as_str()));
        group.bench_function("cnikit", |bencher| bencher.iter(|| read(black_box(&text))));
        group.bench_function("serde_json", |bencher| {
            bencher.iter(|| serde_json::from_str::<Value>(black_box(&text)).expect("JSON"));
        });
        group.finish();
    }
}

fn results(criterion: &mut Criterion) {
    for version in Version::ALL {
        let tree = golden(version);
        let result = AddResult::from_json(&tree, version).expect("a result");
        let written: Value = serde_json::from_str(&result.to_json(version).expect("JSON")).expect("JSON");
        assert_eq!(written["cniVersion"], version.as_str());
        let mut group = criterion.benchmark_group(format!("spec/result-{}", version.as_str()));
        group.bench_function("cnikit", |bencher| bencher.iter(|| black_box(&result).to_json(version).expect("JSON")));
        group.bench_function("serde_json", |bencher| bencher.iter(|| black_box(&tree).to_string()));
        group.finish();
    }
}

criterion_group!(benches, configs, results);
criterion_main!(benches);
