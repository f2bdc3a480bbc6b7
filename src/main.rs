//! The `spliceway` command: arguments, configuration, gateway, exit code.

#![allow(clippy::print_stdout, clippy::print_stderr)] // the answers of a command line

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use spliceway::config::{Config, ConfigError};
use spliceway::control::Stop;
use spliceway::demonstration;
use spliceway::gateway::{Bound, Ended, StartError};
use spliceway::telemetry::Output;

/// Exit codes: what did not start, what was cut at the end, and the two of sysexits.h for a wrong command line and a wrong
/// configuration.
const CANNOT_START: u8 = 1;
const CUT: u8 = 2;
const USAGE: u8 = 64;
const CONFIG: u8 = 78;

/// A WebSocket upgrade gateway and reverse proxy.
///
/// Without arguments it starts a demonstration on 127.0.0.1:8080.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the gateway; without a file, the demonstration on 127.0.0.1:8080.
    Run {
        /// The configuration.
        file: Option<PathBuf>,
    },
    /// Checks a configuration and says what is wrong with it; binds nothing.
    Check {
        /// The configuration.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    match arguments.command.unwrap_or(Command::Run { file: None }) {
        Command::Run { file } => run(file.as_deref()),
        Command::Check { file } => check(&file),
    }
}

/// Help and version are answers; anything else is a mistake in the command line.
fn usage(error: &clap::Error) -> ExitCode {
    // Who closed the pipe does not want to read it.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

fn check(file: &Path) -> ExitCode {
    match Config::load(file) {
        Ok(config) => {
            let (listeners, routes, upstreams) = (config.listeners.len(), config.routes.len(), config.upstreams.len());
            for warning in &config.warnings {
                eprintln!("warning: {warning}");
            }
            println!("{}: fine: {listeners} listeners, {routes} routes, {upstreams} upstreams", file.display());
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &ConfigError) -> ExitCode {
    eprint!("{error}");
    ExitCode::from(CONFIG)
}

fn run(file: Option<&Path>) -> ExitCode {
    let Some(file) = file else { return demonstrate() };
    match Config::load(file) {
        Ok(config) => serve(config, None),
        Err(error) => refuse(&error),
    }
}

fn demonstrate() -> ExitCode {
    match demonstration::start() {
        Ok(config) => serve(config, Some(demonstration::GREETING)),
        Err(error) => cannot_start(&error),
    }
}

/// `greeting` is said once everything is bound, so that it is never said in vain.
fn serve(config: Config, greeting: Option<&str>) -> ExitCode {
    let log = config.log.clone();
    let output = match Output::open(&log.file) {
        Ok(output) => output,
        Err(error) => return cannot_start(&StartError::Log(error)),
    };
    output.install(&log);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let bound = match Bound::bind(config, output) {
        Ok(bound) => bound,
        Err(error) => return cannot_start(&error),
    };
    if let Some(greeting) = greeting {
        eprintln!("{greeting}");
    }
    let (_keep, stop) = Stop::channel();
    match bound.run(stop) {
        Ok(Ended { cut: 0 }) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(CUT),
        Err(error) => cannot_start(&error),
    }
}

fn cannot_start(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("spliceway: {error}");
    ExitCode::from(CANNOT_START)
}
