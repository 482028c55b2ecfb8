# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Probabilities with their labels: checked once, and what metrics need of each row worked out once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import check_logits, check_probabilities, check_probabilities_and_maxima, row_blocks, row_maxima
from .bins import BinStatistics, confidence_and_correct, equal_mass, equal_width, true_values


BLOCK = 1 << 16  # probabilities worked on at a time: they stay in the cache


class LogitMap(Protocol):
    """What makes logits calibrated, row by row: the softmax of what it gives is to be trusted."""

    def calibrated_logits(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Logits of shape `(num_samples, num_labels)` to as many others."""


class Scored:
    """
    Probabilities with their labels, as metrics take them.

    They are checked once, and whatever several metrics need is worked out once, when the first asks for it.

    Args:
        probabilities (`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`):
            Softmax outputs; each row sums to 1.
        labels (`np.ndarray` or `torch.Tensor` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        maxima (`bool`, *optional*, defaults to `True`):
            Find the confidences along with the check; `False` saves the time where no metric needs them.

    Raises:
        ValueError: If shapes disagree, values are no probabilities, or labels are out of range.

    Example:
    >>> scored = Scored([[0.8, 0.2], [0.6, 0.4]], [0, 1])
    >>> scored.confidences.tolist(), scored.correct.tolist()
    ([0.8, 0.6], [True, False])
    """

    labels: NDArray[np.int64]
    num_labels: int

    def __init__(self, probabilities: ArrayLike, labels: ArrayLike, maxima: bool = True) -> None:
        if maxima:
            array, indices, self.confidences = check_probabilities_and_maxima(probabilities, labels)
        else:
            array, indices = check_probabilities(probabilities, labels)
        self._set(array, indices)

    def _set(self, array: NDArray[Any], labels: NDArray[np.int64]) -> None:
        self._array, self.labels, self.num_labels = array, labels, array.shape[1]
        self._bins: dict[tuple[str, int], BinStatistics] = {}

    @staticmethod
    def from_logits(logits: ArrayLike, labels: ArrayLike, calibrator: LogitMap | None = None) -> Scored:
        """
        Of the softmax of logits in float64, with the NLL from the logits: finite however small a probability is.

        No more than a block of probabilities is ever held: they are worked out anew for whoever goes through them.

        Args:
            logits (`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`):
                Raw scores, finite.
            labels (`np.ndarray` or `torch.Tensor` of shape `(num_samples,)`):
                Class indices in `[0, num_labels)`.
            calibrator (*optional*):
                Any object with `calibrated_logits(logits)`, which takes and gives some rows at a time.

        Raises:
            ValueError: If shapes disagree, logits are not finite, or labels are out of range.
        """
        return _ScoredLogits(*check_logits(logits, labels), calibrator)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def probabilities(self) -> NDArray[Any]:
        """The matrix, `(num_samples, num_labels)`. Made from logits it is built anew each time: mind the memory."""
        return self._array

    @cached_property
    def confidences(self) -> NDArray[Any]:
        """The largest probability of each row."""
        return row_maxima(self._array)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the true class is the first that has the largest probability."""
        return confidence_and_correct(self._array, self.labels, self.confidences)[1]

    @property
    def pairs(self) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """What calibration is about: how likely something was said to be, and whether it was so."""
        return self.confidences, self.correct

    @cached_property
    def true_probabilities(self) -> NDArray[Any]:
        """The probability of each row's true class."""
        return true_values(self._array, self.labels)

    @cached_property
    def nll(self) -> NDArray[np.float64]:
        """Minus the logarithm of the probability of each row's true class."""
        with np.errstate(divide="ignore"):
            return -np.log(self.true_probabilities.astype(np.float64))

    @cached_property
    def brier(self) -> NDArray[np.float64]:
        """Squared distance of each row from the one-hot row of its true class."""
        scores = np.empty(len(self))
        for block, values, axis in self.blocks():
            np.add.reduce(values * values, axis=axis, out=scores[block])
        scores -= 2 * self.true_probabilities.astype(np.float64)
        return scores + 1

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[slice, NDArray[np.float64], int]]:
        """Rows, and their probabilities in float64, some `size` at a time, with the axis of the classes."""
        return row_blocks(self._array, np.float64, size)

    def bins(self, n_bins: int) -> BinStatistics:
        """Pairs counted in bins of equal width."""
        return self._counted("width", n_bins)

    def mass_bins(self, n_bins: int) -> BinStatistics:
        """Pairs counted in bins of equal mass."""
        return self._counted("mass", n_bins)

    def _counted(self, kind: str, n_bins: int) -> BinStatistics:
        if (kind, n_bins) not in self._bins:
            self._bins[kind, n_bins] = (equal_width if kind == "width" else equal_mass)(*self.pairs, n_bins)
        return self._bins[kind, n_bins]

    def take(self, rows: NDArray[np.int64]) -> Scored:
        """Some rows, which may repeat. What nobody asks for is not drawn."""
        return _Drawn(self, rows)

    def part(self, rows: NDArray[np.int64]) -> Scored:
        """Rows on their own: nothing that is known of them comes along."""
        return _ScoredMatrix(self._array[rows], self.labels[rows])


class _ScoredMatrix(Scored):
    def __init__(self, array: NDArray[Any], labels: NDArray[np.int64]) -> None:
        self._set(array, labels)


class _Derived(Scored):
    """What its rows have to tell comes from elsewhere than a matrix."""

    confidences = cached_property(lambda self: self.vector("confidences"))
    correct = cached_property(lambda self: self.vector("correct"))
    true_probabilities = cached_property(lambda self: self.vector("true_probabilities"))
    nll = cached_property(lambda self: self.vector("nll"))
    brier = cached_property(lambda self: self.vector("brier"))


class _ScoredLogits(_Derived):
    def __init__(self, logits: NDArray[Any], labels: NDArray[np.int64], calibrator: LogitMap | None) -> None:
        self._set(logits, labels)
        self._calibrator = calibrator

    @property
    def probabilities(self) -> NDArray[Any]:
        matrix = np.empty(self._array.shape)
        for block, values, axis in self.blocks():
            matrix[block] = values if axis else values.T
        return matrix

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[slice, NDArray[np.float64], int]]:
        vectors: dict[str, NDArray[Any]] = {}
        if "nll" not in vars(self):  # what each row has to tell falls off on the first way through
            vectors = {name: np.empty(len(self)) for name in ("confidences", "true_probabilities", "nll", "brier")}
            vectors["correct"] = np.empty(len(self), bool)
        for block, values, axis in row_blocks(self._array, np.float64, size):
            if self._calibrator is not None:
                rows = self._calibrator.calibrated_logits(values if axis else values.T)
                values = np.asarray(rows if axis else rows.T, dtype=np.float64, order="C")
            margins = values - values.max(axis=axis, keepdims=True)
            weights = np.exp(margins)
            sums = weights.sum(axis=axis, keepdims=True)
            weights /= sums
            if vectors:
                labels, maxima = self.labels[block], weights.max(axis=axis)
                rows, margins = (weights, margins) if axis else (weights.T, margins.T)
                true = true_values(rows, labels)
                vectors["confidences"][block], vectors["correct"][block] = confidence_and_correct(rows, labels, maxima)
                vectors["true_probabilities"][block] = true
                vectors["nll"][block] = np.log(sums).ravel() - true_values(margins, labels)
                vectors["brier"][block] = np.add.reduce(weights * weights, axis=axis) - 2 * true + 1
            yield block, weights, axis
        vars(self).update(vectors)

    def vector(self, name: str) -> NDArray[Any]:
        for _ in self.blocks():
            pass
        return vars(self)[name]

    def part(self, rows: NDArray[np.int64]) -> Scored:
        return _ScoredLogits(self._array[rows], self.labels[rows], self._calibrator)


class _Drawn(_Derived):
    def __init__(self, source: Scored, rows: NDArray[np.int64]) -> None:
        self._source, self._rows, self._bins = source, rows, {}
        self.labels, self.num_labels = source.labels.take(rows), source.num_labels

    @property
    def probabilities(self) -> NDArray[Any]:
        return self._source.part(self._rows).probabilities

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[slice, NDArray[np.float64], int]]:
        return self._source.part(self._rows).blocks(size)

    def vector(self, name: str) -> NDArray[Any]:
        return getattr(self._source, name).take(self._rows)

    def part(self, rows: NDArray[np.int64]) -> Scored:
        return self._source.part(self._rows[rows])
