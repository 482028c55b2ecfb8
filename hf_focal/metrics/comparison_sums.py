# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Which of two models is better, from sums over their predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from .base import METRICS, Metric
from .bins import bin_indices
from .chance import Law
from .comparison import PairedComparison, correlated, inverted
from .evaluation_sums import MEANS, EvaluationSums
from .gaps import Cells, Floats, GapError
from .scored import Scored, ScoredPairs


_OF_ROWS = ("accuracy", *MEANS)


class ComparisonSums:
    """
    What tells, beside the [`EvaluationSums`] of two models, how alike they are on the same samples; it is merged by
    addition.

    Args:
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.
    """

    def __init__(self, n_bins: int = 15) -> None:
        self.n_bins = n_bins
        shape = (n_bins, n_bins)
        self.arrays: dict[str, NDArray[Any]] = {
            "counts": np.zeros(shape), "gaps_a": np.zeros(shape), "gaps_b": np.zeros(shape),
            "products": np.zeros(shape), "squares": np.zeros(len(_OF_ROWS)), "other_labels": np.zeros(()),
        }  # fmt: skip

    def add(self, scored_a: Scored, scored_b: Scored) -> None:
        """Add a batch of the same samples, of both; of other numbers of them, they are no such batch."""
        if len(scored_a) != len(scored_b):
            self.arrays["other_labels"] = self.arrays["other_labels"] + max(len(scored_a), len(scored_b))
            return
        bins, gaps = [], []
        for one in (scored_a, scored_b):
            confidences = one.confidences.astype(np.float64)
            bins.append(bin_indices(confidences, self.n_bins))
            gaps.append(one.correct - confidences)
        places, size = bins[0] * self.n_bins + bins[1], self.n_bins**2
        added: dict[str, Any] = {
            name: np.bincount(places, weights, size).reshape(self.n_bins, -1)
            for name, weights in
            [("counts", None), ("gaps_a", gaps[0]), ("gaps_b", gaps[1]), ("products", gaps[0] * gaps[1])]
        }  # fmt: skip
        pairs = isinstance(scored_a, ScoredPairs) or isinstance(scored_b, ScoredPairs)
        off = [np.subtract(scored_a.correct, scored_b.correct, dtype=np.float64)]
        off += [] if pairs else [getattr(scored_a, name) - getattr(scored_b, name) for name in MEANS]
        added["squares"] = np.array([np.square(one).sum() for one in off] + [0.0] * (len(_OF_ROWS) - len(off)))
        # Labels tell whether these are the same samples; without them nothing does.
        labels_a, labels_b = (getattr(one, "labels", None) for one in (scored_a, scored_b))
        known = labels_a is not None and labels_b is not None and np.array_equal(labels_a, labels_b)
        added["other_labels"] = 0 if known else len(scored_a)
        self.merge(added)

    def merge(self, other: ComparisonSums | Mapping[str, ArrayLike]) -> None:
        """Add what another one has seen."""
        arrays = other.arrays if isinstance(other, ComparisonSums) else other
        self.arrays = {name: np.asarray(value + arrays[name]) for name, value in self.arrays.items()}

    @property
    def same_samples(self) -> bool:
        """Whether all rows of both had the same labels."""
        return self.arrays["counts"].sum() > 0 and self.arrays["other_labels"] == 0


def compare_sums(
    metric: Metric,
    a: EvaluationSums,
    b: EvaluationSums,
    together: ComparisonSums | None = None,
    level: float = 0.9,
    seed: int = 0,
) -> PairedComparison | None:
    """
    [`paired_bootstrap`] of sums: by the mean difference and its standard error where the metric is a mean, and by the
    law of both errors where it follows from bins of equal width; `None` of other metrics. Without `together` the
    samples are taken to be different ones.
    """
    if a.num_samples < 2 or b.num_samples < 2:
        return None
    if metric.key in _OF_ROWS:
        if any(metric.key in MEANS and one.pairs for one in (a, b)):
            return None
        return _of_means(metric, a, b, together, level)
    cells_a, cells_b = a.cells(metric), b.cells(metric)
    if cells_a is None or cells_b is None or metric.running is None or cells_a[1].adaptive:
        return None
    error, cells = cells_a[0], (cells_a[1], cells_b[1])
    cross = np.zeros((len(cells[0].filled), len(cells[1].filled)))
    if together is not None:
        cross = _correlation(error, cells, (a, b), together)

    def laws(pair: Sequence[Cells]) -> list[Law]:
        turned = cross if pair[0] is cells[0] else cross.T
        return correlated(error, pair, turned, np.random.default_rng(seed))

    low, high, share = inverted(cells, level, laws)
    return _verdict(metric, metric.running(a) - metric.running(b), low, high, share)


def _of_means(
    metric: Metric, a: EvaluationSums, b: EvaluationSums, together: ComparisonSums | None, level: float
) -> PairedComparison:
    (mean_a, variance_a), (mean_b, variance_b) = a.moments(metric.key), b.moments(metric.key)
    difference, count = mean_a - mean_b, a.num_samples
    if together is None:
        error = math.sqrt(variance_a / count + variance_b / b.num_samples)
    else:
        square = float(together.arrays["squares"][_OF_ROWS.index(metric.key)]) / count
        error = math.sqrt(max(square - difference**2, 0.0) / (count - 1))
    if not math.isfinite(error):
        return PairedComparison(difference, -math.inf, math.inf, 0.5, "undecided")
    half = float(ndtri((1 + level) / 2)) * error
    share = float(ndtr(-difference / error)) if error > 0 else 0.5 * (1 - float(np.sign(difference)))
    return _verdict(metric, difference, difference - half, difference + half, share)


def _correlation(
    error: GapError, cells: Sequence[Cells], sums: Sequence[EvaluationSums], together: ComparisonSums
) -> Floats:
    """Of what the bins of the two came to, less what was to be expected of them."""
    gaps, sizes = [], []
    for one, sum_ in zip(cells, sums, strict=True):
        law = Law(error, one)
        off = law.likely_gaps
        observed = law.came - law.said
        gaps.append(off)
        squares = sum_.arrays["gap_squares"][one.filled] - 2 * off * observed + law.counts * off**2
        sizes.append(np.sqrt(np.maximum(squares, 1e-300)))
    rows, columns = cells[0].filled, cells[1].filled
    counts, gaps_a, gaps_b, products = (
        together.arrays[name][np.ix_(rows, columns)] for name in ("counts", "gaps_a", "gaps_b", "products")
    )
    a, b = gaps[0][:, None], gaps[1][None, :]
    cross = (products - b * gaps_a - a * gaps_b + a * b * counts) / np.outer(*sizes)
    return np.round(
        cross, 10
    )  # where two models are nearly one, the axes of their scatter would turn with the last digit


def _verdict(metric: Metric, difference: float, low: float, high: float, share: float) -> PairedComparison:
    better = "a_is_better" if (high < 0) == metric.lower_is_better else "b_is_better"
    return PairedComparison(difference, low, high, share, better if low > 0 or high < 0 else "undecided")


def compare_all(
    a: EvaluationSums, b: EvaluationSums, together: ComparisonSums | None = None, level: float = 0.9
) -> dict[str, PairedComparison]:
    """Of every metric that both have and sums can tell of, by its key."""
    found = {key: compare_sums(metric, a, b, together, level) for key, metric in METRICS.items() if metric.running}
    return {key: one for key, one in found.items() if one is not None}
