# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
The fast tests with the lowest version of each dependency that setup.py allows, in a virtual environment of their own.

    python tests/lowest_versions.py                          # all fast tests, in a folder that is removed
    python tests/lowest_versions.py --folder DIR tests/hub   # keeps the environment in DIR, and runs these

What follows the options goes to pytest. `--python` takes another interpreter, such as that of the lowest Python. The
packages come from the index that `uv` is set up for, some 7 GB with PyTorch's libraries for GPUs; a dependency for
which a version above its bound is taken, since the others allow no lower one, is an error: the bound says too much.
"""

import argparse
import os
import re
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock


ROOT = Path(__file__).resolve().parent.parent
EXTRA = "test"
BOUND = re.compile(r"([\w.-]+)>=([\d.]+)")
INSTALLED = """
import sys
from importlib.metadata import version
print(*(f"{name}=={version(name)}" for name in sys.argv[1:]), sep="\\n")
"""


def bounds() -> dict[str, str]:
    """The lowest version of each dependency, those of the tests included, as setup.py hands them to setuptools."""
    said = {}
    with mock.patch("setuptools.setup", lambda **options: said.update(options)):
        runpy.run_path(str(ROOT / "setup.py"))
    required = [*said["install_requires"], *said["extras_require"][EXTRA]]
    return {name.lower(): version for name, version in (BOUND.match(line).groups() for line in required)}


def install(folder: Path, python: str) -> Path:
    """An environment with the lowest versions; its interpreter."""
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    inside = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([str(inside), "-m", "pip", "install", "-q", "uv"], check=True)
    command = [str(inside), "-m", "uv", "pip", "install", "--python", str(inside), "--resolution", "lowest-direct"]
    subprocess.run([*command, "-r", str(ROOT / "setup.py"), "--extra", EXTRA, "--no-cache"], check=True)
    return inside


def above(python: Path) -> list[str]:
    """Which dependencies are installed in a version above their bound."""
    lowest = bounds()
    command = [str(python), "-c", INSTALLED, *lowest]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    print(*found, flush=True)
    versions = dict(line.split("==") for line in found)
    higher = [name for name, low in lowest.items() if number(versions[name]) > number(low)]
    return [f"{name} {versions[name]} for >={lowest[name]}" for name in higher]


def number(version: str) -> list[int]:
    numbers = [int(part) for part in re.match(r"[\d.]*\d", version)[0].split(".")]  # without +cu124
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="of the environment, which is kept, and used again if it is there")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to make it with")
    arguments, of_pytest = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="lowest-") as temporary:
        folder = (arguments.folder or Path(temporary) / "venv").resolve()
        made = next(folder.glob("*/python"), None)
        python = made or install(folder, arguments.python)
        if higher := above(python):
            print(f"The lowest versions that go together are above the bounds of setup.py: {', '.join(higher)}.")
            return 1
        left = {key: value for key, value in os.environ.items() if key not in ("PYTEST_ADDOPTS", "VIRTUAL_ENV")}
        path = os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])
        environment = {**left, "PYTHONPATH": str(ROOT), "PATH": path}
        return subprocess.run([str(python), "-m", "pytest", *of_pytest], cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
