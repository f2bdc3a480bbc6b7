"""The client by the Python package websocket-client: URL CA."""

import hashlib
import json
import struct
import sys

from websocket import ABNF, WebSocketBadStatusException, create_connection

URL, CA = sys.argv[1:]
OPTIONS = {"subprotocols": ["other", "echo.v1"], "timeout": 60, "sslopt": {"ca_certs": CA}}


def main():
    seen = {}
    socket = create_connection(f"{URL}/chat?by=client", **OPTIONS)
    seen["subprotocol"] = socket.getsubprotocol()
    socket.send_binary(bytes(range(256)) * 4096)
    seen["big"] = hashlib.sha256(socket.recv()).hexdigest()
    small = hashlib.sha256()
    for number in range(1000):
        socket.send(f"message {number}")
        small.update(socket.recv().encode())
    seen["small"] = small.hexdigest()
    socket.ping(b"mine")
    seen["pong"] = control(socket, ABNF.OPCODE_PONG)
    socket.send("ping me")
    seen["pinged"] = socket.recv()  # it answers pings by itself
    socket.send_close(4002, b"enough")
    seen["closed"] = control(socket, ABNF.OPCODE_CLOSE)
    socket.shutdown()

    socket = create_connection(f"{URL}/chat?by=server", **OPTIONS)
    socket.send("close 4001 bye")
    seen["told"] = control(socket, ABNF.OPCODE_CLOSE)
    socket.shutdown()
    try:
        create_connection(f"{URL}/refuse", **OPTIONS)
    except WebSocketBadStatusException as refused:
        seen["refused"] = [refused.status_code, refused.resp_body.decode()]
    print(json.dumps(seen))


def control(socket, wanted):
    """The next control frame, which must be of that kind."""
    opcode, data = socket.recv_data(control_frame=True)
    if opcode != wanted:
        raise AssertionError(f"opcode {opcode}, not {wanted}")
    if opcode == ABNF.OPCODE_CLOSE and data:
        return [struct.unpack(">H", data[:2])[0], data[2:].decode()]
    return data.decode()


main()
