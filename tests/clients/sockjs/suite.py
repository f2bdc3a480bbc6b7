"""SockJS with its own client, over its transports websocket, xhr-streaming and xhr-polling.

Each of them through the gateway, by http and https, sees what it sees without: messages by turns, 1 MB, 1,000 small ones in
order, the server's close code and reason, the end of another session. Streaming answers are also read by hand, as they
come: a message arrives while the answer that brings it is still open, so nothing on the way waits for an answer's end."""

from pathlib import Path

from support import install, oracle, place, process, tunnels
from support.gateway import Gateway, certificates, forward

HERE = Path(__file__).resolve().parent
TRANSPORTS = ("websocket", "xhr-streaming", "xhr-polling")
DESTROYED = {"plain": {"ClientReset"}, "tls": {"ClientReset", "ClientTruncated"}}


def main():
    folder = place.fresh("sockjs")
    packages = install.npm(HERE / "package.json")
    environment = {**install.node(packages), "NODE_EXTRA_CA_CERTS": str(certificates() / "ca.pem")}

    def client(url, transport):
        return process.transcript(["node", HERE / "client.js", url, transport], env=environment)

    with process.backend(["node", HERE / "backend.js"], folder / "backend.log", env=environment) as port:
        with Gateway(folder, forward(sockjs=port)) as gateway:
            for transport in (*TRANSPORTS, "answers"):
                direct = client(f"http://localhost:{port}/sockjs", transport)
                believe(direct, transport)
                for scheme in ("http", "https"):
                    oracle.same(f"{transport} by {scheme}", direct, client(gateway.url(scheme, "/sockjs"), transport))

    for listener in ("plain", "tls"):
        ends = tunnels.ended(gateway, listener)
        # All end by a Close with 1000: SockJS' own codes are in its messages. Once both have sent theirs, this client
        # destroys its socket, over TLS without a close_notify, whatever the server still sends.
        assert [code for *_, code in ends] == [1000, 1000, 1000], ends
        assert {by for _, by, _ in ends} <= {"ClientClosed", "ServerClosed"} | DESTROYED[listener], ends
        # None is a client that left: it gives up requests when its session ends. 404 is asked for.
        answered = tunnels.answered(gateway, listener)
        print(f"  {listener}: {ends} {answered}")
        assert {status for _, status in answered} <= {200, 204, 404, None}, answered
        assert answered["POST", 200] > 20 and answered["POST", 204] > 40, answered


def believe(direct, transport):
    """What the client saw without the gateway is worth comparing: the features under test did take place."""
    if transport == "answers":
        for stream in (direct["xhrStreaming"], direct["eventsource"]):
            assert len(stream["steps"]) == 4 and all(step["arrived"] and step["open"] for step in stream["steps"]), stream
            assert "4001" in stream["rest"] and stream["ended"], stream
        return
    seen = direct["session"]
    assert seen["transport"] == transport and seen["turns"] == [f"turn {turn}" for turn in range(20)], seen
    assert seen["large"][0] == 1 << 20 and seen["large"][2] and seen["small"][0] == 1000 and seen["small"][2], seen
    assert (seen["sentAway"]["code"], seen["sentAway"]["reason"]) == (4001, "as you wish"), seen
    assert direct["leaving"]["told"] == ["one has ended"], direct["leaving"]


if __name__ == "__main__":
    main()
