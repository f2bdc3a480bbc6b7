//! One way of a tunnel: bytes from one party to the other, in order, none lost, none held longer than the reader makes it.
//!
//! A direction owns no buffer while it flows: it reads into the worker's and writes straight out. Only what the other side
//! did not take is kept, in a block of just that size, and nothing more is read until it is gone: so a reader that stops
//! bounds the memory of the gateway, and the sender feels it.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use tokio::io::ReadBuf;

use super::clock::Marks;
use super::frames::Cursor;
use super::io::TunnelIo;
use crate::turns;

/// Reads in one poll, so that a bulk tunnel does not hold up its neighbours.
const READS_A_POLL: usize = 4;

/// One way of a tunnel.
#[derive(Debug)]
pub(super) struct Direction {
    state: State,
    /// Where the reader of the frames stands.
    pub(super) cursor: Cursor,
    /// When something last happened here.
    pub(super) marks: Marks,
    /// Bytes that the other side's kernel has taken.
    pub(super) moved: u64,
}

#[derive(Debug)]
enum State {
    /// Nothing is on its way: read.
    Empty,
    /// The other side did not take all: the rest.
    Holding(Held),
    /// The other side took all, and still holds it inside (TLS).
    Flushing,
    /// The source has ended; the end is to be passed on.
    Ending,
    /// The end has been passed on, or there is nobody to pass it to.
    Ended,
}

#[derive(Debug)]
struct Held {
    bytes: Box<[u8]>,
    taken: usize,
}

/// How a direction broke. Its ends by FIN are no break.
#[derive(Debug)]
pub(super) enum Break {
    /// The source failed: a reset, or a network that is gone.
    Source(io::Error),
    /// The sink takes no more.
    Sink(io::Error),
}

impl Direction {
    /// A direction that begins with bytes that came early. They are copied to their own size: as they come from hyper they
    /// are a view of its whole read buffer, and even an empty one pins that.
    pub(super) fn new(mut cursor: Cursor, leftover: &Bytes, now: Instant) -> Self {
        cursor.advance(leftover);
        let state = if leftover.is_empty() { State::Empty } else { State::holding(leftover) };
        Self { state, cursor, marks: Marks::new(now), moved: 0 }
    }

    /// Whether the end of the source has been passed on.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Whether nothing is on its way, nor an end.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.state, State::Empty)
    }

    /// Gives up what is on its way: the sink is gone.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.state = State::Ended;
        self.marks.waiting = None;
        self.marks.ended.get_or_insert(now);
    }

    /// Moves what can be moved now. Ready once the direction has ended; `silently` says that its end is not passed on here:
    /// the sink is about to be closed or cut, and learns it by that.
    pub(super) fn poll(
        &mut self,
        from: &mut TunnelIo,
        to: &mut TunnelIo,
        buffer: &mut [u8],
        silently: bool,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Poll<Result<(), Break>> {
        let moved_before = self.moved;
        let polled = self.poll_states(from, to, buffer, silently, cx);
        self.mark(moved_before, now);
        polled
    }

    fn poll_states(
        &mut self,
        from: &mut TunnelIo,
        to: &mut TunnelIo,
        buffer: &mut [u8],
        silently: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Break>> {
        let mut reads = 0;
        loop {
            self.state = match &mut self.state {
                State::Empty if reads == READS_A_POLL => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                State::Empty => {
                    reads += 1;
                    let mut read = ReadBuf::new(buffer);
                    ready!(from.poll_read(cx, &mut read)).map_err(Break::Source)?;
                    match read.filled() {
                        [] => State::Ending,
                        bytes => {
                            turns::message();
                            self.cursor.advance(bytes);
                            write_through(bytes, to, &mut self.moved, cx).map_err(Break::Sink)?
                        }
                    }
                }
                State::Holding(held) => {
                    ready!(held.poll_write(to, &mut self.moved, cx)).map_err(Break::Sink)?;
                    State::after_write(to)
                }
                State::Flushing => {
                    ready!(to.poll_flush(cx)).map_err(Break::Sink)?;
                    State::Empty
                }
                State::Ending if silently => State::Ended,
                State::Ending => {
                    ready!(turns::poll(cx));
                    ready!(to.poll_shutdown(cx)).map_err(Break::Sink)?;
                    State::Ended
                }
                State::Ended => return Poll::Ready(Ok(())),
            };
        }
    }

    /// Offers to a kernel that has not called the sink writable what waits for it, and says whether any of it moved.
    pub(super) fn press(&mut self, to: &mut TunnelIo, now: Instant) -> bool {
        if self.marks.waiting.is_none() {
            return false;
        }
        let waiting = match &self.state {
            State::Holding(held) => &held.bytes[held.taken..],
            _ => &[],
        };
        let Some(count) = to.press(waiting) else { return false };
        if let State::Holding(held) = &mut self.state {
            held.taken += count;
        }
        self.moved += count as u64;
        (self.marks.moved, self.marks.waiting) = (now, Some(now));
        true
    }

    fn mark(&mut self, moved_before: u64, now: Instant) {
        let moved = self.moved != moved_before;
        if moved {
            self.marks.moved = now;
        }
        match self.state {
            State::Holding(_) | State::Flushing | State::Ending => {
                let since = self.marks.waiting.filter(|_| !moved);
                self.marks.waiting = Some(since.unwrap_or(now));
            }
            State::Empty => self.marks.waiting = None,
            State::Ended => {
                self.marks.waiting = None;
                self.marks.ended.get_or_insert(now);
            }
        }
    }
}

impl State {
    fn holding(bytes: &[u8]) -> Self {
        Self::Holding(Held { bytes: bytes.into(), taken: 0 })
    }

    fn after_write(to: &TunnelIo) -> Self {
        if to.holds_back() { Self::Flushing } else { Self::Empty }
    }
}

/// Offers freshly read bytes to the sink; only what it does not take is copied.
fn write_through(bytes: &[u8], to: &mut TunnelIo, moved: &mut u64, cx: &mut Context<'_>) -> io::Result<State> {
    match to.poll_write(cx, bytes) {
        Poll::Ready(Ok(taken)) if taken == bytes.len() => {
            *moved += taken as u64;
            Ok(State::after_write(to))
        }
        Poll::Ready(Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
        Poll::Ready(Ok(taken)) => {
            *moved += taken as u64;
            Ok(State::holding(&bytes[taken..]))
        }
        Poll::Ready(Err(error)) => Err(error),
        Poll::Pending => Ok(State::holding(bytes)),
    }
}

impl Held {
    fn poll_write(&mut self, to: &mut TunnelIo, moved: &mut u64, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.taken < self.bytes.len() {
            match ready!(to.poll_write(cx, &self.bytes[self.taken..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => {
                    self.taken += taken;
                    *moved += taken as u64;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Much has come, and the sink takes all of it: still it goes out in turns, and after each the next is asked for.
    #[tokio::test(flavor = "current_thread")]
    async fn a_poll_moves_so_many_reads_and_asks_for_the_next() {
        const READ: usize = 1024;
        const ALL: usize = 10 * READS_A_POLL * READ;
        let (mut sender, from) = pair().await;
        let (_reader, to) = pair().await;
        sender.write_all(&[7; ALL]).unwrap();
        while from.peek(&mut [0; ALL]).await.unwrap() < ALL {}
        to.writable().await.unwrap();

        let (mut from, mut to) = (TunnelIo::Tcp(from), TunnelIo::Tcp(to));
        let mut direction = Direction::new(Cursor::opaque(), &Bytes::new(), Instant::now());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        for turn in 1..=10 {
            let mut cx = Context::from_waker(&waker);
            let polled = direction.poll(&mut from, &mut to, &mut [0; READ], false, &mut cx, Instant::now());
            assert!(polled.is_pending(), "{polled:?}");
            assert_eq!(direction.moved, (turn * READS_A_POLL * READ) as u64);
            assert_eq!(woken.0.load(Ordering::Relaxed), turn);
        }
    }

    async fn pair() -> (std::net::TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (stream, listener.accept().await.unwrap().0)
    }
}
