# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Outputs of sigmoid heads with their labels: each is a row of its own, of two classes, no and yes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from ..arrays import check_groups, leave_out_masked, to_numpy
from ..checks import BLOCK, IGNORED, check_outputs, known_outputs, parts_of
from .bins import BinStatistics, equal_mass, equal_width
from .scored import SIGMOID, LogitMap, Scored


_ROWS = ("labels", "columns", "samples", "confidences", "correct", "true_probabilities", "nll", "brier", "_said")


class ScoredOutputs(Scored):
    """
    What a sigmoid head says of samples, output by output; outputs whose label is not known are left out.

    A row is one output of one sample. What calibration is about, its [`pairs`], is the probability of the label and
    whether it was right; `confidences` and `correct` are of the answer yes or no, which is yes above 0.5. `brier` is
    $(p - y)^2$, half of what the two classes add up to.

    Args:
        logits (`np.ndarray` of shape `(num_samples, num_outputs)`):
            Raw scores.
        labels (`np.ndarray` of shape `(num_samples, num_outputs)`):
            1, 0, and -100 where it is not known.
        calibrator (*optional*):
            Any object with `calibrated_logits(logits)`.

    Attributes:
        columns, samples (`np.ndarray` of shape `(num_rows,)`): The output and the sample of each row. The outputs of a
            sample depend on each other: they are its group.
        num_samples, num_outputs (`int`): How many there are, and how many outputs the head has.

    Example:
    >>> scored = ScoredOutputs.of_logits([[0.0, 3.0], [0.0, -3.0]], [[1, 1], [0, -100]])
    >>> scored.columns.tolist(), scored.pairs[1].tolist(), scored.pairs[0].round(2).tolist()
    ([0, 1, 0], [True, True, False], [0.5, 0.95, 0.5])
    """

    head = SIGMOID
    columns: NDArray[np.int64]
    samples: NDArray[np.int64]

    def __init__(self, logits: NDArray[Any], labels: NDArray[np.int64], calibrator: LogitMap | None = None) -> None:
        self.begin(labels)
        parts = []
        for part in parts_of(logits, BLOCK):
            wide = part.astype(np.float64)
            parts.append(wide if calibrator is None else calibrator.calibrated_logits(wide))
        scores = np.concatenate(parts)[self.samples, self.columns]
        came = self.labels == 1
        self.set_rows(expit(scores), expit(np.where(came, scores, -scores)), scores > 0)
        self.nll = np.logaddexp(0.0, np.where(came, -scores, scores))

    def begin(self, labels: NDArray[np.int64]) -> None:
        """Set which rows there are."""
        self.samples, self.columns = np.nonzero(labels != IGNORED)
        if not len(self.samples):
            raise ValueError(f"No label is known: all of them are {IGNORED}.")
        (self.num_samples, self.num_outputs), self.num_labels, self._bins = labels.shape, 2, {}
        self.labels = labels[self.samples, self.columns]
        self._each: dict[int, tuple[NDArray[np.int64], ScoredOutputs]] | None = None

    def set_rows(self, said: NDArray[np.float64], true: NDArray[np.float64], yes: NDArray[np.bool_]) -> None:
        """Set what each of them says."""
        came = self.labels == 1
        self._said, self.true_probabilities, self.correct = said, true, yes == came
        self.confidences = np.maximum(said, 1 - said)
        self.brier = (said - came) ** 2

    @classmethod
    def of_logits(cls, logits: ArrayLike, labels: ArrayLike, calibrator: LogitMap | None = None) -> ScoredOutputs:
        """Of arrays that were not checked yet."""
        return cls(*check_outputs(logits, labels), calibrator)

    @classmethod
    def of_probabilities(cls, probabilities: ArrayLike, labels: ArrayLike) -> ScoredOutputs:
        """Of the probability of each label, in [0, 1], in place of logits; arrays that were not checked yet."""
        array, known = _check_probabilities(probabilities, labels)
        scored = cls.__new__(cls)
        scored.begin(known)
        said, came = array[scored.samples, scored.columns], scored.labels == 1
        scored.set_rows(said, np.where(came, said, 1 - said), said > 0.5)
        with np.errstate(divide="ignore"):
            scored.nll = -np.where(came, np.log(said), np.log1p(-said)) + 0.0
        return scored

    @classmethod
    def together(cls, parts: Sequence[ScoredOutputs]) -> ScoredOutputs:
        """What several of the same head hold, of one after another."""
        if len(parts) == 1:
            return parts[0]
        whole = copy.copy(parts[0])
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ROWS}
        starts = np.cumsum([0, *(part.num_samples for part in parts)])
        joined["samples"] = np.concatenate([part.samples + start for part, start in zip(parts, starts, strict=False)])
        vars(whole).update(joined, num_samples=int(starts[-1]), _bins={}, _each=None)
        return whole

    @property
    def pairs(self) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        return self._said, self.labels == 1

    @property
    def yes(self) -> NDArray[np.bool_]:
        """Whether each answer is yes."""
        return self.correct == (self.labels == 1)

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Of each row those of no and yes, `(num_rows, 2)`."""
        return np.stack([1 - self._said, self._said], axis=1)

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[slice, NDArray[np.float64], int]]:
        for start in range(0, len(self), size // 2):
            block = slice(start, min(start + size // 2, len(self)))
            yield block, np.stack([1 - self._said[block], self._said[block]]), 0

    def bins(self, n_bins: int, adaptive: bool = False) -> BinStatistics:
        if (n_bins, adaptive) not in self._bins:
            self._bins[n_bins, adaptive] = (equal_mass if adaptive else equal_width)(*self.pairs, n_bins)
        return self._bins[n_bins, adaptive]

    def groups_of_rows(self, groups: ArrayLike | None) -> ArrayLike | None:
        """The sample of each row, for its labels depend on one another, or the group of that sample."""
        if groups is None:
            return self.samples if self.num_outputs > 1 else None
        return check_groups(groups, self.num_samples)[self.samples]

    def take(self, rows: NDArray[np.int64]) -> ScoredOutputs:
        drawn = copy.copy(self)
        vars(drawn).update({name: getattr(self, name).take(rows) for name in _ROWS}, _bins={}, _each=None)
        return drawn

    @property
    def each(self) -> dict[int, tuple[NDArray[np.int64], ScoredOutputs]]:
        """Of each output of which a label is known its rows, by their numbers and as if the head had no other."""
        if self._each is None:
            order = np.argsort(self.columns, kind="stable")
            numbers, starts = np.unique(self.columns[order], return_index=True)
            each = {}
            for column, rows in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
                alone = self.take(rows)
                alone.num_outputs, alone.columns = 1, np.zeros(len(rows), np.int64)
                each[column] = rows, alone
            self._each = each
        return self._each

    def of(self, column: int) -> ScoredOutputs:
        """The rows of one output, as if the head had no other."""
        if column not in self.each:
            raise ValueError(
                f"Nothing is known of output {column}: all of its labels are {IGNORED}, or there is none."
            )
        return self.each[column][1]


def scored_logits(logits: ArrayLike, labels: ArrayLike, calibrator: LogitMap | None = None) -> Scored:
    """Of logits by their labels: of a softmax, or, where these have the shape of the logits, of a sigmoid head."""
    of = ScoredOutputs.of_logits if are_of_outputs(logits, labels) else Scored.from_logits
    return of(logits, labels, calibrator)


def scored_probabilities(
    probabilities: ArrayLike, labels: ArrayLike, of_softmax: Callable[..., Scored] = Scored
) -> Scored:
    """
    Of probabilities by their labels, in the same way. Probabilities whose rows sum to 1 with labels that are one-hot
    are those of a softmax, and refused as such.
    """
    probabilities, labels = leave_out_masked(probabilities=probabilities, labels=labels)
    if are_of_outputs(probabilities, labels) and not _are_classes(probabilities, labels):
        return ScoredOutputs.of_probabilities(probabilities, labels)
    try:
        return of_softmax(probabilities, labels)
    except ValueError as error:
        if len(shape := _shape("labels", labels)) < 2 or are_of_outputs(probabilities, labels):
            raise
        raise ValueError(
            f"labels must have shape (num_samples,), got {shape}. Pass class indices, not one-hot; of a sigmoid head "
            f"labels of the shape of the probabilities, {_shape('probabilities', probabilities)}."
        ) from error


def are_of_outputs(values: ArrayLike, labels: ArrayLike) -> bool:
    """Whether labels have the shape of logits or probabilities, and so are of a sigmoid head."""
    try:
        shape = _shape("labels", labels)
        return len(shape) == 2 and _shape("values", values) == shape
    except ValueError:  # which whoever reads them says better
        return False


def _shape(name: str, values: ArrayLike) -> tuple[int, ...]:
    return tuple(values.shape) if hasattr(values, "shape") else to_numpy(name, values).shape


def are_one_hot(labels: ArrayLike) -> bool:
    """Whether each row of labels, of at least two columns, holds a single 1 and nothing that is not known."""
    array = to_numpy("labels", labels)
    return array.shape[1] > 1 and bool(np.all((array == 0) | (array == 1)) and np.all(array.sum(axis=1) == 1))


def _are_classes(probabilities: ArrayLike, labels: ArrayLike) -> bool:
    """Whether these are probabilities of a softmax with one-hot labels."""
    if not are_one_hot(labels):
        return False
    array = to_numpy("probabilities", probabilities)
    return bool(np.all(np.abs(array.sum(axis=1, dtype=np.float64) - 1) <= 1e-2))


def _check_probabilities(probabilities: ArrayLike, labels: ArrayLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
    array = to_numpy("probabilities", probabilities).astype(np.float64)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"probabilities must have shape (num_samples, num_labels), and samples, got {array.shape}.")
    known = known_outputs(to_numpy("labels", labels), array.shape)
    low, high = float(array.min()), float(array.max())  # NaN, if there is any
    if not (low >= 0 and high <= 1):
        hint = "If these are logits, apply the sigmoid first."
        if low >= 0 and 1 < high <= 100:
            hint = "If these are percentages, divide them by 100 first; of logits, apply the sigmoid first."
        raise ValueError(
            f"probabilities of a sigmoid head must lie in [0, 1], got values from {low:g} to {high:g}. {hint}"
        )
    return array, known
