//! When a message is due.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// When a tunnel's next message is due, however late the one before was.
///
/// Waited for by a clock of the kernel: tokio's wakes on whole milliseconds, which is more than a message takes through any
/// of the proxies, so they would all have the same latency.
pub struct Pace {
    next: Instant,
    interval: Duration,
    clock: AsyncFd<OwnedFd>,
}

impl Pace {
    pub fn new(first: Instant, interval: Duration) -> io::Result<Self> {
        let clock = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: an OwnedFd tells the same open descriptor as long as it lives, and the AsyncFd owns it.
        let clock = unsafe { AsyncFd::register_with_interest(clock, Interest::READABLE)? };
        Ok(Self { next: first, interval, clock })
    }

    /// Waits until the next message is due, and tells when that was: it may be long ago.
    pub async fn due(&mut self) -> io::Result<Instant> {
        let due = self.next;
        self.next += self.interval;
        let left = due.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            self.sleep(left).await?;
        }
        Ok(due)
    }

    async fn sleep(&self, time: Duration) -> io::Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        timerfd_settime(
            self.clock.get_ref(),
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: zero, it_value: once },
        )?;
        let mut count = [0; 8];
        self.clock.async_io(Interest::READABLE, |clock| Ok(rustix::io::read(clock, &mut count)?)).await?;
        Ok(())
    }
}
