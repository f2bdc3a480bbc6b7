"""Does what README.md and docs/*.md say, as a new user would: in a fresh clone, in the order of each document.

A block `sh` is run by bash in the clone. Words behind `sh` say how:

    sh                  it ends, with exit code 0
    sh fails=78         it ends, with that exit code
    sh serves           it serves from here on, until the next such block or the end of the chapter; then Ctrl-C ends it
    sh no-run           it is not run; its first line says why

A block `output` behind one is all that it prints on standard output, a block `log` lines that the one that serves has
printed. In both "…" stands for what differs. A block `toml` whose first line is "# NAME.toml" is saved as that file.

Ports are those of the documents, so all of it runs in a network namespace of its own.
"""

import contextlib
import fnmatch
import os
import re
import shutil
import signal
import subprocess
import sys
import threading

from support import install, place
from support.gateway import GUARD

LONG = 1800  # seconds for a build from nothing; a guard against hanging, nothing else


def main():
    if "SPLICEWAY_DOCS_ALONE" not in os.environ:
        return alone()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    folder = place.fresh("docs")
    clone = folder / "spliceway"
    subprocess.run(["git", "clone", "--quiet", place.ROOT, clone], check=True)
    built = Built(clone)
    ran, not_run = 0, []
    for document in documents(clone):
        user = User(clone, folder / f"{document.stem}.log")
        with user:
            for block in blocks(document):
                user.take(block)
        built.note()
        ran += user.ran
        not_run += user.not_run
    print(f"{ran} commands run, {len(not_run)} not:")
    for where, reason in not_run:
        print(f"  {where}: {reason}")
    # Cargo takes what the clone has built for its own checkout's, and finds it fresh for as long as the clone's files are there.
    shutil.rmtree(clone)
    # What a new document would fill; none of these numbers may fall unseen.
    assert ran >= 20, f"only {ran} commands"
    return 0


def alone():
    """The same program in a network namespace of its own, where the ports of the documents are free."""
    install.apt(curl="curl", ip="iproute2", git="git")
    namespace = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    environment = {**os.environ, "SPLICEWAY_DOCS_ALONE": "1"}
    return subprocess.run([*namespace, sys.executable, __file__], env=environment).returncode


def documents(clone):
    found = [clone / "README.md", *sorted((clone / "docs").glob("*.md"))]
    assert len(found) >= 7, found
    return found


class Built:
    """What the clone was last built of. cargo tells what is new by its time, and in a clone all is new: where the program
    is the same as last time, it is made to look as old as it is."""

    def __init__(self, clone):
        self.file = place.tools("docs") / "built"
        program = ["git", "-C", clone, "rev-parse", "HEAD:src", "HEAD:Cargo.toml", "HEAD:Cargo.lock"]
        self.program = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True).stdout
        if self.file.exists() and self.file.read_text() == self.program:
            for path in clone.rglob("*"):
                os.utime(path, (10**9, 10**9), follow_symlinks=False)
        # What is built from here on is another one's until it is done.
        self.file.unlink(missing_ok=True)

    def note(self):
        self.file.write_text(self.program)


class Block:
    """A fenced block, and the chapter that it stands in."""

    def __init__(self, where, chapter, info):
        self.where, self.chapter, self.info = where, chapter, info
        self.kind, _, self.how = info.partition(" ")
        self.lines = []

    @property
    def text(self):
        return "\n".join(self.lines) + "\n"


def blocks(document):
    """The blocks of a document, in their order."""
    chapter, block, found = "", None, []
    for number, line in enumerate(document.read_text().splitlines(), 1):
        fence = re.fullmatch(r"\s*```(.*)", line)
        if block is None and fence:
            block = Block(f"{document.name}:{number}", chapter, fence[1])
        elif block is not None and fence:
            found.append(block)
            block = None
        elif block is not None:
            block.lines.append(line)
        elif line.startswith("## "):
            chapter = line
    assert block is None, f"{block.where} has no end"
    return found


class User:
    """Who reads one document from top to bottom, and does what it says."""

    def __init__(self, clone, log):
        self.clone, self.log = clone, log
        self.server, self.printed = None, ""
        self.ran, self.not_run = 0, []

    def __enter__(self):
        return self

    def __exit__(self, kind, _error, _trace):
        if self.server:
            self.server.end(in_order=kind is None)

    def take(self, block):
        if self.server and self.server.chapter != block.chapter:
            self.end_server()
        if block.kind == "sh":
            self.run(block)
        elif block.kind == "output":
            expect(matches(block.text, self.printed), f"{block.where}: expected\n{block.text}\nprinted\n{self.printed}")
        elif block.kind == "log":
            expect(self.server, f"{block.where}: nothing serves")
            for line in block.lines:
                self.server.wait_for(glob(line), block.where)
        elif block.kind == "toml" and (name := re.fullmatch(r"# (\S+\.toml)", block.lines[0])):
            (self.clone / name[1]).write_text(block.text)
        else:
            expect(block.kind in ("toml", "text", "yaml"), f"{block.where}: a block {block.info!r} is not known")

    def run(self, block):
        if block.how == "no-run":
            expect(block.lines[0].startswith("# "), f"{block.where}: the first line does not say why it must not run")
            self.not_run.append((block.where, block.lines[0].removeprefix("# ")))
        elif block.how == "serves":
            self.end_server()
            print(f"  {block.where} serves: {block.lines[0]}", flush=True)
            self.server = Server(block, self.clone, self.log)
            # It may have to be built first.
            self.server.wait_for("*serving*", block.where, LONG)
            self.ran += 1
        else:
            self.run_to_end(block)
            self.ran += 1

    def run_to_end(self, block):
        code = int(block.how.removeprefix("fails=") or 0)
        print(f"  {block.where}: {block.lines[0]}", flush=True)
        with open(self.log, "a") as log:
            done = subprocess.run(shell(block), cwd=self.clone, env=environment(self.clone), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=log, text=True, timeout=LONG)
            log.write(done.stdout)
        self.printed = done.stdout
        expect(done.returncode == code, f"{block.where}: exit code {done.returncode}, not {code}; see {self.log}")

    def end_server(self):
        if self.server:
            server, self.server = self.server, None
            server.end(in_order=True)


class Server:
    """What runs in the foreground of a user's other terminal. Its lines are waited for, and Ctrl-C ends it."""

    def __init__(self, block, clone, log):
        self.where, self.chapter = block.where, block.chapter
        self.lines, self.news, self.ended = [], threading.Condition(), False
        self.errors = open(log, "a")
        # A terminal's Ctrl-C goes to all processes of the group: the shell, cargo, the gateway.
        self.process = subprocess.Popen(shell(block), cwd=clone, env=environment(clone), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=self.errors, text=True, start_new_session=True)
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self.news:
                self.lines.append(line.rstrip("\n"))
                self.news.notify_all()
        with self.news:
            self.ended = True
            self.news.notify_all()

    def wait_for(self, pattern, where, seconds=GUARD):
        def found():
            return any(fnmatch.fnmatchcase(printed, pattern) for printed in self.lines)

        with self.news:
            self.news.wait_for(lambda: found() or self.ended, timeout=seconds)
            expect(found(), f"{where}: not printed: {pattern}\nprinted:\n" + "\n".join(self.lines))

    def end(self, in_order):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            code = self.process.wait(timeout=GUARD)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.reader.join()
            self.errors.close()
        if in_order:
            expect(code == 0, f"{self.where}: exit code {code} after Ctrl-C")


def shell(block):
    """Strict, so that no line of a block may fail unseen. What serves replaces the shell, as in a terminal of its own."""
    text = f"exec {block.text}" if block.how == "serves" else block.text
    return ["bash", "--norc", "-euo", "pipefail", "-c", text]


def environment(clone):
    """A user's own, but for where builds and installations go: nothing outside of target/ is touched, and what the
    checkout has built of its dependencies is not built again."""
    installed = clone.parent / "installed"
    return {
        **os.environ,
        "CARGO_TARGET_DIR": str(place.ROOT / "target"),
        "CARGO_INSTALL_ROOT": str(installed),
        "CARGO_INCREMENTAL": "0",
        "CARGO_NET_OFFLINE": "true",
        "PATH": f"{installed / 'bin'}:{os.environ['PATH']}",
    }


def glob(text):
    """"…" as a wildcard, and nothing else."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in text).replace("…", "*")


def matches(expected, printed):
    """Whether each line is as expected."""
    wanted, lines = expected.splitlines(), printed.replace("\r", "").splitlines()
    alike = (fnmatch.fnmatchcase(line, glob(want)) for want, line in zip(wanted, lines))
    return len(wanted) == len(lines) and all(alike)


def expect(holds, what):
    if not holds:
        raise AssertionError(what)


if __name__ == "__main__":
    sys.exit(main())
