# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""A grid of runs: what a YAML file of tables says, as cells with a folder and commands each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..names import suggestion


OOD = "ood"  # the folder, in that of a cell, of its measurement on unfamiliar data
_SCRIPTS = ("run_image", "run_text")
_KEYS = {"script", "config", "models", "losses", "seeds", "flags", "ood", "paper", "scaled", "measured", "released"}
_OF_MODELS = ("paper", "measured", "losses")  # what an entry of a model may hold beside flags
_NEEDED = ("script", "models", "losses", "seeds")
_PLACE = {"folder", "hub"}
_MEASURED = {"samples", "step", "rest"}
_EPOCHS, _BATCH = 20.0, 64.0  # the defaults of the scripts


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
        places (`dict[str, Any]`): Those that say where data, or a pretrained model, are.
        ood (`dict[str, Any]`): Flags of `run_ood.py` to measure it with afterwards; empty for none.
        seconds (`float`, *optional*): What it takes by the step that was measured; `None` where none was.
        paper (`str`): The row of the paper that it stands for (data set, model), if it does.
    """

    table: str
    model: str
    loss: str
    seed: int
    script: str
    flags: dict[str, Any]
    places: dict[str, Any]
    ood: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    paper: str = ""

    @property
    def name(self) -> str:
        """Its folder in that of the grid."""
        return f"{self.table}/{self.model}-{self.loss}-seed{self.seed}"

    def commands(self, folder: Path, resume: Sequence[str] = ()) -> list[list[str]]:
        """What is run, one after the other: words after `accelerate launch`."""
        home = folder / self.name
        run = [f"scripts/{self.script}.py", *words(self.flags), *words(self.places)]
        made = [[*run, "--output_dir", str(home), "--disable_tqdm", "true", *resume]]
        if self.ood:
            own = ["--model_name_or_path", str(home), "--output_dir", str(home / OOD)]
            made.append(["scripts/run_ood.py", *own, *words(self.ood)])
        return made


@dataclass(frozen=True)
class Table:
    """What one key of a grid says: its cells, and in words what was scaled down."""

    name: str
    cells: list[Cell]
    scaled: str = ""


def words(flags: Mapping[str, Any]) -> list[str]:
    """Flags as words of a command line."""
    found: list[str] = []
    for name, value in flags.items():
        found += [f"--{name}", *map(_word, value if isinstance(value, list) else [value])]
    return found


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (dict, bool)) else str(value)


def read_grid(path: str | Path, data_root: str | Path | None = None, released: bool = False) -> list[Table]:
    """
    The tables of a grid.

    Args:
        path (`str` or `Path`):
            A YAML file: a mapping from the name of a table to its `script`, its `config`, further `flags`, `models`
            and `losses` (names; where they need flags, mappings from the name to these; that of a model may hold flags
            of some `losses`), `seeds`, and flags of `run_ood.py` (`ood`). A flag whose value is
            `{folder: name, hub: id}` says where something is: in a folder below `data_root`, or on the Hub. `paper` is
            the row that a table, or a model in it, stands for.
        data_root (`str` or `Path`, *optional*):
            The folder that holds what is named so. Unset: all of it is on the Hub.
        released (`bool`, *optional*, defaults to `False`):
            Take the tables that have flags of the published code (`released`) with these, under a name of their own.

    Raises:
        ValueError: If the file is no such mapping, or holds what nothing reads.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no grid {path}: start in the checkout, which holds the presets, or give a file.")
    try:
        tables = yaml.safe_load(Path(path).read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(tables, dict) or not tables:
        raise ValueError(f"{path} must hold a mapping from names of tables to what they run.")
    try:
        found = [_table(str(name), entry, data_root) for name, entry in tables.items()]
        if not released:
            return found
        entries = {f"{name}-released": entry for name, entry in tables.items() if entry.get("released")}
        return [_table(name, _released(entry), data_root) for name, entry in entries.items()]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _released(entry: dict[str, Any]) -> dict[str, Any]:
    flags = dict(entry["released"])
    seeds = [flags.pop("seed")] if "seed" in flags else entry["seeds"]
    scaled = f"{entry.get('scaled') or ''} As in the published code: {' '.join(words(flags))}."
    return {**entry, "flags": {**(entry.get("flags") or {}), **flags}, "seeds": seeds, "scaled": scaled}


def _table(name: str, entry: Any, root: str | Path | None) -> Table:
    if not isinstance(entry, dict):
        raise ValueError(f"{name} must be a mapping, got {entry!r}.")
    if unknown := sorted({*entry} - _KEYS):
        raise ValueError(f"{name} has an unknown key, {unknown[0]!r}.{suggestion(unknown[0], _KEYS)}")
    if missing := [key for key in _NEEDED if not entry.get(key)]:
        raise ValueError(f"{name} lacks {', '.join(missing)}.")
    if entry["script"] not in _SCRIPTS:
        raise ValueError(f"the script of {name} must be one of {', '.join(_SCRIPTS)}, got {entry['script']!r}.")
    return Table(name, list(_cells(name, entry, root)), " ".join(str(entry.get("scaled") or "").split()))


def _cells(name: str, entry: Mapping[str, Any], root: str | Path | None) -> Iterator[Cell]:
    """Seed by seed, so that a whole table of one seed is there first."""
    config = {"config": entry["config"]} if entry.get("config") else {}
    ood = {flag: _found(flag, value, root) for flag, value in (entry.get("ood") or {}).items()}
    for seed in entry["seeds"]:
        for model, all_of_model in _named(entry["models"]):
            own = {key: all_of_model[key] for key in _OF_MODELS if key in all_of_model}
            of_model = {key: value for key, value in all_of_model.items() if key not in own}
            for loss, of_loss in _named(entry["losses"]):
                flags = {**config, "model_name_or_path": model, "loss": loss, **(entry.get("flags") or {})}
                flags |= {**of_model, **of_loss, **own.get("losses", {}).get(loss, {}), "seed": seed}
                places = {flag: _found(flag, value, root) for flag, value in flags.items() if _is_place(value)}
                flags = {flag: value for flag, value in flags.items() if flag not in places}
                taken = _seconds(own.get("measured") or entry.get("measured") or {}, flags)
                paper = str(own.get("paper") or entry.get("paper") or "")
                yield Cell(name, model, loss, seed, entry["script"], flags, places, ood, taken, paper)


def _named(entries: Any) -> list[tuple[str, dict[str, Any]]]:
    """Names, and the flags of each."""
    pairs = entries.items() if isinstance(entries, dict) else ((name, None) for name in entries)
    return [(str(name), dict(flags or {})) for name, flags in pairs]


def _is_place(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and {*value} <= _PLACE


def _found(flag: str, value: Any, root: str | Path | None) -> Any:
    """Where something is: below the root where there is one, else on the Hub; what is no place stays."""
    if isinstance(value, list):
        return [_found(flag, one, root) for one in value]
    if not _is_place(value):
        return value
    if root is not None and "folder" in value:
        return str(Path(root) / value["folder"])
    return value.get("hub")  # None: the folder alone is known


def _seconds(measured: Mapping[str, Any], flags: Mapping[str, Any]) -> float | None:
    """What a run takes: its steps, and all that is around them."""
    if not measured:
        return None
    if {*measured} != _MEASURED:
        raise ValueError(f"`measured` must hold {', '.join(sorted(_MEASURED))}, got {', '.join(map(str, measured))}.")
    values = flags
    if "config" in flags:
        values = {**(yaml.safe_load(Path(flags["config"]).read_text("utf-8")) or {}), **flags}
    batch, epochs = float(values.get("per_device_train_batch_size", _BATCH)), values.get("num_train_epochs", _EPOCHS)
    steps = math.ceil(float(measured["samples"]) / batch) * float(epochs)
    return float(measured["rest"]) + float(measured["step"]) * steps


def missing_places(cells: Sequence[Cell]) -> list[str]:
    """Folders that cells need and that are not there, and flags of which only a folder is known, where no root is."""
    found: dict[str, None] = {}
    for cell in cells:
        for flag, value in {**cell.places, **cell.ood}.items():
            for one in value if isinstance(value, list) else [value]:
                if one is None:
                    found[f"--{flag} of {cell.table}"] = None
                elif isinstance(one, str) and Path(one).is_absolute() and not Path(one).exists():
                    found[one] = None
    return list(found)
