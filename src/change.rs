//! What one configuration changes of another: to be told, and for the tunnels that are open. Pure.

use std::collections::HashMap;
use std::fmt;

use crate::config::{Config, Listener, Name, Route, TunnelPolicy, Upstream};
use crate::registry::Order;

/// What one configuration changes of another.
#[derive(Debug, Default)]
pub struct Changes {
    /// In the order of the file's tables; of each kind, what is gone comes last.
    pub differences: Vec<Difference>,
    /// Routes that have changed or are gone, with what becomes of their tunnels. Those whose tunnels stay are left out.
    pub routes: HashMap<Name, (TunnelPolicy, Order)>,
    /// Keys that have changed and need a new process: they stay as they were.
    pub kept: Vec<&'static str>,
}

/// One part of a configuration that is not what it was.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its kind: "listener", "route", "upstream", "endpoint" or "section".
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// What happened to it.
    pub how: How,
}

/// What happened to a part of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It is new.
    Added,
    /// It is there, and not as it was.
    Changed,
    /// It is gone.
    Removed,
}

impl Changes {
    /// What `new` changes of `old`. Keys of `new` that need a new process are set back to what they were.
    pub fn between(old: &Config, new: &mut Config) -> Self {
        let kept = keep(old, new);
        let mut differences = sections(old, new);
        let (old_listeners, listeners) = (named(&old.listeners, |l| &l.name), named(&new.listeners, |l| &l.name));
        compare("listener", &old_listeners, &listeners, same_listener, &mut differences);
        let (old_upstreams, upstreams) = (named(&old.upstreams, |u| &u.name), named(&new.upstreams, |u| &u.name));
        compare("upstream", &old_upstreams, &upstreams, PartialEq::eq, &mut differences);
        endpoints(&old_upstreams, &upstreams, &mut differences);
        let (old_routes, routes) = (named(&old.routes, |r| &r.name), named(&new.routes, |r| &r.name));
        compare("route", &old_routes, &routes, |a, b| same_route(a, b) && a.on_change == b.on_change, &mut differences);
        Self { differences, routes: fates(&old_routes, &routes), kept }
    }
}

/// Keys marked "(start)" in the contract.
fn keep(old: &Config, new: &mut Config) -> Vec<&'static str> {
    let mut kept = Vec::new();
    let mut keep = |key, changed| {
        if changed {
            kept.push(key)
        }
    };
    keep("gateway.workers", old.gateway.workers != new.gateway.workers);
    keep("tcp.backlog", old.tcp.backlog != new.tcp.backlog);
    keep("log.file", old.log.file != new.log.file);
    keep("metrics.bind", old.metrics != new.metrics);
    keep("admin.bind", old.admin != new.admin);
    new.gateway.workers = old.gateway.workers;
    new.tcp.backlog = old.tcp.backlog;
    new.log.file.clone_from(&old.log.file);
    new.metrics = old.metrics;
    new.admin.clone_from(&old.admin);
    kept
}

fn sections(old: &Config, new: &Config) -> Vec<Difference> {
    let sections = [
        ("gateway", old.gateway != new.gateway),
        ("limits", old.limits != new.limits),
        ("tcp", old.tcp != new.tcp),
        ("forwarded", old.forwarded != new.forwarded),
        ("log", old.log != new.log),
        ("drain", old.drain != new.drain),
    ];
    let changed = sections.into_iter().filter(|(_, changed)| *changed);
    changed.map(|(name, _)| Difference { kind: "section", name: name.to_owned(), how: How::Changed }).collect()
}

/// Parts by name, with the order of the file.
struct Named<'c, T> {
    in_order: Vec<(&'c Name, &'c T)>,
    by_name: HashMap<&'c Name, &'c T>,
}

fn named<T>(parts: &[std::sync::Arc<T>], name: impl Fn(&T) -> &Name) -> Named<'_, T> {
    let in_order: Vec<_> = parts.iter().map(|part| (name(part), &**part)).collect();
    Named { by_name: in_order.iter().copied().collect(), in_order }
}

fn compare<T>(
    kind: &'static str,
    old: &Named<'_, T>,
    new: &Named<'_, T>,
    same: impl Fn(&T, &T) -> bool,
    differences: &mut Vec<Difference>,
) {
    let difference = |name: &Name, how| Difference { kind, name: name.to_string(), how };
    let there = new.in_order.iter().filter_map(|(name, part)| match old.by_name.get(name) {
        None => Some(difference(name, How::Added)),
        Some(before) if !same(before, part) => Some(difference(name, How::Changed)),
        Some(_) => None,
    });
    differences.extend(there);
    let gone = old.in_order.iter().filter(|(name, _)| !new.by_name.contains_key(name));
    differences.extend(gone.map(|(name, _)| difference(name, How::Removed)));
}

/// Endpoints of the upstreams that are there before and after; those of others come and go with them.
fn endpoints(old: &Named<'_, Upstream>, new: &Named<'_, Upstream>, differences: &mut Vec<Difference>) {
    for (name, upstream) in &new.in_order {
        let Some(before) = old.by_name.get(name) else { continue };
        let difference = |endpoint: &_, how| Difference { kind: "endpoint", name: format!("{name} {endpoint}"), how };
        let added = upstream.endpoints.iter().filter(|e| !before.endpoints.contains(e));
        let removed = before.endpoints.iter().filter(|e| !upstream.endpoints.contains(e));
        differences.extend(added.map(|e| difference(e, How::Added)));
        differences.extend(removed.map(|e| difference(e, How::Removed)));
    }
}

/// What becomes of the tunnels of routes that are not what they were. Where a route is still there, its own word counts as
/// it is now: who changes a route says in the same breath what that means for its tunnels.
fn fates(old: &Named<'_, Route>, new: &Named<'_, Route>) -> HashMap<Name, (TunnelPolicy, Order)> {
    let fate = |(name, before): &(&Name, &Route)| match new.by_name.get(name) {
        None => Some(((*name).clone(), (before.on_change, Order::RouteRemoved))),
        Some(now) if !same_route(before, now) => Some(((*name).clone(), (now.on_change, Order::RouteChanged))),
        Some(_) => None,
    };
    let fates = old.in_order.iter().filter_map(fate);
    fates.filter(|(_, (policy, _))| *policy != TunnelPolicy::Keep).collect()
}

/// Whether two routes of one name do the same. What becomes of tunnels is no part of what a route does with a request: to
/// change that alone must not be a change that it speaks of.
fn same_route(one: &Route, other: &Route) -> bool {
    let Route { name: _, matches, action, upgrade, plain, timeouts, max_message, on_change: _ } = one;
    *matches == other.matches
        && *action == other.action
        && *upgrade == other.upgrade
        && *plain == other.plain
        && *timeouts == other.timeouts
        && *max_message == other.max_message
}

fn same_listener(one: &Listener, other: &Listener) -> bool {
    let Listener { name: _, binds, timeouts, limits, trusted_proxies, tls } = one;
    let same_tls = match (tls, &other.tls) {
        (Some(one), Some(other)) => one.is_same(other),
        (None, None) => true,
        _ => false,
    };
    *binds == other.binds
        && *timeouts == other.timeouts
        && *limits == other.limits
        && *trusted_proxies == other.trusted_proxies
        && same_tls
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const LISTENER: &str = "[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:80\"\n";

    fn config(text: &str) -> Config {
        Config::parse("test", &format!("{text}\n{LISTENER}"), Path::new(".")).unwrap()
    }

    fn between(old: &str, new: &str) -> Changes {
        Changes::between(&config(old), &mut config(new))
    }

    fn told(changes: &Changes) -> Vec<String> {
        changes.differences.iter().map(|d| format!("{} {} {}", d.kind, d.name, d.how)).collect()
    }

    #[test]
    fn what_was_added_changed_and_removed_is_told_by_name() {
        let one = "[upstream.a]\nendpoints = [\"10.0.0.1:1\", \"b:2\"]\n[[route]]\nname = \"r\"\nupstream = \"a\"\n";
        let table: [(&str, &str, &[&str]); 8] = [
            (one, one, &[]),
            (
                one,
                &one.replace("10.0.0.1:1", "10.0.0.2:1"),
                &["upstream a changed", "endpoint a 10.0.0.2:1 added", "endpoint a 10.0.0.1:1 removed"],
            ),
            (one, &one.replace("\"r\"", "\"s\""), &["route s added", "route r removed"]),
            (one, &format!("{one}path = \"/x\"\n"), &["route r changed"]),
            (one, &format!("{one}on_change = \"close\"\n"), &["route r changed"]),
            (one, &format!("[limits]\ntunnels = 5\n{one}"), &["section limits changed"]),
            ("", one, &["upstream a added", "route r added"]),
            ("", "[[listener]]\nname = \"b\"\nbind = \"127.0.0.1:81\"\n", &["listener b added"]),
        ];
        for (old, new, expected) in table {
            assert_eq!(told(&between(old, new)), expected, "{old} and then {new}");
        }
    }

    #[test]
    fn tunnels_are_touched_by_what_their_own_route_says_and_only_if_it_does_something_else() {
        let route = |rest: &str| format!("[[route]]\nname = \"r\"\nservice = \"echo\"\n{rest}");
        let (close, drain) = ("on_change = \"close\"\n", "on_change = \"drain\"\n");
        let table = [
            (route(close), route(close), None),
            (route(""), route(close), None),
            (route(close), String::new(), Some((TunnelPolicy::Close, Order::RouteRemoved))),
            (route(""), String::new(), None),
            (route(""), route(&format!("path = \"/x\"\n{drain}")), Some((TunnelPolicy::Drain, Order::RouteChanged))),
            (route(close), route("path = \"/x\"\n"), None),
        ];
        for (old, new, expected) in table {
            let changes = between(&old, &new);
            assert_eq!(changes.routes.get(&Name::new("r").unwrap()).copied(), expected, "{old} and then {new}");
        }
    }

    #[test]
    fn keys_that_need_a_new_process_stay_and_are_named() {
        let old = config("[gateway]\nworkers = 1\n");
        let mut new = config(
            "[gateway]\nworkers = 2\n[tcp]\nbacklog = 5\nkeepalive = \"5s\"\n[log]\nfile = \"stderr\"\n\
                    [metrics]\nbind = \"127.0.0.1:9\"\n[admin]\nbind = \"unix:a\"\n",
        );
        let changes = Changes::between(&old, &mut new);
        assert_eq!(changes.kept, ["gateway.workers", "tcp.backlog", "log.file", "metrics.bind", "admin.bind"]);
        assert_eq!((new.gateway.workers, new.tcp.backlog), (old.gateway.workers, old.tcp.backlog));
        assert_eq!(told(&changes), ["section tcp changed"]);
    }
}
