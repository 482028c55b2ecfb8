# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a map gained on the NLL of data that it was not fitted on, and what the best map known would leave of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..calibrators import Calibrator, Fit, TemperatureScaling
from ..calibrators.base import AUTO, SIGMOID, calibrator_class
from ..calibrators.fit import fit_for_model
from ..calibrators.matrix import MOST_CLASSES
from ..checks import check_logits, check_outputs, parts_of
from ..metrics import METRICS, PairedComparison, Scored, ScoredOutputs, scored_logits
from ..metrics.comparison import compare_scored
from ..metrics.outputs import are_of_outputs
from ..metrics.scored import ScoredLogits
from ..predictions import Predictions
from .tables import cell, with_interval


NLL = METRICS["nll"]
_SMALL = 5e-5  # less is 0.0000 in all tables, and not worth a word
_MOST = 6e7  # what `auto` costs: about ten seconds of two cores; above, reports do without


@dataclass(frozen=True)
class Refinement:
    """
    The NLL of test data after the best map known, which is what the ranking of the classes leaves to be desired: the
    part of the NLL that calibration cannot take away (Berta, Holzmüller, Jordan and Bach, 2025).

    The best map is the model's own, unless the one that `method="auto"` gives on the same validation data has the
    lower NLL on the test data by more than noise.

    Attributes:
        value (`float`): That NLL, in nats per sample.
        calibrator ([`Calibrator`]): The best map.
        further ([`PairedComparison`], *optional*): Of the NLL after the model's own map (A) and after the best (B);
            `None` where the own is the best known.
    """

    value: float
    calibrator: Calibrator
    further: PairedComparison | None = None


def same(validation: Predictions, seen: Predictions) -> bool:
    """Whether these are the same data, on which nothing is left to be told: the map of most numbers always wins."""
    if np.shape(validation.logits) != np.shape(seen.logits):
        return False
    both = zip(parts_of(validation.logits), parts_of(seen.logits), strict=True)
    return all(np.array_equal(one, other, equal_nan=True) for one, other in both)


def best_fit(validation: Predictions, n_bins: int = 15, **options: Any) -> Fit | None:
    """What `method="auto"` gives by the NLL, or `None` where that would take long, or the data are too few."""
    count, classes = np.shape(validation.logits)
    if count * classes * (10 + (classes if classes <= MOST_CLASSES else 0)) > _MOST:
        return None
    try:
        with warnings.catch_warnings():  # they are of a fit that nobody asked for
            warnings.simplefilter("ignore", UserWarning)
            return fit_for_model(validation.logits, validation.labels, AUTO, "nll", n_bins, None, **options)
    except ValueError:  # of one class alone, say
        return None


def refinement_of(
    own: Calibrator, after: Scored, best: Calibrator, seen: Predictions, level: float, groups: ArrayLike | None
) -> Refinement:
    """Of `seen`, which is `after` under the model's own map; `best` is another one, fitted on the same data."""
    if best != own:
        scored = scored_logits(seen.logits, seen.labels, best)
        further = compare_scored(NLL, after, scored, level=level, groups=groups)
        if further.verdict == "b_is_better" and further.difference >= _SMALL:
            return Refinement(float(scored.nll.mean()), best, further)
    return Refinement(float(after.nll.mean()), own)


def temperature_refinement(logits: ArrayLike, labels: ArrayLike) -> float:
    """
    The NLL of data after a temperature that is fitted to these very data, without a guard: by what a checkpoint is
    chosen that is calibrated afterwards ("Rethinking early stopping"; Berta, Holzmüller, Jordan and Bach, 2025).
    """
    if are_of_outputs(logits, labels):
        scores, truth = check_outputs(logits, labels)
        temperature = calibrator_class("temperature", SIGMOID).fit(scores, truth, criterion="nll", n_bins=15)
        return float(ScoredOutputs(scores, truth, temperature).nll.mean())
    array, indices = check_logits(logits, labels)
    fitted = TemperatureScaling.fit(array, indices, criterion="nll", n_bins=15)
    return float(ScoredLogits(array, indices, fitted).nll.mean())


def numbers_of(change: PairedComparison | None) -> dict[str, float] | None:
    """By how much B is below A, with the ends of the interval, for JSON."""
    return None if change is None else {"value": change.difference, "low": change.low, "high": change.high}


def gain_cell(value: float, low: float, high: float) -> str:
    """The same for a table: `0.2050 (0.1960 to 0.2140)`."""
    value, low, high = (one if abs(one) >= _SMALL else 0.0 for one in (value, low, high))  # and no -0.0000
    return with_interval(value, (low, high), NLL.style)


def words_of_gain(fit: Fit, change: PairedComparison | None, after: float, left: Refinement | None) -> str:
    """A sentence on what the map gained, and on what is left; `change` is of the NLL before (A) and after (B) it."""
    if change is None or not np.isfinite([change.difference, change.low, change.high, after]).all():
        return ""
    shown = cell(after, NLL.style)
    further = "a further " if change.verdict == "b_is_better" else ""
    return f"{_gained(fit.calibrator.noun, change, shown)}{_remaining(left, further)}."


def _gained(noun: str, change: PairedComparison, after: str) -> str:
    if max(map(abs, (change.difference, change.low, change.high))) < _SMALL:
        return f"Nothing is gained: the NLL stays {after}"
    lower, ends = change.difference >= 0, (change.low, change.high)
    size = gain_cell(change.difference, *ends) if lower else gain_cell(-change.difference, -ends[1], -ends[0])
    moved = f"the {noun} {'lowers' if lower else 'raises'} the NLL by {size}"
    if change.verdict == "undecided":
        return f"Nothing is gained beyond noise: {moved}, to {after}"
    return f"{moved[0].upper()}{moved[1:]}; {after} is left"


def _remaining(left: Refinement | None, further: str) -> str:
    if left is None:
        return ""
    if left.further is None:
        return ", which no other map of its logits is known to lower"
    size = gain_cell(left.further.difference, left.further.low, left.further.high)
    return f", which --calibrator auto ({left.calibrator.method}) would lower by {further}{size}"
