//! Objects of the API, as JSON.

use serde_json::{Value, json};

use crate::images::{AGNHOST_IMAGE, TOOLS_IMAGE};

/// The ports of agnhost's `netexec`.
pub(crate) const HTTP: u16 = 8080;
pub(crate) const UDP: u16 = 8081;

/// A pod with one container on a node. With a grace period of 0 seconds, the API would delete the
/// pod before the kubelet has ended it.
pub(crate) fn pod(name: &str, node: &str, container: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": { "nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [container] },
    })
}

/// The pod with another label for the selector of a service.
pub(crate) fn labeled(mut pod: Value, app: &str) -> Value {
    pod["metadata"]["labels"]["app"] = app.into();
    pod
}

/// A container that does nothing until a command is executed in it.
pub(crate) fn idle() -> Value {
    json!({ "name": "idle", "image": TOOLS_IMAGE })
}

/// A container that runs a command.
pub(crate) fn running(command: &[&str]) -> Value {
    json!({ "name": "command", "image": TOOLS_IMAGE, "command": command })
}

/// A container with a server for HTTP and UDP. It is ready when the server answers.
pub(crate) fn server() -> Value {
    json!({
        "name": "server",
        "image": AGNHOST_IMAGE,
        "args": ["netexec", format!("--http-port={HTTP}"), format!("--udp-port={UDP}")],
        "readinessProbe": { "httpGet": { "path": "/healthz", "port": HTTP }, "periodSeconds": 1 },
    })
}

/// A service for the pods with a label, with the ports of [`server`], and all address families.
pub(crate) fn service(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name },
        "spec": {
            "selector": { "app": app },
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [
                { "name": "http", "port": 80, "targetPort": HTTP, "protocol": "TCP" },
                { "name": "udp", "port": 81, "targetPort": UDP, "protocol": "UDP" },
            ],
        },
    })
}

/// The service with a change of its specification.
pub(crate) fn with_spec(mut service: Value, key: &str, value: impl Into<Value>) -> Value {
    service["spec"][key] = value.into();
    service
}

/// A deployment of pods that do nothing.
pub(crate) fn deployment(name: &str, replicas: u32, container: Value) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "terminationGracePeriodSeconds": 1, "containers": [container] },
            },
        },
    })
}
