//! The configuration as a person wrote it: every key of the file, its value read, nothing filled in. What a single
//! value can say wrong is refused here; what concerns several is for `resolve`. Names, order and meaning of keys are a
//! contract: they are added, never renamed.

mod route;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tokio_rustls::rustls::pki_types::ServerName;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::address::{bind, bind_or_off, endpoint, unix_or_off};
use crate::config::hosts::host_header;
use crate::config::names::name;
use crate::config::networks::network;
use crate::config::reader::{Reading, Table};
use crate::config::report::{Place, Refusal, quoted};
use crate::config::tokens::{gateway_name, level};
use crate::config::values::{Bounds, count, count_or, duration, flag, size, text, whole_seconds, word};
use crate::config::{Bind, EndpointAddress, HostHeader, LogFormat, Name, Records, TunnelPolicy};
use crate::downstream::tls;
use crate::upstream::tls as upstream_tls;

pub(in crate::config) use self::route::{RedirectTable, RespondTable, RouteTable};

/// Most deadlines: from the least that a timer can tell to a year, which is as good as none.
const TIMEOUT: Bounds = Bounds("1ms", "365d");
/// Looking names up more often than this is an attack on the resolver, and less often is never.
const RESOLVE: Bounds = Bounds("100ms", "1d");
/// TCP_KEEPIDLE: Linux takes up to 32767 seconds.
const KEEPALIVE: Bounds = Bounds("1s", "9h");
/// TCP_USER_TIMEOUT: an int of milliseconds, a little over 24 days.
const USER_TIMEOUT: Bounds = Bounds("1ms", "24d");
/// A smaller head does not hold an upgrade request with a cookie; a greater one is held by every connection.
const HEAD_SIZE: Bounds = Bounds("1KiB", "1MiB");
/// Sockets and tunnels: beyond what a process can have.
const MOST_OPEN: u64 = 100_000_000;
/// `HeaderMap` holds 32768 at most, and slows down long before.
const MOST_HEADERS: u64 = 10_000;
/// Connections that one worker keeps to one endpoint: a port each, and an address has no more.
const MOST_IDLE: u64 = 65_535;

const TLS_NEEDS: &str = "TLS needs a certificate and its key";

/// A whole file.
#[derive(Debug)]
pub(in crate::config) struct File {
    pub(in crate::config) gateway: GatewayTable,
    pub(in crate::config) connect: Option<Duration>,
    pub(in crate::config) client: ClientTimes,
    pub(in crate::config) exchange: ExchangeTimes,
    pub(in crate::config) limits: LimitsTable,
    pub(in crate::config) tcp: TcpTable,
    pub(in crate::config) forwarded: ForwardedTable,
    pub(in crate::config) log: LogTable,
    pub(in crate::config) drain_deadline: Option<Duration>,
    /// The inner `None` is "off".
    pub(in crate::config) metrics_bind: Option<Spanned<Option<SocketAddr>>>,
    /// The inner `None` is "off".
    pub(in crate::config) admin_bind: Option<Option<PathBuf>>,
    pub(in crate::config) listeners: Vec<ListenerTable>,
    pub(in crate::config) upstreams: Vec<UpstreamTable>,
    /// Each with whether nothing was wrong with it.
    pub(in crate::config) routes: Vec<(RouteTable, bool)>,
}

/// `[gateway]`.
#[derive(Debug)]
pub(in crate::config) struct GatewayTable {
    /// The inner `None` is "auto".
    pub(in crate::config) workers: Option<Option<NonZeroUsize>>,
    pub(in crate::config) name: Option<String>,
    pub(in crate::config) trusted_proxies: Option<Vec<Spanned<IpNet>>>,
}

/// The client side of `[timeouts]` and `[listener.timeouts]`.
#[derive(Debug)]
pub(in crate::config) struct ClientTimes {
    pub(in crate::config) tls_handshake: Option<Spanned<Duration>>,
    pub(in crate::config) request_head: Option<Duration>,
    pub(in crate::config) keep_alive: Option<Duration>,
}

/// The exchange's part of `[timeouts]` and `[route.timeouts]`.
#[derive(Debug)]
pub(in crate::config) struct ExchangeTimes {
    pub(in crate::config) upgrade: Option<Duration>,
    pub(in crate::config) response_head: Option<Duration>,
    pub(in crate::config) stall: Option<Duration>,
    pub(in crate::config) idle: Option<Duration>,
    pub(in crate::config) half_close: Option<Duration>,
}

/// The part of `[limits]` and `[listener.limits]` that each request's head is held to.
#[derive(Debug)]
pub(in crate::config) struct HeadLimits {
    pub(in crate::config) head_size: Option<usize>,
    pub(in crate::config) headers: Option<usize>,
}

/// `[limits]`. Inner `None`s are "auto" and "off".
#[derive(Debug)]
pub(in crate::config) struct LimitsTable {
    pub(in crate::config) connections: Option<Spanned<Option<NonZeroUsize>>>,
    pub(in crate::config) connections_per_client: Option<Spanned<Option<NonZeroUsize>>>,
    pub(in crate::config) tunnels: Option<Option<NonZeroUsize>>,
    pub(in crate::config) head: HeadLimits,
}

/// `[tcp]`.
#[derive(Debug)]
pub(in crate::config) struct TcpTable {
    pub(in crate::config) backlog: Option<u64>,
    pub(in crate::config) keepalive: Option<Duration>,
    pub(in crate::config) user_timeout: Option<Duration>,
}

/// `[forwarded]`.
#[derive(Debug)]
pub(in crate::config) struct ForwardedTable {
    pub(in crate::config) x_forwarded: Option<bool>,
    pub(in crate::config) forwarded: Option<bool>,
    pub(in crate::config) x_real_ip: Option<bool>,
    pub(in crate::config) via: Option<bool>,
}

/// `[log]`.
#[derive(Debug)]
pub(in crate::config) struct LogTable {
    pub(in crate::config) level: Option<String>,
    pub(in crate::config) format: Option<LogFormat>,
    pub(in crate::config) records: Option<Records>,
    pub(in crate::config) file: Option<String>,
}

/// `[[listener]]`.
#[derive(Debug)]
pub(in crate::config) struct ListenerTable {
    pub(in crate::config) name: Option<Spanned<Name>>,
    pub(in crate::config) bind: Vec<Spanned<Bind>>,
    /// The first bind as it is written, for the name.
    pub(in crate::config) first_bind: Option<String>,
    pub(in crate::config) trusted_proxies: Option<Vec<Spanned<IpNet>>>,
    pub(in crate::config) tls: Option<TlsTable>,
    pub(in crate::config) times: ClientTimes,
    pub(in crate::config) limits: ListenerLimits,
}

/// `[listener.tls]`.
#[derive(Debug)]
pub(in crate::config) struct TlsTable {
    pub(in crate::config) place: Place,
    pub(in crate::config) own: PairTable,
    pub(in crate::config) certificates: Vec<PairTable>,
    pub(in crate::config) strict_host: Option<bool>,
    /// Whether `minimum_version` lets it be spoken.
    pub(in crate::config) tls12: Option<bool>,
    pub(in crate::config) cipher_suites: Option<Vec<Spanned<&'static str>>>,
    pub(in crate::config) groups: Option<Vec<Spanned<&'static str>>>,
    pub(in crate::config) tickets: Option<bool>,
    pub(in crate::config) client_certificates: Option<Spanned<ClientMode>>,
    pub(in crate::config) client_ca: Option<Spanned<String>>,
}

/// A certificate and its key.
#[derive(Debug)]
pub(in crate::config) struct PairTable {
    pub(in crate::config) certificate: Option<Spanned<String>>,
    pub(in crate::config) key: Option<Spanned<String>>,
}

/// `listener.tls.client_certificates`.
#[derive(Debug, Clone, Copy)]
pub(in crate::config) enum ClientMode {
    None,
    Optional,
    Required,
}

/// `[listener.limits]`. Inner `None`s are "off".
#[derive(Debug)]
pub(in crate::config) struct ListenerLimits {
    pub(in crate::config) connections: Option<Spanned<Option<NonZeroUsize>>>,
    pub(in crate::config) connections_per_client: Option<Spanned<Option<NonZeroUsize>>>,
    pub(in crate::config) head: HeadLimits,
}

/// `[upstream.NAME]`.
#[derive(Debug)]
pub(in crate::config) struct UpstreamTable {
    pub(in crate::config) name: Name,
    /// Those that could be read.
    pub(in crate::config) endpoints: Vec<Spanned<EndpointAddress>>,
    pub(in crate::config) host_header: Option<HostHeader>,
    pub(in crate::config) resolve: Option<Duration>,
    pub(in crate::config) retry_attempts: Option<u64>,
    /// The inner `None` is "off".
    pub(in crate::config) pool: Option<Option<PoolTable>>,
    pub(in crate::config) on_removed: Option<TunnelPolicy>,
    pub(in crate::config) tls: Option<BackendTlsTable>,
}

/// `[upstream.NAME.tls]`.
#[derive(Debug)]
pub(in crate::config) struct BackendTlsTable {
    /// Where it stands.
    pub(in crate::config) place: Place,
    /// The inner `None` is "system".
    pub(in crate::config) ca: Option<Spanned<Option<String>>>,
    pub(in crate::config) server_name: Option<ServerName<'static>>,
    pub(in crate::config) verify: Option<Spanned<Verify>>,
    pub(in crate::config) certificate: Option<Spanned<String>>,
    pub(in crate::config) key: Option<Spanned<String>>,
}

/// `upstream.NAME.tls.verify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Verify {
    /// From whom the certificate is, its time, and its name.
    Full,
    /// Nothing of these.
    NoneInsecure,
}

/// The words for what becomes of a tunnel.
const POLICIES: [(&str, TunnelPolicy); 3] =
    [("keep", TunnelPolicy::Keep), ("drain", TunnelPolicy::Drain), ("close", TunnelPolicy::Close)];

/// `upstream.NAME.pool`.
#[derive(Debug)]
pub(in crate::config) struct PoolTable {
    pub(in crate::config) idle: Option<NonZeroUsize>,
    pub(in crate::config) idle_timeout: Option<Duration>,
}

/// The files and patterns of `gateway.include`. What is wrong with them is told when the file is read as a whole.
pub(in crate::config) fn includes(table: &Spanned<DeTable<'_>>) -> Vec<Spanned<String>> {
    let reading = Reading::default();
    Table::root(&reading, table).table("gateway", read_includes).unwrap_or_default()
}

fn read_includes(table: &mut Table<'_>) -> Option<Vec<Spanned<String>>> {
    const EXPECTED: &str = "expected a file, or a pattern such as \"routes.d/*.toml\"";
    table.many("include", |v| {
        let name = file_name(v, EXPECTED)?;
        match glob::Pattern::new(&name) {
            Ok(_) => Ok(name),
            Err(error) => Err(Refusal::new(format!("{} is not a pattern: {}", quoted(&name), error.msg), EXPECTED)),
        }
    })
}

/// Every key that a file may have, by its path: "listener.timeouts.keep_alive", "upstream.NAME.endpoints".
pub fn keys() -> BTreeSet<String> {
    // Tables are read whether they are there or not, so one of each kind that repeats is enough to be asked for all.
    let text = "[[listener]]\n[[listener.tls.certificates]]\n[upstream.name]\n[[route]]\n";
    let table = DeTable::parse(text).expect("these headers are TOML");
    let reading = Reading::default();
    File::read(&mut Table::root(&reading, &table));
    reading.keys().into_iter().map(|key| key.replace("upstream.name.", "upstream.NAME.")).collect()
}

impl File {
    /// Reads the table of a whole file.
    pub(in crate::config) fn read(table: &mut Table<'_>) -> Self {
        table.require("listener", "write [[listener]] with bind = \"*:80\" or another address");
        let gateway = table.table("gateway", GatewayTable::read);
        let (connect, client, exchange) = table.table("timeouts", |t| {
            let client = ClientTimes::read(t);
            (time(t, "connect", TIMEOUT), client, ExchangeTimes::read(t))
        });
        let file = Self {
            gateway,
            connect,
            client,
            exchange,
            limits: table.table("limits", LimitsTable::read),
            tcp: table.table("tcp", TcpTable::read),
            forwarded: table.table("forwarded", ForwardedTable::read),
            log: table.table("log", LogTable::read),
            drain_deadline: table.table("drain", |t| time(t, "deadline", TIMEOUT)),
            admin_bind: table.table("admin", |t| plain(t.value("bind", unix_or_off))),
            metrics_bind: table.table("metrics", |t| t.value("bind", bind_or_off)),
            listeners: table
                .tables("listener", ListenerTable::read)
                .into_iter()
                .map(|(listener, _)| listener)
                .collect(),
            upstreams: table.named_tables("upstream", name, UpstreamTable::read),
            routes: table.tables("route", RouteTable::read),
        };
        table.tell_unknown();
        file
    }
}

impl GatewayTable {
    fn read(table: &mut Table<'_>) -> Self {
        let read = Self {
            workers: plain(table.value("workers", |v| count_or(v, "auto", 1024))),
            name: plain(table.value("name", |v| gateway_name(text(v, "expected a name")?).map(str::to_owned))),
            trusted_proxies: table.many("trusted_proxies", network),
        };
        // They have been read, before all else, by the same words.
        read_includes(table);
        read
    }
}

impl ClientTimes {
    fn read(table: &mut Table<'_>) -> Self {
        Self {
            tls_handshake: table.value("tls_handshake", |v| duration(v, TIMEOUT)),
            request_head: time(table, "request_head", TIMEOUT),
            keep_alive: time(table, "keep_alive", TIMEOUT),
        }
    }
}

impl ExchangeTimes {
    fn read(table: &mut Table<'_>) -> Self {
        Self {
            upgrade: time(table, "upgrade", TIMEOUT),
            response_head: time(table, "response_head", TIMEOUT),
            stall: time(table, "stall", TIMEOUT),
            idle: time(table, "idle", TIMEOUT),
            half_close: time(table, "half_close", TIMEOUT),
        }
    }
}

impl HeadLimits {
    fn read(table: &mut Table<'_>) -> Self {
        let headers = table.value("headers", |v| count(v, 1..=MOST_HEADERS));
        Self {
            head_size: plain(table.value("head_size", |v| size(v, HEAD_SIZE))),
            headers: plain(headers).and_then(|n| usize::try_from(n).ok()),
        }
    }
}

impl LimitsTable {
    fn read(table: &mut Table<'_>) -> Self {
        Self {
            connections: table.value("connections", |v| count_or(v, "auto", MOST_OPEN)),
            connections_per_client: table.value("connections_per_client", |v| count_or(v, "off", MOST_OPEN)),
            head: HeadLimits::read(table),
            tunnels: plain(table.value("tunnels", |v| count_or(v, "off", MOST_OPEN))),
        }
    }
}

impl TcpTable {
    fn read(table: &mut Table<'_>) -> Self {
        Self {
            backlog: plain(table.value("backlog", |v| count(v, 1..=65_535))),
            keepalive: plain(table.value("keepalive", |v| whole_seconds(v, KEEPALIVE))),
            user_timeout: time(table, "user_timeout", USER_TIMEOUT),
        }
    }
}

impl ForwardedTable {
    fn read(table: &mut Table<'_>) -> Self {
        Self {
            x_forwarded: plain(table.value("x_forwarded", flag)),
            forwarded: plain(table.value("forwarded", flag)),
            x_real_ip: plain(table.value("x_real_ip", flag)),
            via: plain(table.value("via", flag)),
        }
    }
}

impl LogTable {
    fn read(table: &mut Table<'_>) -> Self {
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        let records = [
            ("all", Records::All),
            ("tunnels", Records::Tunnels),
            ("failures", Records::Failures),
            ("off", Records::Off),
        ];
        Self {
            level: plain(table.value("level", |v| level(text(v, "expected a level such as \"info\"")?))),
            format: plain(table.value("format", |v| word(v, &formats))),
            records: plain(table.value("records", |v| word(v, &records))),
            file: plain(table.value("file", |v| file_name(v, "expected \"stdout\", \"stderr\" or a file"))),
        }
    }
}

impl ListenerTable {
    fn read(table: &mut Table<'_>) -> Self {
        table.require("bind", "where it listens, such as bind = \"*:80\"");
        let name = table.value("name", |v| name(text(v, "expected a name")?));
        let bind = table.one_or_many("bind", bind).unwrap_or_default();
        Self {
            name,
            bind,
            first_bind: table.first_text("bind"),
            trusted_proxies: table.many("trusted_proxies", network),
            tls: table.table_if_there("tls", TlsTable::read),
            times: table.table("timeouts", ClientTimes::read),
            limits: table.table("limits", ListenerLimits::read),
        }
    }
}

impl TlsTable {
    fn read(table: &mut Table<'_>) -> Self {
        let has_own = ["certificate", "key"].iter().any(|key| table.place_of(key).is_some());
        let others = table.place_of("certificates").is_some();
        let own = if has_own || !others { PairTable::read(table) } else { PairTable::ask(table) };
        let certificates = table.tables_or_none("certificates", PairTable::read);
        let suites: Vec<_> = tls::cipher_suites().iter().map(|(name, _)| (*name, *name)).collect();
        let groups: Vec<_> = tls::groups().iter().map(|(name, _)| (*name, *name)).collect();
        let modes =
            [("none", ClientMode::None), ("optional", ClientMode::Optional), ("required", ClientMode::Required)];
        let certificates: Vec<_> = certificates.into_iter().map(|(pair, _)| pair).collect();
        if !has_own && others && certificates.is_empty() {
            table.require("certificate", TLS_NEEDS);
        }
        Self {
            place: table.place(),
            own,
            certificates,
            strict_host: plain(table.value("strict_host", flag)),
            tls12: plain(table.value("minimum_version", |v| word(v, &[("1.2", true), ("1.3", false)]))),
            cipher_suites: table.many("cipher_suites", |v| word(v, &suites)),
            groups: table.many("groups", |v| word(v, &groups)),
            tickets: plain(table.value("tickets", flag)),
            client_certificates: table.value("client_certificates", |v| word(v, &modes)),
            client_ca: table.value("client_ca", |v| file_name(v, "expected a file")),
        }
    }
}

impl PairTable {
    /// Both, which must be there.
    fn read(table: &mut Table<'_>) -> Self {
        table.require("certificate", TLS_NEEDS);
        table.require("key", TLS_NEEDS);
        Self::ask(table)
    }

    fn ask(table: &mut Table<'_>) -> Self {
        Self {
            certificate: table.value("certificate", |v| file_name(v, "expected a file")),
            key: table.value("key", |v| file_name(v, "expected a file")),
        }
    }
}

impl ListenerLimits {
    fn read(table: &mut Table<'_>) -> Self {
        Self {
            connections: table.value("connections", |v| count_or(v, "off", MOST_OPEN)),
            connections_per_client: table.value("connections_per_client", |v| count_or(v, "off", MOST_OPEN)),
            head: HeadLimits::read(table),
        }
    }
}

impl UpstreamTable {
    fn read(name: Option<Name>, table: &mut Table<'_>) -> Option<Self> {
        table.require("endpoints", "where it is, such as endpoints = [\"10.0.0.5:9000\"]");
        let endpoints = table.some("endpoints", endpoint).unwrap_or_default();
        let host_header =
            table.value("host_header", |v| host_header(text(v, "expected \"client\", \"endpoint\" or a host")?));
        // There is one way of balancing so far, and so nothing to remember.
        table.value("balance", |v| word(v, &[("least-tunnels", ())]));
        let resolve = time(table, "resolve", RESOLVE);
        let retry_attempts = table.table("retry", |t| plain(t.value("attempts", |v| count(v, 0..=16))));
        let expected = "expected \"off\" or a table such as { idle = 32, idle_timeout = \"30s\" }";
        let pool = table.table_or_off("pool", expected, PoolTable::read);
        let on_removed = plain(table.value("on_removed", |v| word(v, &POLICIES)));
        let host_header = plain(host_header);
        let expected = "expected true, false or a table such as { ca = \"ca.pem\" }";
        let tls = table.table_or_flag("tls", expected, BackendTlsTable::read);
        Some(Self { name: name?, endpoints, host_header, resolve, retry_attempts, pool, on_removed, tls })
    }
}

impl BackendTlsTable {
    fn read(table: &mut Table<'_>) -> Self {
        for (one, other) in [("certificate", "key"), ("key", "certificate")] {
            if table.place_of(one).is_some() {
                table.require(other, "what a backend is shown is a certificate and its key");
            }
        }
        let verify = [("full", Verify::Full), ("none-insecure", Verify::NoneInsecure)];
        Self {
            place: table.place(),
            ca: table.value("ca", |v| match file_name(v, "expected \"system\" or a file")? {
                system if system == "system" => Ok(None),
                file => Ok(Some(file)),
            }),
            server_name: plain(table.value("server_name", server_name)),
            verify: table.value("verify", |v| word(v, &verify)),
            certificate: table.value("certificate", |v| file_name(v, "expected a file")),
            key: table.value("key", |v| file_name(v, "expected a file")),
        }
    }
}

fn server_name(value: &DeValue<'_>) -> Result<ServerName<'static>, Refusal> {
    let expected = "expected a name or an IP address, as the certificate has it";
    let text = text(value, expected)?;
    upstream_tls::server_name(text)
        .ok_or_else(|| Refusal::new(format!("{} is not a name of a server", quoted(text)), expected))
}

impl PoolTable {
    fn read(table: &mut Table<'_>) -> Self {
        let idle = plain(table.value("idle", |v| count(v, 1..=MOST_IDLE)));
        Self {
            idle: idle.and_then(|n| NonZeroUsize::new(usize::try_from(n).ok()?)),
            idle_timeout: time(table, "idle_timeout", TIMEOUT),
        }
    }
}

fn plain<T>(value: Option<Spanned<T>>) -> Option<T> {
    value.map(Spanned::into_inner)
}

fn time(table: &mut Table<'_>, key: &'static str, bounds: Bounds) -> Option<Duration> {
    plain(table.value(key, |v| duration(v, bounds)))
}

fn file_name(value: &DeValue<'_>, expected: &str) -> Result<String, Refusal> {
    match text(value, expected)? {
        name if name.is_empty() || name.contains('\0') => Err(Refusal::new("this is not a file's name", expected)),
        name => Ok(name.to_owned()),
    }
}
