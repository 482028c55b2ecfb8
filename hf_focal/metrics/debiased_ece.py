# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Debiased calibration error."""

from __future__ import annotations

import math

from numpy.typing import ArrayLike

from .base import bin_statistics
from .scored import of_probabilities


@of_probabilities
def debiased_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15, adaptive: bool = True, squared: bool = False
) -> float:
    r"""
    Root of the mean squared gap between accuracy and confidence over bins, less what chance adds to it (Bröcker, 2012;
    Kumar et al., 2019, Section 4).

    $\hat{E}^2 = \sum_b \frac{|B_b|}{N} \left[ (\mathrm{acc}_b - \mathrm{conf}_b)^2 -
    \frac{\mathrm{acc}_b (1 - \mathrm{acc}_b)}{|B_b| - 1} \right]$, and 0 where it is negative. The sum itself is right
    on average for the bins' own means, however few the samples; its root is not quite. A bin of one sample, whose
    chance cannot be told, counts as 0, as in the authors' package.

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
    bins = bin_statistics(probabilities, labels, n_bins, adaptive)
    kept = bins.counts > 1
    counts, accuracy, confidence = bins.counts[kept], bins.accuracy[kept], bins.confidence[kept]
    chance = accuracy * (1 - accuracy) / (counts - 1)
    total = float((counts * ((accuracy - confidence) ** 2 - chance)).sum() / bins.counts.sum())
    return total if squared else math.sqrt(max(total, 0.0))
