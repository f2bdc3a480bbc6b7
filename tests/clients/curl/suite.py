"""curl, asked for all that it is used for, over http and https: what it gets, and what the backend gets, is as direct.

Of the heads only what is each connection's own may differ (Connection, Host, and what tells the backend who the client is):
those headers are named here, and everything else is compared.
"""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

from support import place
from support.gateway import GUARD, Gateway, certificates, forward
from support.oracle import same
from support.process import backend, until

HERE = Path(__file__).resolve().parent
BIG = 100 << 20

# What a proxy says of itself and of the client to the backend (README, "What the backend is told").
ADDED = {"via", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-real-ip", "x-request-id"}
# Each connection's own. Upgrade and HTTP2-Settings are of the connection that they came by (RFC 9110 section 7.8).
OWN = {"connection", "keep-alive", "host", "upgrade", "http2-settings", "te"}


def main():
    folder = place.fresh(HERE.name)
    big = folder / "big"
    with open(big, "wb") as file:
        for block in range(BIG >> 20):
            file.write(hashlib.sha256(bytes([block])).digest() * (1 << 15))
    log = folder / "backend.log"
    with backend([sys.executable, HERE / "backend.py"], log) as port, Gateway(folder, forward(shop=port)) as gateway:
        for what, count, arguments in conversations(big):
            direct = ask(f"http://localhost:{port}/shop", count, arguments, log)
            if what.startswith("h2c"):
                # Asked directly, the backend gets to see the offer; through the gateway it must not.
                expect("upgrade" in dict(direct["backend"][0]["all"]), "curl offers no h2c")
            for scheme in ("http", "https"):
                through = ask(gateway.url(scheme, "/shop"), count, arguments, log)
                same(f"{what}, {scheme}", told(direct), told(through))
                for request in through["backend"]:
                    names = {name for name, _ in request["all"]}
                    expect(not names & {"upgrade", "http2-settings"}, f"offers of another hop at the backend: {names}")
    requests = [line for line in gateway.lines if "status" in line]
    asked = sum(count for _, count, _ in conversations(big))
    same("one record a request", 2 * asked, len(requests))


def conversations(big):
    """What is asked, how many requests that makes, and curl's arguments with PATH: for the URLs."""
    page = hashlib.sha256(big.read_bytes()).hexdigest()
    return [
        ("GET", 1, ["PATH:/page"]),
        ("HEAD", 1, ["--head", "PATH:/page"]),
        ("POST", 1, ["--data", "a=1&b=2", "PATH:/form"]),
        ("PATCH with a query", 1, ["-X", "PATCH", "--data", "x", "PATH:/thing?a=%2F&b=c+d"]),
        ("DELETE", 1, ["-X", "DELETE", "PATH:/thing"]),
        ("OPTIONS", 1, ["-X", "OPTIONS", "PATH:/thing"]),
        ("h2c offered on a GET", 1, ["--http2", "PATH:/page"]),
        ("HTTP/1.0", 1, ["--http1.0", "PATH:/page"]),
        ("upload with a length", 1, ["-H", "Expect:", "-T", str(big), "PATH:/upload"]),
        ("upload in chunks", 1, ["-H", "Expect:", "-H", "Transfer-Encoding: chunked", "-T", str(big), "PATH:/upload"]),
        ("Expect, agreed to", 1, ["-H", "Expect: 100-continue", "-T", str(big), "PATH:/upload"]),
        ("Expect, refused", 1, ["-H", "Expect: 100-continue", "-T", str(big), "PATH:/too-large"]),
        ("download", 1, ["PATH:/big"]),
        ("range", 1, ["--range", "100-299", "PATH:/range"]),
        ("compressed, as it is", 1, ["-H", "Accept-Encoding: gzip", "PATH:/zipped"]),
        ("compressed, unpacked", 1, ["--compressed", "PATH:/zipped"]),
        ("redirect followed", 2, ["--location", "PATH:/moved"]),
        ("404", 1, ["PATH:/gone"]),
        ("204", 1, ["PATH:/nothing"]),
        ("trailers", 1, ["-H", "TE: trailers", "PATH:/trailers"]),
        ("three over one connection", 3, ["PATH:/page", "PATH:/gone", "PATH:/form"]),
        ("headers as they are", 1, ["-H", f"X-Sum: {page}", "-H", "Cookie: a=1; b=2", "-A", "a curl", "PATH:/page"]),
    ]


def ask(base, count, arguments, log):
    """What curl printed and what the backend heard. The bodies are told by their hash."""
    before = len(log.read_text().splitlines())
    urls = [base + argument.removeprefix("PATH:") if argument.startswith("PATH:") else argument for argument in arguments]
    tail = r"\n%{stderr}%{http_code} %{size_download} %{size_upload} %{num_connects} %{num_redirects}\n"
    command = ["curl", "--silent", "--show-error", "--cacert", certificates() / "ca.pem", "--dump-header", "-", "--write-out", tail]
    done = subprocess.run([*command, *urls], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=2 * GUARD)
    expect(done.returncode == 0, f"curl {urls}: exit code {done.returncode}: {done.stderr.decode()}")
    lines = until(lambda: log.read_text().splitlines()[before:], lambda lines: len(lines) >= count)
    return {"stdout": done.stdout, "summary": done.stderr.decode().split(), "backend": [heard(json.loads(line)) for line in lines]}


def heard(request):
    """The backend's request, and beside it all of its headers."""
    compared = [header for header in request["headers"] if header[0] not in ADDED | OWN]
    return {**request, "headers": sorted(compared), "all": request["headers"]}


def told(seen):
    """What is compared: heads without what is the connection's own, bodies by hash, curl's own figures."""
    text = seen["stdout"]
    heads = re.findall(rb"HTTP/1\.[01] \d{3}[^\r]*\r\n(?:[^\r]+\r\n)*", text)
    rest = text
    for head in heads:
        rest = rest.replace(head, b"", 1)
    if any(b"\r\nTrailer:" in head for head in heads):
        # The names of trailers pass in lower case; a name is the same in either (RFC 9110 section 5.1).
        rest = rest.lower()
    backend = [{name: value for name, value in request.items() if name != "all"} for request in seen["backend"]]
    # The backend sees HTTP/1.1 whatever the client speaks.
    backend = [{**request, "version": "HTTP/1.1"} for request in backend]
    return {
        "heads": [end_to_end(head) for head in heads],
        "body": [len(rest), hashlib.sha256(rest).hexdigest()],
        "summary": seen["summary"],
        "backend": backend,
    }


def end_to_end(head):
    first, *lines = head.decode().split("\r\n")[:-1]
    # The hop to curl has its own version (RFC 9110 section 2.5), connection and date.
    own = ("connection:", "keep-alive:", "date:", "via:")
    return [first.partition(" ")[2], *sorted(line.lower() for line in lines if not line.lower().startswith(own))]


def expect(true, message):
    if not true:
        raise AssertionError(message)


if __name__ == "__main__":
    sys.exit(main())
