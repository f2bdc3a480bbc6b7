//! `[[route]]` as it is written.

use http::{HeaderName, HeaderValue, Method, StatusCode};
use toml::Spanned;

use super::{ExchangeTimes, POLICIES, file_name, plain};
use crate::config::names::name;
use crate::config::paths::path;
use crate::config::reader::Table;
use crate::config::report::{Place, Refusal};
use crate::config::tokens::{header_match, header_name, header_value, method, redirect_status, status, upgrade};
use crate::config::values::{Bounds, flag, size, text, word};
use crate::config::{HeaderMatch, HostPattern, Name, Scheme, Service, Template, TunnelPolicy};

/// One message is held whole; the most is what the echo service takes, `LARGEST_MESSAGE`.
const MESSAGE: Bounds = Bounds("1B", "64MiB");

/// `[[route]]`.
#[derive(Debug)]
pub(in crate::config) struct RouteTable {
    pub(in crate::config) place: Place,
    pub(in crate::config) name: Option<Spanned<Name>>,
    pub(in crate::config) hosts: Option<Vec<Spanned<HostPattern>>>,
    pub(in crate::config) paths: Option<Vec<Spanned<Box<str>>>>,
    pub(in crate::config) scheme: Option<Spanned<Scheme>>,
    pub(in crate::config) listeners: Option<Vec<Spanned<Name>>>,
    pub(in crate::config) methods: Option<Vec<Spanned<Method>>>,
    pub(in crate::config) headers: Vec<(Spanned<HeaderName>, HeaderMatch)>,
    /// The actions that are there, readable or not.
    pub(in crate::config) actions: Vec<(&'static str, Place)>,
    pub(in crate::config) upstream: Option<Spanned<Name>>,
    pub(in crate::config) respond: Option<RespondTable>,
    pub(in crate::config) redirect: Option<RedirectTable>,
    pub(in crate::config) service: Option<Service>,
    pub(in crate::config) upgrade: Option<Vec<Spanned<Box<str>>>>,
    pub(in crate::config) plain: Option<bool>,
    pub(in crate::config) max_message: Option<Spanned<usize>>,
    pub(in crate::config) on_change: Option<TunnelPolicy>,
    pub(in crate::config) times: ExchangeTimes,
}

/// `respond`, short or long.
#[derive(Debug)]
pub(in crate::config) struct RespondTable {
    pub(in crate::config) status: Option<Spanned<StatusCode>>,
    pub(in crate::config) body: Option<Spanned<String>>,
    pub(in crate::config) content_type: Option<Spanned<HeaderValue>>,
    pub(in crate::config) body_file: Option<Spanned<String>>,
}

/// `redirect`, short or long.
#[derive(Debug)]
pub(in crate::config) struct RedirectTable {
    pub(in crate::config) to: Option<Template>,
    pub(in crate::config) status: Option<StatusCode>,
}

impl RouteTable {
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        let actions = ["upstream", "respond", "redirect", "service"];
        let schemes = [("http", Scheme::Http), ("https", Scheme::Https)];
        let services = [("echo", Service::Echo), ("test-page", Service::TestPage), ("health", Service::Health)];
        Self {
            place: table.place(),
            name: table.value("name", |v| name(text(v, "expected a name")?)),
            hosts: table.one_or_many("host", |v| HostPattern::parse(text(v, "expected a host or a list of them")?)),
            paths: table.one_or_many("path", |v| path(text(v, "expected a path or a list of them")?)),
            scheme: table.value("scheme", |v| word(v, &schemes)),
            listeners: table
                .one_or_many("listener", |v| name(text(v, "expected a listener's name or a list of them")?)),
            methods: table.one_or_many("methods", |v| method(text(v, "expected a method or a list of them")?)),
            headers: table.pairs("headers", header_name, header_match),
            actions: actions.into_iter().filter_map(|a| Some((a, table.place_of(a)?))).collect(),
            upstream: table.value("upstream", |v| name(text(v, "expected an upstream's name")?)),
            respond: table.short_or_long("respond", "status", RespondTable::read),
            redirect: table.short_or_long("redirect", "to", RedirectTable::read),
            service: plain(table.value("service", |v| word(v, &services))),
            upgrade: table.many("upgrade", |v| upgrade(text(v, "expected a protocol such as \"websocket\"")?)),
            plain: plain(table.value("plain", flag)),
            max_message: table.table("websocket", |t| t.value("max_message", |v| size(v, MESSAGE))),
            on_change: plain(table.value("on_change", |v| word(v, &POLICIES))),
            times: table.table("timeouts", ExchangeTimes::read),
        }
    }
}

impl RespondTable {
    fn read(table: &mut Table<'_>) -> Self {
        Self {
            status: table.value("status", status),
            body: table.value("body", |v| text(v, "expected text").map(str::to_owned)),
            content_type: table.value("content_type", |v| header_value(text(v, "expected a media type")?)),
            body_file: table.value("body_file", |v| file_name(v, "expected a file")),
        }
    }
}

impl RedirectTable {
    fn read(table: &mut Table<'_>) -> Self {
        Self {
            to: plain(table.value("to", |v| location(text(v, "expected where to, such as \"https://{host}{uri}\"")?))),
            status: plain(table.value("status", redirect_status)),
        }
    }
}

/// A Location: anything but what a URI may hold would have to be escaped, and could otherwise end the header's line.
fn location(text: &str) -> Result<Template, Refusal> {
    if text.is_empty() {
        return Err(Refusal::new("this is empty", "expected where to, such as \"https://{host}{uri}\""));
    }
    match text.chars().find(|c| !c.is_ascii_graphic()) {
        Some(c) => {
            Err(Refusal::new(format!("{c:?} cannot stand in a Location"), "a URI holds such characters only escaped"))
        }
        None => Template::parse(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_may_be_as_large_as_the_echo_service_takes_and_no_larger() {
        assert_eq!(MESSAGE.1, format!("{}MiB", crate::service::echo::LARGEST_MESSAGE >> 20));
    }
}
