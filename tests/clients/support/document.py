"""Tables of a document that a suite makes: between two markers, and held against what the suite finds."""

import difflib
import os

from support import place


def hold(file, name, table):
    """Holds the part `name` of the document against the table; with `tests/clients/run --write`, writes it there."""
    path = place.ROOT / file
    text = path.read_text()
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise AssertionError(f"{file}: not one place between {begin.strip()} and {end.strip()}")
    before, rest = text.split(begin)
    written, after = rest.split(end)
    if written == table:
        print(f"  same  {file}, {name}", flush=True)
    elif "SPLICEWAY_BLESS" in os.environ:
        path.write_text(before + begin + table + end + after)
        print(f"  written: {file}, {name}", flush=True)
    else:
        lines = difflib.unified_diff(written.splitlines(), table.splitlines(), file, "found", lineterm="")
        told = "\n".join(lines)
        raise AssertionError(f"{file}: the table {name} has aged; tests/clients/run --write SUITE\n{told}")


def table(heads, rows):
    """A table as the documents have them."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines).replace("| --- ", "|---").replace("|--- |", "|---|")
