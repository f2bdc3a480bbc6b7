"""client.py URL UNREACHABLE CA: what Python's websockets sees of websockify at these two URLs, as one line of JSON.

A stream of bytes has no messages: however TCP cuts it, the bytes are compared as a whole."""

import hashlib
import json
import random
import ssl
import sys
import urllib.request

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

GUARD = 60


def main(url, unreachable, authority):
    trust = ssl.create_default_context(cafile=authority)
    print(json.dumps({
        "stream": stream(url, trust),
        "without a subprotocol": opened(url, trust, None),
        "a subprotocol that it does not speak": denied(url, trust, ["nonsense"]),
        "the server closes": bye(url, trust),
        "no server behind it": refused(unreachable, trust),
        "a page": page(url.replace("ws", "http", 1), trust),
    }))


def way(url, trust):
    return {"ssl": trust} if url.startswith("wss") else {}


def dial(url, trust, subprotocols):
    return connect(url, subprotocols=subprotocols, proxy=None, max_size=None, open_timeout=GUARD, **way(url, trust))


def stream(url, trust):
    """Bytes there and back by messages of many sizes, pings between them, and a close code of the client's."""
    source = random.Random(7)
    large = source.randbytes(1 << 20)
    small = [source.randbytes(1 + number % 50) for number in range(1000)]
    seen = {}
    with dial(url, trust, ["binary"]) as socket:
        seen["subprotocol"] = socket.subprotocol
        seen["extensions"] = [extension.name for extension in socket.protocol.extensions]
        seen["first"] = echoed(socket, [b"hello\x00\xff"])
        seen["large"] = echoed(socket, [large])
        seen["pong"] = socket.ping(b"there?").wait(GUARD)
        seen["small"] = echoed(socket, small)
        socket.close(4001, "as I wish")
        seen["close"] = [socket.close_code, socket.close_reason]
    return seen


def echoed(socket, messages):
    """Sends them, reads as many bytes; what came back."""
    expected = b"".join(messages)
    for message in messages:
        socket.send(message)
    came = b""
    while len(came) < len(expected):
        came += socket.recv(timeout=GUARD)
    return {"size": len(came), "sha256": hashlib.sha256(came).hexdigest(), "equal": came == expected}


def opened(url, trust, subprotocols):
    with dial(url, trust, subprotocols) as socket:
        socket.send(b"one")
        seen = {"subprotocol": socket.subprotocol, "echo": socket.recv(timeout=GUARD).decode()}
        socket.close(4002)
        return {**seen, "close": [socket.close_code, socket.close_reason]}


def denied(url, trust, subprotocols):
    try:
        with dial(url, trust, subprotocols):
            return "opened"
    except InvalidStatus as error:
        response = error.response
        return [response.status_code, response.reason_phrase, len(response.body)]


def bye(url, trust):
    with dial(url, trust, ["binary"]) as socket:
        socket.send(b"bye")
        return until_closed(socket)


def refused(url, trust):
    with dial(url, trust, ["binary"]) as socket:
        return until_closed(socket)


def until_closed(socket):
    came = b""
    try:
        while True:
            came += socket.recv(timeout=GUARD)
    except ConnectionClosed:
        return {"bytes": came.decode(), "close": [socket.close_code, socket.close_reason]}


def page(url, trust):
    """websockify is a small web server, too; noVNC is served by it."""
    with urllib.request.urlopen(url + "/page.html", context=trust, timeout=GUARD) as answer:
        body = answer.read()
        return [answer.status, answer.headers["Content-Type"], answer.headers["Content-Length"], body.decode()]


main(*sys.argv[1:])
