//! The files of one configuration. A place is one of all of them, as if they stood one behind the other.

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
    /// Where it begins among all.
    pub(super) start: usize,
}

impl Sources {
    /// Of a configuration that includes none yet.
    pub(super) fn new(name: &str, text: &str, folder: &Path) -> Self {
        Self(vec![Source { name: name.into(), text: text.into(), folder: folder.into(), start: 0 }])
    }

    /// One more, behind the others.
    pub(super) fn add(&mut self, file: &Path, text: String) {
        // The end of one is no place of the next.
        let start = self.0.last().map_or(0, |last| last.start + last.text.len() + 1);
        let folder = file.parent().unwrap_or_else(|| Path::new("")).to_owned();
        self.0.push(Source { name: file.display().to_string(), text, folder, start });
    }

    /// The configuration itself.
    pub(super) fn first(&self) -> &Source {
        &self.0[0]
    }

    /// The files that it includes.
    pub(super) fn included(&self) -> &[Source] {
        &self.0[1..]
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
    fn a_place_among_all_is_a_place_of_one() {
        let mut sources = Sources::new("main", "a = 1", Path::new("etc"));
        for (file, text) in [("etc/d/second", "b = 2\n"), ("etc/e/third", "ü ="), ("fourth", "d = 4")] {
            sources.add(Path::new(file), text.to_owned());
        }
        let starts: Vec<_> = sources.included().iter().map(|source| source.start).collect();
        let [_, third, fourth] = starts[..] else { panic!("{starts:?}") };
        assert_eq!(starts, [6, 13, 18]);
        for (place, name, folder, local) in [
            (0..1, "main", "etc", 0..1),
            (4..5, "main", "etc", 4..5),
            (5..5, "main", "etc", 5..5),
            (6..7, "etc/d/second", "etc/d", 0..1),
            (third..third + 2, "etc/e/third", "etc/e", 0..2),
            (fourth + 4..fourth + 5, "fourth", "", 4..5),
            (99..120, "fourth", "", 99 - fourth..120 - fourth),
        ] {
            let (source, found) = sources.of(&place);
            assert_eq!((source.name.as_str(), found), (name, local), "{place:?}");
            assert_eq!(sources.folder_of(&place), Path::new(folder));
        }
    }
}
