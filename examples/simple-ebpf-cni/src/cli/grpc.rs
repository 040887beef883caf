//! One gRPC call over HTTP/2 (RFC 9113), for a response with one message.
//!
//! The peer is untrusted: each length has a limit, and the stream has a deadline.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// The maximum time of a call.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum length of a message. containerd and the kubelet have the same limit.
const MAX_MESSAGE: usize = 16 << 20;

/// The flow-control window. It exceeds the longest message and its padding in any sane response, so
/// the client never has to extend it.
const WINDOW: u32 = 2 * MAX_MESSAGE as u32;
/// The window of a connection before the first frame.
const INITIAL_WINDOW: u32 = 65_535;

/// The maximum length of a frame, because the client does not announce a larger one.
const MAX_FRAME: usize = 16_384;
const FRAME_HEADER: usize = 9;

/// The compression flag and the length of a message.
const MESSAGE_HEADER: usize = 5;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

/// Of PING and SETTINGS.
const ACK: u8 = 1;
/// Of DATA and HEADERS.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// The client's first stream.
const STREAM: u32 = 1;

/// The reason why a call failed.
#[derive(Debug)]
pub(crate) enum Error {
    Io(io::Error),
    /// The peer sends something else than a gRPC response.
    Malformed(&'static str),
    /// The server ends the call without a message. The header `grpc-status` has the reason, and may
    /// be compressed.
    Refused,
}

impl Error {
    /// What an operator can do.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Io(error) if error.kind() == ErrorKind::PermissionDenied => "run it as root",
            Self::Refused => "its log or crictl pods shows the reason; containerd needs its plugin cri",
            _ => "start the runtime, or select its socket with --runtime-endpoint",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Io(error) => match error.kind() {
                ErrorKind::NotFound => "there is no such socket",
                ErrorKind::ConnectionRefused => "no process listens",
                ErrorKind::WouldBlock | ErrorKind::TimedOut => "no complete answer after 10 seconds",
                ErrorKind::UnexpectedEof => "the connection was closed before the end of the answer",
                _ => return error.fmt(f),
            },
            Self::Malformed(what) => return write!(f, "this is no gRPC server: {what}"),
            Self::Refused => "the runtime refused the call",
        })
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A connection with a deadline for all reads and writes.
pub(crate) struct Connection {
    stream: UnixStream,
    deadline: Instant,
}

impl Connection {
    /// Connects to a socket within `timeout`.
    pub(crate) fn open(path: &Path, timeout: Duration) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let deadline = Instant::now() + timeout;
        // The queue of a server that does not accept connections may be full.
        set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
        connect(&socket, &address)?;
        Ok(Self { stream: socket.into(), deadline })
    }

    fn remaining(&self) -> io::Result<Option<Duration>> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(Some(remaining)) }
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.remaining()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Connection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.remaining()?)?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Calls a procedure with an empty request. Returns the message of the response.
///
/// A server sends the message only if the call succeeds, so the compressed headers need no decoder.
pub(crate) fn call(server: &mut (impl Read + Write), procedure: &str) -> Result<Vec<u8>, Error> {
    server.write_all(&request(procedure))?;
    let (mut body, mut is_first) = (Vec::new(), true);
    loop {
        let mut header = [0; FRAME_HEADER];
        server.read_exact(&mut header)?;
        let [a, b, c, kind, flags, stream @ ..] = header;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        // A server that speaks another protocol fails here.
        if length > MAX_FRAME || is_first && kind != SETTINGS {
            return Err(Error::Malformed("it sends no HTTP/2"));
        }
        is_first = false;
        let mut payload = vec![0; length];
        server.read_exact(&mut payload)?;
        let is_ours = u32::from_be_bytes(stream) & (u32::MAX >> 1) == STREAM;
        match kind {
            SETTINGS if flags & ACK == 0 => server.write_all(&frame(SETTINGS, ACK, 0, &[]))?,
            PING if flags & ACK == 0 => server.write_all(&frame(PING, ACK, 0, &payload))?,
            RST_STREAM if is_ours => return Err(Error::Refused),
            DATA if is_ours => {
                body.extend(unpadded(&payload, flags)?);
                if body.len() > MESSAGE_HEADER + MAX_MESSAGE {
                    return Err(Error::Malformed("its message is longer than 16 MiB"));
                }
            }
            _ => {}
        }
        if is_ours && matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            return message(body);
        }
    }
}

/// The connection preface, the settings, and the call.
fn request(procedure: &str) -> Vec<u8> {
    const ENABLE_PUSH: u16 = 2;
    const INITIAL_WINDOW_SIZE: u16 = 4;
    let setting = |name: u16, value: u32| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let settings = [setting(ENABLE_PUSH, 0), setting(INITIAL_WINDOW_SIZE, WINDOW)].concat();
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", procedure),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // A literal field without indexing, with a new name (RFC 7541, section 6.2.2).
        headers.push(0);
        for text in [name, value] {
            // One byte encodes a length below 127, without Huffman coding.
            headers.push(text.len() as u8);
            headers.extend(text.as_bytes());
        }
    }
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &settings),
        frame(WINDOW_UPDATE, 0, 0, &(WINDOW - INITIAL_WINDOW).to_be_bytes()),
        frame(HEADERS, END_HEADERS, STREAM, &headers),
        frame(DATA, END_STREAM, STREAM, &[0; MESSAGE_HEADER]),
    ]
    .concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The content of a DATA frame.
fn unpadded(payload: &[u8], flags: u8) -> Result<&[u8], Error> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let content =
        payload.split_first().and_then(|(&padding, rest)| rest.get(..rest.len().checked_sub(padding.into())?));
    content.ok_or(Error::Malformed("a frame is shorter than its padding"))
}

/// The message in the body of a response.
fn message(mut body: Vec<u8>) -> Result<Vec<u8>, Error> {
    match body[..] {
        [] => Err(Error::Refused),
        // The client does not announce any compression.
        [0, a, b, c, d, ..] if u32::from_be_bytes([a, b, c, d]) as usize == body.len() - MESSAGE_HEADER => {
            body.drain(..MESSAGE_HEADER);
            Ok(body)
        }
        _ => Err(Error::Malformed("its response is not one message")),
    }
}
