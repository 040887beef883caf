//! Creation of tap links, which the kernel refuses in a netlink message.

use std::io;

use neli::consts::{nl::NlmF, rtnl::Rtm};
use rustix::io::Errno;

use super::{
    kinds::{LinkKind, Tap},
    spec::LinkSpec,
    tun::{self, Queue, Setting},
};
use crate::netlink::{
    error::{Error, Result},
    netns::Netns,
    operation::Operation,
    socket::Socket,
};
use crate::spec::IfIndex;

impl Socket {
    /// Creates a tap link. It becomes persistent after all settings, so that an error leaves
    /// nothing behind.
    pub(super) fn create_tap(&self, operation: &Operation, link: &LinkSpec<'_>, tap: Tap) -> Result<IfIndex> {
        let own;
        let (netns, entered);
        let inside = match link.netns {
            Some(other) => {
                netns = other;
                entered = other.socket()?;
                &entered
            }
            None => {
                own = self.netns().map_err(|error| operation.system("SIOCGSKNS", error))?;
                netns = &own;
                self
            }
        };
        let queue = netns.run(Queue::open)?.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => operation.unsupported(LinkKind::Tap(tap).module()),
            _ => operation.system(tun::DEVICE, error),
        })?;
        if let Some(index) = link.index {
            queue.choose_index(index).map_err(|error| operation.system("TUNSETIFINDEX", error))?;
        }
        if let Err(error) = queue.create(&link.name, tap.multi_queue) {
            let error = operation.system("TUNSETIFF", error);
            if error.is(Errno::BUSY) && inside.link_by_name(&link.name)?.is_some() {
                return Err(operation.exists());
            }
            return Err(inside.explain_clash(operation, link.index, error));
        }
        if let Some(uid) = tap.owner {
            queue.set(Setting::Owner(uid)).map_err(|error| operation.system("TUNSETOWNER", error))?;
        }
        if let Some(gid) = tap.group {
            queue.set(Setting::Group(gid)).map_err(|error| operation.system("TUNSETGROUP", error))?;
        }
        let index = inside.index_of(operation, &link.name)?;
        inside.change(operation, Rtm::Newlink, NlmF::empty(), link.settings(index))?;
        queue.set(Setting::Persist).map_err(|error| operation.system("TUNSETPERSIST", error))?;
        Ok(index)
    }

    /// The namespace of the socket.
    fn netns(&self) -> io::Result<Netns> {
        Ok(Netns::from_fd(tun::namespace_of(self.fd())?)?)
    }
}

impl Operation {
    /// The error for a system call; `step` takes the place of the kernel's explanation.
    fn system(&self, step: &str, error: io::Error) -> Error {
        self.refused(error.raw_os_error().unwrap_or_default().wrapping_neg(), Some(step.to_owned()))
    }
}
