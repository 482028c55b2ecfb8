# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Brier score, and its parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..checks import check_n_bins
from .base import METRICS, mean_of, register_metric
from .bins import equal_width
from .output_sums import mean_sums
from .outputs import scored_probabilities
from .scored import Scored, WithoutConfidences, of_probabilities


@of_probabilities
def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    r"""
    Mean of $\sum_k (p_k - [k = y])^2$ (Brier, 1950), for any number of classes; not divided by it. Of a
    sigmoid head, whose labels have the shape of the probabilities, the mean of $(p - y)^2$, as of scikit-learn.

    Returns:
        `float`: In `[0, 2]`; lower is better.

    Example:
    >>> round(brier_score([[0.8, 0.2]], [0]), 2)
    0.08
    """
    return METRICS["brier"].of(scored_probabilities(probabilities, labels, WithoutConfidences), 1)


@register_metric(
    "brier",
    title="Brier",
    style=".4f",
    bounds=(0.0, 2.0),
    binned=False,
    function=brier_score,
    resampled=lambda scored, n_bins: mean_of(scored.brier),
    running=lambda sums: float(sums.arrays["brier"] / sums.num_samples),
    added=lambda scored, n_bins: {"brier": scored.brier.sum()},
    sums=mean_sums(lambda scored: scored.brier),
)
def _mean(scored: Scored, n_bins: int = 0) -> float:
    return float(scored.brier.mean())


@dataclass(frozen=True)
class BrierDecomposition:
    """
    The Brier score in parts: `brier == reliability - resolution + uncertainty + within_bins`.

    Attributes:
        brier (`float`): The score, as by [`brier_score`].
        reliability (`float`): Mean squared gap between forecast and frequency, the calibration of DeGroot and
            Fienberg; lower is better.
        resolution (`float`): How far the frequencies of the bins are from those of all samples; higher is better.
        uncertainty (`float`): The score of always forecasting the class frequencies; a property of the data alone.
        within_bins (`float`): What the bins do not see: spread of the forecasts inside a bin, less twice its
            covariance with the outcome (Stephenson et al., 2008). 0 where all forecasts in a bin are equal.
    """

    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float

    @property
    def refinement(self) -> float:
        """The other part beside calibration in the two-part split of DeGroot and Fienberg; lower is better."""
        return self.uncertainty - self.resolution


@of_probabilities
def brier_decomposition(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> BrierDecomposition:
    r"""
    Reliability, resolution and uncertainty of the Brier score (Murphy, 1973), and with them the split into calibration
    and refinement (DeGroot and Fienberg, 1983).

    The score is a sum over classes, and so is each part; for class k with its samples in equal-width bins of $p_k$,
    and $\bar o$ the share of samples that belong to it, $\sum_b \frac{|B_b|}{N} (\bar p_b - \bar o_b)^2$,
    $\sum_b \frac{|B_b|}{N} (\bar o_b - \bar o)^2$ and $\bar o (1 - \bar o)$. Murphy's identity in these three holds
    where the forecasts in a bin are equal, as for forecasts of a few fixed values. Of others the bins lose something,
    which is given as `within_bins`; with more bins it shrinks, while reliability grows by chance.

    Prefer it to ECE to say why one model scores better than another: temperature scaling moves reliability more
    than resolution.

    Example:
    >>> parts = brier_decomposition([[0.8, 0.2]] * 4, [0, 0, 1, 1])
    >>> [round(value, 2) for value in (parts.brier, parts.reliability, parts.resolution, parts.uncertainty)]
    [0.68, 0.18, 0.0, 0.5]
    """
    scored, n_bins = WithoutConfidences(probabilities, labels), check_n_bins(n_bins)
    num_samples = len(scored)
    reliability = resolution = uncertainty = 0.0
    for label in range(scored.num_labels):
        bins = equal_width(scored.probabilities[:, label], scored.labels == label, n_bins)
        counts, overall = np.maximum(bins.counts, 1), bins.correct_sums.sum() / num_samples
        reliability += float(((bins.confidence_sums - bins.correct_sums) ** 2 / counts).sum()) / num_samples
        resolution += float(bins.counts @ (bins.correct_sums / counts - overall) ** 2) / num_samples
        uncertainty += float(overall * (1 - overall))
    brier = _mean(scored)
    within_bins = brier - (reliability - resolution + uncertainty)
    return BrierDecomposition(brier, reliability, resolution, uncertainty, within_bins)
