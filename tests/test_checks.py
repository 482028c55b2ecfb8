# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Probabilities that are off by rounding alone, and what looks like probabilities where logits are wanted."""

import warnings

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, softmax

import hf_focal
from hf_focal import checks


def make(num_labels=10, num_samples=500, scale=2.0, seed=0):
    generator = np.random.default_rng(seed)
    logits = scale * generator.normal(size=(num_samples, num_labels))
    return logits, (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)


def words_of(call, *args, **options):
    """What it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*args, **options)
    return [str(warning.message) for warning in caught if warning.category is UserWarning]


# ---- Rounded probabilities ------------------------------------------------------------------------------------------


def significant(values, digits):
    return np.array([[float(f"{value:.{digits}g}") for value in row] for row in values])


def to_bfloat16(values):
    return torch.tensor(values).bfloat16()


ROUNDED = {
    "bfloat16 tensor": (to_bfloat16, 0.01, "half precision"),
    "bfloat16 as float32": (lambda values: to_bfloat16(values).float().numpy(), 0.01, "half precision"),
    "bfloat16 as lists": (lambda values: to_bfloat16(values).tolist(), 0.01, "half precision"),
    "three decimals": (lambda values: values.round(3), 0.005, "3 decimals"),
    "three decimals, float32": (lambda values: values.round(3).astype(np.float32), 0.005, "3 decimals"),
    "three significant digits": (lambda values: significant(values, 3), 0.005, "3 significant digits"),
    "two decimals": (lambda values: values.round(2), 0.05, "2 decimals"),
}


@pytest.mark.parametrize("kind", ROUNDED)
def test_what_rounding_explains_is_divided_by_its_sum_and_said_once(kind):
    rounding, bound, cause = ROUNDED[kind]
    exact = softmax(make()[0], axis=1)
    rounded, labels = rounding(exact), make()[1]
    plain = np.array(rounded.float() if isinstance(rounded, torch.Tensor) else rounded, dtype=np.float64)
    off = np.abs(plain.sum(axis=1) - 1).max()
    assert 1e-3 < off <= bound * (1 + 1e-4)  # so that it was refused
    (said,) = words_of(hf_focal.calibration_metrics, rounded, labels)
    assert said.startswith("The probabilities are rounded: rows sum to 1 only within ")
    assert f"within {bound:g}, as after rounding to {cause}. Each row was divided by its sum." in said
    expected = plain / plain.sum(axis=1, keepdims=True)
    with pytest.warns(UserWarning, match="are rounded"):
        scored = hf_focal.Scored(rounded, labels)
    np.testing.assert_allclose(scored.probabilities, expected, rtol=1e-6)
    np.testing.assert_array_equal(scored.confidences, scored.probabilities.max(axis=1))
    with pytest.warns(UserWarning, match="are rounded"):
        found = hf_focal.calibration_metrics(rounded, labels)
    metrics = hf_focal.calibration_metrics(scored.probabilities, labels)  # which need no repair any more
    assert found == pytest.approx(metrics, abs=1e-12)
    assert abs(found["ece"] - hf_focal.expected_calibration_error(exact, labels)) < bound


def test_the_bound_of_decimals_is_half_a_unit_for_each_class():
    with pytest.warns(UserWarning, match=r"only within 0\.015, as after rounding to 2 decimals"):
        assert hf_focal.Scored([[0.33, 0.33, 0.33]], [0]).confidences.tolist() == [pytest.approx(1 / 3)]
    with pytest.raises(ValueError, match="got row 0, which sums to 0.98"):
        hf_focal.Scored([[0.33, 0.33, 0.32]], [0])
    with pytest.warns(UserWarning, match=r"only within 0\.02, as after rounding to 3 decimals"):
        hf_focal.accuracy([[0.044, *[0.024] * 39]], [0])  # sums to 0.98, and 40 times 0.0005 is 0.02
    with pytest.raises(ValueError, match="got row 0, which sums to 0.979"):
        hf_focal.accuracy([[0.043, *[0.024] * 39]], [0])


def test_rows_that_sum_to_one_stay_as_they_are_beside_those_that_do_not():
    rows = np.array([[0.6, 0.3, 0.1], [0.2, 0.4, 0.4], [0.33, 0.33, 0.33], [0.7, 0.2, 0.1]])  # 0.6 ends a bin
    with pytest.warns(UserWarning, match="are rounded"):
        scored = hf_focal.Scored(rows, [0, 0, 0, 0])
    np.testing.assert_array_equal(scored.probabilities[[0, 1, 3]], rows[[0, 1, 3]])
    assert scored.bins(5).counts.tolist() == [0, 2, 1, 1, 0]


@pytest.mark.parametrize("off", [0.99, 1.01, 1.2])
def test_sums_that_rounding_does_not_explain_are_refused_with_their_row(off):
    exact = softmax(make()[0], axis=1)
    exact[7] *= off
    for values in (exact, exact.astype(np.float32), exact.tolist(), torch.tensor(exact)):
        with pytest.raises(ValueError, match=f"got row 7, which sums to {off}.*apply a softmax"):
            hf_focal.expected_calibration_error(values, make()[1])


def test_one_full_value_among_rounded_ones_tells_that_they_were_not_rounded():
    rounded = softmax(make()[0], axis=1).round(3)
    rounded[3, 0] += 1e-6
    with pytest.raises(ValueError, match="must sum to 1 within 0.001"):
        hf_focal.accuracy(rounded, make()[1])


def test_too_few_digits_for_many_classes_are_refused_with_that_reason():
    probabilities = softmax(make(100, scale=1)[0], axis=1).round(2)  # most of each row is lost
    with pytest.raises(ValueError, match="If they were rounded to 2 decimals, that is too few for 100 classes"):
        hf_focal.accuracy(probabilities, np.zeros(500, int))


def test_percentages_and_sigmoid_outputs_are_no_probabilities_of_classes():
    logits, labels = make()
    with pytest.raises(ValueError, match="If these are percentages, divide them by 100"):
        hf_focal.accuracy(100 * softmax(logits, axis=1), labels)
    with pytest.raises(ValueError, match=r"must sum to 1 within 0\.001, got row \d+, which sums to"):
        hf_focal.accuracy(expit(logits), labels)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_last_bit_below_zero_is_zero(dtype):
    rows = np.array([[1 + 1e-7, -1e-7], [0.25, 0.75]], dtype=dtype)
    before = rows.copy()
    assert words_of(hf_focal.brier_score, rows, [0, 1]) == [
        "The probabilities are rounded: some are below 0 by at most 1e-06 and were set to 0. Each row was divided by "
        "its sum."
    ]
    with pytest.warns(UserWarning, match="below 0"):
        scored = hf_focal.Scored(rows, [0, 1])
    assert scored.probabilities.tolist() == [[1.0, 0.0], [0.25, 0.75]]
    assert scored.confidences.tolist() == [1.0, 0.75] and scored.nll.tolist() == [0.0, -np.log(0.75)]
    np.testing.assert_array_equal(rows, before)
    with pytest.raises(ValueError, match="got a value of -1e-05 in row 1"):
        hf_focal.accuracy(np.array([[0.5, 0.5], [1.00001, -0.00001]]), [0, 1])


def test_it_is_said_once_however_many_batches_there_are():
    rounded, labels = softmax(make()[0], axis=1).round(3), make()[1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        accumulator = hf_focal.CalibrationAccumulator()
        for start in range(0, 500, 50):
            accumulator.update(rounded[start : start + 50], labels[start : start + 50])
    assert len(caught) == 1 and caught[0].filename == __file__


def test_everything_that_takes_probabilities_accepts_rounded_ones():
    rounded, labels = softmax(make(4, 60)[0], axis=1).round(2), make(4, 60)[1]
    for call in (
        lambda: hf_focal.bootstrap_interval("nll", rounded, labels, n_resamples=10),
        lambda: hf_focal.confidence_interval("ece", rounded, labels),
        lambda: hf_focal.noise_floor("ece", rounded),
        lambda: hf_focal.noise_floor("nll", rounded),
        lambda: hf_focal.calibration_p_value(rounded, labels),
        lambda: hf_focal.paired_bootstrap("ece", rounded, rounded[:, ::-1], labels),
        lambda: hf_focal.brier_decomposition(rounded, labels),
        lambda: hf_focal.reliability_diagram({"a": rounded, "b": rounded}, labels),
        lambda: hf_focal.classwise_reliability_diagram(rounded, labels),
        lambda: hf_focal.risk_coverage_curve(rounded, labels),
    ):
        with pytest.warns(UserWarning, match="The probabilities are rounded: rows sum to 1 only within 0.02"):
            call()


# ---- Probabilities where logits are wanted --------------------------------------------------------------------------

LOGITS, LABELS = make(5, 300)
AS_LOGITS = {
    "softmax": (softmax(LOGITS, axis=1), "rows sum to 1, as after a softmax.*np.log"),
    "softmax, float32": (softmax(LOGITS, axis=1).astype(np.float32), "rows sum to 1"),
    "softmax, bfloat16": (to_bfloat16(softmax(LOGITS, axis=1)), "rows sum to 1"),
    "softmax, two decimals": (softmax(LOGITS, axis=1).round(2), "rows sum to 1"),
    "sigmoid": (expit(LOGITS), "look like sigmoid outputs.*scipy.special.logit"),
}
DOORS = {
    "fit_temperature": hf_focal.fit_temperature,
    "fit_calibrator": lambda values, labels: hf_focal.fit_calibrator(values, labels, "temperature", "ece"),
    "calibration_metrics_from_logits": hf_focal.calibration_metrics_from_logits,
    "at a temperature": lambda values, labels: hf_focal.calibration_metrics_from_logits(values, labels, temperature=2),
    "negative_log_likelihood_from_logits": hf_focal.negative_log_likelihood_from_logits,
    "Scored": hf_focal.Scored.from_logits,
    "compute_metrics": lambda values, labels: hf_focal.compute_metrics(_Output(values, labels)),
    "update_logits": lambda values, labels: hf_focal.CalibrationAccumulator().update_logits(values, labels),
    "probabilities": lambda values, labels: hf_focal.CALIBRATORS["temperature"](2.0).probabilities(values),
    "describe_confidence": lambda values, labels: hf_focal.describe_confidence(values, labels, 1.0),
    "ood_scores": lambda values, labels: hf_focal.ood_scores(values),
}


class _Output:
    def __init__(self, predictions, label_ids):
        self.predictions, self.label_ids = predictions, label_ids


@pytest.mark.parametrize("kind", AS_LOGITS)
@pytest.mark.parametrize("door", DOORS)
def test_probabilities_as_logits_are_told_once_with_the_way_out(door, kind):
    values, match = AS_LOGITS[kind]
    assert not [text for text in words_of(DOORS[door], LOGITS, LABELS) if "look like" in text]
    said = [text for text in words_of(DOORS[door], values, LABELS) if "look like probabilities" in text]
    assert len(said) == 1
    with pytest.warns(UserWarning, match=match):
        DOORS[door](values, LABELS)


def test_the_way_out_gives_back_the_probabilities():
    probabilities = softmax(LOGITS, axis=1)
    metrics = hf_focal.calibration_metrics_from_logits(np.log(probabilities), LABELS)
    assert metrics == pytest.approx(hf_focal.calibration_metrics(probabilities, LABELS), abs=1e-9)


generator = np.random.default_rng(1)
TRUE_LOGITS = {
    "logits": LOGITS,
    "log-probabilities": log_softmax(LOGITS, axis=1),
    "of an untrained model": 0.01 * LOGITS,
    "zeros": np.zeros((300, 5)),
    "after a ReLU": np.maximum(0.3 * LOGITS, 0) / (0.3 * LOGITS.max()),
    "one-hot": np.eye(5)[LABELS],
    "answers of a rule": generator.integers(0, 2, (300, 5)),
    "cosines": generator.uniform(0.1, 0.4, (300, 5)),
    "few rows": np.array([[0.3, 0.7], [0.5, 0.5]]),
    "two classes, small": 0.2 * generator.normal(size=(40, 2)) + 0.5,
}


@pytest.mark.parametrize("kind", TRUE_LOGITS)
def test_logits_are_not_taken_for_probabilities(kind):
    checks.warn_of_probabilities("logits", np.asarray(TRUE_LOGITS[kind], dtype=np.float64))  # warnings are errors


def test_logits_are_known_by_their_first_block(monkeypatch):
    seen = []
    parts = checks._parts
    monkeypatch.setattr(checks, "_parts", lambda array: (seen.append(1) or part for part in parts(array)))
    checks.warn_of_probabilities("logits", np.tile(LOGITS, (400, 1)))
    assert len(seen) == 1
