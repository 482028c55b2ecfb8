# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""`CalibrationTrainer.calibrate` of heads whose labels each have a probability of their own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit
from small_models import NUM_LABELS, arguments, bert
from transformers import BertConfig, BertForSequenceClassification
from transformers.trainer_utils import PredictionOutput

from hf_focal import (
    About,
    CalibrationTrainer,
    Thresholds,
    calibrator_of,
    choose_thresholds,
    create_model_card,
    from_pretrained,
)
from hf_focal.models.record import calibration_record


MULTI_LABEL = "multi_label_classification"


def model_of(count):
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    kind = {} if count == 1 else {"problem_type": MULTI_LABEL}
    model = BertForSequenceClassification(BertConfig(vocab_size=40, num_labels=count, **small, **kind)).eval()
    torch.nn.init.normal_(model.classifier.weight)
    return model


def inputs(count=6):
    return torch.randint(0, 40, (count, 6), generator=torch.Generator().manual_seed(0))


def logits_of(model):
    with torch.no_grad():
        return model.eval()(input_ids=inputs()).logits.double().numpy()


def predictions(count, seed=0, samples=1500):
    generator = np.random.default_rng(seed)
    true = np.linspace(-3, 0, count) + 3 * generator.normal(size=(samples, count))
    labels = (generator.random(true.shape) < expit(true)).astype(np.float32)
    return PredictionOutput((2 * true + np.linspace(-1, 1, count)).astype(np.float32), labels, {})


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("count", [1, 4])
def test_calibrate_folds_records_and_saves(count, fold, tmp_path):
    model, data = model_of(count), predictions(count)
    before = logits_of(model)
    trainer = CalibrationTrainer(model, arguments(tmp_path, calibrator="platt", threshold_metric="f1"))
    assert model.config.problem_type == MULTI_LABEL
    fit = trainer.calibrate(predictions=data, fold=fold)
    assert fit.helped and fit.after["nll"] < fit.before["nll"]
    record = calibration_record(model)
    assert record["activation"] == "sigmoid" and record["folded"] is fold and record["n_samples"] == 1500
    expected = fit.probabilities(before)
    assert np.abs(calibrator_of(record).probabilities(before) - expected).max() < 1e-12
    chosen = choose_thresholds(fit.probabilities(data.predictions), data.label_ids)
    assert record["thresholds"]["values"] == chosen
    assert Thresholds.from_record(record["thresholds"]).n_samples == 1500
    trainer.save_model(str(tmp_path / "saved"))
    loaded = from_pretrained(tmp_path / "saved")
    assert np.abs(expit(logits_of(loaded)) - expected).max() < 1e-5
    assert loaded.config.calibration["thresholds"]["values"] == chosen
    assert loaded.config.sentence_transformers["activation_fn"] == "torch.nn.modules.activation.Sigmoid"


def test_a_target_precision_is_promised_in_the_record(tmp_path):
    model, data = model_of(3), predictions(3)
    trainer = CalibrationTrainer(model, arguments(tmp_path, calibrator="auto", target_precision=0.7))
    fit = trainer.calibrate(predictions=data)
    found = Thresholds.from_record(model.config.calibration["thresholds"])
    assert found.precision == 0.7 and found.level == 0.9
    assert list(found.values) == choose_thresholds(fit.probabilities(data.predictions), data.label_ids, precision=0.7)
    new = predictions(3, seed=1, samples=20_000)
    said = found.said(fit.probabilities(new.predictions))
    assert all(new.label_ids[said[:, i], i].mean() > 0.7 for i in range(3))


def test_none_and_temperature_are_of_sigmoids(tmp_path):
    for method in ("none", "temperature"):
        model = model_of(3)
        fit = CalibrationTrainer(model, arguments(tmp_path, calibrator=method)).calibrate(predictions=predictions(3))
        record = calibration_record(model)
        assert record["method"] == method and record["activation"] == "sigmoid" and fit.calibrator.is_sigmoid


def test_what_is_for_the_other_kind_of_head_is_refused(tmp_path):
    with pytest.raises(ValueError, match="target_accuracy is for models that give one answer.*target_precision"):
        CalibrationTrainer(model_of(3), arguments(tmp_path, target_accuracy=0.9))
    for given in ({"target_precision": 0.9}, {"threshold_metric": "f1"}):
        with pytest.raises(ValueError, match=f"{next(iter(given))} is for models of several labels.*target_accuracy"):
            CalibrationTrainer(bert(), arguments(tmp_path, **given))
    with pytest.raises(ValueError, match="one thing"):
        arguments(tmp_path, threshold_metric="f1", target_precision=0.9)
    with pytest.raises(ValueError, match="threshold_metric must be 'f1', got 'f2'"):
        arguments(tmp_path, threshold_metric="f2")
    with pytest.raises(ValueError, match="target_precision must be"):
        arguments(tmp_path, target_precision=90)
    trainer = CalibrationTrainer(model_of(3), arguments(tmp_path))
    with pytest.raises(ValueError, match="method='vector' is for one softmax"):
        trainer.calibrate(predictions=predictions(3), method="vector")
    classes = PredictionOutput(predictions(3).predictions, np.zeros(1500, int), {})
    with pytest.raises(ValueError, match=r"labels, of shape \(1500,\), are one a sample.*Give it 0 or 1 for each"):
        trainer.calibrate(predictions=classes)
    trainer = CalibrationTrainer(bert(), arguments(tmp_path))
    with pytest.raises(ValueError, match="say of each of the .* outputs whether it is right.*Give it class indices"):
        trainer.calibrate(predictions=predictions(NUM_LABELS))
    with pytest.raises(ValueError, match="method='platt' is for heads whose labels each"):
        trainer.calibrate(predictions=predictions(NUM_LABELS), method="platt")


def test_the_card_tells_from_where_on_to_say_each_label():
    record = {"method": "temperature", "temperature": 1.5, "activation": "sigmoid", "folded": True}
    thresholds = Thresholds("f1", (0.25, None), (0.6, None), (0.1, 0.0), 500)
    about = About(
        "emotions", "text-classification", {**record, "thresholds": thresholds.to_record()}, labels=["joy", "|a|"]
    )
    text = str(create_model_card(about, model_id="user/emotions"))
    assert "## When to say a label" in text and "from these probabilities on: joy 0.25." in text
    assert "No sample has a ." in text  # a name cannot break out of its line
    on_top = {**about.calibration, "then": [record]}
    assert "When to say" not in str(create_model_card(replace(about, calibration=on_top), model_id="user/emotions"))
