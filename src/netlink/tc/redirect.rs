//! Filters that redirect packets to another link.

use neli::{
    consts::{
        nl::NlmF,
        rtnl::{Rtm, Tca},
    },
    rtnl::Tcmsg,
};
use rustix::io::Errno;

use super::{
    filter::{FilterInfo, FilterTarget, named},
    mirred::Classifier,
};
use crate::netlink::{
    error::{Error, Result},
    operation::{EncodeError, Operation},
    socket::Socket,
    wire::Attrs,
};
use crate::spec::IfIndex;

/// A filter that redirects every packet to the egress of another link, for example to an `ifb` link
/// with a [`Tbf`](crate::netlink::Tbf) qdisc.
///
/// An `ifb` link sends each packet through its own qdisc, and then returns the packet to the place
/// of the redirection. A redirected packet does not reach later filters of the same hook.
///
/// ```no_run
/// use cnikit::netlink::{FilterTarget, Redirect, SharedBlocks, Socket, Tbf};
/// use cnikit::spec::{Bandwidth, IfIndex};
///
/// /// Limits the traffic from a pod. `veth` is the host end of its pair.
/// fn limit(
///     host: &Socket,
///     veth: IfIndex,
///     ifb: IfIndex,
///     bandwidth: &Bandwidth,
/// ) -> Result<(), Box<dyn std::error::Error>> {
///     if let Some(tbf) = Tbf::from_bits(bandwidth.egress_rate, bandwidth.egress_burst)? {
///         host.ensure_tbf(ifb, &tbf)?;
///         host.create_ingress(veth)?;
///         host.ensure_redirect(&FilterTarget::Ingress(veth), &Redirect::new(ifb))?;
///     }
///     Ok(())
/// }
/// ```
///
/// See [tc-matchall(8)](https://man7.org/linux/man-pages/man8/tc-matchall.8.html) and
/// [tc-mirred(8)](https://man7.org/linux/man-pages/man8/tc-mirred.8.html).
#[doc(alias = "matchall")]
#[doc(alias = "mirred")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Redirect {
    /// The link that sends the packets. It must be up, otherwise the kernel drops the packets.
    pub to: IfIndex,
    /// The priority: the lowest runs first. At least 1. One priority holds one redirection, and
    /// filters of one kind.
    pub priority: u16,
}

impl Redirect {
    /// A redirection with priority 1000, so that it runs after filters with a low priority number.
    #[must_use]
    pub const fn new(to: IfIndex) -> Self {
        Self { to, priority: 1_000 }
    }

    /// Sets the priority.
    #[must_use]
    pub const fn priority(mut self, priority: u16) -> Self {
        self.priority = priority;
        self
    }

    fn is_done_by(self, filter: &FilterInfo) -> bool {
        filter.priority == self.priority && filter.redirect == Some(self.to) && filter.redirects_all
    }

    fn message(self, target: &FilterTarget, classifier: Classifier) -> Result<Tcmsg, EncodeError> {
        // With a chosen handle, a second filter in the same priority is refused.
        const HANDLE: u32 = 1;
        let attrs =
            Attrs::new().put(Tca::Kind, classifier.kind())?.nest(Tca::Options, classifier.redirect(self.to)?)?;
        Ok(named(target, self.priority, HANDLE).rtattrs(attrs.into_buffer()).build()?)
    }
}

impl Socket {
    /// Installs a redirection. [`Socket::filters`] lists it as a filter of the kind `matchall`, or
    /// `u32` if the kernel has no `cls_matchall`.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](crate::netlink::Error::Exists) if the priority already holds a
    /// redirection. [`Error::Unsupported`](crate::netlink::Error::Unsupported) without
    /// `act_mirred`, or with neither `cls_matchall` nor `cls_u32`.
    /// [`Error::Kernel`](crate::netlink::Error::Kernel) otherwise:
    ///
    /// * `EINVAL` if the link has no `clsact` or `ingress` qdisc, or the block does not exist.
    /// * `EINVAL` if the priority holds filters of another kind.
    /// * `ENODEV` if one of the links is gone.
    /// * `EPERM` without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// Linux 4.8 with `cls_matchall`, any version with `cls_u32`; `act_mirred` in both cases.
    pub fn create_redirect(&self, target: &FilterTarget, redirect: &Redirect) -> Result<()> {
        let operation = redirect_operation(target, redirect);
        let create = |classifier| {
            let flags = NlmF::CREATE | NlmF::EXCL;
            self.change(&operation, Rtm::Newtfilter, flags, redirect.message(target, classifier))
        };
        // ENOENT means that the kernel lacks the classifier or the action.
        match create(Classifier::MatchAll) {
            Err(error) if error.is(Errno::NOENT) => (),
            // The priority may hold a redirection of the other kind.
            Err(error) if error.is(Errno::INVAL) => {
                let filters = self.filters(target)?;
                let mut of_priority = filters.iter().filter(|filter| filter.priority == redirect.priority);
                let is_taken = of_priority.any(|filter| filter.redirect.is_some());
                return Err(if is_taken { operation.exists() } else { error });
            }
            created => return created,
        }
        match create(Classifier::U32) {
            Err(error) if is_without_classifier(&error) => Err(operation.unsupported("cls_matchall")),
            Err(error) if error.is(Errno::NOENT) => Err(operation.unsupported("act_mirred")),
            // The handle is taken.
            Err(error) if error.is(Errno::NOSPC) => Err(operation.exists()),
            created => created,
        }
    }

    /// Installs a redirection, unless it exists.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](crate::netlink::Error::Exists) if the priority holds a redirection to
    /// another link, or one of a part of the packets only. Otherwise as for
    /// [`Socket::create_redirect`].
    ///
    /// # Kernel
    ///
    /// As for [`Socket::create_redirect`].
    pub fn ensure_redirect(&self, target: &FilterTarget, redirect: &Redirect) -> Result<()> {
        match self.create_redirect(target, redirect) {
            Err(exists @ Error::Exists { .. }) => {
                let filters = self.filters(target)?;
                if filters.iter().any(|filter| redirect.is_done_by(filter)) { Ok(()) } else { Err(exists) }
            }
            created => created,
        }
    }

    /// Deletes a redirection with its priority. Succeeds if the priority holds no redirection of
    /// all packets to this link, or if the qdisc, the block or the link is absent.
    ///
    /// The whole priority is deleted. On a kernel without `cls_matchall`, this includes the `u32`
    /// filters that other programs added to the priority.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    pub fn delete_redirect(&self, target: &FilterTarget, redirect: &Redirect) -> Result<()> {
        let is_own = |filter: &FilterInfo| redirect.is_done_by(filter);
        let Some(filter) = self.filters(target)?.into_iter().find(is_own) else { return Ok(()) };
        let operation = Operation::new("delete", format_args!("the redirection to link {} on {target}", redirect.to));
        // Handle 0 stands for the priority at this hook. The kernel lists the `u32` filters of both
        // hooks of a `clsact` qdisc for each, so the handle may be of the other hook. An older
        // kernel does not delete a `matchall` filter by its handle.
        let request = Attrs::new()
            .put(Tca::Kind, filter.kind.as_str())
            .and_then(|attrs| Ok(named(target, filter.priority, 0).rtattrs(attrs.into_buffer()).build()?));
        match self.change(&operation, Rtm::Deltfilter, NlmF::empty(), request) {
            Err(error) if error.is(Errno::NOENT) || error.is(Errno::NODEV) => Ok(()),
            // The kernel returns EINVAL for a missing qdisc or block, but also for other errors.
            Err(error) if error.is(Errno::INVAL) => {
                if self.filters(target)?.iter().any(is_own) {
                    Err(error)
                } else {
                    Ok(())
                }
            }
            deleted => deleted,
        }
    }
}

fn redirect_operation(target: &FilterTarget, redirect: &Redirect) -> Operation {
    Operation::new("create", format_args!("the redirection to link {} on {target}", redirect.to))
}

/// Whether the kernel's explanation of `ENOENT` names the classifier instead of the action.
fn is_without_classifier(error: &Error) -> bool {
    matches!(error, Error::Kernel { message: Some(message), .. } if message.contains("classifier"))
        && error.is(Errno::NOENT)
}
