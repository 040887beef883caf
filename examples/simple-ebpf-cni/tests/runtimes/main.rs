//! Real runtimes call the installed plugin: containerd with its own client and with the interface
//! for the kubelet, and podman.

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
