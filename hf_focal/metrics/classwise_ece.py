# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Classwise expected calibration error."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from ..checks import check_n_bins
from .base import Statistic, register_metric
from .bins import bin_indices
from .gaps import ClassCells, GapError, common_gaps, mean_size, of_classes, of_classes_less_shrunk
from .scored import SOFTMAX, Scored, WithoutConfidences, of_probabilities


_CHUNK = 1 << 18  # probabilities binned at a time: they stay in the cache
_SPARSE_LIMIT = 1 << 24  # probabilities: up to here resampled as a sparse matrix


@of_probabilities
def classwise_calibration_error(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> float:
    r"""
    Calibration error of every class's probability, not of the largest alone (Classwise-ECE; Kull et al., 2019; Mukhoti
    et al., 2020, Section 2).

    $\frac{1}{K} \sum_k \sum_b \frac{|B_{bk}|}{N} |A_{bk} - C_{bk}|$: for each class all samples are binned by its
    probability, A is the share of them that belong to the class, C its mean probability. K is the number of columns
    and no sample is left out; the paper's published code takes the largest label plus one for K and drops p = 0.

    Example:
    >>> round(classwise_calibration_error([[0.8, 0.2]], [0]), 2)
    0.2
    """
    return _error(WithoutConfidences(probabilities, labels), check_n_bins(n_bins))


def _gaps(scored: Scored, n_bins: int) -> NDArray[np.float64]:
    """Per class and bin `(num_labels, n_bins)`: number of samples of the class less the sum of its probabilities."""
    labels, num_labels = scored.labels, scored.num_labels
    gaps = np.zeros(num_labels * n_bins)
    totals = np.bincount(labels, minlength=num_labels).astype(np.float64)
    # Most probabilities are in the first bin, whose gap is the gap of the whole class less those of the other bins.
    for _, values, axis in scored.blocks(_CHUNK):
        totals -= values.sum(axis=1 - axis)
        above = values > 1 / n_bins
        places = np.flatnonzero(above)
        if axis:
            offsets = places % num_labels * n_bins
        else:
            offsets = np.repeat(np.arange(0, len(gaps), n_bins), np.count_nonzero(above, axis=1))
        chosen = values.reshape(-1).take(places)
        gaps -= np.bincount(offsets + bin_indices(chosen, n_bins), chosen, len(gaps))
    true_bins = bin_indices(scored.true_probabilities.astype(np.float64), n_bins)
    gaps += np.bincount(labels * n_bins + true_bins, minlength=len(gaps))
    table = gaps.reshape(num_labels, n_bins)
    table[:, 0] = totals - table[:, 1:].sum(axis=1)
    return table


def _mean_gap(gaps: NDArray[np.float64], num_samples: int) -> float:
    return float(np.abs(gaps).sum() / (num_samples * len(gaps)))


def _resampled(scored: Scored, n_bins: int) -> Statistic:
    num_samples, num_labels = len(scored), scored.num_labels
    if num_samples * num_labels > _SPARSE_LIMIT:
        return lambda rows: _error(scored.take(rows), n_bins)
    # What each sample adds to the gap of each class and bin, (num_labels * n_bins, num_samples).
    gaps, places = np.empty((num_samples, num_labels)), np.empty((num_samples, num_labels), np.int32)
    for block, values, axis in scored.blocks():
        gaps[block] = values if axis else values.T
        places[block] = bin_indices(gaps[block], n_bins) + np.arange(num_labels) * n_bins
    gaps[np.arange(num_samples), scored.labels] -= 1
    starts = np.arange(0, gaps.size + 1, num_labels, dtype=np.int32)
    # Its transpose is a view: another order of storage would hold everything twice.
    matrix = csr_array((gaps.ravel(), places.ravel(), starts), shape=(num_samples, num_labels * n_bins)).T

    def statistic(rows: NDArray[np.int64]) -> float:
        repeats = np.bincount(rows, minlength=num_samples).astype(np.float64)
        return float(np.abs(matrix @ repeats).sum() / (len(rows) * num_labels))

    return statistic


@register_metric(
    "classwise_ece",
    title="Classwise-ECE",
    heads=(SOFTMAX,),  # of a sigmoid head the ECE is by label already
    whole_rows=True,
    function=classwise_calibration_error,
    resampled=_resampled,
    running=lambda sums: _mean_gap(sums.arrays["classwise_gaps"], sums.num_samples),
    added=lambda scored, n_bins: {"classwise_gaps": _gaps(scored, n_bins)},
    gaps=GapError(
        lambda scored, n_bins: ClassCells(scored, n_bins, _gaps(scored, n_bins)),
        mean_size,
        low=of_classes,
        high=of_classes_less_shrunk,
        likely=common_gaps,
    ),
)
def _error(scored: Scored, n_bins: int) -> float:
    return _mean_gap(_gaps(scored, n_bins), len(scored))
