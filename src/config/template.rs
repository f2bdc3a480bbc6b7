//! Text with placeholders.

use super::report::{Refusal, meant, quoted};
use super::{Piece, Template};

/// Every placeholder by its name.
const PLACEHOLDERS: [(&str, Piece); 7] = [
    ("host", Piece::Host),
    ("path", Piece::Path),
    ("query", Piece::Query),
    ("uri", Piece::Uri),
    ("scheme", Piece::Scheme),
    ("id", Piece::Id),
    ("client.address", Piece::ClientAddress),
];

impl Template {
    /// Takes `text` apart: `{name}` is a placeholder, "{{" is "{" and "}}" is "}".
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let (mut pieces, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some(brace) = rest.find(['{', '}']) {
            literal.push_str(&rest[..brace]);
            rest = &rest[brace..];
            if let Some(behind) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
                literal.push_str(&rest[..1]);
                rest = behind;
                continue;
            }
            let (piece, behind) = placeholder(rest)?;
            push_text(&mut pieces, &mut literal);
            pieces.push(piece);
            rest = behind;
        }
        literal.push_str(rest);
        push_text(&mut pieces, &mut literal);
        Ok(Self(pieces))
    }
}

/// The placeholder at the beginning of `text`, and what is behind it.
fn placeholder(text: &str) -> Result<(Piece, &str), Refusal> {
    let Some((name, behind)) = text.strip_prefix('{').and_then(|t| t.split_once('}')) else {
        return Err(Refusal::new(
            "a brace that stands alone",
            "\"{\" and \"}\" themselves are written \"{{\" and \"}}\"",
        ));
    };
    let Some((_, piece)) = PLACEHOLDERS.iter().find(|(known, _)| *known == name) else {
        let known = PLACEHOLDERS.map(|(known, _)| known);
        let what = format!("{} is not a placeholder", quoted(&format!("{{{name}}}")));
        return Err(Refusal::new(what, meant(name, &known)));
    };
    Ok((piece.clone(), behind))
}

fn push_text(pieces: &mut Vec<Piece>, literal: &mut String) {
    if !literal.is_empty() {
        pieces.push(Piece::Text(std::mem::take(literal).into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Piece {
        Piece::Text(text.into())
    }

    #[test]
    fn templates_are_taken_apart() {
        for (template, expected) in [
            ("", vec![]),
            ("/a", vec![text("/a")]),
            ("https://{host}{uri}", vec![text("https://"), Piece::Host, Piece::Uri]),
            ("{scheme}{path}{query}{id}", vec![Piece::Scheme, Piece::Path, Piece::Query, Piece::Id]),
            ("a{{b}}c", vec![text("a{b}c")]),
            ("{{{host}}}", vec![text("{"), Piece::Host, text("}")]),
            ("{client.address}/", vec![Piece::ClientAddress, text("/")]),
        ] {
            assert_eq!(Template::parse(template).unwrap(), Template(expected), "{template:?}");
        }
    }

    #[test]
    fn what_is_no_placeholder_is_refused() {
        for (template, hint) in [
            ("{hots}", "did you mean `host`?"),
            ("{}", "`client.address`"),
            ("{host", "{{"),
            ("a}b", "}}"),
            ("{{host}", "}}"),
        ] {
            let refusal = Template::parse(template).unwrap_err();
            assert!(refusal.expected.contains(hint), "{template:?}: {refusal:?}");
        }
    }
}
