"""What the gateway wrote down about its tunnels, to be compared with what the clients did."""

from collections import Counter


def ended(gateway, listener, loose=False):
    """How the tunnels of a listener ended, sorted: [route, EndedBy, close code]. To be read when the gateway has ended, so
    that none can be missing. Each has moved bytes in both directions.

    `loose` is for peers that both close at once: which FIN is first is theirs to race for, and either is "Closed"."""
    rows = []
    for line in gateway.lines:
        if line.get("record") == "tunnel" and line["listener"] == listener:
            if not (line["sent"] > 0 and line["received"] > 0):
                raise AssertionError(f"a tunnel without bytes: {line}")
            by = line["ended_by"]
            loosely = "Closed" if by in ("ClientClosed", "ServerClosed") else by
            rows.append([line["route"], loosely if loose else by, line.get("close_code")])
    return sorted(rows, key=str)


def answered(gateway, listener):
    """How many requests of a listener had which answer: {(method, status): count}. To be read when the gateway has ended."""
    requests = (line for line in gateway.lines if line.get("record") == "request" and line["listener"] == listener)
    return dict(Counter((line.get("method"), line.get("status")) for line in requests))
