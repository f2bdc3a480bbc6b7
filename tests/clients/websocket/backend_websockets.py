"""The backend by the Python package websockets: PATH of certificate and key, or nothing for no TLS."""

import asyncio
import json
import ssl
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def answer(connection):
    try:
        async for message in connection:
            if message == "close 4001 bye":
                await connection.close(4001, "bye")
            elif message == "ping me":
                await (await connection.ping(b"are you there?"))
                await connection.send("ponged")
            else:
                await connection.send(message)
    except ConnectionClosed:
        pass
    seen = {"path": connection.request.path, "code": connection.close_code, "reason": connection.close_reason}
    print(json.dumps(seen), file=sys.stderr, flush=True)


def refuse(connection, request):
    return connection.respond(403, "not you\n") if "/refuse" in request.path else None


async def main():
    tls = None
    if len(sys.argv) > 1:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(sys.argv[1], sys.argv[2])
    options = {"subprotocols": ["echo.v1"], "process_request": refuse, "max_size": 2**24, "ssl": tls}
    async with serve(answer, "127.0.0.1", 0, **options) as server:
        print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
        await server.serve_forever()


asyncio.run(main())
