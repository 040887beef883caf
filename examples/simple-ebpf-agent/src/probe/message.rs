//! The packets of probes. Pure.
//!
//! | bytes | content |
//! |---|---|
//! | 0 - 7 | `cniprobe` |
//! | 8 | version, 1 |
//! | 9 | 1 in a request, 2 in an answer |
//! | 10 - 11 | length of the request, in network byte order |
//! | 12 - 19 | number of the round, which the answer repeats |
//!
//! Requests can be longer, with zeros. An answer has 20 bytes.

const MAGIC: &[u8; 8] = b"cniprobe";
const VERSION: u8 = 1;
const REQUEST: u8 = 1;
const ANSWER: u8 = 2;

/// The length of an answer, in bytes.
pub const HEADER: usize = 20;

/// A received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A request, which its receiver answers.
    Request(Probe),
    /// An answer.
    Answer(Probe),
}

/// One packet of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// A random number of the round.
    pub round: u64,
    /// The length of the UDP payload of the request, in bytes.
    pub length: u16,
}

impl Probe {
    /// The payload of a request.
    #[must_use]
    pub fn request(self) -> Vec<u8> {
        let mut bytes = self.encode(REQUEST);
        bytes.resize(usize::from(self.length).max(HEADER), 0);
        bytes
    }

    /// The payload of the answer.
    #[must_use]
    pub fn answer(self) -> Vec<u8> {
        self.encode(ANSWER)
    }

    fn encode(self, kind: u8) -> Vec<u8> {
        [&MAGIC[..], &[VERSION, kind], &self.length.to_be_bytes(), &self.round.to_be_bytes()].concat()
    }
}

/// Decodes a payload. `None` for any other packet, and for a request that was cut.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Message> {
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (&[version, kind], rest) = rest.split_first_chunk::<2>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (round, _) = rest.split_first_chunk::<8>()?;
    if magic != MAGIC || version != VERSION {
        return None;
    }
    let probe = Probe { round: u64::from_be_bytes(*round), length: u16::from_be_bytes(*length) };
    match kind {
        REQUEST if bytes.len() == usize::from(probe.length).max(HEADER) => Some(Message::Request(probe)),
        ANSWER if bytes.len() == HEADER => Some(Message::Answer(probe)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_survive_the_way() {
        for length in [0, 20, 1472] {
            let probe = Probe { round: 0x0102_0304_0506_0708, length };
            assert_eq!(decode(&probe.request()), Some(Message::Request(probe)));
            assert_eq!(decode(&probe.answer()), Some(Message::Answer(probe)));
            assert!(probe.answer().len() <= probe.request().len(), "no amplification");
        }
    }

    #[test]
    fn other_packets_are_ignored() {
        let request = Probe { round: 1, length: 100 }.request();
        assert_eq!(decode(&request[..99]), None, "cut");
        for (at, value) in [(0, 0), (8, 9), (9, 3)] {
            let mut other = request.clone();
            other[at] = value;
            assert_eq!(decode(&other), None);
        }
        assert_eq!(decode(b""), None);
    }
}
