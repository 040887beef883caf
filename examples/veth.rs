//! Connects two new network namespaces with a veth pair, and prints their links.
//!
//! Run it with `sudo -E cargo run --no-default-features --features netlink --example veth`. The
//! namespaces have no name, and the kernel deletes them when the example exits. The example changes
//! nothing else.
//!
//! ```text
//! left
//!   1: lo up, mtu 65536
//!   2: left0 up, mtu 1450, veth, 02:00:00:00:00:01, 10.22.0.1/24 fd00:22::1/64 fe80::ff:fe00:1/64
//! right
//!   1: lo up, mtu 65536
//!   2: right0 up, mtu 1450, veth, 02:00:00:00:00:02, 10.22.0.2/24 fd00:22::2/64
//! ```
#![expect(clippy::print_stdout, reason = "an example shows its results")]

use std::error::Error;

use cnikit::{
    netlink::{IfIndex, Netns, Route, Socket, VethEnd, VethPair},
    spec::MacAddr,
};

fn main() -> Result<(), Box<dyn Error>> {
    // A CNI plugin opens the pod's namespace by its path: `Netns::open(path)`.
    let left = Netns::create()?;
    let right = Netns::create()?;

    // The sockets are opened inside the namespaces and used from here. This thread does not change
    // its namespace.
    let on_left = left.socket()?;
    let on_right = right.socket()?;

    // One message creates both ends, each with its name, its address and its namespace.
    let pair = VethPair::new(
        VethEnd::new("left0".parse()?, MacAddr::new([0x02, 0, 0, 0, 0, 1])),
        VethEnd::new("right0".parse()?, MacAddr::new([0x02, 0, 0, 0, 0, 2])),
        &right,
    );
    let indexes = on_left.create_veth(&pair.mtu(1450).host_up())?;
    on_right.set_up(indexes.peer)?;

    on_left.set_up(IfIndex::LOOPBACK)?;
    on_right.set_up(IfIndex::LOOPBACK)?;
    on_left.add_address(indexes.host, "10.22.0.1/24".parse()?)?;
    on_left.add_address(indexes.host, "fd00:22::1/64".parse()?)?;
    on_right.add_address(indexes.peer, "10.22.0.2/24".parse()?)?;
    on_right.add_address(indexes.peer, "fd00:22::2/64".parse()?)?;
    on_right.add_route(&Route::default_via("10.22.0.1".parse()?, indexes.peer))?;

    println!("left");
    show(&on_left)?;
    println!("right");
    show(&on_right)?;
    Ok(())
}

fn show(socket: &Socket) -> Result<(), Box<dyn Error>> {
    for link in socket.links()? {
        let state = if link.up { "up" } else { "down" };
        print!("  {}: {} {state}, mtu {}", link.index, link.name, link.mtu);
        if let (Some(kind), Some(mac)) = (&link.kind, link.mac) {
            let addresses = socket.addresses(link.index)?;
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            print!(", {kind}, {mac}, {}", addresses.join(" "));
        }
        println!();
    }
    Ok(())
}
