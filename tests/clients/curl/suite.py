"""curl, as people use it on a web site: every kind of request, body and answer, 200 MB up and down.

For each case the statuses, all heads (the 100 of an Expect too), the bytes, the connections that curl needed, and what
the backend wrote down about the requests are the same through the gateway, by http and https, as without it. Beside
what hop-by-hop headers carry, a backend is told nothing else than the client's address, and nothing less than the
client said."""

import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from support import install, oracle, place, process, tunnels
from support.gateway import GUARD, Gateway, certificates, forward

HERE = Path(__file__).resolve().parent
SIZE = 200 << 20

# Of one connection: they end at the gateway, and it says its own.
HOP_BY_HOP = {"connection", "keep-alive", "upgrade", "http2-settings"}
TOLD = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "forwarded", "via", "x-request-id"}

# Each case is what stands behind "curl". A word that begins with "/" is a path of the server, "BLOB" the large file.
# --expect100-timeout: curl would send its body after a second without a 100, and the answer would depend on the pace.
WAITING = ["--expect100-timeout", str(GUARD)]
CASES = {
    "GET": ["/curl/hello"],
    "HEAD": ["-I", "/curl/hello"],
    "POST": ["-d", "a=b&c=d", "/curl/body"],
    "POST of nothing": ["-X", "POST", "/curl/body"],
    "other methods": [*("-X", "DELETE", "/curl/body"), "--next", *("-X", "OPTIONS", "/curl/body"), "--next", *("-X", "REPORT", "-d", "x", "/curl/body")],
    "PATCH in chunks": ["-X", "PATCH", "-H", "Transfer-Encoding: chunked", "--data-binary", "@SMALL", "/curl/body"],
    "a query and escapes": ["--globoff", "/curl/hello?q=a%20b&r=%2F&s=[1]"],
    "credentials and cookies": ["-u", "user:secret", "-b", "session=1; theme=dark", "-A", "an agent/1.0", "-e", "https://from.example/", "/curl/cookies"],
    "a header twice, and an empty one": ["-H", "X-Twice: one", "-H", "X-Twice: two", "-H", "X-Nothing;", "/curl/hello"],
    "not there": ["/curl/elsewhere"],
    "204 and 304": ["/curl/nothing", "-o", "-", "-H", 'If-None-Match: "v1"', "/curl/unchanged", "-o", "-"],
    "h2c offered on a GET": ["--http2", "/curl/hello"],
    "h2c offered on a HEAD": ["--http2", "-I", "/curl/hello"],
    "h2c offered on a POST": ["--http2", "-d", "a=b", "/curl/body"],
    "HTTP/1.0": ["--http1.0", "/curl/hello"],
    "HTTP/1.0, POST": ["--http1.0", "-d", "a=b", "/curl/body"],
    "HTTP/1.0, a body without a length": ["--http1.0", "/curl/stream"],
    "an upload": ["-T", "BLOB", *WAITING, "/curl/body"],
    "an upload without Expect": ["-T", "BLOB", "-H", "Expect:", "/curl/body"],
    "an upload from a pipe, in chunks": ["-T", "-", *WAITING, "/curl/body"],
    "an upload in chunks, without Expect": ["-T", "BLOB", "-H", "Transfer-Encoding: chunked", "-H", "Expect:", "/curl/body"],
    "Expect, refused by 413": ["-T", "BLOB", *WAITING, "/curl/refuses/413"],
    "Expect of chunks, refused by 413": ["-T", "-", *WAITING, "/curl/refuses/413"],
    # Some versions of curl ask again without Expect, on a new connection if they must.
    "Expect, refused by 417": ["-T", "BLOB", *WAITING, "/curl/refuses/417"],
    "a download": ["/curl/blob"],
    "a download in chunks": ["/curl/stream"],
    "a slow reader": ["--limit-rate", "4M", "-r", "0-8388607", "/curl/blob"],
    "Range": ["-r", "1000-1999", "/curl/blob", "-r", "1000-1999"],
    "Range, the end": ["-r", "-500", "/curl/blob"],
    "Range, a download goes on": ["-C", str(SIZE - 100_000), "/curl/blob"],
    "Range, beyond the end": ["-r", f"{SIZE}-", "/curl/blob"],
    "gzip, decoded": ["--compressed", "/curl/coded/gzip"],
    "gzip, raw": ["-H", "Accept-Encoding: gzip", "/curl/coded/gzip"],
    "deflate, decoded": ["--compressed", "/curl/coded/deflate"],
    "deflate, raw": ["-H", "Accept-Encoding: deflate", "/curl/coded/deflate"],
    "gzip, not asked for": ["/curl/coded/gzip"],
    "gzip, HEAD": ["-I", "-H", "Accept-Encoding: gzip", "/curl/coded/gzip"],
    "redirect 301 of a POST": ["-L", "-d", "a=b", "/curl/moved/301"],
    "redirect 303 of a PUT": ["-L", "-T", "SMALL", "/curl/moved/303"],
    "redirect 307 of a POST": ["-L", "-d", "a=b", "/curl/moved/307"],
    "redirect 308 of a GET": ["-L", "/curl/moved/308"],
    "redirect to elsewhere, not followed": ["/curl/moved-far"],
    "one connection for many": [*("/curl/hello", "-o", "-", "/curl/coded/gzip", "-o", "-", "/curl/nothing", "-o", "-"), *("/curl/blob", "-o", "-", "/curl/cookies", "-o", "-", "/curl/elsewhere", "-o", "-", "/curl/body", "-o", "-")],
    "one connection for many, kinds in turn": [*("-I", "/curl/blob"), "--next", *("-d", "a=b", "/curl/body"), "--next", *("-T", "SMALL", "/curl/body"), "--next", *("-r", "0-9", "/curl/blob"), "--next", *("-I", "/curl/coded/gzip"), "--next", "/curl/hello"],
    "trailers": ["-H", "TE: trailers", "-H", "Connection: TE", "/curl/trailers"],
}


def main():
    folder = place.fresh("curl")
    install.apt(curl="curl")
    blob, small = folder / "blob", folder / "small"
    write(blob, SIZE)
    write(small, 70_000)
    log = folder / "requests.log"
    try:
        with process.backend([sys.executable, HERE / "backend.py", blob, log], folder / "backend.log") as port:
            with Gateway(folder, forward(curl=port)) as gateway, log.open() as requests:
                answered, large = compare(Curl(folder, requests), port, gateway)
    finally:
        blob.unlink()
    for listener, expected in answered.items():
        found = tunnels.answered(gateway, listener)
        oracle.same(f"records of requests, {listener}", sorted(expected.items()), sorted(found.items()))
        oracle.same(f"records of large bodies, {listener}", large[listener], moved(gateway, listener))
    assert not [line for line in gateway.lines if line.get("record") == "tunnel"], "h2c has become a tunnel"


def write(file, size):
    """Bytes that do not repeat, the same at each run."""
    source = random.Random(size)
    with file.open("wb") as output:
        for start in range(0, size, 1 << 20):
            output.write(source.randbytes(min(1 << 20, size - start)))


def compare(curl, port, gateway):
    """Runs each case three times; gives, for each listener, how often the backend gave which answer, and how many bodies
    of 200 MB there were."""
    answered = {"plain": Counter(), "tls": Counter()}
    large = {"plain": {"up": 0, "down": 0}, "tls": {"up": 0, "down": 0}}
    for name, words in CASES.items():
        direct = curl.run(words, "http", port)
        believe(name, direct)
        for listener, scheme in (("plain", "http"), ("tls", "https")):
            through = curl.run(words, scheme, gateway.port(listener))
            for request in through["requests"]:
                answered[listener][request["request"].split()[0], request["status"]] += 1
                large[listener]["up"] += (request["body"] or {}).get("size") == SIZE
            large[listener]["down"] += through["body"]["size"] >= SIZE
            told(name, through, scheme)
            oracle.same(f"{name}, {scheme}", end_to_end(direct), end_to_end(through))
    return answered, large


class Curl:
    """Runs curl and tells what it saw, and what the backend saw of it."""

    def __init__(self, folder, requests):
        self.folder = folder
        self.requests = requests

    def run(self, words, scheme, port):
        # Both URLs are "localhost" without a port, and so is Host, wherever the connection goes.
        names = {"BLOB": self.folder / "blob", "@SMALL": f"@{self.folder / 'small'}", "SMALL": self.folder / "small"}
        words = [self.word(word, scheme, names) for word in words]
        heads = self.folder / "heads"
        each = [*("-s", "-D", heads, "-w", "%{stderr}%{json}\n", "-o", "-", "--max-time", str(GUARD)), *self.way(scheme, port)]
        heads.write_bytes(b"")
        command = ["curl", "-q", *each]
        for word in words:
            command += [word, *each] if word == "--next" else [word]
        with (self.folder / "blob").open("rb") as stdin, (self.folder / "transfers").open("w+") as transfers:
            with subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=transfers) as curl:
                digest, size = hashlib.sha256(), 0
                while piece := curl.stdout.read(1 << 18):
                    digest.update(piece)
                    size += len(piece)
            transfers.seek(0)
            return {
                "exit code": curl.returncode,
                "transfers": [transfer(json.loads(line), scheme) for line in transfers],
                "heads": parse(heads.read_bytes()),
                "body": {"size": size, "sha256": digest.hexdigest()},
                "requests": [json.loads(line) for line in self.requests],
            }

    def word(self, word, scheme, names):
        if word.startswith("/"):
            return f"{scheme}://localhost{word}"
        return str(names.get(word, word.replace("@SMALL", str(names["@SMALL"]))))

    def way(self, scheme, port):
        standard = {"http": 80, "https": 443}[scheme]
        return ["--connect-to", f"localhost:{standard}:127.0.0.1:{port}", "--cacert", certificates() / "ca.pem"]


def transfer(told, scheme):
    """What curl says of one transfer, without times and ports."""
    keys = ("http_code", "http_version", "num_connects", "num_redirects", "size_upload", "size_download", "content_type", "exitcode")
    urls = {key: (told[key] or "").removeprefix(f"{scheme}://localhost") for key in ("url_effective", "redirect_url")}
    return {key: told[key] for key in keys} | urls


def parse(heads):
    """All heads that curl received, as [start line, headers, trailers]. Names of trailers in lower case: unlike those of
    headers, their spelling is not kept."""
    blocks, within = [], False
    for line in heads.decode("latin-1").splitlines():
        name, _, value = line.partition(":")
        if line.startswith("HTTP/"):
            blocks.append([line, [], []])
            within = True
        elif not line:
            within = False
        elif within:
            blocks[-1][1].append([name, value.strip()])
        else:
            blocks[-1][2].append([name.lower(), value.strip()])
    return blocks


def end_to_end(seen):
    """Without what one connection is for, and what a backend is told by the gateway."""
    requests = []
    for request in seen["requests"]:
        start = request["request"].rpartition(" ")[0]
        headers = kept(request["headers"], HOP_BY_HOP | TOLD)
        requests.append({**request, "request": start, "headers": headers})
    heads = [[start, kept(headers, HOP_BY_HOP), sorted(trailers)] for start, headers, trailers in seen["heads"]]
    return {**seen, "requests": requests, "heads": heads}


def kept(headers, without):
    return sorted(pair for pair in headers if pair[0].lower() not in without)


def told(name, through, scheme):
    """What the backend got from the gateway itself, and that nothing of HTTP/2 got there."""
    for request in through["requests"]:
        headers = {key.lower(): value for key, value in request["headers"]}
        assert TOLD <= headers.keys(), f"{name}: not told {TOLD - headers.keys()}"
        assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("127.0.0.1", scheme), headers
        assert headers["x-forwarded-host"] == "localhost" and headers["host"] == "localhost", headers
        assert not headers.keys() & {"upgrade", "http2-settings"}, f"{name}: {headers}"
        assert request["request"].endswith(" HTTP/1.1"), request["request"]


def believe(name, direct):
    """What curl saw without the gateway is worth comparing: the feature under test did take place."""
    first = {key.lower(): value for key, value in direct["requests"][0]["headers"]}
    codes = [int(start.split()[1]) for start, *_ in direct["heads"]]
    assert direct["exit code"] == 0 and direct["transfers"] and direct["requests"], direct
    if name.startswith("h2c"):
        assert first["upgrade"] == "h2c" and "http2-settings" in first and codes == [200], direct
    if name.startswith("HTTP/1.0"):
        assert direct["requests"][0]["request"].endswith(" HTTP/1.0"), direct
    if "an upload" in name:
        assert direct["requests"][0]["body"]["size"] == SIZE, direct
        assert ("transfer-encoding" in first) == ("in chunks" in name), direct
        assert codes == [200] if "without Expect" in name else [100, 200], direct
    if name.startswith("Expect"):
        assert first["expect"] == "100-continue" and direct["requests"][0]["body"] is None, direct
        assert codes[0] == int(name[-3:]), direct
    if name.startswith("a download") or name == "HTTP/1.0, a body without a length":
        assert direct["body"]["size"] == SIZE, direct
    if name.startswith("Range"):
        assert codes == [416] if "beyond" in name else codes == [206], direct
    if ", raw" in name or ", decoded" in name:
        assert any(key == "Content-Encoding" for key, _ in direct["heads"][0][1]), direct
    if name.startswith("redirect") and "elsewhere" not in name:
        assert direct["transfers"][0]["num_redirects"] == 1 and codes[-1] == 200, direct
    if name.startswith("one connection"):
        connects = [transfer["num_connects"] for transfer in direct["transfers"]]
        assert len(connects) > 5 and sum(connects) == 1, direct
    if name == "trailers":
        assert direct["heads"][0][2] == [["x-sum", "7"], ["x-count", "2"]], direct


def moved(gateway, listener):
    """The records count the bytes of bodies: how many have 200 MB, exactly, either way."""
    records = [line for line in gateway.lines if line.get("record") == "request" and line["listener"] == listener]
    up, down = ([line[way] for line in records if line[way] >= SIZE] for way in ("sent", "received"))
    assert set(up) == set(down) == {SIZE}, (up, down)
    return {"up": len(up), "down": len(down)}


if __name__ == "__main__":
    main()
