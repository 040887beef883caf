//! VERSION, a call without CNI_COMMAND, and the spec versions.

use serde_json::json;

use crate::support::{config, on_host, plugin};

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[test]
fn version_lists_the_supported_versions() {
    for version in VERSIONS {
        let result = plugin().invocation("VERSION").config(&json!({ "cniVersion": version })).run().result();
        assert_eq!(result["cniVersion"], version);
        let supported = result["supportedVersions"].as_array().expect("a list");
        for version in VERSIONS {
            assert!(supported.contains(&json!(version)), "{version} is not in {result}");
        }
    }
}

#[test]
fn version_answers_an_unsupported_version() {
    let result = plugin().invocation("VERSION").config(&json!({ "cniVersion": "9.9.9" })).run().result();
    assert!(result["supportedVersions"].is_array(), "{result}");
}

#[test]
fn a_call_without_a_command_describes_the_plugin() {
    for call in [plugin().invocation("").without("CNI_COMMAND"), plugin().invocation("")] {
        let outcome = call.run();
        let text = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.status.success(), "{outcome:?}");
        for word in ["simple-ebpf-cni", env!("CARGO_PKG_VERSION"), "1.1.0"] {
            assert!(text.contains(word), "{word} is not in {text:?}");
        }
    }
}

#[test]
fn an_unsupported_spec_version_is_an_error() {
    for version in ["0.1.0", "0.2.0", "2.0.0"] {
        let mut config = config();
        config["cniVersion"] = version.into();
        on_host(|network| {
            let pod = network.host.pod();
            let message = network.plugin.on("ADD", &config, "one", &pod).run().error(1);
            assert!(message.contains(version), "{message}");
        });
    }
}

#[test]
fn check_exists_from_0_4_0_on() {
    on_host(|network| {
        let one = network.attach("one");
        let config = network.with("cniVersion", "0.3.1");
        let _ = network.plugin.on("CHECK", &config, "one", &one.pod).run().error(1);
        network.detach(&one);
    });
}

#[test]
fn errors_have_the_version_of_the_configuration() {
    on_host(|network| {
        for version in VERSIONS {
            let pod = network.host.pod();
            let mut config = network.with("subnet", "10.99.0.0/32");
            config["cniVersion"] = version.into();
            let outcome = network.plugin.on("ADD", &config, "one", &pod).run();
            assert_eq!(outcome.json["cniVersion"], version);
            let _ = outcome.error(7);
        }
    });
}
