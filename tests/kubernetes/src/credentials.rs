//! Keys, tokens and client configurations of the control plane.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::layout::Layout;
use crate::process::run;
use crate::settings::{Settings, addresses, node_name};

/// The users of the API with their groups. The nodes come in addition.
const USERS: [(&str, &str, &str); 4] = [
    ("admin", "admin", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("proxy", "system:kube-proxy", ""),
];

/// The URL of the API server.
pub(crate) fn api() -> String {
    format!("https://{}:6443", addresses(1)[0])
}

/// Creates the credentials.
///
/// The API server signs its own certificate, and each kubelet does so too. The other keys are the
/// one with which the API server calls the kubelets, and the one that signs service account tokens.
pub(crate) fn create(layout: &Layout, settings: &Settings) -> Result<()> {
    let file = |name: &str| layout.control_plane(name);
    fs::create_dir_all(file("")).context("cannot create the folder of the control plane")?;
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "365"])
        .args(["-subj", "/O=system:masters/CN=kube-apiserver", "-keyout"])
        .arg(file("kubelet-client.key"))
        .arg("-out")
        .arg(file("kubelet-client.crt")))?;
    run(Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"])
        .arg(file("service-accounts.key")))?;

    let nodes = settings.numbers().map(|number| {
        let name = node_name(number);
        (name.clone(), format!("system:node:{name}"), "system:nodes".to_owned())
    });
    let users = USERS.map(|(name, user, group)| (name.to_owned(), user.to_owned(), group.to_owned()));
    let mut tokens = String::new();
    for (name, user, group) in users.into_iter().chain(nodes) {
        let token = run(Command::new("openssl").args(["rand", "-hex", "16"]))?;
        tokens += &format!("{},{user},{user},\"{group}\"\n", token.trim());
        write(layout, &format!("{name}.conf"), &client_configuration(layout, token.trim()).to_string())?;
    }
    write(layout, "tokens.csv", &tokens)
}

/// A configuration for a client of the API, which verifies the certificate of the server.
fn client_configuration(layout: &Layout, token: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "cluster", "cluster": {
            "server": api(), "certificate-authority": layout.control_plane("server/apiserver.crt"),
        } }],
        "users": [{ "name": "user", "user": { "token": token } }],
        "contexts": [{ "name": "cluster", "context": { "cluster": "cluster", "user": "user" } }],
        "current-context": "cluster",
    })
}

fn write(layout: &Layout, name: &str, content: &str) -> Result<()> {
    let path = layout.control_plane(name);
    let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
    let written = file.and_then(|mut file| file.write_all(content.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}
