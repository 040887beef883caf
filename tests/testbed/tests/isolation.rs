//! The guarantees of the testbed: a test sees nothing of the machine, and leaves nothing on it.

use std::fs;
use std::time::Duration;

use cnikit_testbed::{Command, Footprint, Namespace, eventually, host, patience, privileged};

#[test]
fn host_starts_with_lo_and_empty_folders() {
    host(|host| {
        let links = host.links();
        assert_eq!(links.len(), 1, "{links:?}");
        assert_eq!(links[0]["ifname"], "lo");
        assert!(links[0]["flags"].as_array().unwrap().iter().any(|flag| flag == "UP"));
        let named: Vec<_> = fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(named, ["lo"]);
        assert!(host.footprint().is_empty(), "{}", host.footprint());
    });
}

#[test]
fn missing_folder_is_created_only_on_the_host() {
    let path = "/opt/testbed-of-no-machine/bin";
    host(|host| {
        host.empty_dir(path);
        fs::write(format!("{path}/file"), "text").unwrap();
        assert_eq!(host.command("cat").arg(format!("{path}/file")).run(), "text");
    });
    assert!(!fs::exists(path).unwrap());
}

#[test]
fn pod_has_its_own_namespace() {
    host(|host| {
        let (one, two) = (host.pod(), host.pod());
        host.ip("link add veth0 type veth peer name eth0");
        host.ip(&format!("link set eth0 netns {}", one.netns().display()));
        assert!(one.link("eth0").is_some());
        assert!(two.link("eth0").is_none());
        let seen = one.enter(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        assert!(seen.contains("eth0:"), "{seen}");
        drop(one);
        // The kernel destroys a namespace in the background.
        eventually("the end of the pair", Duration::from_secs(5), || host.link("veth0").is_none());
    });
}

#[test]
fn footprint_lists_added_and_removed_lines() {
    host(|host| {
        let before = host.footprint();
        fs::write("/var/lib/cni/lease", "10.0.0.2\n").unwrap();
        let lines: Vec<String> = host.footprint().beyond(&before, &[]).lines().map(str::to_owned).collect();
        assert_eq!(lines, ["file /var/lib/cni/lease 10.0.0.2"]);
        fs::remove_file("/var/lib/cni/lease").unwrap();
        host.footprint().assert_unchanged(&before, "nothing");
        let pod = host.pod();
        assert_eq!(Footprint::of_network(&pod), Footprint::default());
    });
}

#[test]
fn leftover_link_fails_the_test() {
    if !privileged() {
        return;
    }
    let left = std::panic::catch_unwind(|| host(|host| drop(host.ip("link add left0 type bridge"))));
    let message = *left.expect_err("the test must fail").downcast::<String>().unwrap();
    assert!(message.contains("link left0 "), "{message}");
    host(|host| {
        host.keep("link left0 ");
        host.ip("link add left0 type bridge");
    });
}

#[test]
fn process_is_killed_after_its_timeout() {
    let limit = Duration::from_millis(50);
    let late = std::panic::catch_unwind(|| Command::new("sleep").arg("60").limit(limit).output());
    let message = *late.expect_err("the test must fail").downcast::<String>().unwrap();
    assert!(message.contains(&format!("did not end within {:?}", patience(limit))), "{message}");
}
