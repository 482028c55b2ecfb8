# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What chance does to calibration errors: intervals that cover, floors and p-values drawn label by label, verdicts."""

from collections import Counter

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binom, binomtest

from hf_focal import (
    METRICS,
    Scored,
    adaptive_calibration_error,
    calibration_metrics,
    calibration_p_value,
    confidence_interval,
    debiased_calibration_error,
    noise_floor,
    paired_bootstrap,
    register_metric,
)
from hf_focal.metrics.bins import bin_indices
from hf_focal.metrics.noise import appraise, binomial_band, calibrated_band


ERRORS = ("ece", "adaptive_ece", "debiased_ece", "mce", "classwise_ece")


def drawn(rng, size, factor=1.0, classes=10, shift=0.0):
    """What a model says, its labels, and the true posterior. `shift` is added to the logit of the first class."""
    logits = rng.normal(size=(size, classes)) * 2
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    said = logits * factor
    said[:, 0] += shift
    return softmax(said, axis=1), labels, softmax(logits, axis=1)


def clustered(rng, size, **options):
    """Half of all samples repeat the first of their group of five."""
    said, labels, _ = drawn(rng, size, **options)
    groups = np.arange(size) // 5
    rows = np.where(rng.random(size) < 0.5, groups * 5, np.arange(size))
    return said[rows], labels[rows], groups


def true_errors(factor, shift=0.0, size=300_000):
    """By definition, of a large sample without the noise of labels."""
    if (factor, shift) == (1.0, 0.0):
        return dict.fromkeys(ERRORS, 0.0)
    said, _, posterior = drawn(np.random.default_rng(99), size, factor, shift=shift)
    confidence, share = said.max(axis=1), posterior[np.arange(size), said.argmax(axis=1)]
    found = {}
    for key, order in (
        ("ece", bin_indices(confidence, 15)),
        ("adaptive_ece", confidence.argsort().argsort() * 15 // size),
    ):
        counts, gaps = np.bincount(order, minlength=15), np.bincount(order, share - confidence, 15)
        found[key] = np.abs(gaps).sum() / size
        means = np.abs(gaps) / np.maximum(counts, 1)
        if key == "ece":
            found["mce"] = means[counts >= 0.01 * size].max()
        else:
            found["debiased_ece"] = np.sqrt((counts * means**2).sum() / size)
    parts = [
        np.abs(np.bincount(bin_indices(said[:, k], 15), posterior[:, k] - said[:, k], 15)).sum() for k in range(10)
    ]
    found["classwise_ece"] = sum(parts) / size / 10
    return found


# ---- Intervals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "factor", "shift"),
    [(500, 1.0, 0.0), (500, 1.5, 0.0), (2000, 1.05, 0.0), (500, 0.8, 0.0), (2000, 1.0, 1.5)],
)
def test_intervals_hold_the_true_error_about_as_often_as_they_say(size, factor, shift):
    """Of 40 at 90%, 28 are 4 standard deviations too few. `benchmarks/coverage.py` has a thousand and more cells."""
    true, held, widths = true_errors(factor, shift), Counter(), Counter()
    rng, draws = np.random.default_rng(1), 40
    for _ in range(draws):
        said, labels, _ = drawn(rng, size, factor, shift=shift)
        for key in ERRORS:
            low, high = confidence_interval(key, said, labels)
            held[key] += low <= true[key] + 1e-12 and true[key] <= high
            widths[key] += (high - low) / draws
    assert min(held[key] for key in ERRORS) >= 28, held
    assert widths["ece"] < 0.09 * np.sqrt(500 / size) and widths["classwise_ece"] < 0.022 * np.sqrt(500 / size)


@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_intervals_of_groups_hold_the_true_error_where_those_of_samples_do_not(factor):
    true, held, single = true_errors(factor), Counter(), Counter()
    rng = np.random.default_rng(2)
    for _ in range(40):
        said, labels, groups = clustered(rng, 500, factor=factor)
        for key in ERRORS:
            low, high = confidence_interval(key, said, labels, groups=groups)
            held[key] += low <= true[key] + 1e-12 and true[key] <= high
        low, high = confidence_interval("ece", said, labels)
        single["ece"] += low <= true["ece"] + 1e-12 and true["ece"] <= high
    assert min(held[key] for key in ERRORS) >= 28, held
    assert single["ece"] < 28


def test_the_upper_end_of_a_model_that_was_always_right_is_that_of_the_binomial():
    """100 right answers of confidence 0.99...: an accuracy of 0.05 ** 0.01 would show them in 5% of all data."""
    said = np.tile([1 - 1e-9, 1e-9], (100, 1))
    low, high = confidence_interval("ece", said, np.zeros(100, int))
    assert low == 0 and high == pytest.approx(1 - 0.05**0.01, rel=0.1)


def test_one_bin_gives_the_interval_of_one_gap():
    """Confidence 0.6, 780 of 1,000 right: the gap is that of the accuracy, whose interval is the binomial's."""
    said, labels = np.tile([0.6, 0.4], (1000, 1)), np.repeat([0, 1], [780, 220])
    low, high = confidence_interval("ece", said, labels, n_bins=1)
    tails = [binom.ppf(q, 1000, 0.78) / 1000 - 0.6 for q in (0.05, 0.95)]
    assert (low, high) == pytest.approx(tails, abs=0.002)


def test_accuracy_has_the_interval_of_wilson_and_the_mean_that_of_its_bootstrap():
    said, labels = np.tile([0.9, 0.1], (10, 1)), np.repeat([0, 1], [9, 1])
    assert confidence_interval("accuracy", said, labels) == pytest.approx(
        binomtest(9, 10).proportion_ci(0.9, "wilson"), abs=1e-12
    )
    groups = np.arange(100) // 10  # ten groups that are right or wrong as one
    grouped = confidence_interval("accuracy", said[groups], labels[groups], groups=groups)
    assert grouped == pytest.approx(confidence_interval("accuracy", said, labels), abs=0.03)
    all_right = confidence_interval("accuracy", said[groups], np.zeros(100, int), groups=groups)
    assert all_right == pytest.approx(confidence_interval("accuracy", said, np.zeros(10, int)))


def test_a_metric_of_bins_that_somebody_registers_has_an_interval_that_covers():
    @register_metric("rmsce", title="RMSCE")
    def rmsce(scored, n_bins):
        bins = scored.bins(n_bins)
        gaps = np.nan_to_num(bins.accuracy - bins.confidence)
        return float(np.sqrt(bins.counts @ gaps**2 / bins.counts.sum()))

    try:
        rng, held = np.random.default_rng(3), 0
        for _ in range(10):
            said, labels, _ = drawn(rng, 500)
            held += confidence_interval("rmsce", said, labels)[0] == 0  # what is true
            floor = noise_floor("rmsce", said)
            assert 0.02 < floor.low < floor.median < floor.high < 0.1
        assert held >= 7
        assert METRICS["rmsce"].gap_error(Scored(said, labels), 15) is not None
    finally:
        METRICS.pop("rmsce")
    assert METRICS["nll"].gap_error(Scored(said, labels), 15) is None


@pytest.mark.parametrize("key", [*METRICS, "debiased_ece"])
def test_what_is_drawn_is_the_same_each_time_and_higher_levels_are_wider(key):
    said, labels, _ = drawn(np.random.default_rng(4), 300, 1.5)
    first, again = (confidence_interval(key, said, labels) for _ in range(2))
    low, high = confidence_interval(key, said, labels, level=0.99)
    assert first == again and low < first[0] < first[1] < high or low == first[0] == 0 and first[1] < high
    assert noise_floor(key, said) == noise_floor(key, said)
    assert noise_floor(key, said, level=0.5).high < noise_floor(key, said).high


# ---- Floors and p-values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [key for key in ERRORS if key in METRICS])
@pytest.mark.parametrize("classes", [2, 10])
def test_the_floor_is_that_of_labels_drawn_one_by_one(key, classes):
    rng = np.random.default_rng(5)
    said, _, _ = drawn(rng, 400, classes=classes)
    values = []
    for _ in range(600):
        labels = (said.cumsum(axis=1) < rng.random(400)[:, None]).sum(axis=1).clip(max=classes - 1)
        values.append(calibration_metrics(said, labels)[key])
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95])
    floor = noise_floor(key, said)
    assert (floor.low, floor.median, floor.high) == pytest.approx((low, median, high), rel=0.12)


def test_the_floor_of_wholly_dependent_groups_is_that_of_fewer_samples():
    said, _, _ = drawn(np.random.default_rng(6), 100)
    groups = np.repeat(np.arange(100), 5)
    for key in ("ece", "classwise_ece"):
        repeated = noise_floor(key, said[groups], groups=groups)
        assert repeated.median == pytest.approx(noise_floor(key, said).median, rel=0.1)
        assert repeated.median > 1.5 * noise_floor(key, said[groups]).median


def test_labels_tell_how_much_the_samples_of_a_group_depend_on_each_other():
    rng = np.random.default_rng(7)
    said, labels, groups = clustered(rng, 3000)
    independent, informed, most = (
        noise_floor("ece", said, **options)
        for options in ({}, {"groups": groups, "labels": labels}, {"groups": groups})
    )
    assert independent.median < informed.median < most.median
    assert informed.median == pytest.approx(np.sqrt(2.4) * independent.median, rel=0.25)  # 2.4 times the variance


@pytest.mark.parametrize("key", ["ece", "adaptive_ece", "mce", "classwise_ece"])
def test_false_alarms_of_the_p_value_come_as_often_as_they_should(key):
    """Of 300 at 5% between 3 and 29: four standard deviations."""
    rng = np.random.default_rng(8)
    draws = 100 if key == "classwise_ece" else 300
    alarms = sum(calibration_p_value(*drawn(rng, 300)[:2], metric=key) <= 0.05 for _ in range(draws))
    assert 0.01 * draws <= alarms <= 0.1 * draws
    if key != "mce":  # single samples can set the largest gap, which tells little
        said, labels, _ = drawn(rng, 1000, 1.5)
        assert calibration_p_value(said, labels, metric=key) < 0.01


def test_only_calibration_errors_have_a_p_value():
    with pytest.raises(ValueError, match="metric must be a calibration error, such as ece, mce.*got 'nll'"):
        calibration_p_value([[0.9, 0.1]] * 3, [0, 0, 1], metric="nll")


def test_the_band_of_a_bin_is_the_binomial_of_its_confidence():
    said, labels, _ = drawn(np.random.default_rng(9), 500)
    scored = Scored(said, labels)
    bins, band = scored.bins(15), calibrated_band(scored)
    for index in np.flatnonzero(bins.counts):
        count, confidence = bins.counts[index], bins.confidence[index]
        ends = [binom.ppf(q, count, confidence) / count for q in (0.05, 0.95)]
        assert band[:, index] == pytest.approx(ends)
    assert np.isnan(band[:, bins.counts == 0]).all()
    said, labels, groups = clustered(np.random.default_rng(9), 3000)
    scored = Scored(said, labels)
    wide, narrow = (np.nanmean(np.diff(one, axis=0)) for one in (calibrated_band(scored, groups=groups),
                                                                  binomial_band(scored.bins(15))))  # fmt: skip
    assert wide == pytest.approx(np.sqrt(2.4) * narrow, rel=0.15)


# ---- Verdicts -------------------------------------------------------------------------------------------------------


def posteriors(rng, size):
    """Two exact posteriors, one of which knows more."""
    labels = rng.integers(10, size=size)
    weak, strong = rng.normal(size=(2, size, 10))
    weak[np.arange(size), labels] += 1.5
    strong[np.arange(size), labels] += 4.0
    return softmax(1.5 * weak, axis=1), softmax(1.5 * weak + 4.0 * strong, axis=1), labels


def constant(rng, size):
    """The class frequencies, and the posterior."""
    said, labels, _ = drawn(rng, size)
    return np.full((size, 10), 0.1) + np.linspace(1e-6, -1e-6, 10), said, labels


def equal_errors(rng, size):
    """As much over-confident as under-confident: ECE 6.0% of both."""
    _, labels, true = drawn(rng, size)
    return *(softmax(factor * np.log(true), axis=1) for factor in (1.2, 0.835)), labels


@pytest.mark.parametrize("pair", [posteriors, constant, equal_errors])
@pytest.mark.parametrize("key", ["ece", "adaptive_ece"])
def test_equal_true_errors_are_seldom_told_apart(pair, key):
    """Of 100 at 10%, 22 are four standard deviations too many."""
    rng = np.random.default_rng(10)
    verdicts = Counter(paired_bootstrap(key, *pair(rng, 1000)).verdict for _ in range(100))
    assert verdicts["undecided"] >= 78, verdicts


@pytest.mark.parametrize("key", ["ece", "adaptive_ece", "classwise_ece"])
def test_true_errors_of_two_and_eight_percent_are_told_apart(key):
    rng = np.random.default_rng(11)
    verdicts = Counter()
    for _ in range(20):
        _, labels, true = drawn(rng, 2000)
        good, bad = (softmax(factor * np.log(true), axis=1) for factor in (1.062, 1.28))
        verdicts[paired_bootstrap(key, good, bad, labels).verdict] += 1
    assert verdicts["a_is_better"] >= 16, verdicts


def test_models_that_are_nearly_the_same_are_not_told_apart():
    rng = np.random.default_rng(12)
    verdicts = Counter()
    for _ in range(30):
        said, labels, _ = drawn(rng, 1000, 1.2)
        other = softmax(np.log(said) + 1e-3 * rng.normal(size=said.shape), axis=1)
        verdicts[paired_bootstrap("ece", said, other, labels).verdict] += 1
    assert verdicts["undecided"] >= 24, verdicts


def test_groups_widen_the_interval_of_a_difference():
    rng = np.random.default_rng(13)
    said, labels, groups = clustered(rng, 1000, factor=1.2)
    other = softmax(0.8 * np.log(said), axis=1)
    alone, grouped = (paired_bootstrap("ece", said, other, labels, groups=one) for one in (None, groups))
    assert grouped.high - grouped.low > 1.2 * (alone.high - alone.low)


# ---- Edges ----------------------------------------------------------------------------------------------------------


def test_the_order_of_rows_that_tie_does_not_count():
    said, hits = np.tile([0.9, 0.1], (1000, 1)), np.repeat([0, 1], [900, 100])
    rng = np.random.default_rng(14)
    for _ in range(3):
        order = rng.permutation(1000)
        assert adaptive_calibration_error(said[order], hits[order]) == pytest.approx(0, abs=1e-12)
    # All ties are one bin, whatever the cuts: the interval is that of one gap.
    whole = confidence_interval("ece", said, hits)
    assert confidence_interval("adaptive_ece", said, hits) == pytest.approx(whole, abs=0.003)
    assert noise_floor("adaptive_ece", said).median == pytest.approx(noise_floor("ece", said).median, rel=0.1)


def test_the_debiased_error_of_few_samples_has_bins_of_two():
    wrong = np.tile([0.99, 0.01], (10, 1))
    assert debiased_calibration_error(wrong, np.ones(10, int)) == pytest.approx(0.99)
    spaced = np.linspace(0.55, 0.95, 5)
    assert np.isnan(debiased_calibration_error(np.stack([spaced, 1 - spaced], axis=1), [0] * 5, adaptive=False))


def test_the_upper_end_of_few_sure_and_right_answers_is_far_off():
    """Four right answers of confidence 0.93: half of all may be wrong, which the gap of 0.07 upwards does not tell."""
    low, high = confidence_interval("ece", np.tile([0.93, 0.07], (4, 1)), np.zeros(4, int))
    assert low == 0 and 0.93 - 0.05 ** (1 / 4) == pytest.approx(high, abs=0.1)


def test_the_nll_of_logits_has_a_finite_interval_where_probabilities_are_zero():
    rng = np.random.default_rng(15)
    logits = 1000 * rng.normal(size=(50, 3))
    scored = Scored.from_logits(logits, rng.integers(0, 3, 50))
    low, high = appraise(scored)[0]["nll"]
    assert 0 < low < scored.nll.mean() < high < 5000


def test_a_metric_goes_by_its_key_its_name_or_its_function():
    said, labels, _ = drawn(np.random.default_rng(16), 100)
    names = ("debiased_ece", "debiased_calibration_error", debiased_calibration_error)
    assert len({confidence_interval(name, said, labels) for name in names}) == 1
    assert noise_floor("ece", said) == noise_floor("expected_calibration_error", said)
    for unknown in ("", "debiased", None):
        with pytest.raises(ValueError, match="metric must be a function or one of"):
            confidence_interval(unknown, said, labels)
