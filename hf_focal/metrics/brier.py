# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Brier score."""

from __future__ import annotations

from numpy.typing import ArrayLike

from .base import Running, mean_of, of_probabilities, register_metric
from .scored import Scored


@of_probabilities
def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    r"""
    Mean of $\sum_k (p_k - [k = y])^2$ (Brier, 1950), for any number of classes; not divided by it.

    Returns:
        `float`: In `[0, 2]`; lower is better.

    Example:
    >>> round(brier_score([[0.8, 0.2]], [0]), 2)
    0.08
    """
    return mean_brier(Scored(probabilities, labels, maxima=False))


@register_metric(
    "brier",
    title="Brier",
    style=".4f",
    bounds=(0.0, 2.0),
    binned=False,
    function=brier_score,
    resampled=lambda scored, n_bins: mean_of(scored.brier),
    running=Running(
        lambda sums: float(sums.arrays["brier"] / sums.num_samples),
        add=lambda scored, n_bins: {"brier": scored.brier.sum()},
        shapes={"brier": ()},
    ),
)
def mean_brier(scored: Scored, n_bins: int = 0) -> float:
    """[`brier_score`] of what was checked."""
    return float(scored.brier.mean())
