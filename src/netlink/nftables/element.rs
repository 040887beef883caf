use super::{
    action::Verdict,
    error::Invalid,
    expression::verdict_attrs,
    message::{HEADER, comment, nest, number, truncated, user_data},
    set::{Data, Set},
    table::Table,
    uapi::*,
    value::{self, Bounds, Value},
};
use crate::netlink::{
    error::Result,
    operation::EncodeError,
    wire::{Attrs, attribute, attributes, text},
};

/// An element of a set or map.
///
/// ```
/// use cnikit::netlink::nftables::{Element, Protocol, Value};
///
/// let key = [Value::Protocol(Protocol::TCP), Value::Port(8080)];
/// let pod = [Value::Address("10.244.1.7".parse()?), Value::Port(80)];
/// let element = Element::new(key).data(pod).comment("container 1");
/// assert_eq!(element.data[1], Value::Port(80));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Element {
    /// The parts of the key.
    pub key: Vec<Value>,
    /// The parts of the value, in a [map](Table::map).
    pub data: Vec<Value>,
    /// The verdict, in a [verdict map](Table::verdict_map).
    pub verdict: Option<Verdict>,
    /// The comment.
    pub comment: Option<String>,
}

/// An element as the kernel lists it. Sets with intervals have one for each bound.
struct Listed<'a> {
    key: &'a [u8],
    key_end: Option<&'a [u8]>,
    data: &'a [u8],
    is_end: bool,
    user_data: &'a [u8],
}

impl Element {
    /// The element with this key.
    #[must_use]
    pub fn new(key: impl Into<Vec<Value>>) -> Self {
        Self { key: key.into(), data: Vec::new(), verdict: None, comment: None }
    }

    /// Sets the value of the element in a map.
    #[must_use]
    pub fn data(mut self, data: impl Into<Vec<Value>>) -> Self {
        self.data = data.into();
        self
    }

    /// Sets the verdict of the element in a verdict map.
    #[must_use]
    pub fn verdict(mut self, verdict: Verdict) -> Self {
        self.verdict = Some(verdict);
        self
    }

    /// Sets the comment that nft(8) shows and [`Socket::elements`](super::Socket::elements) reads.
    /// It is truncated at 127 bytes.
    #[must_use]
    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(truncated(comment.into()));
        self
    }

    /// The encoded key, which is equal for different forms of the same interval.
    pub(super) fn bounds(&self, set: &Set) -> Result<Bounds, EncodeError> {
        Ok(value::bounds(&set.keys, &self.key)?)
    }

    /// Appends the kernel's elements to a list. A deletion needs only the key.
    fn append_to(&self, list: Attrs<u16>, set: &Set, is_deletion: bool) -> Result<Attrs<u16>, EncodeError> {
        let [first, last] = self.bounds(set)?;
        if !set.has_intervals && first != last {
            return Err(Invalid::Interval.into());
        }
        let mut element = nest(Attrs::new(), NFTA_SET_ELEM_KEY, data_value(&first)?)?;
        if set.has_ranges() {
            element = nest(element, NFTA_SET_ELEM_KEY_END, data_value(&last)?)?;
        }
        if !is_deletion {
            if let Some(data) = self.data_attrs(set)? {
                element = nest(element, NFTA_SET_ELEM_DATA, data)?;
            }
            let comment = self.comment.as_deref().and_then(|text| user_data(NFTNL_UDATA_SET_ELEM_COMMENT, text));
            element = element.put_some(NFTA_SET_ELEM_USERDATA, comment.as_deref())?;
        }
        let list = nest(list, NFTA_LIST_ELEM, element)?;
        // The element after the last one ends the interval. An interval up to the greatest value
        // has no end.
        match successor(last).filter(|_| set.has_intervals && !set.has_ranges()) {
            Some(end) => {
                let element = number(Attrs::new(), NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END)?;
                nest(list, NFTA_LIST_ELEM, nest(element, NFTA_SET_ELEM_KEY, data_value(&end)?)?)
            }
            None => Ok(list),
        }
    }

    fn data_attrs(&self, set: &Set) -> Result<Option<Attrs<u16>>, EncodeError> {
        match &set.data {
            Data::None if self.data.is_empty() && self.verdict.is_none() => Ok(None),
            Data::None => Err(Invalid::Data("set", "no data and no verdict").into()),
            Data::Values(types) if self.verdict.is_none() => {
                let [first, last] = value::bounds(types, &self.data)?;
                if first != last {
                    return Err(Invalid::Data("map", "no ranges as data").into());
                }
                data_value(&first).map(Some)
            }
            Data::Values(_) => Err(Invalid::Data("map", "data instead of a verdict").into()),
            Data::Verdict => {
                let verdict = self.verdict.as_ref().filter(|_| self.data.is_empty());
                let verdict = verdict.ok_or(Invalid::Data("verdict map", "a verdict and no data"))?;
                if verdict.table().is_some_and(|table| *table != set.table) {
                    return Err(Invalid::OtherTable("chain of the verdict").into());
                }
                verdict_attrs(verdict).map(Some)
            }
        }
    }

    fn decode(set: &Set, listed: &Listed<'_>, last: &[u8]) -> Option<Self> {
        let key = value::decode(&set.keys, [listed.key, last])?;
        let mut element = Self::new(key);
        match &set.data {
            Data::None => (),
            Data::Values(types) => {
                let data = attribute(listed.data, NFTA_DATA_VALUE)?;
                element.data = value::decode(types, [data, data])?;
            }
            Data::Verdict => element.verdict = Verdict::decode(&set.table, attribute(listed.data, NFTA_DATA_VERDICT)?),
        }
        element.comment = comment(NFTNL_UDATA_SET_ELEM_COMMENT, listed.user_data);
        Some(element)
    }
}

/// The attributes that change these elements of a set.
pub(super) fn element_list(set: &Set, elements: &[Element], is_deletion: bool) -> Result<Attrs<u16>, EncodeError> {
    let mut list = Attrs::new();
    for element in elements {
        list = element.append_to(list, set, is_deletion)?;
    }
    nest(elements_of(set)?, NFTA_SET_ELEM_LIST_ELEMENTS, list)
}

/// The attributes that identify all elements of a set.
pub(super) fn elements_of(set: &Set) -> Result<Attrs<u16>, EncodeError> {
    let table = Attrs::new().put(NFTA_SET_ELEM_LIST_TABLE, set.table.name.as_str())?;
    table.put(NFTA_SET_ELEM_LIST_SET, set.name.as_str())
}

/// Reads the elements of a set from messages of the kernel. Skips elements of other types.
pub(in crate::netlink) fn elements<'a>(set: &Set, messages: impl Iterator<Item = &'a [u8]>) -> Vec<Element> {
    let lists = messages.flat_map(|message| attributes(message.get(HEADER..).unwrap_or_default()));
    let elements =
        lists.filter(|(kind, _)| *kind == NFTA_SET_ELEM_LIST_ELEMENTS).flat_map(|(_, list)| attributes(list));
    let mut listed: Vec<_> = elements.map(|(_, element)| Listed::decode(element)).collect();
    if !set.has_intervals || set.has_ranges() {
        let whole = listed.iter().filter_map(|one| Element::decode(set, one, one.key_end.unwrap_or(one.key)));
        return whole.collect();
    }
    // The end of an interval can be the start of the next.
    listed.sort_by_key(|one| (one.key, !one.is_end));
    let ends = listed.iter().skip(1).map(Some).chain([None]);
    let bounded = listed.iter().zip(ends).filter(|(one, _)| !one.is_end);
    let bounded = bounded.filter_map(|(one, next)| {
        let last = match next {
            Some(next) => predecessor(next.key.to_vec()),
            None => Some(vec![u8::MAX; one.key.len()]),
        };
        Element::decode(set, one, &last?)
    });
    bounded.collect()
}

impl<'a> Listed<'a> {
    fn decode(element: &'a [u8]) -> Self {
        let none = &[][..];
        let mut listed = Self { key: none, key_end: None, data: none, is_end: false, user_data: none };
        for (kind, payload) in attributes(element) {
            match kind {
                NFTA_SET_ELEM_KEY => listed.key = attribute(payload, NFTA_DATA_VALUE).unwrap_or_default(),
                NFTA_SET_ELEM_KEY_END => listed.key_end = attribute(payload, NFTA_DATA_VALUE),
                NFTA_SET_ELEM_DATA => listed.data = payload,
                NFTA_SET_ELEM_FLAGS => {
                    let flags = payload.try_into().map_or(0, u32::from_be_bytes);
                    listed.is_end = flags & NFT_SET_ELEM_INTERVAL_END != 0;
                }
                NFTA_SET_ELEM_USERDATA => listed.user_data = payload,
                _ => (),
            }
        }
        listed
    }
}

impl Verdict {
    /// The table of the chain that the verdict refers to.
    fn table(&self) -> Option<&Table> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(&chain.table),
            Self::Accept | Self::Drop | Self::Return | Self::Continue => None,
        }
    }

    fn decode(table: &Table, attributes: &[u8]) -> Option<Self> {
        let code = attribute(attributes, NFTA_VERDICT_CODE)?.try_into().map(i32::from_be_bytes).ok()?;
        let chain = || attribute(attributes, NFTA_VERDICT_CHAIN).map(|name| table.chain(text(name)));
        match code {
            NF_ACCEPT => Some(Self::Accept),
            NF_DROP => Some(Self::Drop),
            NFT_RETURN => Some(Self::Return),
            NFT_CONTINUE => Some(Self::Continue),
            NFT_JUMP => chain().map(Self::Jump),
            NFT_GOTO => chain().map(Self::Goto),
            _ => None,
        }
    }
}

fn data_value(bytes: &[u8]) -> Result<Attrs<u16>, EncodeError> {
    Attrs::new().put(NFTA_DATA_VALUE, bytes)
}

/// The next number, in network byte order; `None` after the greatest.
fn successor(mut number: Vec<u8>) -> Option<Vec<u8>> {
    for byte in number.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(number);
        }
    }
    None
}

/// The previous number, in network byte order; `None` before zero.
fn predecessor(mut number: Vec<u8>) -> Option<Vec<u8>> {
    for byte in number.iter_mut().rev() {
        let is_zero = *byte == 0;
        *byte = byte.wrapping_sub(1);
        if !is_zero {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbors_carry() {
        assert_eq!(successor(vec![1, 0xff, 0xff]), Some(vec![2, 0, 0]));
        assert_eq!(successor(vec![0xff, 0xff]), None);
        assert_eq!(predecessor(vec![2, 0, 0]), Some(vec![1, 0xff, 0xff]));
        assert_eq!(predecessor(vec![0, 0]), None);
    }
}
