# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Several finished runs in one table, seeds taken together."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..calibrators import calibrator_of
from ..calibrators.base import is_known
from ..losses import loss_label
from ..metrics import METRICS, Scored
from ..metrics.comparison import compare_scored
from ..names import refuse_missing_folder
from ..predictions import load_predictions
from .folder import PREDICTIONS, RESULTS
from .report import PROPER
from .tables import PERCENT, cell, markdown_table


logger = logging.getLogger(__name__)

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
_MANY = 1 << 23  # probabilities: above, metrics that go through them are not compared
_AT_LEAST = ("ece", "adaptive_ece", "classwise_ece", "nll")  # held by every file that names no metrics


def compare_runs(folders: Sequence[str | Path]) -> str:
    """
    A table of finished runs like Tables 1 and 2 of Mukhoti et al. (2020): temperature, error, and the other metrics on
    the test data, before and after temperature scaling.

    Runs of the same data set, model, loss and its parameters, epochs, criterion of the temperature and bins are taken
    for seeds of one, where the seed is recorded, and become one row: the mean, and half of what lies between the
    highest and the lowest. (Whatever else they differ in, such as the learning rate, is not recorded.) Rows are in the
    order of the folders, and the first columns say what tells them apart.

    Metrics are those that the runs were measured by: NLL and the Brier score first, which are proper scores and decide
    between models, then those in percent; what a run was not measured by is `-`. A calibration error that chance alone
    would show (see [`noise_floor`]) is followed by `~`.

    The best value of a column is bold only where it is: where its row beats every other row of the same data set by
    [`paired_bootstrap`] at 90%, each of its seeds each of theirs, on the predictions that the runs saved. Rows that
    are alone with their data set, whose data set is not recorded, or whose test labels differ are not compared, nor
    are calibration errors of different numbers of bins.

    Args:
        folders (`Sequence` of `str` or `Path`):
            Output folders of `run_image.py`, `run_text.py` or `calibrate.py`, or of [`finish_run`].

    Returns:
        `str`: A table in Markdown.

    Raises:
        FileNotFoundError: If a folder is not there.
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
    columns += _measured(rows, [list(runs) for runs in groups.values()])
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
        refuse_missing_folder(folder, on_hub=False)
        if not (Path(folder) / RESULTS).is_file():
            raise ValueError(f"{folder} holds no {RESULTS}: is its run finished?")
        try:
            runs[folder] = json.loads((Path(folder) / RESULTS).read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{Path(folder) / RESULTS} is damaged: {error}") from error
        if not isinstance(runs[folder], dict):
            raise ValueError(f"{Path(folder) / RESULTS} holds no results of a run.")
        needed = [f"test_{moment}_{key}" for moment in _MOMENTS for key in runs[folder].get("metrics", _AT_LEAST)]
        missing = [key for key in ["temperature", *needed, "test_after_accuracy"] if key not in runs[folder]]
        if missing:
            raise ValueError(f"{Path(folder) / RESULTS} lacks {', '.join(missing)}: it is not of a finished run.")
    return runs


def _measured(rows: list[list[dict[str, Any]]], folders: list[list[str]]) -> list[tuple[str, list[str]]]:
    """Titles of the columns of numbers, each with a cell for every row; a row is one run, or the seeds of one."""
    datasets = [runs[0].get("dataset") for runs in rows]
    metrics: dict[str, dict[str, Any]] = {}
    for results in (results for runs in rows for results in runs):
        metrics |= {key: metric for key, metric in _metrics(results).items() if key not in metrics}
    judge = _Judge(folders, [runs[0].get("n_bins", 15) for runs in rows])

    def values(key: str) -> list[list[float | None]]:
        return [[results.get(key) for results in runs] for runs in rows]

    def column(key: str, moment: str, numbers: list[list[Any]], metric: Mapping[str, Any], sign: int) -> list[str]:
        cells = _cells(numbers, metric["style"])
        for index, runs in enumerate(rows):
            floors = [results.get("by_chance", {}).get(moment, {}).get(key) for results in runs]
            if all(floor and value <= floor["high"] for floor, value in zip(floors, numbers[index], strict=True)):
                cells[index] += " ~"
        for dataset in {*datasets} - {None}:
            places = [index for index, name in enumerate(datasets) if name == dataset]
            means = {index: _mean(numbers[index]) for index in places}
            best = judge.best(key, moment, means, sign)
            shown = [cell(mean, metric["style"]) for mean in means.values()]
            if best is not None and shown.count(cell(means[best], metric["style"])) == 1:
                cells[best] = f"**{cells[best]}**"
        return cells

    accuracy = {"style": PERCENT}
    errors = [[1 - results["test_after_accuracy"] for results in runs] for runs in rows]
    columns = [
        ("T", _cells(values("temperature"), ".3g")),
        ("error", column("accuracy", "after", errors, accuracy, 1)),
    ]
    ordered = sorted(metrics.items(), key=lambda item: (item[0] not in PROPER, not item[1]["style"].endswith("%")))
    for key, metric in ordered:
        for moment in _MOMENTS if key != "accuracy" else ():  # it is there as the error
            sign = 1 if metric["lower_is_better"] else -1
            cells = column(key, moment, values(f"test_{moment}_{key}"), metric, sign)
            columns.append((f"{metric['title']} {moment}", cells))
    return columns


def _mean(row: list[Any]) -> float | None:
    return None if None in row else sum(row) / len(row)


def _cells(rows: list[list[Any]], style: str) -> list[str]:
    """Mean and half the range of each row."""
    return [
        cell(mean, style) + (f" ± {cell((max(row) - min(row)) / 2, style)}" if mean is not None and row[1:] else "")
        for mean, row in zip(map(_mean, rows), rows, strict=True)
    ]


class _Judge:
    """Says which row is best, from the test predictions of the runs of each row, where they were kept."""

    def __init__(self, folders: list[list[str]], n_bins: list[int]) -> None:
        self._folders, self._n_bins = folders, n_bins
        self._read = lru_cache(maxsize=4)(self._scored)

    def best(self, key: str, moment: str, means: Mapping[int, float | None], sign: int) -> int | None:
        """The row that is better than all others by more than noise, of those with a mean, or `None`."""
        if key not in METRICS or len(means) < 2 or any(mean is None or math.isnan(mean) for mean in means.values()):
            return None
        n_bins = {self._n_bins[index] for index in means}
        if METRICS[key].binned and len(n_bins) > 1:  # errors of other bins are other numbers
            return None
        first, *others = sorted(means, key=lambda index: sign * (means[index] or 0.0))
        pairs = ((a, b) for other in others for a in self._folders[first] for b in self._folders[other])
        return first if all(self._beats(key, moment, a, b, min(n_bins)) for a, b in pairs) else None

    def _beats(self, key: str, moment: str, folder: str, other: str, n_bins: int) -> bool:
        ours, theirs = self._read(folder, moment), self._read(other, moment)
        if ours is None or theirs is None or not np.array_equal(ours[0].labels, theirs[0].labels):
            return False
        (scored, groups), (rival, _) = ours, theirs
        if METRICS[key].whole_rows and len(scored) * scored.num_labels > _MANY:
            return False
        return compare_scored(METRICS[key], scored, rival, n_bins, groups=groups).verdict == "a_is_better"

    @staticmethod
    def _scored(folder: str, moment: str) -> tuple[Scored, Any] | None:
        """The test data of a run, before or after its calibrator, and their groups; `None` where they are not kept."""
        try:
            test = load_predictions(Path(folder, PREDICTIONS))[0]["test"]
            record = json.loads(Path(folder, "config.json").read_text("utf-8")).get("calibration") or {}
        except ValueError as error:
            logger.warning("%s is not compared with others: %s", folder, error)
            return None
        except (OSError, KeyError):
            return None
        if len(test) < 2 or moment == "after" and not (record and is_known(record)):
            return None
        calibrator = calibrator_of(record) if moment == "after" else None
        return Scored.from_logits(test.logits, test.labels, calibrator), test.groups
