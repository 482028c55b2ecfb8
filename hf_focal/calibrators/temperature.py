# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Temperature scaling (Guo et al., 2017): one number that all logits are divided by."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..checks import row_blocks
from ..metrics.bins import bin_indices
from .base import Affine, Calibrator, register_calibrator


if TYPE_CHECKING:
    from torch import Tensor


GRID = np.arange(1, 101) / 10  # the paper's: (0, 10] in steps of 0.1
NLL_BOUNDS = (0.01, 100.0)
RANGE = (1e-3, 1e3)  # of any temperature
_CHUNK = 1 << 17  # logits handled at a time by the fits: their scratch memory stays in the cache


def check_temperature(value: Any, name: str = "temperature") -> float:
    """The value as a float if it can be a temperature, or a `ValueError`."""
    low, high = RANGE
    if isinstance(value, bool) or not isinstance(value, Real) or not value <= high or value < low:
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}], got {value!r}.")
    return float(value)


@register_calibrator
@dataclass(frozen=True)
class TemperatureScaling(Calibrator):
    """`softmax(logits / temperature)`; what either criterion takes is told by [`fit_temperature`]."""

    method: ClassVar[str] = "temperature"
    noun: ClassVar[str] = "temperature"
    stays: ClassVar[str] = "T stays 1"
    temperature: float = field(metadata={"check": check_temperature})

    @classmethod
    def fit(
        cls, logits: NDArray[Any], labels: NDArray[np.int64], *, criterion: str, n_bins: int
    ) -> TemperatureScaling:
        if criterion == "ece":
            return cls(_fit_ece(_margins(logits), logits.argmax(axis=1) == labels, n_bins))
        return cls(best_temperature(logits, labels))

    @classmethod
    def neutral(cls, num_labels: int) -> TemperatureScaling:
        return cls(1.0)

    def end_of_range(self, logits: NDArray[Any], labels: NDArray[np.int64], criterion: str, **options: Any) -> str:
        return end_of_range(self.temperature, criterion, lambda: best_temperature(logits, labels))

    def calibrated_logits(self, logits: NDArray[Any]) -> NDArray[Any]:
        return logits / self.temperature

    def on_tensor(self, logits: Tensor) -> Tensor:
        return logits / self.temperature

    def affine(self, num_labels: int) -> Affine:
        return Affine(1 / self.temperature)

    @property
    def softens(self) -> bool | None:
        return None if self.temperature == 1 else self.temperature > 1

    @property
    def named(self) -> str:
        return f"temperature {self.temperature:.4g}"

    @property
    def words(self) -> str:
        return f"The {self.named} {effect_of(self.temperature)}."

    def by_hand(self, place: str) -> str:
        return f": without `hf_focal`, divide them by the {self.named} of {place} first."

    def __str__(self) -> str:
        return f"T = {self.temperature:.4g}"


def best_temperature(logits: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """That of smallest NLL."""
    return _fit_nll(_margins(logits), labels)


def effect_of(temperature: float) -> str:
    """What dividing by it does, in words."""
    if temperature == 1:
        return "leaves its probabilities alone"
    return f"{'sharpens' if temperature < 1 else 'softens'} its probabilities"


def end_of_range(temperature: float, criterion: str, by_nll: Callable[[], float]) -> str:
    """
    The end of a sentence on a fitted temperature at an end of the range that the criterion searches, with the cause:
    data that determine nothing, or an optimum that is elsewhere, which `by_nll` finds. Else `""`.
    """
    ends = (GRID[0], GRID[-1]) if criterion == "ece" else NLL_BOUNDS
    if not _is_one_of(temperature, ends):
        return ""
    where = f"the best temperature, {temperature:g}, is at the end of the range searched, [{ends[0]:g}, {ends[1]:g}]"
    best = temperature if criterion == "nll" else by_nll()
    if _is_one_of(best, NLL_BOUNDS):
        cause = "the data do not determine it: more validation data, or a model that makes some mistakes on it, would"
    else:
        cause = "the ECE does not determine it" if ends[0] < best < ends[1] else "the optimum is outside"
        cause += f": the NLL is lowest near T = {best:.3g}, so use criterion='nll'"
    return f"{where}, and {cause}."


def _is_one_of(temperature: float, ends: tuple[float, float]) -> bool:
    return any(math.isclose(temperature, end, rel_tol=1e-4) for end in ends)


# Some rows of the logits, less the maximum of each, and the axis of their classes. A mask is finite here, since the
# fits multiply by it a weight of 0.
_Blocks = list[tuple[slice, NDArray[np.float64], int]]


def _margins(logits: NDArray[Any]) -> _Blocks:
    return [
        (block, np.maximum(values - values.max(axis=axis, keepdims=True), -1e300), axis)
        for block, values, axis in row_blocks(logits, np.float64, _CHUNK)
    ]


def _fit_ece(blocks: _Blocks, correct: NDArray[np.bool_], n_bins: int) -> float:
    errors, biases = np.full(len(GRID), np.inf), np.zeros(len(GRID))

    def bias(i: int) -> float:
        """Mean confidence less accuracy at one temperature of the grid, whose ECE is noted down."""
        if np.isinf(errors[i]):
            gaps = np.zeros(n_bins)
            for block, margins, axis in blocks:
                confidences = 1 / np.add.reduce(np.exp(margins / GRID[i]), axis=axis)
                gaps += np.bincount(bin_indices(confidences, n_bins), confidences - correct[block], n_bins)
            errors[i], biases[i] = np.abs(gaps).sum() / len(correct), gaps.sum() / len(correct)
        return float(biases[i])

    # The ECE is at least the size of the bias, and the bias falls as the temperature rises. So the search starts where
    # the bias changes sign and goes either way until the bias alone is worse than the best ECE so far.
    middle = bisect_left(range(len(GRID)), True, key=lambda i: bias(i) <= 0)
    for steps in (range(middle, len(GRID)), range(middle - 1, -1, -1)):
        for i in steps:
            if abs(bias(i)) > errors.min() + 1e-12:
                break
    return smallest_best(errors)


def smallest_best(errors: NDArray[np.float64]) -> float:
    """The smallest temperature of the grid whose error is lowest; sums that differ by rounding alone tie."""
    return float(GRID[np.argmax(errors <= errors.min() + 1e-14)])


def _fit_nll(blocks: _Blocks, labels: NDArray[np.int64]) -> float:
    total_true = sum(
        float(np.take_along_axis(margins, np.expand_dims(labels[block], axis), axis).sum())
        for block, margins, axis in blocks
    )

    def derivatives(inverse: float) -> tuple[float, float]:
        # First and second derivative of the summed NLL with respect to 1 / T, in which it is convex: the expected
        # logit less the logit of the true class, and the variance of the logit.
        slope, curvature = -total_true, 0.0
        for _, margins, axis in blocks:
            weights = np.exp(inverse * margins)
            sums = np.add.reduce(weights, axis=axis)
            weights *= margins
            means = np.add.reduce(weights, axis=axis) / sums
            weights *= margins
            slope += float(means.sum())
            curvature += float((np.add.reduce(weights, axis=axis) / sums - means**2).sum())
        return slope, curvature

    # Newton's method between two ends that close in; the ends of the range are tried before anything is halved.
    low, high = ends = 1 / NLL_BOUNDS[1], 1 / NLL_BOUNDS[0]
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
