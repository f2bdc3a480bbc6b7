//! What is wrong with a configuration, told all at once: each problem with its file, line and column, the line itself
//! and a caret under the place.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use annotate_snippets::{Annotation, AnnotationKind, Level, Renderer, Snippet};
use toml::Spanned;

use super::sources::{Source, Sources};

/// A configuration that cannot be run with. Its text is the whole report.
#[derive(Debug)]
pub enum ConfigError {
    /// The file could not be read.
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why. It stands in the text already and is therefore not the error's `source`: a printer of chains would
        /// repeat it.
        cause: io::Error,
    },
    /// The file asks for what cannot be done: every problem, in the order of their places.
    Refused(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, cause } => write!(f, "cannot read {}: {cause}", path.display()),
            Self::Refused(report) => f.write_str(report),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Bytes of the file, from and to.
pub(super) type Place = Range<usize>;

/// Why one value is refused; whoever reads the value knows its key and place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What is wrong with it.
    pub(super) what: String,
    /// What was expected, or what to write instead.
    pub(super) expected: String,
}

impl Refusal {
    pub(super) fn new(what: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { what: what.into(), expected: expected.into() }
    }
}

/// Everything that was found wrong so far.
///
/// Shared by all that read and resolve, hence the cell: handing one `&mut` down through nested tables would tie every
/// reader's borrow to every other's.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<(Place, String)>>,
}

#[derive(Debug)]
struct Problem {
    place: Place,
    what: String,
    expected: String,
    other: Option<(Place, &'static str)>,
}

impl Problems {
    /// Notes a problem at `place`.
    pub(super) fn tell(&self, place: Place, what: impl Into<String>, expected: impl Into<String>) {
        self.push(place, what.into(), expected.into(), None);
    }

    /// Notes a problem of two places: `place`, and `other` with what is there.
    pub(super) fn tell_both(
        &self,
        place: Place,
        what: impl Into<String>,
        expected: impl Into<String>,
        other: (Place, &'static str),
    ) {
        self.push(place, what.into(), expected.into(), Some(other));
    }

    /// Notes what is no problem, for the configuration works, and yet has to be known.
    pub(super) fn warn(&self, place: Place, words: String) {
        self.warnings.borrow_mut().push((place, words));
    }

    /// Notes every value of `values` that stands there twice; `expected` says what to do about it.
    pub(super) fn tell_repeats<T: Eq + Hash>(&self, key: &str, values: &[Spanned<T>], expected: &str) {
        // Not each with each: there may be ten thousand names of routes.
        let mut seen: HashMap<&T, &Spanned<T>> = HashMap::new();
        for value in values {
            if let Some(first) = seen.get(value.get_ref()) {
                let other = (first.span(), "first here");
                self.tell_both(value.span(), format!("`{key}`: the same twice"), expected, other);
            }
            seen.entry(value.get_ref()).or_insert(value);
        }
    }

    /// How many there are; two counts tell whether a part was sound.
    pub(super) fn count(&self) -> usize {
        self.found.borrow().len()
    }

    /// The whole report on these files; the warnings when nothing was wrong.
    pub(super) fn report(self, sources: &Sources) -> Result<Vec<String>, String> {
        let mut problems = self.found.into_inner();
        if problems.is_empty() {
            let warning = |(place, words)| {
                let (source, place) = sources.of(&place);
                format!("{}:{}: {words}", source.name, line_and_column(&place, &source.text))
            };
            return Ok(self.warnings.into_inner().into_iter().map(warning).collect());
        }
        problems.sort_by_key(|p| (p.place.start, p.place.end));
        let mut parts: Vec<String> = problems.iter().map(|p| p.render(sources)).collect();
        if parts.len() > 1 {
            parts.push(format!("{}: {} problems", sources.first().name, parts.len()));
        }
        Err(parts.join("\n\n"))
    }

    fn push(&self, place: Place, what: String, expected: String, other: Option<(Place, &'static str)>) {
        self.found.borrow_mut().push(Problem { place, what, expected, other });
    }
}

impl Problem {
    fn render(&self, sources: &Sources) -> String {
        let label = (!self.expected.is_empty()).then_some(self.expected.as_str());
        let (source, place) = sources.of(&self.place);
        let primary = AnnotationKind::Primary.span(first_line(&place, &source.text)).label(label);
        let mut snippet = shown(source).annotation(primary);
        let mut elsewhere = None;
        if let Some((place, label)) = &self.other {
            let (other, place) = sources.of(place);
            let context = AnnotationKind::Context.span(first_line(&place, &other.text)).label(*label);
            match std::ptr::eq(source, other) {
                true => snippet = snippet.annotation(context),
                false => elsewhere = Some(shown(other).annotation(context)),
            }
        }
        let mut told = Level::ERROR.primary_title(self.what.as_str()).element(snippet);
        if let Some(elsewhere) = elsewhere {
            told = told.element(elsewhere);
        }
        Renderer::plain().render(&[told])
    }
}

fn shown<'s>(source: &'s Source) -> Snippet<'s, Annotation<'s>> {
    Snippet::source(source.text.as_str()).path(source.name.as_str())
}

/// `place` without what lies behind its first line: a table of many lines is pointed at, not drawn around.
fn first_line(place: &Place, text: &str) -> Place {
    let start = place.start.min(text.len());
    let end = place.end.clamp(start, text.len());
    let length = text.get(start..end).and_then(|t| t.find(['\r', '\n']));
    start..length.map_or(end, |length| start + length)
}

/// "12:15": where `place` begins, both counted from 1, the column in characters.
fn line_and_column(place: &Place, text: &str) -> String {
    let before = text.get(..place.start).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    format!("{}:{}", before.matches('\n').count() + 1, line.chars().count() + 1)
}

/// The entry of `known` that was probably meant by `text`.
pub(super) fn nearest<'k>(text: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let tolerated = (text.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&text.to_lowercase(), k), k))
        .filter(|(distance, _)| *distance <= tolerated)
        .min()
        .map(|(_, k)| k)
}

/// What was meant, or all that there is: the tail of a message about something unknown.
pub(super) fn meant(text: &str, known: &[&str]) -> String {
    match (nearest(text, known.iter().copied()), known) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, []) => "there is none".to_owned(),
        (None, [only]) => format!("there is only `{only}`"),
        (None, all) => format!("there are `{}`", all.join("`, `")),
    }
}

/// A piece of the file as it is shown in a message: on one line, and not longer than a line.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{:?}...", &text[..cut]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> Sources {
        Sources::new("f.toml", text, std::path::Path::new(""))
    }

    #[test]
    fn what_was_probably_meant() {
        let known = ["name", "bind", "timeouts"];
        assert_eq!(nearest("bnd", known), Some("bind"));
        assert_eq!(nearest("Timeout", known), Some("timeouts"));
        assert_eq!(nearest("tls", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(meant("tls", &known), "there are `name`, `bind`, `timeouts`");
    }

    #[test]
    fn problems_come_in_the_order_of_their_places() {
        let problems = Problems::default();
        problems.tell(6..7, "second", "");
        problems.tell(0..1, "first", "x");
        let report = problems.report(&sources("a = 1\nb = 2\n")).unwrap_err();
        assert!(report.find("first") < report.find("second"), "{report}");
        assert!(report.ends_with("f.toml: 2 problems"), "{report}");
    }

    #[test]
    fn warnings_are_lines_with_their_places_and_not_told_beside_problems() {
        let text = "a = 1\r\nü = 2\n";
        let warned = || {
            let problems = Problems::default();
            problems.warn(0..1, "first".to_owned());
            problems.warn(text.find('2').unwrap()..14, "second".to_owned());
            problems
        };
        assert_eq!(warned().report(&sources(text)).unwrap(), ["f.toml:1:1: first", "f.toml:2:5: second"]);
        let problems = warned();
        problems.tell(0..1, "wrong", "");
        assert!(!problems.report(&sources(text)).unwrap_err().contains("first"));
    }

    #[test]
    fn a_place_of_many_lines_is_cut_to_its_first_and_one_behind_the_end_is_drawn() {
        let problems = Problems::default();
        problems.tell(4..12, "table", "");
        problems.tell(99..120, "end", "");
        let report = problems.report(&sources("a = {\r\n b = 2\r\n}\r\n")).unwrap_err();
        assert!(report.contains("f.toml:1:5"), "{report}");
        assert!(report.contains("end"), "{report}");
    }
}
