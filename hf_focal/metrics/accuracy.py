# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Accuracy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from .base import METRICS, mean_of, register_metric
from .output_sums import mean_sums
from .outputs import scored_probabilities
from .scored import Scored, of_probabilities


@of_probabilities
def accuracy(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """
    Share of samples whose largest probability is that of the true class; ties go to the lowest class. Of a
    sigmoid head, whose labels have the shape of the probabilities, the share of its answers yes and no that are right.

    Returns:
        `float`: Fraction in `[0, 1]`; higher is better.

    Example:
    >>> accuracy([[0.8, 0.2], [0.6, 0.4]], [0, 1])
    0.5
    """
    return METRICS["accuracy"].of(scored_probabilities(probabilities, labels), 1)


@register_metric(
    "accuracy",
    title="Accuracy",
    complement="Error",
    lower_is_better=False,
    binned=False,
    function=accuracy,
    resampled=lambda scored, n_bins: mean_of(scored.correct.astype(float)),
    running=lambda sums: float(sums.bins.correct_sums.sum() / sums.num_samples),
    interval=lambda scored, level, numbers: _wilson(scored.correct, level, numbers),
    sums=mean_sums(lambda scored: scored.correct),
)
def _accuracy(scored: Scored, n_bins: int = 0) -> float:
    return float(scored.correct.mean())


def _wilson(correct: NDArray[np.bool_], level: float, numbers: NDArray[np.int64] | None) -> tuple[float, float]:
    """Wilson's interval; of groups with as many samples as would scatter as their sums do."""
    share, size = float(correct.mean()), float(len(correct))
    if numbers is not None:
        sums = np.bincount(numbers, correct - share)
        scatter = float(sums @ sums) * len(sums) / (len(sums) - 1) / size**2
        size = share * (1 - share) / scatter if scatter > 0 else float(len(sums))
    return wilson_ends(share, size, level)


def wilson_ends(share: float, size: float, level: float) -> tuple[float, float]:
    """Wilson's interval of a share of so many samples."""
    z = float(ndtri((1 + level) / 2))
    middle = (share + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * math.sqrt(share * (1 - share) / size + (z / (2 * size)) ** 2)
    return max(middle - half, 0.0), min(middle + half, 1.0)
