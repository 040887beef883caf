//! The daemons of a node: their command lines and configurations.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::kubectl::Kubectl;
use crate::layout::Layout;
use crate::node::Node;
use crate::process::{tail, wait_for, wait_until};
use crate::settings::{DNS, Runtime, Settings, WORLD, addresses};

/// The image of the containers that hold the namespaces of pods.
pub(crate) const PAUSE_IMAGE: &str = "localhost/pause:1";

/// The time for a daemon to answer. The first start of the API server is the longest.
const PATIENCE: Duration = Duration::from_secs(120);

/// The database, as the API server reaches it.
const ETCD: &str = "http://127.0.0.1:2379";

/// The socket of the runtime.
const RUNTIME_SOCKET: &str = "/run/containerd/containerd.sock";

/// The daemons that only the first node has.
pub(crate) const CONTROL_PLANE: [Daemon; 4] =
    [Daemon::Etcd, Daemon::ApiServer, Daemon::ControllerManager, Daemon::Scheduler];

/// A daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Daemon {
    Etcd,
    ApiServer,
    ControllerManager,
    Scheduler,
    Containerd,
    Kubelet,
    Proxy,
}

/// The files and settings for the daemons of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Daemons<'c> {
    pub(crate) layout: &'c Layout,
    pub(crate) settings: &'c Settings,
}

impl Daemon {
    /// The name of the process and of its log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Containerd => "containerd",
            Self::Kubelet => "kubelet",
            Self::Proxy => "kube-proxy",
        }
    }
}

impl Daemons<'_> {
    /// Starts a daemon unless it runs, and waits until it answers.
    pub(crate) fn start(&self, node: &Node, daemon: Daemon) -> Result<()> {
        if node.runs(daemon.name()) {
            return Ok(());
        }
        let options = match daemon {
            Daemon::Etcd => self.etcd(),
            Daemon::ApiServer => self.api_server(),
            Daemon::ControllerManager => self.controller_manager(),
            Daemon::Scheduler => self.scheduler(),
            Daemon::Containerd => self.containerd(node)?,
            Daemon::Kubelet => self.kubelet(node)?,
            Daemon::Proxy => self.proxy(node)?,
        };
        let mut command = vec![self.program(daemon).display().to_string()];
        if daemon == Daemon::Containerd && self.settings.runtime == Runtime::Containerd2 {
            // containerd starts its shims by name.
            let path = format!(
                "PATH={}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                self.layout.containerd().display()
            );
            command.splice(0..0, ["env".to_owned(), path]);
        }
        command.extend(options);
        let started = node.start_daemon(daemon.name(), &command).and_then(|()| self.wait(node, daemon));
        started.with_context(|| {
            format!(
                "{} of {} does not answer; the end of its log:\n{}\n",
                daemon.name(),
                node.name(),
                tail(&fs::read_to_string(node.log(daemon.name())).unwrap_or_default())
            )
        })
    }

    /// Waits until a daemon answers that others need at once.
    fn wait(&self, node: &Node, daemon: Daemon) -> Result<()> {
        match daemon {
            Daemon::ApiServer => {
                let kubectl = Kubectl::new(self.layout);
                wait_for("the API server", PATIENCE, || {
                    ensure!(node.runs(daemon.name()), "it has ended");
                    Ok(kubectl.run(&["get", "--raw", "/readyz"]).is_ok().then_some(()))
                })
            }
            Daemon::Containerd => wait_until("containerd", PATIENCE, || {
                Ok(node.shell(&format!("{} version", self.ctr().display())).is_ok())
            }),
            _ => Ok(()),
        }
    }

    /// The client of the runtime.
    pub(crate) fn ctr(&self) -> PathBuf {
        match self.settings.runtime {
            Runtime::System => "ctr".into(),
            Runtime::Containerd2 => self.layout.containerd().join("ctr"),
        }
    }

    fn program(&self, daemon: Daemon) -> PathBuf {
        match (daemon, self.settings.runtime) {
            (Daemon::Containerd, Runtime::System) => "containerd".into(),
            (Daemon::Containerd, Runtime::Containerd2) => self.layout.containerd().join("containerd"),
            _ => self.layout.program(daemon.name()),
        }
    }

    /// `--name=value` for each pair.
    fn options<V: ToString, const N: usize>(pairs: [(&str, V); N]) -> Vec<String> {
        pairs.map(|(name, value)| format!("--{name}={}", value.to_string())).into()
    }

    fn file(&self, name: &str) -> String {
        self.layout.control_plane(name).display().to_string()
    }

    fn etcd(&self) -> Vec<String> {
        Self::options([
            ("data-dir", self.file("etcd").as_str()),
            ("listen-client-urls", ETCD),
            ("advertise-client-urls", ETCD),
            ("listen-peer-urls", "http://127.0.0.1:2380"),
            ("log-level", "warn"),
            // The cluster does not outlive a power failure of the machine.
            ("unsafe-no-fsync", "true"),
        ])
    }

    fn api_server(&self) -> Vec<String> {
        let key = self.file("service-accounts.key");
        Self::options([
            ("etcd-servers", ETCD.to_owned()),
            ("advertise-address", addresses(1)[0].to_string()),
            ("secure-port", "6443".to_owned()),
            // The server creates its certificate here.
            ("cert-dir", self.file("server")),
            ("token-auth-file", self.file("tokens.csv")),
            ("service-cluster-ip-range", self.settings.service_cidrs().to_owned()),
            ("service-account-issuer", "https://kubernetes.default.svc.cluster.local".to_owned()),
            ("service-account-key-file", key.clone()),
            ("service-account-signing-key-file", key),
            ("authorization-mode", "Node,RBAC".to_owned()),
            ("enable-admission-plugins", "NodeRestriction".to_owned()),
            ("allow-privileged", "true".to_owned()),
            ("kubelet-client-certificate", self.file("kubelet-client.crt")),
            ("kubelet-client-key", self.file("kubelet-client.key")),
            ("kubelet-preferred-address-types", "InternalIP".to_owned()),
        ])
    }

    fn controller_manager(&self) -> Vec<String> {
        let mut options = Self::options([
            ("service-account-private-key-file", self.file("service-accounts.key")),
            ("root-ca-file", self.file("server/apiserver.crt")),
            ("use-service-account-credentials", "true".to_owned()),
            ("allocate-node-cidrs", "true".to_owned()),
            ("cluster-cidr", self.settings.cluster_cidrs().to_owned()),
            ("service-cluster-ip-range", self.settings.service_cidrs().to_owned()),
            ("leader-elect", "false".to_owned()),
        ]);
        options.extend(self.client_configurations("controller-manager"));
        options
    }

    fn scheduler(&self) -> Vec<String> {
        let mut options = self.client_configurations("scheduler");
        options.push("--leader-elect=false".to_owned());
        options
    }

    fn client_configurations(&self, name: &str) -> Vec<String> {
        let file = self.file(&format!("{name}.conf"));
        ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
            .map(|option| format!("--{option}={file}"))
            .into()
    }

    fn containerd(&self, node: &Node) -> Result<Vec<String>> {
        // The machine's root may lack CAP_SYS_RESOURCE, which lower scores of the OOM killer need.
        let text = format!(
            "version = 2\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"/var/lib/containerd/opt\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\n\
             sandbox_image = {PAUSE_IMAGE:?}\ndisable_apparmor = true\nrestrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
             bin_dir = \"/opt/cni/bin\"\nconf_dir = \"/etc/cni/net.d\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n\
             runtime_type = \"io.containerd.runc.v2\"\n"
        );
        let path = self.write(node, "containerd.toml", &text)?;
        Ok(vec!["--config".to_owned(), path])
    }

    fn kubelet(&self, node: &Node) -> Result<Vec<String>> {
        let resolver = self.write(node, "resolv.conf", &format!("nameserver {}\n", addresses(WORLD)[0]))?;
        let configuration = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": { "enabled": false },
                "webhook": { "enabled": true },
                "x509": { "clientCAFile": self.file("kubelet-client.crt") },
            },
            "authorization": { "mode": "Webhook" },
            "containerRuntimeEndpoint": format!("unix://{RUNTIME_SOCKET}"),
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": false,
            "failSwapOn": false,
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": resolver,
            "maxPods": 250,
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
            // The images cannot be pulled again, and the machine's disk may be nearly full.
            "evictionHard": { "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
        });
        let path = self.write(node, "kubelet.json", &configuration.to_string())?;
        let [v4, v6] = addresses(node.number());
        let own = if self.settings.dual_stack { format!("{v4},{v6}") } else { v4.to_string() };
        Ok(Self::options([
            ("config", path),
            ("kubeconfig", self.file(&format!("{}.conf", node.name()))),
            ("hostname-override", node.name()),
            ("node-ip", own),
        ]))
    }

    fn proxy(&self, node: &Node) -> Result<Vec<String>> {
        let configuration: Value = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": self.settings.proxy_mode(),
            "clusterCIDR": self.settings.cluster_cidrs(),
            "hostnameOverride": node.name(),
            "clientConnection": { "kubeconfig": self.file("proxy.conf") },
            // The size of the conntrack table belongs to the machine.
            "conntrack": { "maxPerCore": 0, "min": 0 },
        });
        let path = self.write(node, "kube-proxy.json", &configuration.to_string())?;
        Ok(vec![format!("--config={path}")])
    }

    /// Writes a file of the node, and returns its path.
    fn write(&self, node: &Node, name: &str, content: &str) -> Result<String> {
        let path = self.layout.node(node.number(), name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.display().to_string())
    }
}
