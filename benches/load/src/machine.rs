//! What processes and the machine spent, from /proc.

use std::fs;
use std::time::Instant;

use anyhow::Context;

/// The processes that a scenario knows of.
#[derive(Clone, Copy)]
pub struct Watched {
    /// What is measured, with its children.
    pub proxy: u32,
    /// The backend and the load itself.
    pub others: [u32; 2],
}

/// A moment from which time is counted.
pub struct Mark {
    at: Instant,
    proxy: f64,
    others: f64,
    machine: f64,
}

/// What was spent since.
pub struct Spent {
    /// Seconds on the clock.
    pub seconds: f64,
    /// Seconds of processor time of the proxy and its children.
    pub proxy: f64,
    /// The share of the machine's processors that strangers had.
    pub foreign: f64,
}

impl Watched {
    pub fn mark(&self) -> anyhow::Result<Mark> {
        let others = self.others.iter().map(|pid| cpu(*pid)).sum::<anyhow::Result<f64>>()?;
        Ok(Mark { at: Instant::now(), proxy: self.proxy_cpu()?, others, machine: busy()? })
    }

    pub fn since(&self, mark: &Mark) -> anyhow::Result<Spent> {
        let now = self.mark()?;
        let seconds = now.at.duration_since(mark.at).as_secs_f64();
        let (proxy, others) = (now.proxy - mark.proxy, now.others - mark.others);
        let processors = std::thread::available_parallelism()?.get() as f64;
        let machine = machine_processors()?.unwrap_or(processors);
        let foreign = (now.machine - mark.machine - proxy - others).max(0.0) / (seconds * machine);
        Ok(Spent { seconds, proxy, foreign })
    }

    /// Bytes of proportional set size of the proxy and its children.
    pub fn memory(&self) -> anyhow::Result<u64> {
        tree(self.proxy)?.into_iter().map(pss).sum()
    }

    fn proxy_cpu(&self) -> anyhow::Result<f64> {
        tree(self.proxy)?.into_iter().map(cpu).sum()
    }
}

/// Bytes of the kernel's small objects, which idle sockets are made of. They have no owner: the machine's are all there is.
pub fn kernel_memory() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:")).context("no Slab")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// A process and all that descend from it.
fn tree(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(pid) = all.get(at).copied() {
        at += 1;
        for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))? {
            let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    Ok(all)
}

/// Seconds of processor time of all threads: the scheduler counts them in nanoseconds.
fn cpu(pid: u32) -> anyhow::Result<f64> {
    let mut total = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))? {
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let nanoseconds: f64 = text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0);
        total += nanoseconds / 1e9;
    }
    Ok(total)
}

fn pss(pid: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).with_context(|| format!("process {pid}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Seconds that all processors were busy since the start of the machine.
fn busy() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let fields: Vec<f64> = text
        .lines()
        .next()
        .context("empty")?
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let [user, nice, system, _, _, irq, softirq, steal, ..] = fields[..] else { anyhow::bail!("/proc/stat: {text}") };
    const TICKS: f64 = 100.0; // a second, on every Linux that Rust runs on
    Ok((user + nice + system + irq + softirq + steal) / TICKS)
}

/// The machine's processors, where this process is bound to some of them.
fn machine_processors() -> anyhow::Result<Option<f64>> {
    let text = fs::read_to_string("/proc/stat")?;
    let count = text.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
    Ok((count > 0).then_some(count as f64))
}
