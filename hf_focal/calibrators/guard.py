# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""When a fitted map is taken: only where the data show that it helps. The rule is that of [`fit_temperature`]."""

from __future__ import annotations

import math

import numpy as np

from ..metrics import Scored


LEAST = 5  # right samples, and wrong ones
DEVIATION = 0.2  # of the logarithm of a temperature, before data are seen
LEAST_GAIN, SMALL_SETS = 1.0, 80.0  # in nats, of all samples together: 1 + 80 / N


def price_of(temperature: float) -> float:
    """What a temperature costs against 1, in nats: a normal prior of its logarithm."""
    return math.log(temperature) ** 2 / (2 * DEVIATION**2)


def what_is_lacking(scored: Scored) -> str:
    """Why these samples, with probabilities before calibration, can tell of no map; `""` where they can."""
    right, count = int(np.count_nonzero(scored.correct)), len(scored)
    for found, word in ((count - right, "wrong"), (right, "right")):
        if found < LEAST:
            few = f"{'none' if found == 0 else f'only {found}'} {'was' if found < 2 else 'were'} {word}"
            samples = "the one validation sample" if count == 1 else f"{count} validation samples"
            return f"of {samples} {few}, and at least five right and five wrong ones are needed to tell."
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
    return (
        f"of {count} validation samples none is of the class {which}, where the model expects about "
        f"{expected.max():.0f}, so that they do not tell of data with all classes."
    )


def is_enough(gain: float, price: float, count: int) -> bool:
    """Whether a gain of the mean NLL of so many samples is more than chance explains, at the price of the map."""
    return count * gain - price > LEAST_GAIN + SMALL_SETS / count
