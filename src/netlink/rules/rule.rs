//! Rules of policy routing.

use std::{
    fmt::{self, Display},
    ops::RangeInclusive,
};

use ipnetwork::IpNetwork;

use crate::spec::IfName;

/// A rule of policy routing: which table routes a packet. See
/// [ip-rule(8)](https://man7.org/linux/man-pages/man8/ip-rule.8.html).
///
/// The kernel tests the rules of a family in the order of their priorities, the lowest first. A
/// rule applies if a packet meets all its conditions. A rule without conditions applies to every
/// packet. If the lookup in the table finds no route, the next rule follows.
///
/// A rule is of IPv4, unless [`from`](Self::from), [`to`](Self::to) or [`ipv6`](Self::ipv6) makes
/// it one of IPv6.
///
/// ```
/// use cnikit::netlink::RoutingRule;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let by_source = RoutingRule::lookup(100).from("10.22.0.5/32".parse()?).priority(1000);
/// assert_eq!(by_source.to_string(), "1000: from 10.22.0.5/32 lookup 100");
/// let marked = RoutingRule::lookup(7).ipv6().fwmark(0x10).fwmask(0xff).iif("eth0".parse()?);
/// assert_eq!(marked.to_string(), "from all fwmark 0x10/0xff iif eth0 lookup 7");
/// # Ok(())
/// # }
/// ```
///
/// # Kernel
///
/// `CONFIG_IP_MULTIPLE_TABLES`, and `CONFIG_IPV6_MULTIPLE_TABLES` for IPv6. Older kernels ignore a
/// condition that they lack, so the rule applies to more packets: `uid` needs Linux 4.10,
/// `ip_proto`, `sport` and `dport` need 4.17.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoutingRule {
    /// Whether the rule is of IPv6.
    pub ipv6: bool,
    /// The position among the rules, the lowest first. Without one, the kernel chooses a value
    /// below the priority of the second rule in its list.
    pub priority: Option<u32>,
    /// The source subnet.
    pub from: Option<IpNetwork>,
    /// The destination subnet.
    pub to: Option<IpNetwork>,
    /// The link on which the packet arrives; `lo` for packets of this host. The link may be absent.
    pub iif: Option<IfName>,
    /// The link to which the sender of the packet bound its socket. The link may be absent.
    pub oif: Option<IfName>,
    /// The firewall mark of the packet.
    pub fwmark: Option<u32>,
    /// The compared bits of the mark. Without a value, all bits.
    pub fwmask: Option<u32>,
    /// The protocol above IP, such as 6 for TCP.
    pub ip_proto: Option<u8>,
    /// The source ports, from 1 to 65,534.
    pub sport: Option<RangeInclusive<u16>>,
    /// The destination ports, from 1 to 65,534.
    pub dport: Option<RangeInclusive<u16>>,
    /// The user ids of the sender, below 4,294,967,295.
    pub uid: Option<RangeInclusive<u32>>,
    /// The rule applies to the packets that do *not* meet its conditions (`not`).
    pub invert: bool,
    /// The treatment of the packets.
    pub action: RuleAction,
    /// The program that adds the rule, as for [`Route::protocol`](crate::netlink::Route::protocol).
    /// Without one, `static` (4).
    pub protocol: Option<u8>,
    pub(super) other: Other,
}

/// The treatment of the packets to which a [`RoutingRule`] applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RuleAction {
    /// Look the route up in this table.
    Lookup(u32),
    /// Continue with the rule of this priority.
    Goto(u32),
    /// Continue with the next rule.
    Nop,
    /// Drop without notification.
    Blackhole,
    /// Drop. The sender receives an error "network unreachable".
    Unreachable,
    /// Drop. The sender receives an error "permission denied".
    Prohibit,
    /// An action that this module does not know.
    Unknown(u8),
}

/// Values of a listed rule without a field, such as `suppress_prefixlength`. They are part of the
/// comparison, and are sent back when the rule is deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Other {
    pub(super) tos: u8,
    pub(super) attributes: Vec<(u16, Vec<u8>)>,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty),+ $(,)?) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Self {
            self.$name = Some($name);
            self
        })+
    };
}

impl RoutingRule {
    /// A rule for all IPv4 packets.
    #[must_use]
    pub const fn new(action: RuleAction) -> Self {
        Self {
            ipv6: false,
            priority: None,
            from: None,
            to: None,
            iif: None,
            oif: None,
            fwmark: None,
            fwmask: None,
            ip_proto: None,
            sport: None,
            dport: None,
            uid: None,
            invert: false,
            action,
            protocol: None,
            other: Other { tos: 0, attributes: Vec::new() },
        }
    }

    /// A rule that looks up all IPv4 packets in this table.
    #[must_use]
    pub const fn lookup(table: u32) -> Self {
        Self::new(RuleAction::Lookup(table))
    }

    /// Makes the rule one of IPv6.
    #[must_use]
    pub const fn ipv6(mut self) -> Self {
        self.ipv6 = true;
        self
    }

    /// Sets the source subnet and the family.
    #[must_use]
    pub const fn from(mut self, from: IpNetwork) -> Self {
        self.ipv6 = matches!(from, IpNetwork::V6(_));
        self.from = Some(from);
        self
    }

    /// Sets the destination subnet and the family.
    #[must_use]
    pub const fn to(mut self, to: IpNetwork) -> Self {
        self.ipv6 = matches!(to, IpNetwork::V6(_));
        self.to = Some(to);
        self
    }

    setters! {
        /// Sets the position among the rules.
        priority: u32,
        /// Sets the link on which the packet arrives.
        iif: IfName,
        /// Sets the link to which the sender bound its socket.
        oif: IfName,
        /// Sets the firewall mark.
        fwmark: u32,
        /// Sets the compared bits of the mark.
        fwmask: u32,
        /// Sets the protocol above IP.
        ip_proto: u8,
        /// Sets the source ports.
        sport: RangeInclusive<u16>,
        /// Sets the destination ports.
        dport: RangeInclusive<u16>,
        /// Sets the user ids of the sender.
        uid: RangeInclusive<u32>,
        /// Sets the number of the program that adds the rule.
        protocol: u8,
    }

    /// Applies the rule to the packets that do not meet its conditions.
    #[must_use]
    pub const fn invert(mut self) -> Self {
        self.invert = true;
        self
    }

    /// The table, if the rule has one.
    #[must_use]
    pub const fn table(&self) -> Option<u32> {
        match self.action {
            RuleAction::Lookup(table) => Some(table),
            _ => None,
        }
    }

    /// Whether two rules have the same family, conditions and action. A missing `priority` or
    /// `protocol` equals every value, because the kernel and other programs choose these.
    ///
    /// The comparison includes conditions of a listed rule that this type has no field for.
    ///
    /// ```
    /// use cnikit::netlink::RoutingRule;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let rule = RoutingRule::lookup(100).from("10.22.0.0/16".parse()?);
    /// assert!(rule.is_same_as(&rule.clone().priority(7)));
    /// assert!(!rule.is_same_as(&rule.clone().iif("eth0".parse()?)));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        let agree = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.normalized() == other.normalized()
            && agree(self.priority, other.priority)
            && agree(self.protocol.map(u32::from), other.protocol.map(u32::from))
    }

    /// The value and mask of the mark, in the kernel's form.
    pub(super) fn mark(&self) -> (u32, u32) {
        let default = if self.fwmark.is_some() { u32::MAX } else { 0 };
        (self.fwmark.unwrap_or_default(), self.fwmask.unwrap_or(default))
    }

    /// The rule without priority and protocol, and with one form for each condition.
    fn normalized(&self) -> Self {
        let subnet = |net: Option<IpNetwork>| {
            let net = net.filter(|net| net.prefix() > 0)?;
            IpNetwork::new(net.network(), net.prefix()).ok()
        };
        let mark = Some(self.mark()).filter(|mark| *mark != (0, 0));
        Self {
            priority: None,
            protocol: None,
            from: subnet(self.from),
            to: subnet(self.to),
            fwmark: mark.map(|(value, _)| value),
            fwmask: mark.map(|(_, mask)| mask),
            ..self.clone()
        }
    }
}

/// The order of `ip rule`, with `lookup` and a number for each table.
impl Display for RoutingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(priority) = self.priority {
            write!(f, "{priority}: ")?;
        }
        if self.invert {
            f.write_str("not ")?;
        }
        match self.from {
            Some(from) => write!(f, "from {from}")?,
            None => f.write_str("from all")?,
        }
        if let Some(to) = self.to {
            write!(f, " to {to}")?;
        }
        if self.other.tos != 0 {
            write!(f, " tos {:#x}", self.other.tos)?;
        }
        match self.mark() {
            (0, 0) => (),
            (value, u32::MAX) => write!(f, " fwmark {value:#x}")?,
            (value, mask) => write!(f, " fwmark {value:#x}/{mask:#x}")?,
        }
        for (name, link) in [("iif", &self.iif), ("oif", &self.oif)] {
            if let Some(link) = link {
                write!(f, " {name} {link}")?;
            }
        }
        if let Some(uid) = &self.uid {
            write!(f, " uidrange {}-{}", uid.start(), uid.end())?;
        }
        if let Some(protocol) = self.ip_proto {
            write!(f, " ipproto {protocol}")?;
        }
        for (name, ports) in [("sport", &self.sport), ("dport", &self.dport)] {
            match ports {
                None => (),
                Some(ports) if ports.start() == ports.end() => write!(f, " {name} {}", ports.start())?,
                Some(ports) => write!(f, " {name} {}-{}", ports.start(), ports.end())?,
            }
        }
        for (kind, _) in &self.other.attributes {
            write!(f, " attribute {kind}")?;
        }
        match self.action {
            RuleAction::Lookup(table) => write!(f, " lookup {table}")?,
            RuleAction::Goto(priority) => write!(f, " goto {priority}")?,
            RuleAction::Nop => f.write_str(" nop")?,
            RuleAction::Blackhole => f.write_str(" blackhole")?,
            RuleAction::Unreachable => f.write_str(" unreachable")?,
            RuleAction::Prohibit => f.write_str(" prohibit")?,
            RuleAction::Unknown(action) => write!(f, " action {action}")?,
        }
        match self.protocol {
            Some(protocol) => write!(f, " proto {protocol}"),
            None => Ok(()),
        }
    }
}
