# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Debiased calibration error."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from ..checks import check_n_bins
from .base import Metric
from .gaps import Floats, GapError, TopCells, as_observed
from .scored import Scored, of_probabilities


@of_probabilities
def debiased_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15, adaptive: bool = True, squared: bool = False
) -> float:
    r"""
    Root of the mean squared gap between accuracy and confidence over bins, less what chance adds to it (Bröcker, 2012;
    Kumar et al., 2019, Section 4).

    $\hat{E}^2 = \sum_b \frac{|B_b|}{N} \left[ (\mathrm{acc}_b - \mathrm{conf}_b)^2 -
    \frac{\mathrm{acc}_b (1 - \mathrm{acc}_b)}{|B_b| - 1} \right]$, and 0 where it is negative. The sum itself is right
    on average for the bins' own means, however few the samples; its root is not quite. Of a single sample chance
    cannot be told: there are at most `N // 2` bins of equal mass, and a bin of equal width that holds one sample
    counts as 0, as in the authors' package. Where every bin does, the error is NaN.

    Prefer it to ECE for small data sets and many bins, where ECE of a perfectly calibrated model is far from 0. It is
    an L2 error: at least as large as the L1 error that ECE estimates, and not to be compared with ECE.

    Args:
        adaptive (`bool`, *optional*, defaults to `True`):
            Bins of equal mass, as the authors take them; `False` for equal width.
        squared (`bool`, *optional*, defaults to `False`):
            Give the sum itself, which may be negative, to be averaged over several data sets.

    Example:
    >>> round(debiased_calibration_error([[0.9, 0.1]] * 4, [0, 0, 1, 1], n_bins=1), 4)
    0.2769
    """
    total = _of_cells(_cells(Scored(probabilities, labels), check_n_bins(n_bins), adaptive))
    return total if squared else _root(total)


def _root(total: float) -> float:
    return total if math.isnan(total) else math.sqrt(max(total, 0.0))


def _of_cells(cells: TopCells) -> float:
    counts, said, came = (sums[cells.filled] for sums in (cells.counts, cells.said, cells.came))
    return float(_squared(came - said, np.stack([counts, said / counts])))


def _cells(scored: Scored, n_bins: int, adaptive: bool = True) -> TopCells:
    return TopCells(scored, min(n_bins, max(len(scored) // 2, 1)) if adaptive else n_bins, adaptive)


def _squared(gaps: Floats, cells: Floats) -> Floats:
    kept = cells[0] > 1
    if not kept.any():
        return np.full(gaps.shape[:-1], np.nan)
    total, (counts, mean) = cells[0].sum(), cells[:, kept]
    off = gaps[..., kept] / counts
    shares = np.clip(mean + off, 0.0, 1.0)
    return (counts * (off**2 - shares * (1 - shares) / (counts - 1))).sum(axis=-1) / total


def _true(gaps: Floats, cells: Floats) -> Floats:
    return np.sqrt((gaps**2 / cells[0]).sum(axis=-1) / cells[0].sum())


# Not among METRICS: tables would set it beside ECE, with which it is not to be compared.
DEBIASED = Metric(
    "debiased_ece",
    "Debiased ECE",
    lambda scored, n_bins: _root(_of_cells(_cells(scored, n_bins))),
    function=debiased_calibration_error,
    gaps=GapError(
        _cells,
        lambda gaps, cells: np.sqrt(np.maximum(_squared(gaps, cells), 0.0)),
        statistic=_squared,
        error=_true,
        low=as_observed,
        high=as_observed,
    ),
)
