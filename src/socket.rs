//! Sockets as the kernel sees them: how an address is bound for all workers at once, what every connection's socket is set
//! to, and how one is cut.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{SendFlags, SocketFlags};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, TcpKeepalive, Type};

use crate::config::{Bind, Tcp};
use crate::downstream::addr::{ClientAddr, ListenAddr};

/// Silence between two keepalive probes, and how many go unanswered before the connection is given up.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 3;

/// Bytes that the kernel takes of us beyond those that it has sent. Without it, it takes some 3 MB more for each reader that
/// has stopped (measured over loopback), all counted as moved, and discarded by a reset; and a reader that is only slow
/// is at work on them for longer than the stall. Two of the blocks that a tunnel writes, so that one is there while the
/// next is fetched.
const UNSENT: u32 = 128 * 1024;

/// A filter that drops segments with SYN (RFC 9293 section 3.1: bit 1 of byte 13) and lets all others pass. A filter sees a
/// segment from the header of TCP on. Who is dropped tries again a second later, and then finds nobody.
const WITHOUT_SYN: [SockFilter; 4] = [
    SockFilter::new(0x30, 0, 0, 13),       // load the byte at 13
    SockFilter::new(0x45, 0, 1, 0x02),     // has it this bit?
    SockFilter::new(0x06, 0, 0, 0),        // yes: keep no byte of the segment
    SockFilter::new(0x06, 0, 0, u32::MAX), // no: all
];

/// The listening sockets of one address: one for each worker.
#[derive(Debug)]
pub struct Listening {
    /// Where they listen; the real port where port 0 was asked.
    pub address: ListenAddr,
    /// One socket a worker.
    pub sockets: Vec<OwnedFd>,
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    address: SocketAddr,
    why: Why,
}

#[derive(Debug)]
enum Why {
    /// The kernel has refused it.
    Refused(io::Error),
    /// It is the one that another listener has got for port 0.
    Given,
}

/// Which of an address the gateway listens on already.
#[derive(Debug)]
pub enum Ours {
    /// All of it, by these sockets.
    Whole(Arc<Listening>),
    /// The same port, of an address that has this one or is one of it. That it may not stay has been seen in the configuration.
    Part,
    /// Nothing.
    Nothing,
}

impl BindError {
    /// For an address that another listener has got for port 0.
    pub fn given(address: ListenAddr) -> Self {
        Self { address: address.0, why: Why::Given }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: ", self.address)?;
        let error = match &self.why {
            Why::Refused(error) => error,
            Why::Given => return f.write_str("another listener has got it for its port 0"),
        };
        match error.kind() {
            io::ErrorKind::AddrInUse => f.write_str("the address is in use by another process"),
            io::ErrorKind::PermissionDenied => {
                f.write_str("not allowed: ports below 1024 need root or the capability CAP_NET_BIND_SERVICE")
            }
            io::ErrorKind::AddrNotAvailable => f.write_str("no interface of this machine has the address"),
            _ => write!(f, "{error}"),
        }
    }
}

// The cause is part of the line above, in words; it would be told twice as a source.
impl std::error::Error for BindError {}

/// Binds one entry of `bind` for `workers` workers; `ours` says what of an address is bound already.
///
/// `*:port` is both families; on a machine without IPv6 it is IPv4 alone.
pub fn listen(
    bind: Bind,
    workers: usize,
    tcp: &Tcp,
    ours: impl Fn(ListenAddr) -> Ours,
) -> Result<Vec<Arc<Listening>>, BindError> {
    let listen_on = |address| {
        let shares = match ours(ListenAddr(address)) {
            Ours::Whole(listening) => return Ok(listening),
            Ours::Part => true,
            Ours::Nothing => false,
        };
        let bound = bind_all(address, workers, tcp, shares);
        bound.map(Arc::new).map_err(|error| BindError { address, why: Why::Refused(error) })
    };
    match bind {
        Bind::Address(address) => Ok(vec![listen_on(address)?]),
        Bind::Every(port) => {
            let four = listen_on((Ipv4Addr::UNSPECIFIED, port).into())?;
            // Port 0 means one port, the same in both families.
            let port = four.address.0.port();
            match listen_on((Ipv6Addr::UNSPECIFIED, port).into()) {
                Ok(six) => Ok(vec![four, six]),
                Err(BindError { why: Why::Refused(error), .. }) if without_ipv6(&error) => Ok(vec![four]),
                Err(error) => Err(error),
            }
        }
    }
}

fn without_ipv6(error: &io::Error) -> bool {
    let missing = [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL];
    missing.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The first socket is bound without SO_REUSEPORT and gets it before it listens: with the option at bind, a second
/// gateway of the same user would silently share the port. Unless it `shares` the port with an address of ours.
fn bind_all(address: SocketAddr, workers: usize, tcp: &Tcp, shares: bool) -> io::Result<Listening> {
    let first = socket(address, tcp)?;
    first.set_reuse_port(shares)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    first.listen(backlog(tcp))?;
    let bound = local(&first)?;
    let mut sockets = vec![OwnedFd::from(first)];
    for _ in 1..workers {
        let next = socket(bound, tcp)?;
        next.set_reuse_port(true)?;
        next.bind(&bound.into())?;
        next.listen(backlog(tcp))?;
        sockets.push(next.into());
    }
    Ok(Listening { address: ListenAddr(bound), sockets })
}

fn socket(address: SocketAddr, tcp: &Tcp) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Accepted sockets inherit these from the one that listens: no system call for each connection.
    set_options(&SockRef::from(&socket), tcp)?;
    Ok(socket)
}

impl Listening {
    /// One more descriptor of one worker's socket, to accept with.
    pub fn of_worker(&self, worker: usize) -> io::Result<OwnedFd> {
        self.sockets[worker].try_clone()
    }

    /// Whether both cannot be bound at once, but by one who shares it with himself.
    pub fn overlaps(&self, address: ListenAddr) -> bool {
        Bind::Address(self.address.0).overlaps(Bind::Address(address.0))
    }

    /// Lets nobody begin to connect any more, on any of its sockets; who has begun comes through. Its sockets are drained
    /// and closed one by one, and the kernel spreads who comes over all that are open: it would put them into queues that
    /// have been looked at for the last time, and reset them when these are closed.
    pub fn close_door(&self) {
        for socket in &self.sockets {
            if let Err(error) = SockRef::from(socket).attach_filter(&WITHOUT_SYN) {
                tracing::error!(address = %self.address, %error, "who connects just now may be reset");
            }
        }
    }

    /// Connections that are accepted from now on have these options. Best effort: the address is being served.
    pub fn set_options(&self, tcp: &Tcp) {
        for socket in &self.sockets {
            if let Err(error) = set_options(&SockRef::from(socket), tcp) {
                tracing::error!(address = %self.address, %error, "the options of a listening socket cannot be changed");
            }
        }
    }
}

fn backlog(tcp: &Tcp) -> i32 {
    i32::try_from(tcp.backlog).unwrap_or(i32::MAX)
}

fn local(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("an IP socket without an IP address"))
}

/// What every socket of a connection is set to, on both sides. Without keepalive and user timeout a phone that lost its
/// network holds a tunnel for hours.
pub fn set_options(socket: &SockRef<'_>, tcp: &Tcp) -> io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(tcp.keepalive).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.set_tcp_user_timeout(Some(tcp.user_timeout))
}

/// Takes one connection from the accept queue; WouldBlock when it is empty.
pub fn accept(listening: &impl AsFd) -> io::Result<(TcpStream, ClientAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, address) = rustix::net::acceptfrom_with(listening, flags)?;
    let address = address.ok_or_else(|| io::Error::other("a connection without an address"))?;
    let address = SocketAddr::try_from(address).map_err(|_| io::Error::other("a connection without an IP address"))?;
    Ok((socket.into(), ClientAddr(address)))
}

/// Whether a connection waits in the accept queue.
pub fn has_waiting(listening: &impl AsFd) -> bool {
    let mut asked = [PollFd::new(listening, PollFlags::IN)];
    // An error leaves the accept to find it.
    !matches!(rustix::event::poll(&mut asked, Some(&Timespec::default())), Ok(0))
}

/// Offers bytes to the kernel, which takes what it has room for.
pub fn offer(socket: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}

/// Whether the socket has an error to tell; telling it takes it away.
pub fn has_failed(socket: &impl AsFd) -> bool {
    matches!(SockRef::from(socket).take_error(), Ok(Some(_)))
}

/// The next close of this socket discards what was not sent and says RST instead of FIN.
pub fn reset_on_close(socket: &impl AsFd) {
    // A socket that is gone already cannot be set and need not be.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Raises the soft limit of descriptors to the hard one; returns it.
pub fn raise_descriptors() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused only where it was not allowed; then the old limit is the limit.
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The most descriptors that room is made for ahead: 2 MiB of the kernel's memory.
const MOST_AHEAD: u64 = 1 << 18;

/// Has the kernel make room for so many descriptors now, 8 bytes each. By itself it doubles its table whenever that is full, and
/// in a process of several threads whoever opened the one too many waits until every processor has noticed (synchronize_rcu):
/// 5 to 24 ms were seen within an accept, and all tunnels of the worker wait with it.
pub fn make_room(descriptors: u64, socket: &impl AsFd) {
    let last = descriptors.min(MOST_AHEAD).saturating_sub(1);
    // Where there is no such room, it is not needed yet, and whoever needs it is told.
    let _ = rustix::io::fcntl_dupfd_cloexec(socket, i32::try_from(last).unwrap_or(i32::MAX));
}
