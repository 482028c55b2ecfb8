# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a report tells of each label of a sigmoid head: what was measured, the table, and which labels stand first."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..checks import check_n_bins
from ..metrics import ALL_METRICS, BinStatistics, NoiseFloor, ScoredOutputs, scored_probabilities
from ..metrics.base import metrics_of
from ..metrics.chance import Law
from ..metrics.noise import floor_of
from ..metrics.scored import SIGMOID
from ..progress import progress
from .tables import WIDTH, cell, text_table, with_noise, wrap_titles


BY_LABEL = "metrics_by_label.csv"
SHOWN = 10  # labels in a terminal
_MOST_INTERVALS = 100  # labels: of more the intervals of single ones take long
_F1, _MACRO = "f1_micro", "f1_macro"  # which are the same of one label
_LEVEL = 0.9
HEADER = ("label", "positives", "ECE before", "after", "NLL before", "after", "F1 after")


@dataclass(frozen=True)
class LabelReport:
    """
    What was measured of one label.

    Attributes:
        name (`str`): What it is called.
        known, positives (`int`): Of how many samples it is known, and of how many of these it is right.
        metrics (`dict[str, dict[str, float]]`): Under `"before"` and `"after"` the metrics of this label: `ece`,
            `adaptive_ece`, `nll`, `brier`, `accuracy`, `f1` and what else was registered.
        floors (`dict[str, NoiseFloor]`): Under the same two, what chance alone would show of its ECE.
        intervals (`dict[str, tuple[float, float]]`): And the 90% interval of its true ECE, of at most 100 labels.
        bins (`dict[str, BinStatistics]`): And what its reliability diagram shows.
    """

    name: str
    known: int
    positives: int
    metrics: dict[str, dict[str, float]]
    floors: dict[str, NoiseFloor] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    bins: dict[str, BinStatistics] = field(default_factory=dict)

    @property
    def excess(self) -> float:
        """By how much the ECE after calibration is above what chance alone would show."""
        floor = self.floors.get("after")
        return self.metrics["after"]["ece"] - (floor.high if floor else 0.0)

    @property
    def cells(self) -> list[str]:
        """Its line in a table."""
        found = self.metrics.items()
        highest = {moment: floor.high for moment, floor in self.floors.items()}
        errors = [with_noise(values["ece"], highest.get(moment, -1.0), short=True) for moment, values in found]
        scores = [cell(values["nll"], ALL_METRICS["nll"].style) for _, values in found]
        return [self.name, f"{self.positives:,}", *errors, *scores, cell(self.metrics["after"]["f1"])]

    def to_record(self) -> dict[str, Any]:
        """What JSON has to hold of it."""
        floors = {moment: asdict(floor) for moment, floor in self.floors.items()}
        return {
            "label": self.name, "known": self.known, "positives": self.positives, **self.metrics,
            "ece_by_chance": floors, "ece_intervals": self.intervals,
        }  # fmt: skip


def label_reports(scored: Mapping[str, ScoredOutputs], names: Sequence[str], n_bins: int = 15) -> list[LabelReport]:
    """Of each label of which something is known, in their order, by the moments `"before"` and `"after"`."""
    (first, *_), found = scored.values(), []
    intervals = len(first.each) <= _MOST_INTERVALS
    for column, (_, one) in progress(list(first.each.items()), "labels"):
        moments = {moment: every.of(column) for moment, every in scored.items()}
        laws = {moment: _law(here, n_bins) for moment, here in moments.items()} if len(one) > 1 else {}
        found.append(
            LabelReport(
                name=names[column],
                known=len(one),
                positives=int(one.labels.sum()),
                metrics={moment: metrics_of_label(here, n_bins) for moment, here in moments.items()},
                floors={moment: NoiseFloor.of(law.calibrated, _LEVEL) for moment, law in laws.items()},
                intervals={moment: law.interval(_LEVEL) for moment, law in laws.items()} if intervals else {},
                bins={moment: here.bins(n_bins) for moment, here in moments.items()},
            )
        )
    return found


def _law(one: ScoredOutputs, n_bins: int) -> Law:
    error = ALL_METRICS["ece"].gap_error(one, n_bins)
    if error is None:
        raise TypeError("The ECE does not follow from gaps.")
    return Law(error, error.cells(one, n_bins))


def metrics_of_label(one: ScoredOutputs, n_bins: int) -> dict[str, float]:
    """The metrics of one label, of which all kinds of F1 are one."""
    values = {key: metric.of(one, n_bins) for key, metric in metrics_of(SIGMOID).items() if key != _MACRO}
    return {"f1" if key == _F1 else key: value for key, value in values.items()}


def multilabel_calibration_metrics(
    probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15, label_names: Sequence[str] | None = None
) -> dict[str, dict[str, float]]:
    """
    The metrics of each label of a sigmoid head, where [`calibration_metrics`] gives their mean.

    Args:
        probabilities (`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`):
            The probability of each label, in [0, 1].
        labels (`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`):
            1 where a label is right, 0 where it is not, -100 (or NaN) where that is not known.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.
        label_names (`Sequence[str]`, *optional*):
            What the labels are called; by default their numbers.

    Returns:
        `dict[str, dict[str, float]]`: By the name of each label of which something is known: `known` and `positives`,
        numbers of samples; `accuracy`, `nll`, `brier`, `ece`, `adaptive_ece`, `f1` (of the answer yes above 0.5) and
        what else was registered; and `ece_by_chance`, the most that the ECE of a calibrated label shows by chance, in
        95% of all data.

    Raises:
        ValueError: If shapes disagree, values are no probabilities, or labels are others than 0, 1 and -100.

    Example:
    >>> probabilities, labels = [[0.9, 0.2], [0.8, 0.4]], [[1, 0], [0, 1]]
    >>> metrics = multilabel_calibration_metrics(probabilities, labels, label_names=["joy", "fear"])
    >>> round(metrics["joy"]["ece"], 2), metrics["fear"]["positives"], metrics["fear"]["f1"]
    (0.45, 1, 0.0)
    """
    n_bins, scored = check_n_bins(n_bins), scored_probabilities(probabilities, labels)
    if not isinstance(scored, ScoredOutputs):
        raise ValueError(
            "These are probabilities of a softmax with one label a sample: calibration_metrics measures them."
        )
    names = names_of(scored.num_outputs, label_names)
    ece, found = ALL_METRICS["ece"], {}
    for column, (_, one) in scored.each.items():
        found[names[column]] = {
            "known": len(one), "positives": int(one.labels.sum()), **metrics_of_label(one, n_bins),
            "ece_by_chance": floor_of(ece, one, n_bins, _LEVEL).high,
        }  # fmt: skip
    return found


def names_of(count: int, names: Sequence[str] | None) -> list[str]:
    """Names for so many labels, those given or their numbers; none twice."""
    if names is None:
        return [str(number) for number in range(count)]
    if len(names) != count:
        raise ValueError(f"label_names must hold {count} names, got {len(names)}.")
    told = [str(name) for name in names]
    return [name if told.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(told)]


def worst_first(labels: Iterable[LabelReport]) -> list[LabelReport]:
    """By what their ECE after calibration is above what chance would show, the most first."""
    return sorted(labels, key=lambda label: (-label.excess, -label.positives))


def label_lines(
    labels: Sequence[LabelReport],
    width: int = WIDTH,
    most: int = SHOWN,
    where: str = f"{BY_LABEL} of the output folder",
) -> Iterator[str]:
    """The table that a terminal shows, of all labels or the worst, and what is to be said of it."""
    shown = worst_first(labels)[:most]
    rows = [one.cells for one in shown]
    header, *lines = wrap_titles([HEADER, *rows], width)
    yield text_table(header, lines, numbers=True)
    yield words_of_labels(labels, len(shown), where)


def words_of_labels(labels: Sequence[LabelReport], shown: int | None = None, where: str = BY_LABEL) -> str:
    """How many labels are within noise, before and after; and where those are that are not shown."""
    told = [f"{within(labels, moment)} {moment}" for moment in ("before", "after")]
    sentence = f"Labels whose ECE is within noise (~): {', '.join(told)} calibration, of {len(labels)}."
    if shown is not None and shown < len(labels):
        sentence += f" Shown are the {shown} whose ECE is most above it; all are in {where}."
    return sentence


def within(labels: Iterable[LabelReport], moment: str) -> int:
    """Of how many labels chance alone would show as much of the ECE."""
    return sum(
        moment in label.floors and label.metrics[moment]["ece"] <= label.floors[moment].high for label in labels
    )


def labels_as_csv(labels: Sequence[LabelReport]) -> str:
    """All numbers of all labels, a line each."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    keys = list(labels[0].metrics["before"]) if labels else []
    columns = [(key, moment) for key in keys for moment in ("before", "after")]
    ends = [f"ece_by_chance_{moment}_high" for moment in ("before", "after")]
    writer.writerow(["label", "known", "positives", *(f"{key}_{moment}" for key, moment in columns), *ends])
    for one in labels:
        floors = [one.floors[moment].high if moment in one.floors else "" for moment in ("before", "after")]
        values = [one.metrics[moment][key] for key, moment in columns]
        writer.writerow([one.name, one.known, one.positives, *values, *floors])
    return file.getvalue()


def find_label(labels: Sequence[LabelReport], label: str | int) -> LabelReport:
    """The label of that name or number."""
    for number, one in enumerate(labels):
        if label == one.name or (isinstance(label, int | np.integer) and label == number):
            return one
    names = ", ".join(one.name for one in labels[:SHOWN]) + (", ..." if len(labels) > SHOWN else "")
    raise ValueError(f"There is no label {label!r}: give one of {names or 'none, for this head is a softmax'}.")
