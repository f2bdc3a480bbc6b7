//! The command line: what it takes, what `--help` answers, and the manual page and the completions that are made of both.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Command, CommandFactory, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// A WebSocket upgrade gateway and reverse proxy.
///
/// It listens on the addresses of its configuration, routes each request by host, path, method and headers, and answers it
/// or forwards it to a backend. A request that upgrades becomes a tunnel: bytes both ways, unchanged.
///
/// Without arguments it starts a demonstration on http://127.0.0.1:8080 and https://127.0.0.1:8443.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, override_usage = USAGE, after_help = short(), after_long_help = long())]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Action>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Runs the gateway; without a file, the demonstration on 127.0.0.1:8080 and 8443.
    Run {
        /// The configuration.
        #[arg(value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
    },
    /// Checks a configuration and says what is wrong with it; binds nothing.
    Check {
        /// The configuration.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Has a gateway that runs read its configuration again, and tells what that has changed.
    Reload {
        /// Where it is administered: its `admin.bind`.
        #[arg(long, value_hint = ValueHint::FilePath, default_value = ADMIN_SOCKET)]
        socket: PathBuf,
    },
    /// Tells the state of a gateway that runs: listeners, routes, endpoints, counts.
    Status {
        /// Where it is administered: its `admin.bind`.
        #[arg(long, value_hint = ValueHint::FilePath, default_value = ADMIN_SOCKET)]
        socket: PathBuf,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Prints the manual page, for man(1): "spliceway man > spliceway.1".
    Man,
    /// Prints completions for a shell, to be read by it: "source <(spliceway completions bash)".
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// What docs and the unit of systemd have in `admin.bind`.
const ADMIN_SOCKET: &str = "/run/spliceway/admin.sock";

const USAGE: &str = "spliceway [COMMAND]
       spliceway run [FILE]
       spliceway check FILE
       spliceway reload [--socket PATH]
       spliceway status [--socket PATH] [--json]
       spliceway man
       spliceway completions SHELL";

/// What `--help` and the manual page tell beyond the arguments: a title, and lines of a name and its meaning, or of an
/// example where there is no meaning.
type Section = (&'static str, &'static [(&'static str, &'static str)]);

const SECTIONS: [Section; 6] = [
    (
        "Exit codes",
        &[
            ("0", "served and ended in order, or the configuration is right"),
            (
                "1",
                "could not start: an address in use or forbidden, too few descriptors, no log; or nobody to be asked",
            ),
            ("2", "served and ended, and something was cut: by drain.deadline or a second signal"),
            ("64", "wrong arguments"),
            ("78", "wrong configuration"),
        ],
    ),
    (
        "Signals",
        &[
            ("SIGTERM, SIGINT", "drain: no new work, tunnels live on until drain.deadline; a second one cuts at once"),
            ("SIGUSR1", "opens the log file anew, after it was moved away"),
            ("SIGHUP", "reads the configuration again: it is applied whole or not at all"),
        ],
    ),
    ("Environment", &[("SPLICEWAY_LOG", "directives of messages that win over log.level, such as \"debug\"")]),
    (
        "Files",
        &[
            ("FILE", "the configuration; names of files in it are relative to its own folder"),
            ("/etc/spliceway/gateway.toml", "where the unit of systemd expects it"),
            (ADMIN_SOCKET, "where reload and status ask, unless --socket says otherwise"),
        ],
    ),
    ("Example", &[("spliceway check gateway.toml && spliceway run gateway.toml", "")]),
    (
        "Documentation",
        &[
            ("docs/configuration.md", "every key, its default and its range"),
            ("docs/troubleshooting.md", "every message, what it means and what to do"),
            ("docs/", "the rest, in the source of this program"),
        ],
    ),
];

/// The tail of `-h`.
fn short() -> String {
    "Exit codes: 0 in order, 1 could not start, 2 something was cut, 64 wrong arguments, 78 wrong configuration.\n\
     More: spliceway --help"
        .to_owned()
}

/// The tail of `--help`.
fn long() -> String {
    SECTIONS.map(|(title, lines)| format!("{title}:\n{}", lines.iter().map(help_line).collect::<String>())).join("\n")
}

fn help_line((name, meaning): &(&str, &str)) -> String {
    match *meaning {
        "" => format!("  {name}\n"),
        _ => format!("  {name:<28}{meaning}\n"),
    }
}

/// Prints the completions for a shell.
pub(crate) fn completions(shell: Shell, out: &mut impl Write) -> io::Result<()> {
    // clap's own writer panics when nobody reads.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "spliceway", &mut script);
    out.write_all(&script)
}

/// Prints the manual page. One page has all: those of subcommands that clap would refer to do not exist.
pub(crate) fn manual(out: &mut impl Write) -> io::Result<()> {
    let command = Arguments::command();
    let man = Man::new(command.clone()).manual("Spliceway");
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    commands(&command).to_writer(out)?;
    man.render_options_section(out)?;
    for section in SECTIONS {
        told(section).to_writer(out)?;
    }
    Ok(())
}

fn commands(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for command in command.get_subcommands() {
        let arguments = command.get_positionals().map(|argument| match argument.is_required_set() {
            true => format!(" {}", argument.get_id().as_str().to_uppercase()),
            false => format!(" [{}]", argument.get_id().as_str().to_uppercase()),
        });
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        entry(&mut roff, &format!("{}{}", command.get_name(), arguments.collect::<String>()), &about);
    }
    roff
}

fn told((title, lines): Section) -> Roff {
    let mut roff = Roff::new();
    // Names that readers of manual pages look for.
    roff.control("SH", [if title == "Exit codes" { "EXIT STATUS".to_owned() } else { title.to_uppercase() }.as_str()]);
    for (name, meaning) in lines {
        entry(&mut roff, name, meaning);
    }
    roff
}

fn entry(roff: &mut Roff, name: &str, meaning: &str) {
    roff.control("TP", []);
    roff.text([bold(name)]);
    roff.text([roman(meaning)]);
}
