//! Reads tables key by key. A key is accepted because somebody asked for it: what nobody asked for is unknown, and
//! there is no second list that could differ.

use std::cell::RefCell;
use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Place, Problems, Refusal, meant, quoted};

/// One reading of a file: what was wrong, and which keys were asked for.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) problems: Problems,
    keys: RefCell<BTreeSet<String>>,
}

impl Reading {
    /// Every key that was asked for, by its path ("listener.timeouts.keep_alive").
    pub(super) fn keys(self) -> BTreeSet<String> {
        self.keys.into_inner()
    }
}

/// A table that is being read. One that is not in the file reads as empty, so that every reader asks for every key.
#[derive(Debug)]
pub(super) struct Table<'t> {
    reading: &'t Reading,
    /// Where it stands in the file, as in `[upstream.chat]`; empty for the file itself.
    path: String,
    place: Place,
    entries: Option<&'t DeTable<'t>>,
    /// The short form of a table, read as the key that it stands for.
    short: Option<(&'static str, &'t Spanned<DeValue<'t>>)>,
    asked: Vec<&'static str>,
}

impl<'t> Table<'t> {
    /// The file itself.
    pub(super) fn root(reading: &'t Reading, table: &'t Spanned<DeTable<'t>>) -> Self {
        Self::new(reading, String::new(), 0..0, Some(table.get_ref()))
    }

    /// Where the table begins.
    pub(super) fn place(&self) -> Place {
        self.place.clone()
    }

    /// Where `key` has its value, if it is there, whatever the value is.
    pub(super) fn place_of(&self, key: &'static str) -> Option<Place> {
        self.find(key).map(Spanned::span)
    }

    /// The text of `key`, or the first of its list, as it is written.
    pub(super) fn first_text(&self, key: &'static str) -> Option<String> {
        let value = self.find(key)?.get_ref();
        let first = value.as_array().map_or(Some(value), |items| items.first().map(Spanned::get_ref));
        first.and_then(DeValue::as_str).map(str::to_owned)
    }

    /// One value.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'t>) -> Result<T, Refusal>,
    ) -> Option<Spanned<T>> {
        let value = self.ask(key)?;
        self.parsed(key, value, parse)
    }

    /// One value or a list that is not empty.
    pub(super) fn one_or_many<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&DeValue<'t>) -> Result<T, Refusal>,
    ) -> Option<Vec<Spanned<T>>> {
        let value = self.ask(key)?;
        match value.get_ref() {
            DeValue::Array(_) => self.some(key, parse),
            _ => Some(self.parsed(key, value, parse).into_iter().collect()),
        }
    }

    /// A list that is not empty.
    pub(super) fn some<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&DeValue<'t>) -> Result<T, Refusal>,
    ) -> Option<Vec<Spanned<T>>> {
        let place = self.ask(key)?.span();
        let problems = self.reading.problems.count();
        let values = self.many(key, parse)?;
        if values.is_empty() && self.reading.problems.count() == problems {
            self.refuse(key, place, &Refusal::new("an empty list", "at least one is needed here"));
        }
        Some(values)
    }

    /// A list, which may be empty.
    pub(super) fn many<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&DeValue<'t>) -> Result<T, Refusal>,
    ) -> Option<Vec<Spanned<T>>> {
        let value = self.ask(key)?;
        if let DeValue::Array(items) = value.get_ref() {
            return Some(self.list(key, items, parse));
        }
        let expected = match value.get_ref() {
            DeValue::String(text) => format!("expected a list: write [{}]", quoted(text)),
            _ => "expected a list".to_owned(),
        };
        self.refuse(key, value.span(), &Refusal::new(kind(value.get_ref()), expected));
        None
    }

    /// The keys of the table `key` and their values, in the order of the keys.
    pub(super) fn pairs<K, V>(
        &mut self,
        key: &'static str,
        name: impl Fn(&str) -> Result<K, Refusal>,
        parse: impl Fn(&DeValue<'t>) -> Result<V, Refusal>,
    ) -> Vec<(Spanned<K>, V)> {
        let Some(value) = self.ask(key) else { return Vec::new() };
        let Some(entries) = self.entries_of(key, value) else { return Vec::new() };
        let mut pairs = Vec::new();
        for (entry, value) in entries {
            let entry = self.checked(key, entry.span(), name(entry.get_ref()));
            pairs.extend(entry.zip(self.parsed(key, value, &parse).map(Spanned::into_inner)));
        }
        pairs
    }

    /// A table of its own, empty when it is not there.
    pub(super) fn table<R>(&mut self, key: &'static str, read: impl FnOnce(&mut Self) -> R) -> R {
        let value = self.ask(key);
        let entries = value.and_then(|v| self.entries_of(key, v));
        let place = value.map_or_else(|| self.place(), Spanned::span);
        Self::new(self.reading, self.path_of(key), place, entries).finish(read)
    }

    /// A table of its own; `None` when it is not there.
    pub(super) fn table_if_there<R>(&mut self, key: &'static str, read: impl FnOnce(&mut Self) -> R) -> Option<R> {
        let there = self.find(key).is_some();
        let read = self.table(key, read);
        there.then_some(read)
    }

    /// A table of its own, or "off": then the inner `None`. `expected` is told where it is neither.
    pub(super) fn table_or_off<R>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(&mut Self) -> R,
    ) -> Option<Option<R>> {
        let value = self.ask(key);
        let place = value.map_or_else(|| self.place(), Spanned::span);
        let entries = value.and_then(|v| v.get_ref().as_table());
        let read = Self::new(self.reading, self.path_of(key), place.clone(), entries).finish(read);
        match value?.get_ref() {
            DeValue::Table(_) => Some(Some(read)),
            DeValue::String(text) if text == "off" => Some(None),
            other => {
                self.refuse(key, place, &Refusal::new(kind(other), expected));
                None
            }
        }
    }

    /// A table of its own, `true` for one with nothing in it, or `false` for none: then `None`. `expected` is told where it is
    /// none of these.
    pub(super) fn table_or_flag<R>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(&mut Self) -> R,
    ) -> Option<R> {
        let value = self.ask(key);
        let place = value.map_or_else(|| self.place(), Spanned::span);
        let entries = value.and_then(|v| v.get_ref().as_table());
        let read = Self::new(self.reading, self.path_of(key), place.clone(), entries).finish(read);
        match value?.get_ref() {
            DeValue::Table(_) | DeValue::Boolean(true) => Some(read),
            DeValue::Boolean(false) => None,
            other => {
                self.refuse(key, place, &Refusal::new(kind(other), expected));
                None
            }
        }
    }

    /// A table of its own, or just the value of its key `first`; `None` when neither is there.
    pub(super) fn short_or_long<R>(
        &mut self,
        key: &'static str,
        first: &'static str,
        read: impl FnOnce(&mut Self) -> R,
    ) -> Option<R> {
        let value = self.ask(key);
        let place = value.map_or_else(|| self.place(), Spanned::span);
        let entries = value.and_then(|v| v.get_ref().as_table());
        let mut table = Self::new(self.reading, self.path_of(key), place, entries);
        table.short = value.filter(|_| entries.is_none()).map(|v| (first, v));
        table.require(first, "the long form needs it");
        let read = table.finish(read);
        value.map(|_| read)
    }

    /// Each table of the list `[[key]]`, and whether nothing was wrong with it.
    pub(super) fn tables<R>(&mut self, key: &'static str, read: impl FnMut(&mut Self) -> R) -> Vec<(R, bool)> {
        let empty = self.find(key).filter(|value| value.get_ref().as_array().is_some_and(|items| items.is_empty()));
        if let Some(value) = empty {
            self.refuse(key, value.span(), &Refusal::new("an empty list", format!("write [[{key}]]")));
        }
        self.tables_or_none(key, read)
    }

    /// The same where the list may be empty.
    pub(super) fn tables_or_none<R>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Self) -> R,
    ) -> Vec<(R, bool)> {
        let Some(value) = self.ask(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            let expected = match self.path.is_empty() {
                true => format!("write [[{key}]]"),
                false => "expected a list of tables".to_owned(),
            };
            self.refuse(key, value.span(), &Refusal::new(kind(value.get_ref()), expected));
            return Vec::new();
        };
        let one = |item: &'t Spanned<DeValue<'t>>| {
            let entries = self.entries_of(key, item)?;
            let problems = self.reading.problems.count();
            let result = Self::new(self.reading, self.path_of(key), item.span(), Some(entries)).finish(&mut read);
            Some((result, self.reading.problems.count() == problems))
        };
        items.iter().filter_map(one).collect()
    }

    /// Each table `[key.NAME]`, in the order of their names. One whose name is refused is read all the same, so that
    /// what else is wrong with it is told too.
    pub(super) fn named_tables<K, R>(
        &mut self,
        key: &'static str,
        name: impl Fn(&str) -> Result<K, Refusal>,
        mut read: impl FnMut(Option<K>, &mut Self) -> Option<R>,
    ) -> Vec<R> {
        let Some(value) = self.ask(key) else { return Vec::new() };
        let Some(entries) = self.entries_of(key, value) else { return Vec::new() };
        let mut tables = Vec::new();
        for (entry, value) in entries {
            let name = self.checked(key, entry.span(), name(entry.get_ref())).map(Spanned::into_inner);
            let path = format!("{key}.{}", entry.get_ref());
            if let Some(entries) = self.entries_of(&path, value) {
                let table = Self::new(self.reading, path, value.span(), Some(entries));
                tables.extend(table.finish(|t| read(name, t)));
            }
        }
        tables
    }

    /// Says that `key`, which must be there, is not. A table that is not there requires nothing.
    pub(super) fn require(&self, key: &'static str, expected: &str) {
        if self.entries.is_some_and(|e| !e.contains_key(key)) {
            self.reading.problems.tell(self.place(), format!("`{}` is missing", self.path_of(key)), expected);
        }
    }

    /// The path of a key, as messages name it.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn new(reading: &'t Reading, path: String, place: Place, entries: Option<&'t DeTable<'t>>) -> Self {
        Self { reading, path, place, entries, short: None, asked: Vec::new() }
    }

    fn finish<R>(mut self, read: impl FnOnce(&mut Self) -> R) -> R {
        let result = read(&mut self);
        self.tell_unknown();
        result
    }

    /// Says which keys nobody asked for. For the file itself its reader calls it; nested tables do it by themselves.
    pub(super) fn tell_unknown(&self) {
        for key in self.entries.into_iter().flat_map(|e| e.keys()) {
            if !self.asked.iter().any(|a| *a == key.get_ref()) {
                let what = format!("unknown key `{}`", self.path_of(key.get_ref()));
                self.reading.problems.tell(key.span(), what, meant(key.get_ref(), &self.asked));
            }
        }
    }

    fn find(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        let short = self.short.filter(|(first, _)| *first == key).map(|(_, value)| value);
        short.or_else(|| self.entries.and_then(|e| e.get(key)))
    }

    fn ask(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        self.reading.keys.borrow_mut().insert(self.path_of(key));
        self.find(key)
    }

    fn list<T>(
        &self,
        key: &str,
        items: &'t [Spanned<DeValue<'t>>],
        parse: impl Fn(&DeValue<'t>) -> Result<T, Refusal>,
    ) -> Vec<Spanned<T>> {
        items.iter().filter_map(|item| self.parsed(key, item, &parse)).collect()
    }

    fn parsed<T>(
        &self,
        key: &str,
        value: &'t Spanned<DeValue<'t>>,
        parse: impl FnOnce(&DeValue<'t>) -> Result<T, Refusal>,
    ) -> Option<Spanned<T>> {
        self.checked(key, value.span(), parse(value.get_ref()))
    }

    fn checked<T>(&self, key: &str, place: Place, result: Result<T, Refusal>) -> Option<Spanned<T>> {
        match result {
            Ok(parsed) => Some(Spanned::new(place, parsed)),
            Err(refusal) => {
                self.refuse(key, place, &refusal);
                None
            }
        }
    }

    fn entries_of(&self, key: &str, value: &'t Spanned<DeValue<'t>>) -> Option<&'t DeTable<'t>> {
        let entries = value.get_ref().as_table();
        if entries.is_none() {
            self.refuse(key, value.span(), &Refusal::new(kind(value.get_ref()), "expected a table"));
        }
        entries
    }

    fn refuse(&self, key: &str, place: Place, refusal: &Refusal) {
        let what = format!("`{}`: {}", self.path_of(key), refusal.what);
        self.reading.problems.tell(place, what, refusal.expected.as_str());
    }
}

/// What a value is, as messages say it.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "this is a string",
        DeValue::Integer(_) => "this is a number",
        DeValue::Float(_) => "this is not a whole number",
        DeValue::Boolean(_) => "this is a boolean",
        DeValue::Datetime(_) => "this is a date",
        DeValue::Array(_) => "this is a list",
        DeValue::Table(_) => "this is a table",
    }
}
