"""The oracle: through the gateway equals direct."""

import difflib
import json


def same(what, direct, through):
    """Compares what a client saw without the gateway with what it saw through it; both are of JSON's kinds."""
    if direct == through:
        print(f"  same  {what}", flush=True)
        return
    lines = (json.dumps(seen, indent=1, sort_keys=True, default=str).splitlines() for seen in (direct, through))
    difference = "\n".join(difflib.unified_diff(*lines, "direct", "through the gateway", lineterm=""))
    raise AssertionError(f"{what}: not the same\n{difference}")
