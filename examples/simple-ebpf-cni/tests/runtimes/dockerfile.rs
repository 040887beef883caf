//! The image of `deploy/Dockerfile`, built by podman.

use std::fs;

use cnikit_testbed::{Host, Namespace, host, privileged, tool};

use crate::daemonset::{ENTRYPOINT, libraries, plugin};
use crate::image::architecture;
use crate::manifests;
use crate::podman::Podman;

const IMAGE: &str = "localhost/simple-ebpf-cni:test";

/// The files of the image, as in a release.
const BINARY: &str = "simple-ebpf-cni";
const AGENT: &str = "simple-ebpf-agent";
const PAPERS: [&str; 3] = ["LICENSE-APACHE", "LICENSE-MIT", "NOTICE"];

#[test]
fn the_dockerfile_builds_the_image_of_the_daemonset() {
    if !privileged() || !["podman", "conmon", "runc"].into_iter().all(tool) {
        return;
    }
    host(|host| {
        let podman = Podman::without_networks(host);
        let context = host.scratch();
        let dist = context.join("dist").join(architecture());
        fs::create_dir_all(&dist).expect("the scratch space is writable");
        fs::copy(plugin(), dist.join(BINARY)).expect("the plugin is copied");
        // A stand-in, which is not run: the build of this test has no binary of the agent.
        fs::copy(plugin(), dist.join(AGENT)).expect("the plugin is copied");
        for paper in PAPERS {
            fs::write(dist.join(paper), paper).expect("the scratch space is writable");
        }
        let dockerfile = manifests::folder().join("Dockerfile");
        podman.command("build").args(["--quiet", "--tag", IMAGE, "--file"]).arg(dockerfile).arg(&context).run();

        let inspected = podman.command("inspect").arg(IMAGE).json();
        assert_eq!(inspected[0]["Config"]["Entrypoint"], serde_json::json!([ENTRYPOINT]));
        assert_eq!(inspected[0]["Architecture"], architecture());
        let mut expected = PAPERS.map(|paper| ("-rw-r--r--".to_owned(), paper.to_owned())).to_vec();
        expected.extend([AGENT, BINARY].map(|binary| ("-rwxr-xr-x".to_owned(), binary.to_owned())));
        assert_eq!(listing(host, &podman), expected);

        // The test build needs libraries that a release contains.
        let volumes = libraries(host).into_iter().map(|library| format!("--volume={library}:{library}:ro"));
        let run = podman.command("run").args(["--rm", "--network", "none", "--cgroup-parent", &podman.cgroup()]);
        let said = run.args(volumes).args([IMAGE, "--version"]).run();
        assert!(said.starts_with("simple-ebpf-cni "), "{said}");
        podman.assert_idle();
    });
}

/// Mode and name of each file in the image, by name.
#[track_caller]
fn listing(host: &Host, podman: &Podman<'_>) -> Vec<(String, String)> {
    podman.command("create").args(["--name", "unpacked", "--network", "none", IMAGE]).run();
    let archive = host.scratch().join("files.tar");
    podman.command("export").arg("--output").arg(&archive).arg("unpacked").run();
    podman.command("rm").arg("unpacked").run();
    let listed = host.command("tar").arg("-tvf").arg(archive).run();
    let mut files: Vec<_> = listed
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next_back()?.to_owned()))
        })
        .collect();
    files.sort_by(|one, other| one.1.cmp(&other.1));
    files
}
