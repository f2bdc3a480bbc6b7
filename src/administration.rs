//! `spliceway reload` and `spliceway status`: what a gateway that runs says, for people.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use http::StatusCode;
use serde_json::Value;
use spliceway::admin::client;

use crate::{CONFIG, cannot_start, print};

/// Has the gateway go over to what its file says now, and tells what that has changed.
pub(crate) fn reload(socket: &Path) -> ExitCode {
    match client::reload(socket) {
        Ok((StatusCode::OK, applied)) => {
            for key in texts(&applied["kept"]) {
                eprintln!("warning: {key} has changed, and stays as it was until the process is started anew");
            }
            texts(&applied["warnings"]).for_each(|warning| eprintln!("warning: {warning}"));
            print(write_changes(&applied, &mut io::stdout().lock()))
        }
        Ok((status, refused)) => {
            eprintln!("spliceway: the reload is refused: {}", refused["error"].as_str().unwrap_or_default());
            ExitCode::from(if status == StatusCode::UNPROCESSABLE_ENTITY { CONFIG } else { crate::CANNOT_START })
        }
        Err(error) => cannot_start(&error),
    }
}

/// Prints the state of everything: as tables, or as the gateway says it.
pub(crate) fn status(socket: &Path, json: bool) -> ExitCode {
    match client::status(socket) {
        Ok((_, status)) if json => print(writeln!(io::stdout().lock(), "{status:#}")),
        Ok((_, status)) => print(write_status(&status, &mut io::stdout().lock())),
        Err(error) => cannot_start(&error),
    }
}

fn write_changes(applied: &Value, out: &mut impl Write) -> io::Result<()> {
    let changes = rows(&applied["changes"]);
    for change in changes {
        let [kind, name, how] = ["kind", "name", "how"].map(|key| text(&change[key]));
        writeln!(out, "{kind} {name} {how}")?;
    }
    writeln!(out, "reloaded: {} changes", changes.len())
}

fn write_status(status: &Value, out: &mut impl Write) -> io::Result<()> {
    let [version, gateway, process, state] = ["version", "gateway", "process", "state"].map(|key| text(&status[key]));
    writeln!(out, "spliceway {version}, gateway {gateway}, process {process}: {state}")?;
    let [workers, connections, tunnels] = ["workers", "connections", "tunnels"].map(|key| text(&status[key]));
    let [applied, refused] = ["applied", "refused"].map(|key| text(&status["reloads"][key]));
    writeln!(
        out,
        "{workers} workers, {connections} connections, {tunnels} tunnels; {applied} reloads applied, {refused} refused"
    )?;
    let listeners = rows(&status["listeners"]).iter().map(|listener| {
        let addresses: Vec<_> = texts(&listener["addresses"]).collect();
        vec![text(&listener["name"]), addresses.join(" ")]
    });
    write_table(&["LISTENER", "ADDRESSES"], listeners, out)?;
    let certificates = rows(&status["listeners"]).iter().flat_map(|listener| {
        rows(&listener["certificates"]).iter().map(|certificate| {
            let names: Vec<_> = texts(&certificate["names"]).collect();
            vec![text(&listener["name"]), text(&certificate["file"]), text(&certificate["expires"]), names.join(" ")]
        })
    });
    write_table(&["LISTENER", "CERTIFICATE", "EXPIRES", "NAMES"], certificates, out)?;
    let keys = ["name", "does", "requests", "handshakes", "tunnels"];
    let routes = rows(&status["routes"]).iter().map(|route| keys.map(|key| text(&route[key])).to_vec());
    write_table(&["ROUTE", "DOES", "REQUESTS", "HANDSHAKES", "TUNNELS"], routes, out)?;
    let endpoints = rows(&status["upstreams"]).iter().flat_map(|upstream| {
        rows(&upstream["endpoints"]).iter().map(|endpoint| {
            let told = ["configured", "address", "in_use", "tunnels"].map(|key| text(&endpoint[key]));
            [vec![text(&upstream["name"])], told.to_vec()].concat()
        })
    });
    write_table(&["UPSTREAM", "ENDPOINT", "ADDRESS", "IN USE", "TUNNELS"], endpoints, out)
}

/// Columns as wide as what is in them; nothing where there is no row.
fn write_table(head: &[&str], rows: impl Iterator<Item = Vec<String>>, out: &mut impl Write) -> io::Result<()> {
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return Ok(());
    }
    let head = head.iter().map(|&title| title.to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    writeln!(out)?;
    for line in &lines {
        let cells = line.iter().enumerate().map(|(column, cell)| format!("{cell:<0$}", width(column)));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    rows(value).iter().filter_map(Value::as_str)
}

/// A text or a number as it is printed.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
