//! For tests in which something must be done in time, again and again, on a machine that may stand still for longer.

use std::time::{Duration, Instant};

/// How long the test itself has paused.
#[derive(Debug)]
pub struct Pauses {
    last: Instant,
    longest: Duration,
}

impl Pauses {
    /// What had to be done in time has been done once more.
    pub fn next(&mut self) {
        let now = Instant::now();
        self.longest = self.longest.max(now - self.last);
        self.last = now;
    }
}

/// Runs the attempt until one has had no pause as long as the limit; gives what that came to. The pauses are counted from
/// one deed's end to the next one's, so the deeds must be quick beside the limit.
#[track_caller]
pub fn in_time<T>(limit: Duration, mut attempt: impl FnMut(&mut Pauses) -> T) -> T {
    for _ in 0..30 {
        let mut pauses = Pauses { last: Instant::now(), longest: Duration::ZERO };
        let result = attempt(&mut pauses);
        // Half: a deed may have been done for the gateway a while before it was for us.
        if pauses.longest < limit / 2 {
            return result;
        }
    }
    panic!("this machine never runs without pauses of {limit:?}");
}
