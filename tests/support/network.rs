//! A network of a test's own, where all ports and addresses are free.

use std::env;
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
