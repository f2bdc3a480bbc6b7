"""A backend for the judges: the files of the folder DIRECTORY, as Python's own server sends them; a POST is read whole and answered
with 204."""

import functools
import json
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class Files(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()


server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=sys.argv[1]))
print(json.dumps({"port": server.server_port}), flush=True)
server.serve_forever()
