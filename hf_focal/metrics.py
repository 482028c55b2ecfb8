# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Metrics of accuracy and calibration in NumPy, summed in float64.

They take probabilities, never logits, as arrays, lists or tensors. Confidence is the largest probability of a row and
the prediction is its class, the lowest one where several tie. Equal-width bins are `(lower, upper]` with float64 edges
`i / n_bins` and no tolerance; a value of 1 is in the last bin, a value of 0 in the first.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax


METRIC_KEYS = ("accuracy", "nll", "brier", "ece", "mce", "adaptive_ece", "classwise_ece")
_CHUNK = 1 << 20  # probabilities binned at a time in Classwise-ECE: bounds the scratch memory


# ---- Input ----------------------------------------------------------------------------------------------------------


def _to_numpy(name: str, value: Any) -> tuple[NDArray[Any], bool]:
    """The values as a real NumPy array, and whether they came in half precision."""
    half = False
    if hasattr(value, "detach"):  # a torch tensor; NumPy has no bfloat16
        half = str(value.dtype) in ("torch.float16", "torch.bfloat16")
        value = value.detach().cpu()
        value = value.float() if half else value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be a rectangular array of numbers, got rows of unequal length.") from error
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, got an array of dtype {array.dtype}.")
    return array, half or array.dtype == np.float16


def _check_rows(name: str, array: NDArray[Any]) -> None:
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape (num_samples, num_labels), got {array.shape}.")
    if array.shape[0] == 0:
        raise ValueError(f"{name} must hold at least one sample, got shape {array.shape}.")
    if array.shape[1] < 2:
        raise ValueError(
            f"{name} must have a column for each of at least 2 classes, got shape {array.shape}. For a binary "
            "classifier that gives one probability p, stack [1 - p, p]."
        )


def _check_labels(name: str, labels: Any, num_samples: int, num_labels: int) -> NDArray[np.int64]:
    array, _ = _to_numpy("labels", labels)
    if array.ndim != 1:
        raise ValueError(f"labels must have shape (num_samples,), got {array.shape}. Pass class indices, not one-hot.")
    if len(array) != num_samples:
        raise ValueError(f"{name} and labels must have the same length, got {num_samples} and {len(array)}.")
    if array.dtype.kind == "f" and not np.all(np.isfinite(array) & (array == np.floor(array))):
        raise ValueError("labels must be whole numbers, got NaN, infinity or a fraction.")
    if array.min() < 0 or array.max() >= num_labels:
        raise ValueError(
            f"labels must lie in [0, {num_labels - 1}] for {num_labels} columns, got values from {array.min()} to "
            f"{array.max()}. Remove ignored samples (-100) first."
        )
    return array.astype(np.int64)


def check_probabilities(probabilities: ArrayLike, labels: ArrayLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """
    The two as arrays of shapes `(num_samples, num_labels)` and `(num_samples,)`, or a `ValueError` that names the
    argument, what was found and what is needed.
    """
    array, half = _to_numpy("probabilities", probabilities)
    array = array if array.dtype.kind == "f" else array.astype(np.float64)
    _check_rows("probabilities", array)
    with np.errstate(invalid="ignore"):  # inf - inf: reported below
        sums = array.sum(axis=1, dtype=np.float32 if half else None)
    if not np.all(np.isfinite(sums)) and not np.all(np.isfinite(array)):
        raise ValueError("probabilities must be finite, got NaN or infinity.")
    tolerance = 1e-2 if half else 1e-3
    worst = int(np.argmax(np.abs(sums - 1)))
    lowest = array.min()
    if lowest < 0 or abs(sums[worst] - 1) > tolerance:
        found = f"a value of {lowest:g}" if lowest < 0 else f"row {worst}, which sums to {sums[worst]:g}"
        raise ValueError(
            f"probabilities must not be negative and each row must sum to 1 within {tolerance:g}, got {found}. "
            "If these are logits, apply a softmax over the classes first."
        )
    return array, _check_labels("probabilities", labels, *array.shape)


def check_logits(logits: ArrayLike, labels: ArrayLike | None = None) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """As [`check_probabilities`], for logits: any finite values. Without labels the second array is empty."""
    array, _ = _to_numpy("logits", logits)
    array = array if array.dtype.kind == "f" else array.astype(np.float64)
    _check_rows("logits", array)
    if not np.all(np.isfinite(array)):
        raise ValueError("logits must be finite, got NaN or infinity.")
    return array, np.empty(0, np.int64) if labels is None else _check_labels("logits", labels, *array.shape)


def check_n_bins(n_bins: Any) -> int:
    """`n_bins` as an `int` of at least 1; `TypeError` or `ValueError` otherwise."""
    try:
        count = operator.index(n_bins)
    except TypeError:
        count = None
    if count is None or isinstance(n_bins, (bool, np.bool_)):
        raise TypeError(f"n_bins must be a whole number, got {n_bins!r}.")
    if count < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins!r}.")
    return count


# ---- Bins -----------------------------------------------------------------------------------------------------------


def _bin_indices(values: NDArray[np.float64], n_bins: int) -> NDArray[np.intp]:
    """Index of the bin (i / n_bins, (i + 1) / n_bins] that holds each value; the first also holds 0."""
    edges = np.arange(n_bins + 1) / n_bins
    upper = np.clip(np.ceil(values * n_bins).astype(np.intp), 1, n_bins)
    # The product may round across an edge, by one bin at the most.
    upper -= (values <= edges[upper - 1]) & (upper > 1)
    upper += (values > edges[upper]) & (upper < n_bins)
    return upper - 1


@dataclass(frozen=True)
class BinStatistics:
    """
    What reliability diagrams and calibration errors are made of: per bin, how many samples, how confident, how right.

    Attributes:
        edges (`np.ndarray` of shape `(n_bins + 1,)`):
            Equal-width edges `i / n_bins`; for equal-mass bins the smallest confidence of each bin, then the largest
            of all.
        counts (`np.ndarray` of shape `(n_bins,)`):
            Number of samples.
        confidence_sums, correct_sums (`np.ndarray` of shape `(n_bins,)`):
            Sum of confidences, number of right predictions.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    confidence_sums: NDArray[np.float64]
    correct_sums: NDArray[np.float64]

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Mean confidence of each bin; NaN where it is empty."""
        return self._mean(self.confidence_sums)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Share of right predictions in each bin; NaN where it is empty."""
        return self._mean(self.correct_sums)

    def _mean(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.divide(sums, self.counts, out=np.full(len(sums), np.nan), where=self.counts > 0)

    def expected_error(self) -> float:
        """Mean over samples of the gap of their bin."""
        return float(np.abs(self.correct_sums - self.confidence_sums).sum() / self.counts.sum())

    def maximum_error(self) -> float:
        """Largest gap of a bin that is not empty."""
        return float(np.nanmax(np.abs(self.accuracy - self.confidence)))


def _confidence_and_correct(
    probabilities: NDArray[Any], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    predictions = probabilities.argmax(axis=1)
    confidences = np.take_along_axis(probabilities, predictions[:, None], axis=1)[:, 0]
    return confidences.astype(np.float64), predictions == labels


def _equal_width(confidences: NDArray[np.float64], correct: NDArray[np.bool_], n_bins: int) -> BinStatistics:
    indices = _bin_indices(confidences, n_bins)
    return BinStatistics(
        edges=np.arange(n_bins + 1) / n_bins,
        counts=np.bincount(indices, minlength=n_bins),
        confidence_sums=np.bincount(indices, confidences, n_bins),
        correct_sums=np.bincount(indices[correct], minlength=n_bins).astype(np.float64),
    )


def _equal_mass(confidences: NDArray[np.float64], correct: NDArray[np.bool_], n_bins: int) -> BinStatistics:
    order = np.argsort(confidences, kind="stable")
    confidences = confidences[order]
    # The sizes of numpy.array_split; with fewer samples than bins the bins of size 0 are left out.
    size, larger = divmod(len(order), n_bins)
    counts = np.array([size + 1] * larger + ([size] * (n_bins - larger) if size else []))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return BinStatistics(
        edges=np.append(confidences[starts], confidences[-1]),
        counts=counts,
        confidence_sums=np.add.reduceat(confidences, starts),
        correct_sums=np.add.reduceat(correct[order].astype(np.float64), starts),
    )


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
    pair = _confidence_and_correct(*check_probabilities(probabilities, labels))
    return (_equal_mass if adaptive else _equal_width)(*pair, n_bins)


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
    return _accuracy(*check_probabilities(probabilities, labels))


def _accuracy(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> float:
    return float(np.mean(probabilities.argmax(axis=1) == labels))


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
    true = np.take_along_axis(probabilities, labels[:, None], axis=1).astype(np.float64)
    with np.errstate(divide="ignore"):
        return float(-np.log(true).mean() + 0.0)  # + 0.0: no negative zero


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
    array, indices = check_logits(logits, labels)
    return _nll_from_log_probabilities(log_softmax(array.astype(np.float64), axis=1), indices)


def _nll_from_log_probabilities(log_probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    return float(-np.take_along_axis(log_probabilities, labels[:, None], axis=1).mean() + 0.0)


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
    true = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0].astype(np.float64)
    squares = np.einsum("ij,ij->i", probabilities, probabilities, dtype=np.float64)
    return float(np.mean(squares - 2 * true + 1))


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> float:
    r"""
    Weighted mean gap between accuracy and confidence over equal-width bins.

    $\sum_b \frac{|B_b|}{N} |\mathrm{acc}(B_b) - \mathrm{conf}(B_b)|$ (Naeini et al., 2015; Mukhoti et al., 2020,
    Section 2). Bins are `(lower, upper]`; empty bins count for nothing.

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
    return _classwise(*check_probabilities(probabilities, labels), n_bins)


def _classwise(probabilities: NDArray[Any], labels: NDArray[np.int64], n_bins: int) -> float:
    num_samples, num_labels = probabilities.shape
    gaps = np.zeros(num_labels * n_bins)
    offsets = np.arange(num_labels) * n_bins
    rows = max(1, _CHUNK // num_labels)
    for start in range(0, num_samples, rows):
        chunk = probabilities[start : start + rows].astype(np.float64)
        chunk_labels = labels[start : start + rows]
        indices = _bin_indices(chunk, n_bins) + offsets
        gaps -= np.bincount(indices.ravel(), chunk.ravel(), len(gaps))
        gaps += np.bincount(indices[np.arange(len(chunk)), chunk_labels], minlength=len(gaps))
    return float(np.abs(gaps).sum() / (num_samples * num_labels))


# ---- All of them ----------------------------------------------------------------------------------------------------


def _all_but_nll(probabilities: NDArray[Any], labels: NDArray[np.int64], n_bins: int) -> dict[str, float]:
    pair = _confidence_and_correct(probabilities, labels)
    bins = _equal_width(*pair, n_bins)
    return {
        "accuracy": float(pair[1].mean()),
        "brier": _brier(probabilities, labels),
        "ece": bins.expected_error(),
        "mce": bins.maximum_error(),
        "adaptive_ece": _equal_mass(*pair, n_bins).expected_error(),
        "classwise_ece": _classwise(probabilities, labels, n_bins),
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
    array, indices = check_probabilities(probabilities, labels)
    return _in_order({"nll": _nll(array, indices), **_all_but_nll(array, indices, n_bins)})


def calibration_metrics_from_logits(
    logits: ArrayLike, labels: ArrayLike, n_bins: int = 15, temperature: float = 1.0
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

    Returns:
        `dict[str, float]`: `accuracy`, `nll`, `brier`, `ece`, `mce`, `adaptive_ece`, `classwise_ece`.

    Raises:
        ValueError: If shapes disagree, logits are not finite, labels are out of range, or `n_bins < 1`.
        TypeError: If `n_bins` is not a whole number.
    """
    n_bins = check_n_bins(n_bins)
    array, indices = check_logits(logits, labels)
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature!r}.")
    log_probabilities = log_softmax(array.astype(np.float64) / temperature, axis=1)
    nll = _nll_from_log_probabilities(log_probabilities, indices)
    return _in_order({"nll": nll, **_all_but_nll(np.exp(log_probabilities), indices, n_bins)})


def _in_order(values: Mapping[str, float]) -> dict[str, float]:
    return {key: values[key] for key in METRIC_KEYS}


def compute_metrics(eval_prediction: Any, n_bins: int = 15) -> dict[str, float]:
    """
    `Trainer(compute_metrics=compute_metrics)`: every metric of a sequence, image or token classifier.

    Args:
        eval_prediction (`transformers.EvalPrediction`):
            `predictions` are logits of shape `(N, K)` or `(N, T, K)`, or a tuple led by them; `label_ids` of shape
            `(N,)` or `(N, T)`. Labels of -100 are left out.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins; `functools.partial` sets another.

    Returns:
        `dict[str, float]`: `accuracy`, `nll`, `brier`, `ece`, `mce`, `adaptive_ece`, `classwise_ece`.
    """
    return calibration_metrics_from_logits(*flatten_predictions(eval_prediction), n_bins=n_bins)


def flatten_predictions(eval_prediction: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Logits `(M, K)` and labels `(M,)` of what a `Trainer` predicted, labels of -100 left out."""
    logits, labels = eval_prediction.predictions, eval_prediction.label_ids
    if isinstance(logits, (tuple, list)):
        logits = logits[0]
    if isinstance(labels, (tuple, list)):
        labels = labels[0]
    logits, _ = _to_numpy("predictions", logits)
    labels, _ = _to_numpy("label_ids", labels)
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"label_ids must have shape {logits.shape[:-1]} to go with predictions of shape {logits.shape}, got "
            f"{labels.shape}. Predictions must be logits: leave preprocess_logits_for_metrics unset."
        )
    logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    kept = labels != -100
    return (logits, labels) if kept.all() else (logits[kept], labels[kept])
