//! Operations on the rules of policy routing.

use std::ops::RangeInclusive;

use neli::{
    consts::{nl::NlmF, rtnl::Rtm},
    types::Buffer,
};
use rustix::io::Errno;

use super::{message::family, rule::RoutingRule};
use crate::netlink::{error::Result, operation::Operation, socket::Socket};

/// Tables with a fixed meaning: unspecified, `default`, `main` and `local`.
const RESERVED_TABLES: [u32; 4] = [0, 253, 254, 255];

impl Socket {
    /// Adds a rule of policy routing.
    ///
    /// ```no_run
    /// use cnikit::netlink::{RoutingRule, Socket};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pod = Socket::open()?;
    /// pod.add_rule(&RoutingRule::lookup(100).from("10.22.0.5/32".parse()?))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](crate::netlink::Error::Exists) if [the same rule](RoutingRule::is_same_as)
    /// exists. [`Error::Message`](crate::netlink::Error::Message) if `from` and `to` are of
    /// different families. [`Error::Kernel`](crate::netlink::Error::Kernel) otherwise:
    ///
    /// * `EAFNOSUPPORT` or `EOPNOTSUPP` if the kernel has no rules for the family.
    /// * `EINVAL` for ports or user ids in descending order, for the ports 0 and 65,535, and for
    ///   the user id 4,294,967,295.
    /// * `EPERM` without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// As for [`RoutingRule`]. The kernel itself compares rules only in part, so this operation
    /// lists the rules first. Two concurrent callers can both add a rule without a priority.
    #[doc(alias = "RTM_NEWRULE")]
    pub fn add_rule(&self, rule: &RoutingRule) -> Result<()> {
        let operation = Operation::new("add rule", rule);
        if self.has_rule(&operation, rule)? { Err(operation.exists()) } else { self.new_rule(&operation, rule) }
    }

    /// Adds a rule, unless [the same rule](RoutingRule::is_same_as) exists.
    ///
    /// # Errors
    ///
    /// As for [`Socket::add_rule`], without [`Error::Exists`](crate::netlink::Error::Exists).
    ///
    /// # Kernel
    ///
    /// As for [`Socket::add_rule`].
    pub fn ensure_rule(&self, rule: &RoutingRule) -> Result<()> {
        let operation = Operation::new("ensure rule", rule);
        if self.has_rule(&operation, rule)? {
            return Ok(());
        }
        match self.new_rule(&operation, rule) {
            // Another program added the rule since the list.
            Err(error) if error.is(Errno::EXIST) => Ok(()),
            added => added,
        }
    }

    /// Deletes a rule, even one that another program added. Succeeds if the rule is absent.
    ///
    /// Deletes the first rule that [is the same](RoutingRule::is_same_as), and no similar one.
    /// Without a priority or a protocol in `rule`, any priority or protocol matches.
    ///
    /// # Errors
    ///
    /// [`Error::AmbiguousRule`](crate::netlink::Error::AmbiguousRule) if an earlier rule of the
    /// same priority has these conditions and more: the kernel would delete that rule.
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// The kernel compares only the conditions of the request. This operation lists the rules and
    /// requests the deletion with all values of the listed rule. If another program adds a similar
    /// rule between these two steps, the kernel may delete that rule.
    #[doc(alias = "RTM_DELRULE")]
    pub fn delete_rule(&self, rule: &RoutingRule) -> Result<()> {
        let operation = Operation::new("delete rule", rule);
        let rules = self.rules_of(&operation, rule.ipv6)?;
        let Some(index) = rules.iter().position(|found| found.is_same_as(rule)) else {
            return Ok(());
        };
        let found = &rules[index];
        if let Some(earlier) = rules[..index].iter().find(|earlier| found.may_delete(earlier)) {
            return Err(operation.ambiguous_rule(earlier));
        }
        self.delete(&operation, Rtm::Delrule, found.message(), &[Errno::NOENT])
    }

    /// The rules of policy routing, IPv4 first, each family in the kernel's order of evaluation.
    ///
    /// The list includes the kernel's rules for the tables `local` (255), `main` (254) and
    /// `default` (253).
    ///
    /// # Errors
    ///
    /// As for [`Socket::links`]. A family without rules
    /// in the kernel has none in the list.
    #[doc(alias = "RTM_GETRULE")]
    pub fn rules(&self) -> Result<Vec<RoutingRule>> {
        self.all_rules(&Operation::new("list", "rules"))
    }

    /// The lowest table in `range` without routes and without rules, in both families; `None` if
    /// all are in use. The tables 0 and 253 to 255 have a fixed meaning and are never returned.
    ///
    /// The table is not reserved: two concurrent callers get the same one. A caller must hold a
    /// lock that all others respect until it has added the first route or rule. The link of a VRF
    /// does not mark its table as used.
    ///
    /// ```no_run
    /// use cnikit::netlink::{IfIndex, Route, RoutingRule, Socket};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (pod, index) = (Socket::open()?, IfIndex::try_from(2)?);
    /// let table = pod.free_table(100..=1000)?.ok_or("all tables are in use")?;
    /// pod.add_route(&Route::default_via("10.22.0.1".parse()?, index).table(table))?;
    /// pod.add_rule(&RoutingRule::lookup(table).from("10.22.0.5/32".parse()?))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`Socket::links`].
    pub fn free_table(&self, range: RangeInclusive<u32>) -> Result<Option<u32>> {
        let operation = Operation::new("find", "a free routing table");
        let mut used = self.used_tables(&operation)?;
        used.extend(self.all_rules(&operation)?.iter().filter_map(RoutingRule::table));
        used.extend(RESERVED_TABLES);
        Ok(range.into_iter().find(|table| !used.contains(table)))
    }

    fn all_rules(&self, operation: &Operation) -> Result<Vec<RoutingRule>> {
        Ok([self.rules_of(operation, false)?, self.rules_of(operation, true)?].concat())
    }

    fn rules_of(&self, operation: &Operation, is_ipv6: bool) -> Result<Vec<RoutingRule>> {
        // struct fib_rule_hdr: the family, then values that must be 0.
        let mut header = [0; 12];
        header[0] = family(is_ipv6).into();
        let found: Vec<Buffer> = match self.dump(operation, Rtm::Getrule, || Ok(Buffer::from(&header[..]))) {
            // The kernel has no rules for the family.
            Err(error) if error.is(Errno::AFNOSUPPORT) || error.is(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            found => found?,
        };
        let rules = found.iter().filter_map(|bytes| RoutingRule::decode(bytes.as_ref()));
        // A kernel without IPv6 lists the rules of all other families.
        Ok(rules.filter(|rule| rule.ipv6 == is_ipv6).collect())
    }

    fn has_rule(&self, operation: &Operation, rule: &RoutingRule) -> Result<bool> {
        Ok(self.rules_of(operation, rule.ipv6)?.iter().any(|found| found.is_same_as(rule)))
    }

    fn new_rule(&self, operation: &Operation, rule: &RoutingRule) -> Result<()> {
        match self.change(operation, Rtm::Newrule, NlmF::CREATE | NlmF::EXCL, rule.message()) {
            // The kernel does not compare `not`. To it, a rule for all sources equals one for a
            // subnet. The rule may also be new since the list.
            Err(error) if error.is(Errno::EXIST) => match self.has_rule(operation, rule)? {
                true => Err(error),
                false => self.change(operation, Rtm::Newrule, NlmF::CREATE, rule.message()),
            },
            added => added,
        }
    }
}
