//! A real runtime as the caller: containerd and runc, with the plugin installed as on a node.

mod containerd;
mod containers;
mod daemonset;
mod image;
mod manifests;
