# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Calibrators of heads whose labels each have a probability of their own, against other solvers and the truth."""

import json
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from hf_focal import SIGMOID_CALIBRATORS, calibrator_of, fit_calibrator, fit_temperature
from hf_focal.calibrators.fit import fit_for_model
from hf_focal.calibrators.platt import PlattScaling
from hf_focal.calibrators.shrunk import Shrunk, _restricted, fit_shrunk, overlaps, penalised_nll


def drawn(seed, count, labels=6, scale=1.0, shift=0.0, means=None):
    """Logits that are off by a factor and a shift of each label, with labels from the sigmoids of true ones."""
    generator = np.random.default_rng(seed)
    means = np.linspace(-4.0, 0.0, labels) if means is None else means
    true = means + 2 * generator.normal(size=(count, labels))
    return scale * true + shift, (generator.random(true.shape) < expit(true)).astype(np.int64)


OWN = {"scale": np.array([1.0, 1.8, 0.6, 1.0, 1.4, 0.8]), "shift": np.array([0.0, 1.0, -1.0, 2.0, -0.5, 0.5])}


def nll(logits, labels, scale=1.0, shift=0.0):
    scores = logits * scale + shift
    return np.where(labels == -100, 0.0, np.logaddexp(0.0, scores) - (labels == 1) * scores)


# ---- The fit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("intercept", [True, False])
def test_one_logit_is_plain_logistic_regression(intercept):
    logits, labels = drawn(0, 700, 1, 2.5, 1.0)
    found = fit_shrunk(logits, labels, intercept)
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000, fit_intercept=intercept).fit(logits, labels[:, 0])
    np.testing.assert_allclose(found.scale, peer.coef_[0], rtol=1e-5)
    np.testing.assert_allclose(found.shift, peer.intercept_ if intercept else [0.0], rtol=1e-4)
    assert found.shared.tolist() == pytest.approx([found.scale[0], found.shift[0]], rel=1e-12)


@pytest.mark.parametrize("kind", ["own", "alike", "missing", "wide", "without a shift"])
def test_the_fit_is_where_no_number_makes_it_smaller(kind):
    logits, labels = drawn(1, 400, **(OWN if kind != "alike" else {"scale": 2.0}))
    if kind == "missing":
        labels[np.random.default_rng(0).random(labels.shape) < 0.3] = -100
    if kind == "wide":
        logits = 1000 * logits
    found = fit_shrunk(logits, labels, kind != "without a shift", spread=np.array([0.2, 0.7]) * [kind != "wide", 1])
    free = [slice(0, 6)] + ([slice(6, 12)] if kind != "without a shift" else [])

    def price(numbers):
        scale, shift, shared = numbers[:6], numbers[6:12], numbers[12:]
        spread = found.spread if kind != "without a shift" else found.spread * [1, 0]
        return penalised_nll(Shrunk(scale, shift, shared, spread, found.centres), logits, labels)

    best = np.concatenate([found.scale, found.shift, found.shared])
    lowest = price(best)
    generator = np.random.default_rng(0)
    for _ in range(50):  # along directions that keep what may not move: slopes without a spread move together
        step = np.zeros(14)
        for part in free:
            step[part] = generator.normal(size=6)
        step[12] = generator.normal()
        step[13] = generator.normal() if kind != "without a shift" else 0.0
        if kind == "wide":
            step[:6] = step[12]
        step[:6], step[12] = step[:6] / np.abs(logits).mean(), step[12] / np.abs(logits).mean()
        for size in (1e-3, 1e-4):
            ahead, behind = price(best + size * step), price(best - size * step)
            assert min(ahead, behind) > lowest - 1e-9 * abs(lowest)
            assert abs(ahead - behind) / (2 * size) < 1e-4 * max(ahead + behind - 2 * lowest, 0) / size**2 + 1e-5


def test_the_fit_is_that_of_a_search_of_scipy():
    logits, labels = drawn(2, 300, 4, np.array([1.0, 2.0, 0.7, 1.5]), np.array([0.0, 1.0, -1.0, 0.5]))
    found = fit_shrunk(logits, labels, spread=np.array([0.3, 0.5]))

    def price(numbers):
        fit = Shrunk(numbers[:4], numbers[4:8], numbers[8:], found.spread, found.centres)
        return penalised_nll(fit, logits, labels)

    best = np.concatenate([found.scale, found.shift, found.shared])
    start = np.concatenate([np.ones(4), np.zeros(4), [1.0, 0.0]])
    other = minimize(price, start, method="BFGS", options={"gtol": 1e-6})
    assert price(best) <= other.fun + 1e-9
    np.testing.assert_allclose(best, other.x, atol=2e-4)


def test_the_spread_is_that_of_the_data():
    means = np.full(40, -1.0)
    for true in (0.0, 0.3, 1.0):
        shift = true * np.random.default_rng(3).normal(size=40)
        logits, labels = drawn(4, 1500, 40, 1.0, shift, means)
        found = fit_shrunk(logits, labels)
        assert found.spread[1] == pytest.approx(shift.std(ddof=1), abs=0.05)
        assert found.spread[0] < 0.08
    off, variances = np.array([0.3, -0.2, 0.5, 0.1]), np.array([0.1, 0.2, 0.05, 0.4])
    # Integrated over the mean by hand: restricted likelihood is the likelihood of what is left of it.
    grid = np.linspace(-30, 30, 200_001)
    density = np.exp(-0.5 * ((off[:, None] - grid) ** 2 / variances[:, None]).sum(0)) / np.sqrt(variances.prod())
    marginal = np.trapezoid(density, grid) / np.sqrt(2 * np.pi)
    assert _restricted(off, variances) == pytest.approx(-2 * np.log(marginal), rel=1e-9)


def test_labels_that_differ_by_chance_alone_share_a_map():
    logits, labels = drawn(5, 800, 12, 2.0, 0.5)
    found = fit_shrunk(logits, labels)
    pooled = LogisticRegression(C=np.inf, tol=1e-10).fit(logits.reshape(-1, 1), labels.ravel())
    assert np.abs(found.scale - pooled.coef_[0, 0]).max() < 0.03
    assert np.abs(found.shift - pooled.intercept_).max() < 0.12


def test_a_label_with_three_positives_stays_close_to_the_shared_map_and_one_with_many_does_not():
    means = np.array([*np.linspace(-3, 0, 9), -7.0])
    shift = np.append(0.5 * np.random.default_rng(0).normal(size=9), 0.0)
    logits, labels = drawn(6, 3000, 10, 1.0, shift, means)
    rare = np.flatnonzero(labels[:, 9])[3:]
    labels[rare, 9] = 0
    assert labels[:, 9].sum() == 3
    alone = fit_shrunk(logits[:, 9:], labels[:, 9:])
    found = fit_shrunk(logits, labels)
    fresh = np.linspace(-12, 4, 50)
    shared = fresh * found.shared[0] + found.shared[1]
    off = np.abs(fresh * found.scale[9] + found.shift[9] - shared).max()
    assert off < 2 < np.abs(fresh * alone.scale[0] + alone.shift[0] - shared).max()
    height = found.scale * found.centres + found.shift
    assert np.abs(height[:9] + shift[:9] - found.centres[:9]).max() < 0.25


def test_the_temperature_is_that_of_smallest_nll():
    logits, labels = drawn(7, 500, 5, 1.7)
    labels[:50, 2] = -100
    fit = fit_temperature(logits, labels)
    best = minimize_scalar(lambda t: nll(logits / t, labels).sum(), bounds=(0.5, 5), options={"xatol": 1e-10})
    assert fit.temperature == pytest.approx(best.x, rel=1e-6) and fit.helped
    assert fit.calibrator.to_record() == {"temperature": fit.temperature, "activation": "sigmoid"}
    before = nll(logits, labels).sum() / (labels != -100).sum()
    assert fit.before["nll"] == pytest.approx(before, rel=1e-12)
    assert fit.probabilities(logits) == pytest.approx(expit(logits / fit.temperature), rel=1e-12)


# ---- The guard ------------------------------------------------------------------------------------------------------


def test_calibrated_logits_are_left_alone():
    logits, labels = drawn(8, 1000)
    for method in ("temperature", "platt", "auto"):
        fit = fit_calibrator(logits, labels, method)
        assert fit.unchanged and "would" in fit.why, method
        assert np.array_equal(fit.probabilities(logits), expit(logits))
    assert fit.method == "none" and fit.calibrator.is_sigmoid


def test_auto_takes_what_the_labels_call_for():
    factor = fit_calibrator(*drawn(9, 800, scale=2.0))
    assert factor.method == "temperature" and factor.helped and 1.8 < factor.temperature < 2.2
    logits, labels = drawn(10, 1500, **OWN)
    fit = fit_calibrator(logits, labels)
    assert fit.method == "platt" and fit.helped and fit.why == ""
    new, true = drawn(11, 20_000, **OWN)
    best = nll((new - OWN["shift"]) / OWN["scale"], true).mean()
    after, before = nll(fit.calibrator.calibrated_logits(new), true).mean(), nll(new, true).mean()
    assert after - best < 0.1 * (before - best)


def test_each_label_has_its_own_map_only_where_the_data_show_that_it_helps():
    means, shift = np.full(8, -1.0), np.array([0.0] * 7 + [3.0])
    logits, labels = drawn(12, 1000, 8, 1.0, shift, means)
    calibrator = fit_calibrator(logits, labels, "platt").calibrator
    kept = {label for labels in calibrator.kept.values() for label in labels}
    assert 7 not in kept and len(kept) >= 4
    for name, value in (("shared", calibrator.shared), ("none", (1.0, 0.0))):
        for label in calibrator.kept[name]:
            assert (calibrator.scale[label], calibrator.shift[label]) == value
    assert "labels (" in calibrator.words or "Label " in calibrator.words


def test_labels_that_are_never_or_always_right_share_the_map_of_the_others():
    logits, labels = drawn(13, 600, scale=2.0, shift=0.5)
    labels[:, 0], labels[:, 5] = 0, 1
    fit = fit_calibrator(logits, labels, "platt")
    assert np.isfinite(fit.calibrator.scale).all() and {0, 5} <= set(fit.calibrator.kept["shared"])
    assert "the scale and shift that all share" in fit.calibrator.words


def test_labels_of_a_sample_count_as_one():
    """Copies of one label say nothing that it does not say itself."""
    harm = []
    for seed in range(20):
        logits, labels = drawn(seed, 60, 1, means=np.zeros(1))
        copies = [np.tile(one, (1, 20)) for one in (logits, labels)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            harm.append([fit_temperature(*data).helped for data in ((logits, labels), copies)])
    once, often = np.mean(harm, axis=0)
    assert often <= once + 0.05 < 0.5


def test_rare_labels_are_not_harmed_and_the_gain_is_kept():
    """The NLL of new data under known probabilities, over validation sets that say little of the rare labels."""
    means, generator = np.linspace(-9.0, -1.0, 10), np.random.default_rng(0)
    changes, gains = [], []
    for seed in range(3):
        shift = 0.8 * generator.normal(size=10)
        logits, labels = drawn(100 + seed, 400, 10, 1.5, shift, means)
        new, _ = drawn(200 + seed, 4000, 10, 1.5, shift, means)
        true = expit((new - shift) / 1.5)

        def expected(scores, true=true):
            return (np.logaddexp(0.0, scores) - true * scores).mean(axis=0)

        fit = fit_calibrator(logits, labels)
        changes.append(expected(fit.calibrator.calibrated_logits(new)) - expected(new))
        gains.append(expected(new) - expected((new - shift) / 1.5))
    change, gain = np.mean(changes, axis=0), np.mean(gains, axis=0)
    assert -change.sum() > 0.8 * gain.sum() and change[:3].max() < 0.002


def test_logits_that_the_labels_do_not_determine_are_left_alone():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(300, 3))
    perfect = (logits > 0.3).astype(int)
    assert not overlaps(logits, perfect)
    with pytest.warns(UserWarning, match="the model is left as it is"):
        fit = fit_for_model(logits, perfect, "platt", "nll", 15, False)
    assert fit.unchanged and "no scale is the best" in fit.why
    with pytest.warns(UserWarning, match="No scale is the best"):
        assert fit_calibrator(logits, perfect, "platt", guard=False).at_end
    logits, labels = drawn(0, 500)
    fit = fit_calibrator(-logits, labels, "platt")
    assert fit.unchanged and "the logits do not rise with the labels" in fit.why
    assert fit_calibrator(-logits, labels).unchanged


# ---- What is taken, and refused -------------------------------------------------------------------------------------


def test_labels_come_in_many_types():
    logits, labels = drawn(14, 400, scale=2.0)
    expected = fit_calibrator(logits, labels, "temperature").calibrator
    for given in (labels.astype(bool), labels.astype(np.float32), torch.tensor(labels).half(), labels.tolist()):
        assert fit_calibrator(torch.tensor(logits), given, "temperature").calibrator == expected
    unknown, as_nan = labels.copy(), labels.astype(float)
    unknown[::3, 1], as_nan[::3, 1] = -100, np.nan
    unknown[5], as_nan[5] = -100, np.nan
    fits = [fit_calibrator(logits, one, "platt") for one in (unknown, as_nan)]
    assert fits[0].calibrator == fits[1].calibrator and fits[0].n_samples == 399
    one = fit_calibrator(logits[:, 3:4], labels[:, 3], "platt")
    assert one.calibrator == fit_calibrator(logits[:, 3:4], labels[:, 3:4], "platt").calibrator
    half = fit_calibrator(torch.tensor(logits).bfloat16(), labels, "temperature").calibrator
    assert half.temperature == pytest.approx(expected.temperature, rel=1e-3)


@pytest.mark.parametrize("method", ["vector", "matrix", "bias", "focal"])
def test_methods_for_one_softmax_are_refused(method):
    with pytest.raises(ValueError, match=f"method='{method}' is for one softmax.*auto, none, temperature, platt"):
        fit_calibrator(*drawn(0, 100), method)


def test_what_cannot_be_is_refused():
    logits, labels = drawn(0, 300)
    with pytest.raises(ValueError, match="method='platt' is for heads whose labels each.*For one softmax.*vector"):
        fit_calibrator(logits, labels.argmax(axis=1), "platt")
    with pytest.raises(ValueError, match="must be 0 or 1, or -100.*got 2"):
        fit_calibrator(logits, labels + 1, "platt")
    with pytest.raises(ValueError, match="must be finite.*row 3"):
        fit_calibrator(np.where(np.arange(300)[:, None] == 3, np.inf, logits), labels, "platt")
    with pytest.raises(ValueError, match="nothing is known of any of the 300 samples"):
        fit_calibrator(logits, np.full(labels.shape, -100), "platt")
    with pytest.raises(ValueError, match="needs outputs with a label and outputs without it.* all 0"):
        fit_calibrator(logits, 0 * labels, "platt")
    with pytest.raises(ValueError, match="gamma=1.0 is an option of no method"):
        fit_calibrator(logits, labels, "platt", gamma=1.0)
    with pytest.warns(UserWarning, match="look like sigmoid outputs"):
        fit_calibrator(expit(logits), labels, "none")


def test_one_hot_labels_may_be_of_a_softmax():
    logits, labels = drawn(0, 300)
    hot = np.eye(6, dtype=int)[labels.argmax(axis=1)]
    with pytest.raises(ValueError, match="not one-hot"):
        fit_calibrator(logits, hot)
    assert fit_calibrator(logits, hot, "platt").calibrator.is_sigmoid
    assert fit_for_model(logits, hot, "auto", "nll", 15, None).calibrator.is_sigmoid


def test_records_are_json_and_come_back():
    logits, labels = drawn(15, 500, **OWN)
    for method in (*SIGMOID_CALIBRATORS, "none"):
        calibrator = fit_calibrator(logits, labels, method).calibrator
        record = json.loads(json.dumps({"method": method, **calibrator.to_record()}))
        assert record["activation"] == "sigmoid" and calibrator_of(record) == calibrator
        assert np.array_equal(calibrator_of(record).probabilities(logits), calibrator.probabilities(logits))
        assert calibrator_of(record).probabilities(torch.tensor(logits)).shape == logits.shape
    assert calibrator_of({"method": "platt", "activation": "sigmoid", "scale": [2.0], "shift": []}).shared == ()
    for bad in ([1.0], [1.0, 2.0, 3.0], "no", [float("nan"), 1.0]):
        with pytest.raises(ValueError, match="shared"):
            calibrator_of({"method": "platt", "activation": "sigmoid", "scale": [2.0], "shift": [], "shared": bad})


@pytest.mark.parametrize("size", [1 << 22, 10])
def test_many_logits_give_the_same_in_blocks(size, monkeypatch):
    logits, labels = drawn(16, 500, 3, 2.0, 1.0)
    expected = fit_shrunk(logits, labels)
    monkeypatch.setattr("hf_focal.calibrators.shrunk._KEPT", size)
    monkeypatch.setattr("hf_focal.calibrators.shrunk._CHUNK", 100)
    found = fit_shrunk(logits.astype(np.float32), labels)
    np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-5)
    many = PlattScaling.fit(np.tile(logits, (1, 50)), np.tile(labels, (1, 50)), criterion="nll", n_bins=15)
    assert len(many.scale) == 150 and np.isfinite(many.scale).all()
