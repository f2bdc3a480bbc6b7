//! One clock for a tunnel: what its marks mean at this moment. Pure: no sleep, no socket.
//!
//! Traffic never moves the sleep of a tunnel; it stores marks, and when the sleep ends this function says whether the
//! tunnel is over or until when to sleep again.

use std::time::{Duration, Instant};

use super::EndedBy;

/// The limits that the clock keeps.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes are there to be written, and none moved.
    pub stall: Duration,
    /// Not a byte in either direction.
    pub idle: Duration,
    /// One direction has ended, and the other is silent.
    pub half_close: Duration,
}

/// What one direction has left behind.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    /// When a byte last moved; at first, when the tunnel began.
    pub moved: Instant,
    /// Since when bytes wait without one of them having moved.
    pub waiting: Option<Instant>,
    /// When the direction ended.
    pub ended: Option<Instant>,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The tunnel is over.
    End(EndedBy),
    /// Nothing before this moment.
    SleepUntil(Instant),
}

impl Marks {
    /// A direction that begins.
    pub fn new(now: Instant) -> Self {
        Self { moved: now, waiting: None, ended: None }
    }
}

/// What the clock says at `now` of a tunnel with these two directions.
///
/// While bytes wait, only the stall counts: a tunnel that is stuck is neither idle nor silent, and its record must say so.
pub fn next(now: Instant, sent: &Marks, received: &Marks, limits: &Limits) -> Next {
    let (due, by) = match earliest(sent.waiting, received.waiting) {
        Some(since) => (since + limits.stall, EndedBy::Stalled),
        None => first_silence(sent, received, limits),
    };
    if due <= now { Next::End(by) } else { Next::SleepUntil(due) }
}

fn first_silence(sent: &Marks, received: &Marks, limits: &Limits) -> (Instant, EndedBy) {
    let idle = sent.moved.max(received.moved) + limits.idle;
    match half_close_begins(sent, received).map(|since| since + limits.half_close) {
        Some(half_close) if half_close <= idle => (half_close, EndedBy::HalfClosed),
        _ => (idle, EndedBy::Idle),
    }
}

/// From when the direction that still flows counts as silent. None while both flow; none either when both have ended:
/// then the tunnel is over.
fn half_close_begins(sent: &Marks, received: &Marks) -> Option<Instant> {
    match (sent.ended, received.ended) {
        (Some(ended), None) => Some(ended.max(received.moved)),
        (None, Some(ended)) => Some(ended.max(sent.moved)),
        _ => None,
    }
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    [a, b].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { stall: Duration::from_secs(60), idle: Duration::from_secs(3600), half_close: Duration::from_secs(30) };

    #[test]
    fn the_clock_says_what_the_marks_mean() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let flowing = |moved| Marks { moved: at(moved), waiting: None, ended: None };
        let waiting = |moved, since| Marks { moved: at(moved), waiting: Some(at(since)), ended: None };
        let ended = |moved, when| Marks { moved: at(moved), waiting: None, ended: Some(at(when)) };
        let table = [
            ("fresh", 0, flowing(0), flowing(0), Next::SleepUntil(at(3600))),
            ("one side moved", 3600, flowing(0), flowing(10), Next::SleepUntil(at(3610))),
            ("the other side moved", 3600, flowing(10), flowing(0), Next::SleepUntil(at(3610))),
            ("idle", 3610, flowing(10), flowing(5), Next::End(EndedBy::Idle)),
            ("waiting", 100, waiting(90, 95), flowing(0), Next::SleepUntil(at(155))),
            (
                "waiting since long, the other way lively",
                155,
                waiting(90, 95),
                flowing(154),
                Next::End(EndedBy::Stalled),
            ),
            ("both wait, the older counts", 90, waiting(90, 30), waiting(90, 80), Next::End(EndedBy::Stalled)),
            ("client ended, server flows", 40, ended(5, 10), flowing(39), Next::SleepUntil(at(69))),
            ("client ended, server silent before", 40, ended(5, 10), flowing(2), Next::End(EndedBy::HalfClosed)),
            ("server ended, client silent", 40, flowing(2), ended(5, 10), Next::End(EndedBy::HalfClosed)),
            ("half-closed, the rest is stuck", 179, ended(5, 10), waiting(100, 120), Next::SleepUntil(at(180))),
            (
                "half-closed, the rest is stuck for good",
                180,
                ended(5, 10),
                waiting(100, 120),
                Next::End(EndedBy::Stalled),
            ),
        ];
        for (story, now, sent, received, expected) in table {
            assert_eq!(next(at(now), &sent, &received, &LIMITS), expected, "{story}");
        }
    }
}
