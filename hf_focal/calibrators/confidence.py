# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Whether a model is over- or under-confident, and what its calibrator does about it, in words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import check_groups, leave_out_masked
from ..metrics import Scored, ScoredOutputs, scored_logits
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
    return describe(scored_logits(logits, labels), temperature, groups)


def describe(before: Scored, fitted: Calibrator | Fit, groups: ArrayLike | None = None) -> str:
    """[`describe_confidence`] of probabilities before calibration."""
    if isinstance(before, ScoredOutputs):
        return _of_outputs(before, fitted, groups)
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


def _of_outputs(before: ScoredOutputs, fitted: Calibrator | Fit, groups: ArrayLike | None) -> str:
    """The same of the probabilities of labels: whether they are too high or too low, or too sure of yes and no."""
    lean, (said, came) = leaning(before, groups), (float(values.mean()) for values in before.pairs)
    what = "labels are right" if before.num_outputs > 1 else "answers are yes"
    seen = f"they are {said:.1%} on average, and {came:.1%} of the {what}."
    verdict = f"the probabilities are {leans(lean) or 'neither too high nor too low beyond noise'}: {seen}"
    if lean in ("over", "under"):
        sure, right = float(before.confidences.mean()), float(before.correct.mean())
        how = "too sure" if lean == "over" else "not sure enough"
        verdict = (
            f"the model is {leans(lean)}, {how} of its answers yes and no: its mean confidence in them is {sure:.1%} "
            f"and {right:.1%} are right."
        )
    if isinstance(fitted, Fit) and fitted.unchanged:
        return f"T{verdict[1:]} {fitted.why}"
    words = (fitted if isinstance(fitted, Calibrator) else fitted.calibrator).words
    return f"Before scaling {verdict} {words}"


def leans(leaning: str) -> str:
    """What [`leaning`] says, as a sentence has it."""
    return {"high": "too high", "low": "too low", "": ""}.get(leaning, f"{leaning}-confident")


def leaning(scored: Scored, groups: ArrayLike | None = None) -> str:
    """
    `"over"` or `"under"` where mean confidence and accuracy differ by more than 1.645 standard errors, or `""`.

    Of a sigmoid head `"high"` or `"low"` where mean probability and share of what is right do, and that is at least
    half of the gaps in all bins; else, in the same way, `"over"` or `"under"` by the confidences of its answers.
    """
    if not isinstance(scored, ScoredOutputs):
        return _side(*scored.pairs, scored, groups, "over", "under")
    least = scored.bins(15).expected_error() / 2
    answers = scored.confidences, scored.correct
    return _side(*scored.pairs, scored, groups, "high", "low", least) or _side(
        *answers, scored, groups, "over", "under", least
    )


def _side(
    said: NDArray[Any], came: NDArray[np.bool_], scored: Scored, groups: ArrayLike | None, above: str, below: str,
    least: float = 0.0,
) -> str:  # fmt: skip
    gap = float(said.mean()) - float(came.mean())
    if abs(gap) < least or abs(gap) <= 1.645 * _standard_error(said, came, scored, groups):
        return ""
    return above if gap > 0 else below


def _standard_error(said: NDArray[Any], came: NDArray[np.bool_], scored: Scored, groups: ArrayLike | None) -> float:
    """Of mean confidence less accuracy: as the samples or groups spread, or by chance alone if that is more."""
    count, groups = len(scored), scored.groups_of_rows(groups)
    chance = np.sqrt((said * (1 - said)).sum()) / count
    gaps = said - came
    gaps = gaps - gaps.mean()
    if groups is not None:
        gaps = np.bincount(check_groups(groups, count), gaps)
    if len(gaps) == 1:
        return math.inf
    return max(float(chance), math.sqrt((gaps**2).sum() * len(gaps) / (len(gaps) - 1)) / count)
