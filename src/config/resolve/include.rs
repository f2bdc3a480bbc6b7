//! The files that a configuration includes: each must be TOML by itself and hold routes and upstreams only; then all are read
//! as one text.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeTable;

use super::tell_syntax;
use crate::config::file::includes;
use crate::config::report::{Problems, meant};
use crate::config::sources::Sources;

/// What an included file may hold.
const PARTS: [&str; 2] = ["route", "upstream"];

/// Reads the files that the configuration includes, in the order of its list and of their names.
pub(super) fn include(table: &Spanned<DeTable<'_>>, sources: &mut Sources, problems: &Problems) {
    let mut known = BTreeSet::new();
    for pattern in includes(table) {
        for file in matching(&pattern, sources, problems) {
            // Two patterns may match the same.
            if !known.contains(&file) {
                take(&file, &pattern, sources, problems);
                known.insert(file);
            }
        }
    }
}

/// The files that a pattern stands for, in the order of their names.
fn matching(pattern: &Spanned<String>, sources: &Sources, problems: &Problems) -> Vec<PathBuf> {
    let whole = sources.folder_of(&pattern.span()).join(pattern.get_ref());
    let mut files = Vec::new();
    // That it is a pattern has been seen when it was read; the folder of the file may hold what only looks like one.
    let found = glob::glob(&whole.to_string_lossy());
    for file in found.into_iter().flatten() {
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

fn take(file: &Path, pattern: &Spanned<String>, sources: &mut Sources, problems: &Problems) {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return refuse(file, &error, pattern, problems),
    };
    let folder = file.parent().unwrap_or_else(|| Path::new("")).to_owned();
    let start = sources.add(file.display().to_string(), text.clone(), folder);
    let (table, errors) = DeTable::parse_recoverable(&text);
    if !errors.is_empty() {
        sources.last_is_broken();
        return tell_syntax(&text, start, &errors, problems);
    }
    for key in table.get_ref().keys().filter(|key| !PARTS.contains(&&**key.get_ref())) {
        let place = key.span().start + start..key.span().end + start;
        let what = format!("`{}` in an included file", key.get_ref());
        problems.tell(place, what, meant(key.get_ref(), &PARTS));
        sources.last_is_broken();
    }
}

fn refuse(file: &Path, error: &std::io::Error, pattern: &Spanned<String>, problems: &Problems) {
    let what = format!("`gateway.include`: {} cannot be read: {error}", file.display());
    problems.tell(pattern.span(), what, "");
}
