//! Load between two pods, and the measurement at both ends.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cnikit_testbed::Pod;
use rustix::net::sockopt::{Timeout, set_socket_linger, set_socket_timeout, set_tcp_congestion};

use super::cpu::{busy, pin};

/// The timeout of an answer. A longer wait means that no answer comes.
const TIMEOUT: Duration = Duration::from_secs(5);

/// After this pause, a receiver assumes that all packets have arrived.
const QUIET: Duration = Duration::from_millis(100);

/// The default of the kernel. A machine can have BBR instead, which delays packets by timers.
const CONGESTION_CONTROL: &str = "cubic";

/// Two pods with sockets.
#[derive(Debug)]
pub(super) struct Ends {
    /// The pod that connects.
    pub(super) client: Arc<Pod>,
    /// The same pod if packets use loopback.
    pub(super) server: Arc<Pod>,
    /// The address of the server from the client's view.
    pub(super) address: IpAddr,
}

/// One measured value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measurement {
    pub(super) measure: &'static str,
    pub(super) unit: &'static str,
    pub(super) value: f64,
}

impl Ends {
    /// A socket belongs to the namespace of the thread that creates it, independent of the user.
    fn listen(&self) -> TcpListener {
        let listener = self.server.enter(|| TcpListener::bind((self.address, 0))).expect("an address of the server's");
        // The timeout also applies to accept(2): if the client fails, the server must not wait
        // forever.
        set_socket_timeout(&listener, Timeout::Recv, Some(TIMEOUT)).expect("a limit");
        // Accepted sockets inherit it.
        set_tcp_congestion(&listener, CONGESTION_CONTROL).expect("the kernel's default");
        listener
    }

    fn connect(&self, to: SocketAddr) -> TcpStream {
        let stream = self.client.enter(|| TcpStream::connect_timeout(&to, TIMEOUT)).expect("the server is reached");
        prepare(&stream);
        set_tcp_congestion(&stream, CONGESTION_CONTROL).expect("the kernel's default");
        stream
    }

    /// Both ends of a connection.
    fn connection(&self) -> (TcpStream, TcpStream) {
        let listener = self.listen();
        let client = self.connect(listener.local_addr().expect("an address"));
        let (server, _) = listener.accept().expect("a connection");
        prepare(&server);
        (client, server)
    }

    /// A connected socket of the client, and a socket of the server.
    fn datagram_sockets(&self) -> (UdpSocket, UdpSocket) {
        let server = self.server.enter(|| UdpSocket::bind((self.address, 0))).expect("an address of the server's");
        let any: SocketAddr = ([0, 0, 0, 0], 0).into();
        let client = self.client.enter(|| UdpSocket::bind(any)).expect("a socket");
        client.connect(server.local_addr().expect("an address")).expect("an address that is routed");
        (client, server)
    }
}

/// One octet in each direction over TCP, with both ends on one CPU. On two CPUs, the time to wake
/// the other CPU would dominate.
pub(super) fn round_trips(ends: &Ends, time: Duration) -> Vec<Measurement> {
    let (mut client, mut server) = ends.connection();
    let ask = move |octet: u8| {
        let mut answer = [0];
        client.write_all(&[octet]).expect("a server that listens");
        client.read_exact(&mut answer).expect("an answer");
        answer[0]
    };
    let answer = move || {
        let mut octet = [0];
        let is_open = server.read_exact(&mut octet).is_ok();
        if is_open {
            server.write_all(&octet).expect("a client that listens");
        }
        is_open
    };
    let times = round_trip_times(time, ask, answer);
    vec![
        Measurement { measure: "TCP_RR p50", unit: "us", value: percentile(&times, 0.5) },
        Measurement { measure: "TCP_RR p99", unit: "us", value: percentile(&times, 0.99) },
    ]
}

/// As [`round_trips`], with both ends in one thread. No thread waits for another, so the time
/// covers only the system calls and the path.
pub(super) fn round_trips_of_one_thread(ends: &Ends, time: Duration) -> Vec<Measurement> {
    let (mut client, mut server) = ends.connection();
    let round_trip = |octet: u8| {
        let mut answer = [octet];
        client.write_all(&answer).expect("a server that listens");
        server.read_exact(&mut answer).expect("an octet");
        server.write_all(&answer).expect("a client that listens");
        client.read_exact(&mut answer).expect("an answer");
        answer[0]
    };
    let value = percentile(&round_trip_times(time, round_trip, || false), 0.5);
    vec![Measurement { measure: "TCP_RR p50, one thread", unit: "us", value }]
}

/// As [`round_trips`], over UDP.
pub(super) fn datagram_round_trips(ends: &Ends, time: Duration) -> Vec<Measurement> {
    let (client, server) = ends.datagram_sockets();
    client.set_read_timeout(Some(TIMEOUT)).expect("a limit");
    server.set_read_timeout(Some(QUIET)).expect("a limit");
    let ask = move |octet: u8| {
        let mut answer = [0];
        client.send(&[octet]).expect("a route");
        assert_eq!(client.recv(&mut answer).expect("an answer"), 1);
        answer[0]
    };
    let answer = move || {
        let mut octet = [0];
        if let Ok((_, from)) = server.recv_from(&mut octet) {
            server.send_to(&octet, from).expect("a route");
        }
        true
    };
    let value = percentile(&round_trip_times(time, ask, answer), 0.5);
    vec![Measurement { measure: "UDP_RR p50", unit: "us", value }]
}

/// The sorted times of round trips, in microseconds. `ask` sends an octet and returns the answer.
/// `answer` handles one octet and returns false at the end of the connection.
fn round_trip_times(
    time: Duration,
    mut ask: impl FnMut(u8) -> u8 + Send,
    mut answer: impl FnMut() -> bool + Send,
) -> Vec<f64> {
    let is_over = AtomicBool::new(false);
    let mut times = thread::scope(|scope| {
        scope.spawn(|| {
            pin(0);
            loop {
                if is_over.load(Ordering::Relaxed) || !answer() {
                    return;
                }
            }
        });
        let is_over = &is_over;
        let client = scope.spawn(move || {
            pin(0);
            let begin = Instant::now();
            let mut times = Vec::new();
            while begin.elapsed() < time {
                let octet = times.len() as u8;
                let start = Instant::now();
                let answer = ask(octet);
                times.push(start.elapsed().as_secs_f64() * 1e6);
                assert_eq!(answer, octet, "the answer differs from the sent octet");
            }
            times
        });
        let times = client.join();
        is_over.store(true, Ordering::Relaxed);
        times.expect("the client ends")
    });
    times.sort_by(f64::total_cmp);
    times
}

/// A percentile of sorted values: 0.5 is the median.
fn percentile(sorted: &[f64], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

/// The maximum throughput of one TCP connection, with the ends on two CPUs.
pub(super) fn stream(ends: &Ends, time: Duration) -> Vec<Measurement> {
    let (mut client, mut server) = ends.connection();
    let before = busy();
    let (sent, received, taken) = thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            pin(1);
            let mut buffer = vec![0; 256 << 10];
            let mut received = server.read(&mut buffer).expect("something to read");
            let begin = Instant::now();
            loop {
                match server.read(&mut buffer).expect("something to read") {
                    0 => return (received, begin.elapsed()),
                    count => received += count,
                }
            }
        });
        let sender = scope.spawn(move || {
            pin(0);
            let (buffer, begin) = (vec![0x55; 128 << 10], Instant::now());
            let mut sent = 0;
            while begin.elapsed() < time {
                client.write_all(&buffer).expect("a server that listens");
                sent += buffer.len();
            }
            sent
        });
        let (received, taken) = receiver.join().expect("the receiver ends");
        (sender.join().expect("the sender ends"), received, taken)
    });
    assert_eq!(sent, received, "octets were lost");
    let kib = received as f64 / 1024.0;
    vec![
        Measurement { measure: "TCP_STREAM", unit: "Gbit/s", value: received as f64 * 8e-9 / taken.as_secs_f64() },
        Measurement { measure: "TCP_STREAM, CPU", unit: "ns per KiB", value: (busy() - before) * 1e9 / kib },
    ]
}

/// Datagrams of 64 octets at the maximum rate of one thread, with the ends on two CPUs. Received
/// datagrams count.
pub(super) fn datagrams(ends: &Ends, time: Duration) -> Vec<Measurement> {
    let (client, server) = ends.datagram_sockets();
    let before = busy();
    let (sent, arrived, taken) = thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            pin(1);
            server.set_read_timeout(Some(TIMEOUT)).expect("a limit");
            let mut buffer = [0; 128];
            assert_eq!(server.recv(&mut buffer).expect("a datagram"), 64);
            server.set_read_timeout(Some(QUIET)).expect("a limit");
            let (begin, mut last, mut arrived) = (Instant::now(), Instant::now(), 1_u64);
            while server.recv(&mut buffer).is_ok() {
                arrived += 1;
                // The clock is not read for each datagram.
                if arrived.is_multiple_of(64) {
                    last = Instant::now();
                }
            }
            (arrived, last - begin)
        });
        let sender = scope.spawn(move || {
            pin(0);
            let (begin, mut sent) = (Instant::now(), 0_u64);
            while begin.elapsed() < time {
                for _ in 0..16 {
                    sent += u64::from(client.send(&[0x55; 64]).is_ok());
                }
            }
            sent
        });
        let sent = sender.join().expect("the sender ends");
        let (arrived, taken) = receiver.join().expect("the receiver ends");
        (sent, arrived, taken)
    });
    assert!(arrived > 64 && arrived <= sent, "{arrived} of {sent} datagrams arrived");
    let per_second = arrived as f64 / taken.as_secs_f64();
    let (lost, each) = (100.0 * (1.0 - arrived as f64 / sent as f64), (busy() - before) * 1e6 / sent as f64);
    vec![
        Measurement { measure: "UDP", unit: "packets per second", value: per_second },
        Measurement { measure: "UDP, lost", unit: "%", value: lost },
        Measurement { measure: "UDP, CPU", unit: "us per packet", value: each },
    ]
}

/// The rate of connections: see [`open_connections`].
pub(super) fn connections(ends: &Ends, time: Duration) -> Vec<Measurement> {
    let (times, taken) = open_connections(ends, time);
    let value = times.len() as f64 / taken.as_secs_f64();
    vec![Measurement { measure: "connections", unit: "per second", value }]
}

/// The time of a connection: see [`open_connections`].
pub(super) fn connection_times(ends: &Ends, time: Duration) -> Vec<Measurement> {
    let (mut times, _) = open_connections(ends, time);
    times.sort_by(f64::total_cmp);
    vec![Measurement { measure: "TCP_CRR p50", unit: "us", value: percentile(&times, 0.5) }]
}

/// Connections that are opened, used for one octet in each direction, and reset, so that no port
/// stays in TIME_WAIT for a minute. Both ends are on one CPU. Returns the time of each connection
/// in microseconds, and the time of all.
fn open_connections(ends: &Ends, time: Duration) -> (Vec<f64>, Duration) {
    let listener = ends.listen();
    let address = listener.local_addr().expect("an address");
    let is_over = AtomicBool::new(false);
    let (times, accepted, taken) = thread::scope(|scope| {
        let server = scope.spawn(|| {
            pin(0);
            let mut accepted = 0;
            loop {
                let (mut stream, _) = listener.accept().expect("a connection");
                if is_over.load(Ordering::Acquire) {
                    return accepted;
                }
                prepare(&stream);
                let mut octet = [0];
                stream.read_exact(&mut octet).expect("an octet");
                stream.write_all(&octet).expect("a client that listens");
                // The client resets the connection.
                let ended = stream.read(&mut octet);
                assert!(matches!(&ended, Err(error) if error.kind() == ErrorKind::ConnectionReset), "{ended:?}");
                accepted += 1;
            }
        });
        // The thread stays in the namespace. Otherwise the measurement would include entering it.
        let (times, taken) = ends.client.enter(|| {
            pin(0);
            let (begin, mut times) = (Instant::now(), Vec::new());
            while begin.elapsed() < time {
                let start = Instant::now();
                let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).expect("the server is reached");
                prepare(&stream);
                stream.write_all(&[7]).expect("a server that listens");
                stream.read_exact(&mut [0]).expect("an answer");
                set_socket_linger(&stream, Some(Duration::ZERO)).expect("a socket of TCP");
                drop(stream);
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            let taken = begin.elapsed();
            is_over.store(true, Ordering::Release);
            drop(TcpStream::connect_timeout(&address, TIMEOUT));
            (times, taken)
        });
        (times, server.join().expect("the server ends"), taken)
    });
    assert_eq!(times.len(), accepted, "connections were lost");
    (times, taken)
}

/// Writes are sent at once, and all waits have a timeout.
fn prepare(stream: &TcpStream) {
    stream.set_nodelay(true).expect("a socket of TCP");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a limit");
    stream.set_write_timeout(Some(TIMEOUT)).expect("a limit");
}
