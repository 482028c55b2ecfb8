# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Several finished runs in one table, seeds taken together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..losses import loss_label
from ..metrics import METRICS
from .folder import RESULTS
from .tables import PERCENT, cell, markdown_table


# What tells one row from another, by its title; runs that agree in all of it are taken for seeds of one.
_SETTINGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "dataset": lambda results: results.get("dataset"),
    "model": lambda results: results.get("model"),
    "loss": lambda results: _loss(results),
    "epochs": lambda results: results.get("epoch"),
    "calibrator": lambda results: results.get("calibrator", "temperature"),
    "T by": lambda results: results.get("temperature_criterion"),
    "bins": lambda results: results.get("n_bins"),
}
_MOMENTS = ("before", "after")
_AT_LEAST = ("ece", "adaptive_ece", "classwise_ece", "nll")  # held by every file that names no metrics


def compare_runs(folders: Sequence[str | Path]) -> str:
    """
    A table of finished runs like Tables 1 and 2 of Mukhoti et al. (2020): temperature, error, and the other metrics on
    the test data, before and after temperature scaling.

    Runs of the same data set, model, loss and its parameters, epochs, criterion of the temperature and bins are taken
    for seeds of one, where the seed is recorded, and become one row: the mean, and half of what lies between the
    highest and the lowest. (Whatever else they differ in, such as the learning rate, is not recorded.) Rows are in the
    order of the folders, and the first columns say what tells them apart.

    Metrics are those that the runs were measured by, those in percent first; what a run was not measured by is `-`.
    The best value of each column, as printed, is bold: the highest or the lowest, as the metric has it, among the rows
    of the same data set. A row that is alone with its data set, or whose data set is not recorded, has nothing bold.

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
    columns = [
        (title, [f"{'-' if group[index] is None else group[index]}" for group in groups])
        for index, title in enumerate(_SETTINGS)
        if index in named
    ]
    rows = [list(runs.values()) for runs in groups.values()]
    if any(len(runs) > 1 for runs in rows):
        columns.append(("runs", [str(len(runs)) for runs in rows]))
    columns += _measured(rows)
    header, cells = zip(*columns, strict=True)
    return markdown_table(header, zip(*cells, strict=True))


def _loss(results: Mapping[str, Any]) -> str | None:
    """The whole loss."""
    return loss_label(results["loss"], results.get("loss_parameters")) if results.get("loss") else None


def _metrics(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Title, style and direction of what a run was measured by; older files do not name it, but it is ours."""
    if "metrics" in results:
        return results["metrics"]
    return {
        key: metric.facts()
        for key, metric in METRICS.items()
        if all(f"test_{moment}_{key}" in results for moment in _MOMENTS)
    }


def _read(folders: Sequence[str | Path]) -> dict[str, dict[str, Any]]:
    if not folders:
        raise ValueError("folders is empty: give at least one.")
    runs: dict[str, dict[str, Any]] = {}
    for folder in map(str, map(Path, folders)):
        if folder in runs:
            raise ValueError(f"{folder} is given twice.")
        if not (Path(folder) / RESULTS).is_file():
            raise ValueError(f"{folder} holds no {RESULTS}: is its run finished?")
        runs[folder] = json.loads((Path(folder) / RESULTS).read_text("utf-8"))
        needed = [f"test_{moment}_{key}" for moment in _MOMENTS for key in runs[folder].get("metrics", _AT_LEAST)]
        missing = [key for key in ["temperature", *needed, "test_after_accuracy"] if key not in runs[folder]]
        if missing:
            raise ValueError(f"{Path(folder) / RESULTS} lacks {', '.join(missing)}: it is not of a finished run.")
    return runs


def _measured(rows: list[list[dict[str, Any]]]) -> list[tuple[str, list[str]]]:
    """Titles of the columns of numbers, each with a cell for every row; a row is one run, or the seeds of one."""
    datasets = [runs[0].get("dataset") for runs in rows]
    metrics: dict[str, dict[str, Any]] = {}
    for results in (results for runs in rows for results in runs):
        metrics |= {key: metric for key, metric in _metrics(results).items() if key not in metrics}

    def values(key: str) -> list[list[float | None]]:
        return [[results.get(key) for results in runs] for runs in rows]

    errors = [[1 - results["test_after_accuracy"] for results in runs] for runs in rows]
    columns = [("T", _cells(values("temperature"), ".3g")), ("error", _cells(errors, PERCENT, min, datasets))]
    for key, metric in sorted(metrics.items(), key=lambda item: not item[1]["style"].endswith("%")):
        best = min if metric["lower_is_better"] else max
        for moment in _MOMENTS if key != "accuracy" else ():  # it is there as the error
            cells = _cells(values(f"test_{moment}_{key}"), metric["style"], best, datasets)
            columns.append((f"{metric['title']} {moment}", cells))
    return columns


def _cells(
    rows: list[list[Any]], style: str, best: Callable[[list[float]], float] = min, datasets: Sequence[str | None] = ()
) -> list[str]:
    """Mean and half the range of each row; the best mean, as printed, of each data set that is known is bold."""
    means = [None if None in row else sum(row) / len(row) for row in rows]
    cells = [
        cell(mean, style) + (f" ± {cell((max(row) - min(row)) / 2, style)}" if mean is not None and row[1:] else "")
        for mean, row in zip(means, rows, strict=True)
    ]
    for dataset in {*datasets} - {None}:
        places = [index for index, name in enumerate(datasets) if name == dataset]
        ranked = [mean for mean in (means[index] for index in places) if mean is not None and not math.isnan(mean)]
        if len(ranked) > 1:
            for index in places:
                if cell(means[index], style) == cell(best(ranked), style):
                    cells[index] = f"**{cells[index]}**"
    return cells
