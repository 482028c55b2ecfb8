# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Debiased calibration error, the parts of the Brier score, and SmoothECE."""

import math
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from hf_focal import (
    bin_statistics,
    bootstrap_interval,
    brier_decomposition,
    brier_score,
    debiased_calibration_error,
    smooth_calibration_error,
)


MEASURES = [debiased_calibration_error, brier_decomposition, smooth_calibration_error]


def draw(seed, n=400, k=3, sharpness=2.0, scale=1.0):
    """Labels drawn from softmax(logits), probabilities of softmax(scale * logits): calibrated where scale is 1."""
    generator = np.random.default_rng(seed)
    logits = sharpness * generator.normal(size=(n, k))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    return softmax(scale * logits, axis=1), labels


# ---- Debiased calibration error -------------------------------------------------------------------------------------


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("n_bins", [1, 5, 15, 300])
def test_debiased_error_is_its_formula(n_bins, adaptive):
    probabilities, labels = draw(0, scale=2.0)
    confidences, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    if adaptive:
        groups = np.array_split(np.argsort(confidences, kind="stable"), min(n_bins, 200))  # of two at least
    else:
        index = np.ceil(confidences * n_bins)
        groups = [np.flatnonzero(index == b) for b in range(1, n_bins + 1)]
    total = 0.0
    for rows in groups:
        if len(rows) > 1:
            variance = np.var(hits[rows], ddof=1) / len(rows)  # acc (1 - acc) / (n - 1)
            total += len(rows) / 400 * ((hits[rows].mean() - confidences[rows].mean()) ** 2 - variance)
    kwargs = {"n_bins": n_bins, "adaptive": adaptive}
    assert debiased_calibration_error(probabilities, labels, squared=True, **kwargs) == pytest.approx(total, abs=1e-12)
    expected = math.sqrt(max(total, 0))
    assert debiased_calibration_error(probabilities, labels, **kwargs) == pytest.approx(expected, abs=1e-9)


def test_debiased_error_agrees_with_the_package_of_its_authors():
    calibration = pytest.importorskip("calibration")
    probabilities, labels = draw(1, scale=2.0)
    confidences, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    groups = np.array_split(np.argsort(confidences, kind="stable"), 15)
    binned = [[(confidences[i], float(hits[i])) for i in rows] for rows in groups]
    assert debiased_calibration_error(probabilities, labels) == pytest.approx(calibration.unbiased_l2_ce(binned))


def test_debiased_square_of_calibrated_models_is_zero_on_average_and_the_plain_one_is_not():
    debiased, plain = [], []
    for seed in range(300):
        probabilities, labels = draw(seed, n=150)
        debiased.append(debiased_calibration_error(probabilities, labels, squared=True))
        bins = bin_statistics(probabilities, labels, adaptive=True)
        plain.append((bins.counts * (bins.accuracy - bins.confidence) ** 2).sum() / 150)
    error = np.std(debiased) / math.sqrt(300)
    assert abs(np.mean(debiased)) < 4 * error
    assert np.mean(plain) > 20 * error
    assert min(debiased) < 0


def test_debiased_error_is_never_negative_and_nan_of_one_sample_alone():
    for labels in ([0] * 4, [0, 1, 0, 1]):
        assert debiased_calibration_error([[0.5, 0.5]] * 4, labels, n_bins=1) >= 0
    assert np.isnan(debiased_calibration_error([[0.8, 0.2]], [1]))  # one sample: nothing can be told


# ---- Brier score in parts -------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 60))
@settings(deadline=None, max_examples=100)
def test_identity_is_exact_where_forecasts_in_a_bin_are_equal(seed, k, n):
    """Four fixed forecasts: in 100,000 bins every distinct value has a bin of its own."""
    generator = np.random.default_rng(seed)
    weights = generator.integers(1, 20, (4, k))
    probabilities = (weights / weights.sum(axis=1, keepdims=True))[generator.integers(0, 4, n)]
    labels = generator.integers(0, k, n)
    parts = brier_decomposition(probabilities, labels, n_bins=100_000)
    three = parts.reliability - parts.resolution + parts.uncertainty
    assert three == pytest.approx(brier_score(probabilities, labels), abs=1e-12)
    assert parts.within_bins == pytest.approx(0, abs=1e-12)
    # Murphy's parts, forecast by forecast.
    reliability = sum(
        (probabilities[:, j] == value).mean() * (value - (labels == j)[probabilities[:, j] == value].mean()) ** 2
        for j in range(k)
        for value in np.unique(probabilities[:, j])
    )
    assert parts.reliability == pytest.approx(reliability, abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 60), st.integers(1, 20))
@settings(deadline=None, max_examples=100)
def test_within_bins_is_spread_less_twice_the_covariance(seed, k, n, n_bins):
    generator = np.random.default_rng(seed)
    probabilities, labels = generator.dirichlet(np.ones(k), n), generator.integers(0, k, n)
    parts = brier_decomposition(probabilities, labels, n_bins)
    within = 0.0
    for j in range(k):
        p, o = probabilities[:, j], labels == j
        index = np.maximum(np.ceil(p * n_bins), 1)
        for b in np.unique(index):
            here = index == b
            spread, cover = p[here] - p[here].mean(), o[here] - o[here].mean()
            within += (spread**2).sum() / n - 2 * (spread * cover).sum() / n
    assert parts.within_bins == pytest.approx(within, abs=1e-12)
    assert parts.brier == pytest.approx(brier_score(probabilities, labels), abs=1e-15)
    assert min(parts.reliability, parts.resolution, parts.uncertainty) >= 0
    assert parts.resolution <= parts.uncertainty + 1e-12
    assert parts.refinement == parts.uncertainty - parts.resolution


def test_uncertainty_is_of_the_data_and_class_frequencies_have_no_other_part():
    labels = np.array([0, 0, 0, 1, 2, 2])
    parts = brier_decomposition(np.tile([1 / 2, 1 / 6, 1 / 3], (6, 1)), labels)
    assert parts.uncertainty == pytest.approx(1 / 4 + 5 / 36 + 2 / 9)
    assert parts.reliability == pytest.approx(0, abs=1e-15) and parts.resolution == pytest.approx(0, abs=1e-15)
    assert parts.brier == pytest.approx(parts.uncertainty)


def test_overconfidence_worsens_reliability_more_than_refinement():
    good, labels = draw(2, n=20_000)
    bad, _ = draw(2, n=20_000, scale=3.0)
    before, after = brier_decomposition(bad, labels), brier_decomposition(good, labels)
    assert before.reliability > 10 * after.reliability
    assert abs(before.refinement - after.refinement) < 0.5 * (before.reliability - after.reliability)


# ---- SmoothECE ------------------------------------------------------------------------------------------------------


def test_smooth_error_is_that_of_relplot_and_tells_calibrated_from_not():
    relplot = pytest.importorskip("relplot")
    good, labels = draw(3, n=3000)
    bad, _ = draw(3, n=3000, scale=3.0)
    values = [smooth_calibration_error(p.astype(np.float32), labels) for p in (good, bad)]
    assert values[0] < 0.03 < 0.08 < values[1]
    expected = relplot.smECE(bad.max(axis=1), (bad.argmax(axis=1) == labels).astype(float))
    assert values[1] == pytest.approx(expected, abs=1e-5)


def test_smooth_error_has_no_jump_at_the_edge_of_a_bin():
    pytest.importorskip("relplot")
    values = []
    for confidence in (0.8 - 1e-9, 0.8 + 1e-9):  # an edge of 15 bins
        probabilities = np.tile([confidence, 1 - confidence], (100, 1))
        probabilities[50:] = [0.79, 0.21]
        values.append(smooth_calibration_error(probabilities, np.arange(100) // 50))
    assert values[0] == pytest.approx(values[1], abs=1e-6)


def test_without_relplot_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "relplot", None)
    with pytest.raises(ImportError, match="pip install relplot"):
        smooth_calibration_error([[0.5, 0.5]], [0])


# ---- All ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.__name__)
@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([[2.0, -1.0]], [0], "If these are logits, apply a softmax"),
        ([[math.nan, 1.0]], [0], "finite"),
        ([[0.5, 0.5]], [2], "labels must lie in"),
        ([[0.5, 0.5]], [0, 1], "same length"),
        (np.zeros((0, 2)), [], "at least one sample"),
    ],
)
def test_bad_input_is_refused_by_name(measure, probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        measure(probabilities, labels)


@pytest.mark.parametrize("measure", MEASURES[:2], ids=lambda m: m.__name__)
def test_a_bad_number_of_bins_is_refused(measure):
    with pytest.raises(ValueError, match="n_bins must be at least 1"):
        measure([[0.5, 0.5]], [0], n_bins=0)
    with pytest.raises(TypeError, match="n_bins must be a whole number"):
        measure([[0.5, 0.5]], [0], n_bins=2.5)


def test_they_can_be_bootstrapped():
    probabilities, labels = draw(4, scale=3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = bootstrap_interval(debiased_calibration_error, probabilities, labels, n_resamples=50)
    assert 0.05 < low < debiased_calibration_error(probabilities, labels) < high
