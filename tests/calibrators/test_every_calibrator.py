# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What every method of calibration has to do, run over the registry and over methods that tests register."""

import functools
import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from small_models import without_head
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
)

from hf_focal import (
    CALIBRATORS,
    Affine,
    CalibrationTrainer,
    CalibrationTrainingArguments,
    Calibrator,
    Fit,
    UnfoldableError,
    apply_temperature,
    calibration_metrics,
    calibrator_of,
    describe_confidence,
    fit_calibrator,
    fit_temperature,
    fold_calibrator,
    fold_temperature,
    from_pretrained,
    negative_log_likelihood_from_logits,
    register_calibrator,
    unfold_temperature,
)
from hf_focal.models.apply import pending_calibrator
from hf_focal.models.record import calibration_record, check_record, record_of


K = 4


# ---- Methods of a stranger ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bias(Calibrator):
    """A shift of each class by the NLL; the shifts add up to 0."""

    method: ClassVar[str] = "centred-bias"
    criteria: ClassVar[tuple[str, ...]] = ("nll",)
    bias: tuple[float, ...]

    @classmethod
    def fit(cls, logits, labels, *, criterion, n_bins):
        def nll_and_slope(bias):
            p = log_softmax(logits + bias, axis=1)
            return -p[np.arange(len(p)), labels].mean(), np.exp(p).mean(axis=0) - shares

        shares = np.bincount(labels, minlength=logits.shape[1]) / len(labels)
        bias = minimize(nll_and_slope, 0 * shares, jac=True, tol=1e-10).x
        return cls(tuple(bias - bias.mean()))

    def affine(self, num_labels):
        return Affine(shift=np.array(self.bias))


@dataclass(frozen=True)
class Matrix(Calibrator):
    """A fixed matrix and shift: what a head may have to hold at most. Its fit is a step of descent of the NLL."""

    method: ClassVar[str] = "one-step"
    matrix: tuple[tuple[float, ...], ...]
    shift: tuple[float, ...]

    @classmethod
    def fit(cls, logits, labels, *, criterion, n_bins, rate=0.1):
        errors = softmax(logits, axis=1) - np.eye(logits.shape[1])[labels]
        matrix = np.eye(logits.shape[1]) - rate * errors.T @ logits / len(logits)
        return cls(tuple(map(tuple, matrix.tolist())), tuple((-rate * errors.mean(axis=0)).tolist()))

    def affine(self, num_labels):
        return Affine(np.array(self.matrix), np.array(self.shift))


@dataclass(frozen=True)
class Vector(Calibrator):
    """A factor of each class, without a shift."""

    method: ClassVar[str] = "factors"
    factors: tuple[float, ...]

    @classmethod
    def fit(cls, logits, labels, *, criterion, n_bins):
        errors = softmax(logits, axis=1) - np.eye(logits.shape[1])[labels]
        return cls(tuple((1 - 0.1 * (errors * logits).mean(axis=0)).tolist()))

    def affine(self, num_labels):
        return Affine(np.array(self.factors))


OWN = (Bias, Matrix, Vector)
METHODS = [*CALIBRATORS, *(one.method for one in OWN)]


@pytest.fixture(autouse=True)
def registered():
    """Nobody else sees these."""
    for one in OWN:
        assert register_calibrator(one) is one
    yield
    for one in OWN:
        CALIBRATORS.pop(one.method, None)


# ---- Data and models ------------------------------------------------------------------------------------------------


@functools.cache
def overconfident(seed, n=2000):
    """Logits three times too large, of a model that favours its first class."""
    generator = np.random.default_rng(seed)
    logits = 1.5 * generator.normal(size=(n, K))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    logits[:, 0] += 0.7
    return 3 * logits, labels


@functools.cache
def fitted(method, criterion="nll"):
    return fit_calibrator(*overconfident(0), method=method, criterion=criterion)


def bert():
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=50, num_labels=K, architectures=["BertForSequenceClassification"], **small)
    model = BertForSequenceClassification(config).eval()
    torch.nn.init.normal_(model.classifier.weight)
    return model


def bert_with(head):
    model = bert()
    model.classifier = head
    return model


TOKENS = torch.randint(3, 50, (6, 7), generator=torch.Generator().manual_seed(1))


def logits_of(model):
    with torch.no_grad():
        return model(TOKENS).logits.double().numpy()


# ---- The battery ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["ece", "nll"])
@pytest.mark.parametrize("method", METHODS)
def test_a_fit_helps_on_fresh_data(method, criterion):
    fit = fitted(method, criterion)
    assert isinstance(fit, Fit) and isinstance(fit.calibrator, CALIBRATORS[method])
    assert fit.method == method and fit.n_samples == 2000
    assert fit.criterion == (criterion if len(CALIBRATORS[method].criteria) > 1 else CALIBRATORS[method].criteria[0])
    logits, labels = overconfident(1)
    before = negative_log_likelihood_from_logits(logits, labels)
    assert calibration_metrics(fit.probabilities(logits), labels)["nll"] < before - 0.01
    assert fit.after == pytest.approx(calibration_metrics(fit.probabilities(overconfident(0)[0]), overconfident(0)[1]))
    assert fit.after["nll"] < fit.before["nll"] == fit_temperature(*overconfident(0)).before["nll"]


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_independent_and_finite(method):
    calibrator = fitted(method).calibrator
    logits = np.vstack([overconfident(2, 50)[0], np.zeros((1, K)), 1e4 * np.eye(K), -1e4 * np.eye(K)])
    calibrated = calibrator.calibrated_logits(logits)
    assert calibrated.shape == logits.shape and np.isfinite(calibrated).all()
    rows = [calibrator.calibrated_logits(row[None])[0] for row in logits]
    assert np.allclose(calibrated, rows, rtol=1e-12)
    probabilities = calibrator.probabilities(logits)
    assert probabilities.dtype == np.float64 and np.allclose(probabilities.sum(axis=1), 1)
    assert np.allclose(probabilities, softmax(calibrated, axis=1), rtol=1e-12)
    with pytest.raises(ValueError, match="^logits must be finite"):
        calibrator.probabilities([[0.0, np.nan, 0.0, 0.0]])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_tensors_are_calibrated_as_arrays_are(method, dtype):
    calibrator = fitted(method).calibrator
    logits = torch.tensor(overconfident(3, 30)[0], requires_grad=True).to(dtype).reshape(5, 6, K)
    calibrated = calibrator.on_tensor(logits)
    assert calibrated.dtype == dtype and calibrated.shape == logits.shape
    expected = calibrator.calibrated_logits(logits.detach().double().numpy().reshape(-1, K)).reshape(5, 6, K)
    tolerance = 4 * torch.finfo(dtype).eps * max(np.abs(expected).max(), 1)
    assert np.abs(calibrated.detach().double().numpy() - expected).max() <= max(tolerance, 1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_the_record_is_json_and_gives_the_calibrator_back(method):
    calibrator = fitted(method).calibrator
    text = json.dumps(record_of(calibrator, {"criterion": "nll"}, folded=False))
    record = check_record(json.loads(text))
    assert list(record)[:2] == ["method", "criterion"] and list(record)[-1] == "folded"
    again = calibrator_of(record)
    assert again == calibrator and hash(again) == hash(calibrator)
    logits = overconfident(4, 20)[0]
    assert np.array_equal(again.calibrated_logits(logits), calibrator.calibrated_logits(logits))
    for key in calibrator.to_record():
        with pytest.raises(ValueError, match="here"):
            calibrator_of({name: value for name, value in record.items() if name != key}, "here")


@pytest.mark.parametrize("method", METHODS)
def test_it_can_be_read(method):
    calibrator = fitted(method).calibrator
    assert str(calibrator) and calibrator.noun and calibrator.words.endswith(".") and "\n" not in calibrator.words
    assert calibrator.by_hand("`config.calibration`").endswith(".")
    sentence = describe_confidence(*overconfident(0), calibrator)
    assert sentence.startswith("Before scaling the model is over-confident") and sentence.endswith(calibrator.words)


@pytest.mark.parametrize("method", METHODS)
def test_it_is_folded_saved_read_by_anybody_and_unfolded_or_says_why_not(method, tmp_path):
    calibrator, model = fitted(method).calibrator, bert()
    before = logits_of(model)
    expected = calibrator.calibrated_logits(before)
    if not calibrator.foldable():
        for refused in (lambda: calibrator.affine(K), lambda: fold_calibrator(model, calibrator)):
            with pytest.raises(UnfoldableError, match="cannot be folded: it is not linear"):
                refused()
        with pytest.raises(ValueError, match="cannot be folded"):
            check_record(record_of(calibrator, {}, folded=True))
        assert np.array_equal(logits_of(model), before) and getattr(model.config, "calibration", None) is None
        return
    affine = calibrator.affine(K)
    assert np.allclose(affine(before), expected, rtol=1e-12) and np.allclose(affine.inverse()(expected), before)
    assert fold_calibrator(model, calibrator, record={"split": "validation"}) is model
    assert without_head(model.config.calibration) == record_of(calibrator, {"split": "validation"}, folded=True)
    assert pending_calibrator(model) is None
    model.save_pretrained(tmp_path)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert np.abs(logits_of(stock) - expected).max() < 1e-5
    with pytest.raises(ValueError, match=r"calibrated already.*unfold_temperature"):
        fold_calibrator(stock, calibrator)
    unfold_temperature(stock)
    assert np.abs(logits_of(stock) - before).max() < 1e-5
    assert without_head(stock.config.calibration) == {**without_head(model.config.calibration), "folded": False}
    assert pending_calibrator(stock) == calibrator_of(stock.config.calibration)


@pytest.mark.parametrize("method", METHODS)
def test_an_unfolded_record_is_applied_once_and_can_be_folded_then(method, tmp_path):
    calibrator, model = fitted(method).calibrator, bert()
    before = logits_of(model)
    model.config.calibration = record_of(calibrator, {}, folded=False)
    model.save_pretrained(tmp_path)
    model = from_pretrained(tmp_path)
    for _ in range(2):
        assert np.abs(logits_of(apply_temperature(model)) - calibrator.calibrated_logits(before)).max() < 1e-5
    if calibrator.foldable():
        fold_calibrator(model, calibrator)
        assert np.abs(logits_of(model) - calibrator.calibrated_logits(before)).max() < 1e-5
        unfold_temperature(model)
        assert np.abs(logits_of(model) - before).max() < 1e-5


@pytest.mark.filterwarnings("ignore:The .* fitted on 60 samples")
@pytest.mark.parametrize(
    ("method", "fold", "batches"),
    [*((method, None, False) for method in METHODS), ("temperature", False, True), ("one-step", False, True)],
)
def test_the_trainer_fits_records_and_heeds_it(method, fold, batches, tmp_path):
    model = bert()
    tokens = torch.randint(3, 50, (60, 7), generator=torch.Generator().manual_seed(2))
    labels = [index % K for index in range(60)]
    data = [{"input_ids": row, "labels": label} for row, label in zip(tokens, labels, strict=True)]
    args = CalibrationTrainingArguments(
        str(tmp_path), use_cpu=True, disable_tqdm=True, report_to="none", dataloader_pin_memory=False,
        batch_eval_metrics=batches,
    )  # fmt: skip
    trainer = CalibrationTrainer(model=model, args=args, eval_dataset=data)
    fit = trainer.calibrate(method=method, criterion="nll", fold=fold)
    folded = fold is None and fit.calibrator.foldable()
    facts = {"criterion": "nll", "split": "validation", "n_samples": 60}
    facts.update({"helped": False, "why": fit.why} if fit.unchanged else {})
    assert without_head(model.config.calibration) == record_of(fit.calibrator, facts, folded)
    metrics = trainer.evaluate()
    for key in ("accuracy", "nll", "brier", "ece"):
        assert metrics[f"eval_{key}"] == pytest.approx(fit.after[key], abs=1e-5)
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    if fit.unchanged:
        assert "so they are as they were trained." in card and card.count(fit.why) == 1
        return
    assert str(fit.calibrator) in card and (f"{fit.calibrator.noun} was fitted" in card)
    assert ("is folded into the classification head" in card) is folded


def test_a_temperature_keeps_every_decision():
    logits, _ = overconfident(5)
    for criterion in ("ece", "nll"):
        calibrator = fitted("temperature", criterion).calibrator
        assert np.array_equal(calibrator.calibrated_logits(logits).argmax(axis=1), logits.argmax(axis=1))


def test_the_bias_is_the_best_and_adds_up_to_zero():
    logits, labels = overconfident(0)
    calibrator = fitted("centred-bias").calibrator
    assert sum(calibrator.bias) == pytest.approx(0, abs=1e-9) and calibrator.bias[0] < -0.5
    best = negative_log_likelihood_from_logits(calibrator.calibrated_logits(logits), labels)
    for step in 1e-2 * np.vstack([np.eye(K), -np.eye(K)]):
        assert best < negative_log_likelihood_from_logits(logits + calibrator.bias + step, labels)


# ---- The registry ---------------------------------------------------------------------------------------------------


def test_a_taken_name_is_refused():
    for one in (Bias, CALIBRATORS["temperature"]):
        with pytest.raises(ValueError, match=f"There is a calibrator '{one.method}' already"):
            register_calibrator(one)


def test_methods_and_options_that_there_are_not_are_refused_by_name():
    data = overconfident(0)
    with pytest.raises(ValueError, match="method must be one of auto, none, .*factors, got 'spline'"):
        fit_calibrator(*data, method="spline")
    with pytest.raises(ValueError, match="rate=2 is for method='one-step' alone, got method='bias'"):
        fit_calibrator(*data, method="bias", rate=2)
    with pytest.raises(ValueError, match="speed=2 is an option of no method, got method='focal'"):
        fit_calibrator(*data, method="focal", speed=2)
    half, whole = (fit_calibrator(*data, method="one-step", rate=rate).calibrator.matrix for rate in (0.05, 0.1))
    assert np.allclose(np.array(half) - np.eye(K), (np.array(whole) - np.eye(K)) / 2)


@pytest.mark.parametrize("method", ["spline", ["spline"], {"spline": 1}, 3, None])
def test_a_record_of_an_unknown_method_is_fine_where_it_is_folded_and_refused_where_it_is_not(method, tmp_path):
    model = bert()
    expected = logits_of(model)
    model.config.calibration = {"method": method, "knots": [1, 2], "folded": True}
    assert calibration_record(model)["knots"] == [1, 2] and pending_calibrator(model) is None
    model.save_pretrained(tmp_path)
    loaded = from_pretrained(tmp_path)
    assert np.allclose(logits_of(loaded), expected)
    for refused in (unfold_temperature, lambda model: fold_temperature(model, 2.0)):
        with pytest.raises(ValueError, match="spline|None|3"):
            refused(loaded)
    with pytest.raises(ValueError, match="register_calibrator.*--plugin"):
        unfold_temperature(loaded)
    assert np.array_equal(logits_of(loaded), expected)
    config = json.loads((tmp_path / "config.json").read_text())
    config["calibration"]["folded"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config.json of .* is refused: .*method .*register_calibrator.*--plugin"):
        from_pretrained(tmp_path)
    loaded.config.calibration = config["calibration"]
    with pytest.raises(ValueError, match="register_calibrator"):
        apply_temperature(loaded)


def test_a_record_without_a_method_is_a_temperature():
    assert calibrator_of({"temperature": 2, "folded": False}) == calibrator_of(
        {"method": "temperature", "temperature": 2}
    )


def test_records_written_before_there_were_calibrators_are_read_and_written_alike():
    text = '{"method": "temperature", "criterion": "ece", "loss": "focal", "loss_parameters": {"gamma": 3.0}, '
    text += '"split": "validation", "n_samples": 400, "temperature": 1.7, "folded": true}'
    record = json.loads(text)
    model = bert()
    kept = {key: value for key, value in record.items() if key not in ("method", "temperature", "folded")}
    assert json.dumps(without_head(fold_temperature(model, 1.7, record=kept).config.calibration)) == text
    unfold_temperature(model)
    fold_temperature(model, 1.7)  # what was known of this very temperature is kept
    assert json.dumps(without_head(model.config.calibration)) == text
    text = '{"method": "focal", "criterion": "nll", "split": "validation", "n_samples": 400, "gamma": 2.0, '
    text += '"temperature": 1.5, "folded": false}'
    record = json.loads(text)
    kept = {key: record[key] for key in ("criterion", "split", "n_samples")}
    assert json.dumps(record_of(calibrator_of(record), kept, folded=False)) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, r"here\['bias'\] must hold finite numbers"),
        ({"bias": ["a", 1, 1, 1]}, "finite"),
        ({"bias": [[1], [1, 2]]}, "finite"),
        ({"bias": [0.1, -0.1]}, "other classes than the 4"),
        ({"bias": [float("nan")] * 4}, "finite"),
    ],
)
def test_a_record_for_another_head_is_refused(change, message):
    model = bert()
    before = logits_of(model)
    with pytest.raises(ValueError, match=message):
        fold_calibrator(model, calibrator_of({"method": "centred-bias", **change}, "here"))
    assert np.array_equal(logits_of(model), before)


# ---- Heads ----------------------------------------------------------------------------------------------------------


class Shifted(torch.nn.Linear):
    """Its outputs are not the last word: a constant is added."""

    def forward(self, features):
        return super().forward(features) + torch.arange(K)


class Permuted(torch.nn.Linear):
    """Scaling its outputs scales the logits, but they are in another order."""

    def forward(self, features):
        return super().forward(features).flip(-1)


class Pooled(torch.nn.Module):
    """A convolution of 1 x 1 whose outputs, averaged, are the logits, as in some networks of images."""

    def __init__(self, pool):
        super().__init__()
        self.convolution, self.pool = torch.nn.Conv2d(8, K, 1), pool

    def forward(self, features):
        return self.pool(self.convolution(features.reshape(len(features), 8, 2, 2)))


def mean(maps):
    return maps.mean(dim=(2, 3))


def largest(maps):
    return maps.amax(dim=(2, 3))


@pytest.mark.parametrize(
    ("head", "takes"),
    [
        (torch.nn.Linear(32, K), {"temperature", "bias", "matrix", "factors"}),
        (torch.nn.Linear(32, K, bias=False), {"temperature", "factors"}),
        (Permuted(32, K), {"temperature"}),
        (Shifted(32, K), set()),
        (Pooled(mean), {"temperature", "bias", "matrix", "factors"}),
        (Pooled(largest), {"temperature", "bias"}),
        (torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(32, K, bias=False)), set()),
    ],
    ids=["linear", "no bias", "permuted", "shifted", "convolution", "largest of a convolution", "weight norm"],
)
@pytest.mark.parametrize("method", ["temperature", "bias", "matrix", "factors"])
def test_a_head_takes_what_it_can_do_and_refuses_the_rest(head, takes, method):
    model = bert_with(head)
    before = logits_of(model)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    calibrator = fitted(method).calibrator
    if method in takes:
        fold_calibrator(model, calibrator)
        assert np.abs(logits_of(model) - calibrator.calibrated_logits(before)).max() < 1e-5
        unfold_temperature(model)
        assert np.abs(logits_of(model) - before).max() < 1e-5
        return
    with pytest.raises(UnfoldableError, match="Cannot fold a .* into BertForSequenceClassification: .*fold=False"):
        fold_calibrator(model, calibrator)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_a_shift_asks_for_a_bias_by_name():
    with pytest.raises(UnfoldableError, match="has no bias, which a shift needs"):
        fold_calibrator(bert_with(torch.nn.Linear(32, K, bias=False)), fitted("bias").calibrator)


def test_two_heads_that_are_averaged_take_any_map():
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = DeiTForImageClassificationWithTeacher(DeiTConfig(image_size=16, patch_size=8, num_labels=K, **small))
    pixels = torch.randn(3, 3, 16, 16)
    for method in ("vector", "temperature"):
        calibrator = fitted(method).calibrator
        with torch.no_grad():
            before = model.eval()(pixels).logits.double().numpy()
            fold_calibrator(model, calibrator)
            assert np.abs(model(pixels).logits.numpy() - calibrator.calibrated_logits(before)).max() < 1e-5
        unfold_temperature(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["temperature", "bias", "matrix", "vector"])
def test_half_precision_is_rounded_to_itself(method, dtype):
    calibrator, model = fitted(method).calibrator, bert().to(dtype)
    before = logits_of(model)
    fold_calibrator(model, calibrator)
    assert model.classifier.weight.dtype == dtype
    expected = calibrator.calibrated_logits(before)
    assert np.abs(logits_of(model) - expected).max() <= 8 * torch.finfo(dtype).eps * np.abs(before).max()


def test_what_the_weights_cannot_hold_or_nobody_could_undo_is_refused():
    model = bert().to(torch.float16)
    weights = model.classifier.weight.clone()
    with torch.no_grad():
        model.classifier.weight.mul_(1000)
    with pytest.raises(UnfoldableError, match="cannot hold the numbers"):
        fold_temperature(model, 0.001)
    assert torch.equal(model.classifier.weight, weights * 1000)
    for factors in ((1.0, 1.0, 0.0, 1.0), (1.0, 1.0, 1.0, float("nan"))):
        with pytest.raises(UnfoldableError):
            fold_calibrator(bert(), Vector(factors))
    with pytest.raises(UnfoldableError, match="cannot be undone"):
        fold_calibrator(bert(), Matrix(((1.0,) * K,) * K, (0.0,) * K))


def test_a_record_of_other_classes_is_forgotten_or_refused_without_a_fingerprint_too(caplog):
    model = bert()
    for method, values in (("centred-bias", [0.1, -0.1]), ("centred-bias", [0.1] * 5)):
        model.config.calibration = {"method": method, "bias": values, "folded": True}
        assert calibration_record(model) is None and not hasattr(model.config, "calibration")
        assert f"for {len(values)} classes, and the model has 4" in caplog.text
        model.config.calibration = {"method": method, "bias": values, "folded": False}
        with pytest.raises(ValueError, match="another head.*classes, and the model has 4"):
            apply_temperature(model)
