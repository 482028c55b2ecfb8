# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Every loss and its gradient against plain float64 definitions, and the ways in which it may be called."""

import math
from collections import OrderedDict, UserDict
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import references
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_focal import (
    LOSSES,
    CalibrationLoss,
    FocalLoss,
    LabelSmoothingLoss,
    MMCELoss,
    SampleDependentFocalLoss,
    ScheduledFocalLoss,
    brier_loss,
    create_loss,
    cross_entropy_loss,
    focal_loss,
    label_smoothing_loss,
    mmce_loss,
    sample_dependent_focal_loss,
)


FLSD_532 = {"gammas": (5.0, 3.0, 2.0), "thresholds": (0.2, 0.5)}


# ---- Inputs ---------------------------------------------------------------------------------------------------------


def _random(seed, n, k, scale=3.0):
    generator = np.random.default_rng(seed)
    return scale * generator.normal(size=(n, k)), generator.integers(0, k, n)


def _make_cases():
    generator = np.random.default_rng(7)
    right_logits = generator.normal(size=(6, 4))
    many = generator.normal(size=(8, 300)) * 2
    return {
        "random": _random(0, 17, 5),
        "flat": _random(1, 12, 10, scale=0.3),
        "binary": _random(2, 9, 2),
        "many_classes": (many, many.argsort(1)[:, [-1, -1, -2, -2, -3, 5, 150, -1]].diagonal()),
        "single": (np.array([[0.3, -1.0, 0.1]]), np.array([2])),
        "all_right": (right_logits, right_logits.argmax(1)),
        "all_wrong": (right_logits, right_logits.argmin(1)),
        "saturated": (
            np.array([[40.0, 0, 0], [0, 40, 0], [200, -200, 0], [1000, 0, -1000], [0, 0, 800], [18, 0, 1]]),
            np.array([0, 0, 0, 1, 2, 0]),
        ),
        "huge": (np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4], [-1e4, -1e4]]), np.array([0, 0, 1, 0])),
        "tied_classes": (np.array([[0.0, 0, 0, 0], [1, 1, 0, -1], [0, 2, 2, 2], [-3, -3, 5, 5]]), np.arange(4)),
        "tied_samples": (np.array([[1.5, 0, -0.5]] * 5 + [[0, 1.5, -0.5]] * 3), np.array([0, 0, 1, 2, 0, 1, 1, 0])),
    }


CASES = _make_cases()


def _mmce_reference(weighted, released):
    def value(z, y):
        return references.cross_entropy(z, y) + 2.0 * references.mmce(z, y, weighted, released)

    def gradient(z, y):
        return references.cross_entropy_gradient(z, y) + len(y) * 2.0 * references.mmce_gradient(
            z, y, weighted, released
        )

    return value, gradient


def _flsd_reference(gammas, thresholds):
    def chosen(z, y):
        return references.sample_dependent_gammas(z, y, gammas, thresholds)

    return (
        lambda z, y: references.focal(z, y, chosen(z, y)),
        lambda z, y: references.focal_gradient(z, y, chosen(z, y)),
    )


def _focal_case(gamma):
    return (
        partial(focal_loss, gamma=gamma),
        lambda z, y: references.focal(z, y, gamma),
        lambda z, y: references.focal_gradient(z, y, gamma),
    )


def _smoothing_case(smoothing):
    return (
        partial(label_smoothing_loss, smoothing=smoothing),
        lambda z, y: references.label_smoothing(z, y, smoothing),
        lambda z, y: references.label_smoothing_gradient(z, y, smoothing),
    )


def _mmce_case(weighted, normalization):
    function = partial(mmce_loss, weighted=weighted, normalization=normalization)
    return (function, *_mmce_reference(weighted, normalization == "released"))


# name -> (function, reference of the values per sample, reference of the gradient of their sum)
FUNCTIONS = {
    "cross_entropy": (cross_entropy_loss, references.cross_entropy, references.cross_entropy_gradient),
    "label_smoothing": _smoothing_case(0.05),
    "label_smoothing_0": _smoothing_case(0.0),
    "label_smoothing_0.9": _smoothing_case(0.9),
    "brier": (brier_loss, references.brier, references.brier_gradient),
    "focal_0": _focal_case(0.0),
    "focal_0.1": _focal_case(0.1),
    "focal_0.5": _focal_case(0.5),
    "focal_1": _focal_case(1.0),
    "focal_3": _focal_case(3.0),
    "focal_7.5": _focal_case(7.5),
    "flsd-53": (sample_dependent_focal_loss, *_flsd_reference((5.0, 3.0), (0.2,))),
    "flsd-532": (partial(sample_dependent_focal_loss, **FLSD_532), *_flsd_reference(*FLSD_532.values())),
    "flsd-low": (
        partial(sample_dependent_focal_loss, gammas=(0.5, 0.0, 0.25), thresholds=(0.1, 0.6)),
        *_flsd_reference((0.5, 0.0, 0.25), (0.1, 0.6)),
    ),
    "mmce": _mmce_case(True, "definition"),
    "mmce-released": _mmce_case(True, "released"),
    "mmce-unweighted": _mmce_case(False, "definition"),
    "mmce-unweighted-released": _mmce_case(False, "released"),
}
FOR_EACH_FUNCTION = pytest.mark.parametrize("name", FUNCTIONS)
FOR_EACH_CASE = pytest.mark.parametrize("case", CASES)


def _tensors(case, dtype=torch.float64):
    logits, labels = CASES[case]
    return torch.tensor(logits, dtype=dtype, requires_grad=True), torch.tensor(labels)


def _ready(name, **parameters):
    """The loss of that name, told of the start of training where it asks for it."""
    loss = create_loss(name, **parameters)
    loss.set_progress(fraction=0.0)
    return loss


# ---- Values and gradients -------------------------------------------------------------------------------------------


# Finite differences need a smooth function: no saturation, no ties of the largest logit.
@pytest.mark.parametrize("case", [case for case in CASES if case not in ("huge", "saturated", "tied_classes")])
@pytest.mark.parametrize(
    "name", ["label_smoothing", "brier", "focal_0.5", "focal_3", *(key for key in FUNCTIONS if "mmce" in key)]
)
def test_reference_gradients_are_the_slopes_of_reference_values(name, case):
    logits, labels = CASES[case]
    logits, labels = logits[:4, :40], labels[:4] % 40
    _, value, gradient = FUNCTIONS[name]
    numeric = references.central_difference(lambda z: value(z, labels).sum(), logits)
    # Where confidences tie, the kernel has a kink: central differences then converge in the first order alone.
    atol = 1e-4 if case == "tied_samples" else 1e-7
    np.testing.assert_allclose(gradient(logits, labels), numeric, rtol=1e-6, atol=atol)


@FOR_EACH_CASE
@FOR_EACH_FUNCTION
def test_value_and_gradient_agree_with_the_definition_in_double_precision(name, case):
    function, value, gradient = FUNCTIONS[name]
    logits, labels = _tensors(case)
    losses = function(logits, labels, reduction="none")
    assert losses.dtype == torch.float64 and losses.shape == labels.shape
    expected = value(*CASES[case])
    np.testing.assert_allclose(losses.detach().numpy(), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(function(logits, labels, reduction="sum").item(), expected.sum(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(function(logits, labels).item(), expected.mean(), rtol=0, atol=1e-9)
    slopes = gradient(*CASES[case])
    for reduction, scale in (("sum", 1), ("mean", len(labels))):
        (actual,) = torch.autograd.grad(function(logits, labels, reduction=reduction), logits)
        np.testing.assert_allclose(actual.numpy() * scale, slopes, rtol=0, atol=1e-9)


@FOR_EACH_CASE
@FOR_EACH_FUNCTION
def test_value_and_gradient_agree_with_the_definition_in_single_precision(name, case):
    function, value, gradient = FUNCTIONS[name]
    logits, labels = _tensors(case, torch.float32)
    exact = logits.detach().numpy().astype(np.float64), CASES[case][1]
    losses = function(logits, labels, reduction="none")
    assert losses.dtype == torch.float32
    expected = value(*exact)
    np.testing.assert_array_less(
        np.abs(losses.detach().numpy() - expected), 2e-6 * np.maximum(1, np.abs(expected)) + 1e-300
    )
    mean = expected.mean()
    assert function(logits, labels).item() == pytest.approx(mean, abs=2e-6 * max(1, abs(mean)))
    (actual,) = torch.autograd.grad(function(logits, labels), logits)
    assert actual.dtype == torch.float32
    slopes = gradient(*exact) / len(labels)
    np.testing.assert_allclose(actual.numpy(), slopes, rtol=0, atol=2e-6 * max(1, np.abs(slopes).max()))


@FOR_EACH_FUNCTION
def test_gradcheck_holds_once_and_twice(name):
    function = FUNCTIONS[name][0]
    logits = torch.tensor(CASES["random"][0][:5, :4], requires_grad=True)
    labels = torch.tensor([int(np.argmax(row)) if i % 2 else 3 for i, row in enumerate(logits.tolist())])
    for reduction in ("mean", "none"):
        assert torch.autograd.gradcheck(partial(function, labels=labels, reduction=reduction), (logits,))
    assert torch.autograd.gradgradcheck(partial(function, labels=labels), (logits,))


@FOR_EACH_FUNCTION
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_batch_agrees_with_the_definition(name, data):
    n, k = data.draw(st.integers(1, 5)), data.draw(st.integers(2, 5))
    rows = st.lists(st.floats(-30, 30, width=16), min_size=k, max_size=k)
    logits = np.array(data.draw(st.lists(rows, min_size=n, max_size=n)))
    labels = np.array(data.draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n)))
    function, value, _ = FUNCTIONS[name]
    expected = value(logits, labels)
    if "flsd" in name:  # at a threshold rounding decides
        p = references.softmax(logits)[np.arange(n), labels]
        if min(np.abs(p - t).min() for t in (0.1, 0.2, 0.5, 0.6)) < 1e-12:
            return
    # A root turns rounding of 1e-17 near zero into 1e-9, so the square is compared there.
    losses = function(torch.tensor(logits), torch.tensor(labels), reduction="none").numpy()
    if name in ("mmce", "mmce-unweighted", "mmce-released"):
        weighted, released = name != "mmce-unweighted", name == "mmce-released"
        term = (losses - references.cross_entropy(logits, labels)) / 2
        exact = references.mmce(logits, labels, weighted, released)
        np.testing.assert_allclose(term * np.abs(term), np.full(n, exact**2), rtol=0, atol=1e-9)
    else:
        np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-9)


@FOR_EACH_FUNCTION
def test_gradients_are_finite_at_logits_of_ten_thousand(name):
    for dtype in (torch.float32, torch.float64):
        for case in ("huge", "saturated"):
            logits, labels = _tensors(case, dtype)
            loss = FUNCTIONS[name][0](logits, labels)
            (gradient,) = torch.autograd.grad(loss, logits)
            assert torch.isfinite(loss) and torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@FOR_EACH_FUNCTION
def test_half_precision_is_computed_and_returned_in_single(name, dtype):
    function = FUNCTIONS[name][0]
    scale = {"random": 1, "saturated": 50}  # 1000 * 50 still fits into float16
    for case, factor in scale.items():
        logits, labels = _tensors(case)
        half = (logits.detach() * factor).to(dtype).requires_grad_()
        loss = function(half, labels)
        assert loss.dtype == torch.float32 and torch.isfinite(loss)
        assert torch.equal(loss, function(half.detach().float(), labels))
        assert function(half, labels, reduction="none").dtype == torch.float32
        (gradient,) = torch.autograd.grad(loss, half)
        assert gradient.dtype == dtype and torch.isfinite(gradient).all()


@pytest.mark.parametrize("gamma", [1e-3, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gamma_below_one_has_no_gradient_where_p_rounds_to_one(gamma, dtype):
    logits = torch.tensor([[100.0, 0.0], [0.0, 1000.0]], dtype=dtype, requires_grad=True)
    for function in (
        partial(focal_loss, gamma=gamma),
        partial(sample_dependent_focal_loss, gammas=(5.0, gamma), thresholds=(0.2,)),
    ):
        loss = function(logits, torch.tensor([0, 1]))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert 0 <= loss.item() < 1e-40
        assert torch.isfinite(gradient).all() and gradient.abs().max() < 1e-3


def test_focal_where_p_underflows_has_the_gradient_of_cross_entropy():
    logits = torch.tensor([[-2000.0, 0.0, 1.0]], requires_grad=True)
    labels = torch.tensor([0])
    for gamma in (0.5, 3.0):
        loss = focal_loss(logits, labels, gamma=gamma)
        (gradient,) = torch.autograd.grad(loss, logits)
        (plain,) = torch.autograd.grad(F.cross_entropy(logits, labels), logits)
        assert loss.item() == pytest.approx(2001.3132616875183, rel=2e-6)
        torch.testing.assert_close(gradient, plain, rtol=0, atol=2e-6)


# ---- What the losses are --------------------------------------------------------------------------------------------


@FOR_EACH_CASE
def test_focal_with_gamma_zero_is_cross_entropy(case):
    logits, labels = _tensors(case)
    for gamma in (0, 0.0):
        assert torch.equal(focal_loss(logits, labels, gamma=gamma), cross_entropy_loss(logits, labels))


@FOR_EACH_CASE
def test_cross_entropy_is_that_of_torch(case):
    logits, labels = _tensors(case)
    for reduction in ("mean", "sum", "none"):
        expected = F.cross_entropy(logits, labels, reduction=reduction)
        actual = cross_entropy_loss(logits, labels, reduction=reduction)
        torch.testing.assert_close(actual, expected, rtol=1e-14, atol=2e-16)  # that of p, where it is nearly 1


@pytest.mark.parametrize(("num_labels", "equivalent"), [(2, 0.1), (10, 0.0556), (100, 0.0505)])
def test_label_smoothing_is_that_of_torch_with_a_rescaled_parameter(num_labels, equivalent):
    exact = 0.05 * num_labels / (num_labels - 1)
    assert round(exact, 4) == equivalent
    logits, labels = map(torch.tensor, _random(3, 20, num_labels))
    ours = label_smoothing_loss(logits, labels, smoothing=0.05)
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels, label_smoothing=exact), rtol=1e-12, atol=0)
    assert abs(ours - F.cross_entropy(logits, labels, label_smoothing=0.05)) > 1e-5


def test_brier_is_neither_divided_by_the_number_of_classes_nor_halved():
    logits = torch.tensor([[0.0, 1000.0], [1000.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert brier_loss(logits, torch.tensor([0, 0, 0]), reduction="none").tolist() == [2.0, 0.0, 0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("num_labels", "threshold"), [(2, 0.5), (5, 0.2), (4, 0.25), (10, 0.1)])
def test_a_threshold_belongs_to_the_interval_above_it(num_labels, threshold, dtype):
    logits = torch.zeros(1, num_labels, dtype=dtype)  # p_y = 1 / num_labels, the threshold exactly
    loss = sample_dependent_focal_loss(logits, torch.tensor([1]), gammas=(5.0, 3.0), thresholds=(threshold,))
    expected = (1 - threshold) ** 3 * -math.log(threshold)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "p", "gamma"),
    [("flsd-53", 0.199, 5), ("flsd-53", 0.201, 3), ("flsd-53", 0.9, 3)]
    + [("flsd-532", 0.199, 5), ("flsd-532", 0.201, 3), ("flsd-532", 0.499, 3), ("flsd-532", 0.501, 2)],
)
def test_sample_dependent_gamma_follows_the_probability(name, p, gamma):
    logits = torch.tensor([[math.log(p), math.log1p(-p)]], dtype=torch.float64)
    loss = create_loss(name)(logits, torch.tensor([0]))
    assert loss.item() == pytest.approx((1 - p) ** gamma * -math.log(p), rel=1e-12)


def test_sample_dependent_focal_with_one_gamma_is_focal():
    logits, labels = _tensors("random")
    one = sample_dependent_focal_loss(logits, labels, gammas=(2.0,), thresholds=())
    torch.testing.assert_close(one, focal_loss(logits, labels, gamma=2.0), rtol=1e-14, atol=0)
    two = sample_dependent_focal_loss(logits, labels, gammas=(2.0, 2.0), thresholds=(0.3,))
    torch.testing.assert_close(two, focal_loss(logits, labels, gamma=2.0), rtol=1e-14, atol=0)


@settings(deadline=None, max_examples=150)
@given(
    logits=st.lists(st.floats(-12, 12), min_size=2, max_size=6),
    masses=st.lists(st.floats(0, 1), min_size=6, max_size=6),
    gamma=st.floats(0, 8),
)
def test_focal_is_at_least_the_divergence_less_gamma_times_the_entropy(logits, masses, gamma):
    p = references.softmax([logits])[0]
    q = np.array(masses[: len(p)]) + 1e-3
    q /= q.sum()
    rows = torch.tensor([logits] * len(p), dtype=torch.float64)
    labels = torch.arange(len(p))
    focal = focal_loss(rows, labels, gamma=gamma, reduction="none").numpy()
    log_p = references.log_softmax([logits])[0]
    entropy = -(p * log_p).sum()
    assert (q * focal).sum() >= (q * (np.log(q) - log_p)).sum() - gamma * entropy - 1e-9
    assert np.all(focal >= -log_p - gamma * entropy - 1e-9)  # a one-hot q
    if gamma >= 1:
        assert np.all(focal >= -log_p + gamma * p * log_p - 1e-9)


def test_the_one_term_bound_fails_for_gamma_below_one():
    p, gamma = 0.5, 0.5
    loss = focal_loss(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0]), gamma=gamma).item()
    assert loss < -math.log(p) + gamma * p * math.log(p)
    assert loss >= -math.log(p) - gamma * math.log(2)


# ---- MMCE -----------------------------------------------------------------------------------------------------------


def _term(logits, labels, **parameters):
    """The calibration term alone, with its gradient."""
    logits = torch.tensor(np.asarray(logits), dtype=torch.float64, requires_grad=True)
    labels = torch.tensor(labels)
    term = mmce_loss(logits, labels, lam=1.0, **parameters) - cross_entropy_loss(logits, labels)
    (gradient,) = torch.autograd.grad(mmce_loss(logits, labels, lam=1.0, **parameters), logits)
    (plain,) = torch.autograd.grad(cross_entropy_loss(logits, labels), logits)
    return term.item(), gradient - plain


@pytest.mark.parametrize("normalization", ["definition", "released"])
@pytest.mark.parametrize("case", ["all_right", "all_wrong", "single"])
def test_weighted_mmce_is_zero_where_all_are_right_or_all_wrong(case, normalization):
    term, gradient = _term(*CASES[case], normalization=normalization)
    assert term == 0.0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("normalization", ["definition", "released"])
@pytest.mark.parametrize("case", ["all_right", "all_wrong", "single"])
def test_unweighted_mmce_keeps_its_value_where_all_are_right_or_all_wrong(case, normalization):
    expected = references.mmce(*CASES[case], weighted=False, released=normalization == "released")
    term, gradient = _term(*CASES[case], weighted=False, normalization=normalization)
    assert expected > 0.01
    assert term == pytest.approx(expected, abs=1e-12)
    assert torch.isfinite(gradient).all() and gradient.abs().max() > 0


@pytest.mark.parametrize("normalization", ["definition", "released"])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("weighted", [True, False])
def test_mmce_of_tiny_batches_is_finite(size, weighted, normalization):
    logits = np.array([[2.0, 0.0, -1.0], [0.5, 0.0, 0.1]])[:size]
    for labels in ([0, 0], [1, 1], [0, 1]):
        term, gradient = _term(logits, labels[:size], weighted=weighted, normalization=normalization)
        expected = references.mmce(logits, labels[:size], weighted, normalization == "released")
        assert term == pytest.approx(expected, abs=1e-12)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("weighted", [True, False])
def test_mmce_gradient_is_finite_at_zero_under_the_root(weighted):
    certain = [[1000.0, 0.0], [0.0, 1000.0]]  # right with confidence 1: no residual at all
    term, gradient = _term(certain, [0, 1], weighted=weighted)
    assert term == 0.0 and torch.equal(gradient, torch.zeros_like(gradient))
    balanced = [[0.0, 0.0], [0.0, 0.0]]  # one right, one wrong, both at confidence 1/2: the residuals cancel
    term, gradient = _term(balanced, [0, 1], weighted=weighted)
    assert term == pytest.approx(0, abs=1e-7) and torch.isfinite(gradient).all()


def test_weighted_mmce_by_hand():
    # One right at 0.8, one wrong at 0.6: (0.2^2 + 0.6^2 - 2 * 0.2 * 0.6 * e^(-0.2 / 0.4)) under the root.
    logits = np.log([[0.8, 0.2], [0.6, 0.4]])
    term, _ = _term(logits, [0, 1])
    assert term == pytest.approx(math.sqrt(0.04 + 0.36 - 0.24 * math.exp(-0.5)), abs=1e-12)
    released = math.sqrt((0.4 - 0.24 * math.exp(-0.5)) / (1 + 1e-5) + 1e-10)
    assert _term(logits, [0, 1], normalization="released")[0] == pytest.approx(released, abs=1e-12)
    # Unweighted: residuals 0.2 and -0.6 over N^2 = 4.
    squared = (0.04 + 0.36 - 0.24 * math.exp(-0.5)) / 4
    assert _term(logits, [0, 1], weighted=False)[0] == pytest.approx(math.sqrt(squared), abs=1e-12)
    assert _term(logits, [0, 1], weighted=False, normalization="released")[0] == pytest.approx(squared, abs=1e-12)


@pytest.mark.parametrize("confidence", [0.5, 0.6, 0.9])
def test_weighted_mmce_of_one_confidence_is_its_distance_from_one_half(confidence):
    """Whatever the accuracy; and cross-entropy of a binary model is the less steep, so that one half is a minimum."""

    def loss(r, right, lam):
        labels = torch.tensor([0] * right + [1] * (8 - right))
        logits = torch.tensor([r, 1 - r], dtype=torch.float64).log().expand(8, 2)
        return mmce_loss(logits, labels, lam=lam).item()

    for right in (1, 5, 7):
        found = loss(confidence, right, 1.0) - loss(confidence, right, 0.0)
        assert found == pytest.approx(2 * confidence - 1, abs=1e-7)  # a root of roundings
        assert loss(0.5 + 1e-4, right, 1.0) > loss(0.5, right, 1.0)


def test_released_mmce_is_far_smaller_than_the_definition():
    logits, labels = _random(5, 128, 10)
    labels[:80] = logits[:80].argmax(1)
    definition, released = _term(logits, labels)[0], _term(logits, labels, normalization="released")[0]
    assert definition > 0.1 and 0 < released < definition / 5


def test_mmce_weighs_the_term_by_lam():
    logits, labels = CASES["random"]
    z, y = torch.tensor(logits), torch.tensor(labels)
    term = references.mmce(logits, labels)
    for lam in (0, 0.5, 8.0):
        expected = references.cross_entropy(logits, labels).mean() + lam * term
        assert mmce_loss(z, y, lam=lam).item() == pytest.approx(expected, abs=1e-9)
        assert MMCELoss(lam=lam)(z, y).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("normalization", ["definition", "released"])
@pytest.mark.parametrize("weighted", [True, False])
def test_mmce_leaves_ignored_samples_out_of_its_pairs(weighted, normalization):
    logits, labels = _tensors("random")
    padded = torch.cat([logits, 5 * torch.ones(3, 5, dtype=torch.float64) * torch.arange(5)])
    padded_labels = torch.cat([labels, torch.full((3,), -100)])
    parameters = {"weighted": weighted, "normalization": normalization}
    expected = mmce_loss(logits, labels, **parameters)
    torch.testing.assert_close(mmce_loss(padded, padded_labels, **parameters), expected, rtol=1e-13, atol=0)


# ---- ignore_index and shapes ----------------------------------------------------------------------------------------


@FOR_EACH_FUNCTION
@pytest.mark.parametrize("ignore_index", [-100, 2, 255])
def test_ignored_labels_count_for_nothing(name, ignore_index):
    function = FUNCTIONS[name][0]
    logits, labels = _tensors("random")
    ignored = torch.arange(len(labels)) % 3 == 1
    labels = torch.where(labels == ignore_index, 0, labels)
    marked = torch.where(ignored, ignore_index, labels)
    for reduction in ("mean", "sum"):
        loss = function(logits, marked, reduction=reduction, ignore_index=ignore_index)
        kept = function(logits[~ignored], labels[~ignored], reduction=reduction)
        torch.testing.assert_close(loss, kept, rtol=1e-12, atol=1e-12)
        (gradient,) = torch.autograd.grad(loss, logits)
        (expected,) = torch.autograd.grad(kept, logits)
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(gradient[ignored], torch.zeros_like(gradient[ignored]))
    losses = function(logits, marked, reduction="none", ignore_index=ignore_index)
    assert torch.equal(losses[ignored], torch.zeros_like(losses[ignored]))
    assert (losses[~ignored] != 0).all()


@FOR_EACH_FUNCTION
def test_token_logits_are_flattened_and_keep_their_shape(name):
    function = FUNCTIONS[name][0]
    logits, labels = map(torch.tensor, _random(9, 12, 4))
    labels[[2, 7]] = -100
    tokens, token_labels = logits.reshape(3, 4, 4), labels.reshape(3, 4)
    for reduction in ("mean", "sum"):
        expected = function(logits, labels, reduction=reduction)
        torch.testing.assert_close(function(tokens, token_labels, reduction=reduction), expected, rtol=1e-14, atol=0)
    losses = function(tokens, token_labels, reduction="none")
    assert losses.shape == (3, 4)
    torch.testing.assert_close(losses.flatten(), function(logits, labels, reduction="none"), rtol=1e-14, atol=0)


@FOR_EACH_FUNCTION
def test_all_labels_ignored_gives_nan_for_the_mean_and_zero_for_the_sum(name):
    function = FUNCTIONS[name][0]
    logits = torch.tensor(CASES["random"][0], requires_grad=True)
    labels = torch.full((len(logits),), -100)
    assert math.isnan(F.cross_entropy(logits, labels).item())  # the same convention
    assert math.isnan(function(logits, labels).item())
    assert function(logits, labels, reduction="sum").item() == 0
    assert function(logits, labels, reduction="none").tolist() == [0.0] * len(labels)
    (gradient,) = torch.autograd.grad(function(logits, labels, reduction="sum"), logits)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@FOR_EACH_FUNCTION
def test_strided_logits_and_small_label_dtypes_are_accepted(name):
    function = FUNCTIONS[name][0]
    logits, labels = _tensors("random")
    expected = function(logits, labels)
    strided = logits.detach().T.contiguous().T
    assert not strided.is_contiguous()
    for dtype in (torch.int32, torch.int16, torch.int8, torch.uint8):
        torch.testing.assert_close(function(strided, labels.to(dtype)), expected.detach(), rtol=1e-14, atol=0)


@FOR_EACH_FUNCTION
def test_inputs_are_left_as_they_were(name):
    logits, labels = _tensors("random")
    before = logits.detach().clone(), labels.clone()
    FUNCTIONS[name][0](logits, labels).backward()
    assert torch.equal(logits.detach(), before[0]) and torch.equal(labels, before[1])


# ---- Calls of a Trainer ---------------------------------------------------------------------------------------------

SUMS_OVER_SAMPLES = [
    "cross_entropy",
    "label_smoothing",
    "brier",
    "focal",
    "flsd-53",
    "flsd-532",
    "flsc-531",
    "flsc-532",
]
FOR_EACH_LOSS = pytest.mark.parametrize("name", LOSSES)


@FOR_EACH_LOSS
@pytest.mark.parametrize("count", [5, torch.tensor(5.0), torch.tensor(5), torch.tensor([5])], ids=repr)
def test_a_mean_becomes_the_sum_over_num_items_in_batch(name, count):
    logits, labels = _tensors("random", torch.float32)
    total = _ready(name, reduction="sum")(logits, labels)
    loss = _ready(name)(logits, labels, num_items_in_batch=count)
    assert loss.ndim == 0 and loss.dtype == torch.float32
    torch.testing.assert_close(loss, total / 5)


@FOR_EACH_LOSS
def test_a_sum_is_never_divided(name):
    logits, labels = _tensors("random")
    loss = _ready(name, reduction="sum")
    assert torch.equal(loss(logits, labels, num_items_in_batch=5), loss(logits, labels))


@pytest.mark.parametrize("name", SUMS_OVER_SAMPLES)
@pytest.mark.parametrize("sizes", [(17,), (9, 8), (4, 4, 4, 4, 1)])
def test_micro_batches_add_up_to_the_whole_batch(name, sizes):
    logits, labels = _tensors("random")
    labels = torch.where(torch.arange(len(labels)) % 5 == 3, -100, labels)
    loss = _ready(name)
    (expected,) = torch.autograd.grad(loss(logits, labels), logits)
    count = (labels != -100).sum().float()
    parts = zip(logits.split(sizes), labels.split(sizes), strict=True)
    total = sum(loss(*part, num_items_in_batch=count) for part in parts)
    torch.testing.assert_close(total, loss(logits, labels), rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [0, 4])
@FOR_EACH_LOSS
def test_an_empty_micro_batch_adds_zero(name, size):
    logits = torch.randn(size, 3, requires_grad=True)
    loss = _ready(name)(logits, torch.full((size,), -100), num_items_in_batch=torch.tensor(12.0))
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal(gradient, torch.zeros_like(gradient))


class _ListSubclass(list):
    pass


@FOR_EACH_LOSS
def test_logits_are_found_in_whatever_a_model_returns(name):
    logits, labels = _tensors("random")
    loss = _ready(name)
    expected = loss(logits, labels)
    outputs = [
        SequenceClassifierOutput(logits=logits),
        SequenceClassifierOutput(loss=torch.tensor(3.0), logits=logits, hidden_states=(logits * 2,)),
        SimpleNamespace(logits=logits),
        {"logits": logits, "other": logits * 2},
        OrderedDict(other=logits * 2, logits=logits),
        UserDict(logits=logits),
        (logits, logits * 2),
        [logits],
        _ListSubclass([logits]),
    ]
    for output in outputs:
        assert torch.equal(loss(output, labels), expected)


@pytest.mark.parametrize(
    "output",
    [None, {}, {"scores": torch.zeros(2, 2)}, (), SimpleNamespace(), (None,), {"logits": None}, np.zeros((2, 2))],
)
def test_an_output_without_logits_is_refused(output):
    with pytest.raises(ValueError, match="No logits found.*Needed"):
        FocalLoss()(output, torch.tensor([0, 1]))


@FOR_EACH_LOSS
def test_missing_labels_are_refused(name):
    with pytest.raises(ValueError, match="no labels.*'labels'"):
        _ready(name)({"logits": torch.zeros(2, 3)}, None, num_items_in_batch=torch.tensor(2.0))


@FOR_EACH_LOSS
def test_a_vector_of_losses_is_refused_by_a_trainer_call(name):
    loss = _ready(name, reduction="none")
    logits, labels = _tensors("random")
    assert loss(logits, labels).shape == labels.shape
    with pytest.raises(ValueError, match="reduction='none'"):
        loss(logits, labels, num_items_in_batch=17)


def test_a_count_per_device_is_refused():
    with pytest.raises(ValueError, match="num_items_in_batch must be one number.*accelerate launch"):
        FocalLoss()(*_tensors("random"), num_items_in_batch=torch.tensor([8, 9]))


# ---- The registry ---------------------------------------------------------------------------------------------------


def test_the_registry_holds_every_loss():
    assert list(LOSSES) == (
        ["cross_entropy", "label_smoothing", "brier", "mmce", "mmce-unweighted", "focal", "flsd-53", "flsd-532"]
        + ["flsc-531", "flsc-532", "dual-focal", "adafocal"]
    )
    for name, factory in LOSSES.items():
        assert isinstance(factory(), CalibrationLoss) and isinstance(create_loss(name), torch.nn.Module)


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("label_smoothing", {"smoothing": 0.05}),
        ("mmce", {"lam": 2.0, "weighted": True, "normalization": "definition"}),
        ("mmce-unweighted", {"lam": 2.0, "weighted": False, "normalization": "definition"}),
        ("focal", {"gamma": 3.0}),
        ("flsd-53", {"gammas": (5.0, 3.0), "thresholds": (0.2,)}),
        ("flsd-532", {"gammas": (5.0, 3.0, 2.0), "thresholds": (0.2, 0.5)}),
        ("flsc-531", {"gammas": (5.0, 3.0, 1.0), "milestones": (0.286, 0.714)}),
        ("flsc-532", {"gammas": (5.0, 3.0, 2.0), "milestones": (0.286, 0.714)}),
    ],
)
def test_registered_losses_have_the_published_parameters(name, attributes):
    loss = create_loss(name)
    assert {key: getattr(loss, key) for key in attributes} == attributes
    assert loss.reduction == "mean" and loss.ignore_index == -100
    for key in attributes:
        assert f"{key}=" in repr(loss)


def test_an_unknown_name_lists_the_valid_ones():
    with pytest.raises(ValueError) as error:
        create_loss("focal-loss")
    assert "'focal-loss'" in str(error.value) and all(name in str(error.value) for name in LOSSES)


@pytest.mark.parametrize(
    ("name", "parameters", "accepted"),
    [
        ("flsd-53", {"gamma": 2.0}, "gammas"),
        ("focal", {"lam": 2.0}, "gamma"),
        ("cross_entropy", {"smoothing": 0.1}, "reduction"),
    ]
    + [
        ("mmce", {"gamma": 2.0}, "lam"),
        ("flsc-531", {"gamma": 1.0}, "milestones"),
        ("brier", {"lam": 1.0}, "reduction"),
    ],
)
def test_a_parameter_that_the_loss_does_not_take_is_refused(name, parameters, accepted):
    with pytest.raises(ValueError, match=f"{name}.*takes no '{next(iter(parameters))}'.*{accepted}"):
        create_loss(name, **parameters)


# ---- The schedule ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fraction", "gamma"), [(0.0, 5), (0.2859, 5), (0.286, 3), (0.5, 3), (0.7139, 3), (0.714, 1), (0.999, 1), (1.0, 1)]
)
def test_schedule_by_fractions_of_training(fraction, gamma):
    loss = ScheduledFocalLoss()
    loss.set_progress(fraction=fraction, epoch=0.0)
    assert loss.gamma == gamma
    logits, labels = _tensors("random")
    torch.testing.assert_close(loss(logits, labels), focal_loss(logits, labels, gamma=gamma))


@pytest.mark.parametrize(
    ("epoch", "gamma"), [(0, 5), (99, 5), (99.999, 5), (100, 3), (249.5, 3), (250.0, 2), (349, 2), (350, 2)]
)
def test_schedule_by_whole_epochs(epoch, gamma):
    loss = create_loss("flsc-532", milestones=(100, 250))
    loss.set_progress(fraction=0.999, epoch=epoch)
    assert loss.gamma == gamma


@pytest.mark.parametrize(("epochs", "switches"), [(350, (100, 250)), (50, (14, 35)), (25, (7, 18)), (100, (29, 71))])
def test_the_default_fractions_are_the_switches_of_the_paper_for_images(epochs, switches):
    loss = ScheduledFocalLoss()
    gammas = []
    for epoch in range(epochs):
        loss.set_progress(fraction=epoch / epochs)
        gammas.append(loss.gamma)
    starts = tuple(i for i in range(1, epochs) if gammas[i] != gammas[i - 1])
    assert all(abs(start - switch) <= 1 for start, switch in zip(starts, switches, strict=True))


@pytest.mark.parametrize("name", ["flsc-531", "flsc-532"])
def test_a_schedule_that_was_told_nothing_refuses_to_train_and_evaluates_with_its_last_gamma(name):
    loss = create_loss(name)
    logits, labels = _tensors("random")
    assert loss.gamma is None
    with pytest.raises(RuntimeError, match=r"loss\.callback\(\)"):
        loss(logits, labels)
    loss.eval()  # the flag of the module says nothing: gradients do
    with pytest.raises(RuntimeError, match="set_progress"):
        loss(logits, labels, num_items_in_batch=torch.tensor(17.0))
    loss.train()
    with torch.no_grad():
        assert torch.equal(loss(logits, labels), focal_loss(logits, labels, gamma=loss.gammas[-1]))
    with torch.inference_mode():
        assert torch.equal(loss(logits, labels), focal_loss(logits, labels, gamma=loss.gammas[-1]))


def test_evaluation_in_training_uses_the_gamma_of_the_moment():
    loss = ScheduledFocalLoss()
    loss.set_progress(fraction=0.5)
    logits, labels = _tensors("random")
    with torch.no_grad():
        assert torch.equal(loss(logits, labels), focal_loss(logits, labels, gamma=3.0))


def test_the_callback_reads_the_state_of_the_trainer(tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    for milestones, expected in (((0.286, 0.714), [5, 5, 3, 3, 3, 1]), ((1, 2), [5, 5, 3, 3, 1, 1])):
        loss = ScheduledFocalLoss(milestones=milestones)
        callback, seen = loss.callback(), []
        for step in range(6):
            state = TrainerState(global_step=step, max_steps=6, epoch=step / 2)
            callback.on_step_begin(arguments, state, TrainerControl())
            seen.append(loss.gamma)
        assert seen == expected


@pytest.mark.parametrize(("milestones", "needed"), [((0.3, 0.7), "fraction"), ((3, 7), "epoch")])
def test_progress_in_the_wrong_unit_is_refused(milestones, needed):
    loss = ScheduledFocalLoss(milestones=milestones)
    other = {"fraction": "epoch", "epoch": "fraction"}[needed]
    with pytest.raises(ValueError, match=f"need {needed}="):
        loss.set_progress(**{other: 0.5})
    with pytest.raises(ValueError, match=f"need {needed}="):
        loss.set_progress()


# ---- Compilation and transforms -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["cross_entropy", "label_smoothing", "brier", "focal_0.5", "focal_3", "flsd-532", "mmce"]
)
def test_losses_compile_without_graph_breaks(name):
    torch.compiler.reset()
    function = FUNCTIONS[name][0]
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    logits, labels = _tensors("random")
    labels[3] = -100
    for reduction in ("mean", "none"):
        expected = function(logits, labels, reduction=reduction)
        actual = compiled(logits, labels, reduction=reduction)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
        (gradient,) = torch.autograd.grad(actual.sum(), logits)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), logits)[0], rtol=1e-12, atol=1e-12)


@FOR_EACH_FUNCTION
def test_functional_gradient_is_that_of_autograd(name):
    function = FUNCTIONS[name][0]
    logits, labels = _tensors("random")
    expected = torch.autograd.grad(function(logits, labels), logits)[0]
    gradient = torch.func.grad(lambda z: function(z, labels))(logits.detach())
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@FOR_EACH_FUNCTION
def test_vmap_over_batches_is_a_loop_over_batches(name):
    function = FUNCTIONS[name][0]
    logits, labels = map(torch.tensor, _random(11, 12, 4))
    logits, labels = logits.reshape(3, 4, 4), labels.reshape(3, 4)
    labels[1, 2] = -100
    expected = torch.stack([function(z, y) for z, y in zip(logits, labels, strict=True)])
    torch.testing.assert_close(torch.func.vmap(function)(logits, labels), expected, rtol=1e-12, atol=1e-12)
    gradients = torch.func.vmap(torch.func.grad(function))(logits, labels)
    expected = torch.stack([torch.func.grad(function)(z, y) for z, y in zip(logits, labels, strict=True)])
    torch.testing.assert_close(gradients, expected, rtol=1e-12, atol=1e-12)


# ---- Not finite -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "label_smoothing"])
def test_a_class_masked_by_minus_infinity_is_left_out_as_in_torch(name):
    logits = torch.tensor([[0.5, -math.inf, 1.0], [0.0, -math.inf, 2.0], [3.0, -math.inf, 0.0]])
    loss = _ready(name)(logits, torch.tensor([0, 2, 2]))
    assert torch.isfinite(F.cross_entropy(logits, torch.tensor([0, 2, 2])))
    torch.testing.assert_close(loss, _ready(name)(logits[:, [0, 2]], torch.tensor([0, 1, 1])))


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("brier", "label_smoothing")])
def test_a_true_class_at_minus_infinity_has_an_infinite_loss(name):
    loss = _ready(name)(torch.tensor([[-math.inf, 0.0], [1.0, 0.0]]), torch.tensor([0, 0]))
    assert loss.item() == math.inf


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "flsd-53", "brier", "mmce"])
def test_an_ignored_row_with_a_class_at_minus_infinity_has_no_gradient(name):
    logits = torch.tensor([[-math.inf, 0.0, 1.0], [1.0, 0.0, 0.5], [0.0, 0.3, 0.1]], requires_grad=True)
    loss = _ready(name)(logits, torch.tensor([-100, 0, 1]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all() and logits.grad[1].abs().max() > 0
    assert torch.equal(logits.grad[0], torch.zeros(3))


# ---- Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [-0.1, -1, math.nan, math.inf, "3", None, True])
def test_a_bad_gamma_is_refused(gamma):
    for make in (FocalLoss, partial(create_loss, "focal"), partial(focal_loss, *_tensors("random"))):
        with pytest.raises(ValueError, match="gamma must be a number in"):
            make(gamma=gamma)


@pytest.mark.parametrize("smoothing", [1.0, 1.5, -0.05, math.nan, "0.1"])
def test_a_bad_smoothing_is_refused(smoothing):
    for make in (LabelSmoothingLoss, partial(label_smoothing_loss, *_tensors("random"))):
        with pytest.raises(ValueError, match=r"smoothing must be a number in \[0, 1\)"):
            make(smoothing=smoothing)


@pytest.mark.parametrize("lam", [-1, -1e-9, math.nan, math.inf, "2"])
def test_a_bad_lam_is_refused(lam):
    for make in (MMCELoss, partial(create_loss, "mmce-unweighted"), partial(mmce_loss, *_tensors("random"))):
        with pytest.raises(ValueError, match="lam must be a number in"):
            make(lam=lam)


def test_an_unknown_normalization_is_refused():
    for make in (MMCELoss, partial(mmce_loss, *_tensors("random"))):
        with pytest.raises(ValueError, match="normalization must be 'definition' or 'released', got 'paper'"):
            make(normalization="paper")


@FOR_EACH_LOSS
def test_an_unknown_reduction_is_refused_at_construction(name):
    with pytest.raises(ValueError, match="reduction must be one of mean, sum, none, got 'average'"):
        create_loss(name, reduction="average")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"gammas": (5.0,)}, "gammas must hold one value more than thresholds, got 1"),
        ({"gammas": (5.0, 3.0, 2.0)}, "gammas must hold one value more than thresholds"),
        ({"thresholds": (0.2, 0.5)}, "gammas must hold one value more than thresholds"),
        ({"gammas": (5.0, -3.0)}, "gammas must be a number in"),
        ({"thresholds": (0.0,)}, "thresholds must lie strictly between 0 and 1"),
        ({"thresholds": (1.0,)}, "thresholds must lie strictly between 0 and 1"),
        ({"thresholds": (math.nan,)}, "thresholds must lie strictly between 0 and 1"),
        ({"gammas": (5, 3, 2), "thresholds": (0.5, 0.2)}, "thresholds must increase strictly"),
        ({"gammas": (5, 3, 2), "thresholds": (0.2, 0.2)}, "thresholds must increase strictly"),
    ],
)
def test_gammas_and_thresholds_that_do_not_fit_are_refused(parameters, message):
    for make in (SampleDependentFocalLoss, partial(sample_dependent_focal_loss, *_tensors("random"))):
        with pytest.raises(ValueError, match=message):
            make(**parameters)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"gammas": (5.0, 3.0)}, "gammas must hold one value more than milestones"),
        ({"milestones": (0.5,)}, "gammas must hold one value more than milestones"),
        ({"gammas": (5, -3, 1)}, "gammas must be a number in"),
        ({"milestones": (0.7, 0.3)}, "milestones must increase strictly"),
        ({"milestones": (7, 7)}, "milestones must increase strictly"),
        ({"milestones": (0.3, 7)}, "milestones must be all fractions.*or all whole epochs"),
        ({"milestones": (0.0, 0.5)}, "milestones must be all fractions"),
        ({"milestones": (0.5, 1.0)}, "milestones must be all fractions"),
        ({"milestones": (0, 5)}, "milestones must be all fractions"),
        ({"milestones": (-3, 5)}, "milestones must be all fractions"),
        ({"milestones": (3.5, 5.5)}, "milestones must be all fractions"),
    ],
)
def test_gammas_and_milestones_that_do_not_fit_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        ScheduledFocalLoss(**parameters)


@FOR_EACH_FUNCTION
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(4), torch.zeros(4, dtype=torch.long), r"logits must have shape \(N, K\) or \(N, T, K\)"),
        (torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, dtype=torch.long), "logits must have shape"),
        (torch.zeros(4, 3, dtype=torch.long), torch.zeros(4, dtype=torch.long), "logits must be floating point"),
        (torch.zeros(4, 2, 1), torch.zeros(4, 2, dtype=torch.long), "logits must have at least 2 classes"),
        (torch.zeros(4, 3), torch.zeros(3, dtype=torch.long), r"labels must have shape \(4,\).*got \(3,\)"),
        (torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.long), r"labels must have shape \(4,\)"),
        (torch.zeros(4, 3), torch.zeros(4, 2, dtype=torch.long), r"labels must have shape \(4,\)"),
        (torch.zeros(2, 4, 3), torch.zeros(8, dtype=torch.long), r"labels must have shape \(2, 4\)"),
        (torch.zeros(4, 3), torch.zeros(4), "labels must be class indices of an integer dtype, got torch.float32"),
        (torch.zeros(4, 3), torch.zeros(4, dtype=torch.bool), "labels must be class indices of an integer dtype"),
        (torch.zeros(4, 3), torch.tensor([0, 1, 3, 2]), r"labels must lie in \[0, 2\].*got 3"),
        (torch.zeros(4, 3), torch.tensor([0, 1, -1, 2]), r"labels must lie in \[0, 2\].*ignore_index=-100.*got -1"),
        (np.zeros((4, 3)), torch.zeros(4, dtype=torch.long), "logits and labels must be tensors, got ndarray"),
        (torch.zeros(4, 3), [0, 1, 2, 0], "logits and labels must be tensors, got Tensor and list"),
    ],
)
def test_wrong_shapes_dtypes_and_ranges_are_refused(name, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        FUNCTIONS[name][0](logits, labels)


@FOR_EACH_FUNCTION
def test_minus_100_is_an_ordinary_bad_label_where_another_one_is_ignored(name):
    with pytest.raises(ValueError, match="ignore_index=255, got -100"):
        FUNCTIONS[name][0](torch.zeros(2, 3), torch.tensor([255, -100]), ignore_index=255)


def test_the_base_class_says_what_to_define():
    with pytest.raises(NotImplementedError, match="must define of_rows"):
        CalibrationLoss()(torch.zeros(2, 3), torch.tensor([0, 1]))
