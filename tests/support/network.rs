//! A network of a test's own, where all ports and addresses are free.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use rustix::process::geteuid;

use super::process::run_to_end;
use super::skip::{self, Want};

const MARK: &str = "SPLICEWAY_TEST_OWN_NETWORK";

/// Runs the test of that name again, alone, in a network of its own whose loopback has these addresses besides the usual
/// ones; true in that second run, which is the one that has to test. Where the machine gives a process no network of its
/// own, it fails, or nothing is tested where the list of [`skip`] has it.
///
/// A second process because a network belongs to all threads of one.
pub fn is_own(test: &str, addresses: &[&str]) -> bool {
    if env::var_os(MARK).is_some() {
        return true;
    }
    let add = addresses.iter().map(|address| format!("ip address add {address} dev lo && "));
    let script = format!("ip link set lo up && {}exec \"$@\"", add.collect::<String>());
    let within = |command: &[&str]| {
        let user: &[&str] = if geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
        let mut unshare = Command::new("unshare");
        unshare.args(user).args(["--net", "sh", "-c", &script, "sh"]).args(command);
        unshare
    };
    if !within(&["true"]).output().is_ok_and(|output| output.status.success()) {
        skip::unless_listed(Want::Namespaces, "this machine gives a process no network of its own (unshare --net, ip)");
        return false;
    }
    let binary = env::current_exe().expect("this test's binary");
    let binary = binary.to_str().expect("the target folder's path is text");
    let output = run_to_end(within(&[binary, "--exact", test, "--nocapture"]).env(MARK, "1"));
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "in a network of its own:\n{stdout}\n{stderr}");
    assert!(stdout.contains("test result: ok. 1 passed"), "{test} is not the name of one test:\n{stdout}");
    false
}

/// How many connections of this machine lead to that IPv4 address, as its kernel knows them: one that was reset is none, from
/// the moment that the reset has come.
pub fn connections_to(address: SocketAddr) -> usize {
    let SocketAddr::V4(address) = address else { panic!("not IPv4: {address}") };
    // The bytes of the address as this machine's words hold them, and the port; the third field of a line (proc(5)).
    let remote = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    let table = fs::read_to_string("/proc/self/net/tcp").expect("Linux has it");
    table.lines().filter(|line| line.split_whitespace().nth(2) == Some(&remote)).count()
}
