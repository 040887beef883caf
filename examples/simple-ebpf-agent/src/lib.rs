//! The node agent of `simple-ebpf-cni`: it connects the pods of all nodes of a cluster.
//!
//! The data flows in one direction. The watch of the Kubernetes API fills an index. The index
//! returns a [`ClusterView`](view::ClusterView). The kernel side compares it with the kernel, and
//! applies the differences.

pub mod view;
