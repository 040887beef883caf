//! The header of messages of traffic control: `struct tcmsg`.

use neli::rtnl::TcmsgBuilder;
use sha2::{Digest, Sha256};

/// The ingress slot of a link (`TC_H_INGRESS` and `TC_H_CLSACT`), and the handle of the qdisc in
/// it.
pub(super) const INGRESS_SLOT: u32 = 0xffff_fff1;
pub(super) const INGRESS_HANDLE: u32 = 0xffff_0000;

/// The header of a message for a qdisc or a filter. For a filter in a shared block, `ifindex` is a
/// number of no link.
pub(super) fn header(ifindex: u32, handle: u32, parent: u32) -> TcmsgBuilder {
    TcmsgBuilder::default()
        .tcm_family(0)
        .tcm_ifindex(ifindex.cast_signed())
        .tcm_handle(handle)
        .tcm_parent(parent)
        .tcm_info(0)
}

/// A number that is computed from a name. It lies between 2^30 and 2^31, far from the small numbers
/// in manual use.
pub(super) fn number_of(name: &str) -> u32 {
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(name).into();
    u32::from_be_bytes([a, b, c, d]) & 0x3fff_ffff | 0x4000_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handle_is_computed_from_the_name() {
        // printf '%s' NAME | sha256sum
        assert_eq!(number_of("count"), 0x6c35_493a);
        assert_ne!(number_of("count"), number_of("counts"));
        for name in ["", "count", "my-plugin/count"] {
            assert!((1 << 30..1 << 31).contains(&number_of(name)), "{name}");
        }
    }
}
