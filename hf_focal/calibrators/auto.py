# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Which method to take: the one of smallest NLL on data that its fit has not seen, the simpler where they tie."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics.scored import Scored
from .base import Calibrator
from .guard import is_better, is_clear
from .held_out import HeldBack, HeldOut, held_out
from .matrix import MatrixScaling
from .platt import PlattScaling
from .temperature import SigmoidTemperature, TemperatureScaling, best_temperature
from .vector import VectorScaling


def choose(
    scored: Scored, logits: NDArray[Any], labels: NDArray[np.int64], simple: Calibrator, intercept: bool = True
) -> HeldBack | None:
    """
    What to take instead of `simple`, which is none or a temperature; `None` if nothing is better.

    It has to be better than a temperature, or than none where that is better, by the rule of [`is_better`]; and a
    matrix also has to be better than such a vector.

    Args:
        scored ([`Scored`]): The samples before calibration.
    """
    methods = [cls for cls in (VectorScaling, MatrixScaling) if not cls.too_few(logits.shape[1], labels)]
    if not methods:
        return None

    def fits(logits: NDArray[Any], labels: NDArray[np.int64]) -> dict[tuple[Any, float], Calibrator]:
        temperature = best_temperature(logits, labels)
        found: dict[tuple[Any, float], Calibrator] = {(TemperatureScaling, 1.0): TemperatureScaling(temperature)}
        for cls in methods:
            fitted = cls.by_ridge(logits, labels, intercept=intercept, temperature=temperature)
            found.update({(cls, ridge): calibrator for ridge, calibrator in fitted.items()})
        return found

    rows = held_out(fits, logits, labels, repeats=2)
    tempered, before = rows.pop((TemperatureScaling, 1.0)), HeldOut.of(scored, len(scored))
    old = tempered if isinstance(simple, TemperatureScaling) or tempered.gain(before) > 0 else before
    best: tuple[type[HeldBack], float] | None = None
    for cls in methods:
        key = max(((cls, ridge) for ridge in cls.ridges), key=lambda one: rows[one].gain(old))
        if is_better(rows[key], old, scored) and (best is None or is_clear(rows[key], rows[best])):
            best = key
    if best is None:
        return None
    calibrator = best[0].with_ridge(logits, labels, best[1], intercept=intercept)
    return None if calibrator.end_of_range(logits, labels, "nll") else calibrator


def choose_for_outputs(
    scored: Scored, logits: NDArray[Any], labels: NDArray[np.int64], simple: Calibrator, intercept: bool = True
) -> Calibrator | None:
    """As [`choose`], for a head of sigmoids: a scale and a shift of each label, where these are better."""
    if PlattScaling.too_few(logits.shape[1], labels):
        return None
    calibrator, rows = PlattScaling.with_rows(logits, labels, intercept=intercept)
    if calibrator.end_of_range(logits, labels, "nll"):
        return None
    old = HeldOut.of(scored, len(labels))
    if isinstance(simple, TemperatureScaling):

        def fits(logits: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, Calibrator]:
            return {"": SigmoidTemperature.fit(logits, labels, criterion="nll", n_bins=15)}

        old = held_out(fits, logits, labels)[""]
    return calibrator if is_better(rows, old, scored) else None
