//! The parts of the
//! [encoding of Protocol Buffers](https://protobuf.dev/programming-guides/encoding/) that a request
//! needs.

/// A message under construction, or a received message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Message(Vec<u8>);

/// The wire type of a field.
const VARINT: u64 = 0;
const LENGTH_DELIMITED: u64 = 2;

impl Message {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A received message.
    pub(crate) fn received(bytes: &[u8]) -> Self {
        Self(bytes.to_owned())
    }

    /// Adds a number.
    pub(crate) fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3 | VARINT);
        self.varint(value);
        self
    }

    /// Adds a string.
    pub(crate) fn text(mut self, field: u64, value: &str) -> Self {
        self.delimited(field, value.as_bytes());
        self
    }

    /// Adds a message.
    pub(crate) fn message(mut self, field: u64, value: &Self) -> Self {
        self.delimited(field, &value.0);
        self
    }

    /// Adds an entry of a map of texts.
    pub(crate) fn entry(self, field: u64, key: &str, value: &str) -> Self {
        self.message(field, &Self::new().text(1, key).text(2, value))
    }

    /// The encoded bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The first message in a field, or an empty one if there is none.
    #[track_caller]
    pub(crate) fn inner(&self, field: u64) -> Self {
        Self(self.find(field).unwrap_or_default().to_owned())
    }

    /// The first string in a field, or an empty one if there is none, as on the wire.
    #[track_caller]
    pub(crate) fn string(&self, field: u64) -> String {
        String::from_utf8(self.find(field).unwrap_or_default().to_owned()).expect("a text is UTF-8")
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 1 << 7 {
            self.0.push(value as u8 | 1 << 7);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn delimited(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | LENGTH_DELIMITED);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    #[track_caller]
    fn find(&self, field: u64) -> Option<&[u8]> {
        let mut rest = &self.0[..];
        while !rest.is_empty() {
            let tag = take_varint(&mut rest);
            let value = take_varint(&mut rest);
            match tag & 7 {
                VARINT => {}
                LENGTH_DELIMITED => {
                    let (bytes, behind) = rest.split_at(value as usize);
                    rest = behind;
                    if tag >> 3 == field {
                        return Some(bytes);
                    }
                }
                other => panic!("unsupported field type {other}"),
            }
        }
        None
    }
}

#[track_caller]
fn take_varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, behind) = rest.split_first().expect("a whole message");
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 1 << 7 {
            break;
        }
    }
    value
}

#[test]
fn the_examples_of_the_specification_are_encoded_correctly() {
    assert_eq!(Message::new().number(1, 150).bytes(), [0x08, 0x96, 0x01]);
    let text = Message::new().text(2, "testing");
    assert_eq!(text.bytes(), [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]);
    let nested = Message::new().message(3, &Message::new().number(1, 150));
    assert_eq!(nested.bytes(), [0x1a, 0x03, 0x08, 0x96, 0x01]);
    assert_eq!(text.string(2), "testing");
    assert_eq!(nested.inner(3), Message::received(&[0x08, 0x96, 0x01]));
    assert_eq!(Message::received(&[0x08, 0x96, 0x01, 0x12, 0x01, 0x61]).string(2), "a");
}
