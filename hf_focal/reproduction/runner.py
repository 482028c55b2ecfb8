# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The cells of a grid run in processes of their own: none twice, and none from its beginning that can go on."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from ..results.lock import hold, release
from .grid import Cell
from .place import Place, check_cell, commit_of, how_to_go_on, is_trained, read_cell, versions, write_cell


LAUNCH = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1")
LOG = "cell.log"
_LOCK = ".cell"  # the folder whose lock the grid holds that runs a cell; the run itself locks the cell's own
_PATIENCE, _PAUSE = 30.0, 0.5  # seconds that an interrupted run has to end, and between looks at those that run


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
        write_cell(self.home, facts)
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
        write_cell(self.home, facts)

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
        write_cell(self.home, facts)

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
    trained = is_trained(home)
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
