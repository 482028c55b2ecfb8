# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Metrics of accuracy and calibration in NumPy, summed in float64.

They take probabilities, never logits, as arrays, lists or tensors. Confidence is the largest probability of a row and
the prediction is its class, the lowest one where several tie. Equal-width bins are `(lower, upper]` with float64 edges
`i / n_bins` and no tolerance; a value of 1 is in the last bin, a value of 0 in the first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import (
    check_gamma,
    check_logits,
    check_n_bins,
    check_positive,
    check_probabilities,
    check_probabilities_and_maxima,
    row_blocks,
    row_maxima,
)
from ..gamma import focal_log_probabilities
from ..predictions import Predictions
from .bins import BinStatistics, bin_indices, confidence_and_correct, equal_mass, equal_width, true_values


METRIC_KEYS = ("accuracy", "nll", "brier", "ece", "mce", "adaptive_ece", "classwise_ece")
_CHUNK = 1 << 18  # probabilities binned at a time in Classwise-ECE: they stay in the cache


def bin_statistics(
    probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15, adaptive: bool = False
) -> BinStatistics:
    """
    Count, confidence and accuracy per bin of confidence.

    Args:
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)`):
            Softmax outputs; each row sums to 1.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.
        adaptive (`bool`, *optional*, defaults to `False`):
            Bins of equal mass, as in [`adaptive_calibration_error`], in place of equal width.

    Returns:
        [`BinStatistics`]

    Raises:
        ValueError: If shapes disagree, values are no probabilities, labels are out of range, or `n_bins < 1`.
        TypeError: If `n_bins` is not a whole number.
    """
    n_bins = check_n_bins(n_bins)
    pair = confidence_and_correct(*check_probabilities_and_maxima(probabilities, labels))
    return (equal_mass if adaptive else equal_width)(*pair, n_bins)


# ---- Metrics --------------------------------------------------------------------------------------------------------


def accuracy(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """
    Share of samples whose largest probability is that of the true class; ties go to the lowest class.

    Args:
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)`):
            Softmax outputs; each row sums to 1.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.

    Returns:
        `float`: Fraction in `[0, 1]`; higher is better.

    Raises:
        ValueError: If shapes disagree, values are no probabilities, or labels are out of range.

    Example:
    >>> accuracy([[0.8, 0.2], [0.6, 0.4]], [0, 1])
    0.5
    """
    _, correct = confidence_and_correct(*check_probabilities_and_maxima(probabilities, labels))
    return float(correct.mean())


def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike) -> float:
    r"""
    Mean of $-\log p_y$. It is infinite where a true class has probability 0, and never clipped; where logits are at
    hand [`negative_log_likelihood_from_logits`] loses nothing to rounding.

    Args:
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)`):
            Softmax outputs; each row sums to 1.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.

    Returns:
        `float`: Nats per sample; lower is better.

    Raises:
        ValueError: If shapes disagree, values are no probabilities, or labels are out of range.

    Example:
    >>> round(negative_log_likelihood([[0.5, 0.5]], [1]), 4)
    0.6931
    """
    return _nll(*check_probabilities(probabilities, labels))


def _nll(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> float:
    return float(nll_of_samples(probabilities, labels).mean() + 0.0)  # + 0.0: no negative zero


def nll_of_samples(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return -np.log(true_values(probabilities, labels).astype(np.float64))


def negative_log_likelihood_from_logits(logits: ArrayLike, labels: ArrayLike) -> float:
    r"""
    Mean of $\log \sum_k e^{z_k} - z_y$ in float64: finite however small the probability of the true class.

    Args:
        logits (`np.ndarray` of shape `(num_samples, num_labels)`):
            Raw scores, finite.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.

    Returns:
        `float`: Nats per sample; lower is better.

    Raises:
        ValueError: If shapes disagree, logits are not finite, or labels are out of range.

    Example:
    >>> negative_log_likelihood_from_logits([[0.0, 1000.0]], [0])
    1000.0
    """
    return float(softmax_and_nll(*check_logits(logits, labels))[1].mean() + 0.0)


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    r"""
    Mean of $\sum_k (p_k - [k = y])^2$ (Brier, 1950), for any number of classes; not divided by it.

    Args:
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)`):
            Softmax outputs; each row sums to 1.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.

    Returns:
        `float`: In `[0, 2]`; lower is better.

    Raises:
        ValueError: If shapes disagree, values are no probabilities, or labels are out of range.

    Example:
    >>> round(brier_score([[0.8, 0.2]], [0]), 2)
    0.08
    """
    return _brier(*check_probabilities(probabilities, labels))


def _brier(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> float:
    return float(brier_of_samples(probabilities, labels).mean())


def brier_of_samples(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    scores = np.empty(len(probabilities))
    for block, values, axis in row_blocks(probabilities, np.float64):
        np.add.reduce(values * values, axis=axis, out=scores[block])
    scores -= 2 * true_values(probabilities, labels).astype(np.float64)
    return scores + 1


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> float:
    r"""
    Weighted mean gap between accuracy and confidence over equal-width bins.

    $\sum_b \frac{|B_b|}{N} |\mathrm{acc}(B_b) - \mathrm{conf}(B_b)|$ (Naeini et al., 2015; Mukhoti et al., 2020,
    Section 2). Bins are `(lower, upper]`; empty bins count for nothing. What to prefer to it, and when, is said in
    `hf_focal.measures`.

    Args:
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)`):
            Softmax outputs; each row sums to 1.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.

    Returns:
        `float`: Fraction in `[0, 1]`; lower is better.

    Raises:
        ValueError: If shapes disagree, values are no probabilities, labels are out of range, or `n_bins < 1`.
        TypeError: If `n_bins` is not a whole number.

    Example:
    >>> round(expected_calibration_error([[0.8, 0.2]], [0]), 2)
    0.2
    """
    return bin_statistics(probabilities, labels, n_bins).expected_error()


def maximum_calibration_error(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> float:
    r"""
    Largest gap between accuracy and confidence over equal-width bins that are not empty (Naeini et al., 2015; Mukhoti
    et al., 2020, Section 2). One sample in a bin of its own can set it.

    Args:
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)`):
            Softmax outputs; each row sums to 1.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.

    Returns:
        `float`: Fraction in `[0, 1]`; lower is better.

    Raises:
        ValueError: If shapes disagree, values are no probabilities, labels are out of range, or `n_bins < 1`.
        TypeError: If `n_bins` is not a whole number.

    Example:
    >>> round(maximum_calibration_error([[0.8, 0.2], [0.6, 0.4]], [0, 1]), 2)
    0.6
    """
    return bin_statistics(probabilities, labels, n_bins).maximum_error()


def adaptive_calibration_error(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> float:
    r"""
    Expected calibration error over bins of equal mass (AdaECE; Nguyen and O'Connor, 2015; Mukhoti et al., 2020,
    Section 2).

    Samples are sorted by confidence (a stable sort, so tied samples keep their order) and cut as by
    `numpy.array_split`: the first `N mod n_bins` bins, those of lowest confidence, hold one sample more. The paper's
    published code drops the sample of lowest confidence and merges bins that tie; this does neither.

    Args:
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)`):
            Softmax outputs; each row sums to 1.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.

    Returns:
        `float`: Fraction in `[0, 1]`; lower is better.

    Raises:
        ValueError: If shapes disagree, values are no probabilities, labels are out of range, or `n_bins < 1`.
        TypeError: If `n_bins` is not a whole number.

    Example:
    >>> round(adaptive_calibration_error([[0.8, 0.2], [0.6, 0.4]], [0, 1], n_bins=1), 2)
    0.2
    """
    return bin_statistics(probabilities, labels, n_bins, adaptive=True).expected_error()


def classwise_calibration_error(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> float:
    r"""
    Calibration error of every class's probability, not of the largest alone (Classwise-ECE; Kull et al., 2019; Mukhoti
    et al., 2020, Section 2).

    $\frac{1}{K} \sum_k \sum_b \frac{|B_{bk}|}{N} |A_{bk} - C_{bk}|$: for each class all samples are binned by its
    probability, A is the share of them that belong to the class, C its mean probability. K is the number of columns
    and no sample is left out; the paper's published code takes the largest label plus one for K and drops p = 0.

    Args:
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)`):
            Softmax outputs; each row sums to 1.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.

    Returns:
        `float`: Fraction in `[0, 1]`; lower is better.

    Raises:
        ValueError: If shapes disagree, values are no probabilities, labels are out of range, or `n_bins < 1`.
        TypeError: If `n_bins` is not a whole number.

    Example:
    >>> round(classwise_calibration_error([[0.8, 0.2]], [0]), 2)
    0.2
    """
    n_bins = check_n_bins(n_bins)
    return classwise_error(*check_probabilities(probabilities, labels), n_bins)


def classwise_error(probabilities: NDArray[Any], labels: NDArray[np.int64], n_bins: int) -> float:
    gaps = classwise_gaps(probabilities, labels, n_bins)
    return float(np.abs(gaps).sum() / probabilities.size)


def classwise_gaps(probabilities: NDArray[Any], labels: NDArray[np.int64], n_bins: int) -> NDArray[np.float64]:
    """Per class and bin `(num_labels, n_bins)`: number of samples of the class less the sum of its probabilities."""
    num_labels = probabilities.shape[1]
    gaps = np.zeros(num_labels * n_bins)
    totals = np.bincount(labels, minlength=num_labels).astype(np.float64)
    # Most probabilities are in the first bin, whose gap is the gap of the whole class less those of the other bins.
    for _, values, axis in row_blocks(probabilities, np.float64, _CHUNK):
        totals -= values.sum(axis=1 - axis)
        above = values > 1 / n_bins
        places = np.flatnonzero(above)
        if axis:
            offsets = places % num_labels * n_bins
        else:
            offsets = np.repeat(np.arange(0, len(gaps), n_bins), np.count_nonzero(above, axis=1))
        chosen = values.reshape(-1).take(places)
        gaps -= np.bincount(offsets + bin_indices(chosen, n_bins), chosen, len(gaps))
    true_bins = bin_indices(true_values(probabilities, labels).astype(np.float64), n_bins)
    gaps += np.bincount(labels * n_bins + true_bins, minlength=len(gaps))
    gaps = gaps.reshape(num_labels, n_bins)
    gaps[:, 0] = totals - gaps[:, 1:].sum(axis=1)
    return gaps


def softmax_and_nll(
    logits: NDArray[Any], labels: NDArray[np.int64], temperature: float = 1.0, gamma: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities at a temperature and gamma, and the NLL of each sample, in float64."""
    probabilities, nll = np.empty(logits.shape), np.empty(len(logits))
    for block, values, axis in row_blocks(logits, np.float64):
        if gamma:
            log_probabilities = focal_log_probabilities((values if axis else values.T) / temperature, gamma)
            probabilities[block] = np.exp(log_probabilities)
            nll[block] = -log_probabilities[np.arange(len(log_probabilities)), labels[block]]
            continue
        margins = values - values.max(axis=axis, keepdims=True)
        margins /= temperature
        weights = np.exp(margins)
        sums = weights.sum(axis=axis, keepdims=True)
        weights /= sums
        weights, margins = (weights, margins) if axis else (weights.T, margins.T)
        probabilities[block] = weights
        nll[block] = np.log(sums).ravel() - margins[np.arange(len(margins)), labels[block]]
    return probabilities, nll


# ---- All of them ----------------------------------------------------------------------------------------------------


def _metrics(
    probabilities: NDArray[Any], labels: NDArray[np.int64], maxima: NDArray[Any], nll: float, n_bins: int
) -> dict[str, float]:
    confidences, correct = confidence_and_correct(probabilities, labels, maxima)
    bins = equal_width(confidences, correct, n_bins)
    return {
        "accuracy": float(correct.mean()),
        "nll": nll,
        "brier": _brier(probabilities, labels),
        "ece": bins.expected_error(),
        "mce": bins.maximum_error(),
        "adaptive_ece": equal_mass(confidences, correct, n_bins).expected_error(),
        "classwise_ece": classwise_error(probabilities, labels, n_bins),
    }


def calibration_metrics(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> dict[str, float]:
    """
    Every metric of this module.

    Args:
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)`):
            Softmax outputs; each row sums to 1.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.

    Returns:
        `dict[str, float]`: `accuracy`, `nll`, `brier`, `ece`, `mce`, `adaptive_ece`, `classwise_ece`.

    Raises:
        ValueError: If shapes disagree, values are no probabilities, labels are out of range, or `n_bins < 1`.
        TypeError: If `n_bins` is not a whole number.
    """
    n_bins = check_n_bins(n_bins)
    array, indices, maxima = check_probabilities_and_maxima(probabilities, labels)
    return _metrics(array, indices, maxima, _nll(array, indices), n_bins)


def calibration_metrics_from_logits(
    logits: ArrayLike, labels: ArrayLike, n_bins: int = 15, temperature: float = 1.0, gamma: float = 0.0
) -> dict[str, float]:
    """
    As [`calibration_metrics`], of `softmax(logits / temperature)` in float64, with the NLL from the logits.

    Args:
        logits (`np.ndarray` of shape `(num_samples, num_labels)`):
            Raw scores, finite.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.
        temperature (`float`, *optional*, defaults to `1.0`):
            What the logits are divided by; positive.
        gamma (`float`, *optional*, defaults to `0.0`):
            Above 0: undo the bias of focal loss of this gamma, see [`focal_recalibration`].

    Returns:
        `dict[str, float]`: `accuracy`, `nll`, `brier`, `ece`, `mce`, `adaptive_ece`, `classwise_ece`.

    Raises:
        ValueError: If shapes disagree, logits are not finite, labels are out of range, the temperature is not
            positive, gamma is negative, or `n_bins < 1`.
        TypeError: If `n_bins` is not a whole number.
    """
    n_bins = check_n_bins(n_bins)
    temperature, gamma = check_positive("temperature", temperature), check_gamma(gamma)
    array, indices = check_logits(logits, labels)
    scaled, nll = softmax_and_nll(array, indices, temperature, gamma)
    return _metrics(scaled, indices, row_maxima(scaled), float(nll.mean() + 0.0), n_bins)


def compute_metrics(eval_prediction: Any, n_bins: int = 15, compute_result: bool | None = None) -> dict[str, float]:
    """
    `Trainer(compute_metrics=compute_metrics)`: every metric of a sequence, image or token classifier.

    With `TrainingArguments(batch_eval_metrics=True)` the logits of no more than one batch are held, and AdaECE is that
    of [`CalibrationAccumulator`]. The batches are then added up in this module until the last one: after an evaluation
    that was broken off, or for two at a time, give a [`BatchMetrics`] of their own.

    Args:
        eval_prediction (`transformers.EvalPrediction`):
            `predictions` are logits of shape `(N, K)` or `(N, T, K)`, or a tuple led by them; `label_ids` of shape
            `(N,)` or `(N, T)`. Labels of -100 are left out.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins; `functools.partial` sets another.
        compute_result (`bool`, *optional*):
            Set by the `Trainer` under `batch_eval_metrics`: whether this batch is the last.

    Returns:
        `dict[str, float]`: `accuracy`, `nll`, `brier`, `ece`, `mce`, `adaptive_ece`, `classwise_ece`; of a batch that
        is not the last, nothing.
    """
    if compute_result is None:
        predictions = Predictions.of_output(eval_prediction)
        return calibration_metrics_from_logits(predictions.logits, predictions.labels, n_bins=n_bins)
    from .accumulator import BatchMetrics

    return _BATCHES.setdefault(check_n_bins(n_bins), BatchMetrics(n_bins))(eval_prediction, compute_result)


_BATCHES: dict[int, Any] = {}  # by number of bins, what compute_metrics has seen of an evaluation
