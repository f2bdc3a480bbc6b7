"""What a suite needs from the registries: installed once, under target/ or by Debian's apt-get."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from support import place


def venv(requirements, name=None):
    """A virtual environment with what the file `requirements` pins; gives the path of its python."""
    requirements = Path(requirements)
    folder = place.tools(f"venv-{name or requirements.parent.name}")
    python = folder / "bin" / "python"

    def make():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "-r", requirements], check=True)

    once(folder, requirements.read_bytes(), make)
    return python


def npm(package):
    """The packages that the file `package` (a package.json) names and the package-lock.json beside it pins; gives the
    folder that holds node_modules. Programs find them by NODE_PATH, see node()."""
    package = Path(package)
    lock = package.with_name("package-lock.json")
    folder = place.tools(f"npm-{package.parent.name}")

    def make():
        for file in (package, lock):
            shutil.copy(file, folder)
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"], cwd=folder, check=True)

    once(folder, package.read_bytes() + lock.read_bytes(), make)
    return folder


def node(folder):
    """The environment in which node finds the packages of that folder."""
    return {**os.environ, "NODE_PATH": str(folder / "node_modules")}


def apt(**programs):
    """Debian's packages, named by a program that each brings: apt(chromium="chromium")."""
    missing = [package for program, package in programs.items() if shutil.which(program.replace("_", "-")) is None]
    if missing:
        print(f"installing {', '.join(missing)}", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], env=environment, check=True, stdout=subprocess.DEVNULL)
        command = ["apt-get", "install", "-qq", "--no-install-recommends", *missing]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def once(folder, pins, make):
    """Runs `make` unless it went through before with these very pins."""
    done = folder / ".pins"
    if not done.exists() or done.read_bytes() != pins:
        make()
        done.write_bytes(pins)
