"""Loads the gateway with what docs/load-testing.md shows: its commands as they stand there, each with as many records as it
says that it made tunnels or requests.

9,000 tunnels of the Python package websockets are open at the same time, each echoes, and each is closed with its code: to
the gateway's own echo, and relayed to a backend by the npm package ws. Then the gateway has as many descriptors as before.

A block `sh no-run` of the document whose first line begins with "# the suite `load` runs it" is run here, and the block
`text` behind it is what it printed once. The ports are those of the document, so all of it runs in a network namespace of
its own. Tools that take long to install or to run have their turn on demand: SPLICEWAY_LOAD="tsung artillery".
"""

import contextlib
import datetime
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

from support import install, place
from support.gateway import Gateway, certificates
from support.process import backend, until

HERE = Path(__file__).resolve().parent
DOCUMENT = place.ROOT / "docs" / "load-testing.md"
TUNNELS = "python3 docs/load-testing/tunnels.py"
IN_VAIN = "/in-vain"  # the end of the path of what is to fail: nobody can say how many records that makes
LONG = 300  # seconds for one load; a guard against hanging, nothing else

# By the word that a command begins with: where the tool says how many tunnels (or requests) it brought to their end.
SAID = {
    "python3": r"(\d+) closed with 4000",
    "k6": r"ws_sessions\.*: (\d+) ",
    "h2load": r"(\d+) succeeded",
    "tsung": r"stats: websocket_succ \d+ (\d+)",
    "artillery": r"vusers\.completed: \.* (\d+)",
}
ON_DEMAND = ("tsung", "artillery")

MORE = """
[[listener]]
name = "tls"
bind = "127.0.0.1:8443"
tls = {{ certificate = "{certs}/fullchain.pem", key = "{certs}/privkey.pem" }}

[upstream.two-endpoints]
endpoints = ["127.0.0.1:9000", "127.0.0.2:9000"]

[[route]]
path = "/backend/of-two-endpoints"
upstream = "two-endpoints"
"""


def main():
    if "SPLICEWAY_LOAD_ALONE" not in os.environ:
        return alone()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert descriptors >= 19000, f"9,000 relayed tunnels need more than {descriptors} descriptors: ulimit -Hn"
    folder = place.fresh("load")
    (folder / "docs").symlink_to(place.ROOT / "docs")
    configuration = (place.ROOT / "docs" / "load-testing" / "gateway.toml").read_text()
    with backend(["node", HERE / "backend.js"], folder / "backend.log", env=install.node(place.tools("npm-load"))):
        with Gateway(folder, configuration, MORE) as gateway:
            load = Load(gateway, folder)
            for command, printed in commands():
                if (tool := command.split()[0]) not in ON_DEMAND or tool in on_demand():
                    try:
                        load.run(command, printed)
                    finally:
                        if tool == "tsung":  # Erlang leaves a daemon behind
                            subprocess.run(["epmd", "-kill"], stdout=subprocess.DEVNULL)
            load.run(f"{TUNNELS} ws://127.0.0.1:8000/backend --tunnels 9000")
            authority = certificates() / "ca.pem"
            load.run(f"{TUNNELS} wss://localhost:8443/echo --ca {authority} --tunnels 1000 --messages 20 --size 3000")
            few_ports(load)
            print(f"  the gateway's memory at most: {peak_memory(gateway)}", flush=True)
    load.check_all()
    return 0


def on_demand():
    return os.environ.get("SPLICEWAY_LOAD", "").split()


def alone():
    """The same program in a network namespace of its own, when all that it needs is installed."""
    python = install.venv(HERE / "requirements.txt")
    install.npm(HERE / "package.json")
    install.apt(h2load="nghttp2-client", ip="iproute2", **{tool: tool for tool in on_demand() if tool == "tsung"})
    path = [str(python.parent), os.environ["PATH"]]
    if "artillery" in on_demand():
        path.insert(0, str(artillery()))
    certificates()
    namespace = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    environment = {**os.environ, "SPLICEWAY_LOAD_ALONE": "1", "PATH": ":".join(path)}
    return subprocess.run([*namespace, sys.executable, __file__], env=environment).returncode


def artillery():
    """As the document installs it, for it is 460 MB of packages; gives the folder of the program."""
    folder = place.tools("npm-load-artillery")
    if not (folder / "node_modules" / ".bin" / "artillery").exists():
        named = re.search(r"artillery@[\d.]+", DOCUMENT.read_text())[0]
        subprocess.run(["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", "--ignore-scripts", named], check=True)
    return folder / "node_modules" / ".bin"


def commands():
    """The commands of the document that are this suite's, each with what the document says that it printed."""
    text = DOCUMENT.read_text()
    found = re.findall(r"```sh no-run\n# the suite `load` runs it[^\n]*\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL)
    assert sorted(command.split()[0] for command, _ in found) == sorted(SAID), f"{DOCUMENT}: {found}"
    return found


def few_ports(load):
    """A thousand ports, and more tunnels: an address has that many ports towards another one, in front of the gateway and
    behind it. More addresses of clients and more endpoints have more.

    Each load has a thousand ports of its own: one that closed less than a second ago cannot be had again (tcp_tw_reuse)."""
    two_sources = "--tunnels 1500 --source 127.0.0.2 --source 127.0.0.3"
    with ports(40000):
        load.run_in_vain(f"{TUNNELS} ws://127.0.0.1:8000/echo{IN_VAIN} --tunnels 1500", "Cannot assign requested address")
    with ports(41000):
        load.run(f"{TUNNELS} ws://127.0.0.1:8000/echo {two_sources}")
    with ports(42000):
        load.run_in_vain(f"{TUNNELS} ws://127.0.0.1:8000/backend{IN_VAIN} {two_sources}", "HTTP 502")
    causes = {line.get("cause") for line in load.gateway.lines if line.get("status") == 502}
    assert causes == {"cannot connect: Cannot assign requested address (os error 99)"}, causes
    with ports(43000):
        load.run(f"{TUNNELS} ws://127.0.0.1:8000/backend/of-two-endpoints {two_sources}")


@contextlib.contextmanager
def ports(first):
    """A thousand from `first` on are all that a connection may come from, meanwhile."""
    known = Path("/proc/sys/net/ipv4/ip_local_port_range")
    all_ports = known.read_text()
    known.write_text(f"{first} {first + 999}")
    yield
    known.write_text(all_ports)


class Load:
    """Runs one load after the other, and holds each against the records that came meanwhile."""

    def __init__(self, gateway, folder):
        self.gateway, self.folder = gateway, folder
        self.descriptors = descriptors(gateway)
        self.taken = 0
        self.log = open(folder / "loads.log", "w")

    def shell(self, command):
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=self.folder, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LONG)
        print(f"$ {command}\n{done.stdout}", file=self.log, flush=True)
        return done.returncode, done.stdout

    def run(self, command, printed=None):
        print(f"  $ {command.strip()}", flush=True)
        code, output = self.shell(command)
        assert code == 0, f"exit code {code}: {output}"
        said = number(command, output)
        assert printed is None or number(command, printed) == said, f"{said}, and {DOCUMENT} has another number"
        until(lambda: descriptors(self.gateway), lambda now: now == self.descriptors)
        new = until(self.new, lambda new: len(new) >= said)
        assert len(new) == said, f"{len(new)} records; {said} by the tool"
        if command.startswith(TUNNELS):
            check_held(new, command)
        assert all(line["status"] in (101, 200) and "cause" not in line for line in new), self.gateway.log.name
        print(f"    {said} by the tool, {len(new)} records, {self.descriptors} descriptors as before", flush=True)
        self.taken += said

    def run_in_vain(self, command, reason):
        print(f"  $ {command}", flush=True)
        code, output = self.shell(command)
        assert code == 1 and reason in output, f"exit code {code}: {output}"
        print(f"    as it should: {output.strip()}", flush=True)

    def new(self):
        """The records that no load had so far."""
        return records(self.gateway)[self.taken :]

    def check_all(self):
        """To be asked when the gateway has ended: no record came later."""
        self.log.close()
        assert len(records(self.gateway)) == self.taken, f"{len(records(self.gateway))} records, {self.taken} by the tools"
        print(f"  {self.taken} tunnels and requests by the tools, as many records", flush=True)


def number(command, output):
    """How many tunnels or requests the tool says there were: the last that it says."""
    found = re.findall(SAID[command.split()[0]], output)
    assert found, f"the tool does not say how many: {output}"
    return int(found[-1])


def check_held(tunnels, command):
    """That these tunnels were all open at the same time, each moved the very bytes it should and was closed with its code."""

    def option(name, default):
        return int(match[1]) if (match := re.search(rf"--{name} (\d+)", command)) else default

    messages, size = option("messages", 3), option("size", 125)
    header = 2 if size < 126 else 4
    mask = 4  # of what a client sends
    wanted = {
        "sent": messages * (header + mask + size) + (2 + mask + 2),
        "received": messages * (header + size) + (2 + 2),
        # After the Close frames the server's FIN is first (RFC 6455 section 7.1.1); the gateway's own echo goes by the Close.
        "ended_by": "ServerClosed" if "/backend" in command else "ClientClosed",
        "close_code": 4000,
    }
    for tunnel in tunnels:
        assert wanted.items() <= tunnel.items(), f"not {wanted}: {tunnel}"
    ends = [datetime.datetime.fromisoformat(tunnel["timestamp"]).timestamp() * 1000 for tunnel in tunnels]
    last_begin = max(end - tunnel["lasted_ms"] for end, tunnel in zip(ends, tunnels))
    assert last_begin < min(ends), "not all were open at the same time"
    clients = {tunnel["client"] for tunnel in tunnels}
    assert len(clients) == len(tunnels) == option("tunnels", 1000), f"{len(clients)} clients, {len(tunnels)} tunnels"


def records(gateway):
    return [line for line in gateway.lines if "record" in line and not line["path"].endswith(IN_VAIN)]


def descriptors(gateway):
    return len(os.listdir(f"/proc/{gateway.process.pid}/fd"))


def peak_memory(gateway):
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    return re.search(r"VmHWM:\s+(.*)", status)[1]


if __name__ == "__main__":
    sys.exit(main())
