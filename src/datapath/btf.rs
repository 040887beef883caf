//! Offsets of members in the kernel's structs, read from its BTF.
//!
//! libbpf can relocate programs by itself (CO-RE), but it indexes and validates the whole BTF
//! first, which takes 45 ms. One pass over the types takes 3 ms.

use std::fs;

/// The kernel's types.
pub(super) struct Btf {
    bytes: Vec<u8>,
    /// The offset of the string section.
    strings: usize,
    /// The offset of each type, by type id.
    types: Vec<u32>,
    /// The requested structs: name and offset.
    structs: Vec<(&'static str, usize)>,
}

/// A struct or union.
#[derive(Clone, Copy)]
pub(super) struct Struct<'b> {
    btf: &'b Btf,
    at: usize,
}

const HEADER: usize = 24;
const MAGIC: u32 = 0xeb9f;
/// The bytes of a `struct btf_type`: its name, its kind and number of members, and its size or the
/// type that it refers to.
const TYPE: usize = 12;
/// The bytes of a `struct btf_member`: its name, its type, and its offset in bits.
const MEMBER: usize = 12;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// More than the nesting depth of anonymous structs in any kernel.
const MAX_DEPTH: u32 = 8;

impl Btf {
    /// The BTF of the running kernel, with these structs. `None` if the kernel was built without
    /// BTF, or lacks one of the structs.
    pub(super) fn of_kernel(structs: &[&'static str]) -> Option<Self> {
        Self::parse(fs::read("/sys/kernel/btf/vmlinux").ok()?, structs)
    }

    /// Reads the types in one pass, because there are about 100,000. `None` if the bytes are not
    /// BTF, contain an unknown kind of type, or lack a requested struct.
    fn parse(bytes: Vec<u8>, structs: &[&'static str]) -> Option<Self> {
        if word(&bytes, 0)? & 0xffff != MAGIC {
            return None;
        }
        let header = word(&bytes, 4)? as usize;
        let section = |at| header.checked_add(word(&bytes, at)? as usize);
        let (types_at, strings) = (section(8)?, section(16)?);
        let end = types_at.checked_add(word(&bytes, 12)? as usize)?;
        if header < HEADER {
            return None;
        }
        // Type id 0 is `void`, which has no entry in the section.
        let mut btf = Self { bytes, strings, types: vec![u32::MAX], structs: Vec::new() };
        let mut at = types_at;
        while at < end {
            btf.types.push(u32::try_from(at).ok()?);
            let info = btf.word(at + 4)?;
            if kind(info) == STRUCT {
                let name = btf.word(at)?;
                let found = structs.iter().find(|wanted| btf.is_named(name, wanted));
                btf.structs.extend(found.map(|name| (*name, at)));
            }
            at += TYPE + trailer(kind(info), count(info))?;
        }
        structs.iter().all(|name| btf.structure(name).is_some()).then_some(btf)
    }

    /// A requested struct.
    pub(super) fn structure(&self, name: &str) -> Option<Struct<'_>> {
        let (_, at) = self.structs.iter().find(|(found, _)| *found == name)?;
        Some(Struct { btf: self, at: *at })
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        let text = self.strings.checked_add(offset as usize).and_then(|at| self.bytes.get(at..));
        text.and_then(|text| text.strip_prefix(name.as_bytes())).is_some_and(|rest| rest.first() == Some(&0))
    }

    fn word(&self, at: usize) -> Option<u32> {
        word(&self.bytes, at)
    }
}

impl Struct<'_> {
    /// The size in bytes.
    pub(super) fn size(self) -> Option<u32> {
        self.btf.word(self.at + 8)
    }

    /// The offset of a member in bytes. Members of anonymous structs and unions count as members of
    /// the struct, as in C.
    pub(super) fn offset(self, member: &str) -> Option<u32> {
        self.offset_in_bits(member, MAX_DEPTH).map(|bits| bits / 8)
    }

    fn offset_in_bits(self, member: &str, depth: u32) -> Option<u32> {
        let info = self.btf.word(self.at + 4)?;
        // With the kind flag, the upper 8 bits hold the size of a bit field.
        let mask = if info >> 31 == 1 { 0xff_ffff } else { u32::MAX };
        (0..count(info)).find_map(|number| {
            let at = self.at + TYPE + number * MEMBER;
            let (name, type_id, offset) = (self.btf.word(at)?, self.btf.word(at + 4)?, self.btf.word(at + 8)? & mask);
            if self.btf.is_named(name, member) {
                return Some(offset);
            }
            let inner = *self.btf.types.get(type_id as usize)? as usize;
            let is_anonymous = self.btf.is_named(name, "") && depth > 0;
            let is_nested = is_anonymous && matches!(kind(self.btf.word(inner.checked_add(4)?)?), STRUCT | UNION);
            let inner = is_nested.then_some(Struct { btf: self.btf, at: inner })?;
            offset.checked_add(inner.offset_in_bits(member, depth - 1)?)
        })
    }
}

/// The number of bytes that follow a `struct btf_type` of this kind.
fn trailer(kind: u32, count: usize) -> Option<usize> {
    const INT: u32 = 1;
    const ARRAY: u32 = 3;
    const ENUM: u32 = 6;
    const FUNC_PROTO: u32 = 13;
    const VAR: u32 = 14;
    const DATASEC: u32 = 15;
    const DECL_TAG: u32 = 17;
    const ENUM64: u32 = 19;
    match kind {
        INT | VAR | DECL_TAG => Some(4),
        ARRAY => Some(12),
        STRUCT | UNION | DATASEC | ENUM64 => Some(count * 12),
        ENUM | FUNC_PROTO => Some(count * 8),
        // Pointers, forward declarations, typedefs, qualifiers, functions, floats, type tags.
        2 | 7..=12 | 16 | 18 => Some(0),
        _ => None,
    }
}

fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

fn count(info: u32) -> usize {
    (info & 0xffff) as usize
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { int a; struct { char b; union { int c; }; }; }`, encoded by hand from the
    /// documentation of the format.
    fn outer() -> Vec<u8> {
        let strings = b"\0int\0outer\0a\0b\0c\0char\0";
        let (int, outer, a, b, c, char) = (1, 5, 11, 13, 15, 17);
        let (integer, structure, union) = (1 << 24, STRUCT << 24, UNION << 24);
        let types: Vec<u32> = [
            &[int, integer, 4, 32][..],
            &[char, integer, 1, 8],
            &[0, union | 1, 4, c, 1, 0],
            &[0, structure | 2, 8, b, 2, 0, 0, 3, 32],
            &[outer, structure | 2, 12, a, 1, 0, 0, 4, 32],
        ]
        .concat();
        let length = u32::try_from(types.len() * 4).unwrap();
        let header = [MAGIC | 1 << 16, 24, 0, length, length, u32::try_from(strings.len()).unwrap()];
        let words = header.into_iter().chain(types).flat_map(u32::to_ne_bytes);
        words.chain(strings.iter().copied()).collect()
    }

    #[test]
    fn members_of_anonymous_structs_belong_to_the_outer_struct() {
        let btf = Btf::parse(outer(), &["outer"]).unwrap();
        let outer = btf.structure("outer").unwrap();
        assert_eq!(["a", "b", "c", "d"].map(|member| outer.offset(member)), [Some(0), Some(4), Some(8), None]);
        assert_eq!(outer.size(), Some(12));
    }

    #[test]
    fn missing_structs_are_reported() {
        for name in ["out", "int", "outer2"] {
            assert!(Btf::parse(self::outer(), &["outer", name]).is_none(), "{name}");
        }
    }

    #[test]
    fn truncated_or_unknown_btf_is_rejected() {
        let whole = outer();
        for length in 0..whole.len() - 22 {
            assert!(Btf::parse(whole[..length].to_vec(), &["outer"]).is_none(), "{length}");
        }
        let mut unknown = whole;
        unknown[24 + 7] = 31;
        assert!(Btf::parse(unknown, &["outer"]).is_none());
    }
}
