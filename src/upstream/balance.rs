//! Which endpoint is next. Pure: numbers in, an index out.

/// The index of the least used endpoint that was not tried yet; among equals, `turn` decides, so that they take turns.
///
/// `uses` yields the number of uses of each endpoint, or None for one that is out of the question.
pub fn least_used(uses: &[Option<usize>], turn: usize) -> Option<usize> {
    let least = uses.iter().flatten().min()?;
    let equals = || uses.iter().enumerate().filter(|(_, used)| used.as_ref() == Some(least)).map(|(index, _)| index);
    equals().nth(turn % equals().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_used_comes_first_and_equals_take_turns() {
        let table = [
            (&[][..], 0, None),
            (&[None, None][..], 3, None),
            (&[Some(2), Some(1), Some(3)][..], 0, Some(1)),
            (&[Some(2), None, Some(3)][..], 9, Some(0)),
            (&[Some(1), Some(1), Some(5), Some(1)][..], 0, Some(0)),
            (&[Some(1), Some(1), Some(5), Some(1)][..], 1, Some(1)),
            (&[Some(1), Some(1), Some(5), Some(1)][..], 5, Some(3)),
        ];
        for (uses, turn, expected) in table {
            assert_eq!(least_used(uses, turn), expected, "{uses:?} at turn {turn}");
        }
    }
}
