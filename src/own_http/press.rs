//! Pages that cost something to make, where anybody may ask for them without end: made on a thread of their own, one at a time,
//! the same for all who wait; and of the time of one processor making them takes a tenth at most.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep_until};

/// A page that took so long to make is followed by a pause of so many times that.
const PAUSE: u32 = 9;

/// Where the pages of one kind are made.
pub struct Press {
    make: Arc<Make>,
    last: Arc<Mutex<Made>>,
}

type Make = dyn Fn() -> Result<String, fmt::Error> + Send + Sync;

/// The page that was made last.
#[derive(Debug)]
struct Made {
    page: Bytes,
    /// When it was begun.
    at: Instant,
    /// Before then no other is made.
    next: Instant,
}

/// Why there is no page.
#[derive(Debug)]
pub enum NoPage {
    /// The making of it panicked.
    Panicked(JoinError),
    /// It could not be written.
    Unwritten(fmt::Error),
}

impl Press {
    /// One whose pages are made so.
    pub fn new(make: impl Fn() -> Result<String, fmt::Error> + Send + Sync + 'static) -> Self {
        let now = Instant::now();
        let none = Made { page: Bytes::new(), at: now, next: now };
        Self { make: Arc::new(make), last: Arc::new(Mutex::new(none)) }
    }

    /// A page of this moment or later.
    pub async fn page(&self) -> Result<Bytes, NoPage> {
        let asked = Instant::now();
        let last = Arc::clone(&self.last).lock_owned().await;
        if last.at > asked {
            return Ok(last.page.clone());
        }
        sleep_until(last.next).await;
        let make = Arc::clone(&self.make);
        // The place goes with the making: who asks and leaves makes no room for another page beside this one.
        let made = spawn_blocking(move || print(last, &*make));
        made.await.map_err(NoPage::Panicked)?.map_err(NoPage::Unwritten)
    }
}

fn print(mut last: OwnedMutexGuard<Made>, make: &Make) -> Result<Bytes, fmt::Error> {
    let at = Instant::now();
    let page = Bytes::from(make()?);
    *last = Made { page: page.clone(), at, next: Instant::now() + at.elapsed() * PAUSE };
    Ok(page)
}

impl fmt::Debug for Press {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Press").field("last", &self.last).finish_non_exhaustive()
    }
}

impl fmt::Display for NoPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(error) => error.fmt(f),
            Self::Unwritten(error) => error.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn who_asks_and_leaves_has_no_second_page_made_beside_the_first() {
        let (go, let_go) = mpsc::channel();
        let let_go = std::sync::Mutex::new(let_go);
        let begun = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&begun);
        let press = Press::new(move || {
            let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
            let_go.lock().unwrap().recv().map_err(|_| fmt::Error)?;
            Ok(format!("page {number}"))
        });
        for _ in 0..20 {
            // Left while its page is made, or while it waits for the one that is.
            assert!(timeout(Duration::from_millis(5), press.page()).await.is_err());
        }
        while begun.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        go.send(()).unwrap();
        go.send(()).unwrap();
        assert_eq!(press.page().await.unwrap(), "page 2", "the first was begun before it was asked for");
    }
}
