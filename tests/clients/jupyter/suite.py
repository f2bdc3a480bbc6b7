"""Jupyter Server behind the gateway, as its users have it: a kernel runs cells, a terminal echoes.

By the gateway's http and https (ws and wss) a user sees what he sees without it: REST, both protocols of a kernel's
channels, output of 500 KB, a terminal until its end, close codes, and Jupyter's own refusals.

What Jupyter needs behind a gateway, all of it in ARGUMENTS below and in CONFIG:
- base_url is the path of the route: paths are forwarded as they come.
- local_hostnames names the public host. Jupyter on 127.0.0.1 answers 403 to every other Host ("Blocking request with
  non-local Host"), and the gateway passes on the client's.
- host_header stays "client", the default. Jupyter opens WebSockets only to pages whose Origin is its Host; with
  host_header = "endpoint" pages load and every kernel stays silent, for its WebSocket is a 403. This is tried here, too.
- trust_xheaders, so that it knows from X-Forwarded-Proto that the browser came by https, and marks its cookies Secure."""

import contextlib
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from support import install, oracle, place, process, tunnels
from support.gateway import GUARD, LISTENERS, Gateway, certificates

HERE = Path(__file__).resolve().parent
TOKEN = "a-token-of-the-suite"
HOST = "notebooks.example"
ARGUMENTS = [
    "--ServerApp.ip=127.0.0.1",
    "--ServerApp.port_retries=0",
    "--ServerApp.open_browser=False",
    "--ServerApp.allow_root=True",
    f"--IdentityProvider.token={TOKEN}",
    "--ServerApp.base_url=/jupyter/",
    f"--ServerApp.local_hostnames=['localhost', '{HOST}']",
    "--ServerApp.trust_xheaders=True",
    "--ServerApp.terminado_settings={'shell_command': ['/bin/sh']}",
]
CONFIG = """
[upstream.jupyter]
endpoints = ["127.0.0.1:{port}"]

[[route]]
name = "jupyter"
path = "/jupyter"
upstream = "jupyter"

[upstream.mistaken]
endpoints = ["127.0.0.1:{port}"]
host_header = "endpoint"

[[route]]
name = "mistaken"
host = "mistaken.example"
path = "/jupyter"
upstream = "mistaken"
"""


def main():
    folder = place.fresh("jupyter")
    python = install.venv(HERE / "requirements.txt")

    def client(url, host=HOST):
        return process.transcript([python, HERE / "client.py", url, host, TOKEN, certificates() / "ca.pem"])

    # The client connects to localhost, whatever its user has typed: its certificate is for no other.
    listeners = LISTENERS.replace("key = ", "strict_host = false, key = ")
    with jupyter(python, folder) as port, Gateway(folder, CONFIG.format(port=port), listeners) as gateway:
        direct = client(f"http://localhost:{port}/jupyter")
        believe(direct)
        for scheme in ("http", "https"):
            through = client(gateway.url(scheme, "/jupyter"))
            # The one thing that is to differ: Jupyter without the gateway is asked by http.
            secure = through.pop("cookie is secure")
            assert secure and set(secure) == {scheme == "https"}, secure
            oracle.same(f"transcript by {scheme}", {**direct, "cookie is secure": None}, {**through, "cookie is secure": None})
        mistaken = client(gateway.url("http", "/jupyter"), "mistaken.example")["checks"]
        oracle.same("a host that is not passed on", 403, mistaken["its own page"])

    # Two of the kernel, the terminal of a page, and the terminal that ended: Jupyter's Close of that one has no code.
    expected = [["jupyter", code] for code in (1000, 1000, direct["terminal"]["end"][1], 4001)]
    for listener in ("plain", "tls"):
        ends = [end for end in tunnels.ended(gateway, listener, loose=True) if end[0] != "mistaken"]
        print(f"  {listener}: {ends}")
        assert {by for _, by, _ in ends} == {"Closed"}, ends
        oracle.same(f"records of tunnels, {listener}", expected, [[route, code] for route, _, code in ends])


@contextlib.contextmanager
def jupyter(python, folder):
    """Jupyter Server with folders of its own; gives its port once it answers. Its kernels and terminals end with it."""
    port = process.free_port()
    work = folder / "work"
    work.mkdir()
    own = {name: str(folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    environment = {**os.environ, **own, "HOME": str(folder)}
    environment.pop("PYTHONPATH", None)
    command = [python, "-m", "jupyter_server", f"--ServerApp.port={port}", f"--ServerApp.root_dir={work}", *ARGUMENTS]
    with process.running(command, folder / "jupyter.log", env=environment) as running:
        answers(f"http://127.0.0.1:{port}/jupyter/api", running)
        yield port


def answers(url, running):
    end = time.monotonic() + GUARD
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(url, timeout=GUARD):
            return
        if running.poll() is not None or time.monotonic() > end:
            raise AssertionError("Jupyter Server does not answer; see jupyter.log")
        time.sleep(0.1)


def believe(direct):
    """What the client saw without the gateway is worth comparing: the features under test did take place."""
    seen = direct["kernel"]
    assert direct["without a token"] == 403 and seen["created"] == 201, direct
    assert seen["cell"]["begins"] == "42\n" and seen["cell"]["status"] == "ok", seen
    assert seen["large"]["size"] == 500_001 and seen["pong"] and seen["close"][0] == 4001, seen
    assert seen["subprotocol of the second"] == "v1.kernel.websocket.jupyter.org", seen
    assert seen["cell of the second"]["begins"] == "42\n" and seen["an error"]["error"] == "ZeroDivisionError", seen
    seen = direct["terminal"]
    assert seen["echo"] and seen["many lines"] and seen["end"][:2] == [["disconnect"], 1005], seen
    checks = {name: direct["checks"][name] for name in ("its own page", "a page of elsewhere", "no cookie", "a name that it does not know")}
    assert list(checks.values()) == ["opened", 403, 403, 403], checks


if __name__ == "__main__":
    main()
