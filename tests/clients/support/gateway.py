"""The gateway as its users run it: the binary, a file, what it writes, and how it ends."""

import json
import shutil
import signal
import subprocess
import threading

from support import place

GUARD = 60  # seconds until something that does not come is a failure; nothing here measures speed

LISTENERS = """
[[listener]]
name = "plain"
bind = "127.0.0.1:0"

[[listener]]
name = "tls"
bind = "127.0.0.1:0"
tls = {{ certificate = "{certs}/fullchain.pem", key = "{certs}/privkey.pem" }}
"""


class Gateway:
    """A running gateway with a listener "plain" and a listener "tls"; `config` has the rest. Ended by SIGTERM at the end
    of the `with`, in order: any other exit code is an error."""

    def __init__(self, folder, config, listeners=LISTENERS):
        self.file = folder / "gateway.toml"
        log = '[log]\nformat = "json"\n'
        self.file.write_text(log + listeners.format(certs=certificates()) + config)
        self.stderr = open(folder / "gateway.stderr", "w")
        self.log = open(folder / "gateway.log", "w")
        self.lines = []
        self.news = threading.Condition()
        self.ended = False

    def __enter__(self):
        command = [place.BINARY, "run", self.file]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.stderr, text=True)
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        self.wait(lambda line: line.get("message") == "serving")
        return self

    def __exit__(self, kind, _error, _trace):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=GUARD)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.reader.join()
            self.stderr.close()
            self.log.close()
        if kind is None and code != 0:
            raise AssertionError(f"the gateway ended with {code}; its log: {self.log.name}")

    def _read(self):
        for text in self.process.stdout:
            self.log.write(text)
            self.log.flush()
            with self.news:
                self.lines.append(json.loads(text))
                self.news.notify_all()
        with self.news:
            self.ended = True
            self.news.notify_all()

    def wait(self, wanted, count=1):
        """The first `count` lines of which `wanted` is true, as soon as they are there."""

        def found():
            return [line for line in self.lines if wanted(line)]

        with self.news:
            if not self.news.wait_for(lambda: len(found()) >= count or self.ended, timeout=GUARD) or len(found()) < count:
                raise AssertionError(f"{len(found())} of {count} lines; all of them: {self.log.name}")
            lines = found()[:count]
        return lines[0] if count == 1 else lines

    def port(self, listener):
        line = next(line for line in self.lines if line.get("message") == "listening" and line["listener"] == listener)
        return int(line["address"].rpartition(":")[2])

    def url(self, scheme, path):
        """The address of the path by http, https, ws or wss."""
        listener = "tls" if scheme in ("https", "wss") else "plain"
        return f"{scheme}://localhost:{self.port(listener)}{path}"


def certificates():
    """The folder of a certificate for localhost, made once by the project's own generator; ca.pem is its authority."""
    folder = place.tools("certs")
    if not (folder / "privkey.pem").exists():
        shutil.copy(place.ROOT / "certs" / "generate", folder)
        subprocess.run([folder / "generate"], check=True, stdout=subprocess.DEVNULL)
    return folder


def forward(**upstreams):
    """Routes /NAME to the backend on 127.0.0.1 at that port, for each NAME = PORT."""
    return "".join(
        f'\n[upstream.{name}]\nendpoints = ["127.0.0.1:{port}"]\n\n[[route]]\nname = "{name}"\npath = "/{name}"\nupstream = "{name}"\n'
        for name, port in upstreams.items()
    )
