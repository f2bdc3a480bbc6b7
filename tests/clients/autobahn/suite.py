"""The Autobahn test suite, hundreds of cases that a WebSocket server can get wrong.

Relayed: each case must go through the gateway as it goes without it, by ws and by wss; behaviour, end and all else that the
suite writes down about it. And the gateway's own echo must pass them all, but for what exceptions.json names with its
reason; a case that is named there and passes is a failure too, so that the list does not age.

The cases 9.* (large messages), 12.* and 13.* (deflate) take minutes and more: SPLICEWAY_AUTOBAHN="9 12 13" runs these
groups instead of the others, and holds their tables. The suite gives each case a time; one of theirs that is not over by
then, while all ways share the machine, is tried once more by itself.

The suite is written in Python 2. Where no Python 2.7 is found it fails; SPLICEWAY_PYTHON27 names one that is elsewhere.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from support import document, install, place
from support.gateway import GUARD, Gateway, forward
from support.oracle import same
from support.process import backend

HERE = Path(__file__).resolve().parent
SUITE = HERE.name
ON_DEMAND = ["9", "12", "13"]
DEMANDED = os.environ.get("SPLICEWAY_AUTOBAHN", "").split()

GROUPS = {
    "1": "text and binary",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragments",
    "6": "UTF-8",
    "7": "closing",
    "9": "large and many messages",
    "10": "parts of a frame",
    "12": "deflate",
    "13": "deflate with parameters",
}

ECHO = """
[[route]]
name = "echo"
path = "/echo"
service = "echo"
websocket = { max_message = "64MiB" }   # the cases 9.* go up to 16 MiB
"""

# Of what the suite writes down about a case, all that does not tell of time, of keys or of how TCP cut the bytes.
TOLD = """behavior behaviorClose result resultClose received rxFrameStats txFrameStats closedByMe failedByMe droppedByMe
    wasClean wasCloseHandshakeTimeout wasServerConnectionDropTimeout localCloseCode remoteCloseCode remoteCloseReason""".split()

# The code of the first Close by the record, where the suite does not tell it.
FIRST_CLOSE = {
    "3.7": 1005,  # a Close without a code, which the suite sends as any frame, with reserved bits
    "7.3.1": 1005,  # a Close without a code
    "7.3.2": 1002,  # half a code, which is no Close: the server's is the first
    "7.3.6": 1002,  # a reason that is longer than a control frame can be, which is no Close either
}


def main():
    folder = place.fresh(SUITE)
    python = install.venv(HERE / "requirements.txt")
    wstest = install_wstest(python)
    npm = install.npm(HERE / "package.json")
    with backend(["node", HERE / "backend.js"], folder / "backend.log", env=install.node(npm)) as port:
        with Gateway(folder, forward(relayed=port) + ECHO) as gateway:
            urls = {
                "direct": f"ws://127.0.0.1:{port}/relayed",
                "relayed-ws": gateway.url("ws", "/relayed"),
                "relayed-wss": gateway.url("wss", "/relayed"),
                "echo-ws": gateway.url("ws", "/echo"),
                "echo-wss": gateway.url("wss", "/echo"),
            }
            runs = fuzz(wstest, folder, urls)
            if DEMANDED:
                try_late_ones_alone(wstest, folder, urls, runs)
    reports = {way: dict(tries) for way, tries in runs.items()}  # of several tries the last
    cases = list(reports["direct"])
    print(f"  {len(cases)} cases", flush=True)
    for way in ("relayed-ws", "relayed-wss"):
        same(f"direct and {way}", reports["direct"], reports[way])
    for way in ("echo-ws", "echo-wss"):
        check_echo(way, reports[way])
    check_records(gateway, runs)
    if not DEMANDED:
        document.hold("docs/conformance.md", "autobahn", summary(reports, cases))
    for group in DEMANDED:
        mine = [case for case in cases if group_of(case) == group]
        document.hold("docs/conformance.md", f"autobahn-{group}", summary(reports, mine))


def install_wstest(python):
    """The suite in a virtual environment of Python 2.7, made by the last virtualenv that can; gives its wstest."""
    requirements = HERE / "requirements-wstest.txt"
    old = python27()
    folder = place.tools("venv-wstest")

    def make():
        virtualenv = [python, "-m", "virtualenv", "--quiet", "--clear", "--no-periodic-update"]
        subprocess.run([*virtualenv, "-p", old, folder], check=True)
        command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "-r", requirements]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})

    install.once(folder, requirements.read_bytes(), make)
    return folder / "bin" / "wstest"


def python27():
    """A Python 2.7: one that is named, that of pyenv, or that of the system. A shim of pyenv is there and does not run."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [os.environ.get("SPLICEWAY_PYTHON27"), *sorted(pyenv.glob("2.7.*/bin/python2.7")), shutil.which("python2.7")]
    for python in filter(None, found):
        if subprocess.run([python, "-c", "pass"], stderr=subprocess.DEVNULL).returncode == 0:
            return python
    sys.exit("no Python 2.7, in which the Autobahn test suite is written: pyenv install 2.7.18, or SPLICEWAY_PYTHON27=PATH")


def fuzz(wstest, folder, urls):
    """Runs all cases at each address, side by side, for most of them wait; gives what is told: {way: [(case, ...), ...]}."""
    cases = [f"{group}.*" for group in DEMANDED] or ["*"]
    excluded = [] if DEMANDED else [f"{group}.*" for group in ON_DEMAND]
    running = {way: start(wstest, folder / way, way, url, cases, excluded) for way, url in urls.items()}
    try:
        for way, process in running.items():
            if process.wait(timeout=GUARD * (120 if DEMANDED else 5)) != 0:
                raise AssertionError(f"{way}: exit code {process.returncode}, see {folder / way / 'wstest.log'}")
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return {way: list(read(folder / way / "report", way).items()) for way in urls}


def start(wstest, own, way, url, cases, excluded):
    """Starts the suite at one address, in a folder of its own."""
    own.mkdir()
    spec = {
        "outdir": "report",
        "servers": [{"agent": way, "url": url, "options": {"version": 18}}],
        "cases": cases,
        "exclude-cases": excluded,
        "exclude-agent-cases": {},
    }
    (own / "spec.json").write_text(json.dumps(spec))
    log = open(own / "wstest.log", "w")
    return subprocess.Popen([wstest, "-m", "fuzzingclient", "-s", "spec.json"], cwd=own, stdout=log, stderr=log)


def try_late_ones_alone(wstest, folder, urls, runs):
    """Adds another try of the cases that the suite's own clock has ended."""
    for way, url in urls.items():
        late = [case for case, told in runs[way] if is_late(told)]
        if late:
            print(f"  {way}: {', '.join(late)} once more, alone", flush=True)
            own = folder / f"{way}-alone"
            process = start(wstest, own, way, url, late, [])
            try:
                assert process.wait(timeout=GUARD * 60) == 0, f"{way}: see {own / 'wstest.log'}"
            finally:
                process.kill()
            runs[way] += read(own / "report", way).items()


def read(report, way):
    """What is told of each case, in the order of their numbers."""
    index = json.loads((report / "index.json").read_text())[way]
    order = sorted(index, key=lambda case: [int(part) for part in case.split(".")])
    told = {}
    for case in order:
        whole = json.loads((report / index[case]["reportfile"]).read_text())
        told[case] = {key: whole[key] for key in TOLD}
    return told


def passed(told):
    """Informational cases have no right answer."""
    return told["behavior"] in ("OK", "INFORMATIONAL") and told["behaviorClose"] in ("OK", "INFORMATIONAL")


def check_echo(way, cases):
    """Each case passes, unless it is listed, and then it does not; what it does instead is listed too."""
    listed = json.loads((HERE / "exceptions.json").read_text())
    instead = {case: entry["instead"] for entry in listed for case in cases if is_of(case, entry["cases"])}
    failed = {case: told["behavior"] for case, told in cases.items() if not passed(told)}
    same(f"exceptions.json and the cases that do not pass by {way}", instead, failed)


def is_of(case, patterns):
    """Whether the case is one of "7.3.1" or "12.*"."""
    return any(case == pattern or pattern.endswith("*") and case.startswith(pattern[:-1]) for pattern in patterns)


def is_late(told):
    """Whether the suite's own clock has ended the case."""
    return told["result"].startswith("Case did not finish within")


def check_records(gateway, runs):
    """One record a case, with the code of its first Close, and with bytes both ways where the client got an answer."""
    tunnels = [line for line in gateway.lines if line.get("record") == "tunnel"]
    for route, first_close in (("relayed", of_either), ("echo", of_echo)):
        for scheme, listener in (("ws", "plain"), ("wss", "tls")):
            told = runs[f"{route}-{scheme}"]
            mine = [line for line in tunnels if (line["route"], line["listener"]) == (route, listener)]
            # A tunnel may be opened before the record of the last one is written; ids are in the order of opening.
            mine.sort(key=lambda line: line["id"])
            expected, found = [], []
            for (case, seen), line in zip(told, mine, strict=True):
                # Of one that its clock has ended the suite tells no code.
                codes = [None, None] if is_late(seen) else [first_close(case, seen), line.get("close_code")]
                expected.append([case, codes[0], True, bool(seen["rxFrameStats"])])
                found.append([case, codes[1], line["sent"] > 0, line["received"] > 0])
            same(f"cases and records of {route} by {scheme}", expected, found)


def of_either(case, seen):
    """The code of the Close that came first, the client's or the server's."""
    told = seen["localCloseCode"] if seen["closedByMe"] else seen["remoteCloseCode"]
    return FIRST_CLOSE.get(case, told)


def of_echo(_case, seen):
    """The gateway answers a Close with the code that it has, or with its own where the Close is wrong: that is what counts."""
    return seen["remoteCloseCode"] or 1005


def group_of(case):
    return case.split(".")[0]


def summary(reports, cases):
    """The table of the document: how many cases of each group had which outcome, each way."""
    heads = ["cases", "direct", "through, ws", "through, wss", "echo, ws", "echo, wss"]
    ways = ("direct", "relayed-ws", "relayed-wss", "echo-ws", "echo-wss")
    rows = []
    for group in dict.fromkeys(map(group_of, cases)):
        mine = [case for case in cases if group_of(case) == group]
        rows.append([f"{group}.* {GROUPS[group]}", *(outcome(reports[way], mine) for way in ways)])
    if len(rows) > 1:
        rows.append(["all", *(outcome(reports[way], cases) for way in ways)])
    return document.table(heads, rows)


def outcome(told, cases):
    counts = Counter(told[case]["behavior"] if told[case]["behaviorClose"] != "FAILED" else "FAILED CLOSE" for case in cases)
    return ", ".join(f"{count} {name.lower()}" for name, count in counts.most_common())


if __name__ == "__main__":
    sys.exit(main())
