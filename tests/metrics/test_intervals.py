# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Bootstrap intervals: what is summed per sample gives the interval of the plain loop over resampled rows."""

import functools
import math
from functools import partial

import numpy as np
import pytest
from scipy.special import softmax

import hf_focal.metrics.classwise_ece
import hf_focal.progress
from hf_focal import bootstrap_interval, confidence_interval, metrics, paired_bootstrap
from hf_focal.metrics import METRICS


FUNCTIONS = {
    "accuracy": metrics.accuracy,
    "nll": metrics.negative_log_likelihood,
    "brier": metrics.brier_score,
    "ece": metrics.expected_calibration_error,
    "mce": metrics.maximum_calibration_error,
    "adaptive_ece": metrics.adaptive_calibration_error,
    "classwise_ece": metrics.classwise_calibration_error,
}
BINNED = [key for key, metric in METRICS.items() if metric.binned]


def draw(seed, n=200, k=4, sharpness=2.0, digits=None):
    """Probabilities, rounded to few digits so that confidences tie and lie on edges, and labels drawn from them."""
    generator = np.random.default_rng(seed)
    logits = sharpness * generator.normal(size=(n, k))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    probabilities = softmax(logits, axis=1)
    if digits is not None:
        probabilities = probabilities.round(digits) + 1e-3  # no zero: the NLL stays finite
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return probabilities, labels


def plain_values(function, probabilities, labels, n_resamples, seed):
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(n_resamples):
        rows = generator.integers(0, len(labels), len(labels))
        values.append(function(probabilities[rows], labels[rows]))
    return np.array(values)


@pytest.mark.parametrize("digits", [None, 1])
@pytest.mark.parametrize("method", ["percentile", "basic"])
@pytest.mark.parametrize("key", METRICS)
def test_interval_is_that_of_the_plain_loop(key, method, digits):
    probabilities, labels = draw(0, digits=digits)
    values = plain_values(FUNCTIONS[key], probabilities, labels, 60, seed=3)
    low, high = np.quantile(values, [0.1, 0.9])
    if method == "basic":
        estimate = FUNCTIONS[key](probabilities, labels)
        low, high = 2 * estimate - high, 2 * estimate - low
    actual = bootstrap_interval(key, probabilities, labels, 0.8, 60, method, seed=3)
    assert actual == pytest.approx((low, high), abs=1e-12)
    assert low < high


@pytest.mark.parametrize("key", METRICS)
def test_key_function_and_any_other_callable_give_the_same_interval(key):
    probabilities, labels = draw(1)
    expected = bootstrap_interval(key, probabilities, labels, n_resamples=20)
    assert bootstrap_interval(FUNCTIONS[key], probabilities, labels, n_resamples=20) == expected
    wrapped = functools.partial(FUNCTIONS[key])
    assert bootstrap_interval(wrapped, probabilities, labels, n_resamples=20) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("key", BINNED)
def test_number_of_bins_is_heeded(key):
    probabilities, labels = draw(2)
    plain = functools.partial(FUNCTIONS[key], n_bins=3)
    expected = np.quantile(plain_values(plain, probabilities, labels, 20, 0), [0.05, 0.95])
    assert bootstrap_interval(key, probabilities, labels, n_resamples=20, n_bins=3) == pytest.approx(expected)
    assert bootstrap_interval(key, probabilities, labels, n_resamples=20) != pytest.approx(expected)


def test_classwise_interval_of_large_arrays_is_the_same(monkeypatch):
    probabilities, labels = draw(3)
    expected = bootstrap_interval("classwise_ece", probabilities, labels, n_resamples=20)
    monkeypatch.setattr(hf_focal.metrics.classwise_ece, "_SPARSE_LIMIT", 10)
    actual = bootstrap_interval("classwise_ece", probabilities, labels, n_resamples=20)
    assert actual == pytest.approx(expected, abs=1e-12)


def test_seed_decides_the_resamples():
    probabilities, labels = draw(4)
    first, again, other = (bootstrap_interval("ece", probabilities, labels, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_higher_levels_give_wider_intervals():
    probabilities, labels = draw(5)
    intervals = [bootstrap_interval("ece", probabilities, labels, level) for level in (0.5, 0.9, 0.99)]
    assert intervals[0][0] > intervals[1][0] > intervals[2][0]
    assert intervals[0][1] < intervals[1][1] < intervals[2][1]


@pytest.mark.parametrize("method", ["percentile", "basic"])
def test_ninety_percent_interval_of_accuracy_covers_the_truth_about_that_often(method):
    generator = np.random.default_rng(6)
    covered = 0
    for seed in range(200):
        hits = generator.uniform(size=200) < 0.7
        probabilities = np.tile([0.6, 0.4], (200, 1))
        low, high = bootstrap_interval("accuracy", probabilities, 1 - hits, n_resamples=200, method=method, seed=seed)
        covered += low <= 0.7 <= high
    assert 165 <= covered <= 193  # binomial(200, 0.9): four standard deviations


@pytest.mark.parametrize("interval", [bootstrap_interval, confidence_interval])
def test_one_sample_or_one_group_has_no_interval(interval):
    with pytest.raises(ValueError, match="An interval needs at least 2 samples, got 1"):
        interval("brier", [[0.8, 0.2]], [0])
    with pytest.raises(ValueError, match="An interval needs at least 2 groups, got 1"):
        interval("ece", [[0.8, 0.2]] * 3, [0, 1, 0], groups=[7, 7, 7])


@pytest.mark.parametrize("interval", [bootstrap_interval, partial(bootstrap_interval, method="basic"),
                                      confidence_interval])  # fmt: skip
def test_nll_interval_reaches_infinity_where_true_classes_have_probability_zero(interval):
    probabilities, labels = [[1.0, 0.0]] + [[0.5, 0.5]] * 3, [1, 0, 0, 0]
    low, high = interval("nll", probabilities, labels)
    assert low == pytest.approx(math.log(2)) and high == math.inf


def test_a_bootstrap_shows_its_progress_in_a_terminal_where_it_takes_long(capsys, monkeypatch):
    probabilities, labels = draw(7)
    own = functools.partial(bootstrap_interval, lambda p, y: float(p[:, 0].mean()), n_resamples=5)
    monkeypatch.setattr(hf_focal.progress, "_is_terminal", lambda: True)
    assert own(probabilities, labels)[0] > 0 and capsys.readouterr().err == ""
    monkeypatch.setattr(hf_focal.progress, "DELAY", 0.0)
    assert own(probabilities, labels)[0] > 0 and "bootstrap" in capsys.readouterr().err


# ---- Two models -----------------------------------------------------------------------------------------------------


def sharpened(probabilities, power):
    powers = probabilities**power
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("key", ["accuracy", "nll", "brier"])
def test_paired_difference_is_that_of_the_plain_loop(key):
    good, labels = draw(8)
    bad = sharpened(good, 3)
    a, b = (plain_values(FUNCTIONS[key], p, labels, 40, seed=2) for p in (good, bad))
    actual = paired_bootstrap(key, good, bad, labels, 0.8, 40, seed=2)
    expected = FUNCTIONS[key](good, labels) - FUNCTIONS[key](bad, labels)
    assert actual.difference == pytest.approx(expected, abs=1e-12)
    assert (actual.low, actual.high) == pytest.approx(np.quantile(a - b, [0.1, 0.9]), abs=1e-12)
    if key != "accuracy":
        assert actual.share_a_lower == np.mean(a < b)


def test_the_calibrated_model_of_two_is_found_and_order_does_not_matter():
    good, labels = draw(9, n=1000)
    bad = sharpened(good, 3)
    for key in ("ece", "nll", "brier", "adaptive_ece", "classwise_ece"):
        forward, backward = paired_bootstrap(key, good, bad, labels), paired_bootstrap(key, bad, good, labels)
        assert (forward.verdict, backward.verdict) == ("a_is_better", "b_is_better")
        assert forward.low == pytest.approx(-backward.high) and forward.high < 0 < backward.low
        assert forward.share_a_lower + backward.share_a_lower == pytest.approx(1)


def test_higher_accuracy_is_better():
    labels = np.zeros(100, int)
    right, wrong = np.tile([0.9, 0.1], (100, 1)), np.tile([0.1, 0.9], (100, 1))
    assert paired_bootstrap("accuracy", right, wrong, labels).verdict == "a_is_better"
    assert paired_bootstrap(metrics.accuracy, wrong, right, labels).verdict == "b_is_better"


def test_a_model_against_itself_is_undecided():
    probabilities, labels = draw(10)
    same = paired_bootstrap("ece", probabilities, probabilities, labels)
    assert (same.difference, same.low, same.high, same.share_a_lower) == (0, 0, 0, 0.5)
    assert same.verdict == "undecided"


def test_both_infinite_is_undecided():
    probabilities = np.array([[1.0, 0.0]] * 3)
    assert paired_bootstrap("nll", probabilities, probabilities, [1, 1, 1], n_resamples=5).verdict == "undecided"


# ---- Groups ---------------------------------------------------------------------------------------------------------


def grouped(seed):
    """Samples of 40 groups of 1 to 9, out of order, and the numbers of the groups, which have gaps."""
    generator = np.random.default_rng(seed)
    groups = np.repeat(3 * generator.permutation(40) - 7, generator.integers(1, 10, 40))
    return *draw(seed, n=len(groups)), generator.permutation(groups)


def plain_values_of_groups(function, probabilities, labels, groups, n_resamples, seed):
    members = [[row for row in range(len(groups)) if groups[row] == number] for number in sorted(set(groups.tolist()))]
    generator, values = np.random.default_rng(seed), []
    for _ in range(n_resamples):
        rows = [row for drawn in generator.integers(0, len(members), len(members)) for row in members[drawn]]
        values.append(function(probabilities[rows], labels[rows]))
    return np.array(values)


@pytest.mark.parametrize("key", METRICS)
def test_groups_are_drawn_whole_as_in_the_plain_loop(key, monkeypatch):
    probabilities, labels, groups = grouped(0)
    values = plain_values_of_groups(FUNCTIONS[key], probabilities, labels, groups, 60, seed=3)
    low, high = np.quantile(values, [0.1, 0.9])
    estimate = FUNCTIONS[key](probabilities, labels)
    options = {"level": 0.8, "n_resamples": 60, "seed": 3, "groups": groups}
    for limit in (1 << 24, 10):  # of the sparse matrix of Classwise-ECE
        monkeypatch.setattr(hf_focal.metrics.classwise_ece, "_SPARSE_LIMIT", limit)
        actual = bootstrap_interval(key, probabilities, labels, **options)
        assert actual == pytest.approx((low, high), abs=1e-12)
    basic = bootstrap_interval(key, probabilities, labels, method="basic", **options)
    assert basic == pytest.approx((2 * estimate - high, 2 * estimate - low), abs=1e-12)


def test_paired_differences_of_groups_are_those_of_the_plain_loop():
    good, labels, groups = grouped(8)
    bad = sharpened(good, 3)
    a, b = (plain_values_of_groups(FUNCTIONS["brier"], p, labels, groups, 40, seed=2) for p in (good, bad))
    actual = paired_bootstrap("brier", good, bad, labels, 0.8, 40, seed=2, groups=groups)
    assert (actual.low, actual.high) == pytest.approx(np.quantile(a - b, [0.1, 0.9]), abs=1e-12)


@pytest.mark.parametrize("key", METRICS)
def test_groups_of_one_are_samples(key):
    probabilities, labels = draw(4)
    expected = bootstrap_interval(key, probabilities, labels, n_resamples=50)
    assert bootstrap_interval(key, probabilities, labels, n_resamples=50, groups=np.arange(200) + 5) == expected


def test_intervals_of_groups_cover_the_truth_where_those_of_samples_do_not():
    """Groups of ten, in each of which all are right or all are wrong."""
    generator = np.random.default_rng(6)
    covered, probabilities = {"groups": 0, "samples": 0}, np.tile([0.6, 0.4], (600, 1))
    for seed in range(100):
        hits = np.repeat(generator.uniform(size=60) < 0.7, 10)
        for kind, groups in (("groups", np.repeat(np.arange(60), 10)), ("samples", None)):
            options = {"n_resamples": 200, "seed": seed, "groups": groups}
            low, high = bootstrap_interval("accuracy", probabilities, 1 - hits, **options)
            covered[kind] += low <= 0.7 <= high
    assert 78 <= covered["groups"] <= 99  # binomial(100, 0.9): four standard deviations
    assert covered["samples"] < 60  # the interval is too narrow by the square root of ten: 40%


@pytest.mark.parametrize(
    "groups", [[0, 1], [0.0, 1.5, 2.0], [0, np.nan, 2], [[0], [1], [2]], ["a", None, "c"], ["a", "b"]]
)
def test_groups_that_are_no_ids_of_samples_are_refused(groups):
    with pytest.raises(ValueError, match="groups must hold a whole number for each of the 3 samples, got"):
        bootstrap_interval("accuracy", [[0.5, 0.5]] * 3, [0, 1, 0], groups=groups)


# ---- Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"metric": "ecce"}, ValueError, "metric must be a function or one of accuracy.*got 'ecce'"),
        ({"metric": 3}, ValueError, "metric must be a function"),
        ({"level": 0.0}, ValueError, "level must lie strictly between 0 and 1"),
        ({"level": 90}, ValueError, "level must lie strictly between 0 and 1"),
        ({"n_resamples": 0}, ValueError, "n_resamples must be at least 1"),
        ({"n_resamples": 10.5}, TypeError, "n_resamples must be a whole number"),
        ({"n_bins": 0}, ValueError, "n_bins must be at least 1"),
        ({"method": "bca"}, ValueError, "method must be one of percentile, basic, got 'bca'"),
        ({"labels": [0, 3]}, ValueError, "labels must lie in"),
        ({"labels": [0]}, ValueError, "same length"),
        ({"probabilities": [[2.0, -1.0]] * 2}, ValueError, "softmax"),
        ({"probabilities": [0.5, 0.5]}, ValueError, "probabilities must have shape"),
    ],
)
def test_bad_input_is_refused_by_name(kwargs, error, message):
    good = {"metric": "ece", "probabilities": [[0.5, 0.5]] * 2, "labels": [0, 1]}
    with pytest.raises(error, match=message):
        bootstrap_interval(**{**good, **kwargs})
    if "method" in kwargs:
        return
    merged = {**good, **kwargs}
    probabilities = merged.pop("probabilities")
    with pytest.raises(error, match=message):
        paired_bootstrap(probabilities_a=probabilities, probabilities_b=probabilities, **merged)
