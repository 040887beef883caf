//! A result that parses in one version serializes to every version that can represent it, and that
//! JSON survives a second round trip unchanged.

use cnikit::spec::{AddResult, Version};

pub(crate) fn run(input: &[u8]) {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(input) else { return };
    for version in Version::ALL {
        let Ok(result) = AddResult::from_json(&json, version) else { continue };
        for target in Version::ALL {
            let Ok(written) = result.to_json(target) else { continue };
            let written = serde_json::from_str(&written).expect("to_json writes JSON");
            let again = AddResult::from_json(&written, target).expect("written JSON parses");
            let twice = again.to_json(target).expect("parsed JSON serializes");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&twice).expect("JSON"), written);
        }
    }
}
