"""A TCP server that knows nothing of WebSockets: it sends back what it gets, and closes after b"bye"."""

import json
import socketserver


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
            if data.endswith(b"bye"):
                return


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


with Server(("127.0.0.1", 0), Echo) as server:
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    server.serve_forever()
