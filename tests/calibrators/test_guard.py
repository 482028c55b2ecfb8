# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Maps that help: what the guard keeps off and lets through, what a fit says of itself, and what a trainer does."""

import json
import math
import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from small_models import NUM_LABELS, build, without_head
from torch.utils.data import Dataset

import hf_focal
from hf_focal import (
    CALIBRATORS,
    CalibrationTrainer,
    CalibrationTrainingArguments,
    Calibrator,
    calibrator_of,
    describe_confidence,
    fit_calibrator,
    fit_temperature,
    parse_arguments,
    register_calibrator,
)
from hf_focal.calibrators import FocalRecalibration
from hf_focal.calibrators.confidence import describe
from hf_focal.calibrators.fit import fit_for_model
from hf_focal.metrics import Scored
from hf_focal.models.record import calibration_record


FEW = pytest.mark.filterwarnings("ignore:The temperature is fitted on")


def draw(seed, n, classes=10, deviation=2.0):
    """Logits, and labels drawn from their softmax."""
    generator = np.random.default_rng(seed)
    logits = deviation * generator.normal(size=(n, classes))
    return logits, (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)


def faultless(seed, n, **options):
    logits, labels = draw(seed, 20 * n, **options)
    rows = np.flatnonzero(logits.argmax(axis=1) == labels)[:n]
    return logits[rows], labels[rows]


# ---- What it spares and what it costs ------------------------------------------------------------------------------


@FEW
@pytest.mark.parametrize("deviation", [2.0, 5.0])
def test_it_harms_nobody_and_keeps_the_gain(deviation):
    """A small form of benchmarks/guard.py: changes of the NLL under the known posterior."""
    fresh, _ = draw(0, 5000, deviation=deviation)
    posterior = softmax(fresh, axis=1)

    def nll(scale):
        return -(posterior * log_softmax(scale * fresh, axis=1)).sum(axis=1).mean()

    harmed = []
    for n, fits in ((1, 5), (5, 20), (20, 50), (100, 100), (500, 40)):
        for factor in (0.8, 1.0, 1.2, 2.0):
            before, after = nll(factor), []
            for seed in range(fits):
                logits, labels = draw([n, seed], n, deviation=deviation)
                fit = fit_temperature(factor * logits, labels)
                assert fit.helped is (fit.temperature != 1) is (fit.why == "")
                after.append(nll(factor / fit.temperature) if fit.helped else before)
            assert np.mean(after) < 1.005 * before
            harmed.append(np.mean(np.array(after) > 1.01 * before))
            if n == 500 and factor != 1:
                kept = (before - np.mean(after)) / (before - nll(1.0))
                assert kept > (0.98 if factor == 2 else 0.75)  # of 40 fits; of thousands 0.85
    assert np.mean(harmed) < 0.05 and max(harmed) <= 0.15


@FEW
def test_faultless_samples_leave_it_at_one():
    logits, labels = faultless(0, 60)
    fit = fit_temperature(logits, labels)
    assert fit.temperature == 1.0 and fit.helped is False and not fit.at_end
    assert fit.after == fit.before and fit.calibrator == CALIBRATORS["temperature"].neutral(10)
    needed = "at least three right and three wrong ones are needed to tell."
    assert fit.why == f"T stays 1: of 60 validation samples none was wrong, and {needed}"
    wrong = (logits.argmax(axis=1) + 1) % 10
    assert "of 60 validation samples none was right, and" in fit_temperature(logits, wrong).why
    with_four = fit_temperature(*constant(4.0, 296, 300))  # 98.2% sure, 98.7% right
    assert with_four.temperature == 1 and with_four.why.endswith(", and of 300 validation samples only 4 were wrong.")


def test_one_sample_helps_nobody():
    for criterion, temperature in (("nll", 1.0), ("ece", 0.1)):
        with pytest.warns(UserWarning) as caught:
            fit = fit_temperature([[2.0, 0.0, 1.0]], [0], criterion)
        assert fit.temperature == temperature and fit.helped is False
        assert str(caught[0].message).startswith("The temperature is fitted on 1 samples; with fewer than 200 ")
    with pytest.warns(UserWarning, match="only a large gain is told from noise. T stays 1: of the one validation"):
        assert "none was wrong" in fit_temperature([[2.0, 0.0, 1.0]], [0]).why


def test_a_class_that_is_missing_is_noticed_where_it_was_expected():
    logits, labels = draw(1, 2000, classes=5)
    present = labels != 3
    fit = fit_temperature(2 * logits[present], labels[present])
    assert fit.temperature == 1 and "none is of the class 3, where the model expects about" in fit.why
    assert fit_temperature(2 * logits[present], labels[present], guard=False).helped is False
    assert fit_temperature(2 * logits, labels).helped
    rare = np.hstack([logits, np.full((2000, 1), -20.0)])  # nobody expects the sixth class
    assert fit_temperature(2 * rare, labels).helped


def test_a_gain_that_chance_may_explain_is_none():
    logits, labels = draw(2, 400)
    fit, free = fit_temperature(logits, labels), fit_temperature(logits, labels, guard=False)
    assert fit.temperature == 1 != free.temperature and not free.helped and fit.before == free.before
    gain = free.before["nll"] - free.after["nll"]
    said = f"would lower the validation NLL by {gain:.2g}, which chance alone may explain."
    assert fit.why == f"T stays 1: the best one, {free.calibrator}, {said}"
    assert free.why == f"{free.calibrator} is not known to help: it {said}"


def test_what_helps_is_the_minimiser_of_the_nll():
    logits, labels = draw(3, 500)
    fit = fit_temperature(2 * logits, labels)
    assert fit == fit_temperature(2 * logits, labels, guard=False) and fit.helped and fit.why == "" and not fit.at_end
    assert 1.7 < fit.temperature < 2.3


def test_few_mistakes_do_where_the_gain_is_beyond_doubt():
    logits, labels = constant(1.0, 356, 360)  # 73% sure and 99% right
    fit = fit_temperature(logits, labels)
    assert fit.helped and fit.temperature == pytest.approx(1 / math.log(356 / 4))
    assert not fit_temperature(*constant(4.0, 358, 360)).helped


@pytest.mark.parametrize(("margin", "right", "helps"), [(1.5, 60, True), (0.55, 60, False), (0.2, 60, False)])
def test_the_gain_has_to_be_that_of_the_rule(margin, right, helps):
    logits, labels = np.tile([margin, 0.0], (100, 1)), np.array([0] * right + [1] * (100 - right))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit, free = fit_temperature(logits, labels), fit_temperature(logits, labels, guard=False)
    gain = 100 * (free.before["nll"] - free.after["nll"])
    assert (gain > 0.4 + 60 / 40) is helps is fit.helped


def test_by_ece_it_judges_by_the_nll_where_it_is_asked_for():
    logits, labels = draw(4, 400)
    free, guarded = (fit_temperature(logits, labels, "ece", guard=guard) for guard in (None, True))
    assert free.temperature != 1 and free.helped is False and "not known to help: it would" in free.why
    assert guarded.temperature == 1 and guarded.criterion == "ece" and guarded.why.startswith("T stays 1: the best")
    helping = fit_temperature(2 * logits, labels, "ece", guard=True)
    assert helping.helped and helping.temperature == fit_temperature(2 * logits, labels, "ece").temperature


def test_focal_recalibration_is_guarded_likewise():
    logits, labels = draw(5, 400)
    for options in ({}, {"gamma": 0.5}):
        fit = fit_temperature(logits, labels, method="focal", **options)
        assert fit.calibrator == FocalRecalibration(0.0, 1.0) and fit.why.startswith("T stays 1 and gamma 0: ")
        np.testing.assert_allclose(fit.probabilities(logits), softmax(logits, axis=1), rtol=1e-12)
    assert fit_temperature(2 * logits, labels, method="focal", gamma=0.5).helped
    with pytest.warns(UserWarning, match="fitted on 60 samples"):
        assert not fit_temperature(*faultless(0, 60), method="focal").helped


# ---- Ends of the range ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("truth", [20.0, 0.05])
def test_an_optimum_outside_the_grid_is_told_from_data_that_determine_nothing(truth):
    logits, labels = draw(6, 2000, classes=5)
    with pytest.warns(UserWarning, match="is at the end of the range searched") as caught:
        fit = fit_temperature(truth * logits, labels, "ece")
    assert fit.at_end and fit.temperature in (0.1, 10.0) and fit.why == str(caught[0].message)
    best = fit_temperature(truth * logits, labels, guard=False)
    assert (
        f"the optimum is outside: the NLL is lowest near T = {best.temperature:.3g}, so use criterion='nll'" in fit.why
    )
    assert best.helped and not best.at_end and best.temperature == pytest.approx(truth, rel=0.1)
    with pytest.warns(UserWarning, match="the data do not determine it: more validation data") as other:
        assert fit_temperature(*faultless(6, 300), "ece").at_end
    assert "NLL" not in str(other[0].message)


def test_an_end_is_returned_unguarded_and_never_guarded_nor_to_a_model():
    logits, labels = faultless(7, 300)
    with pytest.warns(UserWarning, match="^The best temperature, 0.01, is at the end of the range"):
        assert fit_temperature(logits, labels, guard=False).at_end
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for criterion in ("nll", "ece"):
            fit = fit_temperature(logits, labels, criterion, guard=True)
            assert fit.temperature == 1 and not fit.at_end
    outside = 20 * draw(6, 2000)[0], draw(6, 2000)[1]
    with pytest.warns(UserWarning, match="^The best .*'nll'; the model is left as it is.$") as caught:
        fit = fit_for_model(*outside, "temperature", "ece", 15, None)
    assert fit.temperature == 1 and not fit.helped and fit.why.startswith("T stays 1: the best temperature, 10, is at")
    assert len(caught) == 1 and fit.unchanged


# ---- Arguments -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shift(Calibrator):
    """A shift of the first class: with a neutral one, so that it is guarded."""

    method: ClassVar[str] = "shift"
    shift: float

    @classmethod
    def fit(cls, logits, labels, *, criterion, n_bins):
        return cls(float(np.log(np.mean(labels == 0) / softmax(logits, axis=1)[:, 0].mean())))

    @classmethod
    def neutral(cls, num_labels):
        return cls(0.0)

    def calibrated_logits(self, logits):
        return logits + self.shift * (np.arange(logits.shape[1]) == 0)


def test_a_method_of_a_stranger_is_guarded_where_it_names_its_neutral_one(monkeypatch):
    monkeypatch.setattr(hf_focal.calibrators.base, "CALIBRATORS", dict(CALIBRATORS))
    register_calibrator(Shift)
    logits, labels = draw(8, 1000, classes=4)
    fit = fit_calibrator(logits, labels, "shift")
    assert fit.calibrator == Shift(0.0) and fit.why.startswith(
        "The logits stay as they are: the best one, shift, would"
    )
    biased = logits + 1.5 * (np.arange(4) == 0)
    assert fit_calibrator(biased, labels, "shift").calibrator.shift < -0.5
    monkeypatch.setattr(Shift, "neutral", Calibrator.neutral)
    free = fit_calibrator(logits, labels, "shift")
    assert free.calibrator != Shift(0.0) and not free.helped
    with pytest.raises(ValueError, match="guard=True is not for method='shift'"):
        fit_calibrator(logits, labels, "shift", guard=True)


@pytest.mark.parametrize("guard", ["true", 1, 0, "ece"])
def test_a_guard_that_is_none_is_refused(guard):
    with pytest.raises(ValueError, match="guard must be True, False or None, got"):
        fit_temperature(*draw(0, 300), guard=guard)


def test_flags_and_files_say_whether_it_is_on(tmp_path):
    def parsed(*flags):
        (args,) = parse_arguments([CalibrationTrainingArguments], ["--output_dir", str(tmp_path), *flags])
        return args.temperature_criterion, args.temperature_guard

    assert parsed() == ("nll", None)
    assert parsed("--temperature_guard", "false") == ("nll", False)
    assert parsed("--criterion", "ece", "--temperature_guard", "true") == ("ece", True)
    for text, expected in (("false", False), ("true", True), ("null", None)):
        (tmp_path / "config.yaml").write_text(f"temperature_criterion: ece\ntemperature_guard: {text}\n")
        assert parsed("--config", str(tmp_path / "config.yaml")) == ("ece", expected)


# ---- Words ---------------------------------------------------------------------------------------------------------


def constant(margin, right, n):
    return np.tile([margin, 0.0], (n, 1)), np.array([0] * right + [1] * (n - right))


def test_a_verdict_is_given_only_beyond_noise():
    logits, labels = constant(1.5, 75, 100)  # confidence 81.8%: 1.6 standard errors
    said = describe_confidence(logits, labels, 1.0)
    assert "the model is neither over- nor under-confident beyond noise: its mean confidence is 81.8%" in said
    said = describe_confidence(np.tile(logits, (4, 1)), np.tile(labels, 4), 2.0)
    assert "the model is over-confident: its mean confidence is 81.8%" in said
    said = describe_confidence(np.tile(logits, (4, 1)), np.tile(labels, 4), 2.0, groups=np.tile(np.arange(100), 4))
    assert "neither over- nor under-confident beyond noise" in said  # four copies tell no more than one
    assert "neither" in describe_confidence(logits, labels, 1.0, groups=np.zeros(100))
    assert "neither" in describe_confidence(logits[:1], labels[:1], 1.0)


@pytest.mark.parametrize(("right", "temperature", "effect"), [(120, 0.6964, "sharpens"), (198, 2.0, "softens")])
@pytest.mark.parametrize("criterion", ["nll", "ece", None])
def test_words_never_contradict_the_temperature(right, temperature, effect, criterion):
    logits, labels = constant(1.5, right, 200)
    fitted = CALIBRATORS["temperature"](temperature)
    if criterion:
        fitted = hf_focal.TemperatureFit(fitted, criterion, 300, {}, {"nll": 0.0})
    said = describe_confidence(logits, labels, fitted)
    assert "over-confident" not in said and "under-confident" not in said
    assert said.startswith("Before scaling the mean confidence of the model is 81.8% and it is right")
    by = f" by the {criterion.upper()}" if criterion else ""
    assert f"The temperature {temperature:g} {effect} its probabilities all the same: it was fitted{by} on val" in said


@FEW
def test_a_temperature_that_stayed_is_told_with_its_reason():
    fit = fit_temperature(*faultless(0, 60))
    logits, labels = draw(9, 2000)
    said = describe(Scored.from_logits(2 * logits, labels), fit)
    assert said.startswith("The model is over-confident: its mean") and said.endswith(fit.why)
    taken = fit_temperature(2 * logits, labels)
    said = describe_confidence(2 * logits, labels, taken)
    assert said.startswith("Before scaling the model is over-confident") and said.endswith(taken.calibrator.words)


# ---- Models --------------------------------------------------------------------------------------------------------


class Drawn(Dataset):
    """Pictures whose labels are drawn from the softmax of a model's logits over a temperature; or all right."""

    def __init__(self, model, n, temperature=1.0):
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(n, 3, 16, 16, generator=generator)
        with torch.no_grad():
            logits = model(pixel_values=self.pixels).logits
        shares = (logits / temperature).softmax(-1)
        labels = torch.multinomial(shares, 1, generator=generator).flatten() if temperature else logits.argmax(-1)
        self.labels = labels.tolist()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


def model_of(scale):
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():
        logits = model(pixel_values=torch.randn(200, 3, 16, 16)).logits
        model.classifier.weight *= scale / logits.std()
        model.classifier.bias.zero_().neg_()  # -0.0, which adding zero would change
    return model


def trainer_of(model, data, tmp_path, **options):
    args = CalibrationTrainingArguments(
        str(tmp_path), use_cpu=True, disable_tqdm=True, report_to="none", dataloader_pin_memory=False, **options
    )
    return CalibrationTrainer(model=model, args=args, eval_dataset=data)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("fold", [True, False])
def test_a_model_whose_temperature_stayed_is_left_as_it_is_and_says_so(fold, tmp_path):
    model = model_of(2.0)
    data, before = Drawn(model, 300), weights(model)
    fit = trainer_of(model, data, tmp_path, fold_temperature=fold).calibrate()
    assert fit.temperature == 1 and not fit.helped
    record = model.config.calibration
    assert without_head(record) == {
        "method": "temperature", "criterion": "nll", "split": "validation", "n_samples": 300, "helped": False,
        "why": fit.why, "temperature": 1.0, "folded": fold,
    }  # fmt: skip
    assert calibrator_of(json.loads(json.dumps(record))) == fit.calibrator
    assert all(value.numpy().tobytes() == before[name].numpy().tobytes() for name, value in weights(model).items())
    model.save_pretrained(tmp_path / "saved")
    assert calibration_record(hf_focal.from_pretrained(tmp_path / "saved")) == record


@pytest.mark.parametrize(("criterion", "guard"), [("ece", None), ("nll", False)])
def test_an_end_is_never_folded(criterion, guard, tmp_path):
    model = model_of(2.0)
    data, before = Drawn(model, 300, temperature=0), weights(model)
    trainer = trainer_of(model, data, tmp_path, temperature_criterion=criterion)
    with pytest.warns(UserWarning, match="^The best temp.* would; the model is left as it is.$") as caught:
        fit = trainer.calibrate(guard=guard)
    assert len([one for one in caught if "temperature" in str(one.message)]) == 1
    record = model.config.calibration
    assert record["temperature"] == 1.0 and record["helped"] is False and record["why"] == fit.why
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_the_guard_of_the_arguments_is_heeded_and_that_of_the_call_goes_first(tmp_path):
    model = model_of(2.0)
    trainer = trainer_of(model, Drawn(model, 300), tmp_path, temperature_guard=False)
    fit = trainer.calibrate()
    assert fit.temperature != 1 and not fit.helped and "helped" not in model.config.calibration
    assert trainer.calibrate(guard=True).temperature == 1
    over = trainer_of(model, Drawn(model, 300, temperature=3.0), tmp_path).calibrate()
    assert over.helped and 2 < over.temperature < 4.5 and "why" not in model.config.calibration
    assert NUM_LABELS > 1 and math.isfinite(over.after["nll"])
