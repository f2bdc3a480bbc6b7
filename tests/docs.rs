//! The documents against the program: the reference of the configuration, every example in it, and the list of messages.
//!
//! What a key takes is asked of the program, by giving it a date, which no key takes: `SPLICEWAY_BLESS=1` writes the
//! answers into docs/configuration.md. Defaults and examples are written by hand and tried here.
#![allow(clippy::unwrap_used, reason = "clippy's own exception for tests knows only functions marked #[test]")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use spliceway::config::{Config, keys};
use support::gateway::run_to_end;
use support::tree::Tree;

const REFERENCE: &str = "docs/configuration.md";

/// A key as the reference has it: "### `key`", an empty line, and "`name = example`: takes; default ...".
struct Entry<'t> {
    key: &'t str,
    line: &'t str,
    example: &'t str,
    takes: &'t str,
    default: &'t str,
}

fn entries(text: &str) -> Vec<Entry<'_>> {
    let lines: Vec<_> = text.lines().collect();
    let heading = |line: &'_ str| line.starts_with("### `");
    let entries = lines.windows(3).filter(|lines| heading(lines[0])).map(|lines| {
        let key = lines[0].trim_start_matches("### `").trim_end_matches('`');
        entry(key, lines[2])
            .unwrap_or_else(|| panic!("{key}: not \"`name = example`: takes; default ...\": {}", lines[2]))
    });
    entries.collect()
}

fn entry<'t>(key: &'t str, line: &'t str) -> Option<Entry<'t>> {
    let rest = line.strip_prefix('`')?.strip_prefix(name_of(key))?.strip_prefix(" = ")?;
    let (example, rest) = rest.split_once("`: ")?;
    let (takes, default) = rest.rsplit_once("; default ")?;
    Some(Entry { key, line, example, takes, default: default.strip_suffix('.')? })
}

fn name_of(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, name)| name)
}

/// A sound configuration in which `key` has `value`; where that is `None` it is the same without the key.
fn with(key: &str, value: Option<&str>) -> String {
    let (table, name) = key.rsplit_once('.').unwrap();
    let line = value.map_or_else(String::new, |value| format!("{name} = {value}\n"));
    let own = |at: &str| if table == at { line.as_str() } else { "" };
    let table_of = |begins: &str| match table.strip_prefix(begins) {
        Some("tls.certificates") => format!("[listener.tls]\n{PAIR}[[{table}]]\n{}{line}", siblings(key)),
        Some("tls") if siblings(key).starts_with(PAIR) => {
            // Who asks for certificates of clients knows by whom they are signed.
            let known = value.is_some_and(|value| value.contains("required"));
            let authority = if name == "client_certificates" && known { "client_ca = \"clients.pem\"\n" } else { "" };
            format!("[{table}]\n{}{authority}{line}", siblings(key))
        }
        Some(_) if !line.is_empty() => format!("[{}]\n{}{line}", table.replace("NAME", "app"), siblings(key)),
        _ => String::new(),
    };
    let tls = "tls = { certificate = \"fullchain.pem\", key = \"privkey.pem\" }\n";
    format!(
        "{}[[listener]]\n{}{}{}{}[upstream.app]\n{}{}{}[[route]]\n{}{}{}",
        if table.contains('.') || ["listener", "route"].contains(&table) {
            String::new()
        } else {
            format!("[{table}]\n{line}")
        },
        if key == "listener.bind" { "" } else { "bind = \"127.0.0.1:0\"\n" },
        match key {
            "listener.timeouts.tls_handshake" => tls,
            "route.listener" => "name = \"web\"\n",
            _ => "",
        },
        own("listener"),
        table_of("listener."),
        if key == "upstream.NAME.endpoints" { "" } else { "endpoints = [\"127.0.0.1:9000\"]\n" },
        own("upstream.NAME"),
        table_of("upstream.NAME."),
        action(key),
        own("route"),
        table_of("route."),
    ) + &without(key, value)
}

/// The certificate of a listener.
const PAIR: &str = "certificate = \"fullchain.pem\"\nkey = \"privkey.pem\"\n";

/// What must stand beside a key of a table.
fn siblings(key: &str) -> &'static str {
    match key {
        "listener.tls.client_ca" => {
            "certificate = \"fullchain.pem\"\nkey = \"privkey.pem\"\nclient_certificates = \"optional\"\n"
        }
        "listener.tls.certificate" | "listener.tls.certificates.certificate" => "key = \"privkey.pem\"\n",
        "listener.tls.key" | "listener.tls.certificates.key" => "certificate = \"fullchain.pem\"\n",
        _ if key.starts_with("listener.tls.") => PAIR,
        "upstream.NAME.tls.certificate" => "ca = \"fullchain.pem\"\nkey = \"privkey.pem\"\n",
        "upstream.NAME.tls.key" => "ca = \"fullchain.pem\"\ncertificate = \"fullchain.pem\"\n",
        "route.respond.content_type" => "status = 200\nbody = \"x\"\n",
        "route.respond.body" | "route.respond.body_file" => "status = 200\n",
        "route.redirect.status" => "to = \"/\"\n",
        _ => "",
    }
}

/// The same siblings where the key is not given.
fn without(key: &str, value: Option<&str>) -> String {
    match (value, siblings(key)) {
        (None, siblings) if key.starts_with("upstream.NAME.tls.") => format!("[upstream.app.tls]\n{siblings}"),
        (None, siblings) if !siblings.is_empty() && key.starts_with("route.") => {
            format!("[{}]\n{siblings}", key.rsplit_once('.').unwrap().0)
        }
        _ => String::new(),
    }
}

fn action(key: &str) -> &'static str {
    match key {
        "route.upstream" | "route.service" => "",
        _ if key.starts_with("route.respond") || key.starts_with("route.redirect") => "",
        "route.websocket.max_message" => "service = \"echo\"\n",
        _ => "upstream = \"app\"\n",
    }
}

fn load(text: &str, folder: &Path) -> Result<String, String> {
    Config::parse("gateway.toml", text, folder).map(|c| format!("{c:?}")).map_err(|error| format!("{error}\n\n{text}"))
}

/// A folder with all that the examples name.
fn folder() -> (Tree, PathBuf) {
    let tree = Tree::new();
    let folder = tree.path("certs");
    fs::write(folder.join("closed.html"), "closed").unwrap();
    (tree, folder)
}

/// What the program says that it expected where `key` is `value`.
fn expected(key: &str, value: &str, folder: &Path) -> Option<String> {
    let report = Config::parse("gateway.toml", &with(key, Some(value)), folder).err()?.to_string();
    let path = key.replace("NAME", "app");
    let of_key = report.split("\n\n").find(|problem| problem.starts_with(&format!("error: `{path}")))?;
    let label = of_key.lines().find_map(|line| line.split_once("^ ").map(|(_, label)| label))?;
    Some(label.trim_start_matches("expected ").to_owned())
}

/// What a key takes, in the program's own words.
fn takes(key: &str, all: &BTreeSet<String>, folder: &Path) -> String {
    let one = expected(key, "2000-01-01", folder).unwrap_or_else(|| panic!("{key} takes a date?"));
    let item = expected(key, "[2000-01-01]", folder);
    let has_keys = all.iter().any(|other| other.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')));
    match item {
        Some(item) if one == "a list" => format!("a list, each {}", item.replace(" or a list of them", "")),
        Some(item) if item == one && !one.contains("list") && takes_list(key, folder) => {
            format!("{one}; or a list of them")
        }
        _ if has_keys && !one.contains("table") => format!("{one}, or a table"),
        _ => one,
    }
}

/// An empty list is told to be one where a list is taken.
fn takes_list(key: &str, folder: &Path) -> bool {
    let report = Config::parse("gateway.toml", &with(key, Some("[]")), folder).err();
    report.is_some_and(|report| report.to_string().contains("an empty list"))
}

/// Keys of which each holds a value: not those that are tables and nothing else.
fn values(all: &BTreeSet<String>, folder: &Path) -> Vec<String> {
    let is_table = |key: &&String| {
        let has_keys =
            all.iter().any(|other| other.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with('.')));
        has_keys && (!key.contains('.') || expected(key, "2000-01-01", folder).is_none_or(|takes| takes == "a table"))
    };
    all.iter().filter(|key| !is_table(key)).cloned().collect()
}

#[test]
fn the_reference_has_every_key_once_and_no_other() {
    let (_tree, folder) = folder();
    let text = fs::read_to_string(REFERENCE).unwrap();
    let mut told: Vec<_> = entries(&text).iter().map(|entry| entry.key.to_owned()).collect();
    told.sort();
    let mut read = values(&keys(), &folder);
    read.sort();
    assert!(read.len() > 60, "{read:?}");
    assert_eq!(told, read);
    for table in keys().iter().filter(|key| !read.contains(key)) {
        let heading = [format!("## `[{table}]`\n"), format!("## `[[{table}]]`\n")];
        // A table without a heading of its own has its keys beside others.
        let is_told = heading.iter().any(|heading| text.contains(heading.as_str()));
        assert!(is_told || told.iter().any(|key| key.starts_with(&format!("{table}."))), "{table}");
    }
}

#[test]
fn what_a_key_takes_is_what_the_program_expects() {
    let (_tree, folder) = folder();
    let text = fs::read_to_string(REFERENCE).unwrap();
    let (all, bless) = (keys(), std::env::var_os("SPLICEWAY_BLESS").is_some());
    let mut blessed = text.clone();
    for Entry { key, line, example, takes: told, default } in entries(&text) {
        let takes = takes(key, &all, &folder);
        assert!(bless || told == takes, "{key} takes {takes}: run with SPLICEWAY_BLESS=1, and read what has changed");
        let heading = format!("### `{key}`\n\n");
        let whole = format!("`{} = {example}`: {takes}; default {default}.", name_of(key));
        blessed = blessed.replacen(&format!("{heading}{line}\n"), &format!("{heading}{whole}\n"), 1);
    }
    // Only then: other tests read the file meanwhile.
    if bless {
        fs::write(REFERENCE, blessed).unwrap();
    }
}

#[test]
fn every_default_is_the_programs_own() {
    let (_tree, folder) = folder();
    let text = fs::read_to_string(REFERENCE).unwrap();
    let mut tried = 0;
    for Entry { key, default, .. } in entries(&text) {
        if default == "none: it must be there" || default == "none: the long form needs it" {
            let mut without = with(key, None);
            if ["listener.tls.certificate", "listener.tls.key"].contains(&key) {
                without =
                    without.replacen("[upstream.app]", &format!("[listener.tls]\n{}[upstream.app]", siblings(key)), 1);
            } else if key.starts_with("route.") {
                without += &format!("[{}]\n", key.rsplit_once('.').unwrap().0);
            }
            let report = load(&without, &folder).unwrap_err();
            assert!(report.contains(&format!("`{}` is missing", key.replace("NAME", "app"))), "{key}: {report}");
        } else if let Some(value) = default.strip_prefix('`').and_then(|default| default.strip_suffix('`')) {
            let given = load(&with(key, Some(value)), &folder).unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(given, load(&with(key, None), &folder).unwrap(), "{key}: {value} is not the default");
            tried += 1;
        }
    }
    assert!(tried > 35, "only {tried} defaults");
}

#[test]
fn every_example_is_taken_and_does_something() {
    let (_tree, folder) = folder();
    let text = fs::read_to_string(REFERENCE).unwrap();
    for Entry { key, example, .. } in entries(&text) {
        let given = load(&with(key, Some(example)), &folder).unwrap_or_else(|error| panic!("{key}: {error}"));
        let base = load(&with(key, None), &folder);
        // There is one way of balancing so far.
        assert!(key == "upstream.NAME.balance" || base.as_ref() != Ok(&given), "{key} = {example} changes nothing");
    }
}

/// A fenced block of a document.
struct Block {
    place: String,
    info: String,
    text: String,
}

fn documents() -> Vec<PathBuf> {
    let files = fs::read_dir("docs").unwrap().map(|entry| entry.unwrap().path());
    let mut documents: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    documents.extend(["README.md", "deploy/README.md"].map(PathBuf::from));
    documents.sort();
    documents
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        let mut open: Option<(usize, Block)> = None;
        for (number, line) in text.lines().enumerate() {
            let fence = line.trim_start().strip_prefix("```");
            open = match (open, fence) {
                (None, Some(info)) => {
                    let place = format!("{}:{}", document.display(), number + 1);
                    Some((
                        line.len() - line.trim_start().len(),
                        Block { place, info: info.to_owned(), text: String::new() },
                    ))
                }
                (Some((_, block)), Some(_)) => {
                    blocks.push(block);
                    None
                }
                (Some((indent, mut block)), None) => {
                    block.text += line.get(indent..).unwrap_or_default();
                    block.text.push('\n');
                    Some((indent, block))
                }
                (None, None) => None,
            };
        }
        assert!(open.is_none(), "{}: a block without an end", document.display());
    }
    blocks
}

#[test]
fn every_configuration_in_the_documents_is_one() {
    let (_tree, folder) = folder();
    let blocks = blocks();
    let mut checked = 0;
    for (index, block) in blocks.iter().enumerate() {
        let file = folder.join("gateway.toml");
        match block.info.as_str() {
            "toml" => fs::write(&file, &block.text).unwrap(),
            "toml part" => fs::write(&file, format!("{}\n[[listener]]\nbind = \"127.0.0.1:0\"\n", block.text)).unwrap(),
            "toml refused" => {
                fs::write(&file, &block.text).unwrap();
                let output = run_to_end(&["check", file.to_str().unwrap()]);
                let told = String::from_utf8(output.stderr).unwrap().replace(file.to_str().unwrap(), "gateway.toml");
                assert_eq!(output.status.code(), Some(78), "{}", block.place);
                assert_eq!(told.trim_end(), blocks[index + 1].text.trim_end(), "{}", blocks[index + 1].place);
                continue;
            }
            info if info.contains("toml") => panic!("{}: \"{info}\" is not known", block.place),
            _ => continue,
        }
        let output = run_to_end(&["check", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{}: {}", block.place, String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty(), "{}: {}", block.place, String::from_utf8_lossy(&output.stderr));
        checked += 1;
    }
    assert!(checked >= 8, "only {checked} examples");
}

/// A link to a file of the repository, and its heading, must lead somewhere.
#[test]
fn every_link_leads_somewhere() {
    let mut followed = 0;
    for document in documents().into_iter().chain([PathBuf::from("ARCHITECTURE.md"), PathBuf::from("CONTRIBUTING.md")])
    {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
            let target = if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", document.display());
            if let Some(heading) = heading {
                let text = fs::read_to_string(&target).unwrap();
                assert!(
                    text.lines().any(|line| anchor(line).as_deref() == Some(heading)),
                    "{}: {link}",
                    document.display()
                );
            }
            followed += 1;
        }
    }
    assert!(followed > 10, "only {followed} links");
}

/// The anchor that a heading gets: letters, digits and hyphens of its lower case.
fn anchor(line: &str) -> Option<String> {
    let heading = line.strip_prefix('#')?.trim_start_matches('#').trim();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    Some(kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect())
}

const TROUBLESHOOTING: &str = "docs/troubleshooting.md";

/// The messages of the document: what stands in backticks in the first cell of each row of its tables.
fn told_messages() -> Vec<String> {
    let text = fs::read_to_string(TROUBLESHOOTING).unwrap();
    let cell = |line: &str| Some(line.strip_prefix("| `")?.split_once("` |")?.0.to_owned());
    text.lines().filter_map(cell).collect()
}

/// A file of the source, without its tests, twice: as it is, and with blanks in place of comments and of what stands in
/// literals, so that braces and parentheses can be counted. Literals by where they begin.
struct Source {
    name: String,
    text: String,
    blank: String,
    literals: Vec<(usize, String)>,
}

fn sources() -> Vec<Source> {
    let mut folders = vec![PathBuf::from("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(Source::read(&path));
            }
        }
    }
    assert!(sources.len() > 50, "{}", sources.len());
    sources
}

impl Source {
    fn read(path: &Path) -> Self {
        let whole = fs::read_to_string(path).unwrap();
        let text = whole.split("#[cfg(test)]\n").next().unwrap().to_owned();
        let (mut blank, mut literals) = (String::new(), Vec::new());
        let mut rest = text.as_str();
        while let Some(first) = rest.chars().next() {
            let length = match first {
                '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
                '\'' => character(rest),
                'r' if rest.starts_with("r#\"") => rest.find("\"#").unwrap() + 2,
                '"' => string(rest),
                _ => 0,
            };
            if first == '"' {
                literals.push((text.len() - rest.len(), as_told(&rest[1..length - 1])));
            }
            match length {
                0 => blank.push(first),
                _ => blank.push_str(&" ".repeat(length)),
            }
            rest = &rest[if length == 0 { first.len_utf8() } else { length }..];
        }
        Self { name: path.display().to_string(), text, blank, literals }
    }

    /// What is told behind each place where the code says `begins`, up to the bracket that closes the one it ends with.
    fn told_in(&self, begins: &str) -> Vec<&str> {
        let mut told = Vec::new();
        for (start, _) in self.blank.match_indices(begins) {
            let mut depth = 1;
            let ends = |(_, c): &(usize, char)| {
                depth += match c {
                    '(' | '{' => 1,
                    ')' | '}' => -1,
                    _ => 0,
                };
                depth == 0
            };
            let behind = start + begins.len();
            let end = behind + self.blank[behind..].char_indices().find(ends).unwrap().0;
            told.extend(
                self.literals.iter().filter(|(at, _)| (behind..end).contains(at)).map(|(_, text)| text.as_str()),
            );
        }
        told
    }
}

/// The length of a character in quotes; 0 for a lifetime.
fn character(text: &str) -> usize {
    let inside = if text[1..].starts_with('\\') { 2 } else { 1 };
    let end = text.char_indices().skip(1 + inside).take(if inside == 2 { 8 } else { 1 }).find(|(_, c)| *c == '\'');
    end.map_or(0, |(at, _)| at + 1)
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    let ends = |(_, c): &(usize, char)| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    };
    1 + text[1..].char_indices().find(ends).unwrap().0 + 1
}

/// A literal as the document has it: one line, "…" in place of what differs.
fn as_told(literal: &str) -> String {
    if literal.ends_with("\\r\\n\\r\\n") {
        return String::new(); // a head without a body
    }
    let joined: Vec<_> =
        literal.split("\\\n").enumerate().map(|(i, p)| if i == 0 { p } else { p.trim_start() }).collect();
    let mut told = String::new();
    let mut rest = joined.concat();
    rest = rest.replace("\\\"", "\"").replace("\\r", "");
    // Of what a client is sent raw, the words are behind the last line of the head.
    rest = rest.trim_end_matches("\\n").rsplit("\\n").next().unwrap().to_owned();
    while let Some((before, behind)) = rest.split_once('{') {
        told += before;
        told += "…";
        rest = behind.split_once('}').map_or(String::new(), |(_, behind)| behind.to_owned());
    }
    told + &rest
}

/// Types that are shown and are no messages, or whose words nobody gets to see: of `HostError` and `PathError` the record
/// has the outer word only.
const UNTOLD: [&str; 7] = ["Name", "RequestId", "ClientAddr", "ListenAddr", "EndedBy", "HostError", "PathError"];

/// Every message of the program.
fn messages() -> BTreeSet<String> {
    let mut messages = BTreeSet::new();
    for source in sources() {
        let shown = source.text.split("impl fmt::Display for ").skip(1).map(|rest| rest.split(' ').next().unwrap());
        let mut places: Vec<String> = shown
            .filter(|shown| !UNTOLD.contains(shown))
            .map(|shown| format!("impl fmt::Display for {shown} {{"))
            .collect();
        places.extend(["error", "warn", "info", "debug"].map(|level| format!("tracing::{level}!(")));
        places.extend([".because(", ".unless_told(", "cut_or(", "println!(", "complain("].map(str::to_owned));
        places.push("fn note_cut(&self, end: &End) {".to_owned());
        places.push("fn last_words(&self) -> &'static [u8] {".to_owned());
        if source.name.ends_with("echo.rs") {
            places.push("let (code, reason) = match &error {".to_owned());
        }
        if source.name.contains("resolve/") {
            places.push("problems.warn(".to_owned());
        }
        for place in places {
            let told = source.told_in(&place).into_iter();
            let words = |text: &&str| text.bytes().any(|b| b.is_ascii_alphabetic());
            messages.extend(told.filter(words).map(|text| text.trim().trim_end_matches(':').to_owned()));
        }
    }
    messages
}

/// Whether the words of `message` stand in `told`, in their order.
fn says(told: &str, message: &str) -> bool {
    let mut rest = told;
    message.split('…').all(|words| match rest.split_once(words) {
        Some((_, behind)) => {
            rest = behind;
            true
        }
        None => false,
    })
}

#[test]
fn every_message_of_the_program_is_in_the_document() {
    let (messages, told) = (messages(), told_messages());
    assert!(messages.len() > 90, "{messages:#?}");
    let missing: Vec<_> = messages.iter().filter(|message| !told.iter().any(|told| says(told, message))).collect();
    assert!(missing.is_empty(), "{TROUBLESHOOTING} lacks {missing:#?}");
}

/// What a configuration is refused for, by the examples of the tests: without the key, "…" for what differs.
fn refusals() -> BTreeSet<String> {
    let files = fs::read_dir("tests/config/invalid").unwrap().map(|entry| entry.unwrap().path());
    let reports = files.filter(|path| path.extension().is_some_and(|extension| extension == "expected"));
    let text: String = reports.map(|path| fs::read_to_string(path).unwrap()).collect();
    text.lines().filter_map(|line| line.strip_prefix("error: ")).map(refusal_as_told).collect()
}

fn refusal_as_told(line: &str) -> String {
    let line = match line.strip_prefix('`').and_then(|rest| rest.split_once("`: ")) {
        Some((_, behind)) => behind,
        None => line,
    };
    let mut quoted = line.replace("...", "");
    for quote in ['"', '`', '\''] {
        let parts: Vec<_> = quoted.split(quote).collect();
        // An apostrophe is no quotation.
        if parts.len() % 2 == 1 {
            let told = parts.iter().enumerate().map(|(i, part)| if i % 2 == 1 { "…" } else { part });
            quoted = told.collect();
        }
    }
    let differs = |word: &str| word.contains("tests/config") || word.trim_matches(['-', ')']).parse::<u64>().is_ok();
    let words: Vec<_> = quoted.split(' ').map(|word| if differs(word) { "…" } else { word }).collect();
    let told = words.join(" ");
    // What the system or a library says is not ours to list.
    let own = [
        "cannot be read: ",
        "is not PEM: ",
        "cannot be used: ",
        "…: error parsing level filter: ",
        "is not a pattern: ",
    ];
    let cut = own.iter().find_map(|own| told.find(own).map(|at| format!("{}…", &told[..at + own.len()])));
    cut.unwrap_or(told)
}

#[test]
fn every_refusal_of_a_configuration_is_in_the_document() {
    let (refusals, told) = (refusals(), told_messages());
    assert!(refusals.len() > 50, "{refusals:#?}");
    let missing: Vec<_> = refusals.iter().filter(|refusal| !told.contains(refusal)).collect();
    assert!(missing.is_empty(), "{TROUBLESHOOTING} lacks {missing:#?}");
}

#[test]
fn the_document_has_no_message_that_the_program_does_not_say() {
    let (messages, refusals) = (messages(), refusals());
    // A short one would be found in anything.
    let is_most = |message: &str, told: &str| message.chars().count() * 4 >= told.chars().count();
    let known = |told: &String| {
        refusals.contains(told) || messages.iter().any(|message| is_most(message, told) && says(told, message))
    };
    let stale: Vec<_> = told_messages().into_iter().filter(|told| !known(told)).collect();
    assert!(stale.is_empty(), "{TROUBLESHOOTING} has {stale:#?}");
}

/// The first cells of the rows of a table under a heading.
fn rows(document: &str, heading: &str) -> Vec<String> {
    let text = fs::read_to_string(document).unwrap();
    let section = text.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("{document}: no {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let cell = |line: &str| Some(line.strip_prefix("| `")?.split_once("` |")?.0.to_owned());
    section.lines().filter_map(cell).collect()
}

#[test]
fn every_end_of_a_tunnel_is_in_the_document_and_no_other() {
    let source = fs::read_to_string("src/tunnel/mod.rs").unwrap();
    let body = source.split("pub enum EndedBy {\n").nth(1).unwrap().split("\n}\n").next().unwrap();
    let variants: Vec<_> = body.lines().filter_map(|line| line.trim().strip_suffix(',')).map(str::to_owned).collect();
    assert!(variants.len() > 8, "{variants:?}");
    assert_eq!(rows("docs/records.md", "Ended by"), variants);
}

#[test]
fn every_field_of_a_record_is_in_the_document_and_no_other() {
    let source = Source::read(Path::new("src/record.rs"));
    let put: BTreeSet<_> = source.literals.iter().filter(|(at, _)| source.text[..*at].ends_with("put(")).collect();
    let fields: Vec<_> = put.iter().map(|(_, field)| field.clone()).collect();
    assert!(fields.len() > 15, "{fields:?}");
    assert_eq!(rows("docs/records.md", "Fields"), fields);
}
