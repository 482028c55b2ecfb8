# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
What curves over the epochs of a training show, in words. A single run tells nothing of other seeds, so all that is
said is of these runs; what comes and goes from one epoch to the next is not said: it has to last; and it has to be
more than chance makes of so many samples, whose spread, which was not kept, is taken to be as large as it may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .style import short


_Z = 1.6449  # of a 90% interval


@dataclass(frozen=True)
class Curve:
    """One run's values after each epoch, and where several seeds lie; those of one run lie on its line."""

    epochs: NDArray[np.float64]
    values: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    counts: NDArray[np.float64]

    @staticmethod
    def of(epochs: ArrayLike, values: ArrayLike, low: ArrayLike, high: ArrayLike, counts: ArrayLike = np.inf) -> Curve:
        """Without the epochs of which nothing is known; `counts` is how many samples each value is the mean of."""
        rows = np.array(np.broadcast_arrays(epochs, values, low, high, counts), np.float64)
        return Curve(*rows[:, np.isfinite(rows[:4]).all(axis=0)])

    @property
    def late(self) -> slice:
        """The last quarter, of at least three epochs."""
        return slice(-max(3, len(self.epochs) // 4), None)

    @property
    def settled(self) -> bool:
        """Whether enough was measured to speak of an end."""
        return len(self.epochs) >= 4

    def above(self, other: Curve) -> bool:
        """Whether it ends above the other for good: in all of the last quarter, ranges of seeds included."""
        if not (self.settled and other.settled):
            return False
        return bool(self.low[self.late].min() > other.high[other.late].max())


def comparison(curves: Mapping[str, Curve], what: str, unit: str = "") -> str:
    """Which run ends highest and which lowest, where that is clear."""
    known = {name: curve for name, curve in curves.items() if len(curve.values)}
    if len(known) < 2:
        return ""
    last = {name: float(curve.values[-1]) for name, curve in known.items()}
    highest, lowest = max(last, key=lambda name: last[name]), min(last, key=lambda name: last[name])
    if not known[highest].above(known[lowest]):
        return ""
    # Values between 0 and the largest seen spread at most so much.
    most = max(float(curve.values.max()) for curve in known.values())
    error = sum(last[name] * (most - last[name]) / max(known[name].counts[-1], 1e-9) for name in (highest, lowest))
    if last[highest] - last[lowest] <= _Z * np.sqrt(error):
        return ""
    ends = (f"with {short(name)} ({last[name]:.3g}{unit})" for name in (highest, lowest))
    return f"{what} ends highest {' and lowest '.join(ends)}"


def rise(name: str, curve: Curve, what: str, unit: str = "") -> str:
    """
    Whether a curve ends above its lowest point, by more than it moves from one epoch to the next, and by more than
    chance makes of values that spread twice as much as they are large.
    """
    if not curve.settled:
        return ""
    lowest = int(np.argmin(curve.values))
    jumps = float(np.median(np.abs(np.diff(curve.values))))
    least, end = float(curve.values[lowest]), float(curve.values[-1])
    chance = _Z * 2 * end / np.sqrt(max(curve.counts[-1], 1e-9))
    if lowest + 3 > len(curve.values) - 1 or curve.low[-3:].min() - curve.high[lowest] <= max(2 * jumps, chance):
        return ""
    place = f"after epoch {curve.epochs[lowest]:g}"
    return f"{what} rises again with {short(name)}, from {least:.3g}{unit} {place} to {end:.3g}"


def ends(curves: Mapping[str, Curve], unit: str = "") -> str:
    """Where each run ends, for alt texts."""
    parts: Sequence[str] = [
        f"{name} {curve.values[-1]:.3g}{unit}" for name, curve in curves.items() if len(curve.values)
    ]
    return ", ".join(parts[:8]) + (f" and {len(parts) - 8} more" if len(parts) > 8 else "")
