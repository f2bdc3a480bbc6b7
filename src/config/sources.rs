//! The files of one configuration, which are read as one text: places in it are places in one of them.

use std::path::{Path, PathBuf};

use super::report::Place;

/// All of them; the first is the configuration itself, and it includes the others.
#[derive(Debug)]
pub(super) struct Sources(Vec<Source>);

/// One of them.
#[derive(Debug)]
pub(super) struct Source {
    /// As messages call it.
    pub(super) name: String,
    pub(super) text: String,
    /// Where the names of files in it start.
    folder: PathBuf,
    /// Where it begins in the one text.
    start: usize,
    /// Whether it is TOML; what is not, is blank in the one text.
    is_sound: bool,
}

impl Sources {
    /// Of a configuration that includes none yet.
    pub(super) fn new(name: &str, text: &str, folder: &Path) -> Self {
        Self(vec![Source { name: name.into(), text: text.into(), folder: folder.into(), start: 0, is_sound: true }])
    }

    /// One more, behind the others; gives where it begins.
    pub(super) fn add(&mut self, name: String, text: String, folder: PathBuf) -> usize {
        // A line's end stands between two, whether the first has one or not.
        let start = self.0.last().map_or(0, |last| last.start + last.text.len() + 1);
        self.0.push(Source { name, text, folder, start, is_sound: true });
        start
    }

    /// The last one cannot be read as TOML.
    pub(super) fn last_is_broken(&mut self) {
        if let Some(last) = self.0.last_mut() {
            last.is_sound = false;
        }
    }

    /// The configuration itself.
    pub(super) fn first(&self) -> &Source {
        &self.0[0]
    }

    /// Whether there is more than the configuration itself.
    pub(super) fn include(&self) -> bool {
        self.0.len() > 1
    }

    /// The one text.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for source in &self.0 {
            match source.is_sound {
                true => text.push_str(&source.text),
                false => text.extend(std::iter::repeat_n(' ', source.text.len())),
            }
            text.push('\n');
        }
        text
    }

    /// The file of a place, and the place in that.
    pub(super) fn of(&self, place: &Place) -> (&Source, Place) {
        let index = self.0.partition_point(|source| source.start <= place.start).saturating_sub(1);
        let source = &self.0[index];
        (source, place.start - source.start..place.end.max(place.start) - source.start)
    }

    /// Where the name of a file that stands at that place starts.
    pub(super) fn folder_of(&self, place: &Place) -> &Path {
        &self.of(place).0.folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_of_the_one_text_is_a_place_of_its_file() {
        let mut sources = Sources::new("main", "a = 1", Path::new("etc"));
        let second = sources.add("second".to_owned(), "b = 2\n".to_owned(), "etc/d".into());
        let third = sources.add("third".to_owned(), "ü =".to_owned(), "etc/e".into());
        sources.last_is_broken();
        let fourth = sources.add("fourth".to_owned(), "d = 4".to_owned(), "".into());
        let text = sources.text();
        assert_eq!((text.as_str(), second, third), ("a = 1\nb = 2\n\n    \nd = 4\n", 6, 13));
        for (place, name, folder, local) in [
            (0..1, "main", "etc", 0..1),
            (4..5, "main", "etc", 4..5),
            (5..5, "main", "etc", 5..5),
            (6..7, "second", "etc/d", 0..1),
            (third..third + 2, "third", "etc/e", 0..2),
            (fourth + 4..fourth + 5, "fourth", "", 4..5),
            (99..120, "fourth", "", 99 - fourth..120 - fourth),
        ] {
            let (source, found) = sources.of(&place);
            assert_eq!((source.name.as_str(), found), (name, local), "{place:?}");
            assert_eq!(sources.folder_of(&place), Path::new(folder));
        }
    }
}
