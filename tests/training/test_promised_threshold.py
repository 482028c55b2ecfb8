# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""`target_accuracy`: the threshold in the record, the results, the report and the card, and when it is forgotten."""

import json

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest
from small_models import NUM_LABELS, arguments, build, data
from transformers import AutoModelForImageClassification
from transformers.trainer_utils import PredictionOutput

from hf_focal import (
    About,
    CalibrationTrainer,
    Predictions,
    adjust_prior,
    choose_threshold,
    create_model_card,
    finish_run,
    fold_temperature,
    unfold_temperature,
)


FACTS = {"dataset_name": "noise", "task": "image-classification"}


def drawn(seed, count=1500):
    """Over-confident logits, and labels of the classes."""
    generator = np.random.default_rng(seed)
    true = 4 * generator.normal(size=(count, NUM_LABELS))
    labels = (true + generator.gumbel(size=true.shape)).argmax(axis=1)
    return (2 * true).astype(np.float32), labels


def trainer_for(folder, **options):
    return CalibrationTrainer(model=build("vit"), args=arguments(folder, **options))


def calibrated(folder, seed=0, **options):
    trainer = trainer_for(folder, target_accuracy=0.95)
    logits, labels = drawn(seed)
    trainer.calibrate(data("vit", 2), predictions=PredictionOutput(logits, labels, None), **options)
    return trainer


@pytest.mark.parametrize("fold", [True, False])
def test_the_record_tells_the_threshold_of_the_probabilities_after_the_calibrator(tmp_path, fold):
    trainer = calibrated(tmp_path, fold=fold)
    logits, labels = drawn(0)
    record = trainer.model.config.calibration
    probabilities = softmax(logits.astype(np.float64) / record["temperature"], axis=1)
    threshold, kept = record["threshold"], probabilities.max(axis=1)
    assert threshold["confidence"] == pytest.approx(choose_threshold(probabilities, labels, accuracy=0.95), rel=1e-12)
    rows = kept >= threshold["confidence"] * (1 - 1e-12)
    right = probabilities.argmax(axis=1) == labels
    assert threshold["kept"] == rows.mean() < 1 and threshold["observed"] == right[rows].mean() > 0.95
    assert (threshold["accuracy"], threshold["level"], threshold["n_samples"]) == (0.95, 0.9, 1500)

    trainer.save_model(str(tmp_path))
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert again.config.calibration["threshold"] == threshold
    if fold:
        unfold_temperature(again)
        assert again.config.calibration["threshold"] == threshold
        fold_temperature(again, record["temperature"])
        assert again.config.calibration["threshold"] == threshold  # it is the same map
        unfold_temperature(again)
    fold_temperature(again, 3 * record["temperature"])
    assert "threshold" not in again.config.calibration  # it is another one


@pytest.mark.parametrize("fold", [True, False])
def test_what_is_put_on_top_drops_it(tmp_path, fold):
    model = calibrated(tmp_path, fold=fold).model
    adjust_prior(model, [0.2] * NUM_LABELS, [0.4, 0.3, 0.1, 0.1, 0.1])
    record = model.config.calibration
    assert record["then"] and "threshold" not in record  # the confidences are others


def test_calibrating_again_and_training_forget_it(tmp_path):
    trainer = calibrated(tmp_path)
    trainer.train_dataset = data("vit", 8)
    trainer.args.target_accuracy = None
    trainer.calibrate(data("vit", 240))
    assert "threshold" not in trainer.model.config.calibration
    trainer.args.target_accuracy = 0.05
    trainer.calibrate(data("vit", 240))
    assert trainer.model.config.calibration["threshold"]["accuracy"] == 0.05
    trainer.train()
    assert getattr(trainer.model.config, "calibration", None) is None


def test_the_report_measures_it_on_other_data_and_the_card_says_the_same(tmp_path):
    trainer = calibrated(tmp_path)
    logits, labels = drawn(1)
    report = trainer.report_on(Predictions(logits, labels, None, "test"))
    record = trainer.model.config.calibration
    probabilities = softmax(logits.astype(np.float64) / record["temperature"], axis=1)
    kept = probabilities.max(axis=1) >= record["threshold"]["confidence"]
    right = int((probabilities.argmax(axis=1) == labels)[kept].sum())
    assert (report.kept.count, report.kept.accuracy) == (kept.sum(), right / kept.sum())
    ends = binomtest(right, int(kept.sum())).proportion_ci(0.9, "exact")
    assert (report.kept.low, report.kept.high) == pytest.approx(tuple(ends), abs=1e-9)
    sentence = report.promised
    assert "are right at least 95% of the time, with 90% certainty; on test it keeps" in sentence
    assert sentence in " ".join(str(report).split("\n")[-1:])
    about = About("model", "image-classification", record)
    assert sentence in create_model_card(about, report).content
    alone = create_model_card(about).content  # without the test data
    assert sentence.split(";")[0] in alone and "on test" not in alone
    on_top = About("model", "image-classification", {**record, "then": [{"temperature": 2.0}]})
    assert "Which answers to keep" not in create_model_card(on_top).content  # another map
    hostile = {**record, "threshold": {**record["threshold"], "why": "[x](http://a)\n# b", "confidence": None}}
    card = create_model_card(About("model", "image-classification", hostile)).content
    assert "Which answers to keep" in card and "\n# b" not in card and "[x]" not in card
    for damaged in (0.9, [], {"confidence": "high"}, None):
        about = About("model", "image-classification", {**record, "threshold": damaged})
        assert "Which answers to keep" not in create_model_card(about).content


@pytest.mark.parametrize("target", [0.1, 0.9])
def test_a_run_writes_it_down_or_that_there_is_none(tmp_path, target):
    trainer = trainer_for(tmp_path, target_accuracy=target, report_to="none")
    report = finish_run(trainer, data("vit", 240, 1), data("vit", 30, 2), **FACTS)
    found = json.loads((tmp_path / "all_results.json").read_text())["threshold"]
    record = json.loads((tmp_path / "config.json").read_text())["calibration"]["threshold"]
    test = found.pop("test")
    assert found == record and found["accuracy"] == target
    card = (tmp_path / "README.md").read_text()
    assert report.promised in str(report) and report.promised in card
    if target == 0.1:  # a fifth is right by chance
        assert test["count"] <= 30 and test["accuracy"] * test["count"] == pytest.approx(
            round(test["accuracy"] * test["count"])
        )
    else:
        assert found["confidence"] is None is test and "No confidence is known from which on" in card


def test_sequences_are_promised_nothing(tmp_path):
    trainer = trainer_for(tmp_path, target_accuracy=0.9)
    logits, labels = drawn(0, 1200)
    output = PredictionOutput(logits.reshape(200, 6, NUM_LABELS), labels.reshape(200, 6), None)
    trainer.calibrate(data("vit", 2), predictions=output, fold=False)
    threshold = trainer.model.config.calibration["threshold"]
    assert threshold["confidence"] is None and "not right or wrong independently" in threshold["why"]


def test_without_the_argument_nothing_is_said(tmp_path):
    trainer = trainer_for(tmp_path)
    logits, labels = drawn(0)
    trainer.calibrate(data("vit", 2), predictions=PredictionOutput(logits, labels, None))
    assert "threshold" not in trainer.model.config.calibration
    report = trainer.report_on(Predictions(logits, labels))
    assert report.promise is None is report.kept and report.promised == ""


@pytest.mark.parametrize("target", [0.0, 1.0, 95.0, -0.5])
def test_a_target_that_is_no_accuracy_is_refused_before_anything_else(tmp_path, target):
    with pytest.raises(ValueError, match="target_accuracy must be a number between 0 and 1"):
        arguments(tmp_path, target_accuracy=target)
