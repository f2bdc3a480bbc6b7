//! The one sleep of a tunnel. Traffic never moves it; only a moment that has come nearer does.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

/// A sleep that is set earlier when it must be, and wakes its task.
pub struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    /// Set for `due`.
    pub fn new(due: Instant) -> Self {
        Self(Box::pin(sleep_until(due.into())))
    }

    /// Ready when the time it is set for has come. It is set to `due` if that is earlier, or if it has rung; a later `due`
    /// is looked at when it rings.
    pub fn poll(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.is_elapsed() || due < self.0.deadline().into_std() {
            self.0.as_mut().reset(due.into());
        }
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Alarm({:?})", self.0.deadline())
    }
}
