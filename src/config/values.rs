//! Values that stand by themselves: counts, durations, sizes, words and texts, each with its bounds.

use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::reader::kind;
use super::report::{Refusal, nearest, quoted};

/// The least and the greatest, as they are written in a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds(pub(super) &'static str, pub(super) &'static str);

const DAY: u64 = 24 * 60 * 60 * 1000;
const DURATION_UNITS: [(&str, u64); 5] = [("d", DAY), ("h", 60 * 60 * 1000), ("m", 60 * 1000), ("s", 1000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// A text; `expected` is told where it is none.
pub(super) fn text<'v>(value: &'v DeValue<'_>, expected: &str) -> Result<&'v str, Refusal> {
    value.as_str().ok_or_else(|| Refusal::new(kind(value), expected))
}

/// `true` or `false`.
pub(super) fn flag(value: &DeValue<'_>) -> Result<bool, Refusal> {
    value.as_bool().ok_or_else(|| Refusal::new(kind(value), "expected true or false"))
}

/// A bare number.
pub(super) fn count(value: &DeValue<'_>, range: RangeInclusive<u64>) -> Result<u64, Refusal> {
    let expected = format!("expected a number from {} to {}", range.start(), range.end());
    number_within(value, &range, expected)
}

/// A bare number from 1, or a word such as "off": then `None`.
pub(super) fn count_or(value: &DeValue<'_>, word: &str, most: u64) -> Result<Option<NonZeroUsize>, Refusal> {
    if value.as_str() == Some(word) {
        return Ok(None);
    }
    let expected = format!("expected {word:?} or a number from 1 to {most}");
    let number = number_within(value, &(1..=most), expected)?;
    Ok(NonZeroUsize::new(usize::try_from(number).unwrap_or(usize::MAX)))
}

/// One of some words.
pub(super) fn word<T: Copy>(value: &DeValue<'_>, words: &[(&str, T)]) -> Result<T, Refusal> {
    let all = words.iter().map(|(w, _)| format!("{w:?}")).collect::<Vec<_>>().join(", ");
    let expected = if words.len() == 1 { format!("expected {all}") } else { format!("expected one of {all}") };
    let text = text(value, &expected)?;
    if let Some((_, meaning)) = words.iter().find(|(w, _)| *w == text) {
        return Ok(*meaning);
    }
    let expected = match nearest(text, words.iter().map(|(w, _)| *w)) {
        Some(near) => format!("did you mean {near:?}?"),
        None => expected,
    };
    Err(Refusal::new(format!("{} is not known", quoted(text)), expected))
}

/// A duration such as "250ms", "1h30m" within bounds.
pub(super) fn duration(value: &DeValue<'_>, bounds: Bounds) -> Result<Duration, Refusal> {
    let expected = format!("expected a duration from {:?} to {:?}", bounds.0, bounds.1);
    let text = match value {
        DeValue::Integer(number) => {
            // None begins at nothing, so a unit alone would not help it.
            let help = if number.as_str() == "0" { expected } else { format!("write \"{number}s\" or \"{number}ms\"") };
            return Err(Refusal::new("a duration needs a unit", help));
        }
        _ => text(value, &expected)?,
    };
    if text == "off" {
        return Err(Refusal::new("this cannot be \"off\"", format!("{expected}; a long one comes close")));
    }
    let milliseconds = milliseconds(text).ok_or_else(|| {
        let form =
            "expected numbers with the units d, h, m, s, ms in this order, such as \"250ms\", \"30s\", \"1h30m\"";
        Refusal::new(format!("{} is not a duration", quoted(text)), form)
    })?;
    within(text, milliseconds, [bounds.0, bounds.1].map(milliseconds_of_bound), &expected)?;
    Ok(Duration::from_millis(milliseconds))
}

/// A duration that the kernel takes in whole seconds.
pub(super) fn whole_seconds(value: &DeValue<'_>, bounds: Bounds) -> Result<Duration, Refusal> {
    let duration = duration(value, bounds)?;
    if duration.subsec_millis() != 0 {
        return Err(Refusal::new("the kernel takes whole seconds here", "leave the milliseconds out"));
    }
    Ok(duration)
}

/// A size such as "64KiB" within bounds, in bytes.
pub(super) fn size(value: &DeValue<'_>, bounds: Bounds) -> Result<usize, Refusal> {
    let expected = format!("expected a size from {:?} to {:?}", bounds.0, bounds.1);
    let text = match value {
        DeValue::Integer(number) => {
            // None begins at nothing, so a unit alone would not help it.
            let help =
                if number.as_str() == "0" { expected } else { format!("write \"{number}B\" or \"{number}KiB\"") };
            return Err(Refusal::new("a size needs a unit", help));
        }
        _ => text(value, &expected)?,
    };
    if text == "off" {
        return Err(Refusal::new("this cannot be \"off\"", expected));
    }
    let bytes = bytes(text).ok_or_else(|| not_a_size(text))?;
    within(text, bytes, [bounds.0, bounds.1].map(bytes_of_bound), &expected)?;
    Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
}

fn number_within(value: &DeValue<'_>, range: &RangeInclusive<u64>, expected: String) -> Result<u64, Refusal> {
    let Some(number) = value.as_integer() else {
        let what = value.as_str().map_or_else(|| kind(value).to_owned(), |t| format!("{} is not a number", quoted(t)));
        return Err(Refusal::new(what, expected));
    };
    let parsed = u64::from_str_radix(number.as_str(), number.radix()).ok();
    parsed.filter(|n| range.contains(n)).ok_or_else(|| Refusal::new(format!("{number} is out of range"), expected))
}

fn within(text: &str, value: u64, [least, most]: [u64; 2], expected: &str) -> Result<(), Refusal> {
    let what = match value {
        v if v < least => "too little",
        v if v > most => "too much",
        _ => return Ok(()),
    };
    Err(Refusal::new(format!("{} is {what}", quoted(text)), expected))
}

/// Numbers with units, each unit once and the greater before the lesser. Not humantime's parser: it also takes
/// "2 weeks", "1month" and "1.5s", which would become part of the contract.
fn milliseconds(text: &str) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let (mut rest, mut units, mut total) = (text, &DURATION_UNITS[..], 0u64);
    while !rest.is_empty() {
        let (number, behind) = leading_number(rest)?;
        let length = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        let unit = units.iter().position(|(name, _)| *name == &behind[..length])?;
        total = total.checked_add(number.checked_mul(units[unit].1)?)?;
        (rest, units) = (&behind[length..], &units[unit + 1..]);
    }
    Some(total)
}

fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = leading_number(text)?;
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let (digits, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    Some((digits.parse().ok()?, rest))
}

fn not_a_size(text: &str) -> Refusal {
    let expected = match leading_number(text) {
        Some((number, unit)) => match unit.trim_start().chars().next().map(|c| c.to_ascii_lowercase()) {
            Some('k') => format!("sizes are powers of two: write \"{number}KiB\""),
            Some('m') => format!("sizes are powers of two: write \"{number}MiB\""),
            Some('g') => format!("sizes are powers of two: write \"{number}GiB\""),
            _ => format!("write \"{number}B\" or \"{number}KiB\""),
        },
        None => "expected a number with its unit, B, KiB, MiB or GiB, such as \"64KiB\"".to_owned(),
    };
    Refusal::new(format!("{} is not a size", quoted(text)), expected)
}

fn milliseconds_of_bound(bound: &str) -> u64 {
    milliseconds(bound).expect("the bounds of durations are durations")
}

fn bytes_of_bound(bound: &str) -> u64 {
    bytes(bound).expect("the bounds of sizes are sizes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units_from_the_greatest_down() {
        for (text, expected) in [
            ("250ms", Some(250)),
            ("30s", Some(30_000)),
            ("5m", Some(300_000)),
            ("1h30m", Some(5_400_000)),
            ("7d", Some(7 * DAY)),
            ("1d2h3m4s5ms", Some(DAY + 7_384_005)),
            ("90m", Some(5_400_000)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("-5s", None),
            ("1.5s", None),
            ("30m1h", None),
            ("1s1s", None),
            ("1h 30m", None),
            (" 5s", None),
            ("5S", None),
            ("2w", None),
            ("1month", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(milliseconds(text), expected, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_powers_of_two() {
        for (text, expected) in [
            ("512B", Some(512)),
            ("64KiB", Some(65_536)),
            ("1MiB", Some(1 << 20)),
            ("2GiB", Some(2 << 30)),
            ("64KB", None),
            ("64kib", None),
            ("64", None),
            ("KiB", None),
            ("1.5MiB", None),
            ("1MiB1KiB", None),
            ("99999999999GiB", None),
        ] {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_size_of_other_habits_is_told_ours() {
        for (text, hint) in [("64KB", "64KiB"), ("64k", "64KiB"), ("1 MB", "1MiB"), ("3gib", "3GiB"), ("5", "5KiB")] {
            assert!(not_a_size(text).expected.contains(hint), "{text:?}");
        }
    }
}
