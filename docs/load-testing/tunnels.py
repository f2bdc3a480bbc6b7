"""Holds many tunnels at once, echoes through every one of them, and closes them: tunnels.py URL [--tunnels 9000]

Needs Python 3.11 and the package websockets. Whatever goes wrong with any tunnel ends it with exit code 1.
"""

import argparse
import asyncio
import resource
import socket
import ssl
import sys
import time
from urllib.parse import urlsplit

from websockets.asyncio.client import connect

# Linux: the port of a bound address is chosen by connect(), and then another connection may have the same.
IP_BIND_ADDRESS_NO_PORT = 24

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("url", help="ws://HOST:PORT/PATH or wss://…, of something that echoes")
parser.add_argument("--tunnels", type=int, default=1000, help="how many (1000)")
parser.add_argument("--messages", type=int, default=3, help="echoed through each while all are open (3)")
parser.add_argument("--size", type=int, default=125, help="bytes of a message (125)")
parser.add_argument("--code", type=int, default=4000, help="of the Close that ends each (4000)")
parser.add_argument("--at-once", type=int, default=100, help="how many are opened at the same time (100)")
parser.add_argument("--source", action="append", help="an address of this machine to come from; may be repeated")
parser.add_argument("--ca", help="a file of the authority to be trusted, for wss://")
options = parser.parse_args()


async def main():
    url, gate = urlsplit(options.url), asyncio.Semaphore(options.at_once)
    tls = {"ssl": ssl.create_default_context(cafile=options.ca)} if url.scheme == "wss" else {}

    async def connected(source):
        connecting = socket.socket()
        connecting.setblocking(False)
        connecting.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        connecting.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(connecting, (url.hostname, url.port))
        return connecting

    async def open_one(number):
        async with gate:
            sock = {"sock": await connected(options.source[number % len(options.source)])} if options.source else {}
            # No deflate and no pings of its own: what goes over the wire is what is sent below, to the byte.
            return await connect(options.url, compression=None, ping_interval=None, proxy=None, open_timeout=60, **tls, **sock)

    async def echo(number, tunnel):
        for message in (f"tunnel {number}, message {n} ".ljust(options.size, ".") for n in range(options.messages)):
            await tunnel.send(message)
            if (answer := await tunnel.recv()) != message:
                raise AssertionError(f"another answer than {message!r}: {answer!r}")

    async def close(tunnel):
        await tunnel.close(options.code)
        if tunnel.close_code != options.code:
            raise AssertionError(f"closed with {tunnel.close_code}, not with {options.code}")

    began = time.monotonic()

    def told(what):
        print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True)

    tunnels = await asyncio.gather(*(open_one(number) for number in range(options.tunnels)))
    told(f"{len(tunnels)} tunnels are open")
    await asyncio.gather(*(echo(number, tunnel) for number, tunnel in enumerate(tunnels)))
    told(f"{len(tunnels) * options.messages} messages of {options.size} bytes came back, through all of them")
    await asyncio.gather(*(close(tunnel) for tunnel in tunnels))
    told(f"{len(tunnels)} closed with {options.code}")


# As many descriptors as this process may have.
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
try:
    asyncio.run(main())
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
