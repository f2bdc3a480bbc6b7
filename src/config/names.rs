//! Names: as written, and made from what a listener or a route is about.

use std::collections::BTreeSet;

use super::Name;
use super::report::{Refusal, quoted};

/// The longest that a [`Name`] may be.
const LONGEST: usize = 64;

/// A name as written.
pub(super) fn name(text: &str) -> Result<Name, Refusal> {
    Name::new(text).ok_or_else(|| {
        let expected = match derived(text) {
            Some(near) if text.len() <= LONGEST => format!("names are 1 to 64 of a-z, 0-9 and \"-\": write \"{near}\""),
            _ => "names are 1 to 64 of a-z, 0-9 and \"-\"".to_owned(),
        };
        Refusal::new(format!("{} is not a name", quoted(text)), expected)
    })
}

/// A name made from `text`: what a name cannot hold becomes "-", once for each run and never at an end.
pub(super) fn derived(text: &str) -> Option<Name> {
    let mut made = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        match c {
            'a'..='z' | '0'..='9' => made.push(c),
            _ if made.is_empty() || made.ends_with('-') => {}
            _ => made.push('-'),
        }
    }
    made.truncate(LONGEST);
    Name::new(made.trim_end_matches('-'))
}

/// `base`, or `base` with the first of "-2", "-3" ... that nobody has. Whoever gets it has it.
pub(super) fn unused(base: &Name, taken: &mut BTreeSet<Name>) -> Name {
    let numbered = (2..).map(|n| {
        let suffix = format!("-{n}");
        let room = LONGEST - suffix.len();
        let head = &base.as_str()[..base.as_str().len().min(room)];
        Name::new(&format!("{head}{suffix}")).expect("a cut name with a number behind it is a name")
    });
    let name =
        std::iter::once(base.clone()).chain(numbered).find(|n| !taken.contains(n)).expect("numbers do not run out");
    taken.insert(name.clone());
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_from_hosts_paths_and_binds() {
        let long = "a".repeat(80);
        for (text, expected) in [
            ("chat.example.com/ws", Some("chat-example-com-ws")),
            ("*.example.com/", Some("example-com")),
            ("/", None),
            ("*:443", Some("443")),
            ("[::1]:80", Some("1-80")),
            ("/A_b//c", Some("a-b-c")),
            (&long, Some(&long[..64])),
        ] {
            assert_eq!(derived(text).as_ref().map(Name::as_str), expected, "{text:?}");
        }
    }

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let mut taken = BTreeSet::from([Name::new("ws-2").unwrap()]);
        let base = Name::new("ws").unwrap();
        let names: Vec<_> = (0..3).map(|_| unused(&base, &mut taken).as_str().to_owned()).collect();
        assert_eq!(names, ["ws", "ws-3", "ws-4"]);
        let long = Name::new(&"a".repeat(64)).unwrap();
        unused(&long, &mut taken);
        assert_eq!(unused(&long, &mut taken).as_str(), format!("{}-2", "a".repeat(62)));
    }

    #[test]
    fn a_refused_name_is_told_the_nearest_one() {
        assert!(name("Chat_1").unwrap_err().expected.ends_with("write \"chat-1\""));
        assert!(name("").is_err());
        assert!(name("a-1").is_ok());
    }
}
