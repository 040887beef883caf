//! Deletion of links.

use neli::consts::rtnl::{Ifla, Rtm};
use rustix::io::Errno;

use super::message::message;
use crate::netlink::{error::Result, operation::Operation, socket::Socket, wire::Attrs};
use crate::spec::{IfIndex, IfName};

impl Socket {
    /// Deletes a link, and for a veth also its other end. Succeeds if the link is absent.
    ///
    /// The kernel's indexes count up, so a stale index does not name a newer link, unless a program
    /// [chose](crate::netlink::VethPair::host_index) the index. In another namespace the index may
    /// name any link.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`,
    /// `EOPNOTSUPP` for a link that cannot be deleted.
    ///
    /// # Kernel
    ///
    /// The link disappears from both namespaces at once. The call returns some 20 ms later, because
    /// the kernel waits for all RCU readers of the link. [`Socket::delete_link_nowait`] leaves the
    /// wait to another process.
    pub fn delete_link(&self, ifindex: IfIndex) -> Result<()> {
        let operation = Operation::on_link("delete", ifindex);
        self.delete(&operation, Rtm::Dellink, message(ifindex, Attrs::new()), &[Errno::NODEV])
    }

    /// Deletes the link with this name, as [`Socket::delete_link`] does.
    ///
    /// # Errors
    ///
    /// As for [`Socket::delete_link`].
    pub fn delete_link_by_name(&self, name: &IfName) -> Result<()> {
        let operation = Operation::new("delete link", name);
        let attrs = Attrs::new().put(Ifla::Ifname, name.as_str());
        let request = attrs.and_then(|attrs| message(None, attrs));
        self.delete(&operation, Rtm::Dellink, request, &[Errno::NODEV])
    }
}
