# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Temperature scaling (Guo et al., 2017): one number that all logits are divided by."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..checks import IGNORED, row_blocks
from ..metrics.bins import bin_indices
from .base import SIGMOID, Affine, Calibrator, register_calibrator


if TYPE_CHECKING:
    from torch import Tensor


GRID = np.arange(1, 101) / 10  # the paper's: (0, 10] in steps of 0.1
NLL_BOUNDS = (0.01, 100.0)
RANGE = (1e-3, 1e3)  # of any temperature
_CHUNK = 1 << 17  # logits handled at a time by the fits: their scratch memory stays in the cache
_KEPT = 1 << 22  # logits up to which float64 copies are kept from step to step; of more a part tells where to begin
_AHEAD = 3  # temperatures that are tried together where copies are not kept


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
            return cls(_best_by_ece(logits, labels, n_bins))
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


@register_calibrator
@dataclass(frozen=True)
class SigmoidTemperature(TemperatureScaling):
    """`sigmoid(logits / temperature)`: one temperature for all labels of a head, that of smallest NLL."""

    activation: ClassVar[str] = SIGMOID
    criteria: ClassVar[tuple[str, ...]] = ("nll",)

    @classmethod
    def fit(
        cls, logits: NDArray[Any], labels: NDArray[np.int64], *, criterion: str, n_bins: int
    ) -> SigmoidTemperature:
        return cls(best_temperature(*_as_pairs(logits, labels)))

    def end_of_range(self, logits: NDArray[Any], labels: NDArray[np.int64], criterion: str, **options: Any) -> str:
        return end_of_range(self.temperature, "nll", lambda: self.temperature)


def _as_pairs(logits: NDArray[Any], labels: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Each known output as a case of two classes, no and yes, of which no has the logit 0."""
    known = labels != IGNORED
    scores = logits[known]
    return np.stack([np.zeros_like(scores), scores], axis=1), labels[known]


def best_temperature(logits: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """That of smallest NLL."""
    step = -(-logits.size // _KEPT)
    start = 1.0 if step == 1 else 1 / _fit_nll(_Margins(logits[::step]), labels[::step])
    return _fit_nll(_Margins(logits), labels, start)


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


class _Margins:
    """
    Some rows of the logits at a time, less the maximum of each, and the axis of their classes. A mask is finite here,
    since the fits multiply by it a weight of 0.
    """

    def __init__(self, logits: NDArray[Any]) -> None:
        self._logits, self.is_kept = logits, logits.size <= _KEPT
        self._kept = list(self._made()) if self.is_kept else []

    def __iter__(self) -> Iterator[tuple[slice, NDArray[np.float64], int]]:
        return iter(self._kept) if self.is_kept else self._made()

    def _made(self) -> Iterator[tuple[slice, NDArray[np.float64], int]]:
        for block, values, axis in row_blocks(self._logits, np.float64, _CHUNK):
            margins = values - values.max(axis=axis, keepdims=True)
            yield block, np.maximum(margins, -1e300, out=margins), axis


def _best_by_ece(logits: NDArray[Any], labels: NDArray[np.int64], n_bins: int) -> float:
    step, correct = -(-logits.size // _KEPT), np.empty(len(labels), bool)
    for block, values, axis in row_blocks(logits, logits.dtype):
        correct[block] = values.argmax(axis=axis) == labels[block]
    middle = None if step == 1 else _ErrorsOfGrid(_Margins(logits[::step]), correct[::step], n_bins).middle()
    return _ErrorsOfGrid(_Margins(logits), correct, n_bins).best(middle)


class _ErrorsOfGrid:
    """The ECE at temperatures of the grid, worked out where it is asked for."""

    def __init__(self, blocks: _Margins, correct: NDArray[np.bool_], n_bins: int) -> None:
        self._blocks, self._correct, self._n_bins = blocks, correct, n_bins
        self._errors, self._biases = np.full(len(GRID), np.inf), np.zeros(len(GRID))

    def _bias(self, i: int, others: Iterable[int] = ()) -> float:
        """Mean confidence less accuracy at a temperature, whose ECE is noted down; if need be with those of others."""
        if np.isinf(self._errors[i]):
            self._note([one for one in (i, *others) if np.isinf(self._errors[one])])
        return float(self._biases[i])

    def _note(self, places: Sequence[int]) -> None:
        gaps, count = np.zeros((len(places), self._n_bins)), len(self._correct)
        for block, margins, axis in self._blocks:
            weights = np.empty_like(margins)
            for row, i in zip(gaps, places, strict=True):
                np.exp(np.divide(margins, GRID[i], out=weights), out=weights)
                confidences = 1 / np.add.reduce(weights, axis=axis)
                off = confidences - self._correct[block]
                row += np.bincount(bin_indices(confidences, self._n_bins), off, self._n_bins)
        for row, i in zip(gaps, places, strict=True):
            self._errors[i], self._biases[i] = np.abs(row).sum() / count, row.sum() / count

    def middle(self, guess: int | None = None) -> int:
        """The first temperature at which the bias, which falls as they rise, is not above 0; near a guess."""
        if guess is None:
            return bisect_left(range(len(GRID)), True, key=lambda i: self._bias(i) <= 0)
        self._note(range(max(guess - 1, 0), min(guess + 2, len(GRID))))
        while guess < len(GRID) and self._bias(guess, range(guess, len(GRID))[1:_AHEAD]) > 0:
            guess += 1
        while guess > 0 and self._bias(guess - 1, range(guess - 1)[1 - _AHEAD :]) <= 0:
            guess -= 1
        return guess

    def best(self, guess: int | None = None) -> float:
        """The temperature of smallest ECE, where the bias changes its sign near a guess."""
        # The ECE is at least the size of the bias. So the search starts where the bias changes sign and goes either
        # way until the bias alone is worse than the best ECE so far.
        middle, ahead = self.middle(guess), 1 if guess is None else _AHEAD
        for steps in (range(middle, len(GRID)), range(middle - 1, -1, -1)):
            for place, i in enumerate(steps):
                if abs(self._bias(i, steps[place + 1 : place + ahead])) > self._errors.min() + 1e-12:
                    break
        return smallest_best(self._errors)


def smallest_best(errors: NDArray[np.float64]) -> float:
    """The smallest temperature of the grid whose error is lowest; sums that differ by rounding alone tie."""
    return float(GRID[np.argmax(errors <= errors.min() + 1e-14)])


def _fit_nll(blocks: _Margins, labels: NDArray[np.int64], start: float = 1.0) -> float:
    total_true = sum(
        float(np.take_along_axis(margins, np.expand_dims(labels[block], axis), axis).sum())
        for block, margins, axis in blocks
    )

    def derivatives(inverse: float) -> tuple[float, float, float]:
        # The first three derivatives of the summed NLL with respect to 1 / T, in which it is convex: the expected
        # logit less the logit of the true class, the variance of the logit, and its third central moment.
        slope, curvature, skew = -total_true, 0.0, 0.0
        for _, margins, axis in blocks:
            weights = np.exp(inverse * margins)
            sums = np.add.reduce(weights, axis=axis)
            weights *= margins
            means = np.add.reduce(weights, axis=axis) / sums
            weights *= margins
            squares = np.add.reduce(weights, axis=axis) / sums
            weights *= margins
            cubes = np.add.reduce(weights, axis=axis) / sums
            variances = squares - means**2
            slope += float(means.sum())
            curvature += float(variances.sum())
            skew += float((cubes - means * (squares + 2 * variances)).sum())
        return slope, curvature, skew

    # Halley's method between two ends that close in; the ends of the range are tried before anything is halved.
    low, high = ends = 1 / NLL_BOUNDS[1], 1 / NLL_BOUNDS[0]
    untried, inverse = set(ends), start
    for _ in range(200):
        slope, curvature, skew = derivatives(inverse)
        untried.discard(inverse)
        # Flat where every sample is right beyond doubt, and more of it is no harm.
        rising = slope < 0 or slope == curvature == 0
        if inverse == ends[1] and rising:
            return NLL_BOUNDS[0]
        if inverse == ends[0] and not rising:  # even the flattest softmax is too sharp
            return NLL_BOUNDS[1]
        low, high = (inverse, high) if rising else (low, inverse)
        newton = -slope / curvature if curvature > 0 else math.inf if rising else -math.inf
        bend = newton * skew / (2 * curvature) if curvature > 0 else 0.0
        target = inverse + (newton / (1 + bend) if abs(bend) < 0.5 else newton)
        if not low < target < high:
            end = high if rising else low
            target = end if end in untried else math.sqrt(low * high)
        elif abs(bend) < 1e-5 and abs(target - inverse) <= 1e-5 * inverse:  # what is left is the cube of that
            break
        if abs(target - inverse) <= 1e-13 * inverse or high - low <= 1e-13 * high:
            break
        inverse = target
    return 1 / target
