# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
The file of training dynamics that [`TrainingDynamicsCallback`] keeps: one row per epoch and data set. pyarrow is
imported on use.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import room
from ..names import refuse_missing_folder


DYNAMICS = "training_dynamics.parquet"
# Its numbers: of all samples, of those classified rightly, and of those classified wrongly.
PARTS = ("", "_correct", "_incorrect")
NUMBERS = [f"{name}{part}" for name in ("nll", "entropy") for part in PARTS] + ["error", "ece", "weight_norm"]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace the file at once, so that none is ever half written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [("epoch", pa.float64()), ("step", pa.int64()), ("split", pa.string()), ("loss", pa.string())]
        + [("n_samples", pa.int64())]
        + [(name, pa.float64()) for name in NUMBERS]
        + [("gradient_norms", pa.list_(pa.float32()))]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".tmp")
    try:
        with room(path):
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), whole)
        os.replace(whole, path)
    finally:
        whole.unlink(missing_ok=True)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All that [`write_rows`] wrote; a ValueError names the file, and the row, of what cannot be that."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if lacking := [
        name for name in ("epoch", "split", "loss", *NUMBERS, "gradient_norms") if name not in table.column_names
    ]:
        raise ValueError(f"{path} holds no training dynamics: it lacks the columns {', '.join(lacking)}.")
    rows, places = table.to_pylist(), set()
    for index, row in enumerate(rows):
        for name, value in row.items():
            if (wanted := _wanted(name, value)) is not None:
                raise ValueError(f"{path}: {name!r} in row {index} must be {wanted}, got {value!r}.")
        place = row["split"], row["epoch"]
        if place in places:
            raise ValueError(f"{path}: row {index} is a second one of {place[0]!r} after epoch {place[1]:g}.")
        places.add(place)
    return rows


def _wanted(name: str, value: Any) -> str | None:
    """What a value of a column would have to be, unless it is."""
    if name in ("split", "loss"):
        return None if isinstance(value, str) else "text"
    if name == "gradient_norms":
        numbers = value is None or isinstance(value, list) and all(isinstance(one, (int, float)) for one in value)
        return None if numbers else "a list of numbers, or nothing"
    if name == "epoch":
        return None if isinstance(value, (int, float)) and math.isfinite(value) else "a finite number"
    if name in NUMBERS:
        return None if value is None or isinstance(value, (int, float)) else "a number, or nothing"
    return None


def read_dynamics(folders: Sequence[str | Path], average: bool = False) -> dict[str, list[dict[str, Any]]]:
    """
    Read the training dynamics of several runs.

    Args:
        folders (`Sequence` of `str` or `Path`):
            Output folders of runs with a [`TrainingDynamicsCallback`].
        average (`bool`, *optional*, defaults to `False`):
            Take runs of the same loss for seeds of one: numbers are means over them, `ranges` holds the lowest and the
            highest of each, which the pictures shade, and the gradient norms are those of all. The same loss is one of
            the same name and the same parameters, as the file tells them.

    Returns:
        `dict[str, list[dict]]`: One entry per run, under the name of its loss, or of its folder where two runs have
        the same loss and are not averaged; in it, one row per epoch and data set.

    Raises:
        FileNotFoundError: If a folder is not there.
        ValueError: If a folder holds no training dynamics, or odd ones, or is given twice; or if runs to be averaged
            were not measured on the same data sets at the same epochs.
    """
    runs = {}
    for folder in map(Path, folders):
        refuse_missing_folder(folder, on_hub=False)
        if not (folder / DYNAMICS).is_file():
            raise ValueError(
                f"{folder} holds no {DYNAMICS}. Train with --track_dynamics, or with a TrainingDynamicsCallback."
            )
        if folder in runs:
            raise ValueError(f"{folder} is given twice.")
        runs[folder] = read_rows(folder / DYNAMICS)
        if not runs[folder]:
            raise ValueError(f"{folder / DYNAMICS} is empty: it holds no epochs.")
    losses = [rows[0]["loss"] for rows in runs.values()]
    if average:
        return {loss: average_rows([rows for rows in runs.values() if rows[0]["loss"] == loss]) for loss in losses}
    by_loss = len(set(losses)) == len(losses)
    return {loss if by_loss else str(folder): runs[folder] for folder, loss in zip(runs, losses, strict=True)}


def average_rows(runs: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One run of several (seeds of one loss), row by row; empty numbers and gradients are passed over."""
    places = [[(row["split"], row["epoch"]) for row in rows] for rows in runs]
    if any(other != places[0] for other in places[1:]):
        raise ValueError(
            f"The {len(runs)} runs of {runs[0][0]['loss']} cannot be averaged: they were not measured on the same "
            "data sets at the same epochs."
        )
    averaged = []
    for rows in zip(*runs, strict=True):
        row: dict[str, Any] = {**rows[0], "ranges": {}}
        for key in NUMBERS:
            values = [one[key] for one in rows if one[key] is not None]
            row[key] = sum(values) / len(values) if values else None
            row["ranges"][key] = (min(values), max(values)) if values else None
        norms = [norm for one in rows for norm in one["gradient_norms"] or ()]
        averaged.append({**row, "gradient_norms": norms or None})
    return averaged
