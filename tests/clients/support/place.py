"""Where things are: the checkout, and what a suite may write to."""

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CLIENTS = ROOT / "target" / "clients"
BINARY = Path(os.environ.get("SPLICEWAY", ROOT / "target" / "release" / "spliceway"))


def fresh(name):
    """An empty folder for what the suite of that name leaves to look at."""
    folder = CLIENTS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def tools(name):
    """A folder that outlives a run, for what is installed once."""
    folder = CLIENTS / "tools" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
