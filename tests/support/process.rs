//! Child processes that do not outlive their test, and what /proc tells about a process.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::GUARD;

/// Runs a command to its end; panics, and ends it, when it has none.
pub fn run_to_end(command: &mut Command) -> Output {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let stdout = read_all(child.stdout.take().expect("it was piped"));
    let stderr = read_all(child.stderr.take().expect("it was piped"));
    let ended = wait(&mut child);
    if ended.is_none() {
        end(&mut child);
    }
    let (stdout, stderr) = (stdout.join().expect("stdout is read"), stderr.join().expect("stderr is read"));
    let Some(status) = ended else {
        let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        panic!("{command:?} did not end within {GUARD:?}\nstdout: {stdout}\nstderr: {stderr}");
    };
    Output { status, stdout, stderr }
}

/// Waits for the end of a child; `None` when the guard's time is over.
pub fn wait(child: &mut Child) -> Option<ExitStatus> {
    // The child is not reaped yet, so its id is its own, and the descriptor becomes readable at its end.
    let pid = Pid::from_child(child);
    let handle = pidfd_open(pid, PidfdFlags::empty()).expect("a descriptor of the child");
    let guard = Timespec { tv_sec: GUARD.as_secs().try_into().expect("a minute"), tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&guard)) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) => return None,
            other => {
                other.expect("poll");
                return Some(child.wait().expect("the child's status"));
            }
        }
    }
}

/// Ends a child by SIGKILL, unless it has been waited for, and waits for it.
pub fn end(child: &mut Child) {
    child.kill().expect("a child of ours may be ended");
    child.wait().expect("the child's status");
}

/// How many descriptors the process has open.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count()
}

/// The process's proportional set size in bytes.
pub fn pss(pid: u32) -> u64 {
    in_bytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// The process's own memory in bytes: no part of it changes when another process runs the same binary, or ends.
pub fn anonymous(pid: u32) -> u64 {
    in_bytes(&format!("/proc/{pid}/status"), "RssAnon:")
}

/// The processor's time that the process has had, in the kernel's ticks (a hundredth of a second).
pub fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name is in parentheses and may hold anything; user and system time are the 14th and 15th field (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
    [fields[11], fields[12]].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
}

fn in_bytes(file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(file).expect("the process runs");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key} in {file}"));
    let kibibytes = line.trim().strip_suffix(" kB").expect("it is in kB");
    kibibytes.parse::<u64>().expect("a number") * 1024
}

/// Whether every thread of the process stands still, after SIGSTOP.
pub fn is_stopped(pid: u32) -> bool {
    let stopped = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).expect("the thread lives");
        // The state follows the name, which is in parentheses and may hold anything.
        stat.rsplit_once(") ").expect("a name").1.starts_with('T')
    };
    fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs").all(|task| stopped(task.expect("a task")))
}

fn read_all(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("a pipe can be read");
        bytes
    })
}
