//! The process as the kernel sees it. What cannot be read is not told.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Bytes of memory that are in use and not swapped out.
pub(super) fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * page_size() as u64)
}

/// Descriptors that are open.
pub(super) fn open_descriptors() -> Option<u64> {
    // Since Linux 6.2 the folder's length is their number, and nobody has to walk over twenty thousand of them.
    match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => Some(fs::read_dir("/proc/self/fd").ok()?.count() as u64),
        number => Some(number),
    }
}

/// Descriptors that may be open; infinite where there is no limit.
pub(super) fn most_descriptors() -> f64 {
    getrlimit(Resource::Nofile).current.map_or(f64::INFINITY, |most| most as f64)
}

/// Seconds of processor time, of all threads.
pub(super) fn cpu_seconds() -> f64 {
    duration(clock_gettime(ClockId::ProcessCPUTime)).as_secs_f64()
}

/// When the process was started, in seconds since the epoch.
pub(super) fn start_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name is in parentheses and may hold anything; the start, in ticks since the machine's, is the 22nd field (proc(5)).
    let ticks: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()?;
    let after_boot = ticks as f64 / clock_ticks_per_second() as f64;
    let since_boot = duration(clock_gettime(ClockId::Boottime)).as_secs_f64();
    Some(seconds(SystemTime::now()) - since_boot + after_boot)
}

/// Seconds since the epoch; negative before it.
pub(super) fn seconds(at: SystemTime) -> f64 {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

fn duration(time: Timespec) -> Duration {
    Duration::try_from(time).unwrap_or_default()
}
