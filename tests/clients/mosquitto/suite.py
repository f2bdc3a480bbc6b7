"""Debian's mosquitto over WebSockets with MQTT.js as the client, and aedes where mosquitto itself does not hold out.

Through the gateway, by ws and wss, the client sees what it sees without: the subprotocol mqtt, MQTT 3.1.1 and 5, messages
of each quality of service, 1,000 small ones in order, 1 MB, retained messages, a session that is kept, and the last will
of who breaks off: by a FIN without a Close, by a RST, by a Close without a DISCONNECT.

mosquitto 2.0.11 loses its way now and then in a long message to a WebSocket, with no gateway anywhere: it no longer waits
until the socket takes more. So what is long goes to it by WebSocket, and is read back by plain MQTT; with aedes, both
directions are by WebSocket."""

import contextlib
import socket
import time
from collections import Counter
from pathlib import Path

from support import install, oracle, place, process, tunnels
from support.gateway import GUARD, Gateway, certificates, forward

HERE = Path(__file__).resolve().parent

# Three for retained messages, three for the session, five for wills, one for keep-alive; and for each version of MQTT two,
# with aedes a third, who reads what is long. aedes speaks 3.1.1 alone.
OPENED = {"mqtt": 3 + 3 + 5 + 1 + 2 * 2, "aedes": 3 + 3 + 5 + 1 + 3}

# The version of Debian 12 starts no WebSocket listener unless there is one of another kind, too: the plain one, by which
# long messages are read back.
BROKER = """
allow_anonymous true
max_queued_messages 0
listener {plain} 127.0.0.1
listener {port} 127.0.0.1
protocol websockets
"""


def main():
    folder = place.fresh("mosquitto")
    install.apt(mosquitto="mosquitto")
    packages = install.npm(HERE / "package.json")
    environment = {**install.node(packages), "NODE_EXTRA_CA_CERTS": str(certificates() / "ca.pem")}

    def client(url, *arguments):
        return process.transcript(["node", HERE / "client.js", url, *arguments], env=environment)

    aedes = process.backend(["node", HERE / "aedes.js"], folder / "aedes.log", env=environment)
    with mosquitto(folder) as (port, plain), aedes as other, Gateway(folder, forward(mqtt=port, aedes=other)) as gateway:
        for route, at, arguments in (("mqtt", port, ["4,5", f"mqtt://127.0.0.1:{plain}"]), ("aedes", other, ["4"])):
            direct = client(f"ws://localhost:{at}/{route}", *arguments)
            believe(direct, "" if route == "mqtt" else "permessage-deflate")
            for scheme in ("ws", "wss"):
                oracle.same(f"{route}: transcript by {scheme}", direct, client(gateway.url(scheme, f"/{route}"), *arguments))

    for listener in ("plain", "tls"):
        ends = Counter((route, by, code) for route, by, code in tunnels.ended(gateway, listener))
        print(f"  {listener}: {dict(ends)}")
        for route in ("mqtt", "aedes"):
            check_ends(route, listener, {(by, code): count for (each, by, code), count in ends.items() if each == route})


def check_ends(route, listener, ends):
    """As many tunnels as the client opened: OPENED; one was reset, and one closed with a code of its own."""
    assert sum(ends.values()) == OPENED[route], f"{route}, {listener}: {OPENED[route]} were opened, {ends}"
    assert sum(count for (by, _), count in ends.items() if by == "ClientReset") >= 1, ends
    assert sum(count for (_, code), count in ends.items() if code == 4002) == 1, ends
    assert {by for by, _ in ends} <= {"ClientClosed", "ServerClosed", "ClientReset", "ServerReset", "ClientTruncated"}, ends


@contextlib.contextmanager
def mosquitto(folder):
    """A mosquitto; gives the ports of its WebSocket listener and of its plain one."""
    port, plain = process.free_port(), process.free_port()
    file = folder / "mosquitto.conf"
    file.write_text(BROKER.format(port=port, plain=plain))
    log = folder / "mosquitto.log"
    with process.running(["mosquitto", "-v", "-c", file], log) as broker:
        deadline = time.monotonic() + GUARD
        while not (answers(port) and answers(plain)):
            if broker.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"mosquitto does not listen; its log:\n{log.read_text()}")
            time.sleep(0.05)
        yield port, plain


def answers(port):
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def believe(direct, extensions):
    """What the client saw without the gateway is worth comparing: the features under test did take place."""
    for version in [name for name in direct if name.startswith("mqtt")]:
        seen = direct[version]
        assert seen["publisher"]["extensions"] == extensions, seen["publisher"]
        assert seen["publisher"]["subprotocol"] == seen["subscriber"]["subprotocol"] == "mqtt", seen
        assert [message["qos"] for message in seen["qos"]] == [0] * 5 + [1] * 5 + [2] * 5, seen["qos"]
        large = [(message["qos"], message["size"]) for message in seen["large"]]
        assert large == [(qos, size) for qos in (0, 1, 2) for size in (65535, 65536, 1 << 20)], large
        assert [(small[0], small[2], small[3]) for small in seen["small"]] == [(1000, True, qos) for qos in (0, 1, 2)], seen
    retained = direct["retained"]
    assert [retained[name][0]["retain"] for name in ("kept", "cleared", "fresh")] == [True, False, False], retained
    assert direct["session"]["after"] and not direct["session"]["before"], direct["session"]
    heard = {way: will["payload"] for way, will in direct["wills"].items()}
    assert heard.pop("left") == "no will" and heard == {way: f"the will of {way}" for way in heard}, direct["wills"]
    assert direct["keepAlive"] == ["pingresp", "pingresp"], direct["keepAlive"]


if __name__ == "__main__":
    main()
