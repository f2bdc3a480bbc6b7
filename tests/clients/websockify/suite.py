"""websockify, which joins a WebSocket to a TCP server that knows none, behind the gateway.

Through the gateway, by ws and wss, Python's websockets sees what it sees without: the subprotocol binary, 1 MB and 1,000
small messages as a stream of bytes, a pong, its own close code, websockify's when the TCP server closes or cannot be
reached, and a page of the web server that websockify is as well."""

import contextlib
import socket
import sys
import time
from pathlib import Path

from support import install, oracle, place, process, tunnels
from support.gateway import GUARD, Gateway, certificates, forward

HERE = Path(__file__).resolve().parent
PAGE = "<!doctype html><title>a page</title>\n"


def main():
    folder = place.fresh("websockify")
    python = install.venv(HERE / "requirements.txt")
    web = folder / "web" / "tcp"
    web.mkdir(parents=True)
    (web / "page.html").write_text(PAGE)

    def client(tcp, unreachable):
        return process.transcript([python, HERE / "client.py", tcp, unreachable, certificates() / "ca.pem"])

    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        server = enter(process.backend([sys.executable, HERE / "backend.py"], folder / "backend.log"))
        tcp = enter(websockify(python, server, folder, "tcp"))
        nowhere = enter(websockify(python, enter(deaf()), folder, "unreachable"))
        gateway = enter(Gateway(folder, forward(tcp=tcp, unreachable=nowhere)))
        direct = client(f"ws://localhost:{tcp}/tcp", f"ws://localhost:{nowhere}/unreachable")
        believe(direct)
        for scheme in ("ws", "wss"):
            through = client(gateway.url(scheme, "/tcp"), gateway.url(scheme, "/unreachable"))
            oracle.same(f"transcript by {scheme}", direct, through)

    for listener in ("plain", "tls"):
        ends = tunnels.ended(gateway, listener, loose=True)
        print(f"  {listener}: {ends}")
        # Where websockify closes, it leaves without having read the client's Close: that the system answers by a reset.
        ways = {by for _, by, code in ends if code in (1000, 1011)}
        assert ways <= {"Closed", "ServerReset"}, ends
        assert {by for _, by, code in ends if code in (4001, 4002)} == {"Closed"}, ends
        expected = [("tcp", 1000), ("tcp", 4001), ("tcp", 4002), ("unreachable", 1011)]
        oracle.same(f"records of tunnels, {listener}", expected, sorted((route, code) for route, _, code in ends))
        oracle.same(f"records of requests, {listener}", {("GET", 200): 1, ("GET", 400): 1}, tunnels.answered(gateway, listener))


@contextlib.contextmanager
def websockify(python, server, folder, name):
    """websockify in front of a TCP server; gives its port once it listens."""
    port = process.free_port()
    command = [python, "-m", "websockify", "--web", folder / "web", f"127.0.0.1:{port}", f"127.0.0.1:{server}"]
    with process.running(command, folder / f"websockify-{name}.log") as running:
        listening(port, running)
        yield port


def listening(port, running):
    """Waits until somebody listens there: websockify says so in its log, and only after a pause of its output."""
    end = time.monotonic() + GUARD
    while True:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        if running.poll() is not None or time.monotonic() > end:
            raise AssertionError("websockify does not listen")
        time.sleep(0.05)


@contextlib.contextmanager
def deaf():
    """A port that is ours, so that nobody else can answer there, and that refuses: nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def believe(direct):
    """What the client saw without the gateway is worth comparing: the features under test did take place."""
    seen = direct["stream"]
    assert seen["subprotocol"] == "binary" and seen["close"][0] == 4001, seen
    assert seen["large"]["size"] == 1 << 20 and seen["pong"], seen
    assert all(seen[part]["equal"] for part in ("first", "large", "small")), seen
    assert direct["the server closes"]== {"bytes": "bye", "close": [1000, "Target closed"]}, direct
    assert direct["no server behind it"]["close"][0] == 1011, direct
    assert direct["a subprotocol that it does not speak"][0] == 400, direct
    assert direct["a page"][0] == 200 and direct["a page"][3] == PAGE, direct


if __name__ == "__main__":
    main()
