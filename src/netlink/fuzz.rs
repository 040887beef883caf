//! Fuzzing entry point: decodes any received bytes as every kind of object.

use std::io::Cursor;

use neli::{
    FromBytesWithInput,
    rtnl::{Ifaddrmsg, Ifinfomsg, Ndmsg, Tcmsg},
};

use super::{
    addresses::Address,
    bridges::{BridgeVlan, FdbEntry},
    conntrack,
    links::Link,
    neighbors::Neighbor,
    nftables,
    routes::RouteMessage,
    rules::RoutingRule,
    tc::{FilterInfo, IngressQdisc, Qdisc},
    wire::{Body, replies},
};

/// Decodes the bytes of one read, and each object in them as every kind.
pub fn read_replies(bytes: &[u8]) {
    for reply in replies(bytes).flatten() {
        let Body::Object(object) = reply.body else { continue };
        as_message(object, |message: &Ifinfomsg| {
            _ = Link::decode(message).map(|link| link.details());
            _ = BridgeVlan::decode(message);
        });
        as_message(object, |message: &Ifaddrmsg| _ = Address::decode(message));
        if let Some(message) = RouteMessage::parse(object) {
            message.hops().hops.into_iter().for_each(|hop| _ = message.route(hop));
        }
        as_message(object, |message: &Ndmsg| {
            _ = FdbEntry::decode(message);
            _ = Neighbor::decode(message);
        });
        as_message(object, |message: &Tcmsg| {
            _ = FilterInfo::decode(message);
            _ = IngressQdisc::decode(message);
            _ = Qdisc::decode(message);
        });
        _ = RoutingRule::decode(object).map(|rule| rule.to_string());
        _ = conntrack::Entry::decode(object);
        _ = nftables::RuleInfo::decode(object);
        _ = nftables::BaseChain::decode(object);
        for set in nftables_sets() {
            _ = nftables::elements(&set, std::iter::once(object));
        }
    }
}

/// A set for each way to decode elements.
fn nftables_sets() -> [nftables::Set; 4] {
    use nftables::DataType::{Ipv4, Ipv6, Link, Mac, Mark, Port, Protocol};
    let table = nftables::Table::new(nftables::Family::Inet, "any");
    [
        table.set("values", [Mac, Mark, Link, Protocol]),
        table.set("intervals", [Ipv4]).intervals(),
        table.map("ranges", [Ipv6, Port], [Ipv4, Port]).intervals(),
        table.verdict_map("verdicts", [Port]),
    ]
}

fn as_message<M: FromBytesWithInput<Input = usize>>(bytes: &[u8], read: impl FnOnce(&M)) {
    if let Ok(message) = M::from_bytes_with_input(&mut Cursor::new(bytes), bytes.len()) {
        read(&message);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(cnikit_repository)]
    use std::{fs, path::Path};

    use proptest::{collection::vec, prelude::*};

    use super::read_replies;

    #[cfg(cnikit_repository)]
    #[test]
    fn corpus_is_decoded() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/netlink");
        let seeds: Vec<_> = fs::read_dir(corpus).unwrap().map(|seed| seed.unwrap().path()).collect();
        assert!(!seeds.is_empty());
        seeds.iter().for_each(|seed| read_replies(&fs::read(seed).unwrap()));
    }

    proptest! {
        /// A message with a valid length, so that the decoder reads its content.
        #[test]
        fn any_object_is_decoded(object in vec(prop_oneof![0..32_u8, any::<u8>()], 0..200)) {
            let length = u32::try_from(16 + object.len()).unwrap().to_ne_bytes();
            read_replies(&[&length[..], &[16, 0, 0, 0], &[0; 8], &object].concat());
        }
    }
}
