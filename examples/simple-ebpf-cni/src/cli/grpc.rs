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
            Self::Malformed(what) => return write!(f, "unexpected answer: {what}"),
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
            return Err(Error::Malformed("no HTTP/2"));
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
                    return Err(Error::Malformed("a message longer than 16 MiB"));
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
    content.ok_or(Error::Malformed("a frame shorter than its padding"))
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
        _ => Err(Error::Malformed("not one message")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    const CONTINUATION: u8 = 9;

    /// A server with a prepared answer. It records the frames of the client.
    struct Server {
        answer: io::Cursor<Vec<u8>>,
        received: Vec<u8>,
    }

    impl Read for Server {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.answer.read(buffer)
        }
    }

    impl Write for Server {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            self.received.write(buffer)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn call_with(frames: &[Vec<u8>]) -> (Result<Vec<u8>, Error>, Vec<u8>) {
        let mut server = Server { answer: io::Cursor::new(frames.concat()), received: Vec::new() };
        let result = call(&mut server, "/p");
        (result, server.received.split_off(request("/p").len()))
    }

    fn message_of(content: &[u8]) -> Vec<u8> {
        [&[0], &(content.len() as u32).to_be_bytes()[..], content].concat()
    }

    fn settings() -> Vec<u8> {
        frame(SETTINGS, 0, 0, &[])
    }

    fn trailers() -> Vec<u8> {
        frame(HEADERS, END_HEADERS | END_STREAM, STREAM, &[0x88])
    }

    /// The bytes of the sections 3.4, 4.1, 6.5 and 6.9 of RFC 9113, and of 6.2.2 of RFC 7541.
    #[test]
    fn a_request_has_the_bytes_of_the_rfcs() {
        let expected = [
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
            b"\0\0\x0c\x04\0\0\0\0\0\0\x02\0\0\0\0\0\x04\x02\0\0\0",
            b"\0\0\x04\x08\0\0\0\0\0\x01\xff\0\x01",
            b"\0\0\x68\x01\x04\0\0\0\x01",
            b"\0\x07:method\x04POST\0\x07:scheme\x04http\0\x05:path\x02/p\0\x0a:authority\x09localhost",
            b"\0\x0ccontent-type\x10application/grpc\0\x02te\x08trailers",
            b"\0\0\x05\0\x01\0\0\0\x01\0\0\0\0\0",
        ];
        assert_eq!(request("/p"), expected.concat());
    }

    #[test]
    fn a_message_in_several_padded_frames_is_joined() {
        let message = message_of(b"abc");
        let (head, tail) = message.split_at(6);
        let padded = [&[3], head, &[0; 3]].concat();
        let (result, replies) = call_with(&[
            settings(),
            frame(SETTINGS, ACK, 0, &[]),
            frame(HEADERS, 0, STREAM, &[0x88]),
            frame(CONTINUATION, END_HEADERS, STREAM, &[]),
            frame(DATA, PADDED, STREAM, &padded),
            frame(PING, 0, 0, b"12345678"),
            frame(DATA, 0, 3, b"of another stream"),
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
            frame(DATA, 0, STREAM, tail),
            trailers(),
        ]);
        assert_eq!(result.unwrap(), b"abc");
        assert_eq!(replies, [frame(SETTINGS, ACK, 0, &[]), frame(PING, ACK, 0, b"12345678")].concat());
    }

    #[test]
    fn an_empty_message_is_a_success_and_no_message_is_a_refusal() {
        let (result, _) = call_with(&[settings(), frame(DATA, END_STREAM, STREAM, &message_of(b""))]);
        assert_eq!(result.unwrap(), b"");
        for end in [trailers(), frame(DATA, END_STREAM, STREAM, &[]), frame(RST_STREAM, 0, STREAM, &[0, 0, 0, 7])] {
            assert!(matches!(call_with(&[settings(), end]).0, Err(Error::Refused)));
        }
    }

    #[test]
    fn a_message_of_the_maximum_length_is_accepted_and_no_longer_one() {
        for (length, fits) in [(MAX_MESSAGE, true), (MAX_MESSAGE + 1, false)] {
            let message = message_of(&vec![7; length]);
            let data = message.chunks(MAX_FRAME).map(|chunk| frame(DATA, 0, STREAM, chunk));
            let frames: Vec<_> = [settings()].into_iter().chain(data).chain([trailers()]).collect();
            assert_eq!(call_with(&frames).0.is_ok(), fits, "{length}");
        }
    }

    #[test]
    fn broken_answers_are_errors() {
        let data = |content: &[u8], flags| frame(DATA, flags | END_STREAM, STREAM, content);
        for broken in [
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            vec![0xff; 64],
            // The first frame must be SETTINGS.
            trailers(),
            [settings(), data(b"\0\0\0\0\x05abc", 0)].concat(),
            [settings(), data(b"\0\0\0\0\x01abc", 0)].concat(),
            [settings(), data(b"\x01\0\0\0\x03abc", 0)].concat(),
            [settings(), data(b"\0\0\0", 0)].concat(),
            [settings(), data(b"\x09abc", PADDED)].concat(),
            [settings(), data(b"", PADDED)].concat(),
            [settings(), vec![0, 0x40, 1, DATA, 0, 0, 0, 0, 1]].concat(),
        ] {
            let (result, _) = call_with(std::slice::from_ref(&broken));
            assert!(matches!(result, Err(Error::Malformed(_))), "{broken:?}: {result:?}");
        }
    }

    /// Each prefix of an answer is incomplete, and no single changed byte causes a panic.
    #[test]
    fn cut_and_changed_answers_end() {
        let answer =
            [settings(), frame(PING, 0, 0, &[1; 8]), frame(DATA, PADDED, STREAM, b"\x01\0\0\0\0\x02ab\0"), trailers()];
        let answer = answer.concat();
        assert_eq!(call_with(std::slice::from_ref(&answer)).0.unwrap(), b"ab");
        for end in 0..answer.len() {
            let (result, _) = call_with(&[answer[..end].to_vec()]);
            let is_cut = matches!(&result, Err(Error::Io(error)) if error.kind() == ErrorKind::UnexpectedEof);
            assert!(is_cut, "{end}: {result:?}");
        }
        for position in 0..answer.len() {
            for bit in 0..u8::BITS {
                let mut changed = answer.clone();
                changed[position] ^= 1 << bit;
                let _ = call_with(&[changed]);
            }
        }
    }

    #[test]
    fn a_server_that_never_finishes_is_left_at_the_deadline() {
        const TIMEOUT: Duration = Duration::from_millis(300);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        // Silent, then a flood that keeps each single read short.
        for flood in [false, true] {
            let start = Instant::now();
            let mut connection = Connection::open(&path, TIMEOUT).unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            let server = thread::spawn(move || {
                let _ = peer.write_all(&settings());
                while flood && peer.write_all(&frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])).is_ok() {}
                peer
            });
            let result = call(&mut connection, "/p");
            let is_timeout = |error: &io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            assert!(matches!(&result, Err(Error::Io(error)) if is_timeout(error)), "{result:?}");
            assert!(start.elapsed() >= TIMEOUT && start.elapsed() < 10 * TIMEOUT, "{:?}", start.elapsed());
            drop(connection);
            server.join().unwrap();
        }
    }

    /// The kernel lets a client wait if the queue of the listener is full.
    #[test]
    fn a_full_queue_is_left_at_the_deadline() {
        const TIMEOUT: Duration = Duration::from_millis(100);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _first = Connection::open(&path, TIMEOUT).unwrap();
        let error = Connection::open(&path, TIMEOUT).err().map(|error| error.kind());
        assert_eq!(error, Some(ErrorKind::WouldBlock));
    }
}
