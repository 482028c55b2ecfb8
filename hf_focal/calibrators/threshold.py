# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The threshold with a promise on what a calibrator gives that was fitted to the same data."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import check_logits
from ..metrics.promise import LEVEL, Promise, check_level, check_target, promise_of
from ..metrics.scored import ScoredLogits
from ..spill import taken
from .fit import Fit
from .held_out import HeldBack, draw_folds


FOLDS = 5


def promise_after(
    fit: Fit, logits: ArrayLike, labels: ArrayLike, accuracy: float, level: float = LEVEL, *,
    group: str | None = None, **options: Any,
) -> Promise:  # fmt: skip
    """
    [`choose_threshold`] for the probabilities after a calibrator, on the data that it was fitted to.

    One of few numbers, such as a temperature, hardly knows the single sample. One of many ([`HeldBack`]) knows those
    that it was fitted to too well: there the confidence of each sample, and whether it is right, are those of a fit to
    the four fifths of the data that it is not in.

    Args:
        fit ([`Fit`]):
            The calibrator.
        logits, labels (`np.ndarray` of shapes `(num_samples, num_labels)` and `(num_samples,)`):
            What it was fitted to.
        accuracy, level (`float`):
            As for [`choose_threshold`].
        group (`str`, *optional*):
            What samples that depend on one another are parts of, such as `"sentence"`: nothing is promised then.
        options:
            Of the method, as it was fitted with.
    """
    check_target("accuracy", accuracy)
    check_level(level)
    array, indices = check_logits(logits, labels)
    if group is not None:
        why = f"the parts of a {group} are not right or wrong independently of one another, as a promise needs it"
        return Promise(None, accuracy, level, 0.0, None, len(array), why)
    if fit.unchanged or not isinstance(fit.calibrator, HeldBack):
        return promise_of(*ScoredLogits(array, indices, fit.calibrator).pairs, accuracy, level)
    return promise_of(*_unseen(fit, array, indices, options), accuracy, level)


def _unseen(
    fit: Fit, logits: NDArray[Any], labels: NDArray[np.int64], options: dict[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The confidence of each row, and whether it is right, after a fit to rows of which it is none."""
    cls = type(fit.calibrator)
    options = {name: value for name, value in options.items() if name in inspect.signature(cls.fit).parameters}
    confidences, correct = np.empty(len(labels)), np.empty(len(labels), bool)
    for seen, rest in draw_folds(len(labels), FOLDS, 1):
        calibrator = cls.fit(taken(logits, seen), labels[seen], criterion=fit.criterion, n_bins=15, **options)
        confidences[rest], correct[rest] = ScoredLogits(taken(logits, rest), labels[rest], calibrator).pairs
    return confidences, correct
