"""REDbot: asks for a page in many ways (conditions, ranges, encodings) and looks at what HTTP says in the answers."""

import json
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import findings
from support import document
from support.gateway import GUARD, Gateway, forward
from support.oracle import same
from support.process import backend as running_backend

OWN = """
[[route]]
path = "/page"
service = "test-page"

[[route]]
path = "/health"
service = "health"

[[route]]
path = "/gone"
respond = { status = 410, body = "gone\\n" }

[[route]]
path = "/old"
redirect = "/new"
"""

ANSWERS = {
    "the test page": "/page",
    "the health check": "/health",
    "`respond` with a body": "/gone",
    "`redirect`": "/old",
    "no route": "/nowhere",
}
RELAYED = "/app/page.txt"


def judge(folder, python, backend, listed):
    """Has the gateway's own answers judged, and one of a backend, which must be judged as it is without the gateway."""
    own = folder / "redbot"
    own.mkdir()
    redbot = python.with_name("redbot")
    with running_backend(backend, own / "backend.log") as port, Gateway(own, forward(app=port) + OWN) as gateway:
        # REDbot asks no hosts file: the address itself.
        base = f"http://127.0.0.1:{gateway.port('plain')}"
        urls = {what: base + path for what, path in ANSWERS.items()}
        urls |= {"a backend's, through": base + RELAYED, "a backend's, direct": f"http://127.0.0.1:{port}{RELAYED}"}
        with ThreadPoolExecutor(2) as judges:
            notes = dict(zip(urls, judges.map(lambda url: ask(redbot, url), urls.values())))
    same("REDbot: a backend's answer", notes["a backend's, direct"], notes["a backend's, through"])
    complaints = [
        [f"{what}: {summary}", level]
        for what in (*ANSWERS, "a backend's, through")
        for level, summary in notes[what]
        if level in ("WARN", "BAD")
    ]
    findings.hold(listed, "REDbot", complaints)
    levels = ("GOOD", "INFO", "WARN", "BAD")
    rows = [[what, *(Counter(level for level, _ in told)[level] for level in levels)] for what, told in notes.items()]
    return document.table(["answer", "good", "information", "warning", "bad"], rows)


def ask(redbot, url):
    """REDbot's notes: their levels and what they say."""
    done = subprocess.run([redbot, "-o", "har", url], capture_output=True, text=True, timeout=GUARD, check=True)
    log = json.loads(done.stdout)["log"]
    if not log["entries"]:
        raise AssertionError(f"{url}: {log}")
    messages = [message for entry in log["entries"] for message in entry["_red_messages"]]
    return sorted([message["level"], message["summary"]] for message in messages)
