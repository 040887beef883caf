//! A result that can be read can be written in its version, and then reads as the same.

use cnikit::spec::{AddResult, Version};

pub(crate) fn run(input: &[u8]) {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(input) else { return };
    for version in Version::ALL {
        let Ok(result) = AddResult::from_json(&json, version) else { continue };
        for target in Version::ALL {
            let Ok(written) = result.to_json(target) else { continue };
            let written = serde_json::from_str(&written).expect("what is written is JSON");
            let again = AddResult::from_json(&written, target).expect("what is written can be read");
            let twice = again.to_json(target).expect("what was read can be written");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&twice).expect("JSON"), written);
        }
    }
}
