"""client.py URL HOST TOKEN CA: what a user of Jupyter Server sees, as one line of JSON.

URL says where to connect; HOST is the name that the user typed, which the browser tells in Host and Origin."""

import hashlib
import json
import socket
import ssl
import struct
import sys
import urllib.error
import urllib.request
import uuid
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

GUARD = 60
V1 = "v1.kernel.websocket.jupyter.org"


class Server:
    def __init__(self, url, host, token, authority):
        self.url, self.host, self.token = urlsplit(url), host, token
        self.secure = self.url.scheme == "https"
        self.trust = ssl.create_default_context(cafile=authority)

    def ask(self, method, path, body=None, host=None, token=True):
        """Status, headers and JSON of an answer."""
        headers = {"Host": host or self.host, "Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"token {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url.geturl() + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=GUARD, context=self.trust) as answer:
                text = answer.read()
                return answer.status, answer.headers, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            return error.code, error.headers, None

    def open(self, path, subprotocols=None, host=None, origin=None, cookie=None):
        """A WebSocket, by the token, or as a browser does by its cookie and with its Origin."""
        name = host or self.host
        headers = {"Cookie": cookie} if cookie else {"Authorization": f"token {self.token}"}
        way = {"ssl": self.trust, "server_hostname": "localhost"} if self.secure else {}
        return connect(
            f"{'wss' if self.secure else 'ws'}://{name}{self.url.path}{path}",
            sock=socket.create_connection((self.url.hostname, self.url.port), GUARD),
            subprotocols=subprotocols,
            origin=f"{self.url.scheme}://{name}" if cookie and origin is None else origin,
            additional_headers=headers,
            open_timeout=GUARD,
            max_size=None,
            **way,
        )


def main(*words):
    server = Server(*words)
    seen = {"status": server.ask("GET", "/api/status")[0], "without a token": server.ask("GET", "/api/kernels", token=False)[0]}
    seen["kernel"] = kernel(server)
    seen["terminal"] = terminal(server)
    seen["checks"], seen["cookie is secure"] = checks(server)
    print(json.dumps(seen))


# A kernel

def kernel(server):
    status, _, made = server.ask("POST", "/api/kernels", {"name": "python3"})
    path = f"/api/kernels/{made['id']}"
    seen = {"created": status, "name": made["name"]}
    with server.open(f"{path}/channels?session_id={uuid.uuid4()}") as channels:
        seen["subprotocol"] = channels.subprotocol
        seen["extensions"] = [extension.name for extension in channels.protocol.extensions]
        seen["cell"] = run(channels, "answer = 6*7\nprint(6*7)")
        seen["large"] = run(channels, "print('0123456789' * 50_000)")
        seen["pong"] = channels.ping(b"there?").wait(GUARD)
        channels.close(4001, "as I wish")
        seen["close"] = [channels.close_code, channels.close_reason]
    # The kernel outlives the connection, which may be opened anew in the other of Jupyter's two protocols.
    with server.open(f"{path}/channels?session_id={uuid.uuid4()}", [V1]) as channels:
        seen["subprotocol of the second"] = channels.subprotocol
        seen["cell of the second"] = run(channels, "print(answer)")
        seen["an error"] = run(channels, "1/0")
        channels.close(1000)
    seen["deleted"] = server.ask("DELETE", path)[0]
    return seen


def run(channels, code):
    """Runs a cell: what it printed and how it ended. The order of messages of different channels is theirs to race for."""
    pack, unpack = (pack_v1, unpack_v1) if channels.subprotocol == V1 else (pack_json, unpack_json)
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "", "session": "s", "version": "5.3"}
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    channels.send(pack({"header": header, "parent_header": {}, "metadata": {}, "content": content}))
    printed, reply, idle, kind = "", None, False, None
    while reply is None or not idle:
        frame = channels.recv(timeout=GUARD)
        kind = type(frame).__name__
        message = unpack(frame)
        if message["parent_header"].get("msg_id") != header["msg_id"]:
            continue
        content, name = message["content"], message["header"]["msg_type"]
        if name == "stream":
            printed += content["text"]
        elif name == "execute_reply":
            reply = {"status": content["status"], "count": content["execution_count"], "error": content.get("ename")}
        elif name == "status":
            idle = content["execution_state"] == "idle"
    digest = hashlib.sha256(printed.encode()).hexdigest()
    return {"begins": printed[:20], "size": len(printed), "sha256": digest, "frames": kind, **reply}


def pack_json(message):
    return json.dumps({"channel": "shell", "buffers": [], **message})


def unpack_json(frame):
    """Text, or a binary frame that begins with its count of parts and their offsets."""
    if isinstance(frame, bytes):
        count, first, second = struct.unpack("!III", frame[:12])
        frame = frame[first : second if count > 1 else None]
    return json.loads(frame)


def pack_v1(message):
    parts = [b"shell", *(json.dumps(message[name]).encode() for name in ("header", "parent_header", "metadata", "content"))]
    offsets = [8 * (2 + len(parts))]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    return struct.pack(f"<{1 + len(offsets)}Q", len(offsets), *offsets) + b"".join(parts)


def unpack_v1(frame):
    (count,) = struct.unpack("<Q", frame[:8])
    offsets = struct.unpack(f"<{count}Q", frame[8 : 8 + 8 * count])
    parts = [frame[start:end] for start, end in zip(offsets, offsets[1:])]
    return dict(zip(("header", "parent_header", "metadata", "content"), map(json.loads, parts[1:5])))


# A terminal

def terminal(server):
    status, _, made = server.ask("POST", "/api/terminals")
    seen = {"created": status}
    with server.open(f"/terminals/websocket/{made['name']}") as screen:
        seen["setup"] = json.loads(screen.recv(timeout=GUARD))[0]
        type_(screen, "printf '<%s>\\n' $((6*7))\r")
        seen["echo"] = shown(screen, "<42>")
        # Enough to need many messages, and a line that tells its end.
        type_(screen, "seq 20000; echo 'th''e end'\r")
        seen["many lines"] = shown(screen, "\n20000\r\nthe end")
        type_(screen, "exit\r")
        seen["end"] = ended(screen)
    return seen


def type_(screen, text):
    screen.send(json.dumps(["stdin", text]))


def shown(screen, wanted):
    output = ""
    while wanted not in output:
        kind, text = json.loads(screen.recv(timeout=GUARD))
        assert kind == "stdout", kind
        output += text
    return True


def ended(screen):
    kinds = []
    try:
        while True:
            kind = json.loads(screen.recv(timeout=GUARD))[0]
            kinds += [] if kind == "stdout" else [kind]
    except ConnectionClosed:
        return [kinds, screen.close_code, screen.close_reason]


# Who may come in, by Host and Origin

def checks(server):
    """A browser is known by its cookie and says where its page is from. Jupyter opens a WebSocket to pages of its own
    host alone, and answers only to the names that it knows as its own."""
    answer = server.ask("GET", f"/api/kernels?token={server.token}", token=False)
    cookies = answer[1].get_all("Set-Cookie")
    cookie = "; ".join(line.partition(";")[0] for line in cookies)
    made = server.ask("POST", "/api/terminals")[2]["name"]
    path = f"/terminals/websocket/{made}"
    seen = {
        "its own page": opens(server, path, cookie=cookie),
        "a page of elsewhere": opens(server, path, cookie=cookie, origin="https://elsewhere.example"),
        "no cookie": opens(server, path, cookie="none=1"),
        "a name that it does not know": server.ask("GET", "/api/status", host="elsewhere.example")[0],
        "deleted": server.ask("DELETE", f"/api/terminals/{made}")[0],
    }
    return seen, ["secure" in line.lower().split("; ") for line in cookies]


def opens(server, path, **options):
    try:
        with server.open(path, **options) as screen:
            screen.recv(timeout=GUARD)
            screen.close(1000)
            return "opened"
    except InvalidStatus as error:
        return error.response.status_code


if __name__ == "__main__":
    main(*sys.argv[1:])
