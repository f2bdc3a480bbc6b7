//! The figures as a text that Prometheus reads (OpenMetrics 1.0). docs/metrics.md lists them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::{Metrics, process};
use crate::cells::{CLASSES, HANDSHAKES, Histogram, LIVES, Moved, Observed, RouteCell, RouteState};
use crate::config::Name;
use crate::downstream::certificates::Certificate;
use crate::downstream::secure::Shaken;
use crate::rejection::Cause;
use crate::tunnel::EndedBy;

/// The label of what came to no route: no name of a route looks so.
const NO_ROUTE: &str = "(none)";

/// The same of TLS handshakes that came to no version.
const NO_VERSION: &str = "(none)";

/// A label and its value.
type Label<'v> = (&'static str, &'v str);

const NONE: [Label<'static>; 0] = [];

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let routes = self.routes();
        self.requests(&routes, &mut page)?;
        self.tunnels(&routes, &mut page)?;
        self.connections(&mut page)?;
        self.backends(&mut page)?;
        self.configuration(&mut page)?;
        process(&mut page)
    }
}

impl Metrics {
    fn requests(&self, routes: &[Route], page: &mut Page<'_>) -> fmt::Result {
        let help = "Requests that asked for no upgrade and have ended";
        page.counter("spliceway_requests", help, None, by_class(routes, |route| &route.requests))?;
        let help = "Opening handshakes that were answered or given up";
        page.counter("spliceway_handshakes", help, None, by_class(routes, |route| &route.handshakes))?;
        let help = "From the head of an upgrade request to the moment its 101 has left";
        page.histogram(
            "spliceway_handshake_duration",
            help,
            &HANDSHAKES,
            self.workers.iter().map(|w| &w.cell.handshakes),
        )?;
        let help = "Bytes of bodies and tunnels that have ended, client to server";
        page.counter("spliceway_sent", help, Some(&Unit::Bytes), by_kind(routes, 0))?;
        let help = "Bytes of bodies and tunnels that have ended, server to client";
        page.counter("spliceway_received", help, Some(&Unit::Bytes), by_kind(routes, 1))?;
        let rejections = sums(self.cells().map(|cell| cell.rejections.get()));
        let rejections = Cause::ALL.iter().zip(rejections).map(|(cause, count)| ([("cause", cause.label())], count));
        page.counter("spliceway_rejections", "Answers that the gateway gave instead", None, rejections)
    }

    fn tunnels(&self, routes: &[Route], page: &mut Page<'_>) -> fmt::Result {
        let open = routes.iter().filter(|route| route.state.is_some());
        page.gauge(
            "spliceway_tunnels",
            "Tunnels that are open",
            None,
            open.map(|route| ([route.label()], route.open)),
        )?;
        let mut endpoints = self.endpoints.tunnels();
        endpoints.sort_unstable();
        let endpoints: Vec<_> =
            endpoints.into_iter().map(|(upstream, at, open)| (upstream, at.to_string(), open)).collect();
        let endpoints =
            endpoints.iter().map(|(upstream, at, open)| ([("upstream", upstream.as_str()), ("endpoint", at)], *open));
        page.gauge("spliceway_endpoint_tunnels", "Tunnels to an endpoint that are open", None, endpoints)?;
        let ends = sums(self.cells().map(|cell| cell.ends.get()));
        let ends = EndedBy::ALL.iter().zip(ends).map(|(by, count)| ([("ended_by", by.label())], count));
        page.counter("spliceway_tunnel_ends", "Tunnels that have ended", None, ends)?;
        let help = "From the 101 to the end of the tunnel";
        page.histogram("spliceway_tunnel_duration", help, &LIVES, self.workers.iter().map(|w| &w.cell.lives))
    }

    fn connections(&self, page: &mut Page<'_>) -> fmt::Result {
        let accepted = self.sum(|cell| &cell.connections);
        page.counter(
            "spliceway_connections_accepted",
            "Connections of clients that were accepted",
            None,
            [(NONE, accepted)],
        )?;
        let refused = self.sum(|cell| &cell.refused);
        let help = "Connections that were closed at once, for their client had as many as it may";
        page.counter("spliceway_connections_refused", help, None, [(NONE, refused)])?;
        page.gauge(
            "spliceway_connections",
            "Connections of clients that are open, tunnels included",
            None,
            [(NONE, self.open_connections())],
        )?;
        let shaken = sums(self.cells().map(|cell| cell.tls.get()));
        let shaken = Shaken::ALL.iter().zip(shaken).map(|(shaken, count)| (handshake_labels(*shaken), count));
        page.counter("spliceway_tls_handshakes", "TLS handshakes with clients", None, shaken)
    }

    fn backends(&self, page: &mut Page<'_>) -> fmt::Result {
        let opened = self.sum(|cell| &cell.opened);
        page.counter(
            "spliceway_backend_connections_opened",
            "Connections to backends that were made",
            None,
            [(NONE, opened)],
        )?;
        let reused = self.sum(|cell| &cell.reused);
        let help = "Requests that were sent over a connection that was kept";
        page.counter("spliceway_backend_connections_reused", help, None, [(NONE, reused)])?;
        let retried = self.sum(|cell| &cell.retried);
        let help = "Requests that were sent anew over another connection, for the kept one had ended";
        page.counter("spliceway_backend_retries", help, None, [(NONE, retried)])?;
        let failed = Cause::ALL.iter().zip(sums(self.cells().map(|cell| cell.failed.get())));
        // Few of the causes are a backend's: a series appears when there is something to count.
        let failed = failed.filter(|&(_, count)| count > 0).map(|(cause, count)| ([("cause", cause.label())], count));
        let help = "Tries at an endpoint that came to nothing; another may have answered";
        page.counter("spliceway_backend_attempts_failed", help, None, failed)?;
        let idle: usize = self.workers.iter().map(|worker| worker.pool.len()).sum();
        page.gauge(
            "spliceway_backend_connections_idle",
            "Connections to backends that wait for a request",
            None,
            [(NONE, idle)],
        )
    }

    fn configuration(&self, page: &mut Page<'_>) -> fmt::Result {
        let Self { reloads, losses, .. } = self;
        let (applied, refused) = reloads.counts();
        let results = [([("result", "applied")], applied), ([("result", "refused")], refused)];
        page.counter("spliceway_config_reloads", "Reloads of the configuration", None, results)?;
        let (name, help) = ("spliceway_config_last_applied_timestamp", "When the configuration in force was taken");
        page.gauge(name, help, Some(&Unit::Seconds), [(NONE, reloads.last_applied())])?;
        let serving = self.serving();
        let (name, help) = ("spliceway_certificate_expiry_timestamp", "Until when a listener's certificate is valid");
        page.expiries((name, help), "listener", serving.config.listener_certificates())?;
        let name = "spliceway_backend_certificate_expiry_timestamp";
        let help = "Until when the certificate is valid that backends are shown";
        page.expiries((name, help), "upstream", serving.config.upstream_certificates())?;
        let lost = [([("cause", "queue")], losses.dropped()), ([("cause", "write")], losses.unwritten())];
        page.counter("spliceway_log_lines_lost", "Lines of the log that were lost", None, lost)?;
        let version = [([("version", env!("CARGO_PKG_VERSION"))], 1_u64)];
        page.gauge("spliceway_build_info", "The version of this gateway", None, version)
    }

    /// Every route that is in use, and what came to none.
    fn routes(&self) -> Vec<Route> {
        let states = self.serving().states.all();
        let unrouted = Route::summed(None, self.cells().map(|cell| &cell.unrouted));
        states.into_iter().map(Route::of).chain([unrouted]).collect()
    }
}

/// By the names that every program has for them.
fn process(page: &mut Page<'_>) -> fmt::Result {
    let (seconds, bytes) = (Some(&Unit::Seconds), Some(&Unit::Bytes));
    let none = |value| (NONE, value);
    page.counter("process_cpu", "Processor time, user and system", seconds, [(NONE, process::cpu_seconds())])?;
    page.gauge("process_resident_memory", "Resident memory", bytes, process::resident_bytes().map(none))?;
    page.gauge("process_open_fds", "Descriptors that are open", None, process::open_descriptors().map(none))?;
    page.gauge("process_max_fds", "Descriptors that may be open", None, [(NONE, process::most_descriptors())])?;
    let started = process::start_seconds().map(|at| (NONE, at));
    page.gauge("process_start_time", "When the process was started", seconds, started)
}

/// A route's figures, of all workers.
struct Route {
    /// None: what came to no route.
    state: Option<Arc<RouteState>>,
    requests: [u64; CLASSES.len()],
    handshakes: [u64; CLASSES.len()],
    open: u64,
    requests_moved: [u64; 2],
    tunnels_moved: [u64; 2],
}

impl Route {
    fn of(state: Arc<RouteState>) -> Self {
        let known = Arc::clone(&state);
        Self::summed(Some(state), known.cells())
    }

    fn summed<'c>(state: Option<Arc<RouteState>>, cells: impl Iterator<Item = &'c RouteCell> + Clone) -> Self {
        // In this order: a tunnel may end between the two, and none ends that has not begun.
        let ended: u64 = cells.clone().map(|cell| cell.ended.get()).sum();
        let opened: u64 = cells.clone().map(|cell| cell.opened.get()).sum();
        let moved = |moved: &Moved| [moved.sent.get(), moved.received.get()];
        Self {
            state,
            requests: sums(cells.clone().map(|cell| cell.requests.get())),
            handshakes: sums(cells.clone().map(|cell| cell.handshakes.get())),
            // Nothing but this order holds them together: another processor may see them in the other.
            open: opened.saturating_sub(ended),
            requests_moved: sums(cells.clone().map(|cell| moved(&cell.of_requests))),
            tunnels_moved: sums(cells.map(|cell| moved(&cell.of_tunnels))),
        }
    }

    fn label(&self) -> Label<'_> {
        ("route", self.state.as_ref().map_or(NO_ROUTE, |state| state.name.as_str()))
    }
}

/// Only what there was: of ten thousand routes most have no answer of most classes.
fn by_class(routes: &[Route], of: fn(&Route) -> &[u64; CLASSES.len()]) -> impl Iterator<Item = ([Label<'_>; 2], u64)> {
    let of_route = move |route| CLASSES.iter().zip(of(route)).map(move |(class, count)| (route, *class, *count));
    let told = routes.iter().flat_map(of_route).filter(|(_, _, count)| *count > 0);
    told.map(|(route, class, count)| ([route.label(), ("result", class)], count))
}

/// The same for bytes one way.
fn by_kind(routes: &[Route], way: usize) -> impl Iterator<Item = ([Label<'_>; 2], u64)> {
    let of_route =
        move |route: &'_ Route| [("request", route.requests_moved[way]), ("tunnel", route.tunnels_moved[way])];
    let told = routes.iter().flat_map(move |route| of_route(route).map(|(kind, bytes)| (route, kind, bytes)));
    told.filter(|(_, _, bytes)| *bytes > 0).map(|(route, kind, bytes)| ([route.label(), ("of", kind)], bytes))
}

fn sums<const N: usize>(of_cells: impl Iterator<Item = [u64; N]>) -> [u64; N] {
    of_cells.fold([0; N], |sum, cell| std::array::from_fn(|kind| sum[kind] + cell[kind]))
}

fn handshake_labels(shaken: Shaken) -> [Label<'static>; 2] {
    let (version, result) = match shaken {
        Shaken::Tls12 => ("1.2", "Done"),
        Shaken::Tls13 => ("1.3", "Done"),
        // Of these there is no version that both have agreed to.
        other => (NO_VERSION, other.label()),
    };
    [("version", version), ("result", result)]
}

/// A page that is being written.
struct Page<'p>(DescriptorEncoder<'p>);

impl Page<'_> {
    fn counter<'v, const N: usize, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = ([Label<'v>; N], V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in values {
            match N {
                0 => metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
                _ => metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
            }
        }
        Ok(())
    }

    fn gauge<'v, const N: usize, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = ([Label<'v>; N], V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in values {
            match N {
                0 => metric.encode_gauge(&value)?,
                _ => metric.encode_family(&labels)?.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    /// Of certificates, by who shows them. A file that is named twice is told once: a series that stands there twice makes
    /// the whole page unreadable.
    fn expiries<'c>(
        &mut self,
        (name, help): (&str, &str),
        of: &'static str,
        certificates: impl Iterator<Item = (&'c Name, &'c Certificate)>,
    ) -> fmt::Result {
        let told: BTreeMap<_, _> = certificates
            .map(|(shown_by, certificate)| ((shown_by.as_str(), certificate.file.display().to_string()), certificate))
            .collect();
        let values = told.iter().map(|((shown_by, file), certificate)| {
            ([(of, *shown_by), ("certificate", file.as_str())], process::seconds(certificate.valid.end))
        });
        self.gauge(name, help, Some(&Unit::Seconds), values)
    }

    fn histogram<'h, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        bounds: &[Duration; N],
        cells: impl Iterator<Item = &'h Histogram<N>>,
    ) -> fmt::Result {
        let observed: Vec<Observed<N>> = cells.map(Histogram::get).collect();
        let within = sums(observed.iter().map(|of_cell| of_cell.within));
        let beyond = observed.iter().map(|of_cell| of_cell.beyond).sum();
        let microseconds: u64 = observed.iter().map(|of_cell| of_cell.microseconds).sum();
        let count = within.iter().sum::<u64>() + beyond;
        let buckets = bounds.iter().map(Duration::as_secs_f64).zip(within).chain([(f64::INFINITY, beyond)]);
        let mut metric = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        let buckets: Vec<_> = buckets.collect();
        metric.encode_histogram::<NoLabelSet>(microseconds as f64 / 1e6, count, &buckets, None)
    }
}
