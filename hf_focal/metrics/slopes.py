# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Sums over samples from which the temperature of smallest NLL follows, without the samples."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .gaps import Floats
from .scored import Scored


_STEPS, _DOUBLINGS = 3, 4  # three inverse temperatures for each doubling, from 1/16 to 16
NUMBER = 2 * _STEPS * _DOUBLINGS + 1
_INVERSES = 2.0 ** ((np.arange(NUMBER) - NUMBER // 2) / _STEPS)
_LEAST = -1e4  # the log of a probability of 0: its weight is 0 at all these temperatures


def added_slopes(scored: Scored) -> Floats:
    """
    What samples add, `(2, NUMBER)`: at each inverse temperature the expected logarithm of a probability, and its
    variance. With the summed NLL, which is to be added, the first are the slope of the NLL along the inverse
    temperature, and the second its curvature.
    """
    sums = np.zeros((2, NUMBER))
    for _, weights, axis in scored.blocks():
        margins = _logarithms(weights)
        squares = margins * margins
        for step in range(_STEPS):
            place = NUMBER // 2 + step
            # Squares and roots give the doublings and halvings, far faster than powers.
            base = weights if step == 0 else np.exp(margins * _INVERSES[place])
            for first, by, change in ((place, _STEPS, np.square), (place - _STEPS, -_STEPS, np.sqrt)):
                powers = base if by > 0 else np.sqrt(base)
                for index in range(first, NUMBER if by > 0 else -1, by):
                    sums[:, index] += _moments(powers, margins, squares, axis)
                    powers = change(powers)
    return sums


def slope_at(scored: Scored, temperature: float) -> Floats:
    """The same two sums at one temperature, of which the first is the slope of the NLL itself."""
    sums = np.zeros(2)
    for _, weights, axis in scored.blocks():
        margins = _logarithms(weights)
        sums += _moments(np.exp(margins / temperature), margins, margins * margins, axis)
    sums[0] += float(scored.nll.sum())
    return sums


def _logarithms(weights: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(weights), _LEAST)


def _moments(powers: Floats, margins: Floats, squares: Floats, axis: int) -> tuple[float, float]:
    form = "ij,ij->i" if axis else "ij,ij->j"
    totals = powers.sum(axis=axis)
    means = np.einsum(form, powers, margins) / totals
    return float(means.sum()), float((np.einsum(form, powers, squares) / totals - means * means).sum())


def root_of(slopes: NDArray[np.float64], curvatures: NDArray[np.float64]) -> float | None:
    """The temperature at which the slope is 0: a cubic between those beside it; `None` where none of these is."""
    if not np.all(np.isfinite(slopes)) or not slopes[0] < 0 <= slopes[-1]:
        return None
    right = int(np.argmax(slopes >= 0))
    left, width = right - 1, math.log(2) / _STEPS
    ends = slopes[[left, right]]
    tangents = curvatures[[left, right]] * _INVERSES[[left, right]] * width  # along the logarithm
    low, high = 0.0, 1.0
    for _ in range(60):
        t = (low + high) / 2
        value = ends[0] * (1 + 2 * t) * (1 - t) ** 2 + ends[1] * t * t * (3 - 2 * t)
        value += tangents[0] * t * (1 - t) ** 2 - tangents[1] * t * t * (1 - t)
        low, high = (t, high) if value < 0 else (low, t)
    return float(1 / (_INVERSES[left] * math.exp(width * (low + high) / 2)))


def newton_step(temperature: float, slope: float, curvature: float) -> float:
    """The temperature after one step of Newton's method along its inverse, as long as that is near."""
    inverse = 1 / temperature
    if not curvature > 0 or not abs(slope / curvature) < 0.1 * inverse:
        return temperature
    return 1 / (inverse - slope / curvature)
