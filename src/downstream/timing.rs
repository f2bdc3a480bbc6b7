//! The one deadline of a connection: where it stands between two requests, and what comes when it stays there.

use std::io;
use std::task::Poll;
use std::time::{Duration, Instant};

use hyper::Version;

use crate::config::ClientTimeouts;
use crate::rejection::ConnectionFault;

/// How long a drain waits for the request that a connection has begun or is about to begin.
pub(super) const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// Where the connection stands between two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A head is awaited or has begun.
    Head,
    /// A request is being served; it has deadlines of its own.
    Service,
    /// Silence between two requests.
    Idle,
}

/// What the clock of a connection knows: the phase, since when, and what has been read and written in it.
#[derive(Debug)]
pub(super) struct Timing {
    phase: Phase,
    since: Instant,
    /// Bytes of the head at hand have come.
    begun: bool,
    /// Since the last answer it has been looked whether hyper holds bytes of the next head.
    looked: bool,
    /// Since when bytes wait to be written and none moved.
    write_waits: Option<Instant>,
    /// How long they may.
    stall: Duration,
    /// The client has ended its direction.
    client_ended: bool,
    /// The request at hand is of HTTP/1.0: the end of the connection may be the end of its answer.
    ends_by_close: bool,
    /// An answer ended before its end.
    broke_off: bool,
    /// An answer could not be written: the client was gone before it.
    unwritten: bool,
    /// A drain waits until then for the request that is about to come.
    grace: Option<Instant>,
    /// The body of the request at hand has not been read to its end.
    body_left: bool,
}

/// What it is that a deadline passes.
#[derive(Debug)]
pub(super) enum Passing {
    /// The connection ends by it.
    Fault(ConnectionFault),
    /// It is silent between two requests, and what hyper holds has to be known.
    Look,
}

impl Timing {
    /// Of a connection that was accepted then; `stall` is how long its answers may wait for it, until a route says otherwise.
    pub(super) fn new(since: Instant, stall: Duration) -> Self {
        Self {
            phase: Phase::Head,
            since,
            begun: false,
            looked: false,
            write_waits: None,
            stall,
            client_ended: false,
            ends_by_close: false,
            broke_off: false,
            unwritten: false,
            grace: None,
            body_left: false,
        }
    }

    /// A request's head is whole; `has_body` says that more of it is to come, `stall` how long its answer may wait for the
    /// client until a route says otherwise.
    pub(super) fn serving(&mut self, version: Version, has_body: bool, stall: Duration) {
        self.stall = stall;
        self.ends_by_close = version < Version::HTTP_11;
        self.body_left = has_body;
        self.phase = Phase::Service;
        self.grace = None;
    }

    /// The answer at hand may wait so long for a client that does not read.
    pub(super) fn bound_stall(&mut self, stall: Duration) {
        self.stall = stall;
    }

    /// The answer at hand will not be whole.
    pub(super) fn answer_broke_off(&mut self) {
        self.broke_off = true;
    }

    /// The answer has ended, one way or another. `request_whole`: the body of its request was read to its end.
    pub(super) fn answered(&mut self, request_whole: bool) {
        self.body_left &= !request_whole;
        self.phase = Phase::Idle;
        self.since = Instant::now();
        self.begun = false;
        self.looked = false;
    }

    /// It has been looked whether hyper holds bytes of the next head. If it does, that head began when the last answer ended,
    /// or before.
    pub(super) fn looked(&mut self, begun: bool) {
        self.looked = true;
        if begun {
            self.phase = Phase::Head;
            self.begun = true;
        }
    }

    /// hyper is at its end: whatever it holds will be no request.
    pub(super) fn ends(&mut self) {
        self.looked = true;
    }

    /// When what the phase waits for began.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Whether the client has ended its direction.
    pub(super) fn client_ended(&self) -> bool {
        self.client_ended
    }

    /// Whether a FIN would make an answer look whole that is not (RFC 9112 section 8: no length, no chunks, just the end).
    pub(super) fn must_reset(&self) -> bool {
        self.broke_off && self.ends_by_close
    }

    /// Whether hyper may be told to end: it cuts a connection that is not within a request, so one whose request is on its
    /// way gets a moment for it.
    pub(super) fn drain_may_cut(&mut self) -> bool {
        if self.phase == Phase::Head {
            self.grace.get_or_insert_with(|| Instant::now() + DRAIN_GRACE);
            return false;
        }
        true
    }

    /// Whether what went wrong went wrong within a head. `begun` says that hyper held bytes of one that it had read with the
    /// request before, `not_http` that it could make nothing of them.
    pub(super) fn within_head(&self, begun: bool, not_http: bool) -> bool {
        match self.phase {
            Phase::Head => self.begun,
            Phase::Service => false,
            // A head that came in one piece with the request before it was read before its time.
            // Behind an answer that nobody was there to take, it is none: perhaps an upgrade's early bytes.
            Phase::Idle => (begun && !self.unwritten) || not_http,
        }
    }

    /// The next deadline, and what its passing is.
    pub(super) fn due(&self, timeouts: &ClientTimeouts) -> Option<(Instant, Passing)> {
        let stalled = self.write_waits.map(|since| (since + self.stall, Passing::Fault(ConnectionFault::WriteStalled)));
        let phase = match self.phase {
            Phase::Head => {
                let fault = if self.begun { ConnectionFault::HeadTooSlow } else { ConnectionFault::Mute };
                let due = self.since + timeouts.request_head;
                Some((self.grace.map_or(due, |grace| grace.min(due)), Passing::Fault(fault)))
            }
            Phase::Service => None,
            Phase::Idle if self.must_look() => {
                Some((self.since + timeouts.request_head.min(timeouts.keep_alive), Passing::Look))
            }
            Phase::Idle => Some((self.since + timeouts.keep_alive, Passing::Fault(ConnectionFault::KeepAliveOver))),
        };
        match (stalled, phase) {
            (Some(stalled), Some(phase)) => Some(if stalled.0 <= phase.0 { stalled } else { phase }),
            (stalled, phase) => stalled.or(phase),
        }
    }

    /// Whether what hyper holds has to be known, and may be asked: bytes that it read together with the request before may
    /// have begun a head, and it shows its buffer only when it is taken apart. That loses nothing while it waits for the
    /// next request and has written all of the last answer.
    pub(super) fn must_look(&self) -> bool {
        self.phase == Phase::Idle && !self.looked && self.write_waits.is_none()
    }

    /// So many bytes have been read; none at the client's end.
    pub(super) fn read(&mut self, bytes: usize) {
        if bytes == 0 {
            self.client_ended = true;
            return;
        }
        // hyper reads once for what an answer left of its request's body, and closes where that is not all of it. Where it
        // had it already, this is a head's first part, and its deadline begins with the next.
        if self.phase == Phase::Idle && !std::mem::take(&mut self.body_left) {
            self.phase = Phase::Head;
            self.since = Instant::now();
        }
        self.begun |= self.phase == Phase::Head;
    }

    /// Bytes have been written, or wait to be.
    pub(super) fn wrote(&mut self, polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Ready(result) => {
                self.write_waits = None;
                self.unwritten |= result.is_err();
            }
            Poll::Pending => {
                self.write_waits.get_or_insert_with(Instant::now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_bounds_the_stall_of_its_own_answer_only() {
        let (own, routes) = (Duration::from_secs(9), Duration::from_secs(1));
        let timeouts = ClientTimeouts { tls_handshake: own, request_head: own, keep_alive: own };
        let mut timing = Timing::new(Instant::now(), own);
        for (route, expected) in [(None, own), (Some(routes), routes), (None, own)] {
            timing.serving(Version::HTTP_11, false, own);
            route.into_iter().for_each(|stall| timing.bound_stall(stall));
            timing.wrote(&Poll::Pending);
            let (due, _) = timing.due(&timeouts).unwrap();
            assert_eq!(timing.write_waits, Some(due - expected), "{route:?}");
            timing.wrote(&Poll::Ready(Ok(1)));
            timing.answered(true);
        }
    }
}
