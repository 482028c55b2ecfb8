# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""g(p, gamma) and gamma*(p0) against high-precision arithmetic, and Propositions 1 and 2 over their whole domain."""

import math

import mpmath
import numpy as np
import pytest
import references
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from hf_focal import focal_gradient_ratio, focal_loss, gamma_for_threshold


PROBABILITIES = [0.0, 5e-324, 1e-300, 1e-12, 0.01, 0.2, 0.3679, 0.5, 0.9, 1 - 1e-9, math.nextafter(1, 0), 1.0]
GAMMAS = [0, 1e-3, 0.5, 1, 2.0, 3, 5.0, 7.5, 50.0]


def exact_ratio(p, gamma):
    with mpmath.workdps(60):
        if p == 0:
            return mpmath.mpf(1)
        if p == 1:
            return mpmath.mpf(0) if gamma else mpmath.mpf(1)
        p, gamma = mpmath.mpf(p), mpmath.mpf(gamma)
        return (1 - p) ** gamma - gamma * p * (1 - p) ** (gamma - 1) * mpmath.log(p)


def exact_gamma(p0):
    """Positive root of log g(p0, .) by bisection in 60 digits of 1 - p0 and more, with no Lambert W."""
    with mpmath.workdps(60 - 2 * math.floor(math.log10(p0))):
        p = mpmath.mpf(p0)
        log_a, h = mpmath.log(1 - p), -p * mpmath.log(p) / (1 - p)

        def log_ratio(gamma):
            return gamma * log_a + mpmath.log(1 + gamma * h)

        low, high = mpmath.mpf(10) ** -40, mpmath.mpf(1)
        while log_ratio(high) > 0:
            low, high = high, 2 * high
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if log_ratio(middle) > 0 else (low, middle)
        return low


# ---- g(p, gamma) ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("p", PROBABILITIES)
def test_ratio_equals_its_definition_in_high_precision(p, gamma):
    ratio = focal_gradient_ratio(p, gamma)
    assert type(ratio) is float
    assert ratio == pytest.approx(float(exact_ratio(p, gamma)), rel=1e-12, abs=1e-300)


@pytest.mark.parametrize(
    ("p", "gamma", "expected", "digits"), [(0.2, 5, 0.9869, 4), (0.25, 3, 1.0067, 4), (0.5, 7, 0.046, 3)]
)
def test_ratio_has_its_published_values(p, gamma, expected, digits):
    assert round(focal_gradient_ratio(p, gamma), digits) == expected


@pytest.mark.parametrize(
    ("gamma", "crossing"), [(1, 0.3679), (2, 0.2976), (3, 0.2526), (4, 0.2207), (5, 0.1968), (7, 0.1629)]
)
def test_ratio_crosses_one_at_the_published_probability(gamma, crossing):
    p0 = brentq(lambda p: focal_gradient_ratio(p, gamma) - 1, 0.05, 0.5, xtol=1e-14)
    assert round(p0, 4) == crossing
    assert gamma_for_threshold(p0) == pytest.approx(gamma, abs=1e-10)


def test_ratio_of_gamma_one_crosses_at_one_over_e():
    assert focal_gradient_ratio(1 / math.e, 1) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_ratio_is_one_at_zero_and_ends_at_zero_or_one(gamma):
    assert focal_gradient_ratio(0.0, gamma) == 1.0
    assert focal_gradient_ratio(0, gamma) == 1.0
    assert focal_gradient_ratio(1.0, gamma) == (1.0 if gamma == 0 else 0.0)


@pytest.mark.parametrize("p", PROBABILITIES)
def test_ratio_of_gamma_zero_is_one(p):
    assert focal_gradient_ratio(p, 0.0) == 1.0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 3.0])
def test_ratio_of_an_array_and_a_tensor_is_elementwise(gamma):
    expected = [references.gradient_ratio(p, gamma) for p in PROBABILITIES]
    array = focal_gradient_ratio(np.array(PROBABILITIES), gamma)
    tensor = focal_gradient_ratio(torch.tensor(PROBABILITIES, dtype=torch.float64), gamma)
    assert isinstance(array, np.ndarray) and array.dtype == np.float64 and array.shape == (len(PROBABILITIES),)
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64
    np.testing.assert_allclose(array, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_ratio_broadcasts_gamma_against_p():
    p, gamma = np.array([0.0, 0.1, 0.6, 1.0]), np.array([[0.0], [0.5], [5.0]])
    expected = [[references.gradient_ratio(x, g[0]) for x in p] for g in gamma]
    np.testing.assert_allclose(focal_gradient_ratio(p, gamma), expected, rtol=1e-12, atol=1e-15)
    tensor = focal_gradient_ratio(torch.from_numpy(p), torch.from_numpy(gamma))
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(focal_gradient_ratio(0.6, gamma[:, 0]), [row[2] for row in expected], rtol=1e-12)


def test_ratio_keeps_single_precision():
    p = np.array([0.0, 0.2, 1.0], dtype=np.float32)
    assert focal_gradient_ratio(p, 5.0).dtype == np.float32
    assert focal_gradient_ratio(torch.from_numpy(p), 5.0).dtype == torch.float32
    assert focal_gradient_ratio(p, 5.0)[1] == pytest.approx(references.gradient_ratio(0.2, 5), abs=2e-6)


@pytest.mark.parametrize("gamma", [torch.tensor(5.0, dtype=torch.float64), torch.tensor(5)], ids=["float", "int"])
def test_ratio_of_a_float_p_takes_a_tensor_gamma(gamma):
    assert float(focal_gradient_ratio(0.2, gamma)) == pytest.approx(references.gradient_ratio(0.2, 5), abs=1e-6)


def test_ratio_has_finite_gradients_at_both_ends():
    p = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(focal_gradient_ratio(p, 0.5).sum(), p)
    assert torch.isfinite(gradient).all()
    numeric = [
        references.central_difference(lambda x: references.gradient_ratio(float(x), 0.5), x) for x in (0.1, 0.5)
    ]
    np.testing.assert_allclose(gradient[:2].numpy(), numeric, rtol=1e-7)


@pytest.mark.parametrize("p", [-1e-9, 1 + 1e-9, math.nan, math.inf, [0.5, 1.5]])
def test_ratio_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match=r"^p must"):
        focal_gradient_ratio(p, 2.0)


@pytest.mark.parametrize("gamma", [-0.1, math.nan, math.inf, np.array([1.0, -1.0])])
def test_ratio_refuses_a_bad_gamma(gamma):
    with pytest.raises(ValueError, match=r"^gamma must"):
        focal_gradient_ratio(0.5, gamma)


# ---- gamma*(p0) -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p0", "expected", "digits"),
    [(0.10, 14.92, 2), (0.15, 8.03, 2), (0.20, 4.851, 3), (0.25, 3.070, 3), (0.30, 1.957, 3), (0.40, 0.681, 3)],
)
def test_gamma_has_its_published_values(p0, expected, digits):
    assert round(gamma_for_threshold(p0), digits) == expected


@pytest.mark.parametrize(
    "p0",
    [1e-300, 1e-100, 1e-20, 1e-9, 1e-5, 1e-3, 0.00999, 0.01, 0.0101, 0.05, 0.2, 1 / 3, 1 / math.e, 0.45, 0.49, 0.499]
    + [0.4999, 0.49999, 0.499999, 0.4999999, 0.499999999, 0.5 - 1e-12],
)
def test_gamma_equals_bisection_in_high_precision(p0):
    gamma = gamma_for_threshold(p0)
    assert type(gamma) is float
    assert gamma == pytest.approx(float(exact_gamma(p0)), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("p0", [0.5, math.nextafter(0.5, 1), 0.7, 0.999, math.nextafter(1, 0)])
def test_gamma_from_one_half_on_is_zero(p0):
    gamma = gamma_for_threshold(p0)
    assert type(gamma) is float and gamma == 0.0


@pytest.mark.parametrize("p0", [np.float64(0.2), np.float32(0.25)])
def test_gamma_of_a_numpy_number_is_a_float(p0):
    assert type(gamma_for_threshold(p0)) is float
    assert gamma_for_threshold(p0) == gamma_for_threshold(float(p0))


@pytest.mark.parametrize("p0", [0, 0.0, 1, 1.0, -0.1, 1.1, math.nan, math.inf, True, False])
def test_gamma_refuses_what_is_not_strictly_between_zero_and_one(p0):
    with pytest.raises(ValueError, match="p0 must lie strictly between 0 and 1"):
        gamma_for_threshold(p0)


def test_gamma_falls_as_the_threshold_rises():
    thresholds = np.concatenate([np.geomspace(1e-6, 0.01, 200), np.linspace(0.0101, 0.49999, 2000)])
    gammas = [gamma_for_threshold(p0) for p0 in thresholds]
    assert all(later < earlier for earlier, later in zip(gammas, gammas[1:], strict=False))


# ---- Propositions ---------------------------------------------------------------------------------------------------


thresholds = st.one_of(
    st.floats(1e-12, 0.5, exclude_max=True),
    st.floats(0.49, 0.5, exclude_max=True),
    st.floats(-12, -0.302).map(lambda exponent: 10.0**exponent),
)


@settings(deadline=None, max_examples=200)
@given(p0=thresholds)
@example(p0=math.nextafter(0.5, 0))
@example(p0=1e-12)
def test_proposition_2_ratio_is_one_at_the_threshold(p0):
    gamma = gamma_for_threshold(p0)
    assert gamma > 0
    assert float(exact_ratio(p0, gamma)) == pytest.approx(1, abs=1e-12)
    assert focal_gradient_ratio(p0, gamma) == pytest.approx(1, abs=1e-12)


@settings(deadline=None, max_examples=300)
@given(
    p0=st.one_of(thresholds, st.floats(0.5, 1, exclude_max=True)),
    along=st.floats(0, 1),
    above=st.one_of(st.just(0.0), st.floats(0, 1e-3), st.floats(0, 20)),
)
def test_proposition_2_ratio_is_at_most_one_above_the_threshold(p0, along, above):
    p = p0 + along * (1 - p0)
    gamma = gamma_for_threshold(p0) + above
    assert focal_gradient_ratio(p, gamma) <= 1 + 1e-12


@settings(deadline=None, max_examples=200)
@given(p0=st.floats(1e-3, 0.495), below=st.floats(0.01, 0.99))
def test_proposition_2_is_tight_a_smaller_gamma_exceeds_one(p0, below):
    assert focal_gradient_ratio(p0, below * gamma_for_threshold(p0)) > 1
    assert focal_gradient_ratio(below * p0, gamma_for_threshold(p0)) > 1


@settings(deadline=None, max_examples=300)
@given(
    logits=st.lists(st.floats(-40, 40), min_size=2, max_size=6),
    gamma=st.one_of(st.floats(0, 1), st.floats(0, 10), st.sampled_from([0, 1, 2, 3, 5])),
    data=st.data(),
)
def test_proposition_1_the_gradient_is_that_of_cross_entropy_times_the_ratio(logits, gamma, data):
    label = data.draw(st.integers(0, len(logits) - 1))
    z = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([label])
    (focal,) = torch.autograd.grad(focal_loss(z, y, gamma=gamma), z)
    (plain,) = torch.autograd.grad(torch.nn.functional.cross_entropy(z, y), z)
    ratio = focal_gradient_ratio(torch.softmax(z.detach(), -1)[0, label], gamma)
    np.testing.assert_allclose(focal.numpy(), (plain * ratio).numpy(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(focal.numpy(), references.focal_gradient([logits], [label], gamma), rtol=0, atol=1e-9)
