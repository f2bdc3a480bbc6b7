"""WebSocket clients and backends of several languages, each with each: direct, and through the gateway, ws and wss.

What a client sees (subprotocol, extensions, a message of 1 MB, 1,000 small ones, pings both ways, close codes both ways, a
refusal) must be the same through the gateway; so must the close code that the backend sees. Each tunnel has one record
that names its code.
"""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

from support import install, place
from support.gateway import Gateway, certificates, forward
from support.oracle import same
from support.process import backend, transcript, until

HERE = Path(__file__).resolve().parent
SUITE = HERE.name


def main():
    folder = place.fresh(SUITE)
    python = install.venv(HERE / "requirements.txt")
    npm = install.npm(HERE / "package.json")
    install.apt(javac="openjdk-17-jdk-headless")
    scripts = {"py": [python], "js": ["node"]}
    options = {"env": install.node(npm)}

    def program(file):
        return [*scripts[file.suffix[1:]], file]

    backends = {file.stem.removeprefix("backend_"): program(file) for file in sorted(HERE.glob("backend_*"))}
    clients = {file.stem.removeprefix("client_"): program(file) for file in sorted(HERE.glob("client_*"))}
    subprocess.run(["javac", "-d", folder, HERE / "Client.java"], check=True)
    clients["java"] = ["java", "-cp", folder, "Client"]
    certs = certificates()
    with contextlib.ExitStack() as stack:
        started = {}
        for name, command in backends.items():
            pair = [certs / "fullchain.pem", certs / "privkey.pem"]
            for scheme, arguments in (("ws", []), ("wss", pair)):
                log = folder / f"backend-{name}-{scheme}.log"
                started[name, scheme] = stack.enter_context(backend([*command, *arguments], log, **options)), log
        ports = {name: port for (name, scheme), (port, _) in started.items() if scheme == "ws"}
        gateway = stack.enter_context(Gateway(folder, forward(**ports)))
        for name in backends:
            for client, command in clients.items():
                compare(gateway, started, name, client, command, options)
    check_records(gateway, len(backends) * len(clients))


def compare(gateway, started, name, client, command, options):
    """The four ways of one client and one backend: direct and through, ws and wss."""
    ways = {}
    for scheme in ("ws", "wss"):
        port, log = started[name, scheme]
        ways[f"direct {scheme}"] = f"{scheme}://localhost:{port}/{name}", log
        ways[f"gateway {scheme}"] = gateway.url(scheme, f"/{name}"), started[name, "ws"][1]
    seen = {}
    for way, (url, log) in ways.items():
        before = len(log.read_text().splitlines())
        heard = transcript([*command, url, certificates() / "ca.pem"], **options)
        told = until(lambda: log.read_text().splitlines()[before:], lambda lines: len(lines) >= 2)
        # The two conversations of a client may end in either order.
        ends = sorted((json.loads(line) for line in told), key=lambda end: end["path"])
        seen[way] = {"client": heard, "backend": ends}
    check(**seen["direct ws"])
    for way in ("direct wss", "gateway ws", "gateway wss"):
        same(f"{client} to {name}: direct ws and {way}", seen["direct ws"], seen[way])


def check(client, backend):
    """That the comparison compares what it should: both did say and hear these."""
    expected = {"subprotocol", "big", "small", "pinged", "closed", "told", "refused"}
    if not expected <= client.keys() or client["subprotocol"] != "echo.v1" or client["pinged"] != "ponged":
        raise AssertionError(f"not a whole conversation: {client}")
    # Not what the client says of its own Close: some report the code that came back, some always 1000.
    heard = {line["path"].partition("by=")[2]: line["code"] for line in backend}
    if heard.get("client") != 4002 or "4001" not in json.dumps(client["told"]):
        raise AssertionError(f"other close codes: {client}, {backend}")


def check_records(gateway, pairs):
    """One record a tunnel, with the code that closed it, on both listeners."""
    for listener in ("plain", "tls"):
        tunnels = [line for line in gateway.lines if "ended_by" in line and line["listener"] == listener]
        codes = [line["close_code"] for line in tunnels]
        same(f"records of {listener}", {4001: pairs, 4002: pairs}, {code: codes.count(code) for code in set(codes)})
        if not all(line["sent"] and line["received"] for line in tunnels):
            raise AssertionError(f"a tunnel without bytes: {tunnels}")


if __name__ == "__main__":
    sys.exit(main())
