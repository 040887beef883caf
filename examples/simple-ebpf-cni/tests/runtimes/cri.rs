//! The [container runtime interface](https://kubernetes.io/docs/concepts/containers/cri/): the
//! kubelet's requests to containerd, sent by curl.

use std::fs;
use std::path::PathBuf;

use cnikit_testbed::{Command, Host, Namespace, eventually};

use crate::containerd::Containerd;
use crate::network::Attached;
use crate::processes::PATIENCE;
use crate::protobuf::Message;

/// containerd's namespace for pods and their images.
pub(crate) const NAMESPACE: &str = "k8s.io";

/// The length of the prefix of each message: a compression flag, and the length of the message.
const FRAME_HEADER: usize = 1 + size_of::<u32>();

/// The options of a pod, beside its name.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PodOptions<'a> {
    /// A port of the host, and the port of the pod behind it.
    pub(crate) published: Option<(u16, u16)>,
    /// Annotations, by their names.
    pub(crate) annotations: &'a [(&'a str, &'a str)],
}

/// A containerd as the kubelet sees it.
pub(crate) struct Cri<'c> {
    host: &'c Host,
    containerd: &'c Containerd<'c>,
    folder: PathBuf,
}

/// The sandbox of a pod: its namespaces, and the process that holds them.
pub(crate) struct Sandbox<'c> {
    cri: &'c Cri<'c>,
    id: String,
}

impl<'c> Cri<'c> {
    #[track_caller]
    pub(crate) fn connect(host: &'c Host, containerd: &'c Containerd<'c>) -> Self {
        let cri = Self { host, containerd, folder: host.scratch() };
        cri.await_ready();
        cri
    }

    /// Kills containerd, and starts another one in its place. Pods continue.
    #[track_caller]
    pub(crate) fn restart(&self) {
        self.containerd.restart();
        self.await_ready();
    }

    /// The path of the socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.containerd.socket()
    }

    /// Creates a pod, as `crictl runp` does.
    #[track_caller]
    pub(crate) fn run(&'c self, name: &str, requests: PodOptions<'_>) -> Sandbox<'c> {
        let metadata = Message::new().text(1, name).text(2, &format!("{name}-uid")).text(3, "default");
        let mut config = Message::new().message(1, &metadata);
        if let Some((host, container)) = requests.published {
            config = config.message(5, &Message::new().number(2, container.into()).number(3, host.into()));
        }
        for (key, value) in requests.annotations {
            config = config.entry(7, key, value);
        }
        let linux = Message::new().text(1, &self.containerd.processes().cgroup(name));
        let config = config.message(8, &linux);
        let made = self.call("RunPodSandbox", &Message::new().message(1, &config));
        let sandbox = Sandbox { cri: self, id: made.string(1) };
        sandbox.await_server();
        sandbox
    }

    /// containerd answers `ctr` before it has loaded the existing pods, and the kubelet after that.
    #[track_caller]
    fn await_ready(&self) {
        eventually("the container runtime interface", PATIENCE, || self.try_call("Status", &Message::new()).is_ok());
    }

    /// Calls a procedure, which must succeed.
    #[track_caller]
    fn call(&self, procedure: &str, request: &Message) -> Message {
        self.try_call(procedure, request).unwrap_or_else(|headers| panic!("{procedure}: {headers}"))
    }

    /// Calls a procedure. If it fails, the headers have the cause.
    #[track_caller]
    fn try_call(&self, procedure: &str, request: &Message) -> Result<Message, String> {
        let [headers, response] = ["headers", "response"].map(|name| self.folder.join(name));
        // A frame of gRPC: not compressed, of this length.
        let length = u32::try_from(request.bytes().len()).expect("a short message").to_be_bytes();
        let frame = [&[0], &length[..], request.bytes()].concat();
        let curl = self.host.command("curl").words("--silent --show-error --http2-prior-knowledge --unix-socket");
        let curl =
            curl.arg(self.containerd.socket()).words("--header content-type:application/grpc --header te:trailers");
        let curl = curl.arg("--dump-header").arg(&headers).arg("--output").arg(&response).args(["--data-binary", "@-"]);
        let url = format!("http://localhost/runtime.v1.RuntimeService/{procedure}");
        curl.arg(url).stdin(frame).limit(PATIENCE).run();

        let headers = fs::read_to_string(headers).expect("curl wrote it");
        if !headers.lines().any(|line| line == "grpc-status: 0") {
            return Err(headers);
        }
        Ok(Message::received(&fs::read(response).expect("curl wrote it")[FRAME_HEADER..]))
    }
}

impl Sandbox<'_> {
    /// Kills the process that holds the namespaces, and unmounts the network namespace.
    #[track_caller]
    pub(crate) fn destroy(&self) {
        self.kill(&self.netns());
    }

    /// As [`destroy`](Self::destroy), for a pod that containerd may have forgotten.
    #[track_caller]
    pub(crate) fn kill(&self, netns: &str) {
        let processes = self.cri.containerd.processes();
        self.ctr(&["tasks", "kill", "--signal", "SIGKILL"]).run();
        processes.command("umount").arg(netns).run();
        processes.command("rm").arg(netns).run();
    }

    /// The path of the pod's network namespace.
    #[track_caller]
    pub(crate) fn netns(&self) -> String {
        let status = self.cri.call("PodSandboxStatus", &self.request().number(2, 1));
        let info = status.inner(2).string(2);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap_or_else(|error| panic!("{error}: {info}"));
        let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array().expect("a list of namespaces");
        let network = namespaces.iter().find(|namespace| namespace["type"] == "network").expect("one of the network");
        network["path"].as_str().expect("it has a name").to_owned()
    }

    /// Restarts containerd without the label that marks the container as a pod. The pod continues.
    #[track_caller]
    pub(crate) fn forget(&self) {
        self.ctr(&["containers", "label"]).arg("io.cri-containerd.kind=").run();
        self.cri.restart();
    }

    /// Deletes a killed pod that containerd has forgotten.
    #[track_caller]
    pub(crate) fn delete(self) {
        // It ends with the exit status of the process.
        let _ = self.ctr(&["tasks", "delete"]).output();
        self.ctr(&["containers", "delete"]).run();
    }

    /// The container id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    fn ctr(&self, words: &[&str]) -> Command {
        let arguments = [&["--namespace", NAMESPACE], words, &[&self.id]].concat();
        self.cri.containerd.ctr(&arguments)
    }

    /// Ends the pod, as `crictl stopp` and `crictl rmp` do.
    #[track_caller]
    pub(crate) fn remove(self) {
        self.cri.call("StopPodSandbox", &self.request());
        self.cri.call("RemovePodSandbox", &self.request());
    }

    fn request(&self) -> Message {
        Message::new().text(1, &self.id)
    }
}

impl Attached for Sandbox<'_> {
    /// The address that the kubelet receives.
    fn address(&self) -> String {
        let status = self.cri.call("PodSandboxStatus", &self.request()).inner(1);
        status.inner(5).string(1)
    }

    fn command(&self, words: &[&str]) -> Command {
        self.cri.containerd.exec(NAMESPACE, &self.id, words)
    }
}
