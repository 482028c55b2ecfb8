# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Which method to take: the one of smallest NLL on data that its fit has not seen, the simpler where they tie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics.scored import ScoredLogits
from .base import Calibrator, calibrator_class
from .matrix import MOST_CLASSES


FOLDS = 5
CANDIDATES = ("none", "temperature", "vector", "matrix")  # from the simplest to the one of most numbers
_CERTAIN = 1.645  # standard errors by which a mean has to be above 0


def held_out_rows(
    cls: type[Calibrator], logits: NDArray[Any], labels: NDArray[np.int64], **options: Any
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The NLL of each row, and whether it is right, under a fit to the folds that it is not in."""
    nll, right = np.empty(len(labels)), np.empty(len(labels), bool)
    for seen, unseen in folds(len(labels)):
        calibrator = cls.fit(logits[seen], labels[seen], criterion="nll", n_bins=15, **options)
        scored = ScoredLogits(logits[unseen], labels[unseen], calibrator)
        nll[unseen], right[unseen] = scored.nll, scored.correct
    return nll, right


def folds(count: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows to fit to and rows to try that on, each row being tried once."""
    order = np.random.default_rng(0).permutation(count)
    for fold in range(min(FOLDS, count)):
        unseen = np.sort(order[fold::FOLDS])
        yield np.setdiff1d(order, unseen), unseen


def choose(logits: NDArray[Any], labels: NDArray[np.int64], **options: Any) -> type[Calibrator]:
    """The method to fit to all of these."""
    best = calibrator_class(CANDIDATES[0])
    best_nll, right = held_out_rows(best, logits, labels)
    for method in CANDIDATES[1:]:
        if method == "matrix" and logits.shape[1] > MOST_CLASSES:
            continue
        cls = calibrator_class(method)
        nll, others = held_out_rows(cls, logits, labels)
        lost = int(np.count_nonzero(right & ~others)) - int(np.count_nonzero(~right & others))
        if lost > _CERTAIN * np.sqrt(np.count_nonzero(right != others)):
            continue
        gains = best_nll - nll
        if gains.mean() > _CERTAIN * gains.std() / np.sqrt(len(gains)):
            best, best_nll = cls, nll
    return best
