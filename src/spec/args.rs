use std::fmt;
use std::str::FromStr;

use super::Error;

/// `CNI_ARGS`: the user's arguments for one attachment, as `KEY=VALUE;KEY=VALUE`.
///
/// If `args` in the configuration ([`CniArgs`](super::CniArgs)) sets the same value, the
/// specification prefers it.
///
/// ```
/// use cnikit::spec::Args;
///
/// let args: Args = "IgnoreUnknown=1;K8S_POD_NAME=web-0".parse()?;
/// assert_eq!(args.value("K8S_POD_NAME"), Some("web-0"));
/// args.require_known(&["IP"])?; // IgnoreUnknown permits K8S_POD_NAME
/// # Ok::<(), cnikit::spec::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args {
    pairs: Vec<(String, String)>,
}

impl Args {
    /// The key that asks a plugin to ignore unknown keys.
    pub const IGNORE_UNKNOWN: &str = "IgnoreUnknown";

    /// The value of a key. If the key occurs more than once, the last value counts.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.iter().rev().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// All pairs, in their original order.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The parsed value of a key; `None` if the key is absent.
    ///
    /// ```
    /// use cnikit::spec::Args;
    ///
    /// let args: Args = "VLAN=100".parse()?;
    /// assert_eq!(args.parse::<u16>("VLAN")?, Some(100));
    /// let error = args.parse::<bool>("VLAN").unwrap_err().to_string();
    /// assert!(error.starts_with("CNI_ARGS: VLAN=100 is not valid"));
    /// # Ok::<(), cnikit::spec::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArg`].
    pub fn parse<T: FromStr<Err: fmt::Display>>(&self, key: &str) -> Result<Option<T>, Error> {
        self.value(key).map(|text| parsed(key, text)).transpose()
    }

    /// The parsed elements of a list that is separated by commas; empty if the key is absent or its
    /// value is empty.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArg`] with the first invalid element.
    pub fn parse_list<T: FromStr<Err: fmt::Display>>(&self, key: &str) -> Result<Vec<T>, Error> {
        let texts = self.value(key).filter(|texts| !texts.is_empty());
        texts.map_or_else(|| Ok(Vec::new()), |texts| texts.split(',').map(|text| parsed(key, text)).collect())
    }

    /// Whether the caller asks to ignore unknown keys: `IgnoreUnknown` is `1` or `true`.
    #[must_use]
    pub fn ignores_unknown(&self) -> bool {
        self.value(Self::IGNORE_UNKNOWN).is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
    }

    /// Checks that every key is one of `known`, unless `IgnoreUnknown` is set.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownArgs`] with the unknown keys.
    pub fn require_known(&self, known: &[&str]) -> Result<(), Error> {
        let unknown: Vec<String> = self
            .iter()
            .map(|(key, _)| key)
            .filter(|key| *key != Self::IGNORE_UNKNOWN && !known.contains(key))
            .map(str::to_owned)
            .collect();
        if unknown.is_empty() || self.ignores_unknown() { Ok(()) } else { Err(Error::UnknownArgs { keys: unknown }) }
    }
}

fn parsed<T: FromStr<Err: fmt::Display>>(key: &str, text: &str) -> Result<T, Error> {
    text.trim().parse().map_err(|error: T::Err| Error::InvalidArg {
        key: key.into(),
        value: text.into(),
        reason: error.to_string().into(),
    })
}

/// In the form of `CNI_ARGS`.
impl fmt::Display for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.iter().enumerate() {
            let gap = if index == 0 { "" } else { ";" };
            write!(f, "{gap}{key}={value}")?;
        }
        Ok(())
    }
}

impl FromStr for Args {
    type Err = Error;

    /// Parses pairs separated by `;`. A value may contain `=`. Empty parts are ignored.
    ///
    /// # Errors
    ///
    /// [`Error::Args`] for a pair without `=` or without a key.
    fn from_str(text: &str) -> Result<Self, Error> {
        let pair_of = |pair: &str| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Error::Args { pair: pair.to_owned() }),
        };
        let pairs = text.split(';').filter(|pair| !pair.is_empty()).map(pair_of).collect::<Result<_, _>>()?;
        Ok(Self { pairs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pairs_of_runtimes_parse() {
        let args: Args = "FOO=BAR;ABC=123;EMPTY=;URL=a=b;FOO=BAZ;".parse().unwrap();
        assert_eq!(args.value("ABC"), Some("123"));
        assert_eq!(args.value("EMPTY"), Some(""));
        assert_eq!(args.value("URL"), Some("a=b"));
        assert_eq!(args.value("FOO"), Some("BAZ"));
        assert_eq!(args.value("foo"), None);
        assert_eq!(args.iter().count(), 5);
        assert_eq!(args.to_string(), "FOO=BAR;ABC=123;EMPTY=;URL=a=b;FOO=BAZ");
        assert_eq!("".parse::<Args>().unwrap(), Args::default());
        assert_eq!(Args::default().to_string(), "");
    }

    #[test]
    fn a_pair_needs_a_key_and_an_equals_sign() {
        for bad in ["FOO", "=BAR", "A=1;B"] {
            bad.parse::<Args>().unwrap_err();
        }
    }

    #[test]
    fn unknown_keys_are_rejected_unless_ignore_unknown_is_set() {
        let strict: Args = "IP=10.0.0.2;FOO=1;BAR=2".parse().unwrap();
        let error = strict.require_known(&["IP"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "CNI_ARGS holds keys that this plugin does not know: FOO, BAR; drop them or add IgnoreUnknown=1"
        );
        strict.require_known(&["IP", "FOO", "BAR"]).unwrap();
        for lenient in ["FOO=1;IgnoreUnknown=1", "IgnoreUnknown=true;FOO=1", "IgnoreUnknown=True;FOO=1"] {
            lenient.parse::<Args>().unwrap().require_known(&[]).unwrap();
        }
        "FOO=1;IgnoreUnknown=0".parse::<Args>().unwrap().require_known(&[]).unwrap_err();
    }
}
