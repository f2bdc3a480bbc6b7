//! Listeners: names, inheritance of the client side, and addresses that only one of them can have.

use std::collections::BTreeSet;
use std::sync::Arc;

use toml::Spanned;

use super::inherited;
use crate::config::file::{ClientTimes, File, HeadLimits, ListenerTable};
use crate::config::names::{derived, unused};
use crate::config::report::Problems;
use crate::config::{Bind, ClientLimits, ClientTimeouts, Listener, Name};

/// Every listener.
pub(super) fn listeners(file: &File, problems: &Problems) -> Vec<Arc<Listener>> {
    tell_overlaps(&file.listeners, problems);
    let names = names(&file.listeners, problems);
    let listener = |(table, name): (&ListenerTable, Name)| {
        tell_greater_budget(table, file, problems);
        Arc::new(Listener {
            name,
            binds: table.bind.iter().map(|b| *b.get_ref()).collect(),
            timeouts: timeouts(&table.times, &file.client),
            limits: limits(table, &file.limits.head),
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

/// A budget of its own beside the gateway's: a greater one would never be reached.
fn tell_greater_budget(table: &ListenerTable, file: &File, problems: &Problems) {
    let own = table.connections.as_ref().and_then(|c| Some((c.span(), (*c.get_ref())?)));
    let whole = file.limits.connections.as_ref().and_then(|c| Some((c.span(), (*c.get_ref())?)));
    if let (Some((place, own)), Some((whole_place, whole))) = (own, whole)
        && own > whole
    {
        let what = "`listener.limits.connections`: more than the whole gateway may have";
        problems.tell_both(place, what, format!("expected at most {whole}"), (whole_place, "the whole gateway's"));
    }
}

fn timeouts(own: &ClientTimes, whole: &ClientTimes) -> ClientTimeouts {
    ClientTimeouts {
        request_head: inherited(own.request_head, whole.request_head, 15),
        keep_alive: inherited(own.keep_alive, whole.keep_alive, 75),
    }
}

/// `head_size` and `headers` are no budgets that are shared: each request's head is held to them alone. So they are
/// looked up from the narrow place to the wide one as timeouts are, and a listener may have the greater ones.
fn limits(table: &ListenerTable, whole: &HeadLimits) -> ClientLimits {
    ClientLimits {
        connections: table.connections.as_ref().and_then(|c| *c.get_ref()),
        head_size: table.head.head_size.or(whole.head_size).unwrap_or(32 * 1024),
        headers: table.head.headers.or(whole.headers).unwrap_or(100),
    }
}
