# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""A grid of runs: what a YAML file of tables says, as cells with a folder and a command each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..names import suggestion


OOD = "ood"  # the folder in that of a cell which its measurement on unfamiliar data leaves
_KEYS = {"script", "config", "data", "models", "losses", "seeds", "flags", "ood", "paper", "scaled", "measured"}
_NEEDED = ("script", "data", "models", "losses", "seeds")
_OF_DATA = {"folder", "hub"}


@dataclass(frozen=True)
class Cell:
    """
    One run of a grid.

    Attributes:
        table (`str`): The key of its table in the grid.
        model, loss (`str`): What they are called there.
        seed (`int`): Of the run.
        script (`str`): Which script runs it, such as `run_text`.
        flags (`dict[str, Any]`): Those that say what is run: two runs with the same ones are the same run.
        places (`dict[str, Any]`): Those that say where the data are.
        ood (`dict[str, Any]`): Flags of `run_ood.py` to measure it with afterwards; empty for none.
        steps (`int`): Steps of training, as far as they are known; else 0.
        seconds (`float`): What a run took where the grid was measured; 0 where it was not.
    """

    table: str
    model: str
    loss: str
    seed: int
    script: str
    flags: dict[str, Any]
    places: dict[str, Any]
    ood: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Its folder in that of the grid."""
        return f"{self.table}/{self.model}-{self.loss}-seed{self.seed}"

    def commands(self, folder: Path, resume: Sequence[str] = ()) -> list[list[str]]:
        """What is run, one after the other: words after `python -m accelerate.commands.launch`."""
        home = folder / self.name
        run = [f"scripts/{self.script}.py", *words(self.flags), *words(self.places)]
        made = [[*run, "--output_dir", str(home), "--disable_tqdm", "true", *resume]]
        if self.ood:
            own = ["--model_name_or_path", str(home), "--output_dir", str(home / OOD)]
            made.append(["scripts/run_ood.py", *own, *words(self.ood)])
        return made


@dataclass(frozen=True)
class Table:
    """What one key of a grid says, beside its cells: which row of the paper it is, and what was scaled down."""

    name: str
    cells: list[Cell]
    dataset: str = ""
    model: str = ""
    scaled: str = ""
    measured: dict[str, Any] = field(default_factory=dict)


def words(flags: Mapping[str, Any]) -> list[str]:
    """Flags as words of a command line."""
    found: list[str] = []
    for name, value in flags.items():
        values = value if isinstance(value, list) else [value]
        found += [f"--{name}", *map(_word, values)]
    return found


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (dict, bool)) else str(value)


def read_grid(path: str | Path, data_root: str | Path | None = None) -> list[Table]:
    """
    The tables of a grid, from its YAML file.

    Args:
        path (`str` or `Path`):
            A mapping from the name of a table to its `script`, `config`, `data` (by flag the `folder` below
            `data_root`, and what it is called on the `hub`), `models`, `losses` (by name the flags of each), `seeds`,
            further `flags`, and flags of `run_ood.py` (`ood`).
        data_root (`str` or `Path`, *optional*):
            The folder that holds the data. Unset: they come from the Hub.

    Raises:
        ValueError: If the file is no such mapping, or data are neither there nor on the Hub.
    """
    try:
        tables = yaml.safe_load(Path(path).read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(tables, dict) or not tables:
        raise ValueError(f"{path} must hold a mapping from names of tables to what they run.")
    return [_table(str(name), entry, path, data_root) for name, entry in tables.items()]


def _table(name: str, entry: Any, path: str | Path, root: str | Path | None) -> Table:
    if not isinstance(entry, dict):
        raise ValueError(f"{path}: {name} must be a mapping, got {entry!r}.")
    if unknown := sorted({*entry} - _KEYS):
        raise ValueError(f"{path}: {name} has an unknown key, {unknown[0]!r}.{suggestion(unknown[0], _KEYS)}")
    if missing := [key for key in _NEEDED if not entry.get(key)]:
        raise ValueError(f"{path}: {name} lacks {', '.join(missing)}.")
    cells = list(_cells(name, entry, path, root))
    row = entry.get("paper") or {}
    facts = {"scaled": " ".join(str(entry.get("scaled") or "").split()), "measured": entry.get("measured") or {}}
    return Table(name, cells, row.get("dataset", ""), row.get("model", ""), **facts)


def _cells(name: str, entry: Mapping[str, Any], path: str | Path, root: str | Path | None) -> Iterator[Cell]:
    """Seed by seed, so that a whole table of one seed is there first."""
    models = entry["models"] if isinstance(entry["models"], dict) else dict.fromkeys(entry["models"])
    places = {flag: _place(flag, one, path, root) for flag, one in entry["data"].items()}
    ood = dict(entry.get("ood") or {})
    others = ood.pop("data", None) or {}
    ood |= {flag: _place(flag, one, path, root) for flag, one in others.items()}
    config = {"config": entry["config"]} if entry.get("config") else {}
    for seed in entry["seeds"]:
        for model, of_model in models.items():
            for loss, of_loss in entry["losses"].items():
                flags = {**config, "model_name_or_path": model, "loss": loss, **(entry.get("flags") or {})}
                flags |= {**(of_model or {}), **(of_loss or {}), "seed": seed}
                taken = float((entry.get("measured") or {}).get("seconds", 0.0))
                yield Cell(name, str(model), str(loss), seed, entry["script"], flags, places, ood, taken)


def _place(flag: str, one: Any, path: str | Path, root: str | Path | None) -> Any:
    """Where data are: below the root where there is one, else on the Hub."""
    if isinstance(one, list):
        return [_place(flag, each, path, root) for each in one]
    if not isinstance(one, dict):
        return one  # embedded data, or a path of the user's
    if unknown := {*one} - _OF_DATA:
        raise ValueError(f"{path}: data of --{flag} have an unknown key, {sorted(unknown)[0]!r}.")
    if root is not None and "folder" in one:
        return str(Path(root) / one["folder"])
    return one.get("hub")


def total_seconds(cells: Sequence[Cell], measured: Mapping[tuple[str, str], float]) -> float | None:
    """What cells take one after the other, by what those of the same table and model took; `None` if unknown."""
    found = [measured.get((cell.table, cell.model), cell.seconds) for cell in cells]
    return None if any(not one or math.isnan(one) for one in found) else sum(found)
