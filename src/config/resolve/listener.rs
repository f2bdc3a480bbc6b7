//! Listeners: names, inheritance of the client side, and addresses that only one of them can have.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use toml::Spanned;

use super::inherited;
use super::tls::tls;
use crate::config::file::{ClientTimes, File, HeadLimits, ListenerLimits, ListenerTable};
use crate::config::names::{derived, unused};
use crate::config::report::Problems;
use crate::config::{Bind, ClientLimits, ClientTimeouts, DEFAULT_HEADERS, Listener, Name};

/// Every listener.
pub(super) fn listeners(file: &File, folder: &Path, problems: &Problems) -> Vec<Arc<Listener>> {
    tell_overlaps(&file.listeners, problems);
    tell_taken_metrics(file, problems);
    let names = names(&file.listeners, problems);
    let trusted = file.gateway.trusted_proxies.as_deref().unwrap_or_default();
    problems.tell_repeats("gateway.trusted_proxies", trusted, "leave one out");
    let listener = |(table, name): (&ListenerTable, Name)| {
        tell_greater_budgets(table, file, problems);
        tell_plain_handshake(table, problems);
        Arc::new(Listener {
            name,
            binds: table.bind.iter().map(|b| *b.get_ref()).collect(),
            timeouts: timeouts(&table.times, &file.client),
            limits: limits(&table.limits, &file.limits.head),
            trusted_proxies: trusted_proxies(table, trusted, problems),
            tls: table.tls.as_ref().and_then(|t| tls(t, folder, problems)),
        })
    };
    file.listeners.iter().zip(names).map(listener).collect()
}

/// Names as written, and then those that are made from the first bind: in this order, so that a made name never
/// takes a written one away.
fn names(tables: &[ListenerTable], problems: &Problems) -> Vec<Name> {
    let written: Vec<_> = tables.iter().filter_map(|t| t.name.clone()).collect();
    problems.tell_repeats("listener.name", &written, "give one of the two another name");
    let mut taken: BTreeSet<Name> = written.into_iter().map(Spanned::into_inner).collect();
    let made = |table: &ListenerTable| table.first_bind.as_deref().and_then(derived).unwrap_or_else(fallback);
    let mut name = |table: &ListenerTable| match &table.name {
        Some(name) => name.get_ref().clone(),
        None => unused(&made(table), &mut taken),
    };
    tables.iter().map(&mut name).collect()
}

fn fallback() -> Name {
    Name::new("listener").expect("this is a name")
}

fn tell_overlaps(tables: &[ListenerTable], problems: &Problems) {
    let binds: Vec<&Spanned<Bind>> = tables.iter().flat_map(|t| &t.bind).collect();
    for (index, bind) in binds.iter().enumerate() {
        if let Some(first) = binds[..index].iter().find(|b| b.get_ref().overlaps(*bind.get_ref())) {
            let what = "`listener.bind`: this address is taken already";
            problems.tell_both(bind.span(), what, "an address and port can be bound once", (first.span(), "by this"));
        }
    }
}

/// The address of the metrics is no listener's.
fn tell_taken_metrics(file: &File, problems: &Problems) {
    let Some((place, Some(address))) = file.metrics_bind.as_ref().map(|bind| (bind.span(), *bind.get_ref())) else {
        return;
    };
    let mut binds = file.listeners.iter().flat_map(|t| &t.bind);
    if let Some(listener) = binds.find(|bind| bind.get_ref().overlaps(Bind::Address(address))) {
        let what = "`metrics.bind`: this address is taken already";
        problems.tell_both(place, what, "an address and port can be bound once", (listener.span(), "by this listener"));
    }
}

/// Budgets of its own beside the gateway's: a greater one would never be reached.
fn tell_greater_budgets(table: &ListenerTable, file: &File, problems: &Problems) {
    let (own, whole) = (&table.limits, &file.limits);
    let connections = (own.connections.as_ref(), whole.connections.as_ref());
    tell_greater("connections", "more than the whole gateway may have", connections, problems);
    let per_client = (own.connections_per_client.as_ref(), whole.connections_per_client.as_ref());
    tell_greater("connections_per_client", "more than a client may have of the whole gateway", per_client, problems);
}

/// A budget, where it is written; the inner `None` is "off" or "auto".
type Written<'t> = Option<&'t Spanned<Option<NonZeroUsize>>>;

fn tell_greater(key: &str, what: &str, (own, whole): (Written<'_>, Written<'_>), problems: &Problems) {
    let number = |budget: Written<'_>| budget.and_then(|b| Some((b.span(), (*b.get_ref())?)));
    if let (Some((place, own)), Some((whole_place, whole))) = (number(own), number(whole))
        && own > whole
    {
        let (what, expected) = (format!("`listener.limits.{key}`: {what}"), format!("expected at most {whole}"));
        problems.tell_both(place, what, expected, (whole_place, "the whole gateway's"));
    }
}

/// A deadline for what never happens would be a key that does nothing.
fn tell_plain_handshake(table: &ListenerTable, problems: &Problems) {
    if let (Some(time), None) = (&table.times.tls_handshake, &table.tls) {
        let what = "`listener.timeouts.tls_handshake`: this listener has no TLS";
        problems.tell(time.span(), what, "leave it out, or give the listener `tls`");
    }
}

/// The listener's list stands for the gateway's, even an empty one.
fn trusted_proxies(table: &ListenerTable, whole: &[Spanned<IpNet>], problems: &Problems) -> Vec<IpNet> {
    let own = table.trusted_proxies.as_deref();
    problems.tell_repeats("listener.trusted_proxies", own.unwrap_or_default(), "leave one out");
    own.unwrap_or(whole).iter().map(|n| *n.get_ref()).collect()
}

fn timeouts(own: &ClientTimes, whole: &ClientTimes) -> ClientTimeouts {
    let handshake = |times: &ClientTimes| times.tls_handshake.as_ref().map(|t| *t.get_ref());
    ClientTimeouts {
        tls_handshake: inherited(handshake(own), handshake(whole), 10),
        request_head: inherited(own.request_head, whole.request_head, 15),
        keep_alive: inherited(own.keep_alive, whole.keep_alive, 75),
    }
}

/// `head_size` and `headers` are no budgets that are shared: each request's head is held to them alone. So they are
/// looked up from the narrow place to the wide one as timeouts are, and a listener may have the greater ones.
fn limits(table: &ListenerLimits, whole: &HeadLimits) -> ClientLimits {
    let number = |budget: Written<'_>| budget.and_then(|b| *b.get_ref());
    ClientLimits {
        connections: number(table.connections.as_ref()),
        connections_per_client: number(table.connections_per_client.as_ref()),
        head_size: table.head.head_size.or(whole.head_size).unwrap_or(32 * 1024),
        headers: table.head.headers.or(whole.headers).unwrap_or(DEFAULT_HEADERS),
    }
}
