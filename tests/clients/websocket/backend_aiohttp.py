"""The backend by the Python package aiohttp: PATH of certificate and key, or nothing for no TLS."""

import asyncio
import json
import ssl
import sys

from aiohttp import WSMsgType, web


async def answer(request):
    socket = web.WebSocketResponse(protocols=["echo.v1"], max_msg_size=2**24, autoping=False)
    await socket.prepare(request)
    seen = {"path": request.path_qs}
    async for message in socket:
        if message.type == WSMsgType.PING:
            await socket.pong(message.data)
        elif message.type == WSMsgType.PONG:
            await socket.send_str("ponged" if message.data == b"are you there?" else "not my pong")
        elif message.data == "close 4001 bye":
            await socket.close(code=4001, message=b"bye")
        elif message.data == "ping me":
            await socket.ping(b"are you there?")
        elif message.type == WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    print(json.dumps({**seen, "code": socket.close_code}), file=sys.stderr, flush=True)
    return socket


async def refuse(_request):
    return web.Response(status=403, text="not you\n")


async def main():
    tls = None
    if len(sys.argv) > 1:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(sys.argv[1], sys.argv[2])
    application = web.Application()
    application.router.add_get("/{backend}/refuse", refuse)
    application.router.add_get("/{backend}/chat", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
