use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Error;

/// An Ethernet hardware address of six octets.
///
/// ```
/// use cnikit::spec::MacAddr;
///
/// let mac: MacAddr = "02:00:5E:10:00:01".parse()?;
/// assert_eq!(mac.octets(), [0x02, 0x00, 0x5e, 0x10, 0x00, 0x01]);
/// assert_eq!(mac.to_string(), "02:00:5e:10:00:01");
/// # Ok::<(), cnikit::spec::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// Creates the address from its octets in transmission order.
    #[must_use]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// Derives an address from a text: the first six octets of its SHA-256 digest, locally
    /// administered, unicast. The same text always yields the same address.
    #[must_use]
    pub fn derived_from(text: &str) -> Self {
        let [a, b, c, d, e, f, ..]: [u8; 32] = Sha256::digest(text).into();
        Self::local_unicast([a, b, c, d, e, f])
    }

    /// Sets the bits of a locally administered unicast address in `octets`.
    pub(super) const fn local_unicast([first, b, c, d, e, f]: [u8; 6]) -> Self {
        Self([first & 0b1111_1100 | 0b0000_0010, b, c, d, e, f])
    }

    /// The octets in transmission order.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The IPv6 link-local address with this MAC as modified EUI-64 interface identifier, which the
    /// kernel assigns to a link by default: [RFC 4291], appendix A.
    ///
    /// ```
    /// use cnikit::spec::MacAddr;
    ///
    /// let mac: MacAddr = "34:56:78:9a:bc:de".parse()?;
    /// assert_eq!(mac.link_local().to_string(), "fe80::3656:78ff:fe9a:bcde");
    /// # Ok::<(), cnikit::spec::Error>(())
    /// ```
    ///
    /// [RFC 4291]: https://www.rfc-editor.org/rfc/rfc4291#appendix-A
    #[must_use]
    pub fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 0x02, b, c, 0xff, 0xfe, d, e, f])
    }

    /// Whether the address is unicast, not multicast or broadcast.
    #[must_use]
    pub const fn is_unicast(self) -> bool {
        self.0[0] & 0x01 == 0
    }

    /// Whether the address is locally administered, not assigned by a manufacturer.
    #[must_use]
    pub const fn is_local(self) -> bool {
        self.0[0] & 0x02 != 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacAddr({self})")
    }
}

impl FromStr for MacAddr {
    type Err = Error;

    /// Parses six pairs of hexadecimal digits, in either case, separated by `:` or `-`.
    ///
    /// # Errors
    ///
    /// [`Error::Mac`] for any other text.
    fn from_str(text: &str) -> Result<Self, Error> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; 6];
        let mut pairs = text.split(separator);
        for octet in &mut octets {
            *octet = pairs.next().and_then(octet_of).ok_or_else(|| Error::Mac { value: text.to_owned() })?;
        }
        match pairs.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(Error::Mac { value: text.to_owned() }),
        }
    }
}

// from_str_radix alone would accept a sign.
fn octet_of(pair: &str) -> Option<u8> {
    let is_pair = pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
    is_pair.then(|| u8::from_str_radix(pair, 16).ok()).flatten()
}

impl TryFrom<String> for MacAddr {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_six_pairs_of_digits_parse() {
        assert_eq!("c2-11-22-33-44-55".parse::<MacAddr>().unwrap().to_string(), "c2:11:22:33:44:55");
        for bad in [
            "",
            "c2:11:22:33:44",
            "c2:11:22:33:44:55:66",
            "c2:11:22:33:44:5",
            "c2:11:22:33:44:+5",
            "c2:11:22:33:44:zz",
            "c2:11-22:33:44:55",
            "c21122334455",
        ] {
            bad.parse::<MacAddr>().unwrap_err();
        }
    }
}
