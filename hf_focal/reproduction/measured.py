# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What finished cells left, as numbers with intervals, and comparisons of them; all from their saved predictions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from ..calibrators import Calibrator, TemperatureScaling, calibrator_of
from ..metrics import METRICS, PairedComparison, Scored
from ..metrics.comparison import compare_scored
from ..metrics.intervals import interval_ends, interval_of
from ..predictions import Predictions, load_predictions
from ..results.dynamics_file import DYNAMICS, read_rows
from ..results.gain import best_fit
from ..results.replace import PREDICTIONS, RESULTS
from ..results.report import LEVEL
from ..robustness.ood import auroc_of_rows
from ..robustness.study import ENTROPIES, FAMILIAR
from .grid import OOD, Cell, Table
from .place import read_cell


MOMENTS = ("before", "after")
BEST = "best"  # the moment after the best map that `auto` finds on the validation data
HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"
_RESAMPLES = 400  # of an AUROC


class Run:
    """A finished cell, read from the small files that were kept of it."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        self.cell, self.folder = cell, folder
        # What takes long is worked out once.
        self._scored: dict[str, Scored] = {}
        self._intervals: dict[tuple[str, str], tuple[float, float]] = {}
        self.compared: dict[tuple[Path, str, str], PairedComparison] = {}
        self.drawn: dict[tuple[str, str], NDArray[np.float64]] = {}

    @cached_property
    def results(self) -> dict[str, Any]:
        """What the run itself found."""
        return json.loads((self.folder / RESULTS).read_text("utf-8"))

    @cached_property
    def facts(self) -> dict[str, Any]:
        """How it was started, and with which versions."""
        return read_cell(self.folder)

    @cached_property
    def parts(self) -> dict[str, Predictions]:
        """The logits before calibration."""
        return load_predictions(self.folder / PREDICTIONS)[0]

    @cached_property
    def calibrator(self) -> Calibrator:
        """The run's own."""
        if self.temperature is not None and self.results.get("calibrator", "temperature") == "temperature":
            return TemperatureScaling(self.temperature)
        config = json.loads((self.folder / "config.json").read_text("utf-8"))
        return calibrator_of(config["calibration"])

    @property
    def stopped(self) -> dict[str, dict[str, float]]:
        """By criterion, and `last`, what the model has that it would have stopped at; empty where none was asked."""
        return self.results.get("stopping_criteria", {})

    @property
    def temperature(self) -> float | None:
        """Of its calibrator, if that has one."""
        return self.results["temperature"]

    @cached_property
    def best(self) -> Calibrator | None:
        """The map that its validation data choose among all."""
        found = best_fit(self.parts["validation"])
        return None if found is None else found.calibrator

    def scored(self, moment: str) -> Scored:
        """The test data at a moment."""
        if moment not in self._scored:
            maps: dict[str, Callable[[], Calibrator | None]] = {
                "before": lambda: None, "after": lambda: self.calibrator, BEST: lambda: self.best
            }  # fmt: skip
            test = self.parts["test"]
            self._scored[moment] = Scored.from_logits(test.logits, test.labels, maps[moment]())
        return self._scored[moment]

    @property
    def n_bins(self) -> int:
        """Of its calibration errors."""
        return int(self.results.get("n_bins", 15))

    def value(self, key: str, moment: str) -> float:
        """A metric."""
        return METRICS[key].value(self.scored(moment), self.n_bins)

    def interval(self, key: str, moment: str) -> tuple[float, float]:
        """Its 90% interval."""
        if (key, moment) not in self._intervals:
            self._intervals[key, moment] = interval_of(METRICS[key], self.scored(moment), self.n_bins, LEVEL)
        return self._intervals[key, moment]

    @cached_property
    def entropies(self) -> dict[str, dict[str, NDArray[np.float64]]]:
        """By moment, then by title of the data, those of each sample; empty where they were not measured."""
        file = self.folder / OOD / ENTROPIES
        found: dict[str, dict[str, NDArray[np.float64]]] = {}
        for name, values in load_file(file).items() if file.is_file() else ():
            _, title, moment = name.rsplit("/", 2)
            found.setdefault(moment, {})[title] = values.astype(np.float64)
        return found

    @cached_property
    def dynamics(self) -> list[dict[str, Any]]:
        """Row by row how its training went; empty where that was not tracked."""
        return read_rows(self.folder / DYNAMICS) if (self.folder / DYNAMICS).is_file() else []


@dataclass(frozen=True)
class Row:
    """
    One row of the paper's tables in a grid: the finished runs of a data set and a model, by loss.

    Attributes:
        preset (`str`): The name of the grid.
        table ([`Table`]): What it says of them.
        model, paper (`str`): The one that was trained, and the row of the paper that it stands for, if it does.
        runs (`dict[str, list[Run]]`): By loss, one for each seed.
        waiting (`list[Cell]`): What was not run.
    """

    preset: str
    table: Table
    model: str
    paper: str = ""
    runs: dict[str, list[Run]] = field(default_factory=dict)
    waiting: list[Cell] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The row of the paper, or what was run where it has none."""
        return self.paper or f"{self.table.name}, {self.model}"

    @property
    def in_paper(self) -> bool:
        """Whether it stands for a row of the paper, however small."""
        return bool(self.paper)

    @property
    def network(self) -> str:
        """The row in full: with the network that stands for the paper's, where it is another one."""
        data, _, network = self.paper.rpartition(", ")
        if not network or _plain(network) in _plain(self.model):
            return self.name
        return f"{data}, {self.model} for {network}"

    @property
    def title(self) -> str:
        """The same, and which table of which grid it is."""
        return f"{self.network} (`{self.preset}/{self.table.name}`)"

    @property
    def is_stopped(self) -> bool:
        """Whether its runs tell where other criteria would have stopped them."""
        return any(run.stopped for runs in self.runs.values() for run in runs)


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def read_rows_of(preset: str, tables: Sequence[Table], kept: Path) -> list[Row]:
    """The rows of a grid, with what is finished of each."""
    rows: dict[tuple[str, str], Row] = {}
    for table in tables:
        for cell in table.cells:
            row = rows.setdefault((table.name, cell.model), Row(preset, table, cell.model, cell.paper))
            folder = kept / cell.name
            if (folder / RESULTS).is_file() and (folder / PREDICTIONS).is_file():
                row.runs.setdefault(cell.loss, []).append(Run(cell, folder))
            else:
                row.waiting.append(cell)
    return list(rows.values())


@dataclass(frozen=True)
class Estimate:
    """
    A number of a loss: the mean over seeds, the least and the most of them, and a 90% interval of the test data, from
    the lowest end of those of the seeds to the highest.
    """

    mean: float
    lowest: float
    highest: float
    low: float | None
    high: float | None
    seeds: int


def estimate(runs: Sequence[Run], key: str, moment: str) -> Estimate:
    """That of a metric; of `temperature` without an interval."""
    if key == "temperature":
        values = [run.temperature if run.temperature is not None else float("nan") for run in runs]
        return Estimate(float(np.mean(values)), min(values), max(values), None, None, len(runs))
    values = [METRICS[key].show(run.value(key, moment)) for run in runs]
    ends = [METRICS[key].show(end) for run in runs for end in run.interval(key, moment)]
    return Estimate(float(np.mean(values)), min(values), max(values), min(ends), max(ends), len(runs))


@dataclass(frozen=True)
class Difference:
    """
    A metric of one loss less that of another on the same samples, over all pairs of their seeds.

    Attributes:
        mean (`float`): Mean over the pairs.
        low, high (`float`): The lowest and the highest end of the 90% intervals of the pairs.
        lower, higher (`bool`): Whether every interval lies below 0, or above.
    """

    mean: float
    low: float
    high: float
    lower: bool
    higher: bool

    def verdict(self, lower: bool = True) -> str:
        """Of the claim that the first loss has the lower one (or the higher)."""
        for_it, against = (self.lower, self.higher) if lower else (self.higher, self.lower)
        return HOLDS if for_it else FAILS if against else OPEN


def difference(ours: Sequence[Run], theirs: Sequence[Run], key: str, moment: str) -> Difference:
    """Of a metric, as it is shown: of the error where that is what is shown of the accuracy."""
    metric = METRICS[key]
    sign = -1 if metric.complement is not None else 1
    found = [compare(run, other, key, moment) for run, other in _pairs(ours, theirs)]
    return _difference(
        [sorted((sign * one.low, sign * one.high)) for one in found], [sign * one.difference for one in found]
    )


def compare(run: Run, other: Run, key: str, moment: str) -> PairedComparison:
    """Two runs on the same test data."""
    if (found := run.compared.get((other.folder, key, moment))) is not None:
        return found
    first, second = run.scored(moment), other.scored(moment)
    if not np.array_equal(first.labels, second.labels):
        raise ValueError(f"{run.folder} and {other.folder} were tested on different data.")
    found = run.compared[other.folder, key, moment] = compare_scored(METRICS[key], first, second, run.n_bins, LEVEL)
    return found


def auroc_estimate(runs: Sequence[Run], title: str, moment: str) -> Estimate:
    """That of the AUROC of the entropy against other data."""
    drawn = [_aurocs(run, title, moment) for run in runs]
    values, ends = [one[0] for one in drawn], [end for one in drawn for end in interval_ends(one[1:], LEVEL)]
    return Estimate(float(np.mean(values)), min(values), max(values), min(ends), max(ends), len(runs))


def auroc_difference(ours: Sequence[Run], theirs: Sequence[Run], title: str, moment: str) -> Difference:
    """Of the same: both are drawn on the same resamples."""
    drawn = [_aurocs(run, title, moment) - _aurocs(other, title, moment) for run, other in _pairs(ours, theirs)]
    return _difference([interval_ends(one[1:], LEVEL) for one in drawn], [one[0] for one in drawn])


def _aurocs(run: Run, title: str, moment: str) -> NDArray[np.float64]:
    """That of all samples, then of resamples, the same rows for every run."""
    if (found := run.drawn.get((title, moment))) is None:
        of_moment = run.entropies[moment]
        statistic, *sizes = auroc_of_rows(of_moment[FAMILIAR], of_moment[title])
        draw = np.random.default_rng(0).integers
        rows = [[np.arange(size) for size in sizes]]
        rows += [[draw(0, size, size) for size in sizes] for _ in range(_RESAMPLES)]
        found = np.array([statistic(*pair) for pair in rows])
        run.drawn[title, moment] = found
    return found


def _pairs(ours: Sequence[Run], theirs: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    return ((run, other) for run in ours for other in theirs)


def _difference(ends: Sequence[Sequence[float]], values: Sequence[float]) -> Difference:
    lows, highs = zip(*ends, strict=True)
    return Difference(float(np.mean(values)), min(lows), max(highs), max(highs) < 0, min(lows) > 0)
