# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Fitting a temperature: against the naive grid loop, an independent minimiser, netcal, and on bad input."""

import math
import warnings

import numpy as np
import pytest
import references
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from hf_focal import TemperatureFit, calibration_metrics_from_logits, fit_temperature
from hf_focal.calibrators import TemperatureScaling, describe_confidence


def _data(seed, n, k, temperature, scale=2.0):
    """Logits whose calibrated temperature is about the one given."""
    generator = np.random.default_rng(seed)
    logits = scale * generator.normal(size=(n, k))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(1)  # drawn from softmax(logits)
    return temperature * logits, labels


def _constant(margin, n_right, n):
    """n samples of two classes with the same margin, n_right of them right."""
    logits = np.tile([margin, 0.0], (n, 1))
    return logits, np.array([0] * n_right + [1] * (n - n_right))


def _real(test_data):
    path = test_data / "logits" / "cifar10_densenet40.npz"
    if not path.is_file():
        pytest.skip(f"no real logits at {path}")
    with np.load(path) as data:
        return {name: data[name] for name in data.files}


# ---- The ECE grid ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "temperature"), [(2, 0.5), (2, 2.0), (3, 1.0), (5, 4.0), (10, 0.3), (10, 1.7)])
@pytest.mark.parametrize("n_bins", [15, 7])
def test_ece_grid_equals_the_naive_loop(k, temperature, n_bins):
    logits, labels = _data(k, 200, k, temperature)
    fit = fit_temperature(logits, labels, criterion="ece", n_bins=n_bins)
    assert type(fit.temperature) is float
    assert fit.temperature == references.best_grid_temperature(logits, labels, n_bins)


@pytest.mark.parametrize("seed", range(6))
def test_ece_grid_of_few_samples_equals_the_naive_loop(seed):
    logits, labels = _data(seed, 40, 4, 2.0)
    with pytest.warns(UserWarning) as caught:
        temperature = fit_temperature(logits, labels, "ece").temperature
    assert temperature == references.best_grid_temperature(logits, labels)
    assert "40 samples" in str(caught[0].message)


def test_ece_grid_in_chunks_is_that_of_the_whole(monkeypatch):
    import hf_focal.calibrators.temperature

    logits, labels = _data(20, 250, 5, 2.0)
    expected = [fit_temperature(logits, labels, criterion, guard=False).temperature for criterion in ("ece", "nll")]
    monkeypatch.setattr(hf_focal.calibrators.temperature, "_CHUNK", 35)  # 7 rows at a time
    actual = [fit_temperature(logits, labels, criterion, guard=False).temperature for criterion in ("ece", "nll")]
    assert actual[0] == expected[0] and actual[1] == pytest.approx(expected[1], rel=1e-10)


@pytest.mark.parametrize("first", [0.5, 1.0, 1.4, 3.7, 7.2])
def test_the_smallest_of_tied_temperatures_wins(first):
    second = round(first + 0.1, 1)

    def confidence(margin, temperature):
        return 1 / (1 + math.exp(-margin / temperature))

    # The margin at which the confidences at both temperatures lie equally far from an accuracy of 3/4.
    low, high = 0.01, 20.0
    for _ in range(200):
        margin = (low + high) / 2
        excess = confidence(margin, first) + confidence(margin, second) - 1.5
        low, high = (low, margin) if excess > 0 else (margin, high)
    logits, labels = _constant(margin, 150, 200)
    errors = [references.ece_at(logits, labels, t) for t in (first, second)]
    assert errors[0] == pytest.approx(errors[1], abs=1e-15)
    assert fit_temperature(logits, labels, "ece").temperature == first
    assert fit_temperature(-logits, 1 - labels, "ece").temperature == first


def test_all_temperatures_tied_give_the_smallest_with_a_warning():
    logits, labels = np.zeros((300, 2)), np.arange(300) % 2
    with pytest.warns(UserWarning, match="0.1, is at the end of the range"):
        assert fit_temperature(logits, labels, "ece").temperature == 0.1


def test_real_logits_get_the_temperature_of_the_naive_loop(test_data):
    data = _real(test_data)
    logits, labels = data["val_logits"].astype(np.float64), data["val_labels"]
    edges, errors = np.arange(16) / 15, []
    correct = logits.argmax(1) == labels
    for i in range(1, 101):
        confidences = softmax(logits / (i / 10), axis=1).max(1)
        index = np.searchsorted(edges, confidences, side="left")
        groups = [index == b for b in range(1, 16)]
        errors.append(sum(abs(confidences[g].sum() - correct[g].sum()) for g in groups) / len(labels))
    fit = fit_temperature(data["val_logits"], labels, "ece")
    assert fit.temperature == (int(np.argmin(errors)) + 1) / 10
    assert fit.after["ece"] == pytest.approx(min(errors), abs=1e-12)
    assert fit.before["ece"] == pytest.approx(0.043565, abs=5e-7)
    test = calibration_metrics_from_logits(data["test_logits"], data["test_labels"], temperature=fit.temperature)
    assert test["accuracy"] == 0.9242 and test["ece"] < 0.055003 / 3  # scaling helps on data it has not seen


# ---- The NLL fit ----------------------------------------------------------------------------------------------------


def _independent_nll_temperature(logits, labels):
    result = minimize_scalar(
        lambda log_t: references.mean_nll_at(logits, labels, math.exp(log_t)),
        bounds=(math.log(0.01), math.log(100)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return math.exp(result.x)


@pytest.mark.parametrize(
    ("k", "temperature", "scale"), [(2, 0.05, 2), (2, 2.0, 2), (3, 1.0, 1), (5, 20.0, 3), (10, 0.3, 2), (10, 1.7, 4)]
)
def test_nll_fit_equals_an_independent_minimiser(k, temperature, scale):
    logits, labels = _data(30 + k, 250, k, temperature, scale)
    fit = fit_temperature(logits, labels, criterion="nll", guard=False)
    assert type(fit.temperature) is float
    assert fit.temperature == pytest.approx(_independent_nll_temperature(logits, labels), rel=1e-5)
    best = references.mean_nll_at(logits, labels, fit.temperature)
    for factor in (0.99, 0.999, 1.001, 1.01):
        assert best <= references.mean_nll_at(logits, labels, factor * fit.temperature) + 1e-14


@pytest.mark.parametrize("n_right", [120, 150, 199])
def test_nll_fit_of_constant_margins_has_its_closed_form(n_right):
    # The best confidence is the accuracy, so T = margin / logit(accuracy).
    logits, labels = _constant(1.5, n_right, 200)
    expected = 1.5 / math.log(n_right / (200 - n_right))
    assert fit_temperature(logits, labels, criterion="nll", guard=False).temperature == pytest.approx(
        expected, rel=1e-10
    )


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_nll_temperature_scales_with_the_logits(factor):
    logits, labels = _data(50, 400, 4, 1.5)
    once = fit_temperature(logits, labels, criterion="nll", guard=False).temperature
    assert fit_temperature(factor * logits, labels, criterion="nll", guard=False).temperature == pytest.approx(
        factor * once, 1e-9
    )
    shifted = logits + np.random.default_rng(0).normal(size=(400, 1)) * 50  # softmax does not see it
    assert fit_temperature(shifted, labels, criterion="nll", guard=False).temperature == pytest.approx(once, rel=1e-9)


def test_nll_fit_of_real_logits_equals_an_independent_minimiser(test_data):
    data = _real(test_data)
    logits, labels = data["val_logits"][:800], data["val_labels"][:800]
    fit = fit_temperature(logits, labels, criterion="nll", guard=False)
    assert fit.temperature == pytest.approx(_independent_nll_temperature(logits, labels), abs=1e-4)
    assert fit.temperature > 1.5  # trained with cross-entropy: over-confident


def test_nll_fit_survives_huge_logits():
    logits, labels = _data(60, 300, 3, 10.0)
    assert np.abs(logits).max() > 50
    expected = fit_temperature(logits, labels, criterion="nll", guard=False).temperature
    lifted = logits + 1e6
    assert fit_temperature(lifted, labels, criterion="nll", guard=False).temperature == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.filterwarnings("ignore:independent is deprecated:DeprecationWarning")  # within pyro
@pytest.mark.parametrize("temperature", [0.4, 2.0])
def test_netcal_fits_the_reciprocal_in_double_and_nothing_in_single_precision(temperature):
    from netcal.scaling import TemperatureScaling

    logits, labels = _data(70, 1000, 4, temperature)
    ours = fit_temperature(logits, labels, criterion="nll", guard=False).temperature
    assert abs(ours - 1) > 0.3
    peer = TemperatureScaling()
    peer.fit(references.softmax(logits), labels)  # its temperature multiplies
    assert ours == pytest.approx(1 / float(np.ravel(peer.temperature)[0]), rel=1e-5)
    peer = TemperatureScaling()
    peer.fit(references.softmax(logits).astype(np.float32), labels)  # its optimiser stops where it starts
    assert float(np.ravel(peer.temperature)[0]) == pytest.approx(1, abs=0.01)
    single = fit_temperature(logits.astype(np.float32), labels, criterion="nll", guard=False).temperature
    assert single == pytest.approx(ours, rel=1e-6)


# ---- The result -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["ece", "nll"])
@pytest.mark.parametrize("n_bins", [15, 10])
def test_before_and_after_are_the_metrics(criterion, n_bins):
    logits, labels = _data(80, 220, 5, 2.0)
    fit = fit_temperature(logits, labels, criterion=criterion, n_bins=n_bins)
    assert isinstance(fit, TemperatureFit) and fit.criterion == criterion and fit.n_samples == 220
    for metrics, temperature in ((fit.before, 1.0), (fit.after, fit.temperature)):
        probabilities = references.softmax(logits / temperature)
        assert list(metrics) == list(references.METRICS)
        for name, value in metrics.items():
            bins = (n_bins,) if name in ("ece", "mce", "adaptive_ece", "classwise_ece") else ()
            assert type(value) is float
            assert value == pytest.approx(references.METRICS[name](probabilities, labels, *bins), abs=1e-12), name
    assert fit.before["accuracy"] == fit.after["accuracy"]
    assert fit.after[criterion] < fit.before[criterion]


def test_nll_is_the_default_criterion_under_the_guard_and_ece_goes_without():
    logits, labels = _data(81, 300, 3, 2.0)
    assert fit_temperature(logits, labels) == fit_temperature(logits, labels, "nll", 15, guard=True)
    assert fit_temperature(logits, labels, "ece") == fit_temperature(logits, labels, "ece", 15, guard=False)


@pytest.mark.parametrize("criterion", ["ece", "nll"])
def test_arrays_lists_and_tensors_give_the_same_fit(criterion):
    logits, labels = _data(82, 250, 3, 2.0)
    logits = logits.astype(np.float32)
    expected = fit_temperature(logits.astype(np.float64), labels, criterion)
    before = logits.copy()
    attached = torch.tensor(logits, requires_grad=True)
    for values in (logits, torch.tensor(logits), attached, logits.tolist(), np.asfortranarray(logits)):
        for classes in (labels, torch.tensor(labels), labels.tolist(), labels.astype(np.uint8)):
            assert fit_temperature(values, classes, criterion) == expected
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("criterion", ["ece", "nll"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_raised_to_double(criterion, dtype):
    logits, labels = _data(83, 250, 3, 2.0)
    half = torch.tensor(logits).to(dtype)
    assert fit_temperature(half, labels, criterion) == fit_temperature(half.double(), labels, criterion)


def test_whole_number_logits_are_accepted():
    logits = np.array([[3, 0], [0, 2]] * 150)
    labels = np.array([0, 1, 0, 1, 1, 1] * 50)
    expected = fit_temperature(logits.astype(float), labels, "nll")
    assert fit_temperature(logits, labels, "nll") == expected


def _fit_with(temperature):
    return TemperatureFit(
        calibrator=TemperatureScaling(temperature), criterion="nll", n_samples=300, before={}, after={}
    )


@pytest.mark.parametrize("kind", [np.float64, np.float32, torch.float32, torch.bfloat16], ids=str)
def test_probabilities_are_the_softmax_of_scaled_logits_in_double(kind):
    logits, _ = _data(84, 30, 4, 3.0)
    values = torch.tensor(logits).to(kind) if isinstance(kind, torch.dtype) else logits.astype(kind)
    exact = values.double().numpy() if isinstance(kind, torch.dtype) else values.astype(np.float64)
    probabilities = _fit_with(1.7).probabilities(values)
    assert isinstance(probabilities, np.ndarray) and probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities, references.softmax(exact / 1.7), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-14)


@settings(deadline=None, max_examples=200)
@given(
    logits=st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=8),
    temperature=st.one_of(st.floats(0.01, 100), st.sampled_from([0.1, 1.0, 10.0])),
)
@example(logits=[1.0, math.nextafter(1.0, 2), 0.0], temperature=3.0)
@example(logits=[1e4, -1e4], temperature=0.01)
def test_temperature_reverses_no_strict_order_of_two_logits(logits, temperature):
    probabilities = _fit_with(temperature).probabilities([logits])[0]
    order = np.argsort(logits, kind="stable")
    assert np.all(np.diff(probabilities[order]) >= 0)
    assert np.all(np.isfinite(probabilities)) and probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert probabilities[int(np.argmax(logits))] == probabilities.max()


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.2, 5))
def test_any_nll_fit_is_a_minimum(seed, factor):
    logits, labels = _data(seed, 200, 3, factor, scale=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        temperature = fit_temperature(logits, labels, "nll", guard=False).temperature
    best = references.mean_nll_at(logits, labels, temperature)
    for other in (0.98 * temperature, 1.02 * temperature):
        if 0.01 <= other <= 100:
            assert best <= references.mean_nll_at(logits, labels, other) + 1e-14


# ---- Warnings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("criterion", "right", "temperature"),
    [("ece", True, 0.1), ("ece", False, 10), ("nll", True, 0.01), ("nll", False, 100)],
)
def test_an_optimum_at_either_end_is_warned_of(criterion, right, temperature):
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(300, 4))
    labels = logits.argmax(1) if right else logits.argmin(1)
    with pytest.warns(
        UserWarning, match=f"The best temperature, {temperature:g}, is at the end of the range"
    ) as caught:
        fit = fit_temperature(logits, labels, criterion, guard=False)
    assert type(fit.temperature) is float and fit.temperature == temperature
    assert fit.at_end and not fit.helped and fit.why == str(caught[0].message)
    assert len(caught) == 1 and caught[0].filename == __file__


@pytest.mark.parametrize("criterion", ["ece", "nll"])
def test_few_samples_are_warned_of(criterion):
    logits, labels = _data(90, 200, 3, 2.0)
    with pytest.warns(UserWarning, match="fitted on 199 samples") as caught:
        fit_temperature(logits[:199], labels[:199], criterion)
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_temperature(logits, labels, criterion)


@pytest.mark.parametrize("criterion", ["ece", "nll"])
def test_one_sample_is_fitted_with_warnings(criterion):
    with pytest.warns(UserWarning) as caught:
        fit = fit_temperature([[2.0, 0.0, 1.0]], [0], criterion, guard=False)
    assert fit.temperature == (0.1 if criterion == "ece" else 0.01) and fit.at_end and not fit.helped
    assert ["1 samples" in str(w.message) for w in caught] == [True, False] and fit.n_samples == 1


# ---- Words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("margin", "n_right", "temperature", "verdict", "effect"),
    [
        (4.0, 150, 2.5, "over-confident", "softens its probabilities."),
        (0.5, 190, 0.4, "under-confident", "sharpens its probabilities."),
        (math.log(3), 150, 1.0, "neither over- nor under-confident", "leaves its probabilities alone."),
    ],
)
def test_confidence_is_described_in_words(margin, n_right, temperature, verdict, effect):
    logits, labels = _constant(margin, n_right, 200)
    text = describe_confidence(logits, labels, temperature)
    confidence = 1 / (1 + math.exp(-margin))
    assert f"the model is {verdict}" in text
    assert f"mean confidence is {confidence:.1%}" in text and f"right {n_right / 200:.1%} of the time" in text
    assert f"temperature {temperature:g} {effect}" in text


# ---- Bad input ------------------------------------------------------------------------------------------------------

ROWS = np.random.default_rng(0).normal(size=(300, 3))
CLASSES = np.arange(300) % 3


def _with(array, index, value, dtype=float):
    array = np.array(array, dtype=dtype)
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (ROWS[:, 0], CLASSES, r"logits must have shape \(num_samples, num_labels\), got \(300,\)"),
        (ROWS[None], CLASSES, "logits must have shape"),
        (ROWS[:0], CLASSES[:0], "logits must hold at least one sample"),
        (ROWS[:, :1], CLASSES * 0, "logits must have a column .* at least 2 classes"),
        (_with(ROWS, (7, 1), math.nan), CLASSES, "logits must be finite"),
        (_with(ROWS, (7, 1), math.inf), CLASSES, "logits must be finite"),
        (_with(ROWS, (7, 1), -math.inf), CLASSES, "class of a label must not be masked, but that of row 7, 1"),
        (ROWS.astype(object), CLASSES, "logits must hold real numbers"),
        (ROWS.astype(complex), CLASSES, "logits must hold real numbers"),
        (ROWS, CLASSES[:-1], "logits and labels must have the same length, got 300 and 299"),
        (ROWS, CLASSES[:, None], r"labels must have shape \(num_samples,\)"),
        (ROWS, np.eye(3)[CLASSES], r"labels must have shape \(num_samples,\).*not one-hot"),
        (ROWS, _with(CLASSES, 5, 3, int), r"labels must lie in \[0, 2\]"),
        (ROWS, _with(CLASSES, 5, -1, int), r"labels must lie in \[0, 2\]"),
        (ROWS, _with(CLASSES, 5, -100, int), r"labels must lie in \[0, 2\].*ignored samples"),
        (ROWS, _with(CLASSES, 5, 0.5), "labels must be whole numbers"),
        (ROWS, _with(CLASSES, 5, math.nan), "labels must be whole numbers"),
    ],
)
@pytest.mark.parametrize("criterion", ["ece", "nll"])
def test_bad_logits_and_labels_are_refused_by_name(criterion, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, labels, criterion)


@pytest.mark.parametrize("criterion", ["brier", "ECE", None, ""])
def test_an_unknown_criterion_is_refused(criterion):
    with pytest.raises(ValueError, match="criterion must be one of ece, nll, got"):
        fit_temperature(ROWS, CLASSES, criterion)


@pytest.mark.parametrize("criterion", ["ece", "nll"])
def test_a_bad_number_of_bins_is_refused(criterion):
    for n_bins in (0, -1):
        with pytest.raises(ValueError, match="n_bins must be at least 1"):
            fit_temperature(ROWS, CLASSES, criterion, n_bins=n_bins)
    for n_bins in (2.5, "15", None, True):
        with pytest.raises(TypeError, match="n_bins must be a whole number"):
            fit_temperature(ROWS, CLASSES, criterion, n_bins=n_bins)


def test_probabilities_refuse_bad_logits():
    for logits in ([1.0, 2.0], np.zeros((0, 3)), [[1.0]], [[math.nan, 0.0]], [[math.inf, 0.0]]):
        with pytest.raises(ValueError, match="^logits must"):
            _fit_with(2.0).probabilities(logits)
