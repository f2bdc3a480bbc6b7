//! The files that a configuration includes: each is TOML by itself, and holds routes and upstreams only, which are put to those
//! of the configuration.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::tell_syntax;
use crate::config::file::includes;
use crate::config::reader::kind;
use crate::config::report::{Problems, meant};
use crate::config::sources::{Source, Sources};

/// What an included file may hold.
const PARTS: [&str; 2] = ["route", "upstream"];

/// As a shell has it: `*` stands for no `/`, and for no name that begins with a dot, such as an editor leaves.
const AS_A_SHELL: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// Fetches the files that the configuration includes, in the order of its list and of their names.
pub(super) fn fetch(table: &Spanned<DeTable<'_>>, sources: &mut Sources, problems: &Problems) {
    let mut known = BTreeSet::new();
    for pattern in includes(table) {
        for file in matching(&pattern, sources, problems) {
            // Two patterns may match the same, and two names may be one file's.
            if known.insert(fs::canonicalize(&file).unwrap_or_else(|_| file.clone())) {
                match fs::read_to_string(&file) {
                    Ok(text) => sources.add(&file, text),
                    Err(error) => refuse(&file, &error, &pattern, problems),
                }
            }
        }
    }
}

/// The files that a pattern stands for, in the order of their names.
fn matching(pattern: &Spanned<String>, sources: &Sources, problems: &Problems) -> Vec<PathBuf> {
    // The folder of the file may be called what looks like a pattern. An absolute one starts at no folder.
    let folder = Pattern::escape(&sources.folder_of(&pattern.span()).to_string_lossy());
    let whole = Path::new(&folder).join(pattern.get_ref());
    let mut files = Vec::new();
    // That it is a pattern has been seen when it was read.
    for file in glob::glob_with(&whole.to_string_lossy(), AS_A_SHELL).into_iter().flatten() {
        match file {
            Ok(file) => files.push(file),
            Err(error) => refuse(error.path(), error.error(), pattern, problems),
        }
    }
    if files.is_empty() {
        let is_name = !pattern.get_ref().contains(['*', '?', '[']);
        let what = format!("`gateway.include`: no file is {:?}", pattern.get_ref());
        match is_name {
            true => problems.tell(pattern.span(), what, "expected a file, or a pattern such as \"routes.d/*.toml\""),
            false => problems.warn(pattern.span(), format!("gateway.include: no file is {:?}", pattern.get_ref())),
        }
    }
    files
}

fn refuse(file: &Path, error: &std::io::Error, pattern: &Spanned<String>, problems: &Problems) {
    let what = format!("`gateway.include`: {} cannot be read: {error}", file.display());
    problems.tell(pattern.span(), what, "");
}

/// Puts the parts of an included file to those of the configuration, at places of their own. `false` where it is no TOML, so
/// that nothing can be said of what it should have had.
///
/// Not by reading all texts as one: the end of a file would run on into the next, and what TOML has twice only within a file
/// could not be told from what stands in two.
pub(super) fn take<'t>(source: &'t Source, into: &mut DeTable<'t>, problems: &Problems) -> bool {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    if !errors.is_empty() {
        tell_syntax(&source.text, source.start, &errors, problems);
        return false;
    }
    for (key, value) in moved_table(table.into_inner(), source.start) {
        match (&**key.get_ref(), into.get_mut(&**key.get_ref())) {
            ("route" | "upstream", None) => drop(into.insert(key, value)),
            ("route", Some(there)) => take_routes(value, there.get_mut(), problems),
            ("upstream", Some(there)) => take_upstreams(value, there.get_mut(), problems),
            (other, _) => {
                problems.tell(key.span(), format!("`{other}` in an included file"), meant(other, &PARTS));
            }
        }
    }
    true
}

/// Where one of the two is no list, that is a mistake of its own, which is told here of the one that is put to the other.
fn take_routes<'t>(routes: Spanned<DeValue<'t>>, into: &mut DeValue<'t>, problems: &Problems) {
    let place = routes.span();
    match (routes.into_inner(), into) {
        (DeValue::Array(routes), DeValue::Array(into)) => routes.into_iter().for_each(|route| into.push(route)),
        (DeValue::Array(_), _) => {}
        (other, _) => problems.tell(place, format!("`route`: {}", kind(&other)), "write [[route]]"),
    }
}

/// The same of tables; and an upstream has one file.
fn take_upstreams<'t>(upstreams: Spanned<DeValue<'t>>, into: &mut DeValue<'t>, problems: &Problems) {
    let place = upstreams.span();
    match (upstreams.into_inner(), into) {
        (DeValue::Table(upstreams), DeValue::Table(into)) => {
            for (name, upstream) in upstreams {
                match into.get_key_value(&**name.get_ref()) {
                    Some((first, _)) => {
                        let what = format!("`upstream.{}`: the same twice", name.get_ref());
                        let other = (first.span(), "first here");
                        problems.tell_both(name.span(), what, "give one of the two another name", other);
                    }
                    None => drop(into.insert(name, upstream)),
                }
            }
        }
        (DeValue::Table(_), _) => {}
        (other, _) => problems.tell(place, format!("`upstream`: {}", kind(&other)), "expected a table"),
    }
}

/// The same value, as far behind the place where it was read as that file begins behind the first.
fn moved(value: Spanned<DeValue<'_>>, start: usize) -> Spanned<DeValue<'_>> {
    let place = value.span();
    let value = match value.into_inner() {
        DeValue::Array(items) => {
            DeValue::Array(items.into_iter().map(|item| moved(item, start)).collect::<DeArray<'_>>())
        }
        DeValue::Table(table) => DeValue::Table(moved_table(table, start)),
        plain => plain,
    };
    Spanned::new(place.start + start..place.end + start, value)
}

fn moved_table(table: DeTable<'_>, start: usize) -> DeTable<'_> {
    let moved_key = |key: Spanned<_>| {
        let place = key.span();
        Spanned::new(place.start + start..place.end + start, key.into_inner())
    };
    table.into_iter().map(|(key, value)| (moved_key(key), moved(value, start))).collect()
}
