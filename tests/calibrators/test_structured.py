# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Bias, vector and matrix: the minimum that they are, what they do not depend on, and what they refuse."""

import functools

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime, minimize
from scipy.special import log_softmax, softmax

from hf_focal import CALIBRATORS, Affine, calibration_metrics, calibrator_of, fit_calibrator, fit_temperature
from hf_focal.calibrators.structured import _All, _Own, _Search


METHODS = ("bias", "vector", "matrix")


def distorted(seed, n=1000, k=4, factor=2.0):
    """Logits of a model that is over-confident, favours some classes and mixes them up, with labels."""
    generator = np.random.default_rng(seed)
    true = 1.5 * generator.normal(size=(n, k))
    labels = (true + generator.gumbel(size=true.shape)).argmax(axis=1)
    mixed = true @ (np.eye(k) + 0.4 * np.eye(k, k, 1)) * np.linspace(0.7, 1.4, k)
    return factor * (mixed + np.linspace(0, 0.8, k)), labels


def masked(seed, n=1000, k=4):
    """Of these some are masked, and one class in all samples, but never that of the label."""
    logits, labels = distorted(seed, n, k)
    keep = labels != 2
    logits, labels = logits[keep], labels[keep]
    hidden = np.random.default_rng(seed).random(logits.shape) < 0.2
    hidden[:, 2] = True
    hidden[np.arange(len(labels)), labels] = False
    return np.where(hidden, -np.inf, logits), labels


DATA = {"plain": distorted, "masked": masked}


@functools.cache
def fitted(method, data="plain", **options):
    return fit_calibrator(*DATA[data](0), method, guard=False, **options).calibrator


def nll(logits, labels):
    return -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]


# ---- The minimum ----------------------------------------------------------------------------------------------------


def objective(method, logits, labels, intercept, ridge=1.0):
    """The penalised sum as the docstrings tell it, of flat numbers; and the map `(matrix, shift)` of such numbers."""
    n, k = logits.shape
    hidden = logits == -np.inf
    temperature = 1.0 if method == "bias" else fit_temperature(logits, labels, guard=False).temperature
    z = np.where(hidden, 0, logits) / temperature
    used = ~hidden.all(axis=0)
    if method == "matrix":
        means = np.outer(used / used.sum(), np.ones(k)).T
        largest = np.where(hidden, -np.inf, z).max(axis=1) - z[:, used].mean(axis=1)
        centre, offset = (np.eye(k) - means) * used[:, None], used * largest.mean() * intercept
    else:
        counts = np.maximum((~hidden).sum(axis=0), 1)
        centre, offset = np.eye(k), intercept * z.sum(axis=0) / counts
    features = z @ centre.T - offset

    def parts(x):
        shift = x[-k:] if intercept else np.zeros(k)
        if method == "bias":
            return np.zeros((k, k)), shift
        return (x[: k * k].reshape(k, k) if method == "matrix" else np.diag(x[:k])), shift

    def value(x):
        weights, shift = parts(x)
        mapped = np.where(hidden, -np.inf, z + features @ weights.T + shift)
        count = used.sum()
        off = count * (count - 1) * ((weights**2).sum() - (np.diag(weights) ** 2).sum())
        own = count * ((np.diag(weights) ** 2).sum() + (shift**2).sum())
        return nll(mapped, labels).sum() + ridge * (off + own)

    def whole(x):
        weights, shift = parts(x)
        return (np.eye(k) + weights @ centre) / temperature, shift - weights @ offset

    size = {"bias": 0, "vector": k, "matrix": k * k}[method] + k * intercept
    return value, whole, np.zeros(size)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(
    ("method", "intercept"), [("bias", True), ("vector", True), ("vector", False), ("matrix", True), ("matrix", False)]
)
def test_it_is_the_minimum_that_another_optimiser_finds(method, intercept, data):
    logits, labels = DATA[data](0)
    value, whole, zero = objective(method, logits, labels, intercept)
    matrix, shift = whole(minimize(value, zero, method="BFGS", options={"gtol": 1e-5}).x)
    options = {} if method == "bias" else {"intercept": intercept}
    calibrator = CALIBRATORS[method].with_ridge(logits, labels, 1.0, **options)
    affine = calibrator.affine(logits.shape[1])
    scale = affine.scale if np.ndim(affine.scale) == 2 else np.diag(np.broadcast_to(affine.scale, 4))
    assert np.allclose(scale, matrix, atol=2e-5)
    found = np.zeros(4) if affine.shift is None else affine.shift
    assert np.allclose(found - found.mean(), shift - shift.mean(), atol=2e-5)
    assert intercept or affine.shift is None


@pytest.mark.parametrize("k", [5, 150])
@pytest.mark.parametrize("kind", [_Own, _All])
def test_the_slope_is_that_of_finite_differences(kind, k):
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(60, k)), generator.integers(0, k, 60)
    logits[generator.random(logits.shape) < 0.1] = -np.inf
    logits[np.arange(60), labels] = generator.normal(size=60)
    search = _Search(logits, labels, kind)
    coefficients = generator.normal(size=(k, 2 if kind is _Own else k + 1))
    total = search.of_labels()
    value, slopes = search.nll(coefficients, total)
    affine = Affine(coefficients[:, 0] if kind is _Own else coefficients[:, :-1], coefficients[:, -1])
    assert value == pytest.approx(nll(affine(logits), labels).sum(), rel=1e-12)
    some = generator.permutation(coefficients.size)[:10]

    def shifted(step):
        moved = coefficients.ravel().copy()
        moved[some] += step
        return search.nll(moved.reshape(coefficients.shape), total)[0]

    assert np.allclose(slopes.ravel()[some], approx_fprime(np.zeros(10), shifted, 1e-6), atol=2e-4)


@pytest.mark.parametrize("method", METHODS)
def test_many_logits_are_fitted_in_blocks_as_few_are(method, monkeypatch):
    logits, labels = distorted(1, 300, 5)
    whole = CALIBRATORS[method].with_ridge(logits, labels, 1.0).affine(5)
    monkeypatch.setattr("hf_focal.calibrators.structured._CHUNK", 35)
    monkeypatch.setattr("hf_focal.calibrators.structured._KEPT", 0)
    monkeypatch.setattr("hf_focal.calibrators.structured._CURVED", 50)
    parts = CALIBRATORS[method].with_ridge(logits, labels, 1.0).affine(5)
    assert np.allclose(whole.scale, parts.scale, atol=1e-5) and np.allclose(whole.shift, parts.shift, atol=1e-5)
    logits32 = logits.astype(np.float32)
    rough = next(iter(CALIBRATORS[method].by_ridge(logits32, labels).values()))  # in their own precision
    assert rough.probabilities(logits) == pytest.approx(
        CALIBRATORS[method].with_ridge(logits, labels, min(CALIBRATORS[method].ridges)).probabilities(logits), abs=3e-3
    )


@pytest.mark.parametrize("method", METHODS)
def test_arrays_of_any_kind_give_the_same(method):
    logits, labels = distorted(2, 400)
    half = logits.astype(np.float16)
    expected = fit_calibrator(half.astype(np.float64), labels, method).probabilities(half)
    for array in (half, half.astype(np.float32), torch.tensor(half), torch.tensor(half).double(), half.tolist()):
        found = fit_calibrator(array, labels, method)
        assert found.method == method and np.allclose(found.probabilities(half), expected, atol=1e-5)


# ---- What it does not depend on -------------------------------------------------------------------------------------


def test_a_matrix_is_blind_to_what_softmax_is_blind_to():
    logits, labels = distorted(3)
    constants = 5 * np.random.default_rng(0).normal(size=(len(logits), 1)) + 100
    expected = fit_calibrator(logits, labels, "matrix").probabilities(logits)
    found = fit_calibrator(logits + constants, labels, "matrix").calibrator
    assert np.allclose(found.probabilities(logits + constants), expected, atol=1e-5)
    assert np.allclose(found.probabilities(logits), expected, atol=1e-5)
    assert np.allclose(np.sum(found.matrix, axis=1), 1)


def test_a_vector_is_blind_to_one_constant_and_keeps_the_means():
    logits, labels = distorted(3)
    expected = fit_calibrator(logits, labels, "vector").probabilities(logits)
    assert np.allclose(fit_calibrator(logits + 50, labels, "vector").probabilities(logits + 50), expected, atol=1e-4)


def test_the_units_of_the_logits_do_not_matter():
    logits, labels = distorted(4)
    for method in ("vector", "matrix"):
        expected = fit_calibrator(logits, labels, method).probabilities(logits)
        assert np.allclose(fit_calibrator(7 * logits, labels, method).probabilities(7 * logits), expected, atol=1e-5)


@pytest.mark.parametrize("method", ["vector", "matrix"])
def test_the_fewer_samples_and_the_stronger_the_ridge_the_closer_it_is_to_the_temperature(method):
    cls, (fresh, _) = CALIBRATORS[method], distorted(6)

    def distance(n, ridge, seed):
        found = cls.with_ridge(*distorted([seed, n], n), ridge)
        return np.abs(found.probabilities(fresh) - softmax(fresh / found.temperature, axis=1)).mean()

    few, many = (np.mean([distance(n, 1.0, seed) for seed in range(5)]) for n in (10, 1000))
    assert few < 0.8 * many
    assert distance(1000, 1e9, 0) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_masks_stay_and_a_class_that_is_always_masked_tells_on_none(method):
    logits, labels = masked(0)
    calibrator = fitted(method, "masked")
    probabilities = calibrator.probabilities(logits)
    assert np.array_equal(probabilities == 0, logits == -np.inf) and np.allclose(probabilities.sum(axis=1), 1)
    if method == "matrix":
        matrix = np.array(calibrator.matrix)
        assert np.array_equal(np.delete(matrix[:, 2], 2), np.zeros(3))
    others = np.where(np.arange(4) == 2, 123.0, np.where(logits == -np.inf, 0, logits))
    mapped = calibrator.calibrated_logits(others)[:, [0, 1, 3]]
    without = calibrator.calibrated_logits(np.where(np.arange(4) == 2, -np.inf, others))[:, [0, 1, 3]]
    assert np.allclose(mapped, without)
    assert nll(calibrator.calibrated_logits(logits), labels).mean() < nll(logits, labels).mean() - 0.01


def test_a_map_is_an_affine_one_that_can_be_undone():
    for method in METHODS:
        affine = fitted(method).affine(4)
        logits, _ = distorted(7, 50)
        assert np.allclose(affine.inverse()(affine(logits)), logits)
        assert fitted(method).is_affine


@pytest.mark.parametrize("method", METHODS)
def test_separable_data_give_finite_numbers(method):
    logits = np.repeat(10 * np.eye(3), 40, axis=0)
    with pytest.warns(UserWarning):
        fit = fit_calibrator(logits, np.repeat([0, 1, 2], 40), method, guard=False)
    assert np.isfinite(fit.probabilities(logits)).all()
    with pytest.warns(UserWarning, match="only a large gain"):
        fit = fit_calibrator(logits, np.repeat([0, 1, 2], 40), method)
    assert fit.calibrator == CALIBRATORS[method].neutral(3) and "none was wrong" in fit.why


# ---- The guard ------------------------------------------------------------------------------------------------------


def calibrated(seed, n, k=10):
    logits = 2 * np.random.default_rng(seed).normal(size=(n, k))
    return logits, (logits + np.random.default_rng([seed, 1]).gumbel(size=logits.shape)).argmax(axis=1)


@pytest.mark.parametrize("method", METHODS)
def test_what_does_not_help_is_left_alone_and_what_does_is_taken(method):
    logits, labels = calibrated(0, 600)
    fit, free = fit_calibrator(logits, labels, method), fit_calibrator(logits, labels, method, guard=False)
    assert not fit.helped and fit.unchanged and fit.calibrator == CALIBRATORS[method].neutral(10)
    assert np.allclose(fit.probabilities(logits), softmax(logits, axis=1))
    said = "the NLL of validation data that it is not fitted on by"
    assert fit.why.startswith(f"The logits stay as they are: the best one, {free.calibrator}, would ")
    assert said in fit.why and free.why.startswith(f"{free.calibrator} is not known to help: it would ")
    assert not free.helped and free.after["nll"] < free.before["nll"]  # on what it is fitted on it seems to
    helping = fit_calibrator(*distorted(0), method)
    assert helping.helped and helping.why == "" and helping.criterion == "nll"
    fresh, true = distorted(8, 4000)
    before = calibration_metrics(softmax(fresh, axis=1), true)["nll"]
    assert calibration_metrics(helping.probabilities(fresh), true)["nll"] < before - 0.01


def test_a_matrix_is_held_back_more_where_less_is_to_be_had():
    """The ridge is chosen by folds: weak for a model that mixes classes up, strong for one that does not."""
    for data, ridge in ((distorted(0, 4000, 6), 0.25), (calibrated(0, 600, 6), 8.0)):
        chosen = fit_calibrator(*data, "matrix", guard=False).calibrator
        others = {one: CALIBRATORS["matrix"].with_ridge(*data, one) for one in CALIBRATORS["matrix"].ridges}
        assert chosen == others[ridge]


# ---- Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_data_that_it_could_make_nothing_of_are_refused(method):
    logits, labels = distorted(0, 30, 12)
    with pytest.raises(ValueError, match=f"method='{method}' needs at least 12 samples for 12 classes, got 11: use"):
        fit_calibrator(logits[:11], labels[:11], method)
    with pytest.raises(ValueError, match="at least 10 samples for 4 classes, got 9"):
        fit_calibrator(*distorted(0, 9), method)
    with pytest.raises(ValueError, match="needs samples of at least two classes, got 30 of the class 3 alone"):
        fit_calibrator(logits, np.full(30, 3), method)
    with pytest.raises(ValueError, match="logits must be finite"):
        fit_calibrator(np.where(np.arange(12) == 3, np.nan, logits), labels, method)
    with pytest.raises(ValueError, match="speed=3 is an option of no method"):
        fit_calibrator(logits, labels, method, speed=3)
    for columns in (3, 5):
        with pytest.raises(ValueError, match=f"for 4 classes, got logits of {columns}"):
            fitted(method).probabilities(np.zeros((2, columns)))


def test_a_matrix_of_too_many_classes_is_refused_before_any_work():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(300, 101)), generator.integers(0, 101, 300)
    with pytest.raises(ValueError, match="for at most 100 classes, got 101: use method='vector'"):
        fit_calibrator(logits, labels, "matrix")


@pytest.mark.parametrize("method", ["vector", "matrix", "auto"])
def test_the_intercept_is_a_choice_of_two(method):
    for value in ("no", 1, None):
        with pytest.raises(
            ValueError, match=f"intercept must be True, or False for a head without a bias, got {value!r}"
        ):
            fit_calibrator(*distorted(0), method, intercept=value)


def test_methods_without_an_intercept_say_so():
    for method in ("bias", "temperature", "none"):
        with pytest.raises(
            ValueError, match="intercept=False is for method='(vector|matrix)' and method='(vector|matrix)' alone"
        ):
            fit_calibrator(*distorted(0), method, intercept=False)


@pytest.mark.parametrize("method", ["vector", "matrix"])
def test_a_record_whose_numbers_are_of_different_classes_is_refused(method):
    record = {"method": method, **fitted(method).to_record()}
    assert calibrator_of({**record, "shift": []}).affine(4).shift is None
    with pytest.raises(ValueError, match="shift must hold 4 numbers, one for each class, or none, got 3"):
        calibrator_of({**record, "shift": [0.0] * 3})


def test_it_says_what_it_does_in_one_sentence():
    assert (
        fitted("bias").words.startswith("A shift of each of its 4 logits, from -")
        and "is added." in fitted("bias").words
    )
    assert fitted("vector").words.startswith("Each of its 4 logits, divided by ")
    assert fitted("vector").words.endswith(", and shifted.")
    bare = fitted("matrix", intercept=False)
    assert bare.words == f"Its 4 logits, divided by {bare.temperature:.4g}, are multiplied by a matrix of 4 x 4."


def test_none_is_a_method_too():
    logits, labels = distorted(0)
    fit = fit_calibrator(logits, labels, "none")
    assert fit.method == "none" and fit.after == fit.before and not fit.helped and fit.unchanged
    assert fit.why == "The logits stay as they are: no calibrator was asked for."
    assert np.allclose(fit.probabilities(logits), softmax(logits, axis=1))
