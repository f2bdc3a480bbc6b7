"""Judges and attack tools that others wrote, against a gateway as its users run it.

slowhttptest: whoever is slow is cut off by a deadline, each with its record, and the service stays available meanwhile.
sslscan, sslyze, testssl.sh and openssl: what the TLS of a listener offers, and what it must not. REDbot: the answers of
HTTP, the gateway's own and those that it passes on.

What they say is held against expectations, and written into docs/conformance.md. What a judge finds and is no fault is
listed in findings.json with its reason; a finding that is listed there and has gone fails the suite.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import headers
import slow
import tls
from support import document, install, place

HERE = Path(__file__).resolve().parent
SUITE = HERE.name
DOCUMENT = "docs/conformance.md"


def main():
    folder = place.fresh(SUITE)
    python = install.venv(HERE / "requirements.txt")
    install.apt(slowhttptest="slowhttptest", sslscan="sslscan", testssl="testssl.sh")
    files = served(folder / "files")
    listed = json.loads((HERE / "findings.json").read_text())
    backend = [sys.executable, HERE / "backend.py", files]
    tables = {
        "slowhttptest": slow.judge(folder, backend),
        "tls": tls.judge(folder, python, listed),
        "redbot": headers.judge(folder, python, backend, listed),
    }
    for name, table in tables.items():
        document.hold(DOCUMENT, name, table)
    told_versions()


def served(folder):
    """What the backend has: a page that is old, and a file that does not fit into the buffers of a reader that does not read."""
    for name, size in (("app/page.txt", 100), ("app/big.bin", 2 << 20)):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size)
        os.utime(file, (1e9, 1e9))
    return folder


def told_versions():
    """Debian's packages have no versions of ours: those that judged are told."""
    command = ["dpkg-query", "--show", "slowhttptest", "sslscan", "testssl.sh"]
    print("  judged by " + ", ".join(subprocess.check_output(command, text=True).replace("\t", " ").splitlines()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
