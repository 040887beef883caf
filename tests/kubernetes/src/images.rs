//! Container images from the programs of this machine, because no registry is necessary.
//!
//! All images of the cluster share one layer and differ in their entry point. The archives have the
//! format of `docker save`, which `ctr images import` reads.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::daemons::PAUSE_IMAGE;
use crate::layout::Layout;
use crate::process::run;

/// The archive with the images of the cluster.
pub(crate) const TOOLS: &str = "tools";

/// The archive with the image of the plugin.
pub(crate) const PLUGIN: &str = "plugin";

/// The image with a shell and network tools.
pub(crate) const TOOLS_IMAGE: &str = "localhost/tools:1";

/// The image with the server of Kubernetes' tests.
pub(crate) const AGNHOST_IMAGE: &str = "localhost/agnhost:1";

/// The name of the plugin's image in deploy/kustomization.yaml.
pub(crate) const PLUGIN_IMAGE: &str = "localhost/simple-ebpf-cni";

/// Programs of this machine in the layer. The applets of busybox lack options that the tests of
/// Kubernetes use.
const PROGRAMS: [&str; 12] =
    ["bash", "conntrack", "curl", "dig", "getent", "ip", "nc", "nslookup", "ping", "ss", "timeout", "wget"];

/// The modification time in all archives, so that equal files give equal digests.
const EPOCH: u64 = 1;

/// An image of an archive: its names, and its process.
struct Image {
    names: Vec<String>,
    config: Value,
}

/// Builds the archive of the cluster's images, unless it is newer than the programs.
pub(crate) fn build_tools(layout: &Layout) -> Result<PathBuf> {
    let archive = layout.image(TOOLS);
    let tests = layout.program("e2e.test");
    let mut sources = vec![std::env::current_exe()?, tests.clone()];
    sources.extend(["agnhost", "coredns", "pause", "boom-server"].map(|name| layout.program(name)));
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let built = modified(&archive);
    if built.is_some() && sources.iter().all(|source| modified(source) < built) {
        return Ok(archive);
    }
    let build = LayerBuild::new(&layout.image("layer"))?;
    let layer = tools_layer(layout, build)?;
    let mut images = vec![
        Image::new([PAUSE_IMAGE], json!({ "Entrypoint": ["/pause"] })),
        Image::new([TOOLS_IMAGE], json!({ "Cmd": ["/pause"] })),
        Image::new([AGNHOST_IMAGE], json!({ "Entrypoint": ["/agnhost"], "Cmd": ["pause"] })),
        Image::new(["localhost/coredns:1"], json!({ "Entrypoint": ["/coredns"] })),
    ];
    if tests.is_file() {
        images.extend(images_of_tests(&run(Command::new(tests).arg("--list-images"))?));
    }
    write_archive(&archive, &layer, &images)?;
    Ok(archive)
}

/// Builds the archive of the plugin's image, with the content of deploy/Dockerfile. A dynamic
/// binary also needs its libraries.
pub(crate) fn build_plugin(layout: &Layout, binary: &Path, agent: Option<&Path>, tag: &str) -> Result<PathBuf> {
    let archive = layout.image(&format!("{PLUGIN}-{tag}"));
    let mut build = LayerBuild::new(&layout.image("plugin-layer"))?;
    build.program(binary, "/simple-ebpf-cni")?;
    if let Some(agent) = agent {
        build.program(agent, "/simple-ebpf-agent")?;
    }
    let image = Image::new([format!("{PLUGIN_IMAGE}:{tag}")], json!({ "Entrypoint": ["/simple-ebpf-cni"] }));
    write_archive(&archive, &build.finish()?, &[image])?;
    Ok(archive)
}

/// The layer with a shell, network tools and the servers of the cluster.
fn tools_layer(layout: &Layout, mut build: LayerBuild) -> Result<Layer> {
    for folder in ["/etc", "/root", "/home", "/proc", "/sys", "/dev", "/run", "/var/www", "/uploads"] {
        build.folder(folder, 0o755)?;
    }
    build.folder("/tmp", 0o1777)?;
    let busybox = which("busybox")?;
    build.file(&busybox, "/bin/busybox", 0o755)?;
    let own: BTreeSet<&str> = PROGRAMS.into();
    for applet in run(Command::new(&busybox).arg("--list"))?.split_whitespace() {
        // The shell of Debian's busybox prefers its applets to the programs in PATH.
        if !own.contains(applet) && !matches!(applet, "busybox" | "sh" | "ash") {
            build.link(&format!("/bin/{applet}"), "busybox")?;
        }
    }
    for name in PROGRAMS {
        build.program(&which(name)?, &format!("/usr/bin/{name}"))?;
    }
    build.link("/bin/bash", "/usr/bin/bash")?;
    build.link("/bin/sh", "/usr/bin/bash")?;
    build.text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/sh\n")?;
    build.text("/etc/group", "root:x:0:\nnogroup:x:65534:\n")?;
    build.text("/etc/nsswitch.conf", "hosts: files dns\n")?;
    build.text("/var/www/index.html", "served by a pod\n")?;
    for name in ["agnhost", "coredns", "pause"] {
        build.file(&layout.program(name), &format!("/{name}"), 0o755)?;
    }
    build.link("/agnhost-2", "agnhost")?;
    if layout.program("boom-server").is_file() {
        build.file(&layout.program("boom-server"), "/boom-server", 0o755)?;
    }
    // agnhost serves HTTPS with this certificate. The clients do not verify it.
    let [key, certificate] = ["key", "crt"].map(|kind| layout.image("localhost").with_extension(kind));
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "365"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate))?;
    build.file(&key, "/localhost.key", 0o644)?;
    build.file(&certificate, "/localhost.crt", 0o644)?;
    build.finish()
}

/// The images of the [sig-network] tests, by the names that the tests print.
fn images_of_tests(list: &str) -> Vec<Image> {
    let web = json!({ "Cmd": ["/bin/httpd", "-f", "-p", "80", "-h", "/var/www"] });
    let kinds = [
        ("/agnhost:", json!({ "Entrypoint": ["/agnhost"], "Cmd": ["pause"] })),
        ("/busybox:", json!({ "Cmd": ["sh"] })),
        ("/jessie-dnsutils:", json!({ "Cmd": ["/bin/sleep", "infinity"] })),
        ("/nginx:", web),
        ("/distroless-iptables:", json!({ "Cmd": ["sh"] })),
        ("/pause:", json!({ "Entrypoint": ["/pause"] })),
        ("/regression-issue-74839:", json!({ "Entrypoint": ["/boom-server"] })),
    ];
    // One name is of an image that a test must fail to pull.
    let all = || list.lines().filter(|name| !name.contains("authenticated"));
    let named = |part: &str| all().filter(|name| name.contains(part)).map(str::to_owned).collect::<BTreeSet<_>>();
    let images = kinds.map(|(part, config)| Image { names: named(part).into_iter().collect(), config });
    images.into_iter().filter(|image| !image.names.is_empty()).collect()
}

impl Image {
    fn new<const N: usize>(names: [impl Into<String>; N], config: Value) -> Self {
        Self { names: names.map(Into::into).into(), config }
    }
}

/// A finished layer: an uncompressed tar archive.
struct Layer {
    path: PathBuf,
    digest: String,
}

/// A layer under construction.
struct LayerBuild {
    tar: tar::Builder<Hashing<File>>,
    path: PathBuf,
    /// The paths in the layer.
    present: BTreeSet<PathBuf>,
}

impl LayerBuild {
    fn new(path: &Path) -> Result<Self> {
        fs::create_dir_all(path.parent().context("a folder of images")?)?;
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let tar = tar::Builder::new(Hashing { inner: file, hash: Sha256::new() });
        Ok(Self { tar, path: path.to_owned(), present: BTreeSet::new() })
    }

    /// Adds a folder, and the folders above it.
    fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        let relative = relative(path);
        if relative.as_os_str().is_empty() || self.present.contains(&relative) {
            return Ok(());
        }
        if let Some(parent) = Path::new(path).parent() {
            self.folder(&parent.display().to_string(), 0o755)?;
        }
        let mut header = header(tar::EntryType::Directory, 0, mode);
        self.tar.append_data(&mut header, &relative, io::empty())?;
        self.present.insert(relative);
        Ok(())
    }

    fn file(&mut self, source: &Path, path: &str, mode: u32) -> Result<()> {
        let open = || Ok::<_, io::Error>((File::open(source)?, fs::metadata(source)?.len()));
        let (file, size) = open().with_context(|| format!("cannot read {}", source.display()))?;
        self.entry(path, header(tar::EntryType::Regular, size, mode), file)
    }

    fn text(&mut self, path: &str, text: &str) -> Result<()> {
        self.entry(path, header(tar::EntryType::Regular, text.len() as u64, 0o644), text.as_bytes())
    }

    fn entry(&mut self, path: &str, mut header: tar::Header, content: impl io::Read) -> Result<()> {
        if let Some(parent) = Path::new(path).parent() {
            self.folder(&parent.display().to_string(), 0o755)?;
        }
        self.tar.append_data(&mut header, relative(path), content)?;
        self.present.insert(relative(path));
        Ok(())
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        if let Some(parent) = Path::new(path).parent() {
            self.folder(&parent.display().to_string(), 0o755)?;
        }
        let mut header = header(tar::EntryType::Symlink, 0, 0o777);
        self.tar.append_link(&mut header, relative(path), target)?;
        Ok(())
    }

    /// Adds a program of this machine, and the libraries that it loads.
    fn program(&mut self, source: &Path, path: &str) -> Result<()> {
        self.file(&fs::canonicalize(source)?, path, 0o755)?;
        // ldd fails for a static program.
        let listed = run(Command::new("ldd").arg(source)).unwrap_or_default();
        for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
            if !self.present.contains(&relative(library)) {
                self.file(&fs::canonicalize(library)?, library, 0o755)?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Layer> {
        let hashing = self.tar.into_inner()?;
        Ok(Layer { path: self.path, digest: hex(hashing.hash) })
    }
}

/// Writes an archive of images that share one layer. The layer's file is deleted.
fn write_archive(path: &Path, layer: &Layer, images: &[Image]) -> Result<()> {
    let part = path.with_extension("part");
    let mut tar = tar::Builder::new(File::create(&part)?);
    let layer_name = format!("{}/layer.tar", layer.digest);
    let mut append = |name: &str, content: &[u8]| {
        tar.append_data(&mut header(tar::EntryType::Regular, content.len() as u64, 0o644), name, content)
    };
    let mut manifest = Vec::new();
    for image in images {
        let mut process = json!({ "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] });
        for (key, value) in image.config.as_object().into_iter().flatten() {
            process[key] = value.clone();
        }
        let document = json!({
            "architecture": architecture(), "os": "linux", "config": process,
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)] },
        });
        let document = document.to_string();
        let name = format!("{}.json", hex(Sha256::new_with_prefix(&document)));
        append(&name, document.as_bytes())?;
        manifest.push(json!({ "Config": name, "RepoTags": image.names, "Layers": [layer_name] }));
    }
    append("manifest.json", Value::from(manifest).to_string().as_bytes())?;
    let size = fs::metadata(&layer.path)?.len();
    tar.append_data(&mut header(tar::EntryType::Regular, size, 0o644), &layer_name, File::open(&layer.path)?)?;
    tar.into_inner()?;
    fs::remove_file(&layer.path)?;
    fs::rename(&part, path).with_context(|| format!("cannot write {}", path.display()))
}

fn header(kind: tar::EntryType, size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(EPOCH);
    header
}

fn relative(path: &str) -> PathBuf {
    path.trim_start_matches('/').into()
}

/// A program of this machine.
fn which(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    match folders.map(|folder| folder.join(name)).find(|candidate| candidate.is_file()) {
        Some(found) => Ok(found),
        None => bail!("{name} is missing: run scripts/preflight.sh kubernetes"),
    }
}

/// This machine's architecture, by its name in images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A writer that computes the digest of its output.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
