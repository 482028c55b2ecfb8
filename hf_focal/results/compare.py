# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Several finished runs in one table, seeds taken together."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..calibrators import calibrator_of
from ..calibrators.base import AUTO, is_known
from ..losses import loss_label
from ..metrics import ALL_METRICS, METRICS, Scored, ScoredOutputs, scored_logits
from ..metrics.comparison import compare_scored
from ..names import refuse_missing_folder
from ..predictions import Predictions, load_predictions
from ..progress import progress
from .folder import PREDICTIONS, RESULTS
from .gain import NLL, Refinement, best_fit, gain_cell, numbers_of, refinement_of, same
from .report import LEVEL, PROPER
from .tables import PERCENT, cell, markdown_table, split_table


logger = logging.getLogger(__name__)

# What tells one row from another, by its title; runs that agree in all of it are taken for seeds of one.
_SETTINGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "dataset": lambda results: results.get("dataset"),
    "model": lambda results: results.get("model"),
    "loss": lambda results: _loss(results),
    "epochs": lambda results: results.get("epoch"),
    "calibrator": lambda results: _calibrator(results),
    "T by": lambda results: results.get("temperature_criterion") if results["temperature"] is not None else None,
    "bins": lambda results: results.get("n_bins"),
}
_MOMENTS, _BEST = ("before", "after"), "best"
_MANY = 1 << 23  # probabilities: above, metrics that go through them are not compared
_AT_LEAST = ("ece", "adaptive_ece", "classwise_ece", "nll")  # held by every file that names no metrics


def compare_runs(folders: Sequence[str | Path]) -> str:
    """
    A table of finished runs like Tables 1 and 2 of Mukhoti et al. (2020): temperature, error, and the other metrics on
    the test data, before and after calibration.

    Runs of the same data set, model, loss and its parameters, epochs, calibrator and its criterion, and bins are taken
    for seeds of one, where the seed is recorded, and become one row: the mean, and half of what lies between the
    highest and the lowest. (Whatever else they differ in, such as the learning rate, is not recorded.) Rows are in the
    order of the folders, and the first columns say what tells them apart.

    Metrics are those that the runs were measured by: NLL and the Brier score first, which are proper scores and decide
    between models, then those in percent; what a run was not measured by is `-`. A calibration error that chance alone
    would show (see [`noise_floor`]) is followed by `~`. T is `-` for a method without a temperature.

    Where predictions were kept, "NLL gain" is by how much the calibrator lowers the NLL, with its 90% interval, or `~`
    after several seeds of which none gained beyond noise; "NLL left" is that after the best map known, fitted on the
    validation data (see [`Refinement`]): what remains of the advantage of a loss once each model has its best map.

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
    columns, _ = _columns(folders)
    header, cells = zip(*columns, strict=True)
    return markdown_table(header, zip(*cells, strict=True))


def compare_runs_in(width: int, folders: Sequence[str | Path], aligned: bool = False) -> str:
    """
    [`compare_runs`] as several tables that are no wider than `width`, each led by what tells the rows apart; `aligned`
    pads their cells.
    """
    columns, named = _columns(folders)
    header, cells = zip(*columns, strict=True)
    return split_table(partial(markdown_table, aligned=aligned), header, zip(*cells, strict=True), named, width)


def _columns(folders: Sequence[str | Path]) -> tuple[list[tuple[str, list[str]]], int]:
    """Titles of the columns, each with a cell for every row; and how many of them tell the rows apart."""
    groups: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for folder, results in read_runs(folders).items():
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
    return columns + _measured(rows, [list(runs) for runs in groups.values()]), len(columns)


def _loss(results: Mapping[str, Any]) -> str | None:
    """The whole loss."""
    return loss_label(results["loss"], results.get("loss_parameters")) if results.get("loss") else None


def _calibrator(results: Mapping[str, Any]) -> str:
    """What was asked for: `auto` may choose another one for each seed."""
    return AUTO if results.get("calibrator_asked_for") == AUTO else results.get("calibrator", "temperature")


def _metrics(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Title, style and direction of what a run was measured by; older files do not name it, but it is ours."""
    if "metrics" in results:
        return results["metrics"]
    return {
        key: metric.facts()
        for key, metric in METRICS.items()
        if all(f"test_{moment}_{key}" in results for moment in _MOMENTS)
    }


def read_runs(folders: Sequence[str | Path]) -> dict[str, dict[str, Any]]:
    """The results of finished runs by their folders; what [`compare_runs`] says of errors holds."""
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
    gains, lefts = judge.gains(rows)
    ordered = sorted(metrics.items(), key=lambda item: (item[0] not in PROPER, not item[1]["style"].endswith("%")))
    for key, metric in progress(ordered, "comparing"):
        for moment in _MOMENTS if key != "accuracy" else ():  # it is there as the error
            sign = 1 if metric["lower_is_better"] else -1
            cells = column(key, moment, values(f"test_{moment}_{key}"), metric, sign)
            columns.append((f"{metric['title']} {moment}", cells))
    place = 2 + 2 * sum(key in PROPER for key in metrics)
    gained = [("NLL gain", gains), ("NLL left", column("nll", _BEST, lefts, NLL.facts(), 1))]
    columns[place:place] = [one for one in gained if {*one[1]} != {"-"}]
    return columns


def _mean(row: list[Any]) -> float | None:
    return None if None in row else sum(row) / len(row)


def _cells(rows: list[list[Any]], style: str) -> list[str]:
    """Mean and half the range of each row."""
    return [
        cell(mean, style) + (f" ± {cell((max(row) - min(row)) / 2, style)}" if mean is not None and row[1:] else "")
        for mean, row in zip(map(_mean, rows), rows, strict=True)
    ]


def _gain_cell(gains: list[Any]) -> str:
    """That of a run with its interval; of several their mean and half range, and whether none is beyond noise."""
    if len(gains) == 1 and gains[0] is not None:
        return gain_cell(gains[0]["value"], gains[0]["low"], gains[0]["high"])
    (shown,) = _cells([[gain and gain["value"] for gain in gains]], NLL.style)
    noise = None not in gains and all(gain["low"] <= 0 <= gain["high"] for gain in gains)
    return f"{shown} ~" if noise else shown


class _Judge:
    """Says which row is best, from the test predictions of the runs of each row, where they were kept."""

    def __init__(self, folders: list[list[str]], n_bins: list[int]) -> None:
        self._folders, self._n_bins = folders, n_bins
        self._read, self._kept = lru_cache(maxsize=4)(self._scored), lru_cache(maxsize=2)(_kept)
        self._best, self._own = lru_cache(maxsize=None)(self._refined), lru_cache(maxsize=None)(_own)

    def best(self, key: str, moment: str, means: Mapping[int, float | None], sign: int) -> int | None:
        """The row that is better than all others by more than noise, of those with a mean, or `None`."""
        if (
            key not in ALL_METRICS
            or len(means) < 2
            or any(mean is None or math.isnan(mean) for mean in means.values())
        ):
            return None
        n_bins = {self._n_bins[index] for index in means}
        if ALL_METRICS[key].binned and len(n_bins) > 1:  # errors of other bins are other numbers
            return None
        first, *others = sorted(means, key=lambda index: sign * (means[index] or 0.0))
        pairs = ((a, b) for other in others for a in self._folders[first] for b in self._folders[other])
        return first if all(self._beats(key, moment, a, b, min(n_bins)) for a, b in pairs) else None

    def _beats(self, key: str, moment: str, folder: str, other: str, n_bins: int) -> bool:
        ours, theirs = self._read(folder, moment), self._read(other, moment)
        if ours is None or theirs is None or not _same_labels(ours[0], theirs[0]):
            return False
        (scored, groups), (rival, _) = ours, theirs
        if ALL_METRICS[key].whole_rows and len(scored) * scored.num_labels > _MANY:
            return False
        return compare_scored(ALL_METRICS[key], scored, rival, n_bins, groups=groups).verdict == "a_is_better"

    def gains(self, rows: list[list[dict[str, Any]]]) -> tuple[list[str], list[list[float | None]]]:
        """Of each row the cell of what its calibrators gain, and of each of its runs what the best map leaves."""
        runs = [list(zip(*row, strict=True)) for row in zip(self._folders, rows, strict=True)]
        gains = [_gain_cell([self._gain(*run) for run in row]) for row in progress(runs, "gains")]
        return gains, [[self._left(*run) for run in row] for row in progress(runs, "best maps")]

    def _gain(self, folder: str, results: Mapping[str, Any]) -> dict[str, float] | None:
        """By how much the calibrator of a run lowers the NLL of its test data, with an interval."""
        if "nll_gain" in results:
            return results["nll_gain"]
        before, after = (self._read(folder, moment) for moment in _MOMENTS)
        if before is None or after is None:
            return None
        return numbers_of(compare_scored(NLL, before[0], after[0], level=LEVEL, groups=before[1]))

    def _left(self, folder: str, results: Mapping[str, Any]) -> float | None:
        """What the best map known leaves of that NLL."""
        if found := results.get("refinement"):
            return found["value"]
        best = self._best(folder)
        return None if best is None else best.value

    def _refined(self, folder: str) -> Refinement | None:
        """The best map known of a run, fitted on its validation data."""
        parts, after = self._kept(folder), self._read(folder, "after")
        if after is None or "validation" not in parts or same(parts["validation"], parts["test"]):
            return None
        best = best_fit(parts["validation"])
        if best is None:
            return None
        return refinement_of(self._own(folder), after[0], best.calibrator, parts["test"], LEVEL, after[1])

    def _scored(self, folder: str, moment: str) -> tuple[Scored, Any] | None:
        """
        The test data of a run, before or after its calibrator or under the best one, and their groups; `None` where
        they are not kept.
        """
        test = self._kept(folder).get("test")
        if test is None or len(test) < 2:
            return None
        calibrator = None
        if moment == "after":
            calibrator = self._own(folder)
        elif moment == _BEST:
            best = self._best(folder)
            calibrator = best and best.calibrator
        if moment != "before" and calibrator is None:
            return None
        return scored_logits(test.logits, test.labels, calibrator), test.groups


def _same_labels(one: Scored, other: Scored) -> bool:
    """Whether labels tell that these are the same samples; those of sigmoid heads also of which outputs they are."""
    names = ["labels"]
    if isinstance(one, ScoredOutputs) or isinstance(other, ScoredOutputs):
        names += ["columns", "samples"]
    return one.head == other.head and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def _kept(folder: str) -> dict[str, Predictions]:
    """What a run kept of its predictions."""
    try:
        return load_predictions(Path(folder, PREDICTIONS))[0]
    except ValueError as error:
        logger.warning("%s is not compared with others: %s", folder, error)
    except OSError:
        pass
    return {}


def _own(folder: str) -> Any:
    """The calibrator of a run, or `None` where it is not known."""
    try:
        record = json.loads(Path(folder, "config.json").read_text("utf-8")).get("calibration") or {}
        return calibrator_of(record) if record and is_known(record) else None
    except ValueError as error:
        logger.warning("%s is not compared with others: %s", folder, error)
    except OSError:
        pass
    return None
