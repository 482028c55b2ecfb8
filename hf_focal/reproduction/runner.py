# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The cells of a grid run in processes of their own: none twice, and none from its beginning that can go on."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from ..results.folder import last_complete_checkpoint
from ..results.lock import hold, release
from ..results.replace import RESULTS, UNFINISHED, checkpoints_of, of_a_run
from ..robustness.study import RESULTS as OOD_RESULTS
from .grid import OOD, Cell


CELL, LOG = "cell.json", "cell.log"
_LOCK = ".cell"  # the folder whose lock the grid holds that runs a cell; the run itself locks the cell's own
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "timm")
_PATIENCE = 30.0  # seconds that an interrupted run has to end


def is_trained(home: Path) -> bool:
    """Whether a run was finished in this folder."""
    return (home / RESULTS).is_file() and not (home / UNFINISHED).is_dir()


def is_finished(cell: Cell, folder: Path) -> bool:
    """Whether nothing is left to be done for a cell."""
    home = folder / cell.name
    return is_trained(home) and (not cell.ood or (home / OOD / OOD_RESULTS).is_file())


def how_to_go_on(home: Path) -> list[str]:
    """The flags that a run needs for what an earlier one left in its folder."""
    unfinished = home / UNFINISHED
    if last_complete_checkpoint(unfinished if unfinished.is_dir() else home) is not None:
        return ["--resume_from_checkpoint", "last"]
    left = home.is_dir() and any(of_a_run(path) for path in home.iterdir())
    return ["--overwrite"] if left or checkpoints_of(home) else []


def read_cell(home: Path) -> dict[str, Any]:
    """What the grid has noted of a cell; empty where it was not run by one."""
    try:
        return json.loads((home / CELL).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{home / CELL} is damaged: {error}. Remove it, or the whole folder.") from error


def _write_cell(home: Path, facts: dict[str, Any]) -> None:
    """At once, so that none is ever half written."""
    home.mkdir(parents=True, exist_ok=True)
    whole = home / f"{CELL}.tmp"
    whole.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
    os.replace(whole, home / CELL)


def check_cell(cell: Cell, folder: Path) -> None:
    """
    Refuse a folder that holds another run than the cell's.

    Raises:
        ValueError: If the run there was started with other flags, or is of another loss or seed.
    """
    home = folder / cell.name
    known = read_cell(home).get("flags")
    wanted = json.loads(json.dumps(cell.flags))
    if known is not None and known != wanted:
        differ = sorted(key for key in {*known, *wanted} if known.get(key) != wanted.get(key))
        found = ", ".join(f"{key} {known.get(key)!r}, now {wanted.get(key)!r}" for key in differ)
        raise ValueError(f"{home} holds a run of other flags ({found}). Remove it, or give another --output_dir.")
    if known is None and is_trained(home):
        results = json.loads((home / RESULTS).read_text("utf-8"))
        pairs = {"loss": cell.flags["loss"], "seed": cell.seed}
        for key, value in pairs.items():
            if results.get(key, value) != value:
                found = f"{key} {results[key]!r} in place of {value!r}"
                raise ValueError(f"{home} holds a run of {found}. Remove it, or give another --output_dir.")


def seconds_of(home: Path) -> float:
    """What a cell took, all its starts together; 0 where nobody has noted it."""
    return sum(one.get("seconds") or 0.0 for one in read_cell(home).get("starts", []))


def measured_seconds(cells: Sequence[Cell], folder: Path) -> dict[tuple[str, str], float]:
    """By table and model, the median of what the finished cells took."""
    found: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        if is_finished(cell, folder) and (taken := seconds_of(folder / cell.name)):
            found.setdefault((cell.table, cell.model), []).append(taken)
    return {key: median(values) for key, values in found.items()}


def versions() -> dict[str, str]:
    """What a run depends on."""
    found = {"python": platform.python_version()}
    for name in ("hf_focal", *_PACKAGES):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def commit_of(folder: Path) -> str | None:
    """The commit of a checkout, marked where files differ from it."""
    try:
        words = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _alive(start: dict[str, Any]) -> bool:
    """Whether the process of an earlier start still runs."""
    if "seconds" in start or start.get("host") != platform.node():
        return False
    try:
        process = psutil.Process(start["process"])
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - start["created"]) < 1
    except psutil.Error:
        return False


@dataclass
class Job:
    """A cell that this process runs."""

    cell: Cell
    home: Path
    todo: list[list[str]]
    threads: int
    process: subprocess.Popen[bytes] | None = None
    began: float = field(default_factory=time.monotonic)
    code: int | None = None

    def begin(self) -> None:
        """Start what is to be run next."""
        words = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", *self.todo.pop(0)]
        root = str(Path.cwd())
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        env = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "OMP_NUM_THREADS": str(self.threads)}
        env = {**env, **os.environ, "PYTHONPATH": path}
        facts = read_cell(self.home)
        facts |= {"table": self.cell.table, "model": self.cell.model, "loss": self.cell.loss, "seed": self.cell.seed}
        facts |= {"flags": self.cell.flags, "versions": versions(), "commit": commit_of(Path.cwd())}
        facts["machine"] = f"{os.cpu_count()} CPU cores ({platform.machine()}), {env['OMP_NUM_THREADS']} thread(s)"
        _write_cell(self.home, facts)
        with open(self.home / LOG, "ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env,
                                            start_new_session=True)  # fmt: skip
        start = {
            "command": ["accelerate", "launch", *words[3:]], "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "process": self.process.pid, "created": psutil.Process(self.process.pid).create_time(),
            "host": platform.node(),
        }  # fmt: skip
        facts["starts"] = [*facts.get("starts", []), start]
        self._began = time.monotonic()
        _write_cell(self.home, facts)

    def poll(self) -> bool:
        """Whether the cell has ended, well (`code` 0) or not; starts what comes next."""
        assert self.process is not None
        code = self.process.poll()
        if code is None:
            return False
        self._note(code)
        if code or not self.todo:
            self.code = code
            release(self.home / _LOCK)
            return True
        self.begin()
        return False

    def stop(self) -> None:
        """End it as the keyboard does, so that it can go on later."""
        if self.process is None or self.process.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            code = self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            code = self.process.wait()
        self._note(code)
        release(self.home / _LOCK)

    def _note(self, code: int) -> None:
        facts = read_cell(self.home)
        facts["starts"][-1] |= {"seconds": round(time.monotonic() - self._began, 1), "code": code}
        _write_cell(self.home, facts)

    @property
    def last_line(self) -> str:
        """What its log says last."""
        with suppress(OSError):
            lines = (self.home / LOG).read_bytes()[-4000:].decode("utf-8", "replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""


def take(cell: Cell, folder: Path, threads: int) -> Job | None:
    """Start a cell, unless another process runs it."""
    home = folder / cell.name
    try:
        hold(home / _LOCK)
    except BlockingIOError:
        return None
    try:
        hold(home)  # that of a run which outlived the grid that started it
        release(home)
        busy = any(map(_alive, read_cell(home).get("starts", [])))
    except BlockingIOError:
        busy = True
    if busy or is_finished(cell, folder):
        release(home / _LOCK)
        return None
    check_cell(cell, folder)
    trained = is_trained(home)
    todo = cell.commands(folder, [] if trained else how_to_go_on(home))
    job = Job(cell, home, todo[trained:], threads)
    job.begin()
    return job
