//! Test scenarios as bytes, which a fuzzer can change and a repository can store.

use std::fmt;

use crate::{Hook, Origin};

/// The setup of the network, and a sequence of frames.
///
/// ```
/// use cnikit_model::{Hook, Origin, Scenario, Step};
///
/// let step = Step { hook: Hook::Egress, origin: Origin::ThisPort, frame: vec![7; 60] };
/// let scenario = Scenario { guard: true, direct: false, steps: vec![step], ..Scenario::default() };
/// assert_eq!(Scenario::of(&scenario.bytes()), scenario);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scenario {
    /// Whether the spoof check is on.
    pub guard: bool,
    /// Whether direct forwarding between pods is on.
    pub direct: bool,
    /// Whether the frames' port has no entry.
    pub is_nobodys: bool,
    /// Whether the frames' port is excluded from direct forwarding.
    pub stack_only: bool,
    /// Whether the other pod's port is excluded from direct forwarding.
    pub other_stack_only: bool,
    /// Whether the frames' port is the bridge.
    pub at_bridge: bool,
    /// The frames.
    pub steps: Vec<Step>,
}

/// A frame at a hook.
#[derive(Clone, PartialEq, Eq)]
pub struct Step {
    /// The hook.
    pub hook: Hook,
    /// The device that the frame arrived at.
    pub origin: Origin,
    /// The frame, of [`Step::SHORTEST`] to [`Step::LONGEST`] bytes.
    pub frame: Vec<u8>,
}

impl Step {
    /// A frame has at least an Ethernet header.
    pub const SHORTEST: usize = 14;
    /// The kernel keeps the input of a test run in one page.
    pub const LONGEST: usize = 2047;
    /// The maximum number of steps.
    const MOST: usize = 64;
}

impl Scenario {
    /// Decodes any bytes: a byte of flags, then for each step a byte for hook and origin, two for
    /// the frame's length, and the frame.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let (flags, mut rest) = bytes.split_first().unwrap_or((&0, &[]));
        let is_set = |bit: u8| flags & 1 << bit != 0;
        let mut scenario = Self {
            guard: is_set(0),
            direct: is_set(1),
            is_nobodys: is_set(2),
            stack_only: is_set(3),
            other_stack_only: is_set(4),
            at_bridge: is_set(5),
            steps: Vec::new(),
        };
        while let Some((&[hook, low, high], behind)) = rest.split_first_chunk()
            && scenario.steps.len() < Step::MOST
        {
            let length = usize::from(u16::from_le_bytes([low, high])) % (Step::LONGEST + 1);
            let (frame, behind) = behind.split_at(length.min(behind.len()));
            let mut frame = frame.to_vec();
            frame.resize(frame.len().max(Step::SHORTEST), 0);
            let origin = match hook >> 1 & 3 {
                1 => Origin::ThisPort,
                2 => Origin::Bridge,
                _ => Origin::Elsewhere,
            };
            let hook = if hook & 1 == 0 { Hook::Ingress } else { Hook::Egress };
            scenario.steps.push(Step { hook, origin, frame });
            rest = behind;
        }
        scenario
    }

    /// Encodes the scenario.
    ///
    /// # Panics
    ///
    /// If a frame is longer than [`Step::LONGEST`].
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let flags = [self.guard, self.direct, self.is_nobodys, self.stack_only, self.other_stack_only, self.at_bridge];
        let flags = flags.iter().enumerate().fold(0, |byte, (bit, set)| byte | u8::from(*set) << bit);
        let mut bytes = vec![flags];
        for step in &self.steps {
            assert!(step.frame.len() <= Step::LONGEST, "{} bytes exceed the maximum", step.frame.len());
            bytes.push(u8::from(step.hook == Hook::Egress) | (step.origin as u8) << 1);
            bytes.extend((step.frame.len() as u16).to_le_bytes());
            bytes.extend(&step.frame);
        }
        bytes
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} ", self.hook, self.origin)?;
        self.frame.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
