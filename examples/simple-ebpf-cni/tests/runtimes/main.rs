//! Real runtimes as the callers, with the plugin installed as on a node: containerd under its own client and under the
//! interface that the kubelet speaks, and podman.

mod containerd;
mod containers;
mod cri;
mod daemonset;
mod dockerfile;
mod image;
mod manifests;
mod network;
mod podman;
mod podman_networks;
mod pods;
mod processes;
mod protobuf;
