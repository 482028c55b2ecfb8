# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Which method to take: the one of smallest NLL on data that its fit has not seen, the simpler where they tie."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics.scored import ScoredLogits
from .base import Calibrator
from .guard import is_better
from .held_out import HeldBack, HeldOut, held_out
from .matrix import MatrixScaling
from .structured import check_intercept
from .temperature import TemperatureScaling, best_temperature
from .vector import VectorScaling


_Method = type[HeldBack] | None


def choose(
    scored: ScoredLogits, logits: NDArray[Any], labels: NDArray[np.int64], simple: Calibrator, intercept: bool = True
) -> HeldBack | None:
    """
    What to take instead of `simple`, which is none or a temperature; `None` if nothing is better.

    It has to be better than a temperature, or than none where that is better, by the rule of [`is_better`]. Of several
    that are, it is the one of smallest NLL, and the first where they tie.

    Args:
        scored ([`Scored`]): The samples before calibration.
    """
    check_intercept(intercept)
    methods = [cls for cls in (VectorScaling, MatrixScaling) if not cls.too_few(logits.shape[1], labels)]
    if not methods:
        return None

    def fits(logits: NDArray[Any], labels: NDArray[np.int64]) -> dict[tuple[_Method, float], Calibrator]:
        temperature = best_temperature(logits, labels)
        found: dict[tuple[_Method, float], Calibrator] = {(None, 0.0): TemperatureScaling(temperature)}
        for cls in methods:
            fitted = cls.by_ridge(logits, labels, intercept=intercept, temperature=temperature)
            found.update({(cls, ridge): calibrator for ridge, calibrator in fitted.items()})
        return found

    rows = held_out(fits, logits, labels, repeats=2)
    tempered, before = rows.pop((None, 0.0)), HeldOut(scored.nll, scored.correct.astype(float))
    old = tempered if isinstance(simple, TemperatureScaling) or tempered.gain(before) > 0 else before
    for (cls, ridge), one in sorted(rows.items(), key=lambda item: -item[1].gain(old)):
        if cls is not None and is_better(one, old, scored):
            calibrator = cls.with_ridge(logits, labels, ridge, intercept=intercept)
            return None if calibrator.end_of_range(logits, labels, "nll") else calibrator
    return None
