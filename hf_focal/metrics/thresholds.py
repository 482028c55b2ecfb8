# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The probability from which on to say each label of a head of sigmoids: by F1, or by a precision that is promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import to_numpy
from ..checks import IGNORED, known_outputs
from .promise import LEVEL, check_level, check_target, promise_of, shown


F1, PRECISION = "f1", "precision"


@dataclass(frozen=True)
class Thresholds:
    """
    A threshold on the probability of each label, and what they do to the samples that they were chosen on.

    Attributes:
        metric (`str`): What they were chosen by, `"f1"` or `"precision"`.
        values (`tuple[float | None, ...]`): The lowest probability at which to say each label; `None` where there is
            none: of a label that no sample has, or where nothing can be promised.
        observed (`tuple[float | None, ...]`): F1, or precision, of each label on these samples.
        kept (`tuple[float, ...]`): Share of the samples that each label is said of.
        n_samples (`int`): Number of samples.
        precision, level (`float`, *optional*): How often each label is right where it is said, at least, and how
            certain that is, of each label by itself.
    """

    metric: str
    values: tuple[float | None, ...]
    observed: tuple[float | None, ...]
    kept: tuple[float, ...]
    n_samples: int
    precision: float | None = None
    level: float | None = None

    def to_record(self) -> dict[str, Any]:
        """What JSON has to hold of it, with a place for each label, in the order of the labels."""
        target = {} if self.precision is None else {"precision": self.precision, "level": self.level}
        lists = {name: list(getattr(self, name)) for name in ("values", "observed", "kept")}
        return {"metric": self.metric, **target, **lists, "n_samples": self.n_samples}

    @classmethod
    def from_record(cls, record: Any) -> Thresholds | None:
        """Those of such a record; `None` where it is none."""
        try:
            metric, count = record["metric"], int(record["n_samples"])
            values, observed, kept = (
                tuple(None if one is None else float(one) for one in record[name])
                for name in ("values", "observed", "kept")
            )
            target: tuple[float | None, float | None] = None, None
            if metric == PRECISION:
                target = check_target("precision", record["precision"]), check_level(record["level"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        whole = all(one is None or 0 <= one <= 1 for part in (values, observed, kept) for one in part)
        if metric not in (F1, PRECISION) or None in kept or not whole:
            return None
        if not values or {len(observed), len(kept)} != {len(values)}:
            return None
        return cls(metric, values, observed, kept, count, *target)  # type: ignore[arg-type]

    def said(self, probabilities: ArrayLike) -> NDArray[np.bool_]:
        """Which labels to say of samples with probabilities `(num_samples, num_labels)`."""
        limits = np.array([np.inf if one is None else one for one in self.values])
        return _check_probabilities(probabilities, len(limits)) >= limits

    def words(self, names: Sequence[str] | None = None) -> str:
        """One or two sentences on them; labels without names are called by their number."""
        names = [f"label {i}" for i in range(len(self.values))] if names is None else names
        found = [f"{name} {shown(value)}" for name, value in zip(names, self.values, strict=True) if value is not None]
        lacking = [name for name, value in zip(names, self.values, strict=True) if value is None]
        if self.metric == F1:
            head, none = "Labels have the highest F1 on validation data", "No sample has"
        else:
            head = f"Each label by itself is right at least {100 * (self.precision or 0):g}% of the time that it is "
            head += f"said, with {100 * (self.level or 0):g}% certainty"
            none = f"Nothing can be promised by {self.n_samples} samples of"
        sentences = [f"{head}, from these probabilities on: {_listed(found)}."] if found else []
        return " ".join([*sentences, *([f"{none} {_listed(lacking)}."] if lacking else [])])


def _listed(words: Sequence[str], most: int = 40) -> str:
    more = len(words) - most
    return ", ".join([*words[:most], *([f"and {more} more"] if more > 0 else [])])


def choose_thresholds(
    probabilities: ArrayLike, labels: ArrayLike, *, precision: float | None = None, level: float = LEVEL
) -> list[float | None]:
    r"""
    For each label the lowest probability at which to say it: where its F1 is highest, or by a precision.

    With a `precision` a label is right at least that often where its probability is at or above the threshold, on
    average over all samples of which it is said, for data like these; of all the data sets that could have been drawn,
    at most `1 - level` lead to a threshold that breaks this, of each label by itself. It is [`choose_threshold`] of
    the samples of one label, but for where its tests begin: at 15% of the samples that may be expected to have the
    label, the sum of its probabilities, so that of a rare label enough are seen. The samples, not their labels, decide
    that, so that what is proved there is so here. Of a label that is seen too rarely nothing is promised: with 90%
    certainty a precision of 90% takes 22 samples without an error.

    Which of several thresholds of the same F1 is taken: that at which the label is said least often.

    Args:
        probabilities (`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`):
            Those of sigmoids, one of each label; they need not sum to 1. Of a single label `(num_samples,)` will do.
        labels (`np.ndarray` or `torch.Tensor` of the same shape):
            1 where a label is right, 0 where it is not, -100 or NaN where that is not known: that is left out.
        precision (`float`, *optional*):
            How often a label is to be right where it is said, in (0, 1). By default thresholds are those of F1.
        level (`float`, *optional*, defaults to `0.9`):
            How certain that is to be, in [0.5, 1).

    Returns:
        `list[float | None]`: Of each label the lowest probability to say it at; `None` of a label that no sample has,
        or of which these data promise nothing.

    Raises:
        ValueError: If shapes disagree, values are no probabilities, labels are neither 0 nor 1, `precision` is not in
            (0, 1) or `level` not in [0.5, 1).

    Example:
    >>> probabilities = np.repeat([[0.95, 0.3], [0.2, 0.1]], 50, axis=0)
    >>> labels = np.repeat([[1, 1], [0, 0]], 50, axis=0)
    >>> choose_thresholds(probabilities, labels)
    [0.95, 0.3]
    >>> choose_thresholds(probabilities, labels, precision=0.99)  # 50 samples cannot tell
    [None, None]
    """
    return list(thresholds_of(probabilities, labels, precision, level).values)


def thresholds_of(
    probabilities: ArrayLike, labels: ArrayLike, precision: float | None = None, level: float = LEVEL
) -> Thresholds:
    """[`choose_thresholds`], with what they do to these samples."""
    check_level(level)
    said = _check_probabilities(probabilities)
    outputs = known_outputs(to_numpy("labels", labels), said.shape)
    if precision is not None:
        precision = check_target("precision", precision)
    found = []
    for p, y in zip(said.T, outputs.T, strict=True):
        p, came = p[y != IGNORED], y[y != IGNORED] == 1
        found.append(_by_f1(p, came) if precision is None else _by_precision(p, came, precision, level))
    values, observed, kept = zip(*found, strict=True)
    target = (None, None) if precision is None else (precision, level)
    return Thresholds(F1 if precision is None else PRECISION, values, observed, kept, len(said), *target)


_Found = tuple[float | None, float | None, float]


def _by_precision(said: NDArray[Any], came: NDArray[np.bool_], precision: float, level: float) -> _Found:
    if not len(said):
        return None, None, 0.0
    promise = promise_of(said, came, precision, level, expected=float(said.sum(dtype=np.float64)))
    return promise.threshold, promise.observed, promise.kept


def _by_f1(said: NDArray[Any], came: NDArray[np.bool_]) -> _Found:
    if not came.any():
        return None, None, 0.0
    order = np.argsort(-said, kind="stable")
    ordered, right = said[order], np.cumsum(came[order])
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # of ties
    scores = 2 * right[ends] / (ends + 1 + right[-1])
    best = int(scores.argmax())
    last = int(ends[best])
    return float(ordered[last]), float(scores[best]), (last + 1) / len(said)


def _check_probabilities(probabilities: ArrayLike, num_labels: int | None = None) -> NDArray[Any]:
    array = to_numpy("probabilities", probabilities)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or not array.size or num_labels not in (None, array.shape[1]):
        wanted = "num_labels" if num_labels is None else num_labels
        raise ValueError(
            f"probabilities must have shape (num_samples, {wanted}) and not be empty, got {np.shape(probabilities)}."
        )
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"probabilities must lie in [0, 1], got values from {low} to {high}. Of logits take those of a "
            "calibrator, fit.probabilities(logits)."
        )
    return array
