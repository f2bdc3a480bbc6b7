"""graphql-ws with its own client: queries, subscriptions, and the close codes by which its server refuses.

Through the gateway, by ws and wss, it sees what it sees without: a query of 1 MB, a subscription of 1,000 events in order,
several at once over one socket, one that is left in its midst, pings of both layers, the subprotocol
graphql-transport-ws, permessage-deflate, and the server's 4400, 4401, 4403, 4408, 4409 and 4429 with their reasons."""

from pathlib import Path

from support import install, oracle, place, process, tunnels
from support.gateway import Gateway, certificates, forward

HERE = Path(__file__).resolve().parent
SUBPROTOCOL = "graphql-transport-ws"
REFUSALS = {
    "no JSON": 4400,
    "no such type": 4400,
    "no init": 4401,
    "forbidden": 4403,
    "silent": 4408,
    "same id": 4409,
    "init twice": 4429,
}


def main():
    folder = place.fresh("graphql-ws")
    packages = install.npm(HERE / "package.json")
    environment = {**install.node(packages), "NODE_EXTRA_CA_CERTS": str(certificates() / "ca.pem")}

    def client(url):
        return process.transcript(["node", HERE / "client.js", url], env=environment)

    with process.backend(["node", HERE / "backend.js"], folder / "backend.log", env=environment) as port:
        with Gateway(folder, forward(graphql=port)) as gateway:
            direct = client(f"ws://localhost:{port}/graphql")
            believe(direct)
            for scheme in ("ws", "wss"):
                oracle.same(f"transcript by {scheme}", direct, client(gateway.url(scheme, "/graphql")))

    # One more each for what ended as the client wished.
    codes = [*REFUSALS.values(), 1000, 4321]
    for listener in ("plain", "tls"):
        expected = sorted((["graphql", "Closed", code] for code in codes), key=str)
        oracle.same(f"records of tunnels, {listener}", expected, tunnels.ended(gateway, listener, loose=True))


def believe(direct):
    """What the client saw without the gateway is worth comparing: the features under test did take place."""
    seen = direct["inOrder"]
    assert seen["subprotocol"] == SUBPROTOCOL and seen["extensions"] == "permessage-deflate", seen
    assert seen["query"] == {"data": {"echo": "hello", "subprotocol": SUBPROTOCOL}}, seen["query"]
    assert seen["large"][0] == 1 << 20 and seen["large"][2], seen["large"]
    assert seen["events"][0] == 1000 and seen["events"][2], seen["events"]
    assert seen["unsubscribed"]["numbers"] == list(range(10)), seen["unsubscribed"]
    assert direct["pings"]["pong"] == "p" * 125 and direct["pings"]["code"] == 4321, direct["pings"]
    codes = {name: close["code"] for name, close in direct["closes"].items()}
    assert codes == REFUSALS, codes


if __name__ == "__main__":
    main()
