"""How long a worker of Spliceway works between two looks for what has come: whoever comes meanwhile waits. By perf, in cycles, of
which a hypervisor steals none and strangers have none; told in microseconds of the processor time that the worker has had."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

EVENTS = "{syscalls:sys_enter_epoll_wait,cycles}:S"


@contextlib.contextmanager
def recorded(pid, output):
    """Gives a list, which has the microseconds from each look of the first worker to its next, within this, when it is over."""
    worker, times = worker_of(pid), []
    command = ["perf", "record", "-q", "-k", "mono", "-c", "1", "-m", "2048", "-e", EVENTS, "-o", output, "-t", worker]
    perf = subprocess.Popen(["taskset", "--cpu-list", "1", *map(str, command)])
    try:
        while not recording(perf):
            time.sleep(0.05)
        begin, before = time.monotonic(), worked(worker)
        yield times
        end, after = time.monotonic(), worked(worker)
    finally:
        perf.send_signal(signal.SIGINT)
        perf.wait()
    times += microseconds(cycles(output, begin, end), after - before)


def worker_of(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return next(task.name for task in tasks if (task / "comm").read_text().startswith("worker-0"))


def recording(perf):
    """Whether it has opened the counters: one for each event."""
    if perf.poll() is not None:
        sys.exit("perf cannot record the worker")
    with contextlib.suppress(FileNotFoundError, PermissionError):
        links = (fd.readlink() for fd in Path(f"/proc/{perf.pid}/fd").iterdir())
        return sum("perf_event" in str(link) for link in links) >= 2


def worked(thread):
    """Seconds that a thread has had a processor, without what was stolen from it."""
    return int(Path(f"/proc/{thread}/schedstat").read_text().split()[0]) / 1e9


def cycles(recorded, begin, end):
    script = ["perf", "script", "-i", recorded, "-F", "time,event,period"]
    lines = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^\s*([\d.]+):\s+(\d+)\s+cycles", lines, re.MULTILINE)
    return [int(cycles) for time, cycles in found if begin <= float(time) <= end] or sys.exit("perf has recorded nothing")


def microseconds(cycles, seconds):
    return [count * seconds / sum(cycles) * 1e6 for count in cycles]
