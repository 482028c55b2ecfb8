# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Confident predictions (Mukhoti et al., 2020, Appendix H), and what a classifier gains that abstains from others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .scored import Scored, of_probabilities


@dataclass(frozen=True)
class ConfidentPredictions:
    """Predictions that reach a threshold: number, share of all samples, and accuracy, `None` where there are none."""

    count: int
    share: float
    accuracy: float | None


@of_probabilities
def confident_predictions(
    probabilities: ArrayLike, labels: ArrayLike, threshold: float = 0.99
) -> ConfidentPredictions:
    """
    Number and accuracy of the predictions whose confidence is at least a threshold.

    Args:
        threshold (`float`, *optional*, defaults to `0.99`):
            In (0, 1].

    Raises:
        ValueError: If the threshold is not in (0, 1].

    Example:
    >>> confident_predictions([[0.995, 0.005], [1.0, 0.0], [0.6, 0.4]], [0, 1, 0])
    ConfidentPredictions(count=2, share=0.6666666666666666, accuracy=0.5)
    """
    check_threshold(threshold)
    confidences, correct = Scored(probabilities, labels).pairs
    kept = confidences.astype(np.float64) >= threshold
    count = int(kept.sum())
    return ConfidentPredictions(count, count / len(kept), float(correct[kept].mean()) if count else None)


def check_threshold(threshold: float) -> None:
    """Refuse a threshold outside (0, 1]."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], got {threshold!r}.")


@of_probabilities
def risk_coverage_curve(
    probabilities: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """
    Error among the k most confident predictions, for every k (Geifman and El-Yaniv, 2017).

    Where k cuts through samples of equal confidence, which no threshold tells apart, the risk is the mean over all
    their orders.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Coverage k / N and risk, for k = 1, ..., N.

    Example:
    >>> coverage, risk = risk_coverage_curve([[0.9, 0.1], [0.2, 0.8]], [0, 0])
    >>> coverage.tolist(), risk.tolist()
    ([0.5, 1.0], [0.0, 0.5])
    """
    confidences, correct = Scored(probabilities, labels).pairs
    _, places, counts = np.unique(-confidences, return_inverse=True, return_counts=True)  # most confident first
    errors = np.cumsum(np.repeat(np.bincount(places, ~correct) / counts, counts))
    kept = np.arange(1, len(correct) + 1)
    return kept / len(correct), errors / kept


@of_probabilities
def area_under_risk_coverage(probabilities: ArrayLike, labels: ArrayLike) -> float:
    r"""
    AURC: the mean risk over the coverages 1/N, 2/N, ..., 1 of [`risk_coverage_curve`] (Geifman et al., 2019, after
    Geifman and El-Yaniv, 2017).

    It rewards accuracy as well as a confidence that ranks errors last; a temperature changes it only where it changes
    the order of samples. It serves as a metric of [`bootstrap_interval`] and [`paired_bootstrap`].

    Example:
    >>> area_under_risk_coverage([[0.9, 0.1], [0.2, 0.8]], [0, 0])
    0.25
    """
    return float(risk_coverage_curve(probabilities, labels)[1].mean())
