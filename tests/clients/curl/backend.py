"""A backend for curl, of the standard library alone: it writes down exactly what it was asked, and answers by the path.

backend.py BLOB LOG: BLOB is the large file that is served and expected; each request is one JSON line of LOG, written
before its answer, so that a client that has its answer finds it there."""

import gzip
import hashlib
import json
import re
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BLOB, LOG = Path(sys.argv[1]), open(sys.argv[2], "w")
PIECE = 256 << 10
TEXT = b"".join(b"line %d of a text that compresses well\n" % number for number in range(5000))
# Times of 0: the same bytes at each start, whatever the day.
CODED = {"gzip": gzip.compress(TEXT, mtime=0), "deflate": zlib.compress(TEXT)}
writing = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one_request(self):
        # What the connection has left of the request before must not be told of this one.
        self.body = self.trailers = None
        super().handle_one_request()

    def handle_expect_100(self):
        refusal = re.fullmatch(r"/curl/refuses/(\d+)", self.path)
        if refusal is None:
            return super().handle_expect_100()
        self.answer(int(refusal[1]), b"not this\n", Connection="close")
        # The client may have sent some of its body all the same.
        self.close_connection = True
        return False

    def send_response_only(self, code, message=None):
        """In the version of the client: what an HTTP/1.0 client is told does not depend on who stands between."""
        self.protocol_version = self.request_version
        super().send_response_only(code, message)
        self.protocol_version = Handler.protocol_version

    def log_message(self, *_):
        pass

    def do_any(self):
        self.read_body()
        name, _, rest = self.path.partition("?")[0].removeprefix("/curl/").partition("/")
        getattr(self, "at_" + name.replace("-", "_"), self.at_nowhere)(rest)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_REPORT = do_any

    # What is there.

    def at_nowhere(self, _):
        self.answer(404, b"not here\n")

    def at_hello(self, _):
        self.answer(200, b"hello, world\n", ETag='"v1"', Cache_Control="max-age=60")

    def at_body(self, _):
        """Tells the client what arrived of its body."""
        self.answer(200, json.dumps(self.body).encode(), Content_Type="application/json")

    at_refuses = at_body

    def at_cookies(self, _):
        self.answer(200, b"two of them\n", Set_Cookie=["a=1; Path=/", "b=2; Path=/; HttpOnly"], X_Empty="")

    def at_unchanged(self, _):
        known = self.headers.get("If-None-Match") == '"v1"'
        self.answer(304 if known else 200, b"" if known else b"new\n", ETag='"v1"')

    def at_nothing(self, _):
        self.answer(204, b"")

    def at_moved(self, code):
        self.answer(int(code), b"elsewhere\n", Location="/curl/body")

    def at_moved_far(self, _):
        self.answer(301, b"", Location="https://elsewhere.example:8443/a%20b?c=d#e")

    def at_coded(self, coding):
        accepted = [token.strip() for token in self.headers.get("Accept-Encoding", "").split(",")]
        if coding in accepted:
            self.answer(200, CODED[coding], Content_Encoding=coding, Vary="Accept-Encoding")
        else:
            self.answer(200, TEXT, Vary="Accept-Encoding")

    def at_blob(self, _):
        size = BLOB.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self.answer(200, None, size=size, Accept_Ranges="bytes")
        first, last = wanted.groups()
        start = int(first) if first else size - int(last)
        end = min(int(last) + 1 if first and last else size, size)
        if start >= size:
            return self.answer(416, b"", Content_Range=f"bytes */{size}")
        self.answer(206, None, start=start, size=end - start, Content_Range=f"bytes {start}-{end - 1}/{size}")

    def at_stream(self, _):
        """The blob without a length: in chunks, or for HTTP/1.0 until the end of the connection."""
        chunked = self.request_version == "HTTP/1.1"
        self.head(200, **({"Transfer_Encoding": "chunked"} if chunked else {"Connection": "close"}))
        with BLOB.open("rb") as blob:
            while piece := blob.read(PIECE):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True

    def at_trailers(self, _):
        self.head(200, Transfer_Encoding="chunked", Trailer="X-Sum, X-Count")
        self.wfile.write(b"3\r\nabc\r\n4;extension=1\r\ndefg\r\n0\r\nX-Sum: 7\r\nX-Count: 2\r\n\r\n")

    # How it is read, written down and answered.

    def read_body(self):
        digest, size = hashlib.sha256(), 0
        for piece in self.chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.counted():
            digest.update(piece)
            size += len(piece)
        self.body = {"size": size, "sha256": digest.hexdigest()}

    def counted(self):
        left = int(self.headers.get("Content-Length", "0"))
        while left > 0:
            piece = self.rfile.read(min(left, PIECE))
            if not piece:
                raise ConnectionError(f"{left} bytes are missing")
            left -= len(piece)
            yield piece

    def chunks(self):
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            piece = self.rfile.read(size)
            if len(piece) != size or self.rfile.readline() != b"\r\n":
                raise ConnectionError("a chunk is cut off")
            yield piece
        self.trailers = []
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            self.trailers.append(line.decode("latin-1").strip())

    def head(self, status, **headers):
        self.write_down(status)
        self.send_response_only(status)
        # Not today's: two answers are compared byte for byte.
        for name, values in {"Date": "Thu, 01 Jan 2026 00:00:00 GMT", "Server": "plain", **headers}.items():
            for value in values if isinstance(values, list) else [values]:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def answer(self, status, body, start=0, size=None, **headers):
        """An answer with a body of known length: `body`, or `size` bytes of the blob."""
        length = {} if status in (204, 304) else {"Content_Length": str(len(body) if size is None else size)}
        self.head(status, **{"Content_Type": "text/plain", **length, **headers})
        if self.command == "HEAD" or status in (204, 304):
            return
        if size is None:
            self.wfile.write(body)
            return
        with BLOB.open("rb") as blob:
            self.connection.sendfile(blob, start, size)

    def write_down(self, status):
        seen = {
            "request": self.requestline,
            "headers": [list(pair) for pair in self.headers.items()],
            "body": self.body,
            "trailers": self.trailers,
            "status": status,
        }
        with writing:
            LOG.write(json.dumps(seen) + "\n")
            LOG.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True


def main():
    with Server(("127.0.0.1", 0), Handler) as server:
        print(json.dumps({"port": server.server_port}), flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
