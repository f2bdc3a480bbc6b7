"""slowhttptest: many connections that send or read as slowly as they can."""

import csv
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from support import document
from support.gateway import GUARD, Gateway, forward
from support.oracle import same
from support.process import backend as running_backend

CONNECTIONS = 200

# As short as the tools allow: they count in seconds.
TIMEOUTS = """
[timeouts]
request_head = "2s"
keep_alive = "2s"
stall = "2s"
"""

# The name in the document, the path, what the tool is told, and what the record of each connection has: method, status, cause.
ATTACKS = [
    ("slow heads", "/app/page.txt", "-H -i 1 -l 20", (None, 408, "the head was not whole within timeouts.request_head")),
    ("slow bodies", "/app/page.txt", "-B -i 4 -l 20 -s 8192", ("POST", 408, "the client sent nothing of its body for timeouts.stall")),
    ("slow readers", "/app/big.bin", "-X -l 10 -n 1 -z 5 -w 10 -y 20 -k 3", ("GET", 200, "the client read nothing for timeouts.stall")),
    ("ranges", "/app/page.txt", "-R -l 20 -t HEAD", ("HEAD", 200, None)),
]


def judge(folder, backend):
    """Runs all attacks, one after the other, each by http and https at the same time; gives the table."""
    rows = []
    for name, path, options, end in ATTACKS:
        own = folder / name.replace(" ", "-")
        own.mkdir()
        with running_backend(backend, own / "backend.log") as port, Gateway(own, TIMEOUTS + forward(app=port)) as gateway:
            urls = {scheme: gateway.url(scheme, path) for scheme in ("http", "https")}
            with ThreadPoolExecutor() as attackers:
                available = list(attackers.map(lambda scheme: attack(own / scheme, urls[scheme], options), urls))
        same(f"slowhttptest, {name}: service available at all times", [True, True], available)
        for listener in ("plain", "tls"):
            same(f"slowhttptest, {name}: records of {listener}", CONNECTIONS, ends(gateway, listener)[end])
        _, status, cause = end
        told = f"{status}: {cause}" if cause else str(status)
        rows.append([name, f"`{options}`", CONNECTIONS, told, "always"])
    return document.table(["attack", "options", "connections", "the record of each", "service available"], rows)


def attack(prefix, url, options):
    """Whether the tool got an answer on its own probe connection each time that it looked."""
    command = ["slowhttptest", *options.split(), "-c", str(CONNECTIONS), "-r", "200", "-p", "10", "-g", "-o", prefix, "-u", url]
    with open(prefix.with_suffix(".log"), "w") as log:
        subprocess.run(command, stdout=log, stderr=log, timeout=GUARD, check=True)
    with open(prefix.with_suffix(".csv")) as file:
        looks = [int(row["Service Available"]) for row in csv.DictReader(file)]
    return len(looks) > 0 and all(looks)


def ends(gateway, listener):
    """How many requests of a listener ended how; among them are the tool's own probes, which end like no attack."""
    requests = [line for line in gateway.lines if line.get("record") == "request" and line["listener"] == listener]
    return Counter((line.get("method"), line.get("status"), line.get("cause")) for line in requests)
