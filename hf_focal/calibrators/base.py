# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Temperature scaling: fit a temperature on held-out logits. What a model does with it is in `folding`."""

from __future__ import annotations

import math
import warnings
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import softmax

from ..checks import check_gamma, check_logits, check_n_bins, row_blocks
from ..gamma import focal_log_probabilities, focal_recalibration
from ..metrics.base import calibration_metrics_from_logits
from ..metrics.bins import bin_indices, equal_width


CRITERIA = ("ece", "nll")
METHODS = ("temperature", "focal")
GRID = np.arange(1, 101) / 10  # the paper's: (0, 10] in steps of 0.1
NLL_BOUNDS = (0.01, 100.0)
GAMMA_GRID = np.arange(11.0)  # where the fit of focal temperature scaling looks first
FEW_SAMPLES = 200
_CHUNK = 1 << 17  # logits handled at a time by the fits: their scratch memory stays in the cache


@dataclass(frozen=True)
class TemperatureFit:
    """
    A fitted temperature and what it did to the data it was fitted on.

    Attributes:
        temperature (`float`):
            What to divide logits by: above 1 softens an over-confident model, below 1 sharpens an under-confident one.
        criterion (`str`):
            `"ece"` or `"nll"`.
        n_samples (`int`):
            Size of the data set it was fitted on.
        before, after (`dict[str, float]`):
            Every metric on that data set at temperature 1 and at the fitted one.
        method (`str`, *optional*, defaults to `"temperature"`):
            `"temperature"`, or `"focal"` where the bias of focal loss is undone after scaling.
        gamma (`float`, *optional*, defaults to `0.0`):
            The gamma of that bias.
    """

    temperature: float
    criterion: str
    n_samples: int
    before: dict[str, float]
    after: dict[str, float]
    method: str = "temperature"
    gamma: float = 0.0

    def probabilities(self, logits: ArrayLike) -> NDArray[np.float64]:
        """
        Calibrated probabilities: `softmax(logits / temperature)`, or [`focal_recalibration`] if `method` is `"focal"`.

        Args:
            logits (`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`):
                Raw scores of the same model, finite.

        Returns:
            `np.ndarray` of shape `(num_samples, num_labels)`: float64; rows sum to 1.
        """
        if self.method == "focal":
            return focal_recalibration(logits, self.gamma, self.temperature)
        array, _ = check_logits(logits)
        return softmax(array.astype(np.float64) / self.temperature, axis=1)


def fit_temperature(
    logits: ArrayLike,
    labels: ArrayLike,
    criterion: str = "ece",
    n_bins: int = 15,
    method: str = "temperature",
    gamma: float | None = None,
) -> TemperatureFit:
    """
    Fit the temperature of `softmax(logits / T)` on held-out data (Guo et al., 2017; Mukhoti et al., 2020, Section 5).

    Args:
        logits (`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`):
            Raw scores on data that the model was not trained on, finite.
        labels (`np.ndarray` or `torch.Tensor` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        criterion (`str`, *optional*, defaults to `"ece"`):
            `"ece"`: the temperature of smallest ECE among 0.1, 0.2, ..., 10, the smallest one where several tie (the
            paper's choice). `"nll"`: the minimiser of the negative log-likelihood over [0.01, 100], to machine
            precision, found as the zero of the derivative, which is monotone in 1 / T.
        n_bins (`int`, *optional*, defaults to `15`):
            Bins of the ECE, in the criterion and in the metrics before and after.
        method (`str`, *optional*, defaults to `"temperature"`):
            `"focal"` is focal temperature scaling (Komisarenko and Kull, 2024): a temperature, and then
            [`focal_recalibration`]. It serves models trained with focal loss, cannot be folded into a model, and may
            overfit small sets where gamma is fitted too.
        gamma (`float`, *optional*):
            Of method `"focal"`: the gamma that the model was trained with. By default it is fitted along with the
            temperature, in [0, 10] and by the NLL; the criterion `"ece"` then chooses the temperature anew.

    Returns:
        [`TemperatureFit`]

    Raises:
        ValueError: If the criterion or method is unknown, gamma is negative or not for this method, shapes disagree,
            logits are not finite, or labels are out of range.
        TypeError: If `n_bins` is not a whole number.

    Warns:
        UserWarning: If the optimum lies at an end of its range, or there are fewer than 200 samples.

    Example:
    >>> generator = np.random.default_rng(0)
    >>> logits = generator.normal(size=(2000, 3))
    >>> labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)  # drawn from softmax(logits)
    >>> 0.9 < fit_temperature(2 * logits, labels, criterion="nll").temperature / 2 < 1.1
    True
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}.")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    if gamma is not None and method != "focal":
        raise ValueError(f"gamma={gamma!r} is for method='focal' alone, got method={method!r}.")
    gamma = check_gamma(gamma) if gamma is not None else None
    n_bins = check_n_bins(n_bins)
    array, indices = check_logits(logits, labels)
    if len(array) < FEW_SAMPLES:
        warnings.warn(
            f"The temperature is fitted on {len(array)} samples; with fewer than {FEW_SAMPLES} it is mostly noise.",
            UserWarning,
            stacklevel=2,
        )
    ends = (GRID[0], GRID[-1]) if criterion == "ece" else NLL_BOUNDS
    if method == "focal":
        wide = array.astype(np.float64)
        if criterion == "ece":
            temperature, gamma = _fit_focal_ece(wide, indices, gamma, n_bins)
        else:
            temperature, gamma = _fit_focal_nll(wide, indices, gamma)
    elif criterion == "ece":
        temperature = _fit_ece(_margin_blocks(array, indices), array.argmax(axis=1) == indices, n_bins)
    else:
        temperature = _fit_nll(_margin_blocks(array, indices))
    if any(math.isclose(temperature, end, rel_tol=1e-4) for end in ends):
        warnings.warn(
            f"The best temperature, {temperature:g}, is at the end of the range searched, [{ends[0]:g}, {ends[1]:g}]: "
            "the data do not determine it. More validation data, or a model that makes some mistakes on it, would.",
            UserWarning,
            stacklevel=2,
        )
    return TemperatureFit(
        temperature=temperature,
        criterion=criterion,
        n_samples=len(array),
        before=calibration_metrics_from_logits(array, indices, n_bins),
        after=calibration_metrics_from_logits(array, indices, n_bins, temperature, gamma or 0.0),
        method=method,
        gamma=gamma or 0.0,
    )


_Blocks = list[tuple[NDArray[np.float64], NDArray[np.int64], int]]


def _margin_blocks(logits: NDArray[Any], labels: NDArray[np.int64]) -> _Blocks:
    """Blocks of rows with each row's maximum taken off, their labels, and the axis of the classes."""
    blocks = []
    for block, values, axis in row_blocks(logits, np.float64, _CHUNK):
        blocks.append((values - values.max(axis=axis, keepdims=True), labels[block], axis))
    return blocks


def _true_margins(margins: NDArray[np.float64], labels: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
    rows = np.arange(len(labels))
    return margins[rows, labels] if axis else margins[labels, rows]


def _fit_ece(blocks: _Blocks, correct: NDArray[np.bool_], n_bins: int) -> float:
    errors, biases = np.full(len(GRID), np.inf), np.zeros(len(GRID))

    def bias(i: int) -> float:
        """Mean confidence less accuracy at one temperature of the grid, whose ECE is noted down."""
        if np.isinf(errors[i]):
            gaps, start = np.zeros(n_bins), 0
            for margins, labels, axis in blocks:
                confidences = 1 / np.add.reduce(np.exp(margins / GRID[i]), axis=axis)
                hits = correct[start : start + len(labels)]
                gaps += np.bincount(bin_indices(confidences, n_bins), confidences - hits, n_bins)
                start += len(labels)
            errors[i], biases[i] = np.abs(gaps).sum() / len(correct), gaps.sum() / len(correct)
        return float(biases[i])

    # The ECE is at least the size of the bias, and the bias falls as the temperature rises. So the search starts where
    # the bias changes sign and goes either way until the bias alone is worse than the best ECE so far.
    middle = bisect_left(range(len(GRID)), True, key=lambda i: bias(i) <= 0)
    for steps in (range(middle, len(GRID)), range(middle - 1, -1, -1)):
        for i in steps:
            if abs(bias(i)) > errors.min() + 1e-12:
                break
    return _smallest_best(errors)


def _smallest_best(errors: NDArray[np.float64]) -> float:
    """The smallest temperature of the grid whose error is lowest; sums that differ by rounding alone tie."""
    return float(GRID[np.argmax(errors <= errors.min() + 1e-14)])


def _fit_nll(blocks: _Blocks) -> float:
    total_true = sum(float(_true_margins(*block).sum()) for block in blocks)

    def derivatives(inverse: float) -> tuple[float, float]:
        """
        First and second derivative of the summed NLL with respect to 1 / T, in which it is convex: the expected logit
        less the logit of the true class, and the variance of the logit.
        """
        slope, curvature = -total_true, 0.0
        for margins, _, axis in blocks:
            weights = np.exp(inverse * margins)
            sums = np.add.reduce(weights, axis=axis)
            weights *= margins
            means = np.add.reduce(weights, axis=axis) / sums
            weights *= margins
            slope += float(means.sum())
            curvature += float((np.add.reduce(weights, axis=axis) / sums - means**2).sum())
        return slope, curvature

    # Newton's method between two ends that close in; the ends of the range are tried before anything is halved.
    ends = 1 / NLL_BOUNDS[1], 1 / NLL_BOUNDS[0]
    low, high = ends
    untried, inverse = set(ends), 1.0
    for _ in range(200):
        slope, curvature = derivatives(inverse)
        untried.discard(inverse)
        # Flat where every sample is right beyond doubt, and more of it is no harm.
        rising = slope < 0 or slope == curvature == 0
        if inverse == ends[1] and rising:
            return NLL_BOUNDS[0]
        if inverse == ends[0] and not rising:  # even the flattest softmax is too sharp
            return NLL_BOUNDS[1]
        low, high = (inverse, high) if rising else (low, inverse)
        target = inverse - slope / curvature if curvature > 0 else math.inf if rising else 0.0
        if not low < target < high:
            end = high if rising else low
            target = end if end in untried else math.sqrt(low * high)
        if abs(target - inverse) <= 1e-13 * inverse or high - low <= 1e-13 * high:
            break
        inverse = target
    return 1 / target


def _fit_focal_ece(
    logits: NDArray[np.float64], labels: NDArray[np.int64], gamma: float | None, n_bins: int
) -> tuple[float, float]:
    correct = logits.argmax(axis=1) == labels
    gamma = _fit_focal_nll(logits, labels, None)[1] if gamma is None else gamma

    def error(temperature: float) -> float:
        confidences = np.exp(focal_log_probabilities(logits / temperature, gamma).max(axis=1))
        return equal_width(confidences, correct, n_bins).expected_error()

    return _smallest_best(np.array([error(temperature) for temperature in GRID])), gamma


def _fit_focal_nll(logits: NDArray[np.float64], labels: NDArray[np.int64], gamma: float | None) -> tuple[float, float]:
    rows = np.arange(len(labels))
    bounds = (math.log(NLL_BOUNDS[0]), math.log(NLL_BOUNDS[1]))

    def nll(log_temperature: float, gamma: float) -> float:
        return -float(focal_log_probabilities(logits / math.exp(log_temperature), gamma)[rows, labels].mean())

    def best(gamma: float) -> tuple[float, float, float]:
        fit = minimize_scalar(nll, bounds=bounds, args=(gamma,), method="bounded", options={"xatol": 1e-7})
        return float(fit.fun), float(fit.x), gamma

    if gamma is None:
        _, start, gamma = min(best(float(g)) for g in GAMMA_GRID)
        limits = [bounds, (float(GAMMA_GRID[0]), float(GAMMA_GRID[-1]))]
        fit = minimize(
            lambda x: nll(*x),
            [start, gamma],
            bounds=limits,
            method="Nelder-Mead",
            options={"xatol": 1e-7, "fatol": 1e-12},
        )
        return float(math.exp(fit.x[0])), float(fit.x[1])
    return float(math.exp(best(gamma)[1])), gamma


def describe_confidence(logits: ArrayLike, labels: ArrayLike, temperature: float) -> str:
    """
    One sentence on whether a model is over- or under-confident, and what the temperature does about it.

    Args:
        logits (`np.ndarray` of shape `(num_samples, num_labels)`):
            Raw scores before scaling.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices.
        temperature (`float`):
            The fitted temperature.

    Returns:
        `str`: Such as "Before scaling the model is over-confident: ...".
    """
    array, indices = check_logits(logits, labels)
    confidence = softmax(array.astype(np.float64), axis=1).max(axis=1).mean()
    share = np.mean(array.argmax(axis=1) == indices)
    if abs(confidence - share) < 0.005:
        verdict = "neither over- nor under-confident on average"
    else:
        verdict = "over-confident" if confidence > share else "under-confident"
    effect = "leaves its probabilities alone"
    if temperature != 1:
        effect = f"{'sharpens' if temperature < 1 else 'softens'} its probabilities"
    return (
        f"Before scaling the model is {verdict}: its mean confidence is {confidence:.1%} and it is right "
        f"{share:.1%} of the time. The temperature {temperature:.4g} {effect}."
    )
