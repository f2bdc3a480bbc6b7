"""socket.io with its own client: polling that upgrades to WebSocket within one session, WebSocket alone, polling alone.

Each of them through the gateway, by http and https, sees what it sees without the gateway: acknowledgements, rooms, 1 MB
of binary, 1,000 small messages in order, messages under way during the upgrade, compression by permessage-deflate, and
the reason of each disconnect, at the client and at the server."""

from pathlib import Path

from support import install, oracle, place, process, tunnels
from support.gateway import Gateway, certificates, forward

HERE = Path(__file__).resolve().parent
TRANSPORTS = ("polling,websocket", "websocket", "polling")

# Of each of the two runs with WebSocket: watcher, speaker, three that end in order, and one whose client destroys its
# socket: a FIN without a Close, and over TLS without a close_notify.
IN_ORDER = [["socketio", "Closed", 1005]] * 5
BROKEN = {"plain": ["socketio", "Closed", None], "tls": ["socketio", "ClientTruncated", None]}


def main():
    folder = place.fresh("socketio")
    packages = install.npm(HERE / "package.json")
    environment = {**install.node(packages), "NODE_EXTRA_CA_CERTS": str(certificates() / "ca.pem")}

    def client(url, transports):
        return process.transcript(["node", HERE / "client.js", url, transports], env=environment)

    with process.backend(["node", HERE / "backend.js"], folder / "backend.log", env=environment) as port:
        with Gateway(folder, forward(socketio=port)) as gateway:
            for transports in TRANSPORTS:
                direct = client(f"http://localhost:{port}", transports)
                believe(direct, transports)
                for scheme in ("http", "https"):
                    through = client(gateway.url(scheme, ""), transports)
                    oracle.same(f"{transports} by {scheme}", direct, through)

    for listener in ("plain", "tls"):
        expected = sorted((IN_ORDER + [BROKEN[listener]]) * 2, key=str)
        oracle.same(f"records of tunnels, {listener}", expected, tunnels.ended(gateway, listener, loose=True))
        # 400 is the server's own, for sessions that it does not know.
        answered = tunnels.answered(gateway, listener)
        print(f"  {listener}: {answered}")
        assert {status for _, status in answered} == {200, 400}, answered
        assert answered["GET", 200] > 20 and answered["POST", 200] > 20, answered


def believe(direct, transports):
    """What the client saw without the gateway is worth comparing: the features under test did take place."""
    first, last = transports.split(",")[0], transports.split(",")[-1]
    for name in ("watcher", "speaker"):
        seen = direct[name]
        facts = (seen["began"], seen["now"], seen["atServer"], seen["sameSession"], seen["inOrder"])
        assert facts == (first, last, last, True, True), seen
        assert last == "polling" or seen["extensions"] == "permessage-deflate", seen
    assert all(unchanged for *_, unchanged in (direct["messages"][name] for name in ("noise", "zeros", "text", "small")))
    reasons = {name: (end["client"], end["server"]) for name, end in direct["ends"].items()}
    assert reasons["dismissed"] == ("io server disconnect", "server namespace disconnect"), reasons
    assert reasons["left"] == ("io client disconnect", "client namespace disconnect"), reasons


if __name__ == "__main__":
    main()
