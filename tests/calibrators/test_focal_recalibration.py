# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The inverse of focal loss's bias, focal temperature scaling, and what a model so calibrated says of itself."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import softmax
from small_models import arguments, build, without_head

from hf_focal import (
    CalibrationTrainer,
    calibration_metrics,
    calibration_metrics_from_logits,
    expected_calibration_error,
    fit_temperature,
    focal_recalibration,
    fold_temperature,
    unfold_temperature,
)
from hf_focal.calibrators import FocalRecalibration
from hf_focal.models.apply import pending_calibrator
from hf_focal.models.record import calibration_record


GAMMAS = (1.0, 2.0, 3.0, 5.0)


# ---- The map --------------------------------------------------------------------------------------------------------


def population_minimiser(posterior, gamma):
    """The v of smallest expected focal loss, found by a general optimiser over logits."""

    def loss(free):
        log_v = np.append(free, 0.0) - np.logaddexp.reduce(np.append(free, 0.0))
        return -float((posterior * (-np.expm1(log_v)) ** gamma * log_v).sum())

    best = min(
        (
            minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-15, "maxiter": 20000})
            for start in (np.log(posterior[:-1] / posterior[-1]), np.zeros(len(posterior) - 1))
        ),
        key=lambda fit: fit.fun,
    )
    return np.append(best.x, 0.0)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_map_inverts_the_population_minimiser_of_focal_loss(k, gamma):
    generator = np.random.default_rng(k)
    for _ in range(3):
        posterior = generator.dirichlet(np.full(k, 2.0))
        logits = population_minimiser(posterior, gamma)
        assert np.abs(softmax(logits) - posterior).max() > 1e-2  # there is a bias to undo
        assert np.abs(focal_recalibration([logits], gamma)[0] - posterior).max() < 1e-6


@pytest.mark.parametrize("gamma", [0.5, *GAMMAS])
def test_the_map_is_its_formula(gamma):
    logits = np.random.default_rng(0).normal(size=(50, 4)) * 3
    v = softmax(logits / 1.3, axis=1)
    ratio = (1 - v) ** gamma - gamma * v * (1 - v) ** (gamma - 1) * np.log(v)
    expected = (v / ratio) / (v / ratio).sum(axis=1, keepdims=True)
    assert np.abs(focal_recalibration(logits, gamma, 1.3) - expected).max() < 1e-12


def test_gamma_zero_is_the_softmax():
    logits = np.random.default_rng(1).normal(size=(50, 4)) * 30
    assert np.abs(focal_recalibration(logits, 0.0, 2.0) - softmax(logits / 2, axis=1)).max() < 1e-15


@pytest.mark.parametrize("margin", [40.0, 800.0, 1e6, 1e300])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_one_hot_in_one_hot_out(gamma, margin):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        actual = focal_recalibration([[0.0, margin, 0.0]], gamma)
    assert actual[0] == pytest.approx([0, 1, 0], abs=1e-15)


def test_near_one_the_odds_against_follow_the_limit_of_g():
    # u / (1 - u) ~ s^(1 + gamma) (1 + gamma) for odds s against the top class, far beyond what 1 - v can hold.
    margin, gamma = 100.0, 2.0
    actual = focal_recalibration([[0.0, margin]], gamma)[0, 0]
    assert actual == pytest.approx(math.exp(-margin * (1 + gamma)) * (1 + gamma), rel=1e-9)


@given(
    st.lists(st.floats(-50, 50), min_size=2, max_size=6),
    st.floats(0, 8),
    st.floats(0.1, 10),
)
@settings(deadline=None, max_examples=200)
def test_the_map_keeps_the_order_of_classes_and_sums_to_one(logits, gamma, temperature):
    actual = focal_recalibration([logits], gamma, temperature)[0]
    assert actual.sum() == pytest.approx(1, abs=1e-12)
    assert (np.diff(actual[np.argsort(logits)]) >= -1e-12).all()


@pytest.mark.parametrize("gamma", GAMMAS)
def test_symmetric_logits_stay_uniform(gamma):
    assert focal_recalibration([[3.0] * 4], gamma)[0] == pytest.approx([0.25] * 4, abs=1e-15)


# ---- The fit --------------------------------------------------------------------------------------------------------


def biased(gamma, temperature, n=3000, k=4, seed=0):
    """Labels drawn from the recalibrated probabilities of some logits: the fit should find both numbers."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(n, k)) * 2
    probabilities = focal_recalibration(logits, gamma, temperature)
    labels = (np.log(probabilities) + generator.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, labels


def test_nll_fit_finds_temperature_and_gamma():
    logits, labels = biased(2.0, 1.5, n=20_000)
    fit = fit_temperature(logits, labels, "nll", method="focal")
    assert fit.method == "focal"
    truth = calibration_metrics_from_logits(logits, labels, temperature=1.5, gamma=2.0)["nll"]
    assert fit.after["nll"] <= truth + 1e-9
    assert np.abs(fit.probabilities(logits) - focal_recalibration(logits, 2.0, 1.5)).max() < 0.03
    assert fit.after["nll"] < fit_temperature(logits, labels, "nll").after["nll"]


@pytest.mark.parametrize("criterion", ["ece", "nll"])
def test_a_known_gamma_is_kept_and_gamma_zero_is_plain_temperature_scaling(criterion):
    logits, labels = biased(3.0, 1.2, n=600)
    known = fit_temperature(logits, labels, criterion, method="focal", gamma=3.0)
    assert known.gamma == 3.0
    plain = fit_temperature(logits, labels, criterion)
    zero = fit_temperature(logits, labels, criterion, method="focal", gamma=0)
    assert zero.temperature == pytest.approx(plain.temperature, rel=1e-5)
    assert zero.after == pytest.approx(plain.after, abs=1e-6)


def test_nll_fit_with_known_gamma_finds_the_temperature():
    logits, labels = biased(3.0, 1.4, n=20_000)
    assert fit_temperature(logits, labels, "nll", method="focal", gamma=3.0).temperature == pytest.approx(
        1.4, rel=0.05
    )


def test_ece_fit_takes_gamma_from_the_nll_and_the_best_temperature_of_the_grid():
    logits, labels = biased(2.0, 1.5, n=300)
    fit = fit_temperature(logits, labels, "ece", method="focal")
    assert fit.gamma == fit_temperature(logits, labels, "nll", method="focal", guard=False).gamma > 0
    metrics = [
        calibration_metrics_from_logits(logits, labels, temperature=t, gamma=fit.gamma)["ece"]
        for t in np.arange(1, 101) / 10
    ]
    assert fit.temperature == (np.argmin(metrics) + 1) / 10
    assert fit.after["ece"] == pytest.approx(min(metrics), abs=1e-12)


def test_metrics_after_are_those_of_the_probabilities():
    logits, labels = biased(2.0, 1.5, n=500)
    fit = fit_temperature(logits, labels, "nll", method="focal", gamma=2.0)
    assert fit.after == pytest.approx(calibration_metrics(fit.probabilities(logits), labels), abs=1e-12)


@pytest.mark.parametrize("criterion", ["ece", "nll"])
def test_an_optimum_at_the_end_of_the_range_is_warned_of(criterion):
    with pytest.warns(UserWarning, match="end of the range"):
        fit_temperature([[0.0, 1e-3]] * 300, [1] * 300, criterion, method="focal", gamma=2.0, guard=False)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"method": "isotonic"}, "method must be one of auto, none, temperature, .*, got 'isotonic'"),
        ({"gamma": 2.0}, "gamma=2.0 is for method='focal' alone"),
        ({"method": "focal", "gamma": -1.0}, "gamma must be a number of at least 0"),
        ({"method": "focal", "gamma": math.nan}, "gamma must be a number of at least 0"),
        ({"method": "focal", "gamma": "3"}, "gamma must be a number of at least 0"),
    ],
)
def test_bad_options_of_the_fit_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature([[0.0, 1.0]] * 300, [0] * 300, **kwargs)


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan])
def test_bad_temperatures_of_the_map_are_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be a positive number"):
        focal_recalibration([[0.0, 1.0]], 2.0, temperature)
    with pytest.raises(ValueError, match="gamma"):
        focal_recalibration([[0.0, 1.0]], -2.0)


@pytest.mark.filterwarnings("ignore:The temperature is fitted on", "ignore:The best temperature")
@pytest.mark.parametrize("k", [2, 5])
def test_temperatures_left_out_of_the_plain_grid_could_not_have_won(k):
    """The search skips temperatures whose mean confidence is too far from the accuracy. Compare with all hundred."""
    generator = np.random.default_rng(k)
    for _ in range(100):
        n, scale, truth = generator.integers(1, 120), generator.choice([0.2, 1, 5, 30]), generator.choice([0.2, 1, 4])
        logits = scale * generator.normal(size=(n, k))
        labels = (logits / truth + generator.gumbel(size=logits.shape)).argmax(axis=1)
        probabilities = [softmax(logits / temperature, axis=1) for temperature in np.arange(1, 101) / 10]
        errors = np.array([expected_calibration_error(p, labels) for p in probabilities])
        best = (np.argmax(errors <= errors.min() + 1e-14) + 1) / 10
        assert fit_temperature(logits, labels, "ece").temperature == best


# ---- Models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [False, True])
def test_calibrate_records_it_unfolded_and_evaluate_heeds_it(tmp_path, overconfident, batch):  # noqa: F811
    model, data = overconfident
    args = arguments(tmp_path, batch_eval_metrics=batch, per_device_eval_batch_size=64)
    trainer = CalibrationTrainer(model=model, args=args, eval_dataset=data)
    raw = trainer.predict(data).predictions
    fit = trainer.calibrate(data, criterion="nll", method="focal", gamma=2.0)
    assert without_head(model.config.calibration) == {
        "method": "focal", "criterion": "nll", "split": "validation", "n_samples": 400,
        "gamma": 2.0, "temperature": fit.temperature, "folded": False,
    }  # fmt: skip
    assert np.abs(trainer.predict(data).predictions - raw).max() < 1e-6
    metrics = trainer.evaluate()
    for key in ("nll", "ece", "brier", "classwise_ece"):
        assert metrics[f"eval_{key}"] == pytest.approx(fit.after[key], abs=1e-6)
    assert pending_calibrator(model) == fit.calibrator == FocalRecalibration(2.0, fit.temperature)
    model.save_pretrained(tmp_path / "saved")
    reloaded = type(model).from_pretrained(tmp_path / "saved")
    assert reloaded.config.calibration == model.config.calibration


def test_folding_is_refused_with_an_error_that_says_why(tmp_path, overconfident):  # noqa: F811
    model, data = overconfident
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match="not linear in the logits"):
        fold_temperature(model, 2.0, record={"method": "focal", "gamma": 2.0})
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path), eval_dataset=data)
    with pytest.raises(ValueError, match="cannot be folded"):
        trainer.calibrate(data, method="focal", fold=True)
    trainer.calibrate(data, criterion="nll", method="focal", gamma=1.0)
    for function in (lambda: fold_temperature(model, 2.0), lambda: unfold_temperature(model)):
        with pytest.raises(ValueError):
            function()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_a_plain_temperature_after_a_focal_one_replaces_it(tmp_path, overconfident):  # noqa: F811
    model, data = overconfident
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path), eval_dataset=data)
    trainer.calibrate(data, criterion="nll", method="focal", gamma=1.0)
    fit = trainer.calibrate(data, criterion="nll")
    assert model.config.calibration["method"] == "temperature" and model.config.calibration["folded"] is True
    assert 5 < fit.temperature < 12 and pending_calibrator(model) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": None}, "'gamma'. must be"),
        ({"gamma": -1.0}, "'gamma'. must be"),
        ({"folded": True}, "cannot be folded"),
    ],
)
def test_a_broken_record_is_refused(change, message):
    model = build()
    model.config.calibration = {"method": "focal", "temperature": 1.5, "gamma": 2.0, "folded": False, **change}
    with pytest.raises(ValueError, match=message):
        calibration_record(model)
