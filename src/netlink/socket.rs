//! The socket, and the exchange of messages on it.

use std::{
    cell::{Cell, Ref, RefCell},
    fmt,
    io::Cursor,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use neli::{
    FromBytesWithInput, Size, ToBytes,
    consts::{nl::NlmF, rtnl::Rtm, socket::NlFamily},
    nl::{NlPayload, Nlmsghdr, NlmsghdrBuilder},
    socket::NlSocket,
    types::Buffer,
    utils::Groups,
};

use rustix::{
    buffer::spare_capacity,
    io::{Errno, retry_on_intr},
    net::{RecvFlags, SendFlags, SocketAddrAny, netlink::SocketAddrNetlink, recvfrom, send},
};

use tracing::trace;

use super::{
    error::{Error, Result},
    operation::{EncodeError, Operation},
    wire::{Body, Reply, replies},
};

/// The size of the read buffer in bytes. The kernel fills it with one part of a list.
const MAX_READ: usize = 32 * 1024;

/// The port of the kernel itself. Any process with `CAP_NET_ADMIN` in a namespace can send to the
/// sockets there, for example a pod in its own namespace. It can also guess the sequence number of
/// an exchange.
const KERNEL: u32 = 0;

/// A route netlink socket. The operations of this module are its methods.
///
/// The socket works in the namespace where it was opened, independent of the thread that uses
/// it. It runs one exchange at a time, so it can be sent to another thread but not shared.
#[doc(alias = "NETLINK_ROUTE")]
pub struct Socket {
    /// Not neli's handle, which allocates a zeroed read buffer of 96 KiB: an ADD would touch each
    /// of its pages without use.
    socket: NlSocket,
    port: u32,
    sequence: Cell<u32>,
    /// The bytes of the last read. The buffer is kept, because an allocator may return so much
    /// memory to the kernel each time.
    bytes: RefCell<Vec<u8>>,
}

impl Socket {
    /// Opens a socket in the namespace of the calling thread.
    /// [`Netns::socket`](super::Netns::socket) opens one elsewhere.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`](super::Error::Socket) if the kernel refuses.
    pub fn open() -> Result<Self> {
        Self::connect(&Operation::new("open", "a route netlink socket"), NlFamily::Route)
    }

    /// Opens a socket of any netlink family. The exchanges are the same for all.
    pub(super) fn connect(operation: &Operation, family: NlFamily) -> Result<Self> {
        let failed = |error| operation.socket(error);
        let socket = NlSocket::connect(family, None, Groups::empty()).map_err(failed)?;
        // Both options only improve the kernel's answers: explanations from 4.12, filtered dumps
        // from 4.20. Without them, this module filters the answers.
        let _ = socket.enable_ext_ack(true);
        let _ = socket.enable_strict_checking(true);
        let port = socket.pid().map_err(failed)?;
        Ok(Self { socket, port, sequence: Cell::new(0), bytes: RefCell::new(Vec::with_capacity(MAX_READ)) })
    }

    /// Sends one request and waits for its acknowledgement.
    ///
    /// Returns the object that precedes the acknowledgement: the requested object, or the echo of
    /// the change.
    pub(super) fn request<P, R>(
        &self,
        operation: &Operation,
        kind: Rtm,
        flags: NlmF,
        message: Result<P, EncodeError>,
    ) -> Result<Option<R>>
    where
        P: Size + ToBytes + fmt::Debug,
        R: FromBytesWithInput<Input = usize>,
    {
        let message = message.map_err(|error| operation.malformed(error))?;
        let sequence = self.send(operation, kind, flags | NlmF::ACK, message)?;
        let answer = self.receive(operation, sequence)?;
        Ok(answer.objects.into_iter().next())
    }

    /// Sends one request for a change. The only answer is the acknowledgement.
    pub(super) fn change<P>(
        &self,
        operation: &Operation,
        kind: Rtm,
        flags: NlmF,
        message: Result<P, EncodeError>,
    ) -> Result<()>
    where
        P: Size + ToBytes + fmt::Debug,
    {
        self.request::<P, Buffer>(operation, kind, flags, message).map(drop)
    }

    /// Sends one request for a deletion. The error numbers in `absent` mean that the object does
    /// not exist, which is success.
    pub(super) fn delete<P>(
        &self,
        operation: &Operation,
        kind: Rtm,
        message: Result<P, EncodeError>,
        absent: &[Errno],
    ) -> Result<()>
    where
        P: Size + ToBytes + fmt::Debug,
    {
        match self.change(operation, kind, NlmF::empty(), message) {
            Err(error) if absent.iter().any(|errno| error.is(*errno)) => Ok(()),
            deleted => deleted,
        }
    }

    /// Lists objects. Repeats the dump if the list changed during it.
    pub(super) fn dump<P, R>(
        &self,
        operation: &Operation,
        kind: impl Into<u16>,
        message: impl Fn() -> Result<P, EncodeError>,
    ) -> Result<Vec<R>>
    where
        P: Size + ToBytes + fmt::Debug,
        R: FromBytesWithInput<Input = usize>,
    {
        let kind = kind.into();
        until_consistent(operation, || {
            let message = message().map_err(|error| operation.malformed(error))?;
            let sequence = self.send(operation, kind, NlmF::DUMP, message)?;
            let answer = self.receive(operation, sequence)?;
            Ok((answer.objects, answer.interrupted))
        })
    }

    fn send<P>(&self, operation: &Operation, kind: impl Into<u16>, flags: NlmF, payload: P) -> Result<u32>
    where
        P: Size + ToBytes + fmt::Debug,
    {
        let sequence = self.next_sequence();
        self.send_encoded(operation, &encode(operation, sequence, kind, flags, Ok(payload))?)?;
        Ok(sequence)
    }

    /// The sequence number of a new exchange.
    pub(super) fn next_sequence(&self) -> u32 {
        self.sequence.update(|last| last.wrapping_add(1));
        self.sequence.get()
    }

    /// Sends [encoded](encode) requests. The kernel processes them one after another.
    pub(super) fn send_encoded(&self, operation: &Operation, requests: &[u8]) -> Result<()> {
        trace_request(operation);
        let sent = retry_on_intr(|| send(self.fd(), requests, SendFlags::empty()));
        sent.map(drop).map_err(|errno| operation.socket(errno))
    }

    /// The port of the socket, to which the kernel addresses its answers.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    pub(super) fn neli(&self) -> &NlSocket {
        &self.socket
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to neli's socket, which outlives this borrow.
        #[expect(unsafe_code, reason = "neli returns its descriptor only as an integer")]
        unsafe {
            BorrowedFd::borrow_raw(self.socket.as_raw_fd())
        }
    }

    /// Reads until the last of several requests is acknowledged, or one fails. The error carries
    /// the index of the failed request.
    pub(super) fn wait_acks(&self, requests: &[(Operation, u32)]) -> Result<(), (usize, Error)> {
        let mut answer = Answer::<Buffer>::new();
        let Some(last) = requests.len().checked_sub(1) else {
            return Ok(());
        };
        loop {
            let bytes = self.read(&requests[last].0).map_err(|error| (last, error))?;
            for reply in self.replies(&bytes) {
                let reply = reply.map_err(|error| (last, requests[last].0.malformed(error)))?;
                let Some(index) = requests.iter().position(|(_, sequence)| *sequence == reply.sequence) else {
                    continue;
                };
                let is_over = answer.take(&requests[index].0, reply).map_err(|error| (index, error))?;
                if is_over && index == last {
                    return Ok(());
                }
            }
        }
    }

    /// Reads until the exchange `sequence` is over.
    fn receive<R>(&self, operation: &Operation, sequence: u32) -> Result<Answer<R>>
    where
        R: FromBytesWithInput<Input = usize>,
    {
        let mut answer = Answer::new();
        self.receive_each(operation, sequence, &mut |reply| answer.take(operation, reply))?;
        Ok(answer)
    }

    /// Reads the messages of the exchange `sequence` until `take` returns true.
    pub(super) fn receive_each(
        &self,
        operation: &Operation,
        sequence: u32,
        take: &mut dyn FnMut(Reply<'_>) -> Result<bool>,
    ) -> Result<()> {
        loop {
            let bytes = self.read(operation)?;
            for reply in self.replies(&bytes) {
                let reply = reply.map_err(|error| operation.malformed(error))?;
                // Messages of an earlier, partly read exchange have another sequence number.
                if reply.sequence == sequence && take(reply)? {
                    return Ok(());
                }
            }
        }
    }

    /// The messages that are addressed to this socket.
    fn replies<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = Result<Reply<'a>, EncodeError>> {
        replies(bytes).filter(|reply| reply.as_ref().map_or(true, |reply| reply.port == self.port))
    }

    /// Reads once. Returns no bytes after a signal, or if the sender is not the kernel.
    pub(super) fn read(&self, operation: &Operation) -> Result<Ref<'_, [u8]>> {
        let mut bytes = self.bytes.borrow_mut();
        bytes.clear();
        let (length, is_kernel) = match recvfrom(self.fd(), spare_capacity(&mut bytes), RecvFlags::TRUNC) {
            Ok((_, length, sender)) => (length, sender.is_some_and(is_kernel)),
            Err(Errno::INTR) => (0, false),
            Err(errno) => return Err(operation.socket(errno)),
        };
        if !is_kernel {
            bytes.clear();
        } else if length > bytes.len() {
            return Err(operation.malformed(EncodeError::new(Truncated { length, read: bytes.len() })));
        }
        drop(bytes);
        Ok(Ref::map(self.bytes.borrow(), Vec::as_slice))
    }
}

fn is_kernel(sender: SocketAddrAny) -> bool {
    SocketAddrNetlink::try_from(sender).is_ok_and(|sender| sender.pid() == KERNEL)
}

/// A message that exceeds the read buffer.
#[derive(Debug, thiserror::Error)]
#[error("message truncated: {read} of {length} bytes read")]
struct Truncated {
    length: usize,
    read: usize,
}

/// Repeats a dump until the kernel does not mark it as inconsistent.
pub(super) fn until_consistent<T>(operation: &Operation, mut dump: impl FnMut() -> Result<(T, bool)>) -> Result<T> {
    const ATTEMPTS: u32 = 8;
    for _ in 0..ATTEMPTS {
        let (list, is_interrupted) = dump()?;
        if !is_interrupted {
            return Ok(list);
        }
    }
    Err(operation.dump_interrupted(ATTEMPTS))
}

/// The bytes of a request, for a later send or another sender.
pub(super) fn encode<P>(
    operation: &Operation,
    sequence: u32,
    kind: impl Into<u16>,
    flags: NlmF,
    message: Result<P, EncodeError>,
) -> Result<Vec<u8>>
where
    P: Size + ToBytes + fmt::Debug,
{
    let encode = || {
        let mut bytes = Cursor::new(Vec::new());
        request(sequence, kind.into(), flags, message?)?.to_bytes(&mut bytes).map_err(EncodeError::new)?;
        Ok(bytes.into_inner())
    };
    encode().map_err(|error| operation.malformed(error))
}

fn request<P>(sequence: u32, kind: u16, flags: NlmF, payload: P) -> Result<Nlmsghdr<u16, P>, EncodeError>
where
    P: Size,
{
    Ok(NlmsghdrBuilder::default()
        .nl_type(kind)
        .nl_flags(flags | NlmF::REQUEST)
        .nl_seq(sequence)
        .nl_payload(NlPayload::Payload(payload))
        .build()?)
}

/// The descriptor of the socket, for options and for waiting.
///
/// A reader of the descriptor takes the answers away from the operations of this module.
impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("port", &self.port).finish_non_exhaustive()
    }
}

/// The received objects of one exchange.
struct Answer<R> {
    objects: Vec<R>,
    /// The list changed during the dump.
    interrupted: bool,
}

impl<R: FromBytesWithInput<Input = usize>> Answer<R> {
    const fn new() -> Self {
        Self { objects: Vec::new(), interrupted: false }
    }

    /// Adds one message. Returns true if it is the last of the exchange.
    fn take(&mut self, operation: &Operation, reply: Reply<'_>) -> Result<bool> {
        self.interrupted |= reply.interrupted;
        match reply.body {
            Body::Done => Ok(true),
            Body::Refused(code, message) => Err(operation.refused(code, message)),
            Body::Object(bytes) => {
                let object = R::from_bytes_with_input(&mut Cursor::new(bytes), bytes.len())
                    .map_err(|error| operation.malformed(error.into()))?;
                self.objects.push(object);
                Ok(false)
            }
        }
    }
}

/// A function of its own, because the generic callers would each contain a copy.
fn trace_request(operation: &Operation) {
    trace!("{operation}");
}
