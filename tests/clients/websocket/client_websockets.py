"""The client by the Python package websockets: URL CA."""

import asyncio
import hashlib
import json
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

URL, CA = sys.argv[1:]
OPTIONS = {"subprotocols": ["other", "echo.v1"], "max_size": 2**24}
if URL.startswith("wss"):
    OPTIONS["ssl"] = ssl.create_default_context(cafile=CA)


async def main():
    seen = {}
    async with connect(f"{URL}/chat?by=client", **OPTIONS) as socket:
        seen["subprotocol"] = socket.subprotocol
        seen["extensions"] = [extension.name for extension in socket.protocol.extensions]
        big = bytes(range(256)) * 4096
        await socket.send(big)
        seen["big"] = hashlib.sha256(await socket.recv()).hexdigest()
        small = hashlib.sha256()
        for number in range(1000):
            await socket.send(f"message {number}")
            small.update((await socket.recv()).encode())
        seen["small"] = small.hexdigest()
        await (await socket.ping(b"mine"))
        await socket.send("ping me")
        seen["pinged"] = await socket.recv()
        await socket.close(4002, "enough")
        seen["closed"] = [socket.close_code, socket.close_reason]
    async with connect(f"{URL}/chat?by=server", **OPTIONS) as socket:
        await socket.send("close 4001 bye")
        try:
            await socket.recv()
        except ConnectionClosed as closed:
            seen["told"] = [closed.rcvd.code, closed.rcvd.reason]
    try:
        await connect(f"{URL}/refuse", **OPTIONS)
    except InvalidStatus as refused:
        seen["refused"] = [refused.response.status_code, refused.response.body.decode()]
    print(json.dumps(seen))


asyncio.run(main())
