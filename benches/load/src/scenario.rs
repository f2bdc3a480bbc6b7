//! What is measured. Each scenario warms up, measures, and tells what one unit of its work cost the proxy.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep};

use crate::connect::{Stream, Target};
use crate::exchange::{self, close, round_trip};
use crate::machine::{Spent, Watched, kernel_memory};
use crate::pace::Pace;
use crate::{Load, Messages, frame};

/// Connections that are being opened at once: more would overflow queues that are no part of what is measured.
const OPENING: usize = 64;
/// And where that is what is measured: as many as the queue of a listening socket takes on most machines.
const AT_ONCE: usize = 4000;
const ROOM: usize = 64 * 1024;
const PAGE: usize = 125;

/// What the tasks of a scenario share.
struct Shared {
    measuring: Cell<bool>,
    over: Cell<bool>,
    units: Cell<u64>,
    /// Microseconds from when a unit was due to when it was done.
    latencies: RefCell<Histogram<u64>>,
}

impl Shared {
    fn new() -> anyhow::Result<Rc<Self>> {
        let latencies = RefCell::new(Histogram::new_with_bounds(1, 60_000_000, 3)?);
        Ok(Rc::new(Self { measuring: Cell::new(false), over: Cell::new(false), units: Cell::new(0), latencies }))
    }

    fn done(&self) {
        if self.measuring.get() {
            self.units.set(self.units.get() + 1);
        }
    }

    fn done_since(&self, due: Instant) {
        if self.measuring.get() {
            self.units.set(self.units.get() + 1);
            self.latencies.borrow_mut().saturating_record(due.elapsed().as_micros().max(1) as u64);
        }
    }

    /// Warms up, measures, and lets the tasks end.
    async fn measure(&self, load: &Load, tasks: Vec<JoinHandle<anyhow::Result<()>>>) -> anyhow::Result<Spent> {
        sleep(load.measured() / 5).await;
        let watched = load.watched();
        let mark = watched.mark()?;
        self.measuring.set(true);
        sleep(load.measured()).await;
        self.measuring.set(false);
        let spent = watched.since(&mark)?;
        self.over.set(true);
        for task in tasks {
            task.await??;
        }
        Ok(spent)
    }

    fn result(&self, spent: &Spent) -> Value {
        let units = self.units.get().max(1) as f64;
        json!({
            "units": self.units.get(),
            "per_second": units / spent.seconds,
            "cpu_us": spent.proxy / units * 1e6,
            "busy": spent.proxy / spent.seconds,
            "foreign": spent.foreign,
        })
    }
}

/// Messages that are echoed.
pub async fn round_trips(load: &Load, messages: Messages, rate: Option<f64>, idle: usize) -> anyhow::Result<Value> {
    let target = load.target()?;
    let silent = open(&target, idle).await?;
    let shared = Shared::new()?;
    let message: Rc<[u8]> = frame::message(messages.size).into();
    let begin = Instant::now();
    let interval = rate.map(|rate| Duration::from_secs_f64(messages.tunnels as f64 / rate));
    let mut tasks = Vec::new();
    for (number, stream) in open(&target, messages.tunnels).await?.into_iter().enumerate() {
        // Spread, so that not all of them are due at the same moment.
        let pace = interval
            .map(|interval| Pace::new(begin + interval.mul_f64(number as f64 / messages.tunnels as f64), interval))
            .transpose()?;
        tasks.push(spawn_local(talk(stream, Rc::clone(&message), messages.size, pace, Rc::clone(&shared))));
    }
    let spent = shared.measure(load, tasks).await?;
    drop(silent);
    let mut result = shared.result(&spent);
    let gibibytes = shared.units.get() as f64 * messages.size as f64 / f64::from(1 << 30);
    result["cpu_s_per_gib"] = json!(spent.proxy / gibibytes);
    if rate.is_some() {
        let latencies = shared.latencies.borrow();
        for (name, quantile) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
            result[name] = json!(latencies.value_at_quantile(quantile));
        }
    }
    Ok(result)
}

async fn talk(
    mut stream: Stream,
    message: Rc<[u8]>,
    size: usize,
    mut pace: Option<Pace>,
    shared: Rc<Shared>,
) -> anyhow::Result<()> {
    let echo = frame::echo_length(size);
    let mut room = vec![0; ROOM];
    while !shared.over.get() {
        let due = match &mut pace {
            None => Instant::now(),
            Some(pace) => pace.due().await?,
        };
        round_trip(&mut stream, &message, echo, &mut room).await?;
        shared.done_since(due);
    }
    close(&mut stream, &mut room).await
}

/// Silent tunnels: memory before, with, and after each round.
pub async fn idle(load: &Load, tunnels: usize, rounds: usize) -> anyhow::Result<Value> {
    let target = load.target()?;
    let watched = load.watched();
    drop(open(&target, tunnels.min(100)).await?); // what is allocated once is no tunnel's
    settle(&watched).await?;
    let (before, kernel_before) = (watched.memory()?, kernel_memory()?);
    let mut kernel = 0;
    let (mut with, mut after) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let silent = open(&target, tunnels).await?;
        settle(&watched).await?;
        with.push(watched.memory()?);
        kernel = kernel_memory()?.saturating_sub(kernel_before);
        drop(silent);
        settle(&watched).await?;
        after.push(watched.memory()?);
    }
    let each = with.iter().map(|with| (with.saturating_sub(before)) as f64 / tunnels as f64).collect::<Vec<_>>();
    // The load's and the backend's socket, and the proxy's two.
    let kernel_bytes = kernel as f64 / (4 * tunnels) as f64;
    Ok(json!({
        "tunnels": tunnels,
        "before": before,
        "with": with,
        "after": after,
        "bytes": each[0],
        "kernel_bytes_a_socket": kernel_bytes,
        "foreign": 0.0,
    }))
}

/// Waits until the proxy does nothing any more.
async fn settle(watched: &Watched) -> anyhow::Result<()> {
    loop {
        let mark = watched.mark()?;
        sleep(Duration::from_millis(300)).await;
        if watched.since(&mark)?.proxy < 0.003 {
            return Ok(());
        }
    }
}

async fn open(target: &Target, count: usize) -> anyhow::Result<Vec<Stream>> {
    let mut open = Vec::with_capacity(count);
    while open.len() < count {
        let next = OPENING.min(count - open.len());
        let tunnels = try_join_all((0..next).map(|_| target.tunnel())).await;
        open.extend(tunnels.with_context(|| format!("after {} tunnels", open.len()))?);
    }
    Ok(open)
}

/// Opens all tunnels at once for one line of standard input, and ends them all at once for the next.
pub async fn storm(target: &Target, tunnels: usize) -> anyhow::Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let next = async |lines: &mut Lines<_>| lines.next_line().await.map(|line| line.is_some());
    while next(&mut lines).await? {
        let mut open = Vec::with_capacity(tunnels);
        while open.len() < tunnels {
            let next = AT_ONCE.min(tunnels - open.len());
            open.extend(try_join_all((0..next).map(|_| target.tunnel())).await?);
        }
        println!("{}", json!({ "open": open.len() }));
        next(&mut lines).await?;
        drop(open);
        println!("{}", json!({ "open": 0 }));
    }
    Ok(())
}

/// Connect, upgrade, one message, close: over and over.
pub async fn upgrades(load: &Load, parallel: usize) -> anyhow::Result<Value> {
    let shared = Shared::new()?;
    let message: Rc<[u8]> = frame::message(PAGE).into();
    let mut tasks = Vec::new();
    for _ in 0..parallel {
        let (target, message, shared) = (load.target()?, Rc::clone(&message), Rc::clone(&shared));
        tasks.push(spawn_local(async move {
            let mut room = vec![0; 1024];
            while !shared.over.get() {
                let mut stream = target.tunnel().await?;
                round_trip(&mut stream, &message, frame::echo_length(PAGE), &mut room).await?;
                close(&mut stream, &mut room).await?;
                shared.done();
            }
            Ok(())
        }));
    }
    let spent = shared.measure(load, tasks).await?;
    Ok(shared.result(&spent))
}

/// Plain requests over connections that are kept.
pub async fn get(load: &Load, connections: usize) -> anyhow::Result<Value> {
    let shared = Shared::new()?;
    let target = load.target()?;
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let (mut stream, request, shared) = (target.connect().await?, target.get(), Rc::clone(&shared));
        tasks.push(spawn_local(async move {
            let mut room = Vec::with_capacity(4096);
            while !shared.over.get() {
                exchange::get(&mut stream, &request, PAGE, &mut room).await?;
                shared.done();
            }
            Ok(())
        }));
    }
    let spent = shared.measure(load, tasks).await?;
    Ok(shared.result(&spent))
}
