//! The `spliceway` command: arguments, configuration, gateway, exit code.

#![allow(clippy::print_stdout, clippy::print_stderr)] // the answers of a command line

mod administration;
mod command_line;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use command_line::{Action, Arguments};
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

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    match arguments.command.unwrap_or(Action::Run { file: None }) {
        Action::Run { file } => run(file.as_deref()),
        Action::Check { file } => check(&file),
        Action::Reload { socket } => administration::reload(&socket),
        Action::Status { socket, json } => administration::status(&socket, json),
        Action::Man => print(command_line::manual(&mut io::stdout().lock())),
        Action::Completions { shell } => print(command_line::completions(shell, &mut io::stdout().lock())),
    }
}

/// Help and version are answers; anything else is a mistake in the command line.
fn usage(error: &clap::Error) -> ExitCode {
    // Who closed the pipe does not want to read it.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

/// Who closed the pipe has read enough; a full disk is told.
fn print(printed: io::Result<()>) -> ExitCode {
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => cannot_start(&error),
        _ => ExitCode::SUCCESS,
    }
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
    eprintln!("{error}");
    ExitCode::from(CONFIG)
}

fn run(file: Option<&Path>) -> ExitCode {
    let Some(file) = file else { return demonstrate() };
    match Config::load(file) {
        Ok(config) => serve(config, Some(file), None),
        Err(error) => refuse(&error),
    }
}

fn demonstrate() -> ExitCode {
    match demonstration::start() {
        Ok(config) => serve(config, None, Some(demonstration::GREETING)),
        Err(error) => cannot_start(&error),
    }
}

/// `file` is what a reload reads again. `greeting` is said once everything is bound, so that it is never said in vain.
fn serve(config: Config, file: Option<&Path>, greeting: Option<&str>) -> ExitCode {
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
        Ok(bound) => match file {
            Some(file) => bound.reloading(file),
            None => bound,
        },
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
