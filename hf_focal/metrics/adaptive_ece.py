# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Adaptive expected calibration error; over batches from counts in some 14,000 cells, with a bound of the error."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import check_n_bins
from .base import METRICS, Statistic, Sums, register_metric
from .bins import BinStatistics, equal_mass, equal_mass_counts
from .gaps import GapError, Parts, TopCells, mean_size
from .outputs import scored_probabilities
from .scored import Scored, of_probabilities


# Cells of u = 1 - confidence. Below 2^-7 their width is 1/128 of a power of two, for the confidences of accurate
# networks crowd at 1; above, it is 2^-13. The cell of u = 0 comes first. All edges are exact in float64.
_SHIFT = 52 - 7
_LOWEST = (1023 - 53) << 7
_N_FINE = ((1023 - 7) << 7) - _LOWEST + 1
_N_CELLS = _N_FINE + (1 << 13) - (1 << 6)


def _cell_indices(confidences: NDArray[np.float64]) -> NDArray[np.int64]:
    u = np.maximum(1 - confidences, 0.0)
    fine = np.maximum((u.view(np.int64) >> _SHIFT) - _LOWEST + 1, 0)
    coarse = (u * (1 << 13)).astype(np.int64) - (1 << 6) + _N_FINE
    return np.where(u < 2.0**-7, fine, np.minimum(coarse, _N_CELLS - 1))


def _cell_widths() -> NDArray[np.float64]:
    fine = (np.arange(_LOWEST, _LOWEST + _N_FINE) << _SHIFT).view(np.float64)
    return np.concatenate([fine[:1], np.diff(fine), np.full(_N_CELLS - _N_FINE, 2.0**-13)])


@of_probabilities
def adaptive_calibration_error(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> float:
    r"""
    Expected calibration error over bins of equal mass (AdaECE; Nguyen and O'Connor, 2015; Mukhoti et al., 2020,
    Section 2).

    Samples are sorted by confidence and cut as by `numpy.array_split`: the first `N mod n_bins` bins, those of lowest
    confidence, hold one sample more. Where a cut parts samples that tie, each part has its share of those that are
    right, whatever their order. The paper's published code drops the sample of lowest confidence and merges bins that
    tie; this does neither.

    Example:
    >>> round(adaptive_calibration_error([[0.8, 0.2], [0.6, 0.4]], [0, 1], n_bins=1), 2)
    0.2
    """
    return METRICS["adaptive_ece"].of(scored_probabilities(probabilities, labels), check_n_bins(n_bins))


def _resampled(scored: Scored, n_bins: int) -> Statistic:
    confidences, correct = scored.pairs
    return lambda rows: equal_mass(confidences[rows], correct[rows], n_bins).expected_error()


def _added(scored: Scored, n_bins: int) -> dict[str, NDArray[Any]]:
    confidences, correct = scored.pairs
    wide = confidences.astype(np.float64)
    cells = _cell_indices(wide)
    return {
        "cell_counts": np.bincount(cells, minlength=_N_CELLS),
        "cell_confidence_sums": np.bincount(cells, wide, _N_CELLS),
        "cell_correct": np.bincount(cells[correct], minlength=_N_CELLS),
    }


def _error_and_bound(sums: Sums) -> tuple[float, float]:
    """AdaECE with the samples of a cell taken as alike, and a bound of the error."""
    # Of a cell with c samples, h of them right, and a width w, a part of s samples is said to have s h / c right. It
    # has at least max(0, h - c + s) and at most min(h, s); over all parts the differences add up to at most
    # 2 h (c - h) / c. Its sum of confidences is off by at most min(s, c - s) w. AdaECE changes by no more than these.
    n, arrays = sums.num_samples, sums.arrays
    # Ascending confidence, empty cells left out.
    filled = np.flatnonzero(arrays["cell_counts"])[::-1]
    counts, right = arrays["cell_counts"][filled], arrays["cell_correct"][filled].astype(np.float64)
    gaps = right - arrays["cell_confidence_sums"][filled]
    ends = np.cumsum(counts)
    bin_ends = np.cumsum(equal_mass_counts(n, sums.n_bins))
    # Cells and bins together cut the samples into parts, each within one cell and one bin.
    part_ends = np.union1d(ends, bin_ends)
    sizes = np.diff(part_ends, prepend=0)
    cells, bins = np.searchsorted(ends, part_ends), np.searchsorted(bin_ends, part_ends)
    c, h = counts[cells], right[cells]
    shares = sizes / c
    error = float(np.abs(np.bincount(bins, shares * gaps[cells])).sum() / n)

    expected = shares * h
    off = np.maximum(np.minimum(h, sizes) - expected, expected - np.maximum(0, h - c + sizes))
    off_right = np.minimum(np.bincount(cells, off), 2 * right * (counts - right) / counts)
    widths = _cell_widths()
    if arrays["cell_confidence_sums"][0] > arrays["cell_counts"][0]:
        # Rounded rows may be a little above 1: the first cell is as wide as its samples need.
        widths[0] += 1e-2  # what the sum of a row may be off by
    off_confidence = np.bincount(cells, np.minimum(sizes, c - sizes)) * widths[filled]
    bound = float((off_right + off_confidence).sum() / n)
    return error, min(bound, max(error, 1 - error))


def adaptive_parts(sums: Sums) -> tuple[BinStatistics, Parts]:
    """Bins of equal mass, and whose outcomes are counted together, with the samples of a cell taken as alike."""
    arrays = sums.arrays
    filled = np.flatnonzero(arrays["cell_counts"])[::-1]  # ascending confidence
    counts, said, right = (arrays[f"cell_{name}"][filled] for name in ("counts", "confidence_sums", "correct"))
    last = np.cumsum(counts)
    first, sizes = last - counts, equal_mass_counts(sums.num_samples, sums.n_bins)
    ends = np.cumsum(sizes)
    starts = ends - sizes
    cut = np.searchsorted(last, starts, side="right")  # the cell in which each bin starts
    parted = first[cut] < starts
    edges = np.unique(np.concatenate([starts[~parted], first[cut][parted], last[cut][parted], last[-1:]]))
    lower, upper = edges[:-1, None], edges[1:, None]
    weights = np.maximum(np.minimum(upper, ends) - np.maximum(lower, starts), 0) / (upper - lower)
    parts, number = np.searchsorted(edges, first, side="right") - 1, len(edges) - 1
    of_parts = np.diff(edges).astype(np.float64)
    said_of_parts = np.bincount(parts, said, number)
    off = said / counts - (said_of_parts / of_parts)[parts]
    spread = np.bincount(parts, counts * off * off, number).astype(np.float64)
    means = said / counts
    statistics = BinStatistics(
        np.append(means[cut], means[-1]), sizes, said_of_parts @ weights, np.bincount(parts, right, number) @ weights
    )
    return statistics, Parts(of_parts, spread, weights if parted.any() else None)


@register_metric(
    "adaptive_ece",
    title="AdaECE",
    function=adaptive_calibration_error,
    resampled=_resampled,
    running=lambda sums: _error_and_bound(sums)[0],
    added=_added,
    error_bound=lambda sums: _error_and_bound(sums)[1],
    gaps=GapError(lambda scored, n_bins: TopCells(scored, n_bins, adaptive=True), mean_size),
)
def _error(scored: Scored, n_bins: int) -> float:
    return scored.bins(n_bins, adaptive=True).expected_error()
