//! Which route a request takes.
//!
//! Of all routes whose conditions hold, the one with the most specific host wins, then the one with the longest path,
//! then one that names a listener, a scheme, methods, headers, in this order. The order of the file decides nothing: two
//! routes between which nothing would decide are a [`Conflict`], found when the table is made.
//!
//! The work per request depends on the depth of host and path that is configured, not on the number of routes, nor on
//! how long a host or path a client makes up.

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::fmt;
use std::iter;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};

use super::headers::only;
use super::host;
use super::target::Target;
use crate::config::{HeaderMatch, HostPattern, Match, Name, Route, Scheme};

/// All routes, indexed by host and path.
#[derive(Debug)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    exact: HashMap<Box<str>, Paths>,
    below: HashMap<Box<str>, Paths>,
    any: Paths,
    /// Length of the longest key of `below`: a longer suffix is not worth a look.
    longest_suffix: usize,
}

/// Two routes that could both win the same request; indices into the routes of the table, the lower one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// One of them.
    pub first: usize,
    /// The other.
    pub second: usize,
}

/// Why no route is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteError {
    /// The conditions of none hold.
    NotFound,
    /// Another reading of the path would take another route, or one where this takes none.
    AmbiguousPath,
}

impl RouteTable {
    /// Indexes the routes, or tells every pair between which nothing would decide.
    pub fn new(routes: Vec<Arc<Route>>) -> Result<Self, Vec<Conflict>> {
        let mut table = Self {
            routes: Vec::new(),
            exact: HashMap::new(),
            below: HashMap::new(),
            any: Paths::default(),
            longest_suffix: 0,
        };
        for (index, route) in routes.iter().enumerate() {
            table.insert(index, &route.matches);
        }
        let hosts = table.exact.values().chain(table.below.values()).chain([&table.any]);
        let conflicts: BTreeSet<Conflict> = hosts.flat_map(|paths| paths.conflicts(&routes)).collect();
        if conflicts.is_empty() { Ok(Self { routes, ..table }) } else { Err(conflicts.into_iter().collect()) }
    }

    /// The route that a request takes.
    pub fn find(
        &self,
        target: &Target,
        listener: &Name,
        scheme: Scheme,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<&Arc<Route>, RouteError> {
        let asked = Asked { listener, scheme, method, headers };
        let host = &*target.host.name;
        let strict = self.best(host, target.path.strict().as_bytes(), &asked);
        if target.path.loose().any(|loose| self.best(host, loose, &asked) != strict) {
            return Err(RouteError::AmbiguousPath);
        }
        strict.map(|index| &self.routes[index]).ok_or(RouteError::NotFound)
    }

    fn insert(&mut self, index: usize, matches: &Match) {
        if matches.hosts.is_empty() {
            self.any.insert(index, matches);
        }
        for pattern in &matches.hosts {
            let paths = match pattern {
                // The spelling of IPv6 literals is the one thing that two lower-case spellings of a host differ in.
                HostPattern::Exact(name) => {
                    self.exact.entry(host::normalised(name).unwrap_or_else(|_| name.clone())).or_default()
                }
                HostPattern::Below(suffix) => {
                    self.longest_suffix = self.longest_suffix.max(suffix.len());
                    self.below.entry(suffix.clone()).or_default()
                }
            };
            paths.insert(index, matches);
        }
    }

    fn best(&self, host: &str, path: &[u8], asked: &Asked<'_>) -> Option<usize> {
        let below = self.suffixes(host).filter_map(|suffix| self.below.get(suffix));
        let mut hosts = self.exact.get(host).into_iter().chain(below).chain([&self.any]);
        hosts.find_map(|paths| paths.best(path, asked, &self.routes))
    }

    /// What `*.` could stand before in `host`, from the longest.
    fn suffixes<'a>(&self, host: &'a str) -> impl Iterator<Item = &'a str> {
        let suffixes = host.match_indices('.').map(|(dot, _)| &host[dot + 1..]);
        suffixes.filter(|suffix| suffix.len() <= self.longest_suffix)
    }
}

/// What routes look at besides host and path.
#[derive(Debug)]
struct Asked<'a> {
    listener: &'a Name,
    scheme: Scheme,
    method: &'a Method,
    headers: &'a HeaderMap,
}

impl Asked<'_> {
    fn meets(&self, matches: &Match) -> bool {
        (matches.listeners.is_empty() || matches.listeners.contains(self.listener))
            && matches.scheme.is_none_or(|scheme| scheme == self.scheme)
            && (matches.methods.is_empty() || matches.methods.contains(self.method))
            && matches.headers.iter().all(|(name, wanted)| self.meets_header(name, wanted))
    }

    fn meets_header(&self, name: &HeaderName, wanted: &HeaderMatch) -> bool {
        match wanted {
            HeaderMatch::Present => self.headers.contains_key(name),
            HeaderMatch::Equals(value) => only(self.headers, name) == Some(value),
        }
    }
}

/// What decides between routes of the same host pattern and path: naming a listener, a scheme, methods, headers.
type Specificity = [bool; 4];

fn specificity(matches: &Match) -> Specificity {
    [!matches.listeners.is_empty(), matches.scheme.is_some(), !matches.methods.is_empty(), !matches.headers.is_empty()]
}

/// The routes of one host pattern, by path.
#[derive(Debug, Default)]
struct Paths {
    /// Those of one path are in order, the most specific first.
    routes: HashMap<Box<[u8]>, Vec<Entry>>,
    /// Length of the longest key: without it, a long path of short segments would cost its length squared.
    longest: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    specificity: Specificity,
    route: usize,
}

impl Paths {
    fn insert(&mut self, route: usize, matches: &Match) {
        let entry = Entry { specificity: specificity(matches), route };
        for path in &matches.paths {
            self.longest = self.longest.max(path.len());
            let entries = self.routes.entry(path.as_bytes().into()).or_default();
            // A route may name a host or a path twice, and two of its hosts may be one.
            if !entries.contains(&entry) {
                let at = entries.partition_point(|other| other.specificity >= entry.specificity);
                entries.insert(at, entry);
            }
        }
    }

    fn best(&self, path: &[u8], asked: &Asked<'_>, routes: &[Arc<Route>]) -> Option<usize> {
        let known = self.prefixes(path).filter_map(|prefix| self.routes.get(prefix));
        known.flatten().map(|entry| entry.route).find(|&route| asked.meets(&routes[route].matches))
    }

    /// What `path` is at or below by whole segments, from the longest to "/". Nothing for "*".
    fn prefixes<'a>(&self, path: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let is_path = path.first() == Some(&b'/');
        // No route's path but "/" ends in a slash, so that "/a/" begins with itself does no harm.
        let whole = (is_path && path.len() > 1).then_some(path);
        let prefixes = iter::successors(whole, |path| parent(path)).chain(is_path.then_some(&b"/"[..]));
        prefixes.filter(|prefix| prefix.len() <= self.longest)
    }

    fn conflicts(&self, routes: &[Arc<Route>]) -> Vec<Conflict> {
        let mut found = Vec::new();
        for entries in self.routes.values() {
            for group in entries.chunk_by(|a, b| a.specificity == b.specificity) {
                for (at, one) in group.iter().enumerate() {
                    let rivals = group[at + 1..]
                        .iter()
                        .filter(|other| can_both_hold(&routes[one.route].matches, &routes[other.route].matches));
                    found.extend(rivals.map(|other| Conflict { first: one.route, second: other.route }));
                }
            }
        }
        found
    }
}

/// The path without its last segment; `None` above the first.
fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|&b| b == b'/').filter(|&slash| slash > 0).map(|slash| &path[..slash])
}

/// Whether some request meets both; asked of routes with the same host pattern and path.
fn can_both_hold(one: &Match, other: &Match) -> bool {
    (one.scheme.is_none() || other.scheme.is_none() || one.scheme == other.scheme)
        && share(&one.listeners, &other.listeners)
        && share(&one.methods, &other.methods)
        && can_headers_hold(one.headers.iter().chain(&other.headers))
}

/// An empty list is everything.
fn share<T: PartialEq>(one: &[T], other: &[T]) -> bool {
    one.is_empty() || other.is_empty() || one.iter().any(|item| other.contains(item))
}

/// Header conditions exclude one another only where two values are wanted of one header, which is there once then.
fn can_headers_hold<'a>(conditions: impl Iterator<Item = &'a (HeaderName, HeaderMatch)>) -> bool {
    let mut wanted = HashMap::new();
    for (name, condition) in conditions {
        if let HeaderMatch::Equals(value) = condition
            && *wanted.entry(name).or_insert(value) != value
        {
            return false;
        }
    }
    true
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no route",
            Self::AmbiguousPath => "the path can be read in two ways that take different routes",
        })
    }
}

impl Error for RouteError {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::{HeaderValue, StatusCode, header};
    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};

    use super::*;
    use crate::config::{Action, ExchangeTimeouts, Respond, TunnelPolicy};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn route(number: usize, matches: Match) -> Arc<Route> {
        let second = Duration::from_secs(1);
        let timeouts = ExchangeTimeouts {
            connect: second,
            upgrade: second,
            response_head: second,
            stall: second,
            idle: second,
            half_close: second,
        };
        let respond = Respond {
            status: StatusCode::OK,
            body: Bytes::new(),
            content_type: HeaderValue::from_static("text/plain"),
        };
        Arc::new(Route {
            name: name(&format!("r{number}")),
            matches,
            action: Action::Respond(respond),
            upgrade: Vec::new(),
            plain: true,
            timeouts,
            max_message: 0,
            on_change: TunnelPolicy::Keep,
        })
    }

    fn pattern(text: &str) -> HostPattern {
        match text.strip_prefix("*.") {
            Some(suffix) => HostPattern::Below(suffix.into()),
            None => HostPattern::Exact(text.into()),
        }
    }

    /// Conditions on host ("" is any) and path; more are set field by field.
    fn at(host: &str, path: &str) -> Match {
        let hosts = if host.is_empty() { Vec::new() } else { vec![pattern(host)] };
        Match { hosts, paths: vec![path.into()], ..Match::default() }
    }

    fn table(matches: Vec<Match>) -> Result<RouteTable, Vec<Conflict>> {
        RouteTable::new(matches.into_iter().enumerate().map(|(number, matches)| route(number, matches)).collect())
    }

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn target(host: &str, path: &str) -> Target {
        let headers = map(&[(header::HOST.as_str(), host)]);
        Target::parse(&Method::GET, &path.parse().unwrap(), &headers).unwrap()
    }

    /// The number of the route that a request takes.
    fn find_for(
        table: &RouteTable,
        target: &Target,
        listener: &str,
        scheme: Scheme,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<usize, RouteError> {
        let route = table.find(target, &name(listener), scheme, method, headers)?;
        Ok(route.name.as_str()[1..].parse().unwrap())
    }

    fn find(table: &RouteTable, host: &str, path: &str) -> Result<usize, RouteError> {
        find_for(table, &target(host, path), "web", Scheme::Http, &Method::GET, &HeaderMap::new())
    }

    #[test]
    fn exact_host_beats_longer_suffix_beats_shorter_beats_none() {
        let table = table(vec![
            at("", "/"),
            at("*.example.com", "/"),
            at("*.b.example.com", "/"),
            at("a.b.example.com", "/"),
            at("example.com", "/"),
            at("[2001:db8:0::1]", "/"),
        ])
        .unwrap();
        for (host, route) in [
            ("A.b.Example.com.:8443", 3),
            ("x.b.example.com", 2),
            ("x.y.b.example.com", 2),
            ("b.example.com", 1),
            ("x.example.com", 1),
            ("example.com", 4),
            ("xexample.com", 0),
            ("com", 0),
            ("192.0.2.1", 0),
            ("[2001:DB8::1]:80", 5),
            ("[2001:db8:0:0:0:0:0:1]", 5),
            ("[::1]", 0),
        ] {
            assert_eq!(find(&table, host, "/"), Ok(route), "{host}");
        }
    }

    #[test]
    fn a_more_specific_host_beats_a_longer_path() {
        let table = table(vec![at("", "/a/b"), at("*.x", "/a"), at("y.x", "/")]).unwrap();
        assert_eq!(find(&table, "y.x", "/a/b"), Ok(2));
        assert_eq!(find(&table, "z.x", "/a/b"), Ok(1));
        assert_eq!(find(&table, "z", "/a/b"), Ok(0));
    }

    #[test]
    fn a_host_without_the_path_leaves_the_request_to_a_wider_one() {
        let table = table(vec![at("y.x", "/a"), at("*.x", "/b"), at("", "/c")]).unwrap();
        for (path, expected) in [("/a", Ok(0)), ("/b", Ok(1)), ("/c", Ok(2)), ("/", Err(RouteError::NotFound))] {
            assert_eq!(find(&table, "y.x", path), expected);
        }
    }

    #[test]
    fn the_longest_path_by_whole_segments_wins() {
        let table = table(vec![at("", "/a"), at("", "/a/b"), at("", "/ab"), at("", "/a/b/c/d"), at("h", "/")]).unwrap();
        for (path, expected) in [
            ("/a", Ok(0)),
            ("/a/", Ok(0)),
            ("/a/x", Ok(0)),
            ("/a/bb", Ok(0)),
            ("/a/b", Ok(1)),
            ("/a/b/", Ok(1)),
            ("/a/b?c/d", Ok(1)),
            ("/a/b/c", Ok(1)),
            ("/a/b/c/dd", Ok(1)),
            ("/a/b/c/d/e", Ok(3)),
            ("/ab", Ok(2)),
            ("/abc", Err(RouteError::NotFound)),
            ("/A", Err(RouteError::NotFound)),
            ("/", Err(RouteError::NotFound)),
            ("/x/a", Err(RouteError::NotFound)),
            ("/x/../a", Ok(0)),
            ("/%61", Ok(0)),
        ] {
            assert_eq!(find(&table, "z", path), expected, "{path}");
        }
        assert_eq!(find(&table, "h", "/a/b/c/d"), Ok(4));
    }

    #[test]
    fn the_asterisk_takes_no_route() {
        let table = table(vec![at("", "/")]).unwrap();
        let asterisk = Target::parse(&Method::OPTIONS, &"*".parse().unwrap(), &map(&[("host", "a")])).unwrap();
        let found = find_for(&table, &asterisk, "web", Scheme::Http, &Method::OPTIONS, &HeaderMap::new());
        assert_eq!(found, Err(RouteError::NotFound));
    }

    #[test]
    fn listener_then_scheme_then_methods_then_headers_decide() {
        let listener = Match { listeners: vec![name("web")], ..at("", "/") };
        let scheme = Match { scheme: Some(Scheme::Http), ..at("", "/") };
        let methods = Match { methods: vec![Method::GET], ..at("", "/") };
        let headers = Match { headers: vec![(header::ACCEPT, HeaderMatch::Present)], ..at("", "/") };
        let table = table(vec![at("", "/"), headers, methods, scheme, listener, at("", "/longer")]).unwrap();
        let (get, post, none, accept) = (Method::GET, Method::POST, HeaderMap::new(), map(&[("accept", "*/*")]));
        for (path, listener, scheme, method, headers, route) in [
            ("/", "web", Scheme::Http, &get, &accept, 4),
            ("/", "other", Scheme::Http, &get, &accept, 3),
            ("/", "other", Scheme::Https, &get, &accept, 2),
            ("/", "other", Scheme::Https, &post, &accept, 1),
            ("/", "other", Scheme::Https, &post, &none, 0),
            ("/longer", "web", Scheme::Http, &get, &accept, 5),
        ] {
            let found = find_for(&table, &target("h", path), listener, scheme, method, headers);
            assert_eq!(found, Ok(route), "{path} {listener} {scheme:?} {method} {headers:?}");
        }
    }

    #[test]
    fn equals_is_exactly_one_line_and_present_at_least_one() {
        let with = |condition| Match { headers: vec![(HeaderName::from_static("x"), condition)], ..at("", "/") };
        let equals = table(vec![with(HeaderMatch::Equals(HeaderValue::from_static("1")))]).unwrap();
        let present = table(vec![with(HeaderMatch::Present)]).unwrap();
        for (lines, is_equal, is_present) in [
            (&[][..], false, false),
            (&[("x", "1")], true, true),
            (&[("x", "2")], false, true),
            (&[("x", "")], false, true),
            (&[("x", "1"), ("x", "1")], false, true),
            (&[("x", "1"), ("x", "2")], false, true),
            (&[("y", "1")], false, false),
        ] {
            let holds =
                |table| find_for(table, &target("h", "/"), "web", Scheme::Http, &Method::GET, &map(lines)).is_ok();
            assert_eq!((holds(&equals), holds(&present)), (is_equal, is_present), "{lines:?}");
        }
    }

    #[test]
    fn all_header_conditions_must_hold() {
        let one = HeaderMatch::Equals(HeaderValue::from_static("1"));
        let headers = vec![(HeaderName::from_static("x"), one), (HeaderName::from_static("y"), HeaderMatch::Present)];
        let table = table(vec![Match { headers, ..at("", "/") }]).unwrap();
        for (lines, holds) in [(&[("x", "1")][..], false), (&[("y", "")], false), (&[("x", "1"), ("y", "")], true)] {
            let found = find_for(&table, &target("h", "/"), "web", Scheme::Http, &Method::GET, &map(lines));
            assert_eq!(found.is_ok(), holds, "{lines:?}");
        }
    }

    #[test]
    fn a_path_that_another_reading_would_route_elsewhere_is_ambiguous() {
        let table = table(vec![at("", "/"), at("", "/secret"), at("", "/x")]).unwrap();
        for path in [
            "/x%2f..%2fsecret",
            "/x/..%2fsecret",
            "/x/..;/secret",
            "/x/..%3b/secret",
            "/x\\..\\secret",
            "/x%5c..%5csecret",
            "/x//../secret",
            "/x/..%2f..%2fsecret/..;/..;/x",
            "//secret",
            "/secret;x",
            "/secret%2f",
            "/%2fsecret",
            "/;/secret",
            "/%5Csecret//../",
        ] {
            assert_eq!(find(&table, "h", path), Err(RouteError::AmbiguousPath), "{path}");
        }
    }

    #[test]
    fn a_route_in_one_reading_and_none_in_another_is_ambiguous() {
        let table = table(vec![at("", "/x")]).unwrap();
        assert_eq!(find(&table, "h", "/x/..%2fsecret"), Err(RouteError::AmbiguousPath), "strictly there");
        assert_eq!(find(&table, "h", "/secret/..%2fx"), Err(RouteError::AmbiguousPath), "loosely there");
        assert_eq!(find(&table, "h", "/a/..%2fb"), Err(RouteError::NotFound), "nowhere");
        assert_eq!(find(&table, "h", "/x/a%2fb"), Ok(0), "the same everywhere");
    }

    #[test]
    fn a_strange_path_that_stays_on_its_route_is_served() {
        let table = table(vec![at("", "/"), at("", "/api"), at("", "/secret")]).unwrap();
        for (path, route) in [
            ("/api/projects/group%2Fname/x", 1),
            ("/api/@scope%2fpackage", 1),
            ("/api/a;v=1/b", 1),
            ("/api//b", 1),
            ("/api/a%20b%C3%A9", 1),
            ("/api/..%252fsecret", 1),
            ("/api/%2e%2e/secret", 2),
            ("/.well-known/acme-challenge/x", 0),
            ("/a%2fb", 0),
        ] {
            assert_eq!(find(&table, "h", path), Ok(route), "{path}");
        }
    }

    #[test]
    fn what_nothing_would_decide_is_a_conflict() {
        let header = |value: Option<&'static str>| {
            let wanted = value.map_or(HeaderMatch::Present, |v| HeaderMatch::Equals(HeaderValue::from_static(v)));
            Match { headers: vec![(HeaderName::from_static("x"), wanted)], ..at("h", "/") }
        };
        let methods = |methods: &[Method]| Match { methods: methods.to_vec(), ..at("h", "/") };
        let listeners = |names: &[&str]| Match { listeners: names.iter().map(|n| name(n)).collect(), ..at("h", "/") };
        let scheme = |scheme| Match { scheme: Some(scheme), ..at("h", "/") };
        let hosts = |hosts: &[&str]| Match { hosts: hosts.iter().map(|h| pattern(h)).collect(), ..at("", "/") };
        let other_header =
            Match { headers: vec![(HeaderName::from_static("y"), HeaderMatch::Present)], ..at("h", "/") };
        for (one, other, conflict) in [
            (at("h", "/"), at("h", "/"), true),
            (at("", "/"), at("", "/"), true),
            (at("*.h", "/a"), at("*.h", "/a"), true),
            (at("h", "/"), at("g", "/"), false),
            (at("h", "/"), at("*.h", "/"), false),
            (at("*.h", "/"), at("*.g.h", "/"), false),
            (at("h", "/"), at("", "/"), false),
            (at("h", "/"), at("h", "/a"), false),
            (at("h", "/a"), at("h", "/A"), false),
            (hosts(&["a", "b"]), hosts(&["b", "c"]), true),
            (hosts(&["a", "b"]), hosts(&["c", "*.b"]), false),
            (hosts(&["[::1]"]), hosts(&["[0::1]"]), true),
            (methods(&[Method::GET]), methods(&[Method::GET, Method::POST]), true),
            (methods(&[Method::GET]), methods(&[Method::POST]), false),
            (methods(&[Method::GET]), at("h", "/"), false),
            (scheme(Scheme::Http), scheme(Scheme::Http), true),
            (scheme(Scheme::Http), scheme(Scheme::Https), false),
            (scheme(Scheme::Http), methods(&[Method::GET]), false),
            (listeners(&["a", "b"]), listeners(&["b"]), true),
            (listeners(&["a"]), listeners(&["b"]), false),
            (header(Some("1")), header(Some("1")), true),
            (header(Some("1")), header(Some("2")), false),
            (header(Some("1")), header(None), true),
            (header(Some("1")), other_header.clone(), true),
            (header(None), other_header, true),
        ] {
            let expected = if conflict { Some(vec![Conflict { first: 0, second: 1 }]) } else { None };
            assert_eq!(table(vec![one.clone(), other.clone()]).err(), expected, "{one:?} {other:?}");
        }
    }

    #[test]
    fn every_conflict_is_told_once_and_none_is_with_itself() {
        let twice =
            Match { hosts: vec![pattern("a"), pattern("a")], paths: vec!["/".into(), "/".into()], ..at("", "/") };
        assert!(table(vec![twice.clone()]).is_ok());
        let both = Match { hosts: vec![pattern("a"), pattern("b")], ..at("", "/") };
        let told = table(vec![both.clone(), at("c", "/"), both, twice]).unwrap_err();
        assert_eq!(told, [(0, 2), (0, 3), (2, 3)].map(|(first, second)| Conflict { first, second }));
    }

    #[test]
    fn among_ten_thousand_routes_a_hostile_target_is_looked_up_as_deep_as_they_are() {
        let hosts = (0..1000).map(|n| format!("*.h{n}.example.com"));
        let matches = hosts.flat_map(|host| (0..10).map(move |n| at(&host, &format!("/app/{n}")))).collect();
        let table = table(matches).unwrap();
        assert_eq!(find(&table, "x.h999.example.com", "/app/9/x"), Ok(9999));
        let (host, path) = ("a.".repeat(10_000) + "h7.example.com", "/a".repeat(30_000));
        assert_eq!(find(&table, &host, &path), Err(RouteError::NotFound));
        assert_eq!(table.suffixes(&host).count(), 4, "a.h7.example.com, h7.example.com, example.com, com");
        assert_eq!(table.below["h7.example.com"].prefixes(path.as_bytes()).count(), 4, "/a/a/a, /a/a, /a, /");
    }

    // A world so small that all of its requests can be tried.
    const HOSTS: [&str; 6] = ["a", "b.a", "q.a", "c.b.a", "q.b.a", "z"];
    const PATHS: [&str; 5] = ["/", "/x", "/x/y", "/x/y/", "/xy"];
    const LINES: [&[(&str, &str)]; 5] =
        [&[], &[("x", "1")], &[("x", "2"), ("y", "")], &[("x", "1"), ("x", "2")], &[("x", "1"), ("y", "")]];

    fn any_match() -> impl Strategy<Value = Match> {
        let listeners = subsequence(vec![name("web"), name("tls")], 0..=2);
        let scheme = select(vec![None, None, Some(Scheme::Http), Some(Scheme::Https)]);
        let methods = subsequence(vec![Method::GET, Method::POST], 0..=2);
        let value = |v| HeaderMatch::Equals(HeaderValue::from_static(v));
        let (x, y) = (HeaderName::from_static("x"), HeaderName::from_static("y"));
        let conditions = vec![
            (x.clone(), value("1")),
            (x.clone(), value("2")),
            (x, HeaderMatch::Present),
            (y, HeaderMatch::Present),
        ];
        let headers = subsequence(conditions, 0..=2);
        let hosts = subsequence(vec!["a", "b.a", "c.b.a", "*.a", "*.b.a"], 0..=2);
        let paths = subsequence(vec!["/", "/x", "/x/y"], 1..=2);
        (hosts, paths, listeners, scheme, methods, headers).prop_map(
            |(hosts, paths, listeners, scheme, methods, headers)| Match {
                hosts: hosts.into_iter().map(pattern).collect(),
                paths: paths.into_iter().map(Into::into).collect(),
                scheme,
                listeners,
                methods,
                headers,
            },
        )
    }

    type Rank = (u8, usize, usize, Specificity);

    /// The ranks of the routes that hold, as the rule is written and without an index.
    fn ranks(all: &[Match], host: &str, path: &str, asked: &Asked<'_>) -> Vec<(Rank, usize)> {
        let host_rank = |matches: &Match| {
            let named = matches.hosts.iter().filter_map(|pattern| match pattern {
                HostPattern::Exact(name) => (**name == *host).then_some((2, 0)),
                HostPattern::Below(suffix) => host.ends_with(&format!(".{suffix}")).then_some((1, suffix.len())),
            });
            if matches.hosts.is_empty() { Some((0, 0)) } else { named.max() }
        };
        let path_rank = |matches: &Match| {
            let below = |p: &&str| *p == "/" || path == *p || path.starts_with(&format!("{p}/"));
            matches.paths.iter().map(AsRef::as_ref).filter(below).map(|p| p.len()).max()
        };
        let rank = |(index, matches): (usize, &Match)| {
            let (kind, length) = host_rank(matches)?;
            Some(((kind, length, path_rank(matches)?, specificity(matches)), index)).filter(|_| asked.meets(matches))
        };
        all.iter().enumerate().filter_map(rank).collect()
    }

    fn for_each_request(mut test: impl FnMut(&str, &str, &Asked<'_>)) {
        for lines in LINES {
            let headers = &map(lines);
            for method in [&Method::GET, &Method::POST] {
                for scheme in [Scheme::Http, Scheme::Https] {
                    for listener in [&name("web"), &name("tls")] {
                        let asked = Asked { listener, scheme, method, headers };
                        for (host, path) in HOSTS.iter().flat_map(|host| PATHS.map(|path| (host, path))) {
                            test(host, path, &asked);
                        }
                    }
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn find_agrees_with_the_rule_as_it_is_written(matches in prop::collection::vec(any_match(), 1..8)) {
            // Of routes that conflict, the later goes.
            let mut all: Vec<Match> = Vec::new();
            for new in matches {
                all.push(new);
                if table(all.clone()).is_err() {
                    all.pop();
                }
            }
            let table = table(all.clone()).unwrap();
            let targets: HashMap<_, _> =
                HOSTS.iter().flat_map(|&h| PATHS.map(|p| ((h, p), target(h, p)))).collect();
            for_each_request(|host, path, asked| {
                let mut ranks = ranks(&all, host, path, asked);
                ranks.sort();
                if let [.., (second, _), (first, _)] = &ranks[..] {
                    assert_ne!(first, second, "a tie that was no conflict: {host} {path} {asked:?}");
                }
                let expected = ranks.last().map(|&(_, index)| index).ok_or(RouteError::NotFound);
                let Asked { listener, scheme, method, headers } = *asked;
                let found = find_for(&table, &targets[&(host, path)], listener.as_str(), scheme, method, headers);
                assert_eq!(found, expected, "{host} {path} {asked:?}");
            });
        }

        #[test]
        fn two_routes_conflict_exactly_when_some_request_ties_them(one in any_match(), other in any_match()) {
            let all = [one, other];
            let mut tied = false;
            for_each_request(|host, path, asked| {
                let ranks = ranks(&all, host, path, asked);
                tied |= ranks.len() == 2 && ranks[0].0 == ranks[1].0;
            });
            prop_assert_eq!(table(all.to_vec()).is_err(), tied);
        }

        #[test]
        fn no_target_makes_find_panic(path in "/[a-z/.;%\\\\25]{0,12}") {
            let table = table(vec![at("", "/"), at("a", "/a"), at("", "/a/b")]).unwrap();
            let headers = map(&[("host", "a")]);
            if let Ok(target) = Target::parse(&Method::GET, &path.parse().unwrap(), &headers) {
                let _ = find_for(&table, &target, "web", Scheme::Http, &Method::GET, &headers);
            }
        }
    }
}
