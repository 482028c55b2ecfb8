# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Negative log-likelihood."""

from __future__ import annotations

import math

from numpy.typing import ArrayLike

from .base import METRICS, mean_of, register_metric
from .output_sums import mean_sums
from .outputs import scored_logits, scored_probabilities
from .scored import Scored, WithoutConfidences, of_probabilities


@of_probabilities
def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike) -> float:
    r"""
    Mean of $-\log p_y$. It is infinite where a true class has probability 0, and never clipped; of logits,
    [`negative_log_likelihood_from_logits`] loses nothing to rounding.

    Returns:
        `float`: Nats per sample; lower is better.

    Example:
    >>> round(negative_log_likelihood([[0.5, 0.5]], [1]), 4)
    0.6931
    """
    return METRICS["nll"].of(scored_probabilities(probabilities, labels, WithoutConfidences), 1)


@of_probabilities
def negative_log_likelihood_from_logits(logits: ArrayLike, labels: ArrayLike) -> float:
    r"""
    Mean of $\log \sum_k e^{z_k} - z_y$ in float64: finite however small the probability of the true class.

    Returns:
        `float`: Nats per sample; lower is better.

    Example:
    >>> negative_log_likelihood_from_logits([[0.0, 1000.0]], [0])
    1000.0
    """
    return METRICS["nll"].of(scored_logits(logits, labels), 1)


@register_metric(
    "nll",
    title="NLL",
    style=".4f",
    bounds=(0.0, math.inf),
    binned=False,
    function=negative_log_likelihood,
    resampled=lambda scored, n_bins: mean_of(scored.nll),
    running=lambda sums: float(sums.arrays["nll"] / sums.num_samples),
    added=lambda scored, n_bins: {"nll": scored.nll.sum()},
    sums=mean_sums(lambda scored: scored.nll),
)
def _mean(scored: Scored, n_bins: int = 0) -> float:
    return float(scored.nll.mean() + 0.0)  # + 0.0: no negative zero
