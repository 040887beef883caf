//! The classifiers that match every packet, and their action that redirects the packet to a link:
//! [tc-mirred(8)].
//!
//! [tc-mirred(8)]: https://man7.org/linux/man-pages/man8/tc-mirred.8.html

use crate::netlink::{
    error::Result,
    operation::EncodeError,
    wire::{Attrs, attribute, attributes, number_at, text},
};
use crate::spec::IfIndex;

const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_MATCHALL_ACT: u16 = 2;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_U32_INDEV: u16 = 8;
const TCA_U32_MARK: u16 = 10;

const MIRRED: &str = "mirred";
/// The packet leaves through the other link.
const TCA_EGRESS_REDIR: u32 = 1;

/// A classifier that can match every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Classifier {
    MatchAll,
    /// A test of no bits.
    U32,
}

impl Classifier {
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::MatchAll => "matchall",
            Self::U32 => "u32",
        }
    }

    /// The options of a filter that redirects every packet to `to`.
    pub(super) fn redirect(self, to: IfIndex) -> Result<Attrs<u16>, EncodeError> {
        match self {
            Self::MatchAll => Attrs::new().nest(TCA_MATCHALL_ACT, actions(to)?),
            Self::U32 => {
                const TC_U32_TERMINAL: u8 = 1;
                // struct tc_u32_sel with one key. Its mask is 0.
                let mut selector = [0; 32];
                selector[0] = TC_U32_TERMINAL;
                selector[2] = 1;
                Attrs::new().put(TCA_U32_SEL, selector.as_slice())?.nest(TCA_U32_ACT, actions(to)?)
            }
        }
    }
}

/// The link to which a filter of this kind redirects, by the first action in its options.
pub(super) fn target(kind: &str, options: &[u8]) -> Option<IfIndex> {
    let actions = match kind {
        "matchall" => TCA_MATCHALL_ACT,
        "u32" => TCA_U32_ACT,
        _ => return None,
    };
    let (_, action) = attributes(attribute(options, actions)?).next()?;
    if text(attribute(action, TCA_ACT_KIND)?) != MIRRED {
        return None;
    }
    let parameters = attribute(attribute(action, TCA_ACT_OPTIONS)?, TCA_MIRRED_PARMS)?;
    let action = number_at(parameters, 20).filter(|action| *action == TCA_EGRESS_REDIR);
    action.and(number_at(parameters, 24)).and_then(IfIndex::new)
}

/// Whether a filter of this kind matches every packet of its protocol.
pub(super) fn matches_all(kind: &str, options: &[u8]) -> bool {
    if kind != "u32" {
        return kind == "matchall";
    }
    // struct tc_u32_sel has 16 bytes before the keys. Each key has 16 bytes and begins with its
    // mask.
    let has_no_mask = |selector: &[u8]| selector.chunks_exact(16).skip(1).all(|key| key[..4] == [0; 4]);
    let selector = attribute(options, TCA_U32_SEL);
    let has = |condition: u16| attribute(options, condition).is_some();
    selector.is_some_and(has_no_mask) && !has(TCA_U32_INDEV) && !has(TCA_U32_MARK)
}

/// A list of one action.
fn actions(to: IfIndex) -> Result<Attrs<u16>, EncodeError> {
    const FIRST: u16 = 1;
    const TC_ACT_STOLEN: u32 = 4;
    // struct tc_mirred: index, capabilities, verdict, two reference counts, action, link.
    let words = [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to.get()];
    let parameters: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    let options = Attrs::new().put(TCA_MIRRED_PARMS, parameters.as_slice())?;
    let action = Attrs::new().put(TCA_ACT_KIND, MIRRED)?.nest(TCA_ACT_OPTIONS, options)?;
    Attrs::new().nest(FIRST, action)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use neli::ToBytes as _;

    use super::*;

    /// The options of `tc filter add dev v2 ingress matchall action mirred egress redirect dev
    /// ifb7`, from strace. The link has the index 4.
    const BY_TC: [&[u8]; 3] = [
        b"\x38\0\x02\0\x34\0\x01\0\x0b\0\x01\0mirred\0\0",
        b"\x24\0\x02\x80",
        b"\x20\0\x02\0\0\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x04\0\0\0",
    ];

    #[test]
    #[cfg(target_endian = "little")]
    fn matchall_has_the_bytes_of_tc() {
        let to = IfIndex::new(4).unwrap();
        let mut bytes = Cursor::new(Vec::new());
        Classifier::MatchAll.redirect(to).unwrap().into_buffer().to_bytes(&mut bytes).unwrap();
        // tc marks one of the nested attributes with NLA_F_NESTED, which the kernel does not need.
        let plain = [BY_TC[0], b"\x24\0\x02\0", BY_TC[2]].concat();
        assert_eq!(bytes.into_inner(), plain);
        assert_eq!(target("matchall", &BY_TC.concat()), Some(to));
    }

    #[test]
    fn other_actions_are_no_redirection() {
        let mut options = BY_TC.concat();
        assert_eq!(target("flower", &options), None);
        let mirror = options.len() - 8;
        options[mirror] = 2;
        assert_eq!(target("matchall", &options), None);
        assert_eq!(target("matchall", &options[..20]), None);
    }
}
