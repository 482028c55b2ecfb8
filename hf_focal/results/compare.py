# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Several finished runs in one table, seeds taken together."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .report import RESULTS


# What tells one row from another, by its title; runs that agree in all of it are taken for seeds of one.
_SETTINGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "dataset": lambda results: results.get("dataset"),
    "model": lambda results: results.get("model"),
    "loss": lambda results: _loss(results),
    "epochs": lambda results: results.get("epoch"),
    "T by": lambda results: results.get("temperature_criterion"),
    "bins": lambda results: results.get("n_bins"),
}
_METRICS = {"ECE": "ece", "AdaECE": "adaptive_ece", "Classwise-ECE": "classwise_ece", "NLL": "nll"}


def compare_runs(folders: Sequence[str | Path]) -> str:
    """
    A table of finished runs like Tables 1 and 2 of Mukhoti et al. (2020): temperature, error, and ECE, AdaECE,
    Classwise-ECE and NLL on the test data, before and after temperature scaling.

    Runs of the same data set, model, loss and its parameters, epochs, criterion of the temperature and bins are taken
    for seeds of one, where the seed is recorded, and become one row: the mean, and half of what lies between the
    highest and the lowest. (Whatever else they differ in, such as the learning rate, is not recorded.) Rows are in the
    order of the folders, the first columns say what tells them apart, and the lowest value of each column, as printed,
    is bold.

    Args:
        folders (`Sequence` of `str` or `Path`):
            Output folders of `run_image.py`, `run_text.py` or `calibrate.py`, or of [`finish_run`].

    Returns:
        `str`: A table in Markdown.

    Raises:
        ValueError: If there is no folder, one is given twice or holds no results, or two runs that would become one
            row have the same seed.
    """
    groups: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for folder, results in _read(folders).items():
        alone = folder if results.get("seed") is None else ""  # of unknown seed: not to be taken for one of several
        runs = groups.setdefault((*(setting(results) for setting in _SETTINGS.values()), alone), {})
        for other, known in runs.items():
            if results["seed"] == known["seed"]:
                raise ValueError(
                    f"{other} and {folder} would become one row, but are of the same seed, {results['seed']}: what "
                    "they differ in is not recorded. Compare them with others one at a time."
                )
        runs[folder] = results
    differing = [index for index in range(len(_SETTINGS)) if len({group[index] for group in groups}) > 1]
    named = differing or [list(_SETTINGS).index("loss")]
    titles = [list(_SETTINGS)[index] for index in named]
    rows = [["-" if group[index] is None else f"{group[index]}" for index in named] for group in groups]
    if any(len(runs) > 1 for runs in groups.values()):
        titles.append("runs")
        rows = [[*row, str(len(runs))] for row, runs in zip(rows, groups.values(), strict=True)]
    for title, column in _columns([list(runs.values()) for runs in groups.values()]).items():
        titles.append(title)
        rows = [[*row, cell] for row, cell in zip(rows, column, strict=True)]
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _read(folders: Sequence[str | Path]) -> dict[str, dict[str, Any]]:
    if not folders:
        raise ValueError("folders is empty: give at least one.")
    needed = ["temperature", *(f"test_{moment}_{key}" for moment in ("before", "after") for key in _METRICS.values())]
    runs: dict[str, dict[str, Any]] = {}
    for folder in map(str, map(Path, folders)):
        if folder in runs:
            raise ValueError(f"{folder} is given twice.")
        if not (Path(folder) / RESULTS).is_file():
            raise ValueError(f"{folder} holds no {RESULTS}: is its run finished?")
        runs[folder] = json.loads((Path(folder) / RESULTS).read_text("utf-8"))
        missing = [key for key in [*needed, "test_after_accuracy"] if key not in runs[folder]]
        if missing:
            raise ValueError(f"{Path(folder) / RESULTS} lacks {', '.join(missing)}: it is not of a finished run.")
    return runs


def _loss(results: dict[str, Any]) -> str | None:
    """With the parameters that were set, such as `focal (gamma 2)`."""
    parameters = {**results.get("loss_parameters", {})}
    if parameters.get("reduction") == "mean":
        del parameters["reduction"]
    listed = ", ".join(f"{key} {value}" for key, value in parameters.items())
    return f"{results['loss']} ({listed})" if listed else results.get("loss")


def _columns(groups: list[list[dict[str, Any]]]) -> dict[str, list[str]]:
    """Title to a cell for each group of runs."""

    def values(key: str) -> list[list[float]]:
        return [[results[key] for results in runs] for runs in groups]

    errors = [[1 - accuracy for accuracy in runs] for runs in values("test_after_accuracy")]
    columns = {"T": _cells(values("temperature"), ".3g", ranked=False), "error": _cells(errors, ".2%")}
    for title, key in _METRICS.items():
        for moment in ("before", "after"):
            style = ".4f" if key == "nll" else ".2%"
            columns[f"{title} {moment}"] = _cells(values(f"test_{moment}_{key}"), style)
    return columns


def _cells(groups: list[list[float]], style: str, ranked: bool = True) -> list[str]:
    """Mean and half the range of each group, the lowest mean in bold."""
    means = [format(sum(values) / len(values), style) for values in groups]
    halves = [format((max(values) - min(values)) / 2, style) for values in groups]
    cells = [
        f"{mean} ± {half}" if len(values) > 1 else mean
        for mean, half, values in zip(means, halves, groups, strict=True)
    ]
    if not ranked or len(groups) == 1:
        return cells
    best = min(means, key=lambda mean: float(mean.rstrip("%")))
    return [f"**{cell}**" if mean == best else cell for mean, cell in zip(means, cells, strict=True)]
