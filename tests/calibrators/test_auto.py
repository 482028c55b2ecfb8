# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The method that the data choose: what it takes where, what it says, and that it harms nobody."""

import functools

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from hf_focal import fit_calibrator, fit_temperature
from hf_focal.calibrators.guard import is_better
from hf_focal.calibrators.held_out import HeldOut, held_out
from hf_focal.calibrators.temperature import TemperatureScaling
from hf_focal.metrics import Scored


def draw(seed, n, k=6, factor=2.0, shift=0.0, mixed=0.0):
    """Logits of a model that is over-confident by a factor, shifts classes and mixes them up; and labels."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(n, k))
    true = logits @ (np.eye(k) + mixed * np.random.default_rng(1).normal(size=(k, k))) + shift * np.arange(k)
    return factor * logits, (true + generator.gumbel(size=true.shape)).argmax(axis=1)


CASES = {
    "none": {"factor": 1.0},
    "temperature": {},
    "vector": {"shift": 0.25, "seed": 1},
    "matrix": {"mixed": 0.25},
}


@functools.cache
def chosen(case):
    return fit_calibrator(*data_of(case))


def data_of(case, **options):
    return draw(**{"seed": 0, "n": 1500, **CASES[case], **options})


@pytest.mark.parametrize("case", CASES)
def test_it_takes_what_the_data_ask_for(case):
    fit = chosen(case)
    assert fit.method == case and fit.criterion == "nll" and fit.helped is (case != "none") is (fit.why == "")
    fresh, labels = data_of(case, seed=5, n=4000)
    found = -np.log(fit.probabilities(fresh)[np.arange(4000), labels]).mean()
    plain = fit_temperature(*data_of(case)).probabilities(fresh)
    gain = -np.log(plain[np.arange(4000), labels]).mean() - found
    assert gain > 0.01 if case in ("vector", "matrix") else abs(gain) < 1e-12


def test_it_takes_what_is_asked_for_by_name():
    logits, labels = draw(0, 1500)
    assert chosen("temperature") == fit_temperature(logits, labels)
    found = fit_calibrator(*data_of("vector"), "vector")
    assert chosen("vector").calibrator == found.calibrator and chosen("vector").after == found.after
    assert chosen("vector").before == found.before


def test_it_is_the_same_each_time_for_arrays_of_any_kind():
    logits, labels = draw(0, 1500, mixed=0.25)
    assert fit_calibrator(torch.tensor(logits), torch.tensor(labels)).calibrator == chosen("matrix").calibrator
    state = np.random.get_state()[1].copy()
    assert fit_calibrator(logits, labels, "auto") == chosen("matrix")
    assert np.array_equal(np.random.get_state()[1], state)


def test_none_says_why():
    logits, labels = draw(0, 1500, factor=1.0)
    fit = chosen("none")
    assert fit.unchanged and np.allclose(fit.probabilities(logits), softmax(logits, axis=1))
    assert fit.why.startswith("The logits stay as they are: the best one, T = ")
    assert fit.why.endswith("which chance alone may explain, and no other map is known to help.")


@pytest.mark.filterwarnings("ignore:The calibrator is fitted on")
def test_data_that_tell_of_no_map_leave_none_with_the_reason():
    logits, labels = draw(0, 600)
    right = logits.argmax(axis=1) == labels
    for rows, said in (
        (right, "none was wrong"),
        (labels != 3, "none is of the class 3"),
        (labels == 3, "none is of the class"),
        (np.arange(600) < 4, "at least three right and three wrong"),
    ):
        fit = fit_calibrator(logits[rows], labels[rows])
        assert fit.method == "none" and not fit.helped and said in fit.why and fit.why.endswith(".")
    with pytest.warns(UserWarning, match="^The calibrator is fitted on 60 samples; with fewer than 200 it is rough"):
        assert fit_calibrator(3 * logits[:60], labels[:60]).method == "temperature"


def test_it_is_by_the_nll_whatever_the_criterion():
    logits, labels = draw(0, 1500)
    fit = fit_calibrator(logits, labels, criterion="ece")
    assert fit.criterion == "nll" and fit == chosen("temperature")


def test_without_the_guard_a_temperature_is_taken_at_least():
    fit = fit_calibrator(*draw(0, 1500, factor=1.0), guard=False)
    assert fit.method == "temperature" and fit.temperature != 1 and not fit.helped and "not known to help" in fit.why
    with pytest.raises(ValueError, match="guard must be True, False or None"):
        fit_calibrator(*draw(0, 300), guard="yes")


def test_without_an_intercept_there_is_no_shift():
    fit = fit_calibrator(*draw(0, 1500, mixed=0.25), intercept=False)
    assert fit.method == "matrix" and fit.calibrator.shift == () and fit.calibrator.affine(6).shift is None
    assert fit_calibrator(*draw(0, 1500), intercept=False) == chosen("temperature")


def test_of_more_than_a_hundred_classes_there_is_no_matrix():
    fit = fit_calibrator(*draw(0, 3000, 120, shift=0.01))
    assert fit.method == "vector"


def test_masks_stay():
    logits, labels = draw(0, 1500, shift=0.25)
    hidden = np.random.default_rng(0).random(logits.shape) < 0.2
    hidden[np.arange(1500), labels] = False
    fit = fit_calibrator(np.where(hidden, -np.inf, logits), labels)
    assert np.array_equal(fit.probabilities(np.where(hidden, -np.inf, logits)) == 0, hidden)


@pytest.mark.filterwarnings("ignore:The .* is fitted on")
@pytest.mark.parametrize("n", [50, 300])
def test_it_is_practically_never_worse_than_a_temperature(n):
    """A small form of benchmarks/calibrators.py: the NLL of new data, in expectation over their labels."""
    fresh, _ = draw(2, 3000, 4, factor=1.0)
    changes = []
    for seed in range(6):
        for factor, shift in ((1.0, 0.0), (2.0, 0.0), (1.5, 0.05)):
            posterior = softmax(fresh + shift * np.arange(4), axis=1)

            def nll(fit, posterior=posterior, factor=factor):
                logits = fit.calibrator.calibrated_logits(factor * fresh)
                return -(posterior * log_softmax(logits, axis=1)).sum(axis=1).mean()

            data = draw([seed, n], n, 4, factor, shift)
            changes.append(nll(fit_calibrator(*data)) / nll(fit_temperature(*data)) - 1)
    assert np.mean(changes) < 0.001 and np.mean(np.array(changes) > 0.01) < 0.05


def test_on_a_network_of_images_it_keeps_most_of_what_can_be_had(test_data):
    """The NLL of probmetrics' `sms` on these test data is 0.2206; a temperature has 0.2251."""
    with np.load(test_data / "logits" / "cifar10_densenet40.npz") as arrays:
        logits, labels, fresh, true = (
            arrays[f"{part}_{what}"] for part in ("val", "test") for what in ("logits", "labels")
        )
    fit = fit_calibrator(logits, labels)
    nll = -np.log(fit.probabilities(fresh)[np.arange(len(true)), true]).mean()
    assert fit.method == "matrix" and nll < 0.2251 - 0.8 * (0.2251 - 0.2206)
    assert (fit.probabilities(fresh).argmax(axis=1) == true).mean() > (fresh.argmax(axis=1) == true).mean()


# ---- Folds and the rule ---------------------------------------------------------------------------------------------


def test_each_row_is_judged_by_a_fit_that_has_not_seen_it():
    logits, labels = draw(3, 97)
    seen = []

    def fits(some, true):
        seen.append(some[:, 0].tolist())
        return {"it": TemperatureScaling(1.0)}

    rows = held_out(fits, logits, labels, repeats=2)["it"]
    assert len(seen) == 20 and all(len(one) in (87, 88) for one in seen)
    for first in (0, 10):
        left_out = [set(logits[:, 0]) - set(one) for one in seen[first : first + 10]]
        assert sum(map(len, left_out)) == 97 and set().union(*left_out) == set(logits[:, 0])
    scored = Scored.from_logits(logits, labels)
    assert np.allclose(rows.nll, scored.nll) and np.allclose(rows.right, scored.correct)


def test_a_gain_has_to_be_that_of_the_rule():
    scored = Scored.from_logits(*draw(4, 1000))
    old = HeldOut(scored.nll, scored.correct.astype(float))
    fewer = min(scored.correct.sum(), (~scored.correct).sum())
    price = 4 * np.clip(0.4 + 60 / fewer, 1, 10) / 1000
    for factor, better in ((1.01, True), (0.99, False), (-1, False)):
        assert is_better(HeldOut(old.nll - factor * price, old.right), old, scored) is better
    spread = np.where(np.arange(1000) % 2, 1.0, -1.0) * np.sqrt(1000)  # a standard error of 1
    for gain, better in ((0.51, True), (0.49, False)):
        assert is_better(HeldOut(old.nll - gain - spread, old.right), old, scored) is better
    for lost, better in ((2, True), (3, False)):  # of as many rows that differ: 3 > 1.645 * sqrt(3)
        right = old.right.copy()
        right[np.flatnonzero(right)[:lost]] = 0
        assert is_better(HeldOut(old.nll - 1, right), old, scored) is better
