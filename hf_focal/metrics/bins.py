# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Bins of confidence, of equal width and of equal mass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import BLOCK


def bin_indices(values: NDArray[np.float64], n_bins: int) -> NDArray[np.intp]:
    """Index of the bin (i / n_bins, (i + 1) / n_bins] that holds each value, no tolerance; the first also holds 0."""
    scaled = values * n_bins
    indices = np.ceil(scaled).astype(np.intp)
    indices -= 1
    # The product and the edge are rounded, so that beside an edge only the edge itself can tell.
    np.subtract(scaled, np.rint(scaled), out=scaled)
    near = np.flatnonzero(np.abs(scaled, out=scaled) < n_bins * 1e-15)
    if len(near):
        # Edge i is the lower end of bin i.
        edges = np.rint(values.reshape(-1)[near] * n_bins)
        indices.reshape(-1)[near] = edges - (values.reshape(-1)[near] <= edges / n_bins)
    np.maximum(indices, 0, out=indices)
    return np.minimum(indices, n_bins - 1, out=indices)


@dataclass(frozen=True)
class BinStatistics:
    """
    What reliability diagrams and calibration errors are made of: per bin, how many samples, how confident, how right.

    Attributes:
        edges (`np.ndarray` of shape `(n_bins + 1,)`): Equal-width edges `i / n_bins`; for equal-mass bins the smallest
            confidence of each bin, then the largest of all.
        counts (`np.ndarray` of shape `(n_bins,)`): Number of samples.
        confidence_sums, correct_sums (`np.ndarray` of shape `(n_bins,)`): Sum of confidences, number of right ones.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    confidence_sums: NDArray[np.float64]
    correct_sums: NDArray[np.float64]

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Mean confidence of each bin; NaN where it is empty."""
        return self._mean(self.confidence_sums)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Share of right predictions in each bin; NaN where it is empty."""
        return self._mean(self.correct_sums)

    def _mean(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.divide(sums, self.counts, out=np.full(len(sums), np.nan), where=self.counts > 0)

    def expected_error(self) -> float:
        """Mean over samples of the gap of their bin."""
        return float(np.abs(self.correct_sums - self.confidence_sums).sum() / self.counts.sum())

    def maximum_error(self) -> float:
        """Largest gap of a bin that is not empty."""
        return float(np.nanmax(np.abs(self.accuracy - self.confidence)))


def equal_width(confidences: NDArray[Any], correct: NDArray[np.bool_], n_bins: int) -> BinStatistics:
    """Pairs of confidence and outcome counted in bins of equal width."""
    counts, sums = np.zeros((2, n_bins), np.int64), np.zeros(n_bins)
    for start in range(0, len(confidences), BLOCK):
        values = confidences[start : start + BLOCK].astype(np.float64)
        indices = bin_indices(values, n_bins)
        sums += np.bincount(indices, values, n_bins)
        indices += n_bins * correct[start : start + BLOCK]
        counts += np.bincount(indices, minlength=2 * n_bins).reshape(2, n_bins)
    return BinStatistics(np.arange(n_bins + 1) / n_bins, counts.sum(axis=0), sums, counts[1].astype(np.float64))


def gaps_of_resamples(
    confidences: NDArray[Any], correct: NDArray[np.bool_], n_bins: int
) -> Callable[[NDArray[np.int64]], tuple[NDArray[np.float64], NDArray[np.intp]]]:
    """A function of rows: the size of the summed gap of each bin of equal width, and the bin of each row."""
    wide = confidences.astype(np.float64)
    bins, gaps = bin_indices(wide, n_bins), wide - correct

    def of_rows(rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        drawn = bins.take(rows)
        return np.abs(np.bincount(drawn, gaps.take(rows))), drawn

    return of_rows


def equal_mass_counts(num_samples: int, n_bins: int) -> NDArray[np.int64]:
    """The sizes of numpy.array_split; with fewer samples than bins the bins of size 0 are left out."""
    size, larger = divmod(num_samples, n_bins)
    return np.array([size + 1] * larger + ([size] * (n_bins - larger) if size else []))


def equal_mass(confidences: NDArray[Any], correct: NDArray[np.bool_], n_bins: int) -> BinStatistics:
    """Pairs of confidence and outcome counted in bins of equal mass."""
    counts = equal_mass_counts(len(confidences), n_bins)
    starts = np.cumsum(counts) - counts
    # How many are right below each cut follows from the confidences of the right ones. Samples that tie are all alike:
    # where a cut parts them, each part has its share of those that are right, whatever their order.
    ordered, right = np.sort(confidences), np.sort(confidences[correct])
    cuts = ordered[starts]
    first, last = np.searchsorted(ordered, cuts), np.searchsorted(ordered, cuts, side="right")
    right_first, right_last = np.searchsorted(right, cuts), np.searchsorted(right, cuts, side="right")
    right_below = right_first + (starts - first) * (right_last - right_first) / (last - first)
    ordered = ordered.astype(np.float64)
    edges, sums = np.append(ordered[starts], ordered[-1]), np.add.reduceat(ordered, starts)
    return BinStatistics(edges, counts, sums, np.diff(right_below, append=len(right)).astype(np.float64))
