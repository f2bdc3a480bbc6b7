"""Does what the README says first: starts the demonstration, opens its page, talks WebSocket to it, ends it by SIGTERM.

Needs nothing but Python's own library. Exits with 0 when all of it went as the README says.
"""

import base64
import hashlib
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
import urllib.request

PLAIN = ("127.0.0.1", 8080)
TLS = ("127.0.0.1", 8443)
GUARD = 60  # seconds until something that does not come is a failure; nothing here measures speed


def main():
    subprocess.run(["cargo", "build", "--release", "--locked"], check=True)
    # cargo replaces itself by what it runs, so this is the gateway's own process.
    gateway = subprocess.Popen(["cargo", "run", "--release", "--locked", "--quiet"])
    try:
        wait_until_it_listens(gateway)
        for address in (PLAIN, TLS):
            check_page(address)
            for path in ("/echo", "/backend"):
                check_websocket(address, path)
        gateway.send_signal(signal.SIGTERM)
        code = gateway.wait(timeout=GUARD)
        expect(code == 0, f"exit code {code} after SIGTERM")
    finally:
        if gateway.poll() is None:
            gateway.kill()
            gateway.wait()
    print("the demonstration does what the README says")


def wait_until_it_listens(gateway):
    start = time.monotonic()
    while True:
        expect(gateway.poll() is None, f"the gateway ended with {gateway.returncode}; is port {PLAIN[1]} or {TLS[1]} taken?")
        expect(time.monotonic() - start < GUARD, "the gateway does not listen")
        try:
            for address in (PLAIN, TLS):
                socket.create_connection(address, timeout=GUARD).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.05)


def trusting_all():
    """The demonstration's certificate is made at start: nobody can know it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connect(address):
    stream = socket.create_connection(address, timeout=GUARD)
    return trusting_all().wrap_socket(stream) if address == TLS else stream


def check_page(address):
    url = f"{'https' if address == TLS else 'http'}://{address[0]}:{address[1]}/"
    with urllib.request.urlopen(url, timeout=GUARD, context=trusting_all()) as answer:
        kind, page = answer.headers.get_content_type(), answer.read().decode()
    expect(kind == "text/html", f"the page is {kind}")
    expect("WebSocket" in page, "the page does not speak of WebSocket")


def check_websocket(address, path):
    key = base64.b64encode(os.urandom(16)).decode()
    accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
    with connect(address) as peer, peer.makefile("rb") as reader:
        peer.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        status = reader.readline().decode()
        expect(status.startswith("HTTP/1.1 101 "), f"{path}: {status!r}")
        headers = {}
        while line := reader.readline().decode().rstrip("\r\n"):
            name, value = line.split(":", 1)
            headers[name.lower()] = value.strip()
        expect(headers.get("sec-websocket-accept") == accept, f"{path}: wrong Sec-WebSocket-Accept in {headers}")
        peer.sendall(frame(1, b"WebSocket rocks"))
        expect(read_frame(reader) == (1, b"WebSocket rocks"), f"{path}: the message did not come back")
        peer.sendall(frame(8, struct.pack("!H", 1000)))
        opcode, payload = read_frame(reader)
        expect((opcode, payload[:2]) == (8, struct.pack("!H", 1000)), f"{path}: {opcode}, {payload!r} for a Close")


def frame(opcode, payload):
    """A client's frame of up to 125 bytes."""
    mask = os.urandom(4)
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


def read_frame(reader):
    """A server's frame of up to 125 bytes: opcode and payload."""
    first, length = reader.read(2)
    return first & 0x0F, reader.read(length)


def expect(holds, what):
    if not holds:
        sys.exit(f"demonstration: {what}")


if __name__ == "__main__":
    main()
