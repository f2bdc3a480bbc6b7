//! Which certificates a client's server name (SNI, RFC 6066 section 3) may be answered with. Pure.

use std::collections::HashMap;

/// The certificates of a listener by the names inside, as places in their list.
#[derive(Debug, Default)]
pub struct ByName {
    exact: HashMap<Box<str>, Vec<usize>>,
    /// Of `*.suffix`, by the suffix.
    below: HashMap<Box<str>, Vec<usize>>,
    default: Vec<usize>,
}

impl ByName {
    /// From the names of each certificate. The first is the default, with those beside it that share a name with it: one
    /// host may have a certificate for each kind of key.
    pub fn new<'n>(certificates: impl Iterator<Item = &'n [Box<str>]> + Clone) -> Self {
        let mut by_name = Self::default();
        let first: &[Box<str>] = certificates.clone().next().unwrap_or_default();
        for (index, names) in certificates.enumerate() {
            if index == 0 || names.iter().any(|name| first.contains(name)) {
                by_name.default.push(index);
            }
            for name in names {
                let (table, name) = match name.strip_prefix("*.") {
                    Some(suffix) => (&mut by_name.below, suffix),
                    None => (&mut by_name.exact, &**name),
                };
                let places = table.entry(name.into()).or_default();
                if places.last() != Some(&index) {
                    places.push(index);
                }
            }
        }
        by_name
    }

    /// Those for a name in lower case: of the very name, else of the wildcard that covers it, else the default.
    pub fn of(&self, name: Option<&str>) -> &[usize] {
        let exact = |name: &str| self.exact.get(name);
        let below = |name: &str| self.below.get(name.split_once('.')?.1);
        name.and_then(|name| exact(name).or_else(|| below(name))).unwrap_or(&self.default)
    }
}

/// Whether a name of a certificate covers a host; both in lower case. A wildcard stands for one whole label (RFC 9525
/// section 6.3).
pub fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(suffix) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == suffix),
        None => name == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_name(certificates: &[&[&str]]) -> ByName {
        let certificates: Vec<Vec<Box<str>>> =
            certificates.iter().map(|names| names.iter().map(|&name| name.into()).collect()).collect();
        ByName::new(certificates.iter().map(Vec::as_slice))
    }

    #[test]
    fn the_very_name_comes_before_a_wildcard_and_that_before_the_default() {
        let names = by_name(&[
            &["a.example", "*.a.example"],
            &["b.example"],
            &["*.b.example", "x.b.example"],
            &["x.b.example", "[2001:db8::1]"],
            &["b.example", "a.example", "b.example"],
            &[],
        ]);
        for (name, expected) in [
            (None, &[0, 4][..]),
            (Some("a.example"), &[0, 4]),
            (Some("y.a.example"), &[0]),
            (Some("z.y.a.example"), &[0, 4]),
            (Some("b.example"), &[1, 4]),
            (Some("x.b.example"), &[2, 3]),
            (Some("y.b.example"), &[2]),
            (Some("other"), &[0, 4]),
            (Some(""), &[0, 4]),
        ] {
            assert_eq!(names.of(name), expected, "{name:?}");
        }
    }

    #[test]
    fn a_certificate_without_names_is_a_default_as_any_other() {
        assert_eq!(by_name(&[&[], &["a.example"]]).of(None), [0]);
        assert_eq!(by_name(&[&[], &["a.example"]]).of(Some("a.example")), [1]);
    }

    #[test]
    fn a_wildcard_is_one_label() {
        for (name, host, expected) in [
            ("a.example", "a.example", true),
            ("a.example", "b.example", false),
            ("*.example", "a.example", true),
            ("*.example", "b.a.example", false),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("[2001:db8::1]", "[2001:db8::1]", true),
            ("192.0.2.1", "192.0.2.1", true),
        ] {
            assert_eq!(covers(name, host), expected, "{name} and {host}");
        }
    }
}
