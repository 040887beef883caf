//! Arbitrary `CNI_*` variables: `Environment::read` returns a value or an error, without a panic.
//!
//! An input has up to five lines: `CNI_CONTAINERID`, `CNI_NETNS`, `CNI_IFNAME`, `CNI_PATH` and
//! `CNI_ARGS`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use cnikit::spec::{Command, Environment, KubernetesPod};

pub(crate) fn run(input: &[u8]) {
    let mut values = input.split(|byte| *byte == b'\n').map(|value| OsString::from_vec(value.to_vec()));
    let [id, netns, ifname, path, args] = std::array::from_fn(|_| values.next());
    let variable = |name: &str| match name {
        "CNI_CONTAINERID" => id.clone(),
        "CNI_NETNS" => netns.clone(),
        "CNI_IFNAME" => ifname.clone(),
        "CNI_PATH" => path.clone(),
        "CNI_ARGS" => args.clone(),
        _ => None,
    };
    if let Ok(environment) = Environment::read(Command::Add, &variable)
        && let Ok(args) = &environment.args
    {
        let _ = args.require_known(&["IP", "MAC"]);
        assert!(args.iter().all(|(key, _)| args.value(key).is_some()));
        // Tables and logs print the pod, so it must be short, printable ASCII.
        let pod = KubernetesPod::from_args(args).to_string();
        assert!(pod.len() <= 63 + 1 + 253 && pod.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(KubernetesPod::invalid_args(args).iter().all(|error| error.to_string().len() < 1024));
    }
}
