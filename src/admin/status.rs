//! The state of everything, for who administers the gateway.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::cells::{RouteCell, RouteState};
use crate::config::{Action, Config, Listener, Route};
use crate::downstream::certificates::Certificate;
use crate::metrics::Metrics;
use crate::upstream::Upstream;
use crate::upstream::endpoint::Endpoint;

/// Listeners, routes, endpoints and counts of this moment. Counts are summed over the workers and over all configurations
/// that had the route.
pub(super) fn of(metrics: &Metrics) -> Value {
    let serving = metrics.serving();
    let config = &serving.config;
    let states = serving.states.all();
    let (applied, refused) = metrics.reloads.counts();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "gateway": &*config.gateway.name,
        "process": std::process::id(),
        "state": if metrics.is_ready() { "serving" } else { "draining" },
        "workers": config.gateway.workers,
        "connections": metrics.open_connections(),
        "tunnels": states.iter().map(|state| tunnels(state)).sum::<u64>(),
        "reloads": { "applied": applied, "refused": refused },
        "listeners": listeners(metrics, config),
        "routes": config.routes.iter().map(|r| route(r, serving.route_state(&r.name))).collect::<Vec<_>>(),
        "upstreams": config.upstreams.iter().map(|u| upstream(serving.upstream(&u.name))).collect::<Vec<_>>(),
    })
}

fn listeners(metrics: &Metrics, config: &Config) -> Vec<Value> {
    let bound = metrics.addresses();
    let listener = |listener: &Arc<Listener>| {
        let own = bound.iter().filter(|(name, _)| *name == listener.name);
        let certificates = listener.tls.iter().flat_map(|tls| tls.certificates());
        json!({
            "name": listener.name.as_str(),
            "addresses": own.map(|(_, address)| address.to_string()).collect::<Vec<_>>(),
            "tls": listener.tls.is_some(),
            "certificates": certificates.map(certificate).collect::<Vec<_>>(),
        })
    };
    config.listeners.iter().map(listener).collect()
}

fn certificate(certificate: &Certificate) -> Value {
    let names: Vec<&str> = certificate.names.iter().map(|name| &**name).collect();
    json!({
        "file": certificate.file.display().to_string(),
        "names": names,
        "expires": rfc3339(certificate.valid.end),
    })
}

fn rfc3339(time: SystemTime) -> String {
    // humantime tells no time before 1970.
    humantime::format_rfc3339_seconds(time.max(SystemTime::UNIX_EPOCH)).to_string()
}

fn route(route: &Route, state: &RouteState) -> Value {
    let sum = |of: fn(&RouteCell) -> u64| state.cells().map(of).sum::<u64>();
    json!({
        "name": route.name.as_str(),
        "does": does(&route.action),
        "requests": sum(|cell| cell.requests.get().iter().sum()),
        "handshakes": sum(|cell| cell.handshakes.get().iter().sum()),
        "tunnels": tunnels(state),
    })
}

fn does(action: &Action) -> &'static str {
    match action {
        Action::Upstream(_) => "upstream",
        Action::Respond(_) => "respond",
        Action::Redirect(_) => "redirect",
        Action::Service(_) => "service",
    }
}

fn tunnels(state: &RouteState) -> u64 {
    // In this order: a tunnel may end between the two, and none ends that has not begun.
    let ended: u64 = state.cells().map(|cell| cell.ended.get()).sum();
    let opened: u64 = state.cells().map(|cell| cell.opened.get()).sum();
    opened - ended
}

fn upstream(upstream: &Upstream) -> Value {
    let endpoint = |endpoint: &Arc<Endpoint>| {
        json!({
            "address": endpoint.address.to_string(),
            "configured": endpoint.configured.to_string(),
            "in_use": endpoint.state.in_use(),
            "tunnels": endpoint.state.tunnels(),
        })
    };
    json!({
        "name": upstream.config.name.as_str(),
        "endpoints": upstream.endpoints().iter().map(endpoint).collect::<Vec<_>>(),
    })
}
