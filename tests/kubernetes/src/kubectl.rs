//! `kubectl` against the cluster, in the network of the first node.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::layout::Layout;
use crate::node::Node;
use crate::process::{run, run_with_input};

/// The client of the API.
#[derive(Debug, Clone)]
pub(crate) struct Kubectl {
    layout: Layout,
}

impl Kubectl {
    pub(crate) fn new(layout: &Layout) -> Self {
        Self { layout: layout.clone() }
    }

    /// A command of kubectl with the rights of an administrator.
    pub(crate) fn command(&self) -> Result<Command> {
        let mut command = Node::new(&self.layout, 1).command_in_network(self.layout.program("kubectl"))?;
        command.env("KUBECONFIG", self.layout.control_plane("admin.conf"));
        command.env("KUBECACHEDIR", self.layout.kubectl_cache());
        Ok(command)
    }

    /// Runs kubectl to its end, and returns its output.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        run(self.command()?.args(arguments))
    }

    /// As [`run`](Self::run), with the words of a line as arguments.
    pub(crate) fn words(&self, line: &str) -> Result<String> {
        self.run(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Objects as JSON: `get pods -n kube-system`.
    pub(crate) fn json(&self, line: &str) -> Result<Value> {
        let text = self.words(&format!("{line} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {line}: not JSON"))
    }

    /// Creates or updates the objects of a manifest.
    pub(crate) fn apply(&self, manifest: &str) -> Result<()> {
        run_with_input(self.command()?.args(["apply", "-f", "-"]), manifest)?;
        Ok(())
    }
}

/// The strings under a key of a list of objects.
pub(crate) fn strings(list: &Value, key: &str) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|item| item[key].as_str().map(str::to_owned)).collect()
}

/// The strings of a list.
pub(crate) fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}
