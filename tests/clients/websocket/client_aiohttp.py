"""The client by the Python package aiohttp: URL CA."""

import asyncio
import hashlib
import json
import ssl
import sys

from aiohttp import ClientSession, WSMsgType, WSServerHandshakeError

URL, CA = sys.argv[1:]
OPTIONS = {"protocols": ["other", "echo.v1"], "max_msg_size": 2**24, "compress": 15, "autoping": False}
if URL.startswith("wss"):
    OPTIONS["ssl"] = ssl.create_default_context(cafile=CA)


async def talk(session, seen):
    async with session.ws_connect(f"{URL}/chat?by=client", **OPTIONS) as socket:
        seen["subprotocol"] = socket.protocol
        seen["extensions"] = ["permessage-deflate"] if socket.compress else []
        await socket.send_bytes(bytes(range(256)) * 4096)
        seen["big"] = hashlib.sha256(await socket.receive_bytes()).hexdigest()
        small = hashlib.sha256()
        for number in range(1000):
            await socket.send_str(f"message {number}")
            small.update((await socket.receive_str()).encode())
        seen["small"] = small.hexdigest()
        await socket.ping(b"mine")
        pong = await socket.receive()
        seen["pong"] = [pong.type == WSMsgType.PONG, bytes(pong.data).decode()]
        await socket.send_str("ping me")
        ping = await socket.receive()
        await socket.pong(ping.data)
        seen["pinged"] = await socket.receive_str()
        await socket.close(code=4002, message=b"enough")
        seen["closed"] = socket.close_code


async def main():
    seen = {}
    async with ClientSession() as session:
        await talk(session, seen)
        async with session.ws_connect(f"{URL}/chat?by=server", **OPTIONS) as socket:
            await socket.send_str("close 4001 bye")
            told = await socket.receive()
            seen["told"] = [told.type == WSMsgType.CLOSE, told.data, told.extra]
        try:
            await session.ws_connect(f"{URL}/refuse", **OPTIONS)
        except WSServerHandshakeError as refused:
            seen["refused"] = refused.status
    print(json.dumps(seen))


asyncio.run(main())
