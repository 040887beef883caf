//! Requests that the test encodes itself.

use std::os::fd::AsFd as _;

use cnikit::{
    netlink::{
        Error,
        raw::{Attributes, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, RawRequest, attributes},
    },
    spec::{ErrorCode, HasErrorCode as _},
};
use rustix::net::{AddressFamily, sockopt::socket_domain};

use crate::support::{Fixture, link};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_GETNSID: u16 = 90;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
/// `struct ifinfomsg`.
const IFINFOMSG: [u8; 16] = [0; 16];

fn new_link(name: &str, kind: &str) -> RawRequest {
    let info = Attributes::new().put_text(IFLA_INFO_KIND, kind);
    let attributes = Attributes::new().put_text(IFLA_IFNAME, name).put_u32(IFLA_MTU, 1402);
    RawRequest::new("create link", name, RTM_NEWLINK)
        .flags(NLM_F_CREATE | NLM_F_EXCL)
        .header(&IFINFOMSG)
        .attributes(attributes.nest(IFLA_LINKINFO, info))
}

#[test]
fn request_creates_a_link() {
    let Some(fixture) = Fixture::new() else { return };
    let answers = fixture.on_host.raw_request(&new_link("mine0", "bridge")).expect("create");
    assert_eq!(answers, [], "a change has no answer");
    let seen = link(&fixture.host, "mine0");
    assert_eq!((&seen["linkinfo"]["info_kind"], &seen["mtu"]), (&"bridge".into(), &1402.into()));
    let error = fixture.on_host.raw_request(&new_link("mine0", "bridge")).expect_err("it exists");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    assert_eq!(error.to_string(), "create link mine0: it already exists");
}

#[test]
fn refusal_has_the_explanation_of_the_kernel() {
    let Some(fixture) = Fixture::new() else { return };
    let error = fixture.on_host.raw_request(&new_link("mine0", "no-such-kind")).expect_err("an unknown kind");
    let Error::Kernel { operation, object, message, .. } = &error else { panic!("{error:?}") };
    assert_eq!((*operation, object.as_str()), ("create link", "mine0"));
    assert_eq!(message.as_deref(), Some("Unknown device type"));
    assert_eq!((error.raw_os_error(), error.code()), (Some(libc::EOPNOTSUPP), ErrorCode::IO));
    fixture.on_host.links().expect("the socket still works");
}

#[test]
fn dump_returns_each_object() {
    let Some(fixture) = Fixture::new() else { return };
    for number in 0..60 {
        fixture.on_host.raw_request(&new_link(&format!("mine{number}"), "bridge")).expect("create");
    }
    let request = RawRequest::new("list", "links", RTM_GETLINK).header(&IFINFOMSG).dump();
    let answers = fixture.on_host.raw_request(&request).expect("list");
    assert!(answers.iter().all(|answer| answer.message_type == RTM_NEWLINK));
    let named = |answer: &cnikit::netlink::raw::RawMessage, wanted: &[u8]| {
        answer.attributes(IFINFOMSG.len()).any(|(kind, payload)| kind == IFLA_IFNAME && payload == wanted)
    };
    for number in 0..60 {
        let name = format!("mine{number}\0");
        assert_eq!(answers.iter().filter(|answer| named(answer, name.as_bytes())).count(), 1, "{name}");
    }
    assert_eq!(answers.len(), 61, "lo too");
}

#[test]
fn single_object_and_echo_are_returned() {
    let Some(fixture) = Fixture::new() else { return };
    const NETNSA_NSID: u16 = 1;
    const NETNSA_FD: u16 = 3;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&fixture.pod.as_fd()).cast_unsigned();
    let request = RawRequest::new("get the id of", "the pod's namespace", RTM_GETNSID)
        .header(&[0; 4])
        .attributes(Attributes::new().put_u32(NETNSA_FD, fd));
    let answers = fixture.on_host.raw_request(&request).expect("get");
    // struct rtgenmsg has one byte; the attributes begin at 4.
    let found: Vec<_> = answers[0].attributes(1).map(|(kind, payload)| (kind, payload.to_vec())).collect();
    assert_eq!(answers.len(), 1);
    assert_eq!(found, [(NETNSA_NSID, (-1_i32).to_ne_bytes().to_vec())], "no id yet");

    let echo = new_link("mine0", "bridge").flags(NLM_F_CREATE | NLM_F_ECHO);
    let answers = fixture.on_host.raw_request(&echo).expect("create");
    let Some(answer) = answers.first() else {
        assert!(cnikit_testbed::kernel() < (6, 2), "older kernels ignore the echo flag for links");
        return;
    };
    assert_eq!(answer.message_type, RTM_NEWLINK);
    assert!(attributes(&answer.body[16..]).any(|attribute| attribute == (IFLA_IFNAME, &b"mine0\0"[..])));
}

#[test]
fn attribute_over_the_maximum_is_not_sent() {
    let Some(fixture) = Fixture::new() else { return };
    let request = new_link("mine0", "bridge").attributes(Attributes::new().put(IFLA_IFNAME, &[0; 65_532]));
    let error = fixture.on_host.raw_request(&request).expect_err("too long");
    assert!(matches!(error, Error::Message { operation: "create link", .. }), "{error:?}");
    assert_eq!(fixture.on_host.links().expect("list").len(), 1, "lo");
}

#[test]
fn socket_lends_its_descriptor() {
    let Some(fixture) = Fixture::new() else { return };
    assert_eq!(socket_domain(fixture.on_host.as_fd()).expect("a socket"), AddressFamily::NETLINK);
}
