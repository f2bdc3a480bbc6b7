//! What a machine may lack. A test that cannot run fails, unless its want is named, with a reason, where `.ci/run` reads it
//! too: in `.ci/skip` or the environment variable CI_SKIP, as lines "NAME: reason".

use std::{env, fs};

/// What a test may want of a machine; `.ci/run` knows the same names.
#[derive(Debug, Clone, Copy)]
pub enum Want {
    /// A network or mounts of a test's own (unshare, ip), and the port of a name server.
    Namespaces,
    /// The program that checks units of systemd.
    SystemdAnalyze,
    /// The program that typesets manual pages.
    Groff,
}

impl Want {
    fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::SystemdAnalyze => "systemd-analyze",
            Self::Groff => "groff",
        }
    }
}

/// Says that the test is skipped because this machine has not what it wants; fails where that is not on the list.
#[track_caller]
#[allow(clippy::print_stdout)] // why a test is skipped
pub fn unless_listed(want: Want, lack: &str) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/skip");
    let list = fs::read_to_string(file).unwrap_or_default() + "\n" + &env::var("CI_SKIP").unwrap_or_default();
    let name = want.name();
    match reason(&list, name) {
        Some(reason) => println!("skipped: {lack}; {name}: {reason}"),
        None => panic!("{lack}; to skip what needs it, add the line \"{name}: REASON\" to .ci/skip or CI_SKIP"),
    }
}

/// The reason that the list gives for that name.
pub fn reason<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    let lines = list.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    lines.map(str::trim).find(|reason| !reason.is_empty())
}
