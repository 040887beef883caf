//! Images without a registry.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cnikit_testbed::{Host, Namespace};
use serde_json::json;

/// The image of the containers with traffic between them.
pub(crate) const TINY: &str = "docker.io/library/tiny:1";

/// The page `/page` of the web server in [`TINY`].
pub(crate) const PAGE: &str = "served by a container\n";

/// A page of [`BLOB_SIZE`] bytes, for measurements of time.
pub(crate) const BLOB: &str = "blob";
pub(crate) const BLOB_SIZE: usize = 4 << 20;

/// The default port of the web server.
pub(crate) const SERVED: u16 = 8080;

/// Builds [`TINY`] from the machine's static busybox.
pub(crate) fn tiny(host: &Host) -> PathBuf {
    archive(host, TINY, &["/bin/httpd", "-f", "-p", &SERVED.to_string(), "-h", "/"], |layer| {
        let busybox = host.command("sh").args(["-c", "command -v busybox"]).run();
        fs::create_dir(layer.join("bin")).expect("the layer is writable");
        fs::copy(busybox.trim(), layer.join("bin/busybox")).expect("busybox is copied");
        for applet in ["cat", "httpd", "ip", "ping", "wget"] {
            symlink("busybox", layer.join("bin").join(applet)).expect("the applet is linked");
        }
        fs::write(layer.join("page"), PAGE).expect("the page is written");
        fs::write(layer.join(BLOB), vec![b'0'; BLOB_SIZE]).expect("the page is written");
    })
}

/// Builds an image of one layer with the files from `fill`, and returns its archive.
pub(crate) fn archive(host: &Host, name: &str, entrypoint: &[&str], fill: impl FnOnce(&Path)) -> PathBuf {
    let folder = host.scratch();
    let layer = folder.join("layer");
    fs::create_dir(&layer).expect("the scratch space is writable");
    fill(&layer);

    let tar = |name: &str, from: &Path, what: &[&str]| {
        host.command("tar").arg("-C").arg(from).arg("-cf").arg(folder.join(name)).args(what).run()
    };
    tar("layer.tar", &layer, &["."]);
    let sum = host.command("sha256sum").arg(folder.join("layer.tar")).run();
    let digest = sum.split_whitespace().next().expect("a digest").to_owned();
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": { "Env": ["PATH=/bin"], "Entrypoint": entrypoint },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
    for (name, document) in [("config.json", config), ("manifest.json", manifest)] {
        fs::write(folder.join(name), document.to_string()).expect("the scratch space is writable");
    }
    tar("image.tar", &folder, &["manifest.json", "config.json", "layer.tar"]);
    folder.join("image.tar")
}

/// This machine's architecture, by its name in images.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
