//! The parameters of token bucket filters.

use std::time::Duration;

use crate::netlink::{
    error::Result,
    operation::EncodeError,
    wire::{Attrs, attribute, number_at, wide},
};
use crate::spec::{ErrorCode, HasErrorCode};

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// The unit of times in traffic control, in nanoseconds: the second number in `/proc/net/psched`.
const TICK: u64 = 64;
const NANOSECONDS: u64 = 1_000_000_000;

/// A token bucket filter: a root qdisc that limits the rate at which a link sends.
///
/// A packet waits in the queue until the bucket has tokens for its bytes. The kernel counts the
/// Ethernet header, but not the checksum or the preamble.
///
/// # Directions
///
/// The qdisc limits only the packets that a link *sends*. On the host end of a pod's veth pair, it
/// limits the traffic to the pod. For the traffic from the pod, redirect the arriving packets to an
/// `ifb` link ([`Redirect`](crate::netlink::Redirect)), and put the qdisc on the `ifb` link.
///
/// ```
/// use cnikit::netlink::Tbf;
/// use std::time::Duration;
///
/// // 10 Mbit/s. The numbers are bytes.
/// let shaper = Tbf::new(1_250_000, 32_768).latency(Duration::from_millis(50));
/// assert_eq!(shaper.limit, 62_500 + 32_768);
///
/// // The same rate, as the capability `bandwidth` of CNI writes it: in bits.
/// let shaper = Tbf::from_bits(10_000_000, 262_144)?;
/// assert_eq!(shaper, Some(Tbf::new(1_250_000, 32_768)));
/// assert_eq!(Tbf::from_bits(0, 0)?, None, "no limit");
/// # Ok::<(), cnikit::netlink::RateError>(())
/// ```
///
/// See [tc-tbf(8)](https://man7.org/linux/man-pages/man8/tc-tbf.8.html).
#[doc(alias = "bandwidth")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Tbf {
    /// The rate in bytes per second. At least 1.
    pub rate: u64,
    /// The size of the bucket in bytes: the link sends as many at once after a pause.
    ///
    /// The kernel drops every packet above this size, so the burst must exceed the link's MTU by
    /// its header, 14 bytes for Ethernet. A low burst also limits the rate. Start with the bytes
    /// that the rate sends in 4 ms.
    ///
    /// The kernel returns the burst as a time of 32 bits in units of 64 ns. At more than 15 MB/s
    /// the returned burst can therefore be less by the bytes of one unit. If the rate needs more
    /// than 274 s to send the burst, the kernel returns the time modulo 274 s. The qdisc itself
    /// works with the burst that was set.
    pub burst: u32,
    /// The size of the queue in bytes. The qdisc drops the packets beyond.
    pub limit: u32,
}

/// A rate and a burst that no qdisc can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RateError {
    /// A rate without a burst.
    #[error("a rate of {rate} bit/s without a burst; set the burst also")]
    NoBurst {
        /// The rate in bits per second.
        rate: u64,
    },
    /// A burst without a rate.
    #[error("a burst of {burst} bits without a rate; set the rate also")]
    NoRate {
        /// The burst in bits.
        burst: u64,
    },
    /// A rate or a burst below one byte.
    #[error("a rate of {rate} bit/s with a burst of {burst} bits is below one byte; set at least 8 bits")]
    BelowOneByte {
        /// The rate in bits per second.
        rate: u64,
        /// The burst in bits.
        burst: u64,
    },
    /// A burst of 4 GiB or more.
    #[error("a burst of {burst} bits is too large; set less than {} bits", u64::from(u32::MAX) * 8)]
    BurstTooLarge {
        /// The burst in bits.
        burst: u64,
    },
}

impl HasErrorCode for RateError {
    /// [`ErrorCode::INVALID_CONFIG`].
    fn code(&self) -> ErrorCode {
        ErrorCode::INVALID_CONFIG
    }
}

impl Tbf {
    pub(super) const KIND: &str = "tbf";

    /// A qdisc with this rate in bytes per second and this burst in bytes. The queue holds the
    /// packets of 25 ms.
    #[must_use]
    pub fn new(rate: u64, burst: u32) -> Self {
        const LATENCY: Duration = Duration::from_millis(25);
        Self { rate, burst, limit: 0 }.latency(LATENCY)
    }

    /// The qdisc for a limit as in [`Bandwidth`](crate::spec::Bandwidth), in bits per second and
    /// bits; `None` if both are 0, which means no limit.
    ///
    /// The result has the parameters that the reference plugin
    /// [`bandwidth`](https://www.cni.dev/plugins/current/meta/bandwidth/) computes. Rate and burst
    /// are divided by 8. The queue holds the packets of 25 ms and one burst.
    ///
    /// # Errors
    ///
    /// [`RateError`] if only one of the two is 0, if one is below 8 bits, or if the burst is 4 GiB
    /// or more. Its code is [`ErrorCode::INVALID_CONFIG`].
    pub fn from_bits(rate: u64, burst: u64) -> Result<Option<Self>, RateError> {
        match (rate, burst) {
            (0, 0) => return Ok(None),
            (0, burst) => return Err(RateError::NoRate { burst }),
            (rate, 0) => return Err(RateError::NoBurst { rate }),
            (..8, _) | (_, ..8) => return Err(RateError::BelowOneByte { rate, burst }),
            _ => (),
        }
        let bytes = u32::try_from(burst / 8).ok().filter(|bytes| *bytes < u32::MAX);
        let bytes = bytes.ok_or(RateError::BurstTooLarge { burst })?;
        Ok(Some(Self::new(rate / 8, bytes)))
    }

    /// Sets the size of the queue in bytes.
    #[must_use]
    pub const fn limit(mut self, bytes: u32) -> Self {
        self.limit = bytes;
        self
    }

    /// Sets the size of the queue to the bytes that the rate sends in this time, and one burst. A
    /// packet then waits no longer than this time.
    #[must_use]
    pub fn latency(self, latency: Duration) -> Self {
        let waiting = u128::from(self.rate).saturating_mul(latency.as_micros()) / 1_000_000;
        let bytes = waiting.saturating_add(self.burst.into());
        self.limit(u32::try_from(bytes).unwrap_or(u32::MAX))
    }

    pub(super) fn options(self) -> Result<Attrs<u16>, EncodeError> {
        // Without a rate the kernel would send without a limit.
        if self.rate == 0 {
            return Err(EncodeError::new(RateError::NoRate { burst: u64::from(self.burst) * 8 }));
        }
        Attrs::new()
            .put(TCA_TBF_PARMS, self.parameters().as_slice())?
            .put_some(TCA_TBF_RATE64, Some(self.rate).filter(|rate| *rate > u32::MAX.into()))?
            .put(TCA_TBF_BURST, self.burst)
    }

    /// `struct tc_tbf_qopt`: the rate, no peak rate, the limit. The kernel computes the other two
    /// members from the burst.
    fn parameters(self) -> [u8; 36] {
        /// With a known link layer, the kernel needs no table of transmission times.
        const TC_LINKLAYER_ETHERNET: u8 = 1;
        let mut bytes = [0; 36];
        bytes[1] = TC_LINKLAYER_ETHERNET;
        bytes[8..12].copy_from_slice(&u32::try_from(self.rate).unwrap_or(u32::MAX).to_ne_bytes());
        bytes[24..28].copy_from_slice(&self.limit.to_ne_bytes());
        bytes
    }

    pub(super) fn decode(options: &[u8]) -> Option<Self> {
        let parameters = attribute(options, TCA_TBF_PARMS)?;
        let word = |at| number_at(parameters, at);
        let rate = attribute(options, TCA_TBF_RATE64).and_then(wide).or(word(8).map(u64::from))?;
        // Rounded up, because the kernel rounds the time down.
        let burst = u128::from(word(28)?) * u128::from(TICK) * u128::from(rate);
        let burst = u32::try_from(burst.div_ceil(NANOSECONDS.into())).unwrap_or(u32::MAX);
        Some(Self { rate, burst, limit: word(24)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_reference_plugin() {
        // rate / 8, burst / 8, rate / 8 * 25 ms + burst / 8.
        let cases = [
            ((1_000_000, 800_000), (125_000, 100_000, 3_125 + 100_000)),
            ((8_000_000_000_000, 8), (1_000_000_000_000, 1, u32::MAX)),
            ((15, 15), (1, 1, 1)),
        ];
        for ((rate, burst), expected) in cases {
            let tbf = Tbf::from_bits(rate, burst).unwrap().unwrap();
            assert_eq!((tbf.rate, tbf.burst, tbf.limit), expected);
        }
    }

    #[test]
    fn half_a_limit_is_an_error() {
        assert_eq!(Tbf::from_bits(0, 0), Ok(None));
        assert_eq!(Tbf::from_bits(0, 8), Err(RateError::NoRate { burst: 8 }));
        assert_eq!(Tbf::from_bits(8, 0), Err(RateError::NoBurst { rate: 8 }));
        assert_eq!(Tbf::from_bits(7, 8), Err(RateError::BelowOneByte { rate: 7, burst: 8 }));
        let too_large = u64::from(u32::MAX) * 8;
        assert_eq!(Tbf::from_bits(8, too_large), Err(RateError::BurstTooLarge { burst: too_large }));
        assert!(matches!(Tbf::from_bits(8, too_large - 1), Ok(Some(_))));
        assert_eq!(RateError::NoBurst { rate: 8 }.code(), ErrorCode::INVALID_CONFIG);
    }
}
