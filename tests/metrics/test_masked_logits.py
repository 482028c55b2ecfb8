# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Logits of -inf, and masks that are finite, in metrics, fits and scores: as if the class were not there."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hf_focal import (
    CALIBRATORS,
    METRICS,
    Affine,
    CalibrationAccumulator,
    Scored,
    calibration_metrics,
    calibration_metrics_from_logits,
    compute_metrics,
    describe_confidence,
    fit_calibrator,
    fit_temperature,
    focal_recalibration,
    ood_scores,
)
from hf_focal.metrics.intervals import interval_of
from hf_focal.metrics.noise import floor_of


RNG = np.random.default_rng(0)
FREE = RNG.normal(size=(600, 3)) * 2
LABELS = (FREE + RNG.gumbel(size=FREE.shape)).argmax(axis=1)
LOGITS = 2 * FREE
MASKS = [
    (-math.inf, np.float64), (float(np.finfo(np.float32).min), np.float32),
    (float(np.finfo(np.float64).min), np.float64), (torch.finfo(torch.bfloat16).min, np.float32),
    (-1e9, np.float32), (-9999.0, np.float64), (-math.inf, np.float16), (-65504.0, np.float16),
]  # fmt: skip
SCALINGS = [{}, {"temperature": 0.01}, {"temperature": 0.5, "gamma": 2.0}, {"temperature": 20.0}, {"gamma": 5.0}]


def masked(mask=-math.inf, dtype=np.float64):
    return np.hstack([LOGITS.astype(dtype), np.full((len(LOGITS), 1), mask, dtype)])


def of_three(values):
    """Classwise-ECE is a mean over all classes, of which the masked one has a gap of 0."""
    return {key: value * (3 / 4 if key == "classwise_ece" else 1) for key, value in values.items()}


@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
@pytest.mark.parametrize(("mask", "dtype"), MASKS, ids=str)
def test_every_metric_is_that_of_the_classes_that_are_left(mask, dtype, scaling):
    expected = of_three(calibration_metrics_from_logits(LOGITS.astype(dtype), LABELS, **scaling))
    found = calibration_metrics_from_logits(masked(mask, dtype), LABELS, **scaling)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    batches = CalibrationAccumulator()
    for start in range(0, 600, 200):
        rows = slice(start, start + 200)
        batches.update_logits(masked(mask, dtype)[rows], LABELS[rows], **scaling)
    added = batches.compute()
    assert {**added, "adaptive_ece": 0} == pytest.approx({**expected, "adaptive_ece": 0}, rel=1e-9, abs=1e-12)


def test_a_masked_class_has_probability_0_as_if_that_were_given():
    scored = Scored.from_logits(masked(), LABELS)
    assert (scored.probabilities[:, 3] == 0).all()
    expected = calibration_metrics(scored.probabilities, LABELS)
    assert calibration_metrics_from_logits(masked(), LABELS) == pytest.approx(expected, rel=1e-9)
    outputs = SimpleNamespace(predictions=masked().astype(np.float32), label_ids=LABELS)
    assert compute_metrics(outputs) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("key", ["nll", "ece", "accuracy", "brier"])
def test_intervals_and_noise_floors_are_those_of_the_classes_that_are_left(key):
    pair = Scored.from_logits(LOGITS, LABELS), Scored.from_logits(masked(), LABELS)
    one, other = (interval_of(METRICS[key], scored, 15, 0.9, seed=0) for scored in pair)
    assert other == pytest.approx(one, abs=1e-9)
    if key == "ece":
        one, other = (floor_of(METRICS[key], scored, 15, 0.9, seed=0) for scored in pair)
        assert other.median == pytest.approx(one.median, abs=1e-9)


@pytest.mark.parametrize("criterion", ["nll", "ece"])
@pytest.mark.parametrize("method", CALIBRATORS)
@pytest.mark.parametrize(("mask", "dtype"), MASKS[:2], ids=str)
def test_every_calibrator_is_fitted_as_if_the_class_were_not_there(mask, dtype, method, criterion):
    expected = fit_calibrator(LOGITS.astype(dtype), LABELS, method, criterion, guard=False)
    found = fit_calibrator(masked(mask, dtype), LABELS, method, criterion, guard=False)
    assert found.temperature == pytest.approx(expected.temperature, rel=1e-3)
    assert found.gamma == pytest.approx(expected.gamma, rel=1e-3, abs=1e-3)
    assert found.after == pytest.approx(of_three(expected.after), abs=1e-4)
    probabilities = found.probabilities(masked(mask, dtype))
    if method in ("bias", "vector", "matrix"):  # maps for a number of classes
        np.testing.assert_allclose(probabilities[:, :3], expected.probabilities(LOGITS.astype(dtype)), atol=1e-4)
    else:
        said = [describe_confidence(z, LABELS, found) for z in (masked(mask, dtype), LOGITS.astype(dtype))]
        assert said[0] == said[1]
        others = found.probabilities(LOGITS.astype(dtype))
        np.testing.assert_allclose(probabilities[:, :3], others, rtol=1e-9, atol=1e-12)
    assert (probabilities[:, 3] == 0).all()
    tensor = torch.softmax(found.calibrator.on_tensor(torch.tensor(masked(mask, dtype))), -1)
    np.testing.assert_allclose(tensor.numpy(), probabilities, atol=1e-6)


@pytest.mark.parametrize(("mask", "dtype"), MASKS, ids=str)
def test_recalibration_and_out_of_distribution_scores_do_not_see_the_class(mask, dtype):
    found = focal_recalibration(masked(mask, dtype), 3.0, 0.5)
    np.testing.assert_allclose(found[:, :3], focal_recalibration(LOGITS.astype(dtype), 3.0, 0.5), rtol=1e-9)
    assert (found[:, 3] == 0).all()
    expected = ood_scores(LOGITS.astype(dtype), 0.5, 2.0)
    for name, scores in ood_scores(masked(mask, dtype), 0.5, 2.0).items():
        np.testing.assert_allclose(scores, expected[name], rtol=1e-9, atol=1e-12)


def test_where_one_class_is_left_it_is_certain():
    rows = [[-math.inf, 3.0, -math.inf]] * 3
    for gamma in (0.0, 2.0):
        assert focal_recalibration(rows, gamma).tolist() == [[0.0, 1.0, 0.0]] * 3
        assert calibration_metrics_from_logits(rows, [1, 1, 1], gamma=gamma)["nll"] == 0
    assert ood_scores(rows)["entropy"].tolist() == [0.0] * 3


def test_an_affine_map_leaves_masks_and_hears_nothing_of_them():
    logits = np.array([[1.0, -math.inf, 2.0], [1.0, 0.5, -1.0]])
    matrix, shift = np.array([[1.0, 2.0, 3.0], [0.5, 1.0, 0.0], [-1.0, 1.0, 2.0]]), np.array([0.1, 0.2, 0.3])
    mapped = Affine(matrix, shift)(logits)
    left = matrix[np.ix_([0, 2], [0, 2])] @ logits[0, [0, 2]] + shift[[0, 2]]
    np.testing.assert_allclose(mapped[0], [left[0], -math.inf, left[1]])
    np.testing.assert_allclose(mapped[1], matrix @ logits[1] + shift)
    assert Affine(np.array([1.0, -2.0, 0.5]))(logits)[0].tolist() == [1.0, -math.inf, 1.0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([-math.inf] * 3, r"got a mask for every class in row 7\. One must be left"),
        ([np.finfo(np.float64).min] * 3, r"got a mask for every class in row 7\."),
        ([0.0, math.nan, 1.0], r"got NaN in row 7\. Such logits come from a model that diverged"),
        ([0.0, math.inf, -math.inf], r"got \+inf in row 7\."),
    ],
)
def test_rows_that_tell_of_no_class_are_refused_by_number(row, message):
    logits = LOGITS.copy()
    logits[7] = row
    for call in (calibration_metrics_from_logits, fit_temperature):
        with pytest.raises(ValueError, match=f"^logits must be finite, or -inf for a class that is masked, {message}"):
            call(logits, LABELS)
    logits[9] = logits[11] = row
    with pytest.raises(ValueError, match=r"in row 7 \(and 2 more\)"):
        ood_scores(logits)


@pytest.mark.parametrize("mask", [-math.inf, float(np.finfo(np.float64).min)], ids=str)
def test_a_label_of_a_masked_class_has_an_infinite_nll_and_no_fit(mask):
    labels = LABELS.copy()
    labels[5] = 3
    found = calibration_metrics_from_logits(masked(mask), labels)
    assert found["nll"] == math.inf and found["brier"] < 2
    for method in CALIBRATORS:
        for criterion in ("ece", "nll"):
            with pytest.raises(ValueError, match="class of a label must not be masked, but that of row 5, 3, has"):
                fit_calibrator(masked(mask), labels, method, criterion)


@pytest.mark.parametrize("temperature", [5e-324, 1e308])
def test_the_limits_of_the_temperature_are_the_largest_logit_and_an_even_spread(temperature):
    for gamma in (0.0, 2.0):
        found = calibration_metrics_from_logits(masked(), LABELS, temperature=temperature, gamma=gamma)
        confidence = 1 if temperature < 1 else 1 / 3
        assert found["ece"] == pytest.approx(abs(confidence - found["accuracy"]))
    row = focal_recalibration([[0.5, -math.inf, 0.2]], 2.0, temperature)[0]
    assert row == pytest.approx([1, 0, 0] if temperature < 1 else [0.5, 0, 0.5])


def test_a_gamma_too_large_to_compute_with_is_refused():
    for gamma in (1e308, 10**400):
        with pytest.raises(ValueError, match=r"gamma must be a number of at least 0, and below 1e\+06"):
            calibration_metrics_from_logits(LOGITS, LABELS, gamma=gamma)
    assert focal_recalibration([[1.0, 0.0]], 1e5).tolist() == [[1.0, 0.0]]
