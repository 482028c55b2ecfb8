# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""All calibrators side by side on one's own logits: fitted on one part of them, measured on another."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import check_groups, leave_out_masked
from ..calibrators import CALIBRATORS, SIGMOID_CALIBRATORS, Fit, fit_calibrator
from ..calibrators.base import AUTO, NONE, SIGMOID, SOFTMAX, check_method
from ..calibrators.fit import fit_for_model
from ..calibrators.matrix import MOST_CLASSES
from ..checks import check_logits, check_n_bins, check_outputs
from ..metrics import METRICS, NoiseFloor, PairedComparison, ScoredOutputs, measure
from ..metrics.comparison import compare_scored
from ..metrics.intervals import interval_of
from ..metrics.noise import floor_of
from ..metrics.scored import ScoredLogits
from ..predictions import Predictions
from ..progress import progress
from .gain import NLL, gain_cell
from .plots.calibrators import draw_calibrators
from .report import LEVEL
from .tables import cell, fill, split_table, text_table


if TYPE_CHECKING:
    from matplotlib.figure import Figure


REFERENCE = "temperature"
ECE = METRICS["ece"]


@dataclass(frozen=True)
class Candidate:
    """
    What one method did.

    Attributes:
        method (`str`): What was asked for.
        fit ([`Fit`], *optional*): Its fit to the validation data; `None` where that could not be.
        why (`str`): The reason, as a sentence, or why the fit left the probabilities alone.
        seconds (`float`): What the fit took, the guard and, of `auto`, the choice included.
        values (`dict[str, float]`): Every metric on the test data.
        floor ([`NoiseFloor`], *optional*): Of the ECE: what chance alone would show.
        ece_interval (`tuple[float, float]`): Of the true ECE, 90%.
        gain ([`PairedComparison`], *optional*): Of the NLL after a temperature (A) and after this one (B); `None` of
            the temperature itself.
    """

    method: str
    fit: Fit | None = None
    why: str = ""
    seconds: float = 0.0
    values: dict[str, float] | None = None
    floor: NoiseFloor | None = None
    ece_interval: tuple[float, float] = (0.0, 0.0)
    gain: PairedComparison | None = None

    def cells(self) -> list[str]:
        """Its line of the table."""
        if self.values is None or self.floor is None:
            return [self.method, *["-"] * 6]
        noise = "~" if self.values["ece"] <= self.floor.high else ""
        scores = [cell(self.values[key], METRICS[key].style) for key in ("nll", "brier")]
        taken = f"{self.seconds:.{2 if self.seconds < 10 else 0}f}"
        numbers = [*scores, cell(self.values["ece"]) + noise, cell(1 - self.values["accuracy"]), taken]
        gain = self.gain
        return [self.method, *numbers, "" if gain is None else gain_cell(gain.difference, gain.low, gain.high)]


@dataclass(frozen=True)
class CalibratorComparison:
    """
    What [`compare_calibrators`] found; printed, it is a table of at most 80 columns.

    Attributes:
        candidates (`list[Candidate]`): One for each method, in order.
        n_fitted, n_measured (`int`): Number of rows of the validation and of the test data.
    """

    candidates: list[Candidate]
    n_fitted: int
    n_measured: int

    def __getitem__(self, method: str) -> Candidate:
        return {one.method: one for one in self.candidates}[method]

    def notes(self) -> Iterator[str]:
        """What the table does not say."""
        if any(one.values and one.floor and one.values["ece"] <= one.floor.high for one in self.candidates):
            yield "~: no more than chance alone would show of a perfectly calibrated model."
        for one in self.candidates:
            if one.method == AUTO and one.fit is not None:
                yield f"auto: chose {one.fit.method}. {one.why}".rstrip()
            elif one.why and one.method != NONE:
                yield f"{one.method}: {one.why}"

    def __str__(self) -> str:
        head = f"Fitted on {self.n_fitted} samples, measured on {self.n_measured}; gains with {LEVEL:.0%} intervals."
        titles = ["method", "NLL", "Brier", "ECE", "error", "sec", "NLL gain over temperature"]
        table = split_table(text_table, titles, (one.cells() for one in self.candidates), named=1)
        return "\n".join([head, "", table, "", *(fill(note, indent="  ") for note in self.notes())])

    def diagram(self) -> Figure:
        """The gains over a temperature, and the ECE beside what chance would show, one line for each method."""
        return draw_calibrators(
            {
                one.method: (one.gain, one.values["ece"], one.ece_interval, one.floor)
                for one in self.candidates
                if one.values is not None and one.floor is not None
            },
            LEVEL,
        )


def compare_calibrators(
    validation: Predictions, test: Predictions, methods: Sequence[str] | None = None, *, n_bins: int = 15
) -> CalibratorComparison:
    """
    Fit calibrators to the logits of a model on validation data, and measure each on test data.

    Args:
        validation, test ([`Predictions`]):
            Logits before any calibration, and labels, of data that the model was not trained on. Where `test` has
            groups, all that is said of noise is of whole groups.
        methods (`Sequence[str]`, *optional*):
            Names of methods, as for [`fit_calibrator`]; `temperature`, which the gains are over, is always there. By
            default `none`, all of `hf_focal.CALIBRATORS` (`matrix` for at most 100 classes), and `auto`; of sigmoid
            heads all of `hf_focal.SIGMOID_CALIBRATORS`.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins of the ECE.

    Returns:
        [`CalibratorComparison`]: `print` shows the table, `diagram()` draws the picture.

    Raises:
        ValueError: If a method is unknown, the two parts are of different numbers of classes or the same data, the
            test data are of one sample or group, or as [`fit_calibrator`] of a temperature.
    """
    if validation.is_sigmoid != test.is_sigmoid:
        raise ValueError("The one data are of a sigmoid head and the others of a softmax: give logits of one model.")
    n_bins = check_n_bins(n_bins)
    chosen = _methods(methods, np.shape(validation.logits)[-1], SIGMOID if test.is_sigmoid else SOFTMAX)
    fitted, (logits, labels, groups) = _checked(validation, "validation")[:2], _checked(test, "test")
    if fitted[0].shape[1] != logits.shape[1]:
        raise ValueError(
            f"The validation data have {fitted[0].shape[1]} classes and the test data {logits.shape[1]}: give logits "
            "of one model."
        )
    if np.array_equal(fitted[0], logits):
        raise ValueError(
            "The validation and the test data are the same, so that the map of most numbers would win. Give other "
            "data to measure on."
        )
    if (len(labels) if groups is None else len(np.unique(groups))) < 2:
        raise ValueError("The test data are of one sample or group alone, of which no noise can be told.")
    fits = {method: _fit(method, *fitted, n_bins) for method in progress(chosen, "fits")}
    kind = ScoredOutputs if test.is_sigmoid else ScoredLogits
    scored = {method: kind(logits, labels, one.fit.calibrator) for method, one in fits.items() if one.fit}
    if REFERENCE not in scored:
        raise ValueError(fits[REFERENCE].why)
    candidates = []
    for method, found in progress(fits.items(), "measured", len(fits)):
        if method not in scored:
            candidates.append(found)
            continue
        one, change = scored[method], None
        if method != REFERENCE:
            change = compare_scored(NLL, scored[REFERENCE], one, n_bins, LEVEL, groups)
        candidates.append(
            Candidate(
                method, found.fit, found.why, found.seconds, measure(one, n_bins),
                floor_of(ECE, one, n_bins, LEVEL, groups), interval_of(ECE, one, n_bins, LEVEL, groups), change,
            )
        )  # fmt: skip
    return CalibratorComparison(candidates, len(fitted[1]), len(labels))


def _methods(methods: Sequence[str] | None, num_labels: int, activation: str) -> list[str]:
    if methods is None:
        known = SIGMOID_CALIBRATORS if activation == SIGMOID else CALIBRATORS
        return [NONE, *(method for method in known if method != "matrix" or num_labels <= MOST_CLASSES), AUTO]
    chosen = [*dict.fromkeys(check_method(method, activation) for method in methods)]
    return chosen if REFERENCE in chosen else [REFERENCE, *chosen]


def _checked(part: Predictions, name: str) -> tuple[Any, Any, Any]:
    logits, labels, groups = leave_out_masked(logits=part.logits, labels=part.labels, groups=part.groups)
    check = check_outputs if part.is_sigmoid else check_logits
    array, indices = check(logits, labels, f"the {name} logits")
    return array, indices, None if groups is None else check_groups(groups, len(indices))


def _fit(method: str, logits: Any, labels: Any, n_bins: int) -> Candidate:
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of few samples, whose number the table tells
            if np.ndim(labels) == 2:  # whatever they look like
                fit = fit_for_model(logits, labels, method, "nll", n_bins, None)
            else:
                fit = fit_calibrator(logits, labels, method, n_bins=n_bins)
    except ValueError as error:  # of this method alone, such as too many classes
        return Candidate(method, None, str(error))
    return Candidate(method, fit, fit.why, time.perf_counter() - start)
