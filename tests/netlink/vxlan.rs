//! The UDP port of VXLAN links.

use cnikit::netlink::{Error, LinkSpec, Vxlan};

use crate::{
    kinds::lacks,
    support::{Fixture, link, name, run},
};

#[test]
fn taken_udp_port_of_an_external_vxlan_is_named() {
    let Some(fixture) = Fixture::new() else { return };
    if lacks(&fixture, "vxlan id 1 dstport 4789", "") {
        return;
    }
    let vx = |link: &str, vxlan: Vxlan| LinkSpec::new(name(link), vxlan.port(8472)).no_arp().up();
    let taken = |error: Error| match error {
        Error::UdpPortTaken { port, .. } => port,
        error => panic!("{error:?}"),
    };
    let socket = &fixture.on_host;
    let first = socket.create_link(&vx("vx0", Vxlan::external())).expect("create");
    let shown = link(&fixture.host, "vx0")["flags"].take();
    assert!(shown.as_array().is_some_and(|flags| flags.contains(&"NOARP".into())), "{shown}");
    assert!(!socket.link_by_index(first).expect("look up").expect("vx0").arp);
    for other in [Vxlan::external(), Vxlan::new(7)] {
        let error = socket.create_link(&vx("vx1", other)).expect_err("the port is taken");
        assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE));
        assert!(error.to_string().contains("vxlan link vx1") && error.to_string().contains("8472"), "{error}");
        assert_eq!(taken(error), 8472);
        assert_eq!(socket.link_by_name(&name("vx1")).expect("look up"), None);
        let inside = vx("vx1", other).netns(&fixture.pod);
        assert_eq!(taken(socket.create_link(&inside).expect_err("the port is taken")), 8472);
    }
    let error = socket.create_link(&vx("vx0", Vxlan::external())).expect_err("the name is taken");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    socket.delete_link(first).expect("delete");

    // As flannel.1.
    run(&fixture.host, "ip link add flannel.1 type vxlan id 1 dstport 8472");
    run(&fixture.host, "ip link set flannel.1 up");
    assert_eq!(taken(socket.create_link(&vx("vx0", Vxlan::external())).expect_err("the port is taken")), 8472);
    let down = LinkSpec::new(name("vx0"), Vxlan::external().port(8472));
    let index = socket.create_link(&down).expect("the socket is opened later");
    assert_eq!(socket.set_up(index).expect_err("the port is taken").raw_os_error(), Some(libc::EADDRINUSE));
}
