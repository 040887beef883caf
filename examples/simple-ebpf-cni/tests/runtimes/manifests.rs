//! The manifests in `deploy/`, compared with the types of the Kubernetes API.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::Value;

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

fn containers(pod: &PodSpec) -> impl Iterator<Item = &Container> {
    pod.init_containers.iter().flatten().chain(&pod.containers)
}

fn yaml(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    serde_norway::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
