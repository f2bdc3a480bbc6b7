"""Debian's Chromium, headless, before the gateway's test page, over http and https.

What a new user sees first: SENT and RESPONSE of "WebSocket rocks", messages typed by hand that come back, the code of
the close, a backend's echo behind the gateway and its close. No word of complaint in the browser's console. Screenshots
are left under target/clients/browser/."""

from pathlib import Path

from support import install, oracle, place, process, tunnels
from support.gateway import Gateway, forward

HERE = Path(__file__).resolve().parent
PAGES = """
[[route]]
name = "page"
service = "test-page"

[[route]]
name = "echo"
path = "/echo"
service = "echo"
"""


def main():
    folder = place.fresh("browser")
    install.apt(chromium="chromium")
    environment = install.node(install.npm(HERE / "package.json"))

    def visit(url):
        return process.transcript(["node", HERE / "visit.js", url, folder], env=environment)

    with process.backend(["node", HERE / "backend.js"], folder / "backend.log", env=environment) as port:
        with Gateway(folder, PAGES + forward(backend=port)) as gateway:
            for scheme in ("http", "https"):
                base = gateway.url(scheme, "").replace("http", "ws", 1)
                oracle.same(f"the page over {scheme}", expected(base), visit(gateway.url(scheme, "/")))

    # The last is of a page that was left: Chromium says 1001.
    ended = [["backend", 4321], ["echo", 1001], ["echo", 4001]]
    for listener in ("plain", "tls"):
        ends = tunnels.ended(gateway, listener, loose=True)
        print(f"  {listener}: {ends}")
        oracle.same(f"records of tunnels, {listener}", ended, [[route, code] for route, _, code in ends])
    assert len(list(folder.glob("*.png"))) == 10, "screenshots are missing"


def expected(base):
    """All that the page shows, line by line."""
    greeting = [f"CONNECTED: {base}/echo", *both("WebSocket rocks")]
    typed = [*greeting, *both("Grüße, 世界 👋"), *both("by Enter"), *both("(binary, 5 bytes) 62 79 74 65 73")]
    # The code comes back; the reason was for the server.
    closed = [*typed, "DISCONNECTED: 4001"]
    large = "x... (100000 characters)"
    order = "SENT: close 4321 the backend's wish"
    return {
        "page": {"status": 200, "title": "WebSocket test - Spliceway"},
        "greeting": [*greeting, "(Connected)"],
        "typed": [*typed, "(Connected)"],
        "closed": [*closed, "(Disconnected)"],
        "unsent": [*closed, "NOT SENT: there is no connection", "(Disconnected)"],
        "cleared": ["(Disconnected)"],
        "backend": [f"CONNECTED: {base}/backend", *both(large), order, "DISCONNECTED: 4321 the backend's wish", "(Disconnected)"],
        "fits": True,
        "sockets": [f"{base.partition(':')[0]}:{path}" for path in ("/echo", "/backend", "/echo")],
        "complaints": [],
    }


def both(text):
    return [f"SENT: {text}", f"RESPONSE: {text}"]


if __name__ == "__main__":
    main()
