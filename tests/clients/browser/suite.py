"""The test page in a real browser, Debian's Chromium, over http and https: it greets, a person types, closes, sees the code.

First over the gateway's own echo, then over a backend's. Pictures of both moments are kept in target/clients/browser.
"""

import json
import sys
from pathlib import Path

from support import install, place
from support.gateway import Gateway, forward
from support.oracle import same
from support.process import backend, transcript, until

HERE = Path(__file__).resolve().parent
PAGE = """
[[route]]
name = "page"
path = "/"
service = "test-page"

[[route]]
name = "echo"
path = "/echo"
service = "echo"
"""
ENDS = [["echo", 1000], ["backend", 4321]]


def main():
    folder = place.fresh(HERE.name)
    install.apt(chromium="chromium")
    options = {"env": install.node(install.npm(HERE / "package.json"))}
    log = folder / "backend.log"
    with backend(["node", HERE / "backend.js"], log, **options) as port:
        with Gateway(folder, forward(backend=port) + PAGE) as gateway:
            for count, scheme in enumerate(("http", "https"), start=1):
                visit(gateway, scheme, folder, options)
                heard = until(lambda: log.read_text().splitlines(), lambda lines: len(lines) >= count)
                same(f"{scheme}: the Close that the backend got", {"code": 4321, "reason": "seen enough"}, json.loads(heard[-1]))
    for scheme, listener in (("http", "plain"), ("https", "tls")):
        ended = [line for line in gateway.lines if "ended_by" in line and line["listener"] == listener]
        same(f"{scheme}: the records", ENDS, [[line["route"], line["close_code"]] for line in ended])


def visit(gateway, scheme, folder, options):
    pictures = folder / scheme
    pictures.mkdir()
    seen = transcript(["node", HERE / "visit.js", gateway.url(scheme, "/"), "/backend", pictures], **options)
    same(f"{scheme}: complaints of the browser", [], seen["complaints"])
    page = gateway.url("wss" if scheme == "https" else "ws", "")
    # The end of the first connection and the beginning of the second may be told in either order.
    expected = [
        f"CONNECTED: {page}/echo",
        "SENT: WebSocket rocks",
        "RESPONSE: WebSocket rocks",
        "DISCONNECTED: 1000 (normal closure)",
        f"CONNECTED: {page}/backend",
        "SENT: typed by a person",
        "RESPONSE: typed by a person",
        "DISCONNECTED: 4321 seen enough",
    ]
    same(f"{scheme}: the lines of the page", sorted(expected), sorted(seen["lines"]))


if __name__ == "__main__":
    sys.exit(main())
