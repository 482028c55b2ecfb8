# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Models some of whose classes never count: masked by their config at evaluation, or by what they compute."""

import copy
import json
import math

import numpy as np
import onnxruntime
import pytest
import torch
from small_models import build
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, pipeline

import hf_focal
from hf_focal import (
    UnfoldableError,
    apply_temperature,
    calibration_metrics_from_logits,
    create_global_pooling_cnn,
    create_text_classifier,
    fold_calibrator,
    fold_temperature,
    from_pretrained,
    mask_classes,
    unfold_temperature,
)
from hf_focal.calibrators.base import Affine, Calibrator
from hf_focal.models.fold import _map_head


INPUTS = {"input_ids": torch.randint(0, 40, (3, 6), generator=torch.Generator().manual_seed(0))}
LEFT = [0, 2, 4]
TEXTS = ["the cat sat on the mat", "a dog ran in the park", "it rains"]


@torch.no_grad()
def logits_of(model, **options):
    return model(**INPUTS, **options).logits


def softmax(logits, temperature=1.0):
    return torch.softmax(logits.double() / temperature, dim=-1)


# ---- By the config --------------------------------------------------------------------------------------------------


def test_masked_classes_have_probability_0_in_evaluation_mode_alone():
    model = build("bert").eval()
    plain = logits_of(model)
    assert mask_classes(model, ["LABEL_1", 3]) is model
    assert model.config.masked_classes == ["LABEL_1", "LABEL_3"]
    found = logits_of(model)
    assert (found[:, [1, 3]] == -math.inf).all() and torch.equal(found[:, LEFT], plain[:, LEFT])
    with torch.no_grad():
        (from_tuple,) = model(**INPUTS, return_dict=False)
        assert torch.equal(from_tuple, found)
        loss, from_tuple = model(**INPUTS, labels=torch.tensor([0, 2, 4]), return_dict=False)
        assert torch.equal(from_tuple, found) and loss.isfinite()
    assert torch.equal(logits_of(model.train()), plain)  # there is no dropout in it
    mask_classes(model.eval(), [])
    assert model.config.masked_classes is None and torch.equal(logits_of(model), plain)


def test_a_masked_model_is_copied_compiled_and_exported_with_its_masks():
    model = mask_classes(build("bert").eval(), ["LABEL_1"])
    expected = logits_of(model)
    assert torch.equal(logits_of(copy.deepcopy(model)), expected)
    torch._dynamo.reset()  # noqa: SLF001
    torch.testing.assert_close(logits_of(torch.compile(model, backend="eager", fullgraph=True)), expected)
    exported = torch.export.export(model, (), kwargs=INPUTS).module()
    torch.testing.assert_close(exported(**INPUTS).logits, expected)


@pytest.mark.slow
def test_a_masked_model_is_exported_to_onnx_with_its_masks(tmp_path):
    model = mask_classes(build("bert").eval(), ["LABEL_1"])
    expected = logits_of(model)
    file = tmp_path / "model.onnx"
    torch.onnx.export(model, (INPUTS["input_ids"],), file, input_names=["input_ids"], dynamo=True, verbose=False)
    (found,) = onnxruntime.InferenceSession(str(file)).run(None, {"input_ids": INPUTS["input_ids"].numpy()})
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            ["neutral"],
            "names 'neutral', which is no class of the model; those are LABEL_0, LABEL_1, .*masked_classes to",
        ),
        ([5], "names 5, which is no class"),
        ([-1], "names -1, which is no class"),
        ([True], "names True, which is no class"),
        (["LABEL_0", "LABEL_1", "2", 3], "leaves fewer than two of the 5 classes"),
        ("LABEL_1", "must be a list of names or indices of classes, got 'LABEL_1'"),
    ],
)
def test_classes_that_cannot_be_masked_are_refused_with_those_that_there_are(classes, message, tmp_path):
    model = build("bert").eval()
    with pytest.raises(ValueError, match=message):
        mask_classes(model, classes)
    assert getattr(model.config, "masked_classes", None) is None
    model.config.masked_classes = classes  # as a file may say
    with pytest.raises(ValueError, match=message):
        mask_classes(model)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("record", [None, {"temperature": 0.5}, {"method": "focal", "gamma": 2.0, "temperature": 0.7}])
def test_a_checkpoint_is_loaded_with_its_masks_under_any_calibrator(tmp_path, record):
    """The classes that are left are calibrated as a model of them alone would be."""
    model = build("bert").eval()
    calibrator = hf_focal.calibrator_of(record or {"temperature": 1.0})
    expected = calibrator.probabilities(logits_of(model)[:, LEFT])
    mask_classes(model, [1, 3])
    if record is not None:
        model.config.calibration = {**record, "folded": False}
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["masked_classes"] == ["LABEL_1", "LABEL_3"]
    loaded = from_pretrained(tmp_path)
    found = softmax(logits_of(loaded))
    np.testing.assert_allclose(found[:, LEFT], expected, atol=1e-6)
    assert (found[:, [1, 3]] == 0).all()
    assert torch.equal(logits_of(apply_temperature(mask_classes(loaded))), logits_of(loaded))  # nothing happens twice


@pytest.mark.parametrize("temperature", [0.01, 0.5, 3.0])
def test_a_temperature_is_folded_into_a_masked_model_and_undone(temperature):
    model = mask_classes(build("bert").eval(), [1])
    before = logits_of(model)
    fold_temperature(model, temperature)
    torch.testing.assert_close(softmax(logits_of(model)), softmax(before, temperature), rtol=1e-4, atol=1e-6)
    unfold_temperature(model)
    torch.testing.assert_close(logits_of(model), before, rtol=1e-4, atol=1e-5)


def test_a_network_of_ours_heeds_its_masks_under_plain_transformers(tmp_path):
    torch.manual_seed(0)
    model, tokenizer = create_global_pooling_cnn(TEXTS, ["good", "neutral", "bad"], sequence_length=30)
    mask_classes(model.eval(), ["neutral"]).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for classifier in (
        pipeline("text-classification", model=str(tmp_path), top_k=None),
        hf_focal.pipeline("text-classification", model=str(tmp_path), top_k=None),
    ):
        scores = {row["label"]: row["score"] for row in classifier([TEXTS[0]])[0]}
        assert scores["neutral"] == 0 and sum(scores.values()) == pytest.approx(1)
    other = AutoModelForSequenceClassification.from_pretrained(tmp_path, masked_classes=None).eval()
    assert torch.isfinite(other(**tokenizer(TEXTS[0], return_tensors="pt")).logits).all()


def test_a_checkpoint_for_other_classes_loses_its_masks(tmp_path, caplog):
    torch.manual_seed(0)
    model, tokenizer = create_global_pooling_cnn(TEXTS, ["good", "neutral", "bad"], sequence_length=30)
    mask_classes(model, ["neutral"]).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    same, _ = create_text_classifier(str(tmp_path), ["good", "neutral", "bad"])
    assert same.config.masked_classes == ["neutral"] and "it masks none" not in caplog.text
    other, _ = create_text_classifier(str(tmp_path), ["cat", "dog"])
    assert other.config.masked_classes is None and "['neutral'], which are no classes here" in caplog.text


# ---- By what the model computes -------------------------------------------------------------------------------------


class Masking(BertForSequenceClassification):
    """Masks a class behind its head."""

    mask = -math.inf

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs["logits"] = outputs["logits"].index_fill(-1, torch.tensor([1]), self.mask)
        return outputs


@pytest.mark.parametrize("temperature", [0.01, 0.5, 7.0])
@pytest.mark.parametrize("mask", [-math.inf, torch.finfo(torch.float32).min, -1e9, -9999.0])
@pytest.mark.parametrize("where", ["bias", "forward"])
def test_a_temperature_is_folded_where_the_model_masks_a_class_itself(where, mask, temperature):
    model = build("bert").eval()
    if where == "bias":
        with torch.no_grad():
            model.classifier.bias[1] = mask
    else:
        model.__class__, model.mask = Masking, mask
    before = logits_of(model)
    fold_temperature(model, temperature)
    found = softmax(logits_of(model))
    torch.testing.assert_close(found, softmax(before, temperature), rtol=1e-4, atol=1e-6)
    assert (found[:, 1] == 0).all()
    unfold_temperature(model)
    torch.testing.assert_close(logits_of(model)[:, [0, 2, 3, 4]], before[:, [0, 2, 3, 4]], rtol=1e-4, atol=1e-5)
    assert (softmax(logits_of(model))[:, 1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_masks_do_not_overflow(dtype):
    for mask in (-math.inf, torch.finfo(dtype).min):
        model = build("bert").to(dtype).eval()
        with torch.no_grad():
            model.classifier.bias[1] = mask
        before = logits_of(model)
        fold_temperature(model, 0.5)
        torch.testing.assert_close(softmax(logits_of(model)), softmax(before, 0.5), rtol=0.02, atol=2e-3)
        metrics = calibration_metrics_from_logits(logits_of(model), [0, 2, 4], temperature=0.1)
        assert math.isfinite(metrics["nll"])


def test_a_map_that_mixes_classes_is_not_folded_where_one_is_masked():
    matrix = Affine(np.eye(5) + 0.1, np.zeros(5))
    config_alone, in_bias = mask_classes(build("bert").eval(), [1]), build("bert").eval()
    with torch.no_grad():
        in_bias.classifier.bias[1] = -math.inf
    for model in (config_alone, in_bias):
        weight = model.classifier.weight.clone()
        with pytest.raises(UnfoldableError, match="mixes classes into BertForSequenceClassification, some of whose"):
            _map_head(model, matrix, None, "matrix")
        assert torch.equal(model.classifier.weight, weight)
    _map_head(build("bert").eval(), matrix, None, "matrix")


def test_a_factor_for_each_class_is_folded_where_one_is_masked():
    class PerClass(Calibrator):
        method = "per-class"

        @classmethod
        def fit(cls, logits, labels, *, criterion, n_bins):
            return cls()

        def affine(self, num_labels):
            return Affine(np.array([0.5, 2.0, 3.0, 1.0, 0.7]), np.array([0.1, 0.2, 0.3, 0.4, 0.5]))

    model = build("bert").eval()
    with torch.no_grad():
        model.classifier.bias[1] = -math.inf
    before = logits_of(model).double().numpy()
    fold_calibrator(model, PerClass())
    np.testing.assert_allclose(logits_of(model).numpy(), PerClass().calibrated_logits(before), rtol=1e-4, atol=1e-5)
