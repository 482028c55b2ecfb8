# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Probabilities with their labels: checked once, and what metrics need of each row worked out once."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import BLOCK, check_logits, check_probabilities, row_blocks
from .bins import BinStatistics, equal_mass, equal_width


Documented = TypeVar("Documented", bound=Callable[..., Any])
SOFTMAX, SIGMOID = "softmax", "sigmoid"  # kinds of heads: one label a sample, or each with a probability of its own
_VECTORS = ("confidences", "correct", "true_probabilities", "nll", "brier")


_MATRIX = "`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`"
_ARGS = {
    "probabilities": (_MATRIX, "Softmax outputs; each row sums to 1, as nearly as rounding lets it."),
    "logits": (_MATRIX, "Raw scores: finite, or -inf for a class that is masked, which has probability 0."),
    "labels": (
        "`np.ndarray` or `torch.Tensor` of shape `(num_samples,)`",
        "Class indices in `[0, num_labels)`; masked ones are left out with their rows.",
    ),
    "n_bins": ("`int`, *optional*, defaults to `15`", "Number of bins."),
}


def of_probabilities(function: Documented) -> Documented:
    """Complete a docstring by what all that take probabilities, or logits, and labels say of arguments and errors."""
    names, returned = list(inspect.signature(function).parameters), function.__annotations__.get("return")
    doc = inspect.cleandoc(function.__doc__ or "") + "\n"
    summary, *parts = re.split(r"^(Args|Returns|Raises|Example):\n", doc, flags=re.MULTILINE)
    sections = dict.fromkeys(("Args", "Returns", "Raises", "Example"), "")
    sections.update(zip(parts[::2], parts[1::2], strict=True))
    if returned and not sections["Returns"]:
        fraction = "    `float`: Fraction in `[0, 1]`; lower is better."
        sections["Returns"] = fraction if returned == "float" else f"    [`{returned}`]"
    own = re.split(r"^(?=    \w)", sections["Args"].rstrip() + "\n", flags=re.MULTILINE)
    args = {name: f"    {name} ({kind}):\n        {words}\n" for name, (kind, words) in _ARGS.items()}
    args.update({entry.split()[0].strip(",:"): entry for entry in own if entry.strip()})
    sections["Args"] = "".join(args[name] for name in names if name in args)
    wrong = (
        "logits are NaN or +inf, or a row is nothing but -inf" if "logits" in names else "values are no probabilities"
    )
    raises = f"    ValueError: If shapes disagree, {wrong}, or labels are out of range.\n"
    if "n_bins" in names:
        raises += "    ValueError: If `n_bins < 1`.\n    TypeError: If `n_bins` is not a whole number.\n"
    sections["Raises"] = raises + sections["Raises"]
    written = [f"{head}:\n{section.rstrip()}" for head, section in sections.items() if section]
    function.__doc__ = "\n\n".join([summary.rstrip(), *written])
    return function


class LogitMap(Protocol):
    """What makes logits calibrated, row by row."""

    def calibrated_logits(self, logits: NDArray[Any]) -> NDArray[Any]: ...


@of_probabilities
class Scored:
    """
    Probabilities with their labels, as metrics take them.

    They are checked once, and whatever several metrics need is worked out once, when the first asks for it. There are
    `labels`, `num_labels` and `confidences`, the largest probability of each row, beside what is below.

    Example:
    >>> scored = Scored([[0.8, 0.2], [0.6, 0.4]], [0, 1])
    >>> scored.confidences.tolist(), scored.correct.tolist()
    ([0.8, 0.6], [True, False])
    """

    confidences: NDArray[Any]
    head: str = SOFTMAX  # the kind that says this
    _with_maxima = True

    def __init__(self, probabilities: ArrayLike, labels: ArrayLike) -> None:
        array, indices, self.confidences = check_probabilities(probabilities, labels, self._with_maxima)
        self._set(array, indices)

    def _set(self, array: NDArray[Any], labels: NDArray[np.int64]) -> None:
        self._array, self.labels, self.num_labels = array, labels, array.shape[1]
        self._rows: NDArray[np.int64] | None = None  # of the array; None: all of them
        self._bins: dict[tuple[int, bool], BinStatistics] = {}

    @staticmethod
    @of_probabilities
    def from_logits(logits: ArrayLike, labels: ArrayLike, calibrator: LogitMap | None = None) -> Scored:
        """
        Of the softmax of logits in float64, with the NLL from the logits: finite however small a probability is. No
        more than a block of probabilities is ever held: they are worked out anew for whoever goes through them.

        Args:
            calibrator (*optional*):
                Any object with `calibrated_logits(logits)`, which takes and gives some rows at a time.
        """
        return ScoredLogits(*check_logits(logits, labels), calibrator)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def _matrix(self) -> NDArray[Any]:
        return self._array if self._rows is None else self._array[self._rows]

    @property
    def probabilities(self) -> NDArray[Any]:
        """The matrix, `(num_samples, num_labels)`. Made from logits it is built anew each time: mind the memory."""
        return self._matrix

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the true class is the first that has the largest probability."""
        return _is_first(self._matrix, self.labels, self.true_probabilities, self.confidences)

    @property
    def pairs(self) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """What calibration is about: how likely something was said to be, and whether it was so."""
        return self.confidences, self.correct

    @cached_property
    def true_probabilities(self) -> NDArray[Any]:
        """The probability of each row's true class."""
        return _true_values(self._matrix, self.labels)

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
        return row_blocks(self._matrix, np.float64, size)

    def bins(self, n_bins: int, adaptive: bool = False) -> BinStatistics:
        """Pairs counted in bins of equal width, or of equal mass."""
        if (n_bins, adaptive) not in self._bins:
            self._bins[n_bins, adaptive] = (equal_mass if adaptive else equal_width)(*self.pairs, n_bins)
        return self._bins[n_bins, adaptive]

    def groups_of_rows(self, groups: ArrayLike | None) -> ArrayLike | None:
        """Which rows depend on one another, where `groups` says which samples do."""
        return groups

    def take(self, rows: NDArray[np.int64]) -> Scored:
        """Some rows, which may repeat. Their probabilities are drawn only for whoever asks for them."""
        drawn = copy.copy(self)
        vars(drawn).update({name: getattr(self, name).take(rows) for name in ("labels", *_VECTORS)})
        vars(drawn).update(_rows=rows if self._rows is None else self._rows[rows], _bins={})
        return drawn


class WithoutConfidences(Scored):
    """For metrics of probabilities that need no confidences, which take as long to find as the rest of the checks."""

    _with_maxima = False


class ScoredPairs(Scored):
    """
    Of which nothing is known but how sure each answer was and whether it was right, checked already; and the labels,
    perhaps, by which samples are told to be the same.
    """

    def __init__(
        self, confidences: NDArray[Any], correct: NDArray[np.bool_], labels: NDArray[np.int64] | None = None
    ) -> None:
        vars(self).update(confidences=confidences, correct=correct, **({} if labels is None else {"labels": labels}))
        self.num_labels, self._bins = 0, {}

    def __len__(self) -> int:
        return len(self.confidences)

    def take(self, rows: NDArray[np.int64]) -> Scored:
        """Some rows, which may repeat."""
        return ScoredPairs(self.confidences.take(rows), self.correct.take(rows))


class ScoredLogits(Scored):
    """Of logits that were checked: what each row has to tell falls off on the first way through the blocks."""

    confidences = cached_property(lambda self: self._vector("confidences"))
    correct = cached_property(lambda self: self._vector("correct"))
    true_probabilities = cached_property(lambda self: self._vector("true_probabilities"))
    nll = cached_property(lambda self: self._vector("nll"))
    brier = cached_property(lambda self: self._vector("brier"))

    def __init__(self, logits: NDArray[Any], labels: NDArray[np.int64], calibrator: LogitMap | None = None) -> None:
        self._set(logits, labels)
        self._calibrator = calibrator

    def _vector(self, name: str) -> NDArray[Any]:
        for _ in self.blocks():
            pass
        return vars(self)[name]

    @property
    def probabilities(self) -> NDArray[Any]:
        matrix = np.empty((len(self), self.num_labels))
        for block, values, axis in self.blocks():
            matrix[block] = values if axis else values.T
        return matrix

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[slice, NDArray[np.float64], int]]:
        missing = () if "nll" in vars(self) else _VECTORS
        vectors = {name: np.empty(len(self), bool if name == "correct" else float) for name in missing}
        for block, values, axis in row_blocks(self._matrix, np.float64, size):
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
                true = _true_values(rows, labels)
                vectors["confidences"][block], vectors["true_probabilities"][block] = maxima, true
                vectors["correct"][block] = _is_first(rows, labels, true, maxima)
                vectors["nll"][block] = np.log(sums).ravel() - _true_values(margins, labels)
                vectors["brier"][block] = np.add.reduce(weights * weights, axis=axis) - 2 * true + 1
            yield block, weights, axis
        vars(self).update(vectors)


def _is_first(
    probabilities: NDArray[Any], labels: NDArray[np.int64], true: NDArray[Any], maxima: NDArray[Any]
) -> NDArray[np.bool_]:
    correct = true == maxima
    # Rows sum to at most 1.01, so that above 0.51 no two classes tie.
    open_rows = np.flatnonzero(correct & (maxima <= 0.51))
    if len(open_rows):
        correct[open_rows] = probabilities[open_rows].argmax(axis=1) == labels[open_rows]
    return correct


def _true_values(values: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[Any]:
    num_samples, num_labels = values.shape
    if not values.flags.c_contiguous:
        return values[np.arange(num_samples), labels]
    return values.reshape(-1).take(np.arange(0, num_samples * num_labels, num_labels) + labels)
