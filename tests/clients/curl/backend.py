"""A backend of Python's own library, HTTP/1.1 by hand: what it answers is what the path asks for.

Says on standard error, one JSON object a request, exactly which head it got and what it read of the body.
"""

import gzip
import hashlib
import json
import re
import socket
import sys
import threading

BIG = 100 << 20
BLOCK = bytes(range(256)) * 256
PAGE = b"the quick brown fox jumps over the lazy dog\n" * 100


class Client:
    def __init__(self, stream):
        self.stream = stream
        self.file = stream.makefile("rb")

    def serve(self):
        while line := self.file.readline():
            method, path, version = line.decode().split()
            headers = []
            while (line := self.file.readline()) not in (b"\r\n", b""):
                name, _, value = line.decode().partition(":")
                headers.append([name.lower(), value.strip()])
            told = {"method": method, "path": path, "version": version, "headers": headers}
            self.answer(path.partition("?")[0].rpartition("/")[2], told, dict(headers), method == "HEAD")
            print(json.dumps(told), file=sys.stderr, flush=True)

    def answer(self, name, told, headers, head_only):
        if headers.get("expect") == "100-continue":
            if name == "too-large":
                return self.send("413 Content Too Large", b"no\n", head_only, "Connection: close")
            self.stream.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        told["body"] = self.read_body(headers)
        if name == "page":
            self.send("200 OK", PAGE, head_only, "ETag: \"fox\"", "Accept-Ranges: bytes")
        elif name == "range" and (wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", ""))):
            first, last = map(int, wanted.groups())
            range_header = f"Content-Range: bytes {first}-{last}/{len(PAGE)}"
            self.send("206 Partial Content", PAGE[first : last + 1], head_only, range_header)
        elif name == "zipped":
            self.send("200 OK", gzip.compress(PAGE, mtime=0), head_only, "Content-Encoding: gzip", "Vary: Accept-Encoding")
        elif name == "moved":
            self.send("302 Found", b"", head_only, "Location: page")
        elif name == "gone":
            self.send("404 Not Found", b"not here\n", head_only, "Content-Type: text/plain")
        elif name == "nothing":
            self.stream.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif name == "trailers":
            self.stream.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
            self.stream.sendall(b"5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n")
        elif name == "big":
            self.stream.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n".encode())
            for _ in range(BIG // len(BLOCK)):
                self.stream.sendall(BLOCK)
        else:
            self.send("200 OK", json.dumps(told["body"]).encode(), head_only, "Content-Type: application/json")

    def read_body(self, headers):
        """Its length and its hash; how it was framed is the head's."""
        digest, length = hashlib.sha256(), 0
        for part in self.parts(headers):
            digest.update(part)
            length += len(part)
        return {"bytes": length, "sha256": digest.hexdigest()}

    def parts(self, headers):
        if headers.get("transfer-encoding") == "chunked":
            while size := int(self.file.readline().partition(b";")[0], 16):
                yield self.file.read(size)
                self.file.readline()
            while self.file.readline() not in (b"\r\n", b""):
                pass
            return
        left = int(headers.get("content-length", 0))
        while left:
            part = self.file.read(min(left, len(BLOCK)))
            left -= len(part)
            yield part

    def send(self, status, body, head_only, *headers):
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
        self.stream.sendall("\r\n".join(lines).encode() + (b"" if head_only else body))


def main():
    server = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": server.getsockname()[1]}), flush=True)
    while True:
        stream, _ = server.accept()
        threading.Thread(target=Client(stream).serve, daemon=True).start()


main()
