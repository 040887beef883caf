//! Serializes bytes as Go's JSON encoder does: in the standard Base64 alphabet with padding ([RFC
//! 4648, section 4](https://www.rfc-editor.org/rfc/rfc4648#section-4)).

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serializer, de};

pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64.encode(bytes))
}

/// Reads `null` as no bytes, because Go writes an empty slice as `null`.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    // The crate also decodes concatenated texts, each with its own padding. Go rejects them.
    if text.trim_end_matches('=').contains('=') {
        return Err(de::Error::custom("expected padded Base64: padding before the end"));
    }
    BASE64.decode(text.as_bytes()).map_err(|error| de::Error::custom(format_args!("expected padded Base64: {error}")))
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(transparent)]
    struct Bytes(#[serde(with = "super")] Vec<u8>);

    fn decode(text: &str) -> Result<Bytes, serde_json::Error> {
        serde_json::from_value(text.into())
    }

    // The vectors of RFC 4648, section 10.
    #[test]
    fn the_vectors_of_the_standard() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, encoded) in vectors {
            let bytes = Bytes(plain.into());
            assert_eq!(serde_json::to_value(&bytes).unwrap(), encoded);
            assert_eq!(decode(encoded).unwrap(), bytes);
        }
    }

    #[test]
    fn every_byte_round_trips() {
        let bytes = Bytes((0..=255).collect());
        let json = serde_json::to_value(&bytes).unwrap();
        assert_eq!(serde_json::from_value::<Bytes>(json).unwrap(), bytes);
    }

    #[test]
    fn null_is_empty() {
        assert_eq!(serde_json::from_str::<Bytes>("null").unwrap(), Bytes(Vec::new()));
    }

    #[test]
    fn invalid_base64_is_rejected() {
        for bad in ["Z", "Zg", "Zg=", "Z===", "====", "Zm9v\n", "Zm9-", "Zg==Zg=="] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
    }
}
