# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The cells of a grid run in processes of their own: none twice, and none from its beginning that can go on."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from transformers.utils import CONFIG_NAME

from ..results.dynamics_file import DYNAMICS
from ..results.folder import last_complete_checkpoint
from ..results.lock import hold, release
from ..results.replace import PREDICTIONS, RESULTS, UNFINISHED, checkpoints_of, of_a_run
from ..robustness.study import ENTROPIES
from ..robustness.study import RESULTS as OOD_RESULTS
from .grid import OOD, Cell


LAUNCH = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1")
CELL, LOG = "cell.json", "cell.log"
_LOCK = ".cell"  # the folder whose lock the grid holds that runs a cell; the run itself locks the cell's own
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "timm")
_KEPT = (RESULTS, PREDICTIONS, CONFIG_NAME, DYNAMICS, CELL, f"{OOD}/{ENTROPIES}", f"{OOD}/{OOD_RESULTS}")
_PATIENCE, _PAUSE = 30.0, 0.5  # seconds that an interrupted run has to end, and between looks at those that run


@dataclass(frozen=True)
class Place:
    """
    Where the cells of a grid are run, and where the small files of finished ones are kept.

    Attributes:
        folder, kept (`Path`): The two.
        root (`Path`, *optional*): The folder of the data. What is kept names neither it nor `folder`, which are of one
            machine, but `path/to/data` and `path/to/runs`.
    """

    folder: Path
    kept: Path
    root: Path | None = None

    def home(self, cell: Cell) -> Path:
        """The folder that a cell is run in."""
        return self.folder / cell.name

    def is_run(self, cell: Cell) -> bool:
        """Whether a cell is run to its end, its measurement on unfamiliar data included."""
        return _is_trained(self.home(cell)) and _has_ood(cell, self.home(cell))

    def is_finished(self, cell: Cell) -> bool:
        """Whether nothing is left to be done for a cell."""
        kept = self.kept / cell.name
        return (kept / RESULTS).is_file() and (kept / PREDICTIONS).is_file() and _has_ood(cell, kept)

    def keep(self, cell: Cell) -> None:
        """Copy the small files of a cell, all at once; what was kept of an earlier one goes."""
        home, kept = self.home(cell), self.kept / cell.name
        copy, old = kept.with_name(f".{kept.name}.new"), kept.with_name(f".{kept.name}.old")
        for left in (copy, old):
            shutil.rmtree(left, ignore_errors=True)
        for name in _KEPT:
            if (home / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(home / name, copy / name)
                if Path(name).suffix == ".json":
                    (copy / name).write_text(self._told((home / name).read_text("utf-8")), "utf-8")
        if kept.exists():
            kept.rename(old)
        copy.rename(kept)
        shutil.rmtree(old, ignore_errors=True)

    def _told(self, text: str) -> str:
        for path, name in ((self.folder, "runs"), (self.root, "data")):
            if path is not None:
                text = re.sub(rf"(?<=\"){re.escape(json.dumps(str(path))[1:-1])}(?=[/\"])", f"path/to/{name}", text)
        return text


def _is_trained(home: Path) -> bool:
    return (home / RESULTS).is_file() and not (home / UNFINISHED).is_dir()


def _has_ood(cell: Cell, home: Path) -> bool:
    return not cell.ood or (home / OOD / ENTROPIES).is_file()


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


def check_cell(cell: Cell, home: Path) -> None:
    """
    Refuse a folder that holds another run than the cell's.

    Raises:
        ValueError: If the run there was started with other flags, or is of another loss or seed.
    """
    known = read_cell(home).get("flags")
    wanted = json.loads(json.dumps(cell.flags))
    if known is None and (home / RESULTS).is_file():  # of a run that no grid started
        known = json.loads((home / RESULTS).read_text("utf-8"))
        wanted = {"loss": cell.flags["loss"], "seed": cell.seed}
        known = {key: known.get(key, value) for key, value in wanted.items()}
    if known is not None and known != wanted:
        differ = sorted(key for key in {*known, *wanted} if known.get(key) != wanted.get(key))
        found = ", ".join(f"{key} {known.get(key)!r}, now {wanted.get(key)!r}" for key in differ)
        raise ValueError(
            f"{home} holds a run of other flags ({found}). Remove it, or give another --output_dir and --results_dir."
        )


def seconds_of(home: Path) -> float:
    """What a cell took, all its starts together; 0 where nobody has noted it."""
    return sum(one.get("seconds") or 0.0 for one in read_cell(home).get("starts", []))


def expected_seconds(cells: Sequence[Cell], place: Place) -> dict[str, float | None]:
    """By name, what a cell takes: the median of finished ones of its table and model, else by the step measured."""
    taken: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        if place.is_finished(cell) and (seconds := seconds_of(place.kept / cell.name)):
            taken.setdefault((cell.table, cell.model), []).append(seconds)
    return {
        cell.name: median(taken[key]) if (key := (cell.table, cell.model)) in taken else cell.seconds for cell in cells
    }


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
    place: Place
    todo: list[list[str]]
    threads: int
    process: subprocess.Popen[bytes] | None = None
    code: int | None = None
    resumes: bool = False
    taken: float = 0.0  # seconds of what has ended

    @property
    def home(self) -> Path:
        """Its folder."""
        return self.place.home(self.cell)

    @property
    def seconds(self) -> float:
        """Since this process began it."""
        return self.taken + (time.monotonic() - self._began if self.code is None else 0.0)

    def begin(self) -> None:
        """Start what is to be run next; where nothing is, keep what is there."""
        self._began = time.monotonic()
        if not self.todo:
            self.place.keep(self.cell)
            self.code = 0
            return
        self.resumes = self.resumes or "--resume_from_checkpoint" in self.todo[0]
        command = self.todo.pop(0)
        words = [*LAUNCH, *command]
        root = str(Path.cwd())
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        env = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "OMP_NUM_THREADS": str(self.threads)}
        env = {**env, **os.environ, "PYTHONPATH": path}
        facts = read_cell(self.home)
        facts |= {"table": self.cell.table, "model": self.cell.model, "loss": self.cell.loss, "seed": self.cell.seed}
        facts |= {"flags": self.cell.flags, "versions": versions(), "commit": commit_of(Path.cwd())}
        facts["machine"] = f"{os.cpu_count()} CPU cores ({platform.machine()}), {env['OMP_NUM_THREADS']} thread(s)"
        _write_cell(self.home, facts)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env,
                                            start_new_session=True)  # fmt: skip
        start = {
            "command": ["accelerate", "launch", "--num_processes", "1", *command],
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "process": self.process.pid, "created": psutil.Process(self.process.pid).create_time(),
            "host": platform.node(),
        }  # fmt: skip
        facts["starts"] = [*facts.get("starts", []), start]
        _write_cell(self.home, facts)

    def ended(self) -> bool:
        """Whether the cell has ended, well (`code` 0) or not; starts what comes next."""
        if self.code is None and self.process is not None and (code := self.process.poll()) is not None:
            self._note(code)
            self.code = code or None
            if not code:
                self.begin()
        if self.code is None:
            return False
        release(self.home / _LOCK)
        return True

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
        self.taken += time.monotonic() - self._began
        facts["starts"][-1] |= {"seconds": round(time.monotonic() - self._began, 1), "code": code}
        _write_cell(self.home, facts)

    @property
    def log(self) -> Path:
        """What its processes say."""
        return self.home / LOG

    @property
    def last_line(self) -> str:
        """What its log says last."""
        with suppress(OSError):
            lines = self.log.read_bytes()[-4000:].decode("utf-8", "replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""


def take(cell: Cell, place: Place, threads: int) -> Job | None:
    """Start a cell, unless another process runs it, or has finished it."""
    home = place.home(cell)
    try:
        hold(home / _LOCK)
    except BlockingIOError:
        return None
    job = None
    try:
        if not _is_busy(home) and not place.is_finished(cell):
            check_cell(cell, home)
            job = Job(cell, place, _todo(cell, place), threads)
            job.begin()
    finally:
        if job is None or (job.process is None and job.code is None):
            release(home / _LOCK)
    return job


def _is_busy(home: Path) -> bool:
    """Whether a run is under way that outlived the grid which started it, or that somebody started by hand."""
    try:
        hold(home)
        release(home)
    except BlockingIOError:
        return True
    return any(map(_alive, read_cell(home).get("starts", [])))


def _todo(cell: Cell, place: Place) -> list[list[str]]:
    home = place.home(cell)
    if place.is_run(cell):
        return []
    trained = _is_trained(home)
    return cell.commands(place.folder, [] if trained else how_to_go_on(home))[trained:]


def run_cells(
    cells: Sequence[Cell], place: Place, jobs: int, threads: int, show: Callable[[Sequence[Job], Job | None], None]
) -> list[Job]:
    """
    Run what is left of cells, so many at a time, and wait for those that other processes run.

    Args:
        cells, place, threads:
            What to run, where, and the threads of each.
        jobs (`int`):
            So many at a time.
        show (`Callable`):
            Is called with the jobs that run, and one that has just begun or ended, if one has.

    Returns:
        `list[Job]`: Those that failed.
    """
    waiting, running, failed = list(cells), list[Job](), list[Job]()
    try:
        while waiting or running:
            for job in [job for job in running if job.ended()]:
                running.remove(job)
                failed += [job] * bool(job.code)
                show(running, job)
            waiting = [cell for cell in waiting if not place.is_finished(cell)]
            for cell in waiting if len(running) < jobs else ():
                if (begun := take(cell, place, threads)) is not None:
                    waiting.remove(cell)
                    running.append(begun)
                    if begun.code is None:
                        show(running, begun)
                    break
            else:  # nothing was begun
                show(running, None)
                time.sleep(_PAUSE)
    finally:
        for job in running:
            job.stop()
    return failed
