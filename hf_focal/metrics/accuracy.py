# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Accuracy."""

from __future__ import annotations

from numpy.typing import ArrayLike

from .base import mean_of, register_metric
from .scored import Scored, of_probabilities


@of_probabilities
def accuracy(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """
    Share of samples whose largest probability is that of the true class; ties go to the lowest class.

    Returns:
        `float`: Fraction in `[0, 1]`; higher is better.

    Example:
    >>> accuracy([[0.8, 0.2], [0.6, 0.4]], [0, 1])
    0.5
    """
    return _accuracy(Scored(probabilities, labels))


@register_metric(
    "accuracy",
    title="Accuracy",
    complement="Error",
    lower_is_better=False,
    binned=False,
    function=accuracy,
    resampled=lambda scored, n_bins: mean_of(scored.correct.astype(float)),
    running=lambda sums: float(sums.bins.correct_sums.sum() / sums.num_samples),
)
def _accuracy(scored: Scored, n_bins: int = 0) -> float:
    return float(scored.correct.mean())
