# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""All that a report needs of any number of predictions, added up over batches, processes and machines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from scipy.special import ndtri

from ..arrays import leave_out_masked, to_numpy
from .accumulator import CalibrationAccumulator
from .accuracy import wilson_ends
from .adaptive_ece import adaptive_parts
from .base import METRICS, Metric
from .bins import BinStatistics, bin_indices
from .chance import Law, NoiseFloor
from .gaps import Floats, GapError, Parts, TopCells
from .scored import Scored, ScoredPairs
from .slopes import NUMBER, added_slopes, root_of


MEANS = ("nll", "brier")  # of each sample, under these names in [`Scored`]


class EvaluationSums(CalibrationAccumulator):
    """
    A [`CalibrationAccumulator`] that knows noise floors, intervals and the best temperature as well.

    It holds sums alone, so that what several have seen is merged by addition, in any order; [`to_bytes`] is what one
    machine sends another. All metrics but AdaECE are exact. A noise floor and the interval of a calibration error
    follow from the bins, as they do from samples; those of AdaECE from its cells, and Classwise-ECE has none. The
    interval of the NLL and of the Brier score is the mean and its standard error, which a bootstrap of many samples
    gives as well.

    Args:
        num_labels, n_bins (*optional*):
            As of [`CalibrationAccumulator`].
        pairs (`bool`, *optional*, defaults to `False`):
            Nothing will be known but how sure each answer was and whether it was right: see [`update_pairs`].
        temperatures (`bool`, *optional*, defaults to `True`):
            Add up what the best temperature follows from, which is most of the work where there are many classes.

    Example:
    >>> one, other = EvaluationSums(), EvaluationSums()
    >>> one.update([[0.8, 0.2], [0.6, 0.4]], [0, 1])
    >>> other.update([[0.3, 0.7]], [1])
    >>> one.merge(EvaluationSums.from_bytes(other.to_bytes()))
    >>> one.num_samples, round(one.compute()["accuracy"], 4)
    (3, 0.6667)
    """

    def __init__(
        self, num_labels: int | None = None, n_bins: int = 15, pairs: bool = False, temperatures: bool = True
    ) -> None:
        self.pairs, self.temperatures = pairs, temperatures
        super().__init__(num_labels, n_bins)

    def _added_up(self) -> list[Metric]:
        return [metric for metric in super()._added_up() if not self.pairs or is_of_pairs(metric)]

    def _no_samples(self, num_labels: int) -> Scored:
        return ScoredPairs(np.empty(0), np.empty(0, bool)) if self.pairs else super()._no_samples(num_labels)

    def _additions(self, scored: Scored) -> dict[str, Any]:
        additions = super()._additions(scored)
        confidences = scored.confidences.astype(np.float64)
        bins, gaps = bin_indices(confidences, self.n_bins), confidences - scored.correct
        off = confidences - (bins + 1) / self.n_bins
        additions["confidence_squares"] = np.bincount(bins, off * off, self.n_bins)
        additions["gap_squares"] = np.bincount(bins, gaps * gaps, self.n_bins)
        if not self.pairs:
            additions["squares"] = np.array([np.square(getattr(scored, name)).sum() for name in MEANS])
            slopes = added_slopes(scored) if self.temperatures else np.full((2, NUMBER), np.nan)
            additions["slopes"], additions["curvatures"] = slopes
        return additions

    def _nothing(self, num_labels: int) -> dict[str, NDArray[Any]]:
        return {name: np.zeros_like(value) for name, value in super()._nothing(num_labels).items()}

    def update_pairs(self, confidences: ArrayLike, correct: ArrayLike) -> None:
        """Add how sure answers were, in [0, 1], and whether each was right: 0 and 1, or booleans."""
        if not self.pairs:
            raise ValueError("These are sums of probabilities: EvaluationSums(pairs=True) takes confidences.")
        self.add(scored_pairs(confidences, correct))

    def add(self, scored: Scored) -> None:
        """Add a batch that was checked already."""
        if self.pairs != isinstance(scored, ScoredPairs):
            what = "confidences, by update_pairs" if self.pairs else "probabilities or logits"
            raise ValueError(f"These are sums of {what}, and of nothing else.")
        super().add(scored)

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """As of [`CalibrationAccumulator`]."""
        super().load_state_dict(state)
        if self.pairs:
            self.num_labels = 0

    def to_bytes(self) -> bytes:
        """All sums, as safetensors; some 350 kB, and more with many classes."""
        return save({name: np.array(value, order="C") for name, value in self.arrays.items()})

    @classmethod
    def from_bytes(cls, data: bytes) -> EvaluationSums:
        """What [`to_bytes`] gave, or a `ValueError`."""
        try:
            arrays = load(bytes(data))
        except SafetensorError as error:
            raise ValueError(f"These are no sums that to_bytes gave: {error}.") from error
        counts = arrays.get("counts", np.empty(0))
        if counts.ndim != 1 or not len(counts):
            raise ValueError("These are no sums that to_bytes gave: they lack counts of bins.")
        sums = cls(n_bins=len(counts), pairs="slopes" not in arrays)
        sums.load_state_dict(arrays)
        return sums

    # ---- What follows from them -------------------------------------------------------------------------------------

    def appraise(
        self, level: float = 0.9, seed: int = 0
    ) -> tuple[dict[str, tuple[float, float]], dict[str, NoiseFloor]]:
        """
        The interval of every metric and the noise floor of every calibration error, by key, as far as they follow from
        sums; of one sample nothing can be said.
        """
        intervals: dict[str, tuple[float, float]] = {}
        floors: dict[str, NoiseFloor] = {}
        for metric in self._metrics if self.num_samples > 1 else ():
            if (found := self.cells(metric)) is not None:
                law = Law(*found, seed=seed)
                intervals[metric.key], floors[metric.key] = law.interval(level), NoiseFloor.of(law.calibrated, level)
            elif metric.key == "accuracy":
                share = float(self.bins.correct_sums.sum() / self.num_samples)
                intervals[metric.key] = wilson_ends(share, self.num_samples, level)
            elif metric.key in MEANS:
                mean, variance = self.moments(metric.key)
                half = float(ndtri((1 + level) / 2)) * math.sqrt(variance / self.num_samples)
                if math.isfinite(half):
                    low, high = metric.bounds
                    intervals[metric.key] = max(mean - half, low), min(mean + half, high)
        return intervals, floors

    def cells(self, metric: Metric) -> tuple[GapError, TopCells] | None:
        """How a calibration error follows from its cells, and these; `None` where sums do not tell."""
        counted = cast(Scored, _Counted(self))
        error = metric.gap_error(counted, self.n_bins)
        if error is None:
            return None
        try:
            cells = error.cells(counted, self.n_bins)
        except AttributeError:  # it wants more of the samples than their bins
            return None
        if not isinstance(cells, TopCells):
            return None
        cells.parts = self._adaptive[1] if cells.adaptive else self._equal_width
        return error, cells

    @property
    def _equal_width(self) -> Parts:
        bins = self.bins
        counts = bins.counts.astype(np.float64)
        off = np.divide(bins.confidence_sums, counts, out=bins.edges[1:].copy(), where=counts > 0) - bins.edges[1:]
        return Parts(counts, np.maximum(self.arrays["confidence_squares"] - counts * off * off, 0.0), None)

    @property
    def _adaptive(self) -> tuple[BinStatistics, Parts]:
        return adaptive_parts(self)

    def moments(self, key: str) -> tuple[float, float]:
        """Mean and variance, over samples, of what `"accuracy"`, `"nll"` or `"brier"` is the mean of."""
        count = self.num_samples
        if key == "accuracy":
            mean = float(self.bins.correct_sums.sum() / count)
            square = mean
        else:
            mean, square = float(self.arrays[key] / count), float(self.arrays["squares"][MEANS.index(key)] / count)
        if not math.isfinite(square):
            return mean, math.inf
        return mean, max(square - mean * mean, 0.0) * count / max(count - 1, 1)

    @property
    def leaning(self) -> str:
        """`"over"` or `"under"` where mean confidence and accuracy differ by 1.645 standard errors, else `""`."""
        bins, count = self.bins, self.num_samples
        total, upper = float(bins.confidence_sums.sum()), bins.edges[1:]
        squares = self.arrays["confidence_squares"] + 2 * upper * bins.confidence_sums - bins.counts * upper**2
        gap = (total - float(bins.correct_sums.sum())) / count
        chance = max(total - float(squares.sum()), 0.0) / count**2
        scatter = max(float(self.arrays["gap_squares"].sum()) / count - gap * gap, 0.0) / max(count - 1, 1)
        error = math.sqrt(max(chance, scatter)) if count > 1 else math.inf
        return "" if abs(gap) <= 1.645 * error else "over" if gap > 0 else "under"

    @property
    def temperature(self) -> float | None:
        """
        That of smallest NLL, to some five digits; `None` where none between 1/16 and 16 is: of all-right answers, say,
        or where a true class has probability 0.
        """
        if "slopes" not in self.arrays or not self.num_samples:
            return None
        return root_of(self.arrays["slopes"] + self.arrays["nll"], self.arrays["curvatures"])


class _Counted:
    """Stands for samples of which the sums alone are known."""

    pairs: tuple[Floats, NDArray[np.bool_]] = (np.empty(0), np.empty(0, bool))

    def __init__(self, sums: EvaluationSums) -> None:
        self._sums = sums

    def __len__(self) -> int:
        return self._sums.num_samples

    @cached_property
    def _adaptive(self) -> BinStatistics:
        return adaptive_parts(self._sums)[0]

    def bins(self, n_bins: int, adaptive: bool = False) -> BinStatistics:
        return self._adaptive if adaptive else self._sums.bins


def scored_pairs(confidences: ArrayLike, correct: ArrayLike) -> ScoredPairs:
    """Confidences and outcomes, checked; those that are masked are left out."""
    confidences, correct = leave_out_masked(confidence=confidences, correct=correct)
    said, came = to_numpy("confidence", confidences), to_numpy("correct", correct)
    if said.ndim != 1 or said.shape != came.shape or not len(said):
        raise ValueError(
            f"confidence and correct must hold one number for each of at least 1 sample, got shapes {said.shape} and "
            f"{came.shape}."
        )
    said = said if said.dtype.kind == "f" else said.astype(np.float64)
    said = said.astype(np.float32) if said.dtype == np.float16 else said
    low, high = float(said.min()), float(said.max())  # NaN, if there is any
    if not (low >= 0 and high <= 1):
        hint = " If these are percentages, divide them by 100 first." if 1 < high <= 100 else ""
        raise ValueError(f"confidence must lie in [0, 1], got values from {low:g} to {high:g}.{hint}")
    if came.dtype.kind != "b":
        if not np.all((came == 0) | (came == 1)):
            raise ValueError("correct must be 0 or 1, or a boolean, got other numbers.")
        came = came.astype(bool)
    return ScoredPairs(said, came)


def is_of_pairs(metric: Metric) -> bool:
    """Whether a metric follows from how sure answers were and whether they were right."""
    pairs = ScoredPairs(np.array([0.6, 0.8]), np.array([True, False]))
    try:
        metric.value(pairs, 2)
    except AttributeError:
        return False
    return True


def metrics_of_pairs() -> list[Metric]:
    """Those of `METRICS` that do."""
    return [metric for metric in METRICS.values() if is_of_pairs(metric)]
