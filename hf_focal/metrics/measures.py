# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Measures to put beside ECE.

- ECE is what papers report. It is biased upwards on few samples, depends on the bins, and is no proper score.
- [`debiased_calibration_error`]: to compare models on few samples, or with many bins. It takes off what chance adds.
- [`brier_decomposition`]: to see whether a better Brier score comes of calibration or of telling classes apart. It
  looks at every class's probability.
- [`smooth_calibration_error`]: no bins, so that a small change of the predictions never makes a jump. To track
  calibration along a training run, or to compare models whose confidences crowd in different places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..checks import check_n_bins, check_probabilities, check_probabilities_and_maxima
from .base import bin_statistics, brier_of_samples
from .bins import bin_indices, confidence_and_correct


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
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)`):
            Softmax outputs; each row sums to 1.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.
        adaptive (`bool`, *optional*, defaults to `True`):
            Bins of equal mass, as the authors take them; `False` for equal width.
        squared (`bool`, *optional*, defaults to `False`):
            Give the sum itself, which may be negative, to be averaged over several data sets.

    Returns:
        `float`: Fraction in `[0, 1]`; lower is better.

    Raises:
        ValueError: If shapes disagree, values are no probabilities, labels are out of range, or `n_bins < 1`.
        TypeError: If `n_bins` is not a whole number.

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


@dataclass(frozen=True)
class BrierDecomposition:
    """
    The Brier score in parts: `brier == reliability - resolution + uncertainty + within_bins`.

    Attributes:
        brier (`float`):
            The score, as by [`brier_score`].
        reliability (`float`):
            Mean squared gap between forecast and frequency, the calibration of DeGroot and Fienberg; lower is better.
        resolution (`float`):
            How far the frequencies of the bins are from those of all samples; higher is better.
        uncertainty (`float`):
            The score of always forecasting the class frequencies; a property of the data alone.
        within_bins (`float`):
            What the bins do not see: spread of the forecasts inside a bin, less twice its covariance with the outcome
            (Stephenson et al., 2008). 0 where all forecasts in a bin are equal.
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


def brier_decomposition(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> BrierDecomposition:
    r"""
    Reliability, resolution and uncertainty of the Brier score (Murphy, 1973), and with them the split into calibration
    and refinement (DeGroot and Fienberg, 1983).

    The score is a sum over classes, and so is each part; for class k with its samples binned by $p_k$, and $\bar o$
    the share of samples that belong to it, $\sum_b \frac{|B_b|}{N} (\bar p_b - \bar o_b)^2$,
    $\sum_b \frac{|B_b|}{N} (\bar o_b - \bar o)^2$ and $\bar o (1 - \bar o)$. Murphy's identity in these three holds
    where the forecasts in a bin are equal, as for forecasts of a few fixed values. Of others the bins lose something,
    which is given as `within_bins`; with more bins it shrinks, while reliability grows by chance.

    Prefer it to ECE to say why one model scores better than another: temperature scaling moves reliability more
    than resolution.

    Args:
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)`):
            Softmax outputs; each row sums to 1.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of equal-width bins.

    Returns:
        [`BrierDecomposition`]

    Raises:
        ValueError: If shapes disagree, values are no probabilities, labels are out of range, or `n_bins < 1`.
        TypeError: If `n_bins` is not a whole number.

    Example:
    >>> parts = brier_decomposition([[0.8, 0.2]] * 4, [0, 0, 1, 1])
    >>> [round(value, 2) for value in (parts.brier, parts.reliability, parts.resolution, parts.uncertainty)]
    [0.68, 0.18, 0.0, 0.5]
    """
    n_bins = check_n_bins(n_bins)
    array, indices = check_probabilities(probabilities, labels)
    reliability = resolution = uncertainty = 0.0
    for label in range(array.shape[1]):
        forecasts, members = array[:, label].astype(np.float64), indices == label
        places = bin_indices(forecasts, n_bins)
        counts = np.bincount(places)
        filled = counts > 0
        counts = counts[filled]
        frequencies = np.bincount(places, members)[filled] / counts
        means = np.bincount(places, forecasts)[filled] / counts
        overall = members.mean()
        reliability += float(counts @ (means - frequencies) ** 2) / len(array)
        resolution += float(counts @ (frequencies - overall) ** 2) / len(array)
        uncertainty += float(overall * (1 - overall))
    brier = float(brier_of_samples(array, indices).mean())
    return BrierDecomposition(
        brier, reliability, resolution, uncertainty, brier - (reliability - resolution + uncertainty)
    )


def smooth_calibration_error(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """
    SmoothECE (Błasiok and Nakkiran, 2023): the calibration error of confidences smoothed by a kernel whose width is
    chosen by the error itself. Computed by its authors' package relplot, an optional requirement under Apple's own
    licence.

    Prefer it to ECE where jumps at the edges of bins are in the way: it has no bins to choose, changes continuously
    with the predictions, and is within constant factors of the distance to the nearest calibrated predictor.

    Args:
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)`):
            Softmax outputs; each row sums to 1.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.

    Returns:
        `float`: Fraction in `[0, 1]`; lower is better.

    Raises:
        ImportError: If relplot is not installed.
        ValueError: If shapes disagree, values are no probabilities, or labels are out of range.
    """
    confidences, correct = confidence_and_correct(*check_probabilities_and_maxima(probabilities, labels))
    try:
        from relplot import smECE
    except ImportError as error:
        raise ImportError("smooth_calibration_error needs the package relplot: pip install relplot") from error
    return float(smECE(np.minimum(confidences.astype(np.float64), 1.0), correct.astype(np.float64)))
