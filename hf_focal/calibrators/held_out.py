# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What fits to some of the data do to the rest of them, and when that tells two maps apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..metrics.scored import ScoredLogits
from .base import Calibrator


_MANY = 1 << 20  # logits from which on there are fewer folds


class HeldOut(NamedTuple):
    """
    The NLL of each sample, and whether it is right, under a map that was fitted without it.

    Attributes:
        nll (`np.ndarray` of shape `(num_samples,)`)
        right (`np.ndarray` of shape `(num_samples,)`)
    """

    nll: NDArray[np.float64]
    right: NDArray[np.bool_]

    def gain(self, other: HeldOut) -> float:
        """By how much the mean NLL is below that of another map."""
        return float(np.mean(other.nll - self.nll))

    def beats(self, other: HeldOut, errors: float) -> bool:
        """Whether the NLL is lower by so many standard errors, and the accuracy not lower beyond noise."""
        gains = other.nll - self.nll
        surely = gains.mean() > errors * gains.std() / np.sqrt(len(gains))
        return bool(surely and gains.mean() > 0 and not self.costs_accuracy(other))

    def costs_accuracy(self, other: HeldOut) -> bool:
        lost, won = np.count_nonzero(other.right & ~self.right), np.count_nonzero(self.right & ~other.right)
        return bool(lost - won > 1.645 * np.sqrt(lost + won))


def held_out(
    fits: Callable[[NDArray[Any], NDArray[np.int64]], Mapping[Any, Calibrator]],
    logits: NDArray[Any], labels: NDArray[np.int64],
) -> dict[Any, HeldOut]:  # fmt: skip
    """For each of the calibrators that `fits` makes of logits and labels, by its key."""
    rows: dict[Any, HeldOut] = {}
    for seen, unseen in _folds(len(labels), 5 if logits.size < _MANY else 3):
        others, true = logits[unseen], labels[unseen]
        for key, calibrator in fits(logits[seen], labels[seen]).items():
            scored = ScoredLogits(others, true, calibrator)
            into = rows.setdefault(key, HeldOut(np.empty(len(labels)), np.empty(len(labels), bool)))
            into.nll[unseen], into.right[unseen] = scored.nll, scored.correct
    return rows


def _folds(count: int, folds: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """
    Rows to fit to, and the others, at random: were there as many of each class in all folds, these would share what
    chance did to the class frequencies, and a shift that follows it would seem to help.
    """
    order = np.random.default_rng(0).permutation(count)
    for fold in range(min(folds, count)):
        seen = np.ones(count, bool)
        seen[order[fold::folds]] = False
        yield np.flatnonzero(seen), np.flatnonzero(~seen)
