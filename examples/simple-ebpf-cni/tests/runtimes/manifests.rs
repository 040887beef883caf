//! The manifests in `deploy/`, compared with the types of the Kubernetes API.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Deserialize as _;
use serde_json::{Value, json};

#[test]
fn the_daemonset_has_no_unknown_field() {
    let written = yaml(&folder().join("daemonset.yaml"));
    let typed = serde_json::to_value(daemonset()).expect("the API's types are JSON");
    // The decoder ignores unknown fields, so they are missing in the encoded form.
    assert_eq!(typed, written);
}

#[test]
fn the_daemonset_is_consistent() {
    let spec = daemonset().spec.expect("a spec");
    let labels = spec.template.metadata.and_then(|metadata| metadata.labels).expect("labels");
    let selector = spec.selector.match_labels.expect("a selector");
    assert!(!selector.is_empty());
    assert!(selector.iter().all(|(key, value)| labels.get(key) == Some(value)), "{selector:?} of {labels:?}");

    let pod = spec.template.spec.expect("a pod");
    let volumes: BTreeSet<_> = pod.volumes.iter().flatten().map(|volume| volume.name.clone()).collect();
    let mounted: BTreeSet<_> = containers(&pod)
        .flat_map(|container| container.volume_mounts.iter().flatten().map(|mount| mount.name.clone()))
        .collect();
    assert_eq!(volumes, mounted);
}

#[test]
fn the_privileges_are_minimal() {
    let pod = pod();
    assert_ne!(pod.host_pid, Some(true));
    assert_eq!(pod.automount_service_account_token, Some(false));
    for container in containers(&pod) {
        let name = &container.name;
        let context = container.security_context.as_ref().expect("a security context");
        assert_ne!(context.privileged, Some(true), "{name}");
        assert_eq!(context.allow_privilege_escalation, Some(false), "{name}");
        assert_eq!(context.read_only_root_filesystem, Some(true), "{name}");
        let capabilities = context.capabilities.as_ref().expect("capabilities");
        assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]), "{name}");
        // README.md lists the privileges of an ADD. The main container runs no ADD.
        let added: BTreeSet<_> = capabilities.add.iter().flatten().map(String::as_str).collect();
        let needed: &[&str] = if name == "install" { &["BPF", "NET_ADMIN", "SYS_ADMIN"] } else { &[] };
        assert_eq!(added, needed.iter().copied().collect(), "{name}");
    }
}

#[test]
fn the_kustomization_names_existing_files() {
    let kustomization = yaml(&folder().join("kustomization.yaml"));
    for resource in kustomization["resources"].as_array().expect("resources") {
        assert!(folder().join(resource.as_str().expect("a path")).is_file(), "{resource}");
    }
    let image = kustomization["images"][0]["name"].as_str();
    assert!(containers(&pod()).all(|container| container.image.as_deref() == image), "{image:?}");
}

#[test]
fn the_one_file_has_no_unknown_field() {
    for written in documents(&folder().join("simple-ebpf-cni.yaml")) {
        assert_eq!(typed(&written), written);
    }
}

/// Without kubectl: the kustomization changes nothing but the images.
#[test]
fn the_one_file_is_made_from_its_source() {
    let source = folder().join("agent");
    let kustomization = yaml(&source.join("kustomization.yaml"));
    let keys: BTreeSet<_> = kustomization.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(keys, ["apiVersion", "images", "kind", "resources"].into(), "this test knows no other key");
    let resources = kustomization["resources"].as_array().expect("resources").iter();
    let mut expected: Vec<_> =
        resources.flat_map(|resource| documents(&source.join(resource.as_str().expect("a path")))).collect();
    let [image] = &kustomization["images"].as_array().expect("images")[..] else { panic!("more than one image") };
    let text = |key: &str| image[key].as_str().expect("a text");
    let renamed = format!("{}:{}", text("newName"), text("newTag"));
    let mut changed = 0;
    for pod in expected.iter_mut().filter_map(|document| document.pointer_mut("/spec/template/spec")) {
        for list in ["initContainers", "containers"] {
            for container in pod[list].as_array_mut().expect("containers") {
                assert_eq!(container["image"], image["name"]);
                container["image"] = renamed.clone().into();
                changed += 1;
            }
        }
    }
    assert_eq!(changed, 2, "install and agent");
    assert_eq!(documents(&folder().join("simple-ebpf-cni.yaml")), expected, "scripts/manifest.sh writes the file");
}

#[test]
fn the_rights_of_the_agent_are_minimal() {
    let role = one_file("ClusterRole");
    let right = |group: &str, resource: &str, verbs: &[&str]| json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs });
    // SECURITY.md lists what each of them allows.
    assert_eq!(
        role["rules"],
        json!([
            right("", "nodes", &["list", "watch"]),
            right("", "nodes/status", &["patch"]),
            right("events.k8s.io", "events", &["create", "patch"]),
        ])
    );
    let (binding, account) = (one_file("ClusterRoleBinding"), one_file("ServiceAccount"));
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    assert_eq!(binding["subjects"].as_array().map(Vec::len), Some(1));
    for key in ["name", "namespace"] {
        assert_eq!(binding["subjects"][0][key], account["metadata"][key]);
    }
    assert_eq!(agent_pod().service_account_name.as_deref(), account["metadata"]["name"].as_str());
}

#[test]
fn the_privileges_of_the_agent_are_minimal() {
    let pod = agent_pod();
    assert_eq!(pod.host_network, Some(true));
    assert_ne!(pod.host_pid, Some(true));
    assert_eq!(pod.priority_class_name.as_deref(), Some("system-node-critical"));
    let profile = pod.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref());
    assert_eq!(profile.map(|profile| profile.type_.as_str()), Some("RuntimeDefault"));
    for container in containers(&pod) {
        let name = &container.name;
        let context = container.security_context.as_ref().expect("a security context");
        assert_ne!(context.privileged, Some(true), "{name}");
        assert_eq!(context.allow_privilege_escalation, Some(false), "{name}");
        assert_eq!(context.read_only_root_filesystem, Some(true), "{name}");
        let capabilities = context.capabilities.as_ref().expect("capabilities");
        assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]), "{name}");
        let added: BTreeSet<_> = capabilities.add.iter().flatten().map(String::as_str).collect();
        let needed: &[&str] = match name.as_str() {
            "install" => &["BPF", "NET_ADMIN", "SYS_ADMIN"],
            "agent" => &["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"],
            _ => panic!("no container {name} is needed"),
        };
        assert_eq!(added, needed.iter().copied().collect(), "{name}");
    }
    // With the network of the node, a probe without a host would ask the node's own address.
    let [agent] = &pod.containers[..] else { panic!("more than one container") };
    for (probe, path) in [(&agent.liveness_probe, "/healthz"), (&agent.readiness_probe, "/readyz")] {
        let http = probe.as_ref().and_then(|probe| probe.http_get.as_ref()).expect("a probe");
        assert_eq!((http.host.as_deref(), http.path.as_deref()), (Some("127.0.0.1"), Some(path)));
    }
}

#[test]
fn the_volumes_of_the_agent_are_mounted() {
    let pod = agent_pod();
    let volumes: BTreeSet<_> = pod.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    let mounts = || containers(&pod).flat_map(|container| container.volume_mounts.iter().flatten());
    let mounted: BTreeSet<_> = mounts().map(|mount| mount.name.as_str()).collect();
    assert_eq!(volumes, mounted);
    // The agent finds /proc/sys/net only by this option.
    let [agent] = &pod.containers[..] else { panic!("more than one container") };
    let command = agent.command.as_deref().expect("a command");
    let option = command.windows(2).find(|pair| pair[0] == "--sysctl-dir").map(|pair| pair[1].as_str());
    let mount = mounts().find(|mount| mount.name == "sysctl").map(|mount| mount.mount_path.as_str());
    assert!(mount.is_some() && mount == option, "{mount:?}, {option:?}");
}

/// The directory of the manifests.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

/// The pod that the DaemonSet starts on each node.
pub(crate) fn pod() -> PodSpec {
    daemonset().spec.and_then(|spec| spec.template.spec).expect("a pod")
}

fn daemonset() -> DaemonSet {
    serde_json::from_value(yaml(&folder().join("daemonset.yaml"))).expect("a DaemonSet")
}

/// The pod of the one file.
fn agent_pod() -> PodSpec {
    let daemonset: DaemonSet = serde_json::from_value(one_file("DaemonSet")).expect("a DaemonSet");
    daemonset.spec.and_then(|spec| spec.template.spec).expect("a pod")
}

/// The object of a kind in the one file.
fn one_file(kind: &str) -> Value {
    let found: Vec<_> =
        documents(&folder().join("simple-ebpf-cni.yaml")).into_iter().filter(|object| object["kind"] == kind).collect();
    let [object] = &found[..] else { panic!("{} objects of kind {kind}", found.len()) };
    object.clone()
}

/// An object after decoding and encoding. The decoder ignores unknown fields.
fn typed(object: &Value) -> Value {
    fn through<T: serde::de::DeserializeOwned + serde::Serialize>(object: &Value) -> Value {
        let decoded: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
        serde_json::to_value(decoded).expect("the API's types are JSON")
    }
    match object["kind"].as_str() {
        Some("ServiceAccount") => through::<ServiceAccount>(object),
        Some("ClusterRole") => through::<ClusterRole>(object),
        Some("ClusterRoleBinding") => through::<ClusterRoleBinding>(object),
        Some("ConfigMap") => through::<ConfigMap>(object),
        Some("DaemonSet") => through::<DaemonSet>(object),
        other => panic!("an object of kind {other:?}"),
    }
}

fn containers(pod: &PodSpec) -> impl Iterator<Item = &Container> {
    pod.init_containers.iter().flatten().chain(&pod.containers)
}

fn yaml(path: &Path) -> Value {
    let mut documents = documents(path);
    assert_eq!(documents.len(), 1, "{}", path.display());
    documents.remove(0)
}

/// The documents of a file.
fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    serde_norway::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .collect()
}
