# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Priors and class weights on logits, frequencies however people keep them, and EM against a plain maximiser."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

import hf_focal
from hf_focal.calibrators import prior as module
from hf_focal.calibrators.base import Chain
from hf_focal.calibrators.prior import ClassWeights, PriorShift, frequencies, per_class


SOURCE, TARGET, WEIGHTS = (0.5, 0.3, 0.2), (0.1, 0.3, 0.6), (1.0, 5.0, 2.0)
NAMES = ["cat", "dog", "owl"]


def draw(count, num_labels=3, seed=0):
    return np.random.default_rng(seed).normal(0, 2, (count, num_labels))


def bayes(probabilities, ratio):
    """Each probability times what its class is more frequent, row by row."""
    rows = []
    for row in probabilities:
        products = [p * r for p, r in zip(row, ratio, strict=True)]
        rows.append([one / sum(products) for one in products])
    return np.array(rows)


def test_prior_is_the_rule_of_bayes():
    logits = draw(50)
    expected = bayes(softmax(logits, axis=1), np.divide(TARGET, SOURCE))
    np.testing.assert_allclose(PriorShift(SOURCE, TARGET).probabilities(logits), expected, rtol=1e-12)


def test_class_weights_undone_are_the_probabilities_without_them():
    plain = softmax(draw(50), axis=1)
    under_weights = bayes(plain, WEIGHTS)
    np.testing.assert_allclose(ClassWeights(WEIGHTS).probabilities(np.log(under_weights)), plain, rtol=1e-12)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_training_under_class_weights_is_undone_for_cross_entropy_alone(loss):
    counts = torch.tensor([[50.0, 30, 20], [10, 80, 10], [5, 5, 90]], dtype=torch.float64)  # of classes, in each group
    weights, logits = torch.tensor(WEIGHTS), torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def step():
        optimizer.zero_grad()
        log_p = logits.log_softmax(1)
        value = -(counts * weights * log_p * (1 if loss == "cross_entropy" else (1 - log_p.exp()) ** 3)).sum()
        value.backward()
        return value

    optimizer.step(step)
    undone = ClassWeights(WEIGHTS).probabilities(logits)
    off = np.abs(undone - (counts / counts.sum(1, keepdim=True)).numpy()).max()
    assert off < 1e-5 if loss == "cross_entropy" else off > 0.05


@pytest.mark.parametrize("first", [{"temperature": 1.7}, {"method": "focal", "temperature": 1.7, "gamma": 3.0}])
def test_prior_comes_after_what_was_fitted(first):
    logits, fitted = draw(50), hf_focal.calibrator_of(first)
    chain = hf_focal.calibrator_of(
        {**first, "then": [{"method": "prior", **PriorShift(SOURCE, TARGET).to_record()}]}, "record"
    )
    expected = bayes(fitted.probabilities(logits), np.divide(TARGET, SOURCE))
    np.testing.assert_allclose(chain.probabilities(logits), expected, rtol=1e-9)


@pytest.mark.parametrize("shift", [PriorShift(SOURCE, TARGET), ClassWeights(WEIGHTS)], ids=["prior", "class_weights"])
def test_record_and_map_go_there_and_back(shift):
    record = json.loads(json.dumps({"method": shift.method, **shift.to_record()}))
    assert hf_focal.calibrator_of(record) == shift
    affine = shift.affine(3)
    np.testing.assert_array_equal(affine.inverse().after(affine).shift, np.zeros(3))
    logits = draw(8)
    masked = np.where(np.arange(3) == 1, -np.inf, logits)
    assert (shift.calibrated_logits(masked)[:, 1] == -np.inf).all()
    tensor = torch.tensor(logits).reshape(2, 4, 3).requires_grad_()
    on_tensor = shift.on_tensor(tensor)
    np.testing.assert_allclose(on_tensor.detach().reshape(8, 3), shift.calibrated_logits(logits), rtol=1e-12)
    assert on_tensor.requires_grad and shift.on_tensor(tensor.bfloat16()).dtype == torch.bfloat16


def test_two_priors_are_one():
    middle = (0.2, 0.2, 0.6)
    both = Chain.of(PriorShift(SOURCE, middle), PriorShift(middle, TARGET)).affine(3)
    np.testing.assert_allclose(both.shift, PriorShift(SOURCE, TARGET).affine(3).shift, rtol=1e-12)


@pytest.mark.parametrize("method", ["prior", "class_weights"])
def test_shifts_are_not_fitted(method):
    with pytest.raises(ValueError, match="method must be one of"):
        hf_focal.fit_calibrator(draw(300), np.zeros(300, int), method)
    assert method not in hf_focal.CALIBRATORS


@pytest.mark.parametrize(
    "record",
    [
        {"method": "prior", "source": [0.5, 0.5], "target": [0.5, 0.0]},
        {"method": "prior", "source": [0.5, -0.5], "target": [0.5, 0.5]},
        {"method": "prior", "source": [0.5, 0.5], "target": [0.2, 0.3, 0.5]},
        {"method": "prior", "source": [0.5, 0.5]},
        {"method": "prior", "source": [0.5, float("nan")], "target": [0.5, 0.5]},
        {"method": "class_weights", "weights": [1.0, 0.0]},
        {"method": "class_weights", "weights": "balanced"},
        {"method": "class_weights", "weights": [[1.0, 2.0]]},
    ],
)
def test_hostile_records_are_refused(record):
    with pytest.raises(ValueError, match="config.calibration|source and target"):
        hf_focal.calibrator_of(record)


@pytest.mark.parametrize(
    "value",
    [
        [0.5, 0.3, 0.2],
        (50, 30, 20),
        np.array([5, 3, 2], np.uint8),
        torch.tensor([0.5, 0.3, 0.2]),
        torch.tensor([50, 30, 20]),
        {"dog": 0.3, "owl": 0.2, "cat": 0.5},
        {0: 5, 2: 2, 1: 3},
        {"0": 5, "2": 2, "1": 3},
        Counter({np.int64(2): 2, np.int64(0): 5, np.int64(1): 3}),
        pd.Series([1, 1, 1, 0, 0, 0, 0, 0, 2, 2]).value_counts(normalize=True, ascending=True),
        pd.Series(["dog"] * 3 + ["cat"] * 5 + ["owl"] * 2).value_counts(),
        pd.Series([0.5, 0.3, 0.2]),
        [50.0, 30.0, 20.0],
        [0.51, 0.306, 0.204],  # rounded somewhere
    ],
    ids=lambda value: type(value).__name__,
)
def test_frequencies_are_read_by_class_whatever_they_come_in(value):
    np.testing.assert_allclose(frequencies("source", value, 3, NAMES), SOURCE, rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([0.5, 0.5], r"one number for each of the 3 classes, got shape \(2,\)"),
        ([[0.5, 0.3, 0.2]], r"got shape \(1, 3\)"),
        ([0, 1, 2, 2, 1, 0], r"np.bincount\(labels, minlength=3\)"),
        ([0.5, 0.5, 0.0], r"got 0 for 2 \('owl'\). No head can hold"),
        ([0.5, 0.7, -0.2], r"positive for every class, got -0.2 for 2 \('owl'\)"),
        ([0.5, float("nan"), 0.2], r"got nan for 1 \('dog'\)"),
        ([0.5, float("inf"), 0.2], "got inf"),
        ([0.5, 0.2, 0.1], "shares that sum to 1, got shares that sum to 0.8"),
        (["a", "b", "c"], "must hold real numbers"),
        (0.5, r"got shape \(\)"),
        ({"cat": 0.5, "dgo": 0.3, "owl": 0.2}, "names 'dgo', which is none of the 3 classes.*Did you mean 'dog'"),
        ({"cat": 0.5, "dog": 0.5}, "got none for owl"),
        ({"cat": 0.5, 0: 0.3, "dog": 0.2}, "names the class 0 .'cat'. twice"),
        ({0: 0.5, 1: 0.3, 3: 0.2}, "names 3"),
        ({0.0: 0.5, 1: 0.3, 2: 0.2}, "names 0.0"),
        ({"cat": None, "dog": 0.5, "owl": 0.5}, "real numbers"),
    ],
)
def test_what_is_no_frequency_for_each_class_is_refused(value, message):
    with pytest.raises(ValueError, match=f"^source.*{message}"):
        frequencies("source", value, 3, NAMES)


def test_masked_classes_need_no_frequency_and_stay():
    source, target = (frequencies("f", one, 3, NAMES, [1]) for one in ([6, 0, 2], {"cat": 0.5, "owl": 0.5}))
    shift = PriorShift(tuple(source), tuple(target)).affine(3).shift
    assert shift[1] == 0 and source.sum() == pytest.approx(1)
    assert shift[2] - shift[0] == pytest.approx(np.log(3))


def test_weights_need_no_sum():
    np.testing.assert_array_equal(per_class("weights", {"owl": 3, "cat": 0.1, "dog": 0.2}, 3, NAMES), [0.1, 0.2, 3])


# EM.


def log_likelihood(frequencies, probabilities, source):
    """Of the samples, and of half a sample for each class."""
    mixed = [sum(f * p / s for f, p, s in zip(frequencies, row, source, strict=True)) for row in probabilities]
    return np.log(mixed).sum() + (np.multiply(source, len(source) / 2) * np.log(frequencies)).sum()


def shifted(count, num_labels, seed=0):
    """Calibrated probabilities at `source`, of data with other frequencies, which are returned as well."""
    generator = np.random.default_rng(seed)
    source, target = generator.dirichlet(np.full(num_labels, 3.0)), generator.dirichlet(np.full(num_labels, 1.0))
    labels = generator.choice(num_labels, count, p=target)
    inputs = labels[:, None] == np.arange(num_labels)
    inputs = 2.0 * inputs + generator.normal(size=inputs.shape)  # normal classes: log p(x | k) = 2 x_k + constant
    return softmax(2 * inputs + np.log(source), axis=1), source, np.bincount(labels, minlength=num_labels) / count


@pytest.mark.parametrize(("count", "num_labels", "seed"), [(3, 2, 0), (40, 3, 1), (300, 3, 2), (200, 7, 3)])
def test_estimate_maximises_the_likelihood(count, num_labels, seed):
    probabilities, source, _ = shifted(count, num_labels, seed)
    best = minimize(
        lambda x: -log_likelihood(softmax(x), probabilities, source), np.zeros(num_labels),
        options={"gtol": 1e-7}, method="BFGS",
    )  # fmt: skip
    found = hf_focal.estimate_prior(probabilities, source)
    assert log_likelihood(found, probabilities, source) == pytest.approx(-best.fun, abs=1e-5)
    np.testing.assert_allclose(found, softmax(best.x), atol=1e-4)


def test_estimate_ends_within_the_tolerance_of_the_maximum():
    probabilities, source, _ = shifted(500, 4)
    best = log_likelihood(hf_focal.estimate_prior(probabilities, source, tolerance=1e-9), probabilities, source)
    rough = hf_focal.estimate_prior(probabilities, source, tolerance=0.5)
    assert 1e-6 < best - log_likelihood(rough, probabilities, source) < 0.5


def test_estimate_finds_the_frequencies_of_many_samples():
    probabilities, source, true = shifted(20_000, 5)
    found = hf_focal.estimate_prior(probabilities.astype(np.float32), 1000 * source)
    assert found.sum() == pytest.approx(1) and found.min() > 0
    np.testing.assert_allclose(found, true, atol=0.01)
    assert np.abs(source - true).max() > 0.1


def test_estimate_reads_blocks(monkeypatch):
    probabilities, source, _ = shifted(100, 3)
    whole = hf_focal.estimate_prior(probabilities, source)
    monkeypatch.setattr(module, "_BLOCK", 21)
    np.testing.assert_allclose(hf_focal.estimate_prior(torch.tensor(probabilities), source), whole, rtol=1e-9)


@pytest.mark.parametrize("spread", [1e-6, 0.01, 0.3, 100.0])
def test_estimate_ends_quickly_whatever_the_samples_tell(spread, monkeypatch):
    passes, ratios = [], module._ratios
    monkeypatch.setattr(module, "_ratios", lambda *args: (passes.append(1), ratios(*args))[1])
    probabilities = softmax(draw(3000, 6, 1) * spread, axis=1)
    found = hf_focal.estimate_prior(probabilities, np.ones(6))
    assert len(passes) < 60 and found.sum() == pytest.approx(1)


def test_estimate_of_what_tells_nothing_is_the_source():
    np.testing.assert_allclose(hf_focal.estimate_prior([SOURCE] * 9, SOURCE), SOURCE, rtol=1e-6)


def test_estimate_rules_no_class_out():
    probabilities = np.repeat([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], 500, axis=0)
    found = hf_focal.estimate_prior(probabilities, SOURCE)
    assert found[2] == pytest.approx(0.3 / 1001.5)  # half a sample of three classes, a fifth of it


@pytest.mark.parametrize(
    ("probabilities", "source", "message"),
    [
        ([[2.0, -1.0], [0.3, 0.1]], [1, 1], "probabilities must not be negative"),
        ([[0.5, 0.5]], [1, 1, 1], "source must hold one number for each of the 2 classes"),
        ([[0.5, 0.5]], [1, 0], "source must be positive"),
        ([0.5, 0.5], [1, 1], "probabilities must have shape"),
        (0.5, [1, 1], "probabilities must have shape"),
        (np.zeros((0, 2)), [1, 1], "at least one sample"),
        ([[0.5, np.nan]], [1, 1], "finite"),
    ],
)
def test_estimate_refuses_what_it_cannot_read(probabilities, source, message):
    with pytest.raises(ValueError, match=message):
        hf_focal.estimate_prior(probabilities, source)


def test_prior_lowers_the_nll_of_shifted_data_to_that_of_the_true_posterior():
    generator = np.random.default_rng(0)
    labels = generator.choice(3, 20_000, p=TARGET)
    inputs = 1.5 * np.eye(3)[labels] + generator.normal(size=(20_000, 3))
    at_source, at_target = (1.5 * inputs + np.log(one) for one in (SOURCE, TARGET))
    adjusted = PriorShift(SOURCE, TARGET).calibrated_logits(at_source)
    np.testing.assert_allclose(log_softmax(adjusted, axis=1), log_softmax(at_target, axis=1), atol=1e-9)
    probabilities = softmax(adjusted, axis=1)
    assert hf_focal.negative_log_likelihood(probabilities, labels) < hf_focal.negative_log_likelihood_from_logits(
        at_source, labels
    )
