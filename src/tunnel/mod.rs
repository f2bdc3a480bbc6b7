//! A tunnel: the bytes both ways after the 101.
//!
//! It is data with a poll function: all that it knows is in its fields between two polls, so it can be listed, ended
//! politely and taken apart. An `async fn` with its locals could not, and nested ones cost a tunnel kilobytes.
//!
//! What ends one (nothing here is ever a status: that time has passed):
//! - both directions ended, each by the FIN of its source, passed on one at a time;
//! - a reset of one party, passed on as a reset to the other;
//! - the clock: idle, stalled, half-closed;
//! - an order through the registry.

pub mod alarm;
pub mod clock;
mod direction;
pub mod frames;
pub mod io;
pub mod paced;
pub mod session;

use std::cell::RefCell;
use std::fmt;
use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use self::alarm::Alarm;
use self::clock::{Limits, Next};
use self::direction::{Break, Direction};
use self::frames::{CloseCode, Cursor};
use self::io::TunnelIo;
use crate::cells::counted;
use crate::config::ExchangeTimeouts;
use crate::downstream::seat::Seat;
use crate::record::Record;
use crate::registry::Order;
use crate::turns;
use crate::upstream::endpoint::EndpointGuard;

/// Bytes read at once; one buffer a worker, whatever the number of its tunnels.
const BUFFER: usize = 64 * 1024;

thread_local! {
    static WORKER_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

counted! {
/// What ended a tunnel.
pub enum EndedBy {
    /// The client ended its direction first, and then the server its own.
    ClientClosed,
    /// The server ended its direction first, and then the client its own.
    ServerClosed,
    /// The client ended its direction first, without the close_notify of its TLS.
    ClientTruncated,
    /// The server ended its direction first, without the close_notify of its TLS.
    ServerTruncated,
    /// The client reset it, or its network is gone.
    ClientReset,
    /// The server reset it, or its network is gone.
    ServerReset,
    /// No byte in either direction for `timeouts.idle`.
    Idle,
    /// Bytes were there to be written, and none moved for `timeouts.stall`.
    Stalled,
    /// One direction had ended, and the other was silent for `timeouts.half_close`.
    HalfClosed,
    /// What the gateway itself reads broke the protocol (Close 1002 or 1007).
    Malformed,
    /// A limit of the configuration (Close 1009).
    Limit,
    /// A change of the configuration: its route has changed or is gone, or its endpoint is.
    Drain,
    /// The gateway ended before it did.
    HardStop,
}
}

/// How a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelEnd {
    /// What ended it.
    pub by: EndedBy,
    /// Bytes from client to server.
    pub sent: u64,
    /// Bytes from server to client.
    pub received: u64,
    /// The code of the first Close that passed; 1005 for one without.
    pub close_code: Option<u16>,
}

/// A party of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Party {
    Client,
    Server,
}

/// Two streams, spliced. A future: it is ready when the tunnel has ended and its record is written.
#[derive(Debug)]
pub struct Tunnel {
    /// None only once it has ended.
    sides: Option<Sides>,
    sent: Direction,
    received: Direction,
    first_fin: Option<Party>,
    /// Who said Close first; what the other says then is its answer.
    first_close: Option<Party>,
    /// A party that takes no more; what it sent before is still delivered.
    broken: Option<Party>,
    limits: Limits,
    alarm: Alarm,
    wakes_by_order: bool,
    /// What has ended it, while it waits for its turn to be taken apart.
    ending: Option<EndedBy>,
    holds: Holds,
}

#[derive(Debug)]
struct Sides {
    client: TunnelIo,
    server: TunnelIo,
}

/// What a tunnel holds until its end.
#[derive(Debug)]
pub struct Holds {
    /// Its place in the gateway.
    pub seat: Seat,
    /// Its place in the budget of tunnels.
    pub place: OwnedSemaphorePermit,
    /// Its use of the endpoint.
    pub endpoint: Option<EndpointGuard>,
    /// Its line.
    pub record: Record,
}

/// One side as the opening handshake left it.
#[derive(Debug)]
pub struct Side {
    /// The stream.
    pub io: TunnelIo,
    /// Bytes that came behind the head.
    pub leftover: Bytes,
}

impl Tunnel {
    /// Splices two sides. `websocket` says that the bytes are WebSocket frames; anything else is opaque.
    pub fn new(client: Side, server: Side, websocket: bool, timeouts: &ExchangeTimeouts, holds: Holds) -> Self {
        let now = Instant::now();
        let limits = Limits::from(timeouts);
        let (sent, received) = match websocket {
            true => (Cursor::client(), Cursor::server()),
            false => (Cursor::opaque(), Cursor::opaque()),
        };
        let mut holds = holds;
        holds.record.tunnel_opened(now);
        Self {
            sent: Direction::new(sent, &client.leftover, now),
            received: Direction::new(received, &server.leftover, now),
            sides: Some(Sides { client: client.io, server: server.io }),
            first_fin: None,
            first_close: None,
            broken: None,
            limits,
            alarm: Alarm::new(now + limits.idle),
            wakes_by_order: false,
            ending: None,
            holds,
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<EndedBy> {
        if let Some(by) = EndedBy::order(self.ordered(cx), &mut self.holds.record) {
            return Poll::Ready(by);
        }
        let now = Instant::now();
        if let Some(by) = self.poll_directions(cx, now) {
            return Poll::Ready(by);
        }
        self.poll_clock(cx, now)
    }

    fn ordered(&mut self, cx: &Context<'_>) -> Order {
        let entry = self.holds.seat.registration.entry();
        if !self.wakes_by_order {
            // Once is enough: a task's waker is the same for all its life.
            entry.wake_by(cx.waker());
            self.wakes_by_order = true;
        }
        entry.ordered()
    }

    /// One direction after the other: a write that finds its sink reset takes the error from the socket, and what reads
    /// from that socket meets a plain end, which must not be passed on as one.
    fn poll_directions(&mut self, cx: &mut Context<'_>, now: Instant) -> Option<EndedBy> {
        self.poll_direction(Party::Client, cx, now).or_else(|| self.poll_direction(Party::Server, cx, now))
    }

    fn poll_direction(&mut self, source: Party, cx: &mut Context<'_>, now: Instant) -> Option<EndedBy> {
        let Self { sides, sent, received, broken, .. } = self;
        let Sides { client, server } = sides.as_mut().expect("a tunnel has its sides until it has ended");
        let (direction, back, from, to) = match source {
            Party::Client => (sent, received, client, server),
            Party::Server => (received, sent, server, client),
        };
        // A broken source has no end that could be passed on: what follows its last bytes is a reset, over TLS too. And when
        // the sink's own source has ended, closing a plain socket says all that ending our direction would.
        let silently = *broken == Some(source) || (back.has_ended() && to.ends_by_closing());
        let polled = WORKER_BUFFER.with_borrow_mut(|buffer| direction.poll(from, to, buffer, silently, cx, now));
        if self.first_close.is_none() && self.direction_from(source).cursor.close_code().is_some() {
            self.first_close = Some(source);
        }
        self.follow(source, polled, now)
    }

    /// What became of the direction whose source is `source`.
    fn follow(&mut self, source: Party, polled: Poll<Result<(), Break>>, now: Instant) -> Option<EndedBy> {
        match polled {
            Poll::Pending => None,
            Poll::Ready(Ok(())) => self.direction_ended(source),
            Poll::Ready(Err(Break::Source(error))) => {
                self.tell(&error);
                Some(source.reset())
            }
            Poll::Ready(Err(Break::Sink(error))) => {
                self.tell(&error);
                // What the sink has sent before it broke may still be unread: deliver that first. Its own direction ends
                // by itself then, since a broken socket reads as an error or as its end.
                self.direction_from(source).give_up(now);
                self.broken = Some(source.other());
                self.direction_from(source.other()).has_ended().then(|| source.other().reset())
            }
        }
    }

    /// A reset is what the end says anyway; anything else (a network that is gone) is worth its words.
    fn tell(&mut self, error: &std::io::Error) {
        if !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) {
            self.holds.record.because(error.to_string());
        }
    }

    fn direction_ended(&mut self, source: Party) -> Option<EndedBy> {
        if self.broken == Some(source) {
            return Some(source.reset());
        }
        if self.broken.is_none() {
            self.first_fin.get_or_insert(source);
        }
        let both = self.sent.has_ended() && self.received.has_ended();
        let first = self.first_fin.filter(|_| both && self.broken.is_none())?;
        Some(if self.was_truncated(first) { first.truncated() } else { first.closed() })
    }

    fn was_truncated(&self, party: Party) -> bool {
        self.sides.as_ref().is_some_and(|Sides { client, server }| match party {
            Party::Client => client.was_truncated(),
            Party::Server => server.was_truncated(),
        })
    }

    fn direction_from(&mut self, source: Party) -> &mut Direction {
        match source {
            Party::Client => &mut self.sent,
            Party::Server => &mut self.received,
        }
    }

    fn poll_clock(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<EndedBy> {
        let mut now = now;
        loop {
            match clock::next(now, &self.sent.marks, &self.received.marks, &self.limits) {
                // What moved is to be followed by the rest, and by what the source has.
                Next::End(EndedBy::Stalled) if self.press(now) => cx.waker().wake_by_ref(),
                Next::End(by @ (EndedBy::HalfClosed | EndedBy::Idle)) => {
                    return Poll::Ready(self.reset_meanwhile().unwrap_or(by));
                }
                Next::End(by) => return Poll::Ready(by),
                Next::SleepUntil(due) => match self.alarm.poll(due, cx) {
                    Poll::Ready(()) => now = Instant::now(),
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }

    /// Whether a direction that seems stuck moves after all.
    fn press(&mut self, now: Instant) -> bool {
        let Some(Sides { client, server }) = &mut self.sides else { return false };
        let (sent, received) = (self.sent.press(server, now), self.received.press(client, now));
        sent || received
    }

    /// Nobody reads from a party that has ended its direction, nor writes to it while the other is silent: its reset wakes
    /// nobody, so it is looked for when silence ends the tunnel.
    fn reset_meanwhile(&self) -> Option<EndedBy> {
        let Sides { client, server } = self.sides.as_ref()?;
        let sides = [(Party::Client, client), (Party::Server, server)];
        sides.into_iter().find(|(_, io)| io.has_failed()).map(|(party, _)| party.reset())
    }

    /// Of the first Close that passed: many answer it with their own code and not, as RFC 6455 section 5.5.1 has it, with
    /// the one that they got.
    fn close_code(&mut self) -> Option<u16> {
        let first = self.first_close?;
        self.direction_from(first).cursor.close_code().map(CloseCode::number)
    }

    fn end(&mut self, by: EndedBy) {
        let end = TunnelEnd { by, sent: self.sent.moved, received: self.received.moved, close_code: self.close_code() };
        self.holds.record.tunnel_ended(end);
        let Some(Sides { mut client, mut server }) = self.sides.take() else { return };
        match by {
            EndedBy::ClientReset => server.abort(),
            EndedBy::ServerReset => client.abort(),
            // Who does not read would keep the rest in the kernel for as long as it pleases.
            EndedBy::Stalled => {
                client.abort();
                server.abort();
            }
            // The gateway's own end, between two messages. Where bytes are under way to a party, its stream is cut, and
            // must look so.
            EndedBy::Idle | EndedBy::HalfClosed | EndedBy::Drain | EndedBy::HardStop => {
                if self.received.is_empty() {
                    client.say_end();
                }
                if self.sent.is_empty() {
                    server.say_end();
                }
            }
            _ => {}
        }
    }
}

impl Future for Tunnel {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let by = match self.ending {
            Some(by) => by,
            None => {
                let by = ready!(self.poll_end(cx));
                *self.ending.insert(by)
            }
        };
        ready!(turns::poll(cx));
        self.end(by);
        Poll::Ready(())
    }
}

impl Party {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    fn closed(self) -> EndedBy {
        match self {
            Self::Client => EndedBy::ClientClosed,
            Self::Server => EndedBy::ServerClosed,
        }
    }

    fn truncated(self) -> EndedBy {
        match self {
            Self::Client => EndedBy::ClientTruncated,
            Self::Server => EndedBy::ServerTruncated,
        }
    }

    fn reset(self) -> EndedBy {
        match self {
            Self::Client => EndedBy::ClientReset,
            Self::Server => EndedBy::ServerReset,
        }
    }
}

impl From<&ExchangeTimeouts> for Limits {
    fn from(timeouts: &ExchangeTimeouts) -> Self {
        Self { stall: timeouts.stall, idle: timeouts.idle, half_close: timeouts.half_close }
    }
}

impl EndedBy {
    /// The end that an order asks for, and in the record why.
    fn order(order: Order, record: &mut Record) -> Option<Self> {
        let cause = match order {
            Order::Go | Order::Drain => return None,
            Order::HardStop => return Some(Self::HardStop),
            Order::RouteChanged => "its route has changed",
            Order::RouteRemoved => "its route was removed",
            Order::EndpointRemoved => "its endpoint was removed",
        };
        record.because(cause);
        Some(Self::Drain)
    }
}

impl fmt::Display for EndedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle tunnel is this, its alarm, its record, its entry and two registered sockets. Whoever changes the number says
    /// in the same commit why a tunnel needs more, or how it came to need less.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn the_size_of_a_tunnel() {
        // 472 and, since a side may be TLS and a client may have a budget, two words for these.
        assert_eq!(size_of::<Tunnel>(), 488);
    }
}
