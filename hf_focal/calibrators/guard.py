# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""When a fitted map is taken: only where the data show that it helps. The rule is that of [`fit_temperature`]."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import logit

from ..metrics import Scored
from ..metrics.outputs import ScoredOutputs
from .held_out import HeldOut


def what_is_lacking(scored: Scored) -> str:
    """Why these samples, with probabilities before calibration, can tell of no map; `""` where they can."""
    count, outputs = len(scored), isinstance(scored, ScoredOutputs)
    if few := how_few(scored, least=3):
        return f"{few}, and at least three right and three wrong ones are needed to tell."
    missing = np.flatnonzero(np.bincount(scored.labels, minlength=scored.num_labels) == 0)
    if not len(missing):
        return ""
    expected = np.zeros(len(missing))
    for _, values, axis in scored.blocks():
        expected += (values[:, missing] if axis else values[missing].T).sum(axis=0)
    # As a Poisson variable each would be missing in exp(-expected) of all sets: in 1% for the classes together.
    if expected.max() <= math.log(100 * scored.num_labels):
        return ""
    which = int(missing[expected.argmax()])
    if outputs:
        kind = ("without", "with")[which]
        return (
            f"of {count} validation outputs none is of a sample {kind} its label, where the model expects about "
            f"{expected.max():.0f}, so that they do not tell of data with both."
        )
    return (
        f"of {count} validation samples none is of the class {which}, where the model expects about "
        f"{expected.max():.0f}, so that they do not tell of data with all classes."
    )


def how_few(scored: Scored, least: int = 5) -> str:
    """That fewer samples than `least` are right, or wrong; else `""`."""
    right, count = int(np.count_nonzero(scored.correct)), len(scored)
    for found, word in ((count - right, "wrong"), (right, "right")):
        if found < least:
            few = f"{'none' if found == 0 else f'only {found}'} {'was' if found < 2 else 'were'} {word}"
            unit = "output" if isinstance(scored, ScoredOutputs) else "sample"
            return f"of {f'the one validation {unit}' if count == 1 else f'{count} validation {unit}s'} {few}"
    return ""


def least_gain(scored: Scored, numbers: int, copies: float = 1.0) -> float:
    """
    By how much the summed NLL has to fall, in nats, for a map of so many fitted numbers to be taken; `copies` is the
    [`dependence`], as if each row were there so many times.
    """
    right = int(np.count_nonzero(scored.correct))
    fewer = min(right, len(scored) - right) / copies
    return numbers * copies * float(np.clip(0.4 + 60 / max(fewer, 1), 1, 10))


def dependence(after: Scored) -> float:
    """
    By how much a number fitted to outputs of the same samples gains more by chance than one fitted to as many samples
    (Takeuchi, 1976), with probabilities after the fit; never less than 1.
    """
    if not isinstance(after, ScoredOutputs):
        return 1.0
    said, came = after.pairs
    slopes = (said - came) * logit(np.clip(said, 1e-300, 1 - 1e-16))
    sums = np.bincount(after.samples, slopes - slopes.mean())
    return max(1.0, float((sums**2).sum() / max((slopes**2).sum(), 1e-300)))


def is_better(new: HeldOut, old: HeldOut, scored: Scored) -> bool:
    """
    Whether samples, with probabilities before calibration, show that one map is better than another on new data.

    The held-out NLL has to fall by the price of four fitted numbers, summed, and by half a standard error, and the
    accuracy not to fall beyond noise. `benchmarks/calibrators.py` measures what this spares and costs.
    """
    enough = new.gain(old) * len(scored) > least_gain(scored, 4)
    return enough and is_clear(new, old) and not new.costs_accuracy(old)


def is_clear(new: HeldOut, old: HeldOut) -> bool:
    """Whether the held-out NLL is lower by more than half a standard error."""
    return new.gain(old) > 0.5 * new.standard_error(old)
