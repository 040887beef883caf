//! The DaemonSet's containers as its manifest describes them, run by containerd, and a pod with the
//! files that they installed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cnikit_testbed::{Command, Host, Namespace, host, privileged, tool};
use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::containerd::Containerd;
use crate::image::{archive, tiny};
use crate::manifests;
use crate::network::Attached as _;
use crate::processes::PATIENCE;

const IMAGE: &str = "docker.io/library/simple-ebpf-cni:test";
const NODE: &str = "node-1";

/// The entry point of the image. `ctr` needs it if there are arguments.
pub(crate) const ENTRYPOINT: &str = "/simple-ebpf-cni";

#[test]
fn the_init_container_installs_the_plugin_and_a_pod_gets_its_network() {
    if !privileged() || !["containerd", "ctr", "runc", "busybox"].into_iter().all(tool) {
        return;
    }
    host(|host| {
        for line in ["link cbr0 ", "address cbr0 ", "route 10.244.1.0/24 ", "pin /sys/fs/bpf/simple-ebpf-cni/"] {
            host.keep(line);
        }
        for file in ["installed.json", "podnet/lock", "podnet/last"] {
            host.keep(&format!("file /var/lib/cni/simple-ebpf-cni/{file}"));
        }
        // The paths of the manifest are a node's. Only this host sees the new files.
        for folder in ["/opt/cni/bin", "/etc/cni/net.d"] {
            host.empty_dir(folder);
        }
        // The options that the manifest requests from the kubelet.
        fs::create_dir("/var/lib/cni/simple-ebpf-cni").expect("the host has it empty");
        let containerd = Containerd::start(host);
        containerd.import("default", &image(host));
        containerd.import("default", &tiny(host));

        let pod = manifests::pod();
        let [install] = pod.init_containers.as_deref().expect("an init container") else { panic!("more than one") };
        run(&containerd, &pod, install, &node_files(host)).run();

        let installed = Path::new("/opt/cni/bin/simple-ebpf-cni");
        assert_eq!(fs::read(installed).expect("the plugin"), fs::read(plugin()).expect("the build"));
        assert_eq!(fs::metadata(installed).expect("the plugin").permissions().mode() & 0o777, 0o755);
        // The link leads to the binary on the node, too.
        let loopback = installed.with_file_name("loopback");
        assert_eq!(fs::canonicalize(loopback).expect("a link"), fs::canonicalize(installed).expect("the plugin"));
        // The file of the node has `portmap`, and the node does not.
        let list = fs::read("/etc/cni/net.d/10-podnet.conflist").expect("the list");
        let list: serde_json::Value = serde_json::from_slice(&list).expect("JSON");
        let types: Vec<_> = list["plugins"].as_array().expect("a list").iter().map(|plugin| &plugin["type"]).collect();
        assert_eq!(types, ["simple-ebpf-cni"]);
        let one = containerd.run("one");
        assert!(one.address().starts_with("10.244.1."), "{}", one.address());
        one.remove();
    });
}

#[test]
fn the_main_container_runs_until_a_signal() {
    if !privileged() {
        return;
    }
    host(|host| {
        let pod = manifests::pod();
        let [main] = &pod.containers[..] else { panic!("more than one container") };
        let mut waiting = host.command(plugin()).args(main.args.iter().flatten()).spawn();
        // The status shows that the container did not end by itself.
        std::thread::sleep(Duration::from_millis(300));
        host.command("kill").args(["-TERM", &waiting.pid().to_string()]).run();
        let status = waiting.wait(PATIENCE);
        assert_eq!(status.signal(), Some(15), "{status}");
    });
}

/// The plugin for the image: the binary of a release if `SIMPLE_EBPF_CNI_BINARY` names it.
pub(crate) fn plugin() -> PathBuf {
    std::env::var_os("SIMPLE_EBPF_CNI_BINARY").map_or(env!("CARGO_BIN_EXE_simple-ebpf-cni").into(), PathBuf::from)
}

/// The paths of its libraries. A release needs none.
pub(crate) fn libraries(host: &Host) -> Vec<String> {
    let needed = host.command("ldd").arg(plugin()).output().stdout;
    needed.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}

/// The image of `deploy/Dockerfile` with the libraries of a test build. The module
/// [`dockerfile`](crate::dockerfile) builds the real image.
fn image(host: &Host) -> PathBuf {
    archive(host, IMAGE, &[ENTRYPOINT], |layer| {
        fs::copy(plugin(), layer.join("simple-ebpf-cni")).expect("the plugin is copied");
        for library in libraries(host) {
            let inside = layer.join(library.trim_start_matches('/'));
            fs::create_dir_all(inside.parent().expect("a folder")).expect("the layer is writable");
            fs::copy(library, inside).expect("the library is copied");
        }
    })
}

/// The directory that the kubelet creates from the ConfigMap, with a file for the node. The file is
/// the sample of a release with two families and `portmap`, as the template writes it. The settings
/// of IPv6 are read-only in the container, and must not count.
fn node_files(host: &Host) -> PathBuf {
    let folder = host.scratch();
    let sample = manifests::folder().join("10-podnet.conflist");
    let sample = fs::read_to_string(sample).expect("the sample");
    let mut list: serde_json::Value = serde_json::from_str(&sample).expect("JSON");
    let plugins = list["plugins"].as_array_mut().expect("a list");
    plugins[0].as_object_mut().expect("an object").remove("subnet");
    plugins[0]["subnets"] = serde_json::json!(["10.244.1.0/24", "fd00:10:244:1::/64"]);
    plugins.push(serde_json::json!({ "type": "portmap", "capabilities": { "portMappings": true } }));
    fs::write(folder.join(format!("{NODE}.conflist")), list.to_string()).expect("the scratch space is writable");
    folder
}

/// Starts a container with the options of the kubelet. Every volume that is not a host path is
/// `files`.
fn run(containerd: &Containerd<'_>, pod: &PodSpec, container: &Container, files: &Path) -> Command {
    let context = container.security_context.as_ref().expect("a security context");
    let mut options = vec!["--rm".to_owned(), "--snapshotter=native".into(), "--seccomp".into()];
    options.extend(["--cgroup".into(), containerd.processes().cgroup(&container.name)]);
    options.extend((context.read_only_root_filesystem == Some(true)).then(|| "--read-only".into()));
    options.extend((pod.host_network == Some(true)).then(|| "--net-host".into()));
    let capabilities = context.capabilities.as_ref().expect("capabilities");
    assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]), "an unsupported name");
    options.extend(DEFAULT_CAPABILITIES.map(|capability| format!("--cap-drop=CAP_{capability}")));
    options.extend(capabilities.add.iter().flatten().map(|capability| format!("--cap-add=CAP_{capability}")));
    for variable in container.env.iter().flatten() {
        options.push(format!("--env={}={NODE}", variable.name));
    }
    for mount in container.volume_mounts.iter().flatten() {
        let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name).expect("a volume");
        let source = volume.host_path.as_ref().map_or(files, |path| Path::new(&path.path)).display();
        let access = if mount.read_only == Some(true) { "ro" } else { "rw" };
        options.push(format!("--mount=type=bind,src={source},dst={},options=rbind:{access}", mount.mount_path));
    }
    let arguments = container.args.iter().flatten().map(|argument| argument.replace("$(NODE_NAME)", NODE));
    containerd.ctr(&["run"]).args(options).args([IMAGE, &container.name]).arg(ENTRYPOINT).args(arguments)
}

/// The capabilities of a container without requests, as containerd grants them.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];
