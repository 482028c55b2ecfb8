# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Expected calibration error."""

from __future__ import annotations

from numpy.typing import ArrayLike

from ..checks import check_n_bins
from .base import METRICS, Statistic, register_metric
from .bins import gaps_of_resamples
from .gaps import GapError, TopCells, mean_size
from .outputs import scored_probabilities
from .scored import Scored, of_probabilities


@of_probabilities
def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> float:
    r"""
    Weighted mean gap between accuracy and confidence over equal-width bins.

    $\sum_b \frac{|B_b|}{N} |\mathrm{acc}(B_b) - \mathrm{conf}(B_b)|$ (Naeini et al., 2015; Mukhoti et al., 2020,
    Section 2). Bins are `(lower, upper]`. It is what papers report, but it is biased upwards on few samples, depends
    on the bins and is no proper score: see when [`debiased_calibration_error`], [`brier_decomposition`] and
    [`smooth_calibration_error`] are to be preferred.

    Example:
    >>> round(expected_calibration_error([[0.8, 0.2]], [0]), 2)
    0.2
    """
    return METRICS["ece"].of(scored_probabilities(probabilities, labels), check_n_bins(n_bins))


def _resampled(scored: Scored, n_bins: int) -> Statistic:
    gaps_of = gaps_of_resamples(*scored.pairs, n_bins)
    return lambda rows: float(gaps_of(rows)[0].sum() / len(rows))


@register_metric(
    "ece",
    title="ECE",
    function=expected_calibration_error,
    resampled=_resampled,
    running=lambda sums: sums.bins.expected_error(),
    gaps=GapError(TopCells, mean_size),
)
def _error(scored: Scored, n_bins: int) -> float:
    return scored.bins(n_bins).expected_error()
