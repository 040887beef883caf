//! Services, by kube-proxy, with this plugin below.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::bench::{Bench, PATIENCE, answers_of_all, client_address, fetch_by, url};
use super::objects::{HTTP, idle, labeled, pod, server, service, with_spec};
use crate::process::wait_until;
use crate::settings::{WORLD, addresses};

/// The servers of a service: one on the first node, one on the last.
const SERVERS: [&str; 2] = ["web-1", "web-2"];

/// Creates two servers with a service `web`, and a client on each node.
fn with_servers(bench: &Bench, service: Value) -> Result<Vec<String>> {
    let ends = bench.both_ends();
    let servers = SERVERS.iter().zip(&ends).map(|(name, node)| labeled(pod(name, &node.name(), server()), "web"));
    let nodes = bench.nodes();
    let clients: Vec<_> = nodes.iter().map(|node| format!("client-{}", node.number())).collect();
    let idle_pods = clients.iter().zip(&nodes).map(|(name, node)| pod(name, &node.name(), idle()));
    bench.create(std::iter::once(service))?;
    bench.create_ready(servers.chain(idle_pods))?;
    Ok(clients)
}

/// Pods and nodes reach both servers by the service's address, and the servers see the client.
pub(super) fn cluster_ip(bench: &Bench) -> Result<()> {
    let clients = with_servers(bench, service("web", "web"))?;
    for (family, address) in bench.service_addresses("web")?.iter().enumerate() {
        for client in &clients {
            bench.reaches_all(client, (address, 80), &SERVERS)?;
            let seen = bench.fetch(client, address, 80, "clientip")?;
            let (seen, own) = (client_address(&seen), &bench.addresses(client)?[family]);
            ensure!(seen == own, "a server sees {seen} as the address of {client}, which is {own}");
        }
        for node in bench.nodes() {
            let what = format!("an answer from {} to {}", url(address, 80, ""), node.name());
            wait_until(&what, PATIENCE, || fetch_by(node.command("curl"), address, 80, "hostname").map(|_| true))?;
        }
    }
    Ok(())
}

/// The only server of a service reaches itself by the service's address.
pub(super) fn hairpin(bench: &Bench) -> Result<()> {
    let [_, last] = bench.both_ends();
    bench.create([service("self", "self")])?;
    bench.create_ready([pod("self", &last.name(), server())])?;
    for address in bench.service_addresses("self")? {
        bench.reaches_all("self", (&address, 80), &["self"])?;
    }
    Ok(())
}

/// Datagrams reach the servers.
pub(super) fn udp(bench: &Bench) -> Result<()> {
    let clients = with_servers(bench, service("web", "web"))?;
    for address in bench.service_addresses("web")? {
        for client in &clients {
            let send = format!("echo hostname | nc -u -w 1 {address} 81");
            let what = format!("answers of both servers at {address} to {client}");
            answers_of_all(&what, &SERVERS, || bench.exec(client, &["sh", "-c", &send]))?;
        }
    }
    Ok(())
}

/// The world outside, pods and nodes reach the servers by the port of every node.
pub(super) fn node_port(bench: &Bench) -> Result<()> {
    let clients = with_servers(bench, with_spec(service("web", "web"), "type", "NodePort"))?;
    let port = bench.node_port("web", "http")?;
    for node in bench.nodes() {
        for address in addresses(node.number()).iter().take(bench.families()).map(ToString::to_string) {
            let what = format!("answers of both servers at {address} port {port}");
            let world = || fetch_by(bench.cluster.world().command("curl"), &address, port, "hostname");
            answers_of_all(&what, &SERVERS, world)?;
            for client in &clients {
                bench.reaches_all(client, (&address, port), &SERVERS)?;
            }
            for source in bench.nodes() {
                fetch_by(source.command("curl"), &address, port, "hostname")
                    .with_context(|| format!("{} requests {address} port {port}", source.name()))?;
            }
        }
    }
    Ok(())
}

/// With `externalTrafficPolicy: Local`, a server sees the address of a client of the world outside.
pub(super) fn node_port_local(bench: &Bench) -> Result<()> {
    let local = with_spec(with_spec(service("web", "web"), "type", "NodePort"), "externalTrafficPolicy", "Local");
    with_servers(bench, local)?;
    let port = bench.node_port("web", "http")?;
    let [first, last] = bench.both_ends();
    for node in [first, last] {
        for (family, address) in addresses(node.number()).iter().take(bench.families()).enumerate() {
            let address = address.to_string();
            let mut seen = String::new();
            wait_until(&format!("an answer at {address} port {port}"), PATIENCE, || {
                seen = fetch_by(bench.cluster.world().command("curl"), &address, port, "clientip")?;
                Ok(true)
            })?;
            let world = addresses(WORLD)[family].to_string();
            ensure!(client_address(&seen) == world, "a server sees {seen} as the client's address, which is {world}");
        }
    }
    Ok(())
}

/// The name of a headless service resolves to the addresses of its pods.
pub(super) fn headless(bench: &Bench) -> Result<()> {
    let clients = with_servers(bench, with_spec(service("web", "web"), "clusterIP", "None"))?;
    let [first, second] = SERVERS.map(|server| bench.addresses(server));
    let (first, second) = (first?, second?);
    for (family, kind) in ["A", "AAAA"].iter().enumerate().take(bench.families()) {
        let mut expected = [first[family].clone(), second[family].clone()];
        expected.sort();
        for client in &clients {
            let name = format!("web.{}.svc.cluster.local", bench.namespace());
            let mut found = Vec::new();
            wait_until(&format!("the {kind} records of {name}"), PATIENCE, || {
                let answer = bench.exec(client, &["dig", "+short", "+time=5", kind, &name])?;
                found = answer.lines().map(str::to_owned).collect();
                found.sort();
                Ok(found == expected)
            })
            .with_context(|| format!("{client} resolves {name} to {found:?}, and the pods have {expected:?}"))?;
        }
    }
    Ok(())
}

/// With session affinity, all requests of a client reach the same server.
pub(super) fn affinity(bench: &Bench) -> Result<()> {
    let clients = with_servers(bench, with_spec(service("web", "web"), "sessionAffinity", "ClientIP"))?;
    for address in bench.service_addresses("web")? {
        for client in &clients {
            bench.wait_fetch(client, &address, 80)?;
            let first = bench.fetch(client, &address, 80, "hostname")?;
            for _ in 0..15 {
                let next = bench.fetch(client, &address, 80, "hostname")?;
                ensure!(next == first, "{client} reached {next} after {first}");
            }
        }
    }
    Ok(())
}

/// A port of the node reaches the pod that has it, and is closed after the pod is deleted.
pub(super) fn host_port(bench: &Bench) -> Result<()> {
    const PORT: u16 = 18080;
    let [first, last] = bench.both_ends();
    let mut container = server();
    container["ports"] = json!([{ "containerPort": HTTP, "hostPort": PORT }]);
    bench.create_ready([pod("published", &last.name(), container), pod("client", &first.name(), idle())])?;
    for address in addresses(last.number()).iter().take(bench.families()).map(ToString::to_string) {
        let from_world = || fetch_by(bench.cluster.world().command("curl"), &address, PORT.into(), "hostname");
        wait_until(&format!("an answer at {address} port {PORT}"), PATIENCE, || Ok(from_world()? == "published"))?;
        bench.reaches_all("client", (&address, PORT.into()), &["published"])?;
    }
    bench.words("delete pod published")?;
    for address in addresses(last.number()).iter().take(bench.families()).map(ToString::to_string) {
        let answer = fetch_by(bench.cluster.world().command("curl"), &address, PORT.into(), "hostname");
        ensure!(answer.is_err(), "{address} port {PORT} still answers after the pod is gone: {answer:?}");
    }
    Ok(())
}
