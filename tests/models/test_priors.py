# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Priors and class weights in the heads of models: the rule of Bayes on what they give, on top of calibrators."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from scipy.special import softmax
from small_models import NUM_LABELS, build, samples
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    ViTImageProcessor,
)
from transformers import pipeline as stock_pipeline

import hf_focal
from hf_focal import UnfoldableError, adjust_prior, undo_class_weights
from hf_focal.calibrators import MatrixScaling, TemperatureScaling, VectorScaling


SOURCE, TARGET = np.array([0.1, 0.3, 0.2, 0.25, 0.15]), np.array([0.4, 0.05, 0.25, 0.1, 0.2])
WEIGHTS = np.array([10.0, 1.0, 2.0, 0.5, 3.0])
generator = np.random.default_rng(0)
CALIBRATORS = {
    "temperature": TemperatureScaling(1.7),
    "vector": VectorScaling(1.3, (0.8, 1.0, 1.1, 1.2, 0.9), (0.1, -0.2, 0.3, 0.0, -0.2)),
    "matrix": MatrixScaling(
        1.3,
        tuple(map(tuple, (np.eye(5) + 0.1 * generator.normal(size=(5, 5))).tolist())),
        tuple(generator.normal(size=5).tolist()),
    ),
}


def gpt2():
    torch.manual_seed(0)
    model = GPT2ForSequenceClassification(
        GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=2, num_labels=NUM_LABELS, pad_token_id=0)
    )
    return model.eval()


def lora():
    model = build("bert")
    return get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False)).eval()


@torch.no_grad()
def logits_of(model, kind="bert"):
    key = "input_ids" if kind == "bert" else "pixel_values"
    batch = torch.stack([one[key] for one in samples(kind, 6)])
    if kind == "bert":
        batch = batch.clamp(min=1)
    return model.eval()(**{key: batch}).logits.double().numpy()


def probabilities_of(model, kind="bert"):
    return softmax(logits_of(model, kind), axis=1)


def bayes(probabilities, ratio):
    products = probabilities * ratio
    return products / products.sum(axis=1, keepdims=True)


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["vit", "bert", "timm"])
def test_the_plain_softmax_follows_bayes_and_all_is_undone_bit_for_bit(kind):
    model = build(kind).eval()
    before, state = probabilities_of(model, kind), state_of(model)
    assert adjust_prior(model, SOURCE, TARGET) is model
    np.testing.assert_allclose(probabilities_of(model, kind), bayes(before, TARGET / SOURCE), atol=1e-6)
    record = model.config.calibration
    assert (record["method"], record["folded"]) == ("prior", True)
    assert record["source"] == pytest.approx(SOURCE) and record["target"] == pytest.approx(TARGET)
    hf_focal.unfold_calibrator(model, only_last=True)
    assert same(model, state) and getattr(model.config, "calibration", None) is None


def test_half_precision_rounds_and_is_undone():
    model = build("bert").eval().to(torch.bfloat16)
    before, state = probabilities_of(model), state_of(model)
    hf_focal.fold_temperature(model, 0.7)
    adjust_prior(model, torch.tensor(SOURCE, dtype=torch.bfloat16), TARGET)
    expected = bayes(softmax(np.log(before) / 0.7, axis=1), TARGET / SOURCE)
    np.testing.assert_allclose(probabilities_of(model), expected, atol=0.02)
    hf_focal.unfold_calibrator(model)
    assert same(model, state)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("name", CALIBRATORS)
def test_a_prior_comes_on_top_of_a_calibrator(name, fold):
    model = build("bert").eval()
    logits, state = logits_of(model), state_of(model)
    calibrated = CALIBRATORS[name].probabilities(logits)
    hf_focal.fold_calibrator(model, CALIBRATORS[name], record={"split": "validation", "loss": "focal"})
    folded = state_of(model)
    adjust_prior(model, 1000 * SOURCE, TARGET, fold=fold)
    record, expected = model.config.calibration, bayes(calibrated, TARGET / SOURCE)
    assert [record["method"], *(one["method"] for one in record["then"])] == [name, "prior"]
    assert (record["folded"], record["split"], record["loss"]) == (fold, "validation", "focal")
    assert same(model, state) is not fold
    given = probabilities_of(model) if fold else probabilities_of(hf_focal.apply_temperature(model))
    np.testing.assert_allclose(given, expected, atol=1e-5)
    hf_focal.unfold_calibrator(model, only_last=True)
    assert same(model, folded if fold else state)
    given = probabilities_of(model)
    np.testing.assert_allclose(given, calibrated, atol=1e-5)
    assert "then" not in model.config.calibration
    if fold:
        hf_focal.unfold_calibrator(model)
        assert same(model, state)


def test_what_is_unfolded_stays_so():
    model = build("bert").eval()
    before, state = probabilities_of(model), state_of(model)
    model.config.calibration = {"method": "focal", "temperature": 1.5, "gamma": 3.0, "folded": False}
    calibrated = hf_focal.calibrator_of(model.config.calibration).probabilities(np.log(before))
    adjust_prior(model, SOURCE, TARGET)
    assert same(model, state) and model.config.calibration["folded"] is False
    hf_focal.apply_temperature(model)
    np.testing.assert_allclose(probabilities_of(model), bayes(calibrated, TARGET / SOURCE), atol=1e-5)


def test_heads_without_a_bias_keep_a_prior_in_the_config(tmp_path):
    model = gpt2()
    before, state = probabilities_of(model), state_of(model)
    with pytest.raises(UnfoldableError, match=r"prior into GPT2.*has no bias.*fold=False"):
        adjust_prior(model, SOURCE, TARGET)
    assert same(model, state) and getattr(model.config, "calibration", None) is None
    hf_focal.fold_temperature(model, 2.0)
    record, folded = copy.deepcopy(model.config.calibration), state_of(model)
    with pytest.raises(UnfoldableError, match="has no bias"):
        adjust_prior(model, SOURCE, TARGET)
    assert same(model, folded) and model.config.calibration == record
    adjust_prior(model, SOURCE, TARGET, fold=False)
    model.save_pretrained(tmp_path)
    again = hf_focal.from_pretrained(tmp_path)
    expected = bayes(softmax(np.log(before) / 2, axis=1), TARGET / SOURCE)
    np.testing.assert_allclose(probabilities_of(again), expected, atol=1e-5)


def test_a_stock_pipeline_gives_the_adjusted_probabilities(tmp_path):
    model = build("vit").eval()
    model.config.id2label = dict(enumerate(["ant", "bee", "cat", "dog", "elk"]))
    hf_focal.fold_temperature(model, 0.5)
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    ends = []
    for name in ("before", "after"):
        if name == "after":
            adjust_prior(model, SOURCE, {"bee": 1, "ant": 8, "cat": 5, "elk": 4, "dog": 2})
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        pipe = stock_pipeline("image-classification", model=str(tmp_path / name))
        ends.append({one["label"]: one["score"] for one in pipe(image, top_k=5)})
    before, after = (np.array([[end[one] for one in sorted(end)]]) for end in ends)
    np.testing.assert_allclose(after, bayes(before, TARGET / SOURCE), atol=1e-5)
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "after")
    hf_focal.unfold_calibrator(again, only_last=True)
    stored = AutoModelForImageClassification.from_pretrained(tmp_path / "before")
    assert same(again, state_of(stored))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_the_head_of_an_adapter_takes_a_prior(tmp_path):
    model = lora()
    before, state = probabilities_of(model), state_of(model)
    adjust_prior(model, SOURCE, TARGET)
    np.testing.assert_allclose(probabilities_of(model), bayes(before, TARGET / SOURCE), atol=1e-6)
    with model.disable_adapter():
        base = probabilities_of(model)
    hf_focal.unfold_calibrator(model, only_last=True)
    assert same(model, state)
    with model.disable_adapter():
        np.testing.assert_array_equal(probabilities_of(model), base)


def test_a_second_prior_starts_from_the_first():
    model = build("bert").eval()
    before, third = probabilities_of(model), np.array([1, 1, 1, 1, 6]) / 10
    adjust_prior(model, SOURCE, TARGET)
    state, record = state_of(model), copy.deepcopy(model.config.calibration)
    with pytest.raises(ValueError, match=r"already.*0.4, 0.05.*got 0.1, 0.3.*only_last=True"):
        adjust_prior(model, SOURCE, third)  # as if it had not been adjusted
    assert same(model, state) and model.config.calibration == record
    rounded = [0.402, 0.05, 0.248, 0.1, 0.2]
    adjust_prior(model, rounded, third)
    expected = bayes(before, third / SOURCE * TARGET / rounded)
    np.testing.assert_allclose(probabilities_of(model), expected, atol=1e-6)
    adjust_prior(model, third, SOURCE)
    np.testing.assert_allclose(probabilities_of(model), bayes(before, TARGET / rounded), atol=1e-6)


def test_masked_classes_need_no_frequency():
    model = build("bert").eval()
    before = probabilities_of(model)
    hf_focal.mask_classes(model, [1])
    adjust_prior(model, [1, 0, 1, 1, 1], [1, 0, 1, 1, 3])
    expected = bayes(before, np.array([1, 0, 1, 1, 3]))
    np.testing.assert_allclose(probabilities_of(model), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (SOURCE[:4], TARGET, r"source must hold one number for each of the 5 classes, got shape \(4,\)"),
        (SOURCE, [1, 2, 3, 4, 0], r"target must be positive for every class, got 0 for 4 \('LABEL_4'\)"),
        (SOURCE, {"LABEL_0": 1}, "target must name all of the 5 classes, got none for LABEL_1, LABEL_2"),
        (SOURCE, {"Label_0": 1}, "target names 'Label_0'.*Did you mean 'LABEL_0'"),
        ([float("nan")] * 5, TARGET, "source must be positive"),
    ],
)
def test_what_are_no_frequencies_leaves_the_model_alone(source, target, message):
    model = build("bert").eval()
    state = state_of(model)
    with pytest.raises(ValueError, match=message):
        adjust_prior(model, source, target)
    assert same(model, state) and getattr(model.config, "calibration", None) is None


def test_models_of_many_labels_are_refused():
    model = build("bert")
    model.config.problem_type = "multi_label_classification"
    for function in (adjust_prior, undo_class_weights):
        with pytest.raises(ValueError, match="one label per sample"):
            function(model, SOURCE, *[TARGET] * (function is adjust_prior))


# Class weights.


@pytest.mark.parametrize(
    "weights", [WEIGHTS, {f"LABEL_{k}": one for k, one in enumerate(WEIGHTS)}], ids=["list", "dict"]
)
def test_class_weights_are_undone_in_the_head(weights):
    model = build("bert").eval()
    before, state = probabilities_of(model), state_of(model)
    assert undo_class_weights(model, weights) is model
    np.testing.assert_allclose(probabilities_of(model), bayes(before, 1 / WEIGHTS), atol=1e-6)
    with pytest.raises(ValueError, match="undone already"):
        undo_class_weights(model, weights)
    hf_focal.unfold_calibrator(model, only_last=True)
    assert same(model, state)


@pytest.mark.parametrize("weights_first", [True, False])
def test_priors_and_class_weights_come_in_any_order(weights_first):
    model = build("bert").eval()
    before, state = probabilities_of(model), state_of(model)
    for weights in (weights_first, not weights_first):
        undo_class_weights(model, WEIGHTS) if weights else adjust_prior(model, SOURCE, TARGET)
    np.testing.assert_allclose(probabilities_of(model), bayes(before, TARGET / SOURCE / WEIGHTS), atol=1e-6)
    hf_focal.unfold_calibrator(model)
    assert same(model, state)


@pytest.mark.parametrize("loss", ["focal", "flsd-53", "mmce", "label_smoothing", "dual_focal", 3])
def test_weights_of_other_losses_are_refused(loss):
    model = build("bert").eval()
    hf_focal.fold_temperature(model, 1.0, record={"loss": loss})
    state, record = state_of(model), copy.deepcopy(model.config.calibration)
    with pytest.raises(ValueError, match=f"trained by {loss!r}.*'vector' or 'bias'"):
        undo_class_weights(model, WEIGHTS)
    assert same(model, state) and model.config.calibration == record


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("name", CALIBRATORS)
def test_weights_of_a_calibrated_model_are_refused(name, folded):
    model = build("bert").eval()
    hf_focal.fold_calibrator(model, CALIBRATORS[name], record={"loss": "cross_entropy"})
    if not folded:
        hf_focal.unfold_calibrator(model)
    state, record = state_of(model), copy.deepcopy(model.config.calibration)
    with pytest.raises(ValueError, match="calibrated already.*only_last=True"):
        undo_class_weights(model, WEIGHTS)
    assert same(model, state) and model.config.calibration == record
    hf_focal.unfold_calibrator(model, only_last=True)  # as it says
    undo_class_weights(model, WEIGHTS)


@pytest.mark.parametrize("loss", ["cross_entropy", "custom", None])
def test_weights_are_undone_where_the_calibrator_changed_nothing(loss):
    model = build("bert").eval()
    before = probabilities_of(model)
    hf_focal.fold_temperature(model, 1.0, record={"loss": loss} if loss else None)
    undo_class_weights(model, WEIGHTS)
    np.testing.assert_allclose(probabilities_of(model), bayes(before, 1 / WEIGHTS), atol=1e-6)


def test_zero_weights_are_refused():
    with pytest.raises(ValueError, match="weights must be positive for every class, got 0 for 2"):
        undo_class_weights(build("bert"), [1, 1, 0, 1, 1])


def test_a_text_model_is_read_again_with_its_chain(tmp_path):
    model = build("bert").eval()
    hf_focal.fold_calibrator(model, CALIBRATORS["vector"])
    adjust_prior(model, SOURCE, TARGET)
    expected = probabilities_of(model)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    np.testing.assert_array_equal(probabilities_of(again), expected)
    np.testing.assert_array_equal(probabilities_of(hf_focal.from_pretrained(tmp_path)), expected)
