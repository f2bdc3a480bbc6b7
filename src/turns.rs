//! Turns for work that is dear beside a message: thousands of connections that come, and thousands of tunnels that end, hold up
//! none of the tunnels that are busy.
//!
//! The runtime polls tasks in the order in which they were woken. To shake hands, to serve a request or to take a tunnel apart
//! costs ten to a hundred times what a message does, and when a backend goes away, or all its clients come back, thousands of
//! such tasks stand before the next message: for half a second, with nine thousand of them. So the worker gives that work a
//! turn, then looks at what else has come, and then begins the next turn. A message never waits for a turn. Priorities of the
//! runtime's own were not to be had, and a second runtime a worker would cost each connection a crossing of threads.
//!
//! Turns are short where messages come, and longer where there is nobody to wait: each ends with a look, which has its price.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::task::yield_now;

/// How long turns are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Length {
    /// Who comes later than that after the first of a turn waits for the next.
    time: Duration,
    /// So many of those that wait have their turn when it begins, however long others take of it: one that comes first each
    /// time, and takes all of it, would keep the rest waiting for ever.
    woken: usize,
}

/// What a message may have to wait for, beside other messages: a step of a connection, and one of another.
const SHORT: Length = Length { time: Duration::from_micros(50), woken: 1 };

/// Where no message has come of late. Opening thousands of tunnels took six of a hundred instructions less than by short ones.
const LONG: Length = Length { time: Duration::from_micros(200), woken: 4 };

/// So many turns without a message, a hundredth of a second or so, before they are long.
const OF_LATE: u32 = 100;

thread_local! {
    static TURNS: RefCell<Turns> = const { RefCell::new(Turns::new()) };
    /// Whether a message has come in this turn. By itself: it is told with each of them.
    static MESSAGES: Cell<bool> = const { Cell::new(false) };
}

/// One worker's.
#[derive(Debug)]
struct Turns {
    /// When this turn's first work began.
    since: Option<Instant>,
    waiting: VecDeque<Waker>,
    /// Those of them that this turn is for.
    woken: Vec<Waker>,
    /// For so many turns yet they are short.
    short_for: u32,
    /// The task of [`begin_turns`], where there is one: without it, nobody waits.
    begins: Option<Waker>,
    /// Whether that task waits for work. While it waits for the runtime's next look, to wake it would end the turn at once:
    /// a task that yields takes every wake for its turn to go on.
    sleeps: bool,
}

/// Ready when this task may do a step of its work. Who has to wait is woken, and asks again.
pub fn poll(cx: &Context<'_>) -> Poll<()> {
    TURNS.with_borrow_mut(|turns| turns.poll(cx, Instant::now()))
}

/// Bytes of a tunnel have come: there is somebody who would wait.
pub fn message() {
    MESSAGES.set(true);
}

/// Waits for a turn.
pub async fn turn() {
    poll_fn(|cx| poll(cx)).await;
}

/// Begins one turn after the other on the worker that runs this, for ever; while there is no work for it it sleeps.
pub async fn begin_turns() {
    loop {
        poll_fn(|cx| TURNS.with_borrow_mut(|turns| turns.poll_begun(cx))).await;
        // Behind what has come meanwhile: the runtime goes on with this task when it has looked for that.
        yield_now().await;
        TURNS.with_borrow_mut(|turns| turns.end(MESSAGES.replace(false)));
    }
}

impl Turns {
    const fn new() -> Self {
        Self { since: None, waiting: VecDeque::new(), woken: Vec::new(), short_for: 0, begins: None, sleeps: false }
    }

    fn poll(&mut self, cx: &Context<'_>, now: Instant) -> Poll<()> {
        let Some(begins) = &self.begins else { return Poll::Ready(()) };
        let Some(since) = self.since else {
            self.since = Some(now);
            if self.sleeps {
                begins.wake_by_ref();
            }
            return Poll::Ready(());
        };
        if now.saturating_duration_since(since) < self.length().time || self.is_woken(cx.waker()) {
            return Poll::Ready(());
        }
        self.waiting.push_back(cx.waker().clone());
        Poll::Pending
    }

    /// Whether this turn is for that task, which it then is no longer.
    fn is_woken(&mut self, waker: &Waker) -> bool {
        let found = self.woken.iter().position(|woken| woken.will_wake(waker));
        found.map(|at| self.woken.swap_remove(at)).is_some()
    }

    /// Ready when there is to be another turn: work has been done in this one, or somebody waits. Those that were woken may
    /// have had their end meanwhile, and ask for nothing.
    fn poll_begun(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.begins.as_ref().is_none_or(|begins| !begins.will_wake(cx.waker())) {
            self.begins = Some(cx.waker().clone());
        }
        self.sleeps = self.since.is_none() && self.waiting.is_empty();
        if self.sleeps { Poll::Pending } else { Poll::Ready(()) }
    }

    fn length(&self) -> Length {
        if self.short_for > 0 { SHORT } else { LONG }
    }

    /// Ends a turn, in which messages have come or not, and begins the next.
    fn end(&mut self, messages: bool) {
        self.short_for = if messages { OF_LATE } else { self.short_for.saturating_sub(1) };
        self.since = None;
        let next = self.waiting.len().min(self.length().woken);
        self.woken.clear();
        self.woken.extend(self.waiting.drain(..next));
        self.woken.iter().for_each(Waker::wake_by_ref);
        if self.waiting.is_empty() {
            // The room of a day's peak would stay for the life of the worker otherwise.
            self.waiting.shrink_to(64);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Woken {
        fn times(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_turn_is_as_long_as_it_is_and_who_comes_later_is_woken_for_the_next() {
        let (begins, worker) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        let (begins_waker, waker) = (Waker::from(Arc::clone(&begins)), Waker::from(Arc::clone(&worker)));
        let (control, cx) = (Context::from_waker(&begins_waker), Context::from_waker(&waker));
        let (mut turns, now) = (Turns::new(), Instant::now());
        assert!(turns.poll_begun(&control).is_pending(), "nothing has been done");
        assert!(turns.poll(&cx, now).is_ready());
        assert_eq!(begins.times(), 1);
        assert!(turns.poll(&cx, now + LONG.time / 2).is_ready());
        for _ in 0..2 * LONG.woken {
            assert!(turns.poll(&cx, now + LONG.time).is_pending());
        }
        assert!(turns.poll_begun(&control).is_ready());
        for round in 1..=2 {
            // Whether those that were woken do anything or not.
            assert!(turns.poll_begun(&control).is_ready());
            turns.end(false);
            assert_eq!(worker.times(), round * LONG.woken);
        }
        assert!(turns.poll_begun(&control).is_pending(), "nobody waits");
        assert!(turns.poll(&cx, now + 2 * LONG.time).is_ready(), "a new turn");
        assert_eq!(begins.times(), 2);
    }

    /// It was, and turns followed each other without a look between them: for milliseconds, with thousands who waited.
    #[test]
    fn who_waits_for_the_next_look_is_not_woken_by_the_work_of_the_turn() {
        let begins = Arc::<Woken>::default();
        let begins_waker = Waker::from(Arc::clone(&begins));
        let (control, cx) = (Context::from_waker(&begins_waker), Context::from_waker(Waker::noop()));
        let (mut turns, mut now) = (Turns::new(), Instant::now());
        assert!(turns.poll_begun(&control).is_pending());
        assert!(turns.poll(&cx, now).is_ready());
        assert_eq!(begins.times(), 1, "it slept");
        for _ in 0..3 {
            now += LONG.time;
            assert!(turns.poll_begun(&control).is_ready());
            let others = Waker::from(Arc::<Woken>::default());
            for _ in 0..2 * LONG.woken {
                assert!(turns.poll(&Context::from_waker(&others), now).is_pending());
            }
            turns.end(false);
            assert!(turns.poll_begun(&control).is_ready(), "somebody waits");
            assert!(turns.poll(&cx, now).is_ready());
            assert_eq!(begins.times(), 1, "it waits for the look");
        }
    }

    #[test]
    fn who_has_waited_has_its_turn_although_somebody_else_has_taken_all_of_it() {
        let wakers: [Waker; 3] = std::array::from_fn(|_| Waker::from(Arc::<Woken>::default()));
        let [control, greedy, patient] = wakers.each_ref().map(Context::from_waker);
        let (mut turns, mut now) = (Turns::new(), Instant::now());
        assert!(turns.poll_begun(&control).is_pending());
        assert!(turns.poll(&greedy, now).is_ready());
        now += LONG.time;
        assert!(turns.poll(&patient, now).is_pending());
        turns.end(false);
        assert!(turns.poll(&greedy, now).is_ready(), "it comes first");
        now += LONG.time;
        assert!(turns.poll(&patient, now).is_ready());
        assert!(turns.poll(&patient, now).is_pending(), "but once");
    }

    #[test]
    fn turns_are_short_while_messages_come_and_for_a_while_after() {
        let [control, first, second] = [(); 3].map(|()| Waker::from(Arc::<Woken>::default()));
        let [control, first, second] = [&control, &first, &second].map(Context::from_waker);
        let (mut turns, mut now) = (Turns::new(), Instant::now());
        assert!(turns.poll_begun(&control).is_pending());
        let mut second_waits = |turns: &mut Turns| {
            now += LONG.time;
            assert!(turns.poll(&first, now).is_ready());
            turns.poll(&second, now + SHORT.time).is_pending()
        };
        assert!(!second_waits(&mut turns), "long at first");
        turns.end(true);
        for passed in 0..OF_LATE {
            assert!(second_waits(&mut turns), "{passed} turns after the last message");
            turns.waiting.clear();
            turns.end(false);
        }
        assert!(!second_waits(&mut turns));
    }

    #[test]
    fn nobody_waits_where_no_turns_are_begun() {
        let (mut turns, now) = (Turns::new(), Instant::now());
        let cx = Context::from_waker(Waker::noop());
        assert!((0..5).all(|n| turns.poll(&cx, now + n * LONG.time).is_ready()));
    }
}
