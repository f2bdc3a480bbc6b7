"""What judges find and is no fault: findings.json, which may not age."""

from support.oracle import same


def hold(listed, judge, found):
    """Holds what was found against the list. Both are made of [what, how bad]."""
    expected = [[entry["finding"], entry["level"]] for entry in listed if entry["judge"] == judge]
    same(f"{judge}: findings.json and what it finds", sorted(expected), sorted(found))
