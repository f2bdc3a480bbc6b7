//! Turns for work that is dear beside a message: thousands of connections that come, and thousands of tunnels that end, hold up
//! none of the tunnels that are busy.
//!
//! The runtime polls tasks in the order in which they were woken. To shake hands, to serve a request or to take a tunnel apart
//! costs ten to a hundred times what a message does, and when a backend goes away, or all its clients come back, thousands of
//! such tasks stand before the next message: for half a second, with nine thousand of them. So the worker gives that work a
//! turn of a fifth of a millisecond, then looks at what else has come, and then begins the next turn. A message never waits for a
//! turn. Priorities of the runtime's own were not to be had, and a second runtime a worker would cost each connection a
//! crossing of threads.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::task::yield_now;

/// How long a turn is: what a message may have to wait for, beside other messages.
const TURN: Duration = Duration::from_micros(200);

/// So many of those that wait have their turn when the next one begins, however long others take of it: one that comes
/// first each time, and takes all of it, would keep the rest waiting for ever.
const WOKEN_A_TURN: usize = 4;

thread_local! {
    static TURNS: RefCell<Turns> = const { RefCell::new(Turns::new()) };
}

/// One worker's.
#[derive(Debug)]
struct Turns {
    /// When this turn's first work began.
    since: Option<Instant>,
    waiting: VecDeque<Waker>,
    /// Those of them that this turn is for.
    woken: Vec<Waker>,
    /// The task of [`begin_turns`], where there is one: without it, nobody waits.
    begins: Option<Waker>,
}

/// Ready when this task may do a step of its work. Who has to wait is woken, and asks again.
pub fn poll(cx: &Context<'_>) -> Poll<()> {
    TURNS.with_borrow_mut(|turns| turns.poll(cx, Instant::now()))
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
        TURNS.with_borrow_mut(Turns::end);
    }
}

impl Turns {
    const fn new() -> Self {
        Self { since: None, waiting: VecDeque::new(), woken: Vec::new(), begins: None }
    }

    fn poll(&mut self, cx: &Context<'_>, now: Instant) -> Poll<()> {
        let Some(begins) = &self.begins else { return Poll::Ready(()) };
        let Some(since) = self.since else {
            self.since = Some(now);
            begins.wake_by_ref();
            return Poll::Ready(());
        };
        if now.saturating_duration_since(since) < TURN || self.is_woken(cx.waker()) {
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
        if self.since.is_some() || !self.waiting.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn end(&mut self) {
        self.since = None;
        let next = self.waiting.len().min(WOKEN_A_TURN);
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
        assert!(turns.poll(&cx, now + TURN / 2).is_ready());
        for _ in 0..2 * WOKEN_A_TURN {
            assert!(turns.poll(&cx, now + TURN).is_pending());
        }
        assert!(turns.poll_begun(&control).is_ready());
        for round in 1..=2 {
            // Whether those that were woken do anything or not.
            assert!(turns.poll_begun(&control).is_ready());
            turns.end();
            assert_eq!(worker.times(), round * WOKEN_A_TURN);
        }
        assert!(turns.poll_begun(&control).is_pending(), "nobody waits");
        assert!(turns.poll(&cx, now + 2 * TURN).is_ready(), "a new turn");
        assert_eq!(begins.times(), 2);
    }

    #[test]
    fn who_has_waited_has_its_turn_although_somebody_else_has_taken_all_of_it() {
        let wakers: [Waker; 3] = std::array::from_fn(|_| Waker::from(Arc::<Woken>::default()));
        let [control, greedy, patient] = wakers.each_ref().map(Context::from_waker);
        let (mut turns, mut now) = (Turns::new(), Instant::now());
        assert!(turns.poll_begun(&control).is_pending());
        assert!(turns.poll(&greedy, now).is_ready());
        now += TURN;
        assert!(turns.poll(&patient, now).is_pending());
        turns.end();
        assert!(turns.poll(&greedy, now).is_ready(), "it comes first");
        now += TURN;
        assert!(turns.poll(&patient, now).is_ready());
        assert!(turns.poll(&patient, now).is_pending(), "but once");
    }

    #[test]
    fn nobody_waits_where_no_turns_are_begun() {
        let (mut turns, now) = (Turns::new(), Instant::now());
        let cx = Context::from_waker(Waker::noop());
        assert!((0..5).all(|n| turns.poll(&cx, now + n * TURN).is_ready()));
    }
}
