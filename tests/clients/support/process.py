"""Backends and clients as processes that do not outlive a suite."""

import contextlib
import json
import socket
import subprocess
import time

from support.gateway import GUARD


@contextlib.contextmanager
def running(command, log, **options):
    """A program in the background, ended with the `with`; what it writes goes to the file `log`, unless it is piped."""
    with open(log, "w") as output:
        process = subprocess.Popen(command, **{"stdout": output, "stderr": output, **options})
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=GUARD)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def backend(command, log, **options):
    """A backend that binds port 0 and prints, as the first line of its standard output, a JSON object with "port"; gives
    the port."""
    with running(command, log, stdout=subprocess.PIPE, text=True, **options) as process:
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"the backend did not start: {open(log).read()}")
        yield json.loads(line)["port"]
        process.stdout.close()


def transcript(command, **options):
    """What a client prints: one JSON value."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=GUARD, **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def free_port():
    """A port for a program that cannot bind port 0: it was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(ask, enough):
    """Asks until the answer is enough; gives it."""
    begin = time.monotonic()
    while not enough(answer := ask()):
        if time.monotonic() - begin > GUARD:
            raise AssertionError(f"not enough after {GUARD} s: {answer}")
        time.sleep(0.01)
    return answer
