//! The rules of all nodes: kube-proxy for one service, and the masquerading of the network.

use super::node::{CLUSTER, node_address, pod_address, pod_cidr};

/// The rules of kube-proxy in the mode `iptables`, for a service with the pod of the second node.
/// No measured packet is for the service, so the rules only cost time. Connection tracking sees all
/// packets of the stack.
pub(super) fn iptables(node: u8) -> String {
    let (own, address, pod) = (pod_cidr(node), node_address(node), pod_address(2));
    let mut nat = format!(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
         :KUBE-SVC-BENCH - [0:0]\n:KUBE-SEP-BENCH - [0:0]\n\
         -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
         -A POSTROUTING -s {own} ! -d {CLUSTER} -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n"
    );
    for protocol in ["tcp", "udp"] {
        let rule = format!("-p {protocol} -m {protocol}");
        nat += &format!(
            "-A KUBE-SERVICES -d 10.96.0.1/32 {rule} --dport 80 -j KUBE-SVC-BENCH\n\
             -A KUBE-NODEPORTS -d {address}/32 {rule} --dport 30080 -j KUBE-MARK-MASQ\n\
             -A KUBE-NODEPORTS -d {address}/32 {rule} --dport 30080 -j KUBE-SVC-BENCH\n\
             -A KUBE-SVC-BENCH {rule} ! -s {CLUSTER} -j KUBE-MARK-MASQ\n\
             -A KUBE-SEP-BENCH {rule} -j DNAT --to-destination {pod}:5000\n"
        );
    }
    nat += "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n-A KUBE-SVC-BENCH -j KUBE-SEP-BENCH\n";
    let filter = format!(
        "*filter\n:KUBE-FORWARD - [0:0]\n-A FORWARD -j KUBE-FORWARD\n\
         -A FORWARD -s {CLUSTER} -j ACCEPT\n-A FORWARD -d {CLUSTER} -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"
    );
    format!("{nat}COMMIT\n{filter}COMMIT\n")
}

/// The rules of the node agent: the kernel does not track the packets of the tunnel.
pub(super) fn untracked(port: u16) -> String {
    let chain = |name: &str, hook: &str| {
        format!("chain {name} {{ type filter hook {hook} priority raw; udp dport {port} notrack; }}\n")
    };
    format!(
        "table inet simple-ebpf-agent {{\n{}{}}}\n",
        chain("untracked_in", "prerouting"),
        chain("untracked_out", "output")
    )
}
