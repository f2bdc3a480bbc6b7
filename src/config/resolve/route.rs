//! Routes: names, one action each, what the action needs, and that no two could both win.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use toml::Spanned;

use super::inherited;
use crate::config::file::{ExchangeTimes, RedirectTable, RespondTable, RouteTable};
use crate::config::names::{derived, unused};
use crate::config::report::{Place, Problems, meant, quoted};
use crate::config::sources::Sources;
use crate::config::{
    Action, ExchangeTimeouts, HostPattern, Listener, Match, Name, Redirect, Respond, Route, Scheme, Template,
    TunnelPolicy,
};
use crate::proxy;

/// A body is held in memory as long as the configuration: what is greater belongs on a server of files.
const LARGEST_BODY: u64 = 1 << 20;

/// What routes are resolved against.
pub(super) struct Parts<'p> {
    pub(super) listeners: &'p [Arc<Listener>],
    /// The names of the upstreams.
    pub(super) upstreams: BTreeSet<&'p str>,
    pub(super) connect: Duration,
    pub(super) exchange: &'p ExchangeTimes,
    pub(super) sources: &'p Sources,
    pub(super) problems: &'p Problems,
}

/// Every route that nothing is wrong with.
pub(super) fn routes(tables: Vec<(RouteTable, bool)>, parts: &Parts<'_>) -> Vec<Arc<Route>> {
    let names = names(&tables, parts.problems);
    let (mut routes, mut places) = (Vec::new(), Vec::new());
    for ((table, sound), name) in tables.into_iter().zip(names) {
        let problems = parts.problems.count();
        let place = place(&table);
        let route = route(table, name, parts);
        // A route with a mistake may match other than it was meant to: no conflict is told of it.
        if let Some(route) = route.filter(|_| sound && parts.problems.count() == problems) {
            routes.push(Arc::new(route));
            places.push(place);
        }
    }
    tell_conflicts(&routes, &places, parts.problems);
    routes
}

fn route(table: RouteTable, name: Name, parts: &Parts<'_>) -> Option<Route> {
    let matches = matches(&table, parts);
    warn_unreachable(&table, &name, parts);
    tell_max_message(&table, parts.problems);
    let timeouts = timeouts(&table.times, parts);
    let (upgrade, plain) = (table.upgrade.clone().map(inner), table.plain.unwrap_or(true));
    let max_message = table.max_message.as_ref().map_or(1 << 20, |m| *m.get_ref());
    let on_change = table.on_change.unwrap_or(TunnelPolicy::Keep);
    let upgrade = upgrade.unwrap_or_else(|| vec!["websocket".into()]);
    let action = action(table, parts)?;
    Some(Route { name, matches, action, upgrade, plain, timeouts, max_message, on_change })
}

/// Names as written, and then those that are made from host and path.
fn names(tables: &[(RouteTable, bool)], problems: &Problems) -> Vec<Name> {
    let written: Vec<_> = tables.iter().filter_map(|(t, _)| t.name.clone()).collect();
    problems.tell_repeats("route.name", &written, "give one of the two another name");
    let mut taken: BTreeSet<Name> = written.into_iter().map(Spanned::into_inner).collect();
    let mut name = |table: &RouteTable| match &table.name {
        Some(name) => name.get_ref().clone(),
        None => unused(&made(table), &mut taken),
    };
    tables.iter().map(|(table, _)| name(table)).collect()
}

fn made(table: &RouteTable) -> Name {
    let host = match table.hosts.iter().flatten().next().map(Spanned::get_ref) {
        Some(HostPattern::Exact(host) | HostPattern::Below(host)) => host,
        None => "",
    };
    let path = table.paths.iter().flatten().next().map_or("/", |p| p.get_ref());
    derived(&format!("{host}{path}")).unwrap_or_else(|| Name::new("root").expect("this is a name"))
}

fn matches(table: &RouteTable, parts: &Parts<'_>) -> Match {
    tell_repeats(table, parts.problems);
    for listener in table.listeners.iter().flatten() {
        let known = parts.listeners.iter().map(|l| l.name.as_str()).collect();
        tell_unknown("route.listener", "listener", listener, &known, parts.problems);
    }
    let mut headers: Vec<_> =
        table.headers.iter().map(|(name, value)| (name.get_ref().clone(), value.clone())).collect();
    headers.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
    Match {
        hosts: table.hosts.clone().map(inner).unwrap_or_default(),
        paths: table.paths.clone().map_or_else(|| vec!["/".into()], inner),
        scheme: table.scheme.as_ref().map(|s| *s.get_ref()),
        listeners: table.listeners.clone().map(inner).unwrap_or_default(),
        methods: table.methods.clone().map(inner).unwrap_or_default(),
        headers,
    }
}

/// A route for a scheme that no listener gives it takes no request, ever. It is no mistake that harms, and may be meant
/// for a listener that is yet to come.
fn warn_unreachable(table: &RouteTable, name: &Name, parts: &Parts<'_>) {
    let Some(scheme) = &table.scheme else { return };
    let named = table.listeners.as_deref();
    let may_come = |l: &Listener| named.is_none_or(|names| names.iter().any(|name| *name.get_ref() == l.name));
    let gives = |l: &Listener| l.tls.is_some() == (*scheme.get_ref() == Scheme::Https);
    if !parts.listeners.iter().any(|l| may_come(l) && gives(l)) {
        let which = if named.is_some() { "none of its listeners" } else { "no listener" };
        let what = match scheme.get_ref() {
            Scheme::Http => "is plain",
            Scheme::Https => "has TLS",
        };
        let scheme_text = scheme.get_ref().as_str();
        parts.problems.warn(
            scheme.span(),
            format!("nothing reaches the route {name}: it is for {scheme_text}, and {which} {what}"),
        );
    }
}

/// Says what stands in a list twice. Headers repeat where two spellings are one name.
fn tell_repeats(table: &RouteTable, problems: &Problems) {
    let headers: Vec<_> = table.headers.iter().map(|(name, _)| name.clone()).collect();
    problems.tell_repeats("route.headers", &headers, "leave one out");
    problems.tell_repeats("route.host", table.hosts.as_deref().unwrap_or_default(), "leave one out");
    problems.tell_repeats("route.path", table.paths.as_deref().unwrap_or_default(), "leave one out");
    problems.tell_repeats("route.listener", table.listeners.as_deref().unwrap_or_default(), "leave one out");
    problems.tell_repeats("route.methods", table.methods.as_deref().unwrap_or_default(), "leave one out");
    problems.tell_repeats("route.upgrade", table.upgrade.as_deref().unwrap_or_default(), "leave one out");
}

fn timeouts(own: &ExchangeTimes, parts: &Parts<'_>) -> ExchangeTimeouts {
    let whole = parts.exchange;
    ExchangeTimeouts {
        connect: parts.connect,
        upgrade: inherited(own.upgrade, whole.upgrade, 15),
        response_head: inherited(own.response_head, whole.response_head, 60),
        stall: inherited(own.stall, whole.stall, 60),
        idle: inherited(own.idle, whole.idle, 60 * 60),
        half_close: inherited(own.half_close, whole.half_close, 60),
    }
}

fn action(table: RouteTable, parts: &Parts<'_>) -> Option<Action> {
    match &table.actions[..] {
        [] => {
            let expected = "expected one of `upstream`, `respond`, `redirect`, `service`";
            parts.problems.tell(table.place, "this route has no action", expected);
            return None;
        }
        [_] => {}
        [(first, place), others @ ..] => {
            for (other, other_place) in others {
                let what = format!("a route has one action, this has `{first}` and `{other}`");
                let first = (place.clone(), "the one");
                parts.problems.tell_both(other_place.clone(), what, "leave one out", first);
            }
            return None;
        }
    }
    let upstream = table.upstream.map(|u| upstream(&u, parts));
    let respond = table.respond.map(|r| respond(r, parts).map(Action::Respond));
    let redirect = table.redirect.map(|r| redirect(r).map(Action::Redirect));
    let service = table.service.map(Action::Service);
    upstream.or_else(|| respond.flatten()).or_else(|| redirect.flatten()).or(service)
}

fn upstream(name: &Spanned<Name>, parts: &Parts<'_>) -> Action {
    tell_unknown("route.upstream", "upstream", name, &parts.upstreams, parts.problems);
    Action::Upstream(name.get_ref().clone())
}

fn redirect(table: RedirectTable) -> Option<Redirect> {
    let to: Template = table.to?;
    Some(Redirect { to, status: table.status.unwrap_or(StatusCode::PERMANENT_REDIRECT) })
}

fn respond(table: RespondTable, parts: &Parts<'_>) -> Option<Respond> {
    let body_place = table.body.as_ref().or(table.body_file.as_ref()).map(Spanned::span);
    if let (Some(body), Some(file)) = (&table.body, &table.body_file) {
        let what = "`route.respond.body_file`: the body is there already";
        parts.problems.tell_both(file.span(), what, "leave one of the two out", (body.span(), "the body"));
        return None;
    }
    let status = table.status?;
    tell_bodiless(&status, body_place.as_ref(), table.content_type.as_ref(), parts.problems);
    let body = match (table.body, table.body_file) {
        (Some(body), _) => body.into_inner().into(),
        (None, Some(file)) => body_of(&file, parts)?,
        (None, None) => Bytes::new(),
    };
    let plain_text = || HeaderValue::from_static("text/plain; charset=utf-8");
    let content_type = table.content_type.map_or_else(plain_text, Spanned::into_inner);
    Some(Respond { status: status.into_inner(), body, content_type })
}

/// Says what of an answer could not be sent.
fn tell_bodiless(
    status: &Spanned<StatusCode>,
    body: Option<&Place>,
    content_type: Option<&Spanned<HeaderValue>>,
    problems: &Problems,
) {
    let code = status.get_ref().as_u16();
    if let (Some(body), 204 | 205 | 304) = (body, code) {
        let what = format!("`route.respond`: an answer {code} has no body");
        problems.tell_both(body.clone(), what, "leave it out", (status.span(), "the status"));
    }
    if let (None, Some(content_type)) = (body, content_type) {
        let what = "`route.respond.content_type`: there is no body";
        problems.tell(content_type.span(), what, "leave it out, or give `body` or `body_file`");
    }
}

/// What a file holds now. It is read here and not per request, so that an answer cannot fail.
fn body_of(file: &Spanned<String>, parts: &Parts<'_>) -> Option<Bytes> {
    let path = parts.sources.folder_of(&file.span()).join(file.get_ref());
    let length = fs::metadata(&path).map(|m| m.len());
    let expected = match (length, fs::read(&path)) {
        (Ok(length), _) if length > LARGEST_BODY => "it is held in memory: expected at most 1 MiB".to_owned(),
        (_, Ok(body)) => return Some(body.into()),
        (_, Err(error)) => error.to_string(),
    };
    let what = format!("`route.respond.body_file`: cannot take {path:?}");
    parts.problems.tell(file.span(), what, expected);
    None
}

/// Messages are read by the gateway's own services only; elsewhere the limit would hold nobody back.
fn tell_max_message(table: &RouteTable, problems: &Problems) {
    let forwarded = table.actions.iter().any(|(action, _)| *action != "service");
    if let Some(limit) = table.max_message.as_ref().filter(|_| forwarded) {
        let what = "`route.websocket.max_message`: this route's messages are not read by the gateway";
        problems.tell(limit.span(), what, "leave it out: it is for routes with `service`");
    }
}

fn tell_unknown(key: &str, what: &str, name: &Spanned<Name>, known: &BTreeSet<&str>, problems: &Problems) {
    let name_text = name.get_ref().as_str();
    if !known.contains(name_text) {
        let what = format!("`{key}`: there is no {what} {}", quoted(name_text));
        problems.tell(name.span(), what, meant(name_text, &Vec::from_iter(known.iter().copied())));
    }
}

fn tell_conflicts(routes: &[Arc<Route>], places: &[Place], problems: &Problems) {
    let Err(conflicts) = proxy::route::RouteTable::new(routes.to_vec()) else { return };
    for conflict in conflicts {
        let (first, second) = (conflict.first.min(conflict.second), conflict.first.max(conflict.second));
        let what =
            format!("the routes `{}` and `{}` could both win a request", routes[first].name, routes[second].name);
        let expected = "make one of them narrower: by host, path, listener, scheme, methods or headers";
        problems.tell_both(places[second].clone(), what, expected, (places[first].clone(), "the other"));
    }
}

/// Where a route says what it matches: its path, else its host, else its header.
fn place(table: &RouteTable) -> Place {
    let path = table.paths.iter().flatten().next().map(Spanned::span);
    let host = || table.hosts.iter().flatten().next().map(Spanned::span);
    path.or_else(host).unwrap_or_else(|| table.place.clone())
}

fn inner<T>(values: Vec<Spanned<T>>) -> Vec<T> {
    values.into_iter().map(Spanned::into_inner).collect()
}
