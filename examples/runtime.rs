//! A small container runtime: attaches network namespaces to the networks in a directory.
//!
//! ```sh
//! cargo build --example runtime
//! sudo ip netns add blue
//! sudo target/debug/examples/runtime add mynet blue /run/netns/blue
//! sudo target/debug/examples/runtime list
//! sudo target/debug/examples/runtime del mynet blue /run/netns/blue
//! ```
//!
//! `CNI_PATH` lists the directories of the plugins (default `/opt/cni/bin`), and `NETCONFPATH` is
//! the directory of the configurations (default `/etc/cni/net.d`). The cache of results is the one
//! of containerd and cnitool.

#![expect(clippy::print_stdout, reason = "a runtime is no plugin: its standard output is for users")]

use std::env;
use std::error::Error;
use std::iter;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use cnikit::runtime::{AttachmentParameters, NetworkConfigList, Runtime};
use cnikit::spec::AttachmentKey;

const USAGE: &str = "\
Usage: runtime add|check|del NETWORK CONTAINER NETNS [IFNAME]
       runtime gc|status|validate NETWORK
       runtime list";

/// A plugin that takes longer is killed with its children.
const TIMEOUT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match run(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // An error names the object. Its sources name the reasons.
            let chain = iter::successors(Some(error.as_ref() as &dyn Error), |&error| error.source());
            eprintln!("runtime: {}", chain.map(ToString::to_string).collect::<Vec<_>>().join(": "));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<(), Box<dyn Error>> {
    let path = env::var("CNI_PATH").unwrap_or_else(|_| "/opt/cni/bin".to_owned());
    let runtime = Runtime::new(path.split(':')).timeout(TIMEOUT).forward_stderr();
    let (verb, network) = match *args {
        ["list"] => return list(&runtime),
        [verb, network, ..] => (verb, load(network)?),
        _ => return Err(USAGE.into()),
    };
    match (verb, &args[2..]) {
        ("add", rest) => {
            let result = runtime.add(&network, &parameters(rest)?)?;
            println!("{}", result.to_json(network.cni_version)?);
        }
        ("check", rest) => runtime.check(&network, &parameters(rest)?)?,
        ("del", rest) => runtime.del(&network, &parameters(rest)?)?,
        // All attachments that this runtime still knows are valid.
        ("gc", []) => {
            let known = runtime.result_cache().attachments()?;
            let of_network = known.iter().filter(|cached| cached.network == network.name);
            let valid: Vec<_> = of_network.map(|cached| AttachmentKey::from(&cached.attachment())).collect();
            runtime.gc(&network, &valid)?;
        }
        ("status", []) => runtime.status(&network)?,
        ("validate", []) => runtime.validate(&network)?,
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

fn load(network: &str) -> Result<NetworkConfigList, Box<dyn Error>> {
    let dir = env::var("NETCONFPATH").unwrap_or_else(|_| "/etc/cni/net.d".to_owned());
    Ok(NetworkConfigList::load(Path::new(&dir), &network.parse()?)?)
}

fn parameters(args: &[&str]) -> Result<AttachmentParameters, Box<dyn Error>> {
    let (container, netns, ifname) = match *args {
        [container, netns] => (container, netns, "eth0"),
        [container, netns, ifname] => (container, netns, ifname),
        _ => return Err(USAGE.into()),
    };
    Ok(AttachmentParameters::new(container.parse()?, ifname.parse()?).netns(netns))
}

fn list(runtime: &Runtime) -> Result<(), Box<dyn Error>> {
    for cached in runtime.result_cache().attachments()? {
        let addresses: Vec<String> = cached.result.ips.iter().map(|ip| ip.address.to_string()).collect();
        let attachment = cached.attachment();
        println!("{}\t{}\t{}\t{}", attachment.network, attachment.container_id, attachment.ifname, addresses.join(","));
    }
    Ok(())
}
