# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The folders of cells: what is noted and kept of each, whether it is the cell's, and what is left to be done."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from transformers.utils import CONFIG_NAME

from ..results.dynamics_file import DYNAMICS, read_rows, write_rows
from ..results.folder import last_complete_checkpoint
from ..results.replace import PREDICTIONS, RESULTS, UNFINISHED, checkpoints_of, of_a_run
from ..robustness.study import ENTROPIES
from ..robustness.study import RESULTS as OOD_RESULTS
from .grid import OOD, Cell


CELL = "cell.json"
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "timm")
_KEPT = (RESULTS, PREDICTIONS, CONFIG_NAME, DYNAMICS, CELL, f"{OOD}/{ENTROPIES}", f"{OOD}/{OOD_RESULTS}")


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
        return is_trained(self.home(cell)) and _has_ood(cell, self.home(cell))

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
            if not (home / name).is_file():
                continue
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            if Path(name).suffix == ".json":
                (copy / name).write_text(self._told((home / name).read_text("utf-8")), "utf-8")
            elif name == DYNAMICS:
                write_rows(copy / name, [_without_norms_of_test(row) for row in read_rows(home / name)])
            else:
                shutil.copyfile(home / name, copy / name)
        if kept.exists():
            kept.rename(old)
        copy.rename(kept)
        shutil.rmtree(old, ignore_errors=True)

    def _told(self, text: str) -> str:
        for path, name in ((self.folder, "runs"), (self.root, "data")):
            if path is not None:
                text = re.sub(rf"(?<=\"){re.escape(json.dumps(str(path))[1:-1])}(?=[/\"])", f"path/to/{name}", text)
        return text


def is_trained(home: Path) -> bool:
    """Whether a run was finished in this folder."""
    return (home / RESULTS).is_file() and not (home / UNFINISHED).is_dir()


def _without_norms_of_test(row: dict[str, Any]) -> dict[str, Any]:
    """Gradient norms are drawn of training samples alone, and are most of the file."""
    return row if row["split"] == "train" else {**row, "gradient_norms": None}


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


def write_cell(home: Path, facts: dict[str, Any]) -> None:
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
