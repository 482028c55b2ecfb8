# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Maximum calibration error."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import check_n_bins
from .base import Statistic, register_metric
from .bins import gaps_of_resamples
from .gaps import GapError, TopCells, as_large_as_may_be, as_observed, largest_size, largest_size_of_populated
from .scored import SOFTMAX, Scored, of_probabilities


@of_probabilities
def maximum_calibration_error(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> float:
    r"""
    Largest gap between accuracy and confidence over equal-width bins that are not empty (Naeini et al., 2015; Mukhoti
    et al., 2020, Section 2). One sample in a bin of its own can set it.

    Example:
    >>> round(maximum_calibration_error([[0.8, 0.2], [0.6, 0.4]], [0, 1]), 2)
    0.6
    """
    return _error(Scored(probabilities, labels), check_n_bins(n_bins))


def _resampled(scored: Scored, n_bins: int) -> Statistic:
    gaps_of = gaps_of_resamples(*scored.pairs, n_bins)

    def statistic(rows: NDArray[np.int64]) -> float:
        sums, bins = gaps_of(rows)
        return float((sums / np.maximum(np.bincount(bins), 1)).max())

    return statistic


@register_metric(
    "mce",
    title="MCE",
    heads=(SOFTMAX,),  # the largest gap of a rare label is that of a single sample
    rank=1,
    function=maximum_calibration_error,
    resampled=_resampled,
    running=lambda sums: sums.bins.maximum_error(),
    gaps=GapError(
        TopCells, largest_size, statistic=largest_size_of_populated, low=as_large_as_may_be, high=as_observed
    ),
)
def _error(scored: Scored, n_bins: int) -> float:
    return scored.bins(n_bins).maximum_error()
