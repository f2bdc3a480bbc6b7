//! Counts the system calls of one thread of another process, by ptrace (Linux with glibc).
//!
//! The kernel stops the thread at each system call and tells its number, so the counts are exact, and the thread is
//! slow: never a figure of time. Attaching interrupts a call in which the thread waits; it is made again, and counted.
//! So: attach, let one message through, then compare two [`Syscalls::counts`].

#![allow(unsafe_code)] // one field of a union, and one system call that nix does not wrap

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::ops::Sub;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::GUARD;

/// A thread whose system calls are being counted. It runs on alone when this is dropped.
#[derive(Debug)]
pub struct Syscalls {
    process: Pid,
    thread: Pid,
    shared: Arc<Shared>,
    /// `None` once joined.
    tracer: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    counts: Mutex<Counts>,
    stopping: AtomicBool,
}

/// How many system calls of each number.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<i64, u64>);

impl Syscalls {
    /// Attaches to the one thread of the process that has this name (as the kernel keeps it: 15 bytes).
    #[track_caller]
    pub fn attach(process: u32, name: &str) -> Self {
        match find_threads(process, name)[..] {
            [thread] => Self::attach_thread(process, thread),
            ref others => panic!(
                "not one thread {name:?} but {others:?} among {:?}",
                threads(process).into_iter().map(|(_, name)| name).collect::<Vec<_>>()
            ),
        }
    }

    /// Attaches to a thread by its id.
    #[track_caller]
    pub fn attach_thread(process: u32, thread: u32) -> Self {
        let [process, thread] = [process, thread].map(|id| Pid::from_raw(id.try_into().expect("an id")));
        let shared = Arc::new(Shared::default());
        let (attached, is_attached) = mpsc::channel();
        // Every request of ptrace must come from the thread that attached: hence one of its own, for all of them.
        let trace = {
            let shared = Arc::clone(&shared);
            move || {
                let begun = begin(thread);
                let go = begun.is_ok();
                let _ = attached.send(begun);
                if go {
                    count(thread, &shared);
                }
            }
        };
        let tracer = thread::Builder::new().name("tracer".into()).spawn(trace).expect("a thread");
        match is_attached.recv_timeout(GUARD) {
            Ok(Ok(())) => Self { process, thread, shared, tracer: Some(tracer) },
            Ok(Err(error)) => panic!("the thread {thread} cannot be traced: {error}"),
            Err(error) => panic!("the thread {thread} does not stop: {error}"),
        }
    }

    /// The calls that have begun since attaching.
    pub fn counts(&self) -> Counts {
        self.shared.counts().clone()
    }

    /// Lets the thread run on alone; gives all calls since attaching.
    pub fn detach(mut self) -> Counts {
        self.stop();
        self.counts()
    }

    fn stop(&mut self) {
        let Some(tracer) = self.tracer.take() else { return };
        self.shared.stopping.store(true, Ordering::SeqCst);
        // The tracer sleeps until its thread does something. A signal that is ignored anyway is something, and the
        // tracer swallows it.
        // SAFETY: tgkill takes three numbers and touches no memory of ours; a thread that has gone is an error code.
        unsafe {
            libc::syscall(libc::SYS_tgkill, self.process.as_raw(), self.thread.as_raw(), libc::SIGURG);
        }
        let ended = tracer.join();
        assert!(ended.is_ok() || thread::panicking(), "the tracer failed");
    }
}

impl Drop for Syscalls {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Counts the system calls of the thread of that name while `work` runs.
#[track_caller]
pub fn count_while<T>(process: u32, name: &str, work: impl FnOnce() -> T) -> (T, Counts) {
    let syscalls = Syscalls::attach(process, name);
    let result = work();
    (result, syscalls.detach())
}

/// The ids of the process's threads that have this name.
pub fn find_threads(process: u32, name: &str) -> Vec<u32> {
    let name = &name[..name.len().min(15)];
    threads(process).into_iter().filter(|(_, comm)| comm == name).map(|(id, _)| id).collect()
}

/// Ids and names of all threads of a process.
pub fn threads(process: u32) -> Vec<(u32, String)> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the process runs");
    let id = |task: fs::DirEntry| task.file_name().to_str().and_then(|id| id.parse().ok()).expect("an id");
    let ids = tasks.map(|task| id(task.expect("a task")));
    // A thread may end between the listing and the look at its name.
    let name = |id: u32| fs::read_to_string(format!("/proc/{process}/task/{id}/comm")).ok();
    let mut threads: Vec<_> = ids.filter_map(|id| Some((id, name(id)?.trim_end().to_owned()))).collect();
    threads.sort_unstable();
    threads
}

impl Counts {
    /// How many calls of that name; one of [`NAMES`].
    #[track_caller]
    pub fn of(&self, name: &str) -> u64 {
        let known = NAMES.iter().find(|(_, known)| *known == name);
        let Some((number, _)) = known else { panic!("no system call of the name {name:?} in the table") };
        self.0.get(number).copied().unwrap_or(0)
    }

    /// How many calls of these names together.
    #[track_caller]
    pub fn of_all(&self, names: &[&str]) -> u64 {
        names.iter().map(|name| self.of(name)).sum()
    }

    /// All calls.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// What was counted since an earlier look.
impl Sub for Counts {
    type Output = Self;

    fn sub(mut self, earlier: Self) -> Self {
        for (number, count) in earlier.0 {
            let left = self.0.get_mut(&number).and_then(|now| now.checked_sub(count).map(|left| *now = left));
            left.expect("an earlier look has not counted more");
        }
        self.0.retain(|_, count| *count > 0);
        self
    }
}

/// `read 10, write 10`; a call that is not in the table is shown by its number.
impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |number: i64| NAMES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name);
        let mut separator = "";
        for (&number, count) in &self.0 {
            match name(number) {
                Some(name) => write!(f, "{separator}{name} {count}")?,
                None => write!(f, "{separator}#{number} {count}")?,
            }
            separator = ", ";
        }
        Ok(())
    }
}

impl Shared {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seizes the thread, and lets it run on to its next system call.
fn begin(thread: Pid) -> nix::Result<()> {
    ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD)?;
    ptrace::interrupt(thread)?;
    waitpid(thread, Some(WaitPidFlag::__WALL))?;
    ptrace::syscall(thread, None)
}

/// Goes from stop to stop of the thread until it is told to stop or the thread ends.
fn count(thread: Pid, shared: &Shared) {
    loop {
        let inject = match waitpid(thread, Some(WaitPidFlag::__WALL)) {
            Err(Errno::EINTR) => continue,
            Ok(WaitStatus::PtraceSyscall(_)) => {
                if let Some(number) = entered(thread) {
                    *shared.counts().0.entry(number).or_default() += 1;
                }
                None
            }
            Ok(WaitStatus::Stopped(_, Signal::SIGURG)) if shared.stopping.load(Ordering::SeqCst) => {
                let _ = ptrace::detach(thread, None); // a thread that has just been killed needs none
                return;
            }
            Ok(WaitStatus::Stopped(_, signal)) => Some(signal),
            Ok(WaitStatus::PtraceEvent(..)) => None,
            Ok(_) | Err(_) => return, // the thread has ended
        };
        if ptrace::syscall(thread, inject).is_err() {
            return; // killed meanwhile
        }
    }
}

/// The number of the system call that the stopped thread is about to make; `None` at a call's return.
fn entered(thread: Pid) -> Option<i64> {
    let info = ptrace::syscall_info(thread).ok()?;
    // SAFETY: the kernel says by `op` which field of the union it has filled.
    (info.op == libc::PTRACE_SYSCALL_INFO_ENTRY).then(|| unsafe { info.u.entry.nr }.cast_signed())
}

/// The calls that a gateway makes, with this architecture's numbers.
const NAMES: &[(libc::c_long, &str)] = &[
    (libc::SYS_read, "read"),
    (libc::SYS_readv, "readv"),
    (libc::SYS_recvfrom, "recvfrom"),
    (libc::SYS_recvmsg, "recvmsg"),
    (libc::SYS_write, "write"),
    (libc::SYS_writev, "writev"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_splice, "splice"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_epoll_wait, "epoll_wait"),
    (libc::SYS_epoll_pwait, "epoll_pwait"),
    (libc::SYS_epoll_pwait2, "epoll_pwait2"),
    (libc::SYS_epoll_ctl, "epoll_ctl"),
    (libc::SYS_futex, "futex"),
    (libc::SYS_clock_gettime, "clock_gettime"),
    (libc::SYS_close, "close"),
    (libc::SYS_shutdown, "shutdown"),
    (libc::SYS_socket, "socket"),
    (libc::SYS_connect, "connect"),
    (libc::SYS_accept4, "accept4"),
    (libc::SYS_getsockopt, "getsockopt"),
    (libc::SYS_setsockopt, "setsockopt"),
    (libc::SYS_mmap, "mmap"),
    (libc::SYS_munmap, "munmap"),
    (libc::SYS_madvise, "madvise"),
    (libc::SYS_brk, "brk"),
];
