//! The command `gc`: frees pods that the runtime does not list, and keeps all others.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use cnikit_testbed::{Command, Namespace, Outcome, Output, Ruling, supervision};
use serde_json::{Value, json};

use crate::cli::{BINARY, cells};
use crate::doctor::{configured, doctor, found};
use crate::support::{Attached, Network, on_host};

const OLD: &str = "2020-01-01T00:00:00Z";

/// Frames of HTTP/2 (RFC 9113): empty SETTINGS, and HEADERS that end the stream 1.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
const TRAILERS: &[u8] = b"\0\0\x01\x01\x05\0\0\0\x01\x88";

/// The command, with the ids of the valid containers on standard input.
fn gc(dir: &Path, options: &str, valid: &[&str]) -> Command {
    // An empty list on standard input is an error.
    let list = if valid.is_empty() { "/dev/null" } else { "-" };
    let line = format!("gc --valid {list} --conf-dir {} {options}", dir.display());
    Command::new(BINARY).env_clear().words(&line).stdin(valid.join("\n"))
}

/// The unlisted attachments of a successful run: container, result and reason.
#[track_caller]
fn unlisted(output: &Output) -> Vec<[String; 3]> {
    assert!(output.status.success(), "{output:#?}");
    let report: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:#?}"));
    assert_eq!(report["problems"], json!([]));
    let mut found: Vec<_> = report["unlisted"].as_array().expect("a list").iter().collect();
    found.sort_by_key(|one| one["containerId"].to_string());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    found.iter().map(|one| ["containerId", "result", "reason"].map(|key| text(&one[key]))).collect()
}

/// Runs the command with `--json`.
#[track_caller]
fn collected(dir: &Path, options: &str, valid: &[&str]) -> Vec<[String; 3]> {
    unlisted(&gc(dir, &format!("--json {options}"), valid).output())
}

/// Deletes the pod's pair, as the end of its namespace does.
#[track_caller]
fn lose(network: &Network, pod: &Attached) {
    network.host.ip(&format!("link del {}", pod.host_veth()));
}

/// Changes a key of a lease.
#[track_caller]
fn change(network: &Network, container: &str, key: &str, value: impl Into<Value>) {
    let path = network.lease(container);
    let mut lease: Value = serde_json::from_slice(&fs::read(&path).expect("a lease")).expect("JSON");
    lease[key] = value.into();
    fs::write(&path, lease.to_string()).expect("room");
}

fn removed(container: &str) -> [String; 3] {
    [container, "removed", ""].map(str::to_owned)
}

#[track_caller]
fn assert_kept(found: &[String; 3], container: &str, reason: &str) {
    assert!(found[0] == container && found[1] == "kept" && found[2].contains(reason), "{found:?}");
}

#[test]
fn a_pod_without_interface_is_freed() {
    on_host(|network| {
        let dir = configured(network);
        let (listed, live) = (network.attach("listed"), network.attach("live"));
        let before = network.footprint();
        let gone = network.attach("gone");
        lose(network, &gone);

        let (_, checks) = doctor(&dir);
        let warned = found(&checks, "leases", "warn");
        let command = format!("simple-ebpf-cni gc --network blackbox --conf-dir {}", dir.display());
        assert!(warned.contains("(gone)") && warned.contains(&command), "{warned}");
        assert!(found(&checks, "endpoints", "warn").contains(&command), "{checks:#?}");

        let stale = network.footprint();
        let dry = gc(&dir, "-n", &["listed"]).run();
        let rows = cells(&dry);
        assert_eq!(rows[0], ["NAMESPACE/POD", "NETWORK", "ADDRESS", "CONTAINER", "IFNAME", "RESULT"]);
        let row = |pod: &Attached, result: &str| {
            let address = format!("{}/24", pod.address());
            ["-", "blackbox", &address, &pod.container, "eth0", result].map(str::to_owned).to_vec()
        };
        let kept = format!("kept: its interface {} exists", live.host_veth());
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect();
        for expected in [row(&gone, "would be removed"), row(&live, &kept)] {
            assert!(rows.contains(&expected), "{dry}");
        }
        assert!(dry.ends_with("1 attachment would be removed, 1 kept; standard input lists 1 more\n"), "{dry}");
        network.footprint().assert_unchanged(&stale, "gc --dry-run");

        let found = collected(&dir, "", &["listed"]);
        assert_eq!(found[0], removed("gone"));
        assert_kept(&found[1], "live", "its interface");
        network.footprint().assert_unchanged(&before, "ADD, a lost pair, and gc");
        network.check(&live).silent();

        let text = gc(&dir, "", &["listed", "live"]).run();
        assert_eq!(text, "Nothing to remove: standard input lists 2 attachments of this node, and none is missing.\n");
        network.detach(&listed);
        network.detach(&live);
    });
}

/// A listed pod is valid in any state. Its runtime sends DEL.
#[test]
fn a_listed_pod_without_interface_is_kept() {
    on_host(|network| {
        let dir = configured(network);
        let long = "4fe2c9d1a87b4fe2c9d1a87b4fe2c9d1a87b4fe2c9d1a87b4fe2c9d1a87b0123";
        let pod = network.attach(long);
        lose(network, &pod);
        // As crictl and docker cut ids.
        for id in [long, &long[..13], &long[..12]] {
            assert_eq!(collected(&dir, "", &[id]), [[""; 3]; 0]);
        }
        assert!(network.lease(long).exists());
        assert_eq!(collected(&dir, "", &[&long[..11]]), [removed(long)]);
    });
}

#[test]
fn force_removes_only_old_attachments() {
    on_host(|network| {
        let dir = configured(network);
        let pods = ["listed", "old", "young"].map(|name| network.attach(name));
        change(network, "old", "created", OLD);
        let [listed, old, young] = &pods;

        let found = collected(&dir, "", &["listed"]);
        assert_kept(&found[0], "old", "its interface");
        assert_kept(&found[1], "young", "its interface");

        let found = collected(&dir, "--force --dry-run", &["listed"]);
        assert_eq!(found[0], removed("old"));
        assert!(old.pod.link("eth0").is_some());

        let found = collected(&dir, "--force", &["listed"]);
        assert_eq!(found[0], removed("old"));
        assert_kept(&found[1], "young", "younger than 5 minutes");
        assert!(old.pod.link("eth0").is_none());
        assert!(young.pod.ping(listed.address(), 2).status.success());
        // A clock that was set back makes no lease old.
        change(network, "young", "created", "2999-01-01T00:00:00Z");
        assert_kept(&collected(&dir, "--force", &["listed"])[0], "young", "younger than 5 minutes");
        network.detach(listed);
        network.detach(young);
    });
}

#[test]
fn an_empty_or_foreign_list_removes_no_live_pod() {
    on_host(|network| {
        let dir = configured(network);
        let (live, gone) = (network.attach("live"), network.attach("gone"));
        change(network, "live", "created", OLD);
        lose(network, &gone);
        for list in [&[][..], &["of-another-runtime"]] {
            let output = gc(&dir, "--force", list).output();
            assert_eq!((output.status.code(), output.stdout.as_str()), (Some(1), ""), "{output:#?}");
            assert!(output.stderr.contains(" lists no attachment of this node"), "{output:#?}");
        }
        assert!(network.lease("gone").exists(), "a refused command changes nothing");
        let found = collected(&dir, "", &[]);
        assert_eq!(found[0], removed("gone"));
        assert_kept(&found[1], "live", "its interface");
        network.check(&live).silent();
        network.detach(&live);
    });
}

/// Another plugin has created an imported attachment, with other names of its interfaces.
#[test]
fn imported_and_damaged_leases_need_force() {
    on_host(|network| {
        let dir = configured(network);
        network.host.keep("file /var/lib/cni/simple-ebpf-cni/blackbox/damaged/");
        let pods = ["damaged", "imported", "listed"].map(|name| network.attach(name));
        pods[..2].iter().for_each(|pod| lose(network, pod));
        change(network, "imported", "imported", true);
        assert_kept(&collected(&dir, "", &["listed"])[1], "imported", "imported");
        change(network, "imported", "created", OLD);
        assert_eq!(collected(&dir, "--force --dry-run", &["listed", "damaged"]), [removed("imported")]);
        fs::write(network.lease("damaged"), "{").expect("the lease can be overwritten");
        let output = gc(&dir, "-n --json", &["listed", "imported"]).output();
        assert_kept(&unlisted(&output)[0], "damaged", "damaged");
        let aged = Command::new("touch").args(["-d", OLD]).arg(network.lease("damaged")).output();
        assert!(aged.status.success());
        let found = collected(&dir, "--force", &["listed"]);
        assert_eq!(found, [removed("damaged"), removed("imported")]);
        network.detach(&pods[2]);
    });
}

/// In another network namespace, each interface looks removed.
#[test]
fn another_network_namespace_removes_nothing() {
    on_host(|network| {
        let dir = configured(network);
        let (live, gone) = (network.attach("live"), network.attach("gone"));
        lose(network, &gone);
        let before = network.footprint();
        let elsewhere = network.host.pod();
        for options in ["", "--force"] {
            let valid = if options.is_empty() { "of-another-runtime" } else { "live" };
            let line = format!("gc --json --valid - --conf-dir {} {options}", dir.display());
            let output = elsewhere.command(BINARY).words(&line).stdin(valid).output();
            for found in unlisted(&output) {
                assert_kept(&found, &found[0].clone(), "is in this network namespace");
            }
        }
        network.footprint().assert_unchanged(&before, "gc in another namespace");
        network.detach(&live);
        network.detach(&gone);
    });
}

/// A network that no configuration describes any more.
#[test]
fn a_network_without_configuration_is_collected() {
    on_host(|network| {
        let (live, gone) = (network.attach("live"), network.attach("gone"));
        lose(network, &gone);
        let found = collected(&network.host.scratch(), "", &[]);
        assert_eq!(found[0], removed("gone"));
        assert_kept(&found[1], "live", "its interface");
        network.check(&live).silent();
        network.detach(&live);
    });
}

/// At each step of an ADD, its attachment may lack an interface and is in no list.
#[test]
fn an_add_in_progress_is_kept() {
    if !supervision() {
        return;
    }
    on_host(|network| {
        let dir = configured(network);
        let listed = network.attach("listed");
        let pod = network.host.pod();
        let (mut with_lease, lease) = (0, network.lease("new"));
        let outcome: Outcome = network.plugin.on("ADD", &network.config, "new", &pod).supervised(|call| {
            // Before each request to the kernel about links.
            if call.to_string().starts_with("sendto") && lease.exists() && with_lease < 6 {
                with_lease += 1;
                for found in collected(&dir, "--force", &["listed"]) {
                    assert_kept(&found, "new", "is running");
                }
            }
            Ruling::Continue
        });
        let new = Attached { container: "new".to_owned(), pod, result: outcome.result() };
        assert!(with_lease > 2, "{with_lease} collections saw the lease");
        network.check(&new).silent();
        network.detach(&new);
        network.detach(&listed);
    });
}

/// A server that answers one call with these bytes, after `meanwhile`.
fn serve(path: &Path, answer: Vec<u8>, meanwhile: impl FnOnce() + Send, client: impl FnOnce()) {
    let listener = UnixListener::bind(path).expect("a new socket");
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).expect("a request");
            assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            meanwhile();
            let _ = stream.write_all(&answer);
            let _ = stream.read_to_end(&mut Vec::new());
        });
        client();
    });
    fs::remove_file(path).expect("the socket");
}

/// The answer of a runtime with these sandboxes. Each has as many other bytes as a real one.
fn sandboxes(ids: &[String]) -> Vec<u8> {
    let field = |number: u8, content: &[u8]| {
        let length = [content.len() as u8 & 0x7f | 0x80, (content.len() >> 7) as u8];
        [&[number << 3 | 2], &length[..], content].concat()
    };
    let message: Vec<u8> =
        ids.iter().flat_map(|id| field(1, &[field(1, id.as_bytes()), field(2, &[b'x'; 600])].concat())).collect();
    let message = [&[0], &(message.len() as u32).to_be_bytes()[..], &message].concat();
    let frames = message.chunks(16_384).flat_map(|chunk| {
        let [_, length @ ..] = (chunk.len() as u32).to_be_bytes();
        [&length[..], &[0, 0, 0, 0, 0, 1], chunk].concat()
    });
    SETTINGS.iter().copied().chain(frames).chain(TRAILERS.iter().copied()).collect()
}

fn ask(dir: &Path, socket: &Path, options: &str) -> Command {
    let line = format!("gc --conf-dir {} {options}", dir.display());
    Command::new(BINARY)
        .env_clear()
        .words(&line)
        .env("CONTAINER_RUNTIME_ENDPOINT", format!("unix://{}", socket.display()))
}

/// Expects a failure with these words, which changes nothing.
#[track_caller]
fn assert_fails(command: Command, words: &[&str]) {
    let output = command.output();
    assert_eq!((output.status.code(), output.stdout.as_str()), (Some(1), ""), "{output:#?}");
    for word in words {
        assert!(output.stderr.contains(word), "{word}: {output:#?}");
    }
}

#[test]
fn the_runtime_is_asked_for_its_pods() {
    on_host(|network| {
        let (dir, socket) = (configured(network), network.host.scratch().join("socket"));
        let (listed, gone) = (network.attach("listed"), network.attach("gone"));
        for pod in [&listed, &gone] {
            lose(network, pod);
        }
        // 3 MB in 5,000 pods.
        let ids: Vec<String> = (0..5_000).map(|id| format!("{id:064}")).chain(["listed".to_owned()]).collect();
        serve(
            &socket,
            sandboxes(&ids),
            || {},
            || {
                let output = ask(&dir, &socket, "--json").output();
                assert_eq!(unlisted(&output), [removed("gone")]);
            },
        );
        // A runtime without pods. The option overrides the variable.
        let line = format!("--runtime-endpoint {} -n", socket.display());
        serve(
            &socket,
            sandboxes(&[]),
            || {},
            || {
                let text = ask(&dir, Path::new("/nowhere"), &line).run();
                assert!(text.contains("1 attachment would be removed, 0 kept"), "{text}");
            },
        );
        network.detach(&listed);
    });
}

/// The leases are read before the list. Even an old lease that appears in between is no candidate.
#[test]
fn a_pod_that_is_attached_during_the_call_is_kept() {
    on_host(|network| {
        let (dir, socket) = (configured(network), network.host.scratch().join("socket"));
        let listed = network.attach("listed");
        let mut new = None;
        let attach = || {
            new = Some(network.attach("new"));
            change(network, "new", "created", OLD);
        };
        serve(&socket, sandboxes(&["listed".to_owned()]), attach, || {
            assert_eq!(unlisted(&ask(&dir, &socket, "--json --force").output()), [[""; 3]; 0]);
        });
        let new = new.expect("the server attached it");
        network.check(&new).silent();
        network.detach(&new);
        network.detach(&listed);
    });
}

#[test]
fn a_runtime_that_fails_changes_nothing() {
    on_host(|network| {
        let (dir, folder) = (configured(network), network.host.scratch());
        let gone = network.attach("gone");
        lose(network, &gone);
        let before = network.footprint();

        let socket = folder.join("socket");
        let shown = socket.to_str().expect("a text");
        assert_fails(ask(&dir, &socket, ""), &[shown, "there is no such socket", "--runtime-endpoint"]);
        drop(UnixListener::bind(&socket).expect("a new socket"));
        assert_fails(ask(&dir, &socket, ""), &[shown, "no process listens"]);
        fs::remove_file(&socket).expect("the socket");

        for (answer, words) in [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "unexpected answer: no HTTP/2"),
            ([SETTINGS, TRAILERS].concat(), "refused the call"),
            ([SETTINGS, b"\0\0\x07\0\x01\0\0\0\x01\0\0\0\0\x02\x0a\x09"].concat(), "no list of pods"),
        ] {
            serve(&socket, answer, || {}, || assert_fails(ask(&dir, &socket, ""), &[shown, words]));
        }

        // It accepts no connection, so it never answers.
        let silent = UnixListener::bind(&socket).expect("a new socket");
        let start = Instant::now();
        assert_fails(ask(&dir, &socket, ""), &[shown, "no complete answer after 10 seconds"]);
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        drop(silent);

        let nothing = Command::new(BINARY).env_clear().words("gc");
        assert_fails(nothing, &["no runtime has a socket at /run/containerd/containerd.sock", "--valid"]);
        assert_fails(gc(&dir, "", &["one", "../two"]), &["standard input", "../two", "one container id per line"]);
        let binary = folder.join("ids");
        fs::write(&binary, b"\xff\xfe").expect("room");
        for list in [Path::new("/nowhere"), &folder, &binary] {
            let line = format!("gc --valid {}", list.display());
            let words = [&format!("cannot read {}: ", list.display()), "a text file with one container id per line"];
            assert_fails(Command::new(BINARY).env_clear().words(&line), &words);
        }
        // crictl that fails in front of a pipe.
        for text in ["", "\n"] {
            let line = format!("gc --valid - --conf-dir {}", dir.display());
            let piped = Command::new(BINARY).env_clear().words(&line).stdin(text);
            assert_fails(piped, &["standard input is empty", "use --valid /dev/null"]);
        }
        network.footprint().assert_unchanged(&before, "calls that fail");
        network.detach(&gone);
    });
}
