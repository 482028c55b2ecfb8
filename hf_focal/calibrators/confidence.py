# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Whether a model is over- or under-confident, and what its calibrator does about it, in words."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from ..arrays import check_groups, leave_out_masked
from ..metrics import Scored
from .base import Calibrator, calibrator_of
from .fit import Fit


def describe_confidence(
    logits: ArrayLike, labels: ArrayLike, temperature: float | Calibrator | Fit, groups: ArrayLike | None = None
) -> str:
    """
    A sentence on whether a model is over- or under-confident, and one on what its calibrator does about it.

    It is called neither where mean confidence and accuracy differ by less than 1.645 standard errors. Where the
    calibrator, which was fitted on other data, does the opposite of what these would ask for, that is said.

    Args:
        logits, labels: As for [`fit_calibrator`].
        temperature (`float`, [`Calibrator`] or [`Fit`]): What was fitted.
        groups (`np.ndarray` of shape `(num_samples,)`, *optional*): What samples that depend on one another belong to.
    """
    if not isinstance(temperature, Calibrator | Fit):
        temperature = calibrator_of({"temperature": temperature}, "temperature")
    logits, labels, groups = leave_out_masked(logits=logits, labels=labels, groups=groups)
    scored = Scored.from_logits(logits, labels)
    return describe(scored, temperature, None if groups is None else check_groups(groups, len(scored)))


def describe(before: Scored, fitted: Calibrator | Fit, groups: ArrayLike | None = None) -> str:
    """[`describe_confidence`] of probabilities before calibration."""
    calibrator = fitted if isinstance(fitted, Calibrator) else fitted.calibrator
    confidence, share = float(before.confidences.mean()), float(before.correct.mean())
    seen = f"its mean confidence is {confidence:.1%} and it is right {share:.1%} of the time."
    over = confidence > share
    clear = bool(leaning(before, groups))
    if isinstance(fitted, Fit) and fitted.unchanged:
        head, words = "The model is", fitted.why
    else:
        head, words = "Before scaling the model is", calibrator.words
        if clear and calibrator.softens is (not over):
            by = f" by the {fitted.criterion.upper()}" if isinstance(fitted, Fit) else ""
            seen = f"the mean confidence of the model is {confidence:.1%} and it is right {share:.1%} of the time."
            why = f"it was fitted{by} on validation data, to all of their probabilities and not to these means."
            return f"Before scaling {seen} {words[:-1]} all the same: {why}"
    verdict = ("over-confident" if over else "under-confident") if clear else "neither over- nor under-confident"
    return f"{head} {verdict}{'' if clear else ' beyond noise'}: {seen} {words}"


def leaning(scored: Scored, groups: ArrayLike | None = None) -> str:
    """`"over"` or `"under"` where mean confidence and accuracy differ by more than 1.645 standard errors, or `""`."""
    gap = float(scored.confidences.mean()) - float(scored.correct.mean())
    return "" if abs(gap) <= 1.645 * _standard_error(scored, groups) else "over" if gap > 0 else "under"


def _standard_error(scored: Scored, groups: ArrayLike | None) -> float:
    """Of mean confidence less accuracy: as the samples or groups spread, or by chance alone if that is more."""
    count = len(scored)
    chance = np.sqrt((scored.confidences * (1 - scored.confidences)).sum()) / count
    gaps = scored.confidences - scored.correct
    gaps = gaps - gaps.mean()
    if groups is not None:
        gaps = np.bincount(check_groups(groups, count), gaps)
    if len(gaps) == 1:
        return math.inf
    return max(float(chance), math.sqrt((gaps**2).sum() * len(gaps) / (len(gaps) - 1)) / count)
