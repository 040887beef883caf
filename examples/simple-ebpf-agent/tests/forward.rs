//! Packet filters of other programs that drop forwarded packets of pods.

use std::process::Stdio;
use std::time::Duration;

use cnikit::netlink::Sysctl;
use cnikit_testbed::{Host, Namespace as _, Pod, eventually, host};
use ipnetwork::IpNetwork;
use simple_ebpf_agent::forward::{apply, dropping, ensure, remove};

/// The address of a machine that is neither a pod nor the host.
const OTHER: [&str; 2] = ["192.0.2.2", "fd00:2::2"];

/// The chains of docker, without its rules for containers.
const DOCKER: [&str; 6] = [
    "-P FORWARD DROP",
    "-N DOCKER-USER",
    "-N DOCKER-FORWARD",
    "-A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A FORWARD -j DOCKER-USER",
    "-A FORWARD -j DOCKER-FORWARD",
];

/// The chains of firewalld 1.3 at the hook, without its zones.
const FIREWALLD: &str = "table inet firewalld {
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname \"lo\" accept
    jump filter_FORWARD_ZONES
    reject with icmpx admin-prohibited
  }
  chain filter_FORWARD_ZONES { iifname \"docker0\" accept; }
}";

fn cidrs(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().map(|text| text.parse().expect("a network")).collect()
}

fn own() -> Vec<IpNetwork> {
    cidrs(&["10.244.1.0/24", "fd00:1::/64"])
}

fn nft(host: &Host, script: &str) {
    // nft ends a block only before the end of a line.
    host.command("nft").args(["-f", "-"]).stdin(script.replace("; }", ";\n}").replace("} }", "}\n}")).run();
}

fn ruleset(host: &Host) -> String {
    host.command("nft").words("-a list ruleset").run()
}

fn iptables(host: &Host, lines: &[&str]) {
    for line in lines {
        for program in ["iptables-nft", "ip6tables-nft"] {
            host.command(program).words(line).run();
        }
    }
}

/// A pod and another machine. The host forwards between them.
fn with_pod(test: impl FnOnce(&Host, &Pod) + Send) {
    host(|host| {
        let (pod, other) = (host.pod(), host.pod());
        for (namespace, link, number) in
            [(&pod, "pod", ["10.244.1", "fd00:1:"]), (&other, "lan", ["192.0.2", "fd00:2:"])]
        {
            let [v4, v6] = number;
            host.ip(&format!("link add {link} type veth peer name eth0 netns {}", namespace.netns().display()));
            host.ip(&format!("link set {link} up"));
            namespace.ip("link set eth0 up");
            for (at, end) in [(host as &dyn Addressed, 1), (namespace as &dyn Addressed, 2)] {
                let dev = if end == 1 { link } else { "eth0" };
                at.line(&format!("address add {v4}.{end}/24 dev {dev}"));
                at.line(&format!("address add {v6}:{end}/64 dev {dev} nodad"));
            }
            namespace.ip(&format!("route add default via {v4}.1"));
            namespace.ip(&format!("-6 route add default via {v6}:1"));
        }
        Sysctl::Ipv4Forward.write(1).expect("a setting of this namespace");
        Sysctl::Ipv6Forward.write(1).expect("a setting of this namespace");
        // The addresses are usable, and nothing drops yet.
        eventually("a packet passes the host", Duration::from_secs(10), || passes(&pod) == [true, true]);
        test(host, &pod);
        assert!(!ruleset(host).contains("simple-ebpf-agent"), "{}", ruleset(host));
        host.ip("link delete pod");
        host.ip("link delete lan");
    });
}

/// A namespace with `ip`, for the host and the pods.
trait Addressed {
    fn line(&self, line: &str);
}

impl Addressed for Host {
    fn line(&self, line: &str) {
        self.ip(line);
    }
}

impl Addressed for Pod {
    fn line(&self, line: &str) {
        self.ip(line);
    }
}

/// Whether packets of each family pass from the pod to the other machine and back.
fn passes(pod: &Pod) -> [bool; 2] {
    OTHER.map(|other| pod.ping(other, 1).status.success())
}

/// Applies twice. The second time changes no rule.
#[track_caller]
fn applied(host: &Host, own: &[IpNetwork]) -> String {
    assert_eq!(apply(own, true), Vec::<String>::new());
    let rules = ruleset(host);
    let again = ensure(own).expect("the chains can be read");
    assert!(again.changed.is_empty() && again.refused.is_empty(), "{again:?}");
    assert_eq!(ruleset(host), rules);
    rules
}

#[track_caller]
fn removed() {
    assert!(remove().expect("the chains can be read").refused.is_empty());
}

#[test]
fn pods_pass_the_policy_of_docker() {
    with_pod(|host, pod| {
        iptables(host, &DOCKER);
        assert_eq!(passes(pod), [false, false], "docker drops");
        let before = host.command("iptables-nft").words("-S FORWARD").run();
        applied(host, &own());
        assert_eq!(passes(pod), [true, true]);

        let rules = host.command("iptables-nft").words("-S FORWARD").run();
        let lines: Vec<&str> = rules.lines().collect();
        assert_eq!(lines.len(), 5, "{rules}");
        assert!(lines[1].starts_with("-A FORWARD -s 10.244.1.0/24 ") && lines[1].ends_with("-j ACCEPT"), "{rules}");
        assert!(lines[2].starts_with("-A FORWARD -d 10.244.1.0/24 ") && lines[2].ends_with("-j ACCEPT"), "{rules}");
        assert_eq!(lines[3..], ["-A FORWARD -j DOCKER-USER", "-A FORWARD -j DOCKER-FORWARD"]);
        for program in ["iptables-nft", "ip6tables-nft"] {
            let listed = host.command(program).words("-L FORWARD -v -n").output();
            assert!(listed.status.success() && !listed.stderr.contains("ncompatible"), "{listed:?}");
            assert!(listed.stdout.contains("ACCEPT"), "{listed:?}");
        }

        // A restored rule has its comment in another form, and is still one of the agent.
        let saved = host.command("iptables-nft-save").output();
        assert!(saved.status.success() && saved.stderr.is_empty(), "{saved:?}");
        assert!(saved.stdout.contains("-s 10.244.1.0/24") && !saved.stdout.contains("ncompatible"), "{saved:?}");
        host.command("iptables-nft-restore").stdin(saved.stdout).run();
        applied(host, &own());
        assert_eq!(host.command("iptables-nft").words("-S FORWARD").run().lines().count(), 5);

        removed();
        assert_eq!(passes(pod), [false, false]);
        assert_eq!(host.command("iptables-nft").words("-S FORWARD").run(), before);
    });
}

#[test]
fn pods_pass_the_last_rule_of_firewalld() {
    with_pod(|host, pod| {
        nft(host, FIREWALLD);
        assert_eq!(passes(pod), [false, false], "firewalld rejects");
        applied(host, &own());
        assert_eq!(passes(pod), [true, true]);
        // A reload creates the table again.
        nft(host, &format!("flush ruleset\n{FIREWALLD}"));
        assert_eq!(passes(pod), [false, false]);
        applied(host, &own());
        assert_eq!(passes(pod), [true, true]);
        removed();
        assert_eq!(passes(pod), [false, false]);
    });
}

#[test]
fn missing_rules_return_and_stale_ones_go() {
    with_pod(|host, pod| {
        let chain = "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; } }";
        nft(host, chain);
        applied(host, &own());
        nft(host, &format!("flush ruleset\n{chain}"));
        assert!(!passes(pod)[0]);
        applied(host, &own());
        assert!(passes(pod)[0]);
        nft(host, "flush chain ip filter FORWARD");
        assert!(!passes(pod)[0]);
        applied(host, &own());
        assert!(passes(pod)[0]);

        let rules = applied(host, &cidrs(&["10.244.7.0/24"]));
        assert!(rules.contains("10.244.7.0/24") && !rules.contains("10.244.1.0/24"), "{rules}");
        assert!(!passes(pod)[0]);
        // The chain does not drop any more.
        nft(host, "add chain ip filter FORWARD { policy accept; }");
        assert!(!applied(host, &own()).contains("10.244"));
    });
}

#[test]
fn chains_that_accept_stay_as_they_are() {
    with_pod(|host, _| {
        nft(
            host,
            "table inet theirs {
                chain forward { type filter hook forward priority 0; policy accept;
                    tcp dport 25 drop; ip saddr 198.51.100.0/24 counter drop; }
                chain input { type filter hook input priority 0; policy drop; }
                chain called { drop; }
            }
            table bridge theirs { chain forward { type filter hook forward priority 0; policy drop; } }
            table arp theirs { chain input { type filter hook input priority 0; policy drop; } }",
        );
        let before = ruleset(host);
        assert_eq!(apply(&own(), true), Vec::<String>::new());
        assert_eq!(apply(&own(), false), Vec::<String>::new());
        assert_eq!(ruleset(host), before);
    });
}

#[test]
fn each_form_of_a_last_drop_is_seen() {
    with_pod(|host, pod| {
        for last in [
            "drop",
            "counter drop",
            "log prefix \"x\" counter drop",
            "reject",
            "counter reject with icmpx type no-route",
        ] {
            nft(
                host,
                &format!("table inet theirs {{ chain forward {{ type filter hook forward priority 5; {last}; }} }}"),
            );
            assert_eq!(passes(pod), [false, false], "{last}");
            applied(host, &own());
            assert_eq!(passes(pod), [true, true], "{last}");
            removed();
            nft(host, "delete table inet theirs");
        }
        for last in ["-A FORWARD -j DROP", "-A FORWARD -m comment --comment last -j REJECT"] {
            iptables(host, &[last]);
            assert_eq!(passes(pod), [false, false], "{last}");
            applied(host, &own());
            assert_eq!(passes(pod), [true, true], "{last}");
            removed();
            nft(host, "flush ruleset");
        }
    });
}

#[test]
fn problems_name_the_chain_and_a_command_that_works() {
    with_pod(|host, pod| {
        iptables(host, &DOCKER);
        let chain = "table inet theirs { chain pass { type filter hook forward priority 5; drop; } }";
        nft(host, chain);
        applied(host, &own());
        let problems = apply(&own(), false);
        assert_eq!(passes(pod), [false, false], "the option off removes the rules");
        assert_eq!(problems.len(), 3, "{problems:?}");
        let of = |name: &str| {
            let found = problems.iter().find(|problem| problem.contains(name));
            found.unwrap_or_else(|| panic!("{name}: {problems:?}")).clone()
        };
        assert!(of("chain ip filter FORWARD drops").contains("its policy is drop: iptables-nft -I"));
        assert!(of("chain ip6 filter FORWARD drops").contains("its policy is drop: ip6tables-nft -I"));
        assert!(of("chain inet theirs pass drops").contains("its last rule drops or rejects all packets: nft "));
        for problem in &problems {
            let (_, command) = problem.split_once(": ").and_then(|(_, rest)| rest.split_once(": ")).expect("a command");
            let run = host.command("sh").args(["-c", command]).output();
            assert!(run.status.success(), "{command}: {run:?}");
        }
        assert_eq!(passes(pod), [true, true], "after the commands");
        assert_eq!(apply(&own(), false), Vec::<String>::new());
        let before = ruleset(host);
        assert_eq!(applied(host, &own()), before, "the rules of the operator are enough");
        removed();
        assert_eq!(ruleset(host), before, "the rules of the operator stay");
    });
}

#[test]
fn table_of_an_owner_is_a_problem_with_the_command_of_firewalld() {
    with_pod(|host, pod| {
        // Only the socket that created the table can change it.
        let mut owner = std::process::Command::new("nft").arg("-i").stdin(Stdio::piped()).spawn().expect("start nft");
        let mut input = owner.stdin.take().expect("a pipe");
        let line = FIREWALLD.replacen('{', "{ flags owner;", 1).replace('\n', " ; ").replace("{ ;", "{");
        std::io::Write::write_all(&mut input, format!("{line}\n").as_bytes()).expect("write");
        eventually("the table exists", Duration::from_secs(10), || ruleset(host).contains("filter_FORWARD_ZONES"));
        assert_eq!(passes(pod), [false, false]);
        let problems = apply(&own(), true);
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert!(problem.contains("inet firewalld filter_FORWARD") && problem.contains("refuses"), "{problem}");
        let command = "firewall-cmd --permanent --zone=trusted --add-source=10.244.1.0/24 --add-source=fd00:1::/64";
        assert!(problem.contains(command), "{problem}");
        drop(input);
        owner.wait().expect("nft ends at the end of its input");
        assert_eq!(dropping(&own()).expect("the chains can be read"), []);
    });
}
