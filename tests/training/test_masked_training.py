# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Classes that train but never count: what a trainer measures, fits, keeps and saves where some are masked."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from peft import LoraConfig, get_peft_model
from small_models import arguments, build, samples
from transformers import BertForSequenceClassification

import hf_focal
from hf_focal import (
    LOSSES,
    CalibrationTrainer,
    KeepBestCallback,
    TrainingDynamicsCallback,
    calibration_metrics_from_logits,
    finish_run,
    fit_temperature,
    from_pretrained,
    load_predictions,
    mask_classes,
    read_dynamics,
)
from hf_focal.cli.arguments import RunArguments, TrainDataArguments


MASKED, LEFT = [1, 3], [0, 2, 4]
TRAIN = samples("bert", 48)
VALIDATION = [row for row in samples("bert", 120, seed=1) if row["labels"] in LEFT]
LABELS = np.array([row["labels"] for row in VALIDATION])


def trainer_of(folder, model=None, callbacks=None, **kwargs):
    kwargs = {"loss": "cross_entropy", "masked_classes": ["LABEL_1", "3"], "temperature_criterion": "ece", **kwargs}
    return CalibrationTrainer(
        model=build("bert") if model is None else model, args=arguments(folder, **kwargs), train_dataset=TRAIN,
        eval_dataset=VALIDATION, callbacks=callbacks,
    )  # fmt: skip


@torch.no_grad()
def plain_logits(model, rows=VALIDATION):
    """Of all classes: the forward of the weights, without any hook."""
    return model.eval().forward(input_ids=torch.stack([row["input_ids"] for row in rows])).logits.double().numpy()


def of_those_left(logits, labels=LABELS, **scaling):
    labels = np.searchsorted(LEFT, labels)
    found = calibration_metrics_from_logits(logits[:, LEFT], labels, **scaling)
    return {key: value * (3 / 5 if key == "classwise_ece" else 1) for key, value in found.items()}


def evaluated(metrics, prefix="eval_"):
    return {key: metrics[prefix + key] for key in hf_focal.METRICS}


def test_training_sees_every_class_and_evaluation_those_that_are_left(tmp_path):
    """The weights are those of a run without masks, every number that of the logits that are left."""
    masked, plain = trainer_of(tmp_path / "a"), trainer_of(tmp_path / "b", masked_classes=None)
    for trainer in (masked, plain):
        trainer.train()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(masked.model.state_dict()[name], value)
    logits = plain_logits(masked.model)
    expected = of_those_left(logits)
    metrics = masked.evaluate()
    assert evaluated(metrics) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert metrics["eval_loss"] == pytest.approx(expected["nll"], rel=1e-4)
    found = masked.predict(VALIDATION).predictions
    assert (found[:, MASKED] == -math.inf).all()
    np.testing.assert_allclose(found[:, LEFT], logits[:, LEFT], atol=1e-5)
    assert plain.evaluate()["eval_nll"] > metrics["eval_nll"]


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_an_evaluation_is_finite_for_every_loss(tmp_path, name):
    trainer = trainer_of(tmp_path, loss=name, eval_strategy="epoch")
    trainer.train()
    losses = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert len(losses) == 1 and math.isfinite(losses[0])


def test_an_evaluation_that_holds_no_logits_masks_as_well(tmp_path):
    trainer = trainer_of(tmp_path, batch_eval_metrics=True)
    found, expected = evaluated(trainer.evaluate()), of_those_left(plain_logits(trainer.model))
    assert {**found, "adaptive_ece": 0} == pytest.approx({**expected, "adaptive_ece": 0}, rel=1e-4, abs=1e-6)


def test_the_temperature_is_that_of_the_classes_that_are_left_and_the_folder_says_so(tmp_path):
    model, rows = build("bert"), samples("bert", 300, seed=2)
    with torch.no_grad():
        model.classifier.weight *= 100
    logits = plain_logits(model, rows)
    chances = logits[:, LEFT] / 2 + np.random.default_rng(0).gumbel(size=(300, 3))  # over-confident by a factor of 2
    labels = np.array(LEFT)[chances.argmax(axis=1)]
    rows = [{**row, "labels": int(label)} for row, label in zip(rows, labels, strict=True)]
    trainer = trainer_of(tmp_path, model=model)
    expected = fit_temperature(logits[:, LEFT], np.searchsorted(LEFT, labels), "ece")
    report = finish_run(trainer, rows, rows, dataset_name="noise", task="text-classification")
    assert report.fit.temperature == expected.temperature > 1.3
    assert report.before == pytest.approx(of_those_left(logits, labels), rel=1e-4, abs=1e-6)
    scaled = of_those_left(logits, labels, temperature=expected.temperature)
    assert report.after == pytest.approx(scaled, rel=1e-4, abs=1e-6)
    folded = {key: value for key, value in evaluated(trainer.evaluate(rows)).items() if key != "adaptive_ece"}
    assert folded == pytest.approx({key: report.after[key] for key in folded}, rel=1e-3, abs=1e-5)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["masked_classes"] == ["LABEL_1", "LABEL_3"] and config["calibration"]["folded"]
    parts, _ = load_predictions(tmp_path / "predictions.safetensors")
    np.testing.assert_allclose(parts["test"].logits[:, LEFT], logits[:, LEFT], atol=1e-5)
    assert (parts["test"].logits[:, MASKED] == -math.inf).all()
    card = (tmp_path / "README.md").read_text()
    assert "never answers `LABEL_1`, `LABEL_3`" in card and "from hf_focal import pipeline  # masks" in card
    loaded = from_pretrained(tmp_path)
    with torch.no_grad():
        found = torch.softmax(loaded(torch.stack([row["input_ids"] for row in rows])).logits, -1).numpy()
    np.testing.assert_allclose(found[:, LEFT], report.fit.probabilities(logits[:, LEFT]), atol=1e-5)
    # Trained further, and calibrated anew, it keeps them without being told again.
    again = trainer_of(tmp_path / "again", model=loaded, masked_classes=None, temperature_criterion="nll")
    again.train()
    assert evaluated(again.evaluate()) == pytest.approx(of_those_left(plain_logits(again.model)), rel=1e-4, abs=1e-6)
    again.calibrate(rows)
    assert again.model.config.masked_classes == ["LABEL_1", "LABEL_3"]


def test_the_best_models_are_chosen_and_compared_without_the_masked_classes(tmp_path):
    each_epoch = {"eval_strategy": "epoch", "save_strategy": "epoch", "temperature_criterion": "nll"}
    trainer = trainer_of(tmp_path, num_train_epochs=3, **each_epoch)
    best = KeepBestCallback(trainer, ["nll"])
    trainer.add_callback(best)
    trainer.train()
    weights = hf_focal.from_pretrained(tmp_path / "best-nll")
    assert best.best["nll"]["value"] == pytest.approx(of_those_left(plain_logits(weights))["nll"], rel=1e-4)
    with pytest.warns(UserWarning, match=f"fitted on {len(VALIDATION)} samples"):
        found = best.compare(VALIDATION, VALIDATION)["last"]
    expected = of_those_left(plain_logits(trainer.model))
    assert found["test_before_nll"] == pytest.approx(expected["nll"], rel=1e-4)
    # A checkpoint is gone on from with its masks.
    step = min(tmp_path.glob("checkpoint-*"))
    assert json.loads((step / "config.json").read_text())["masked_classes"] == ["LABEL_1", "LABEL_3"]
    resumed = trainer_of(tmp_path, num_train_epochs=3, **each_epoch)
    resumed.train(resume_from_checkpoint=str(step))
    assert resumed.evaluate()["eval_nll"] == pytest.approx(expected["nll"], rel=1e-4)


def test_dynamics_are_of_the_classes_that_are_left_and_gradients_of_all(tmp_path):
    trainer = trainer_of(tmp_path)
    data = {"test": VALIDATION}
    trainer.add_callback(TrainingDynamicsCallback(trainer, data, gradient_epochs=[1]))
    trainer.train()
    row = read_dynamics([tmp_path])["cross_entropy"][-1]
    logits = plain_logits(trainer.model)
    assert row["nll"] == pytest.approx(of_those_left(logits)["nll"], rel=1e-4)
    slopes = torch.softmax(torch.tensor(logits), -1).numpy()
    slopes[np.arange(len(LABELS)), LABELS] -= 1
    features = trainer.model.dropout(trainer.model.bert(torch.stack([row["input_ids"] for row in VALIDATION]))[1])
    lengths = np.sqrt((features.detach().numpy() ** 2).sum(axis=1) + 1)
    np.testing.assert_allclose(row["gradient_norms"], np.linalg.norm(slopes, axis=1) * lengths, rtol=1e-4)


def test_an_adapter_carries_its_masks_beside_its_record_and_into_the_merged_model(tmp_path):
    build("bert").save_pretrained(tmp_path / "base")
    model: Any = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    lora = LoraConfig(task_type="SEQ_CLS", target_modules=["query"], modules_to_save=["classifier"])
    trainer = trainer_of(tmp_path / "adapter", model=get_peft_model(model, lora), temperature_criterion="nll")
    expected = evaluated(trainer.evaluate())
    with pytest.warns(UserWarning, match=f"fitted on {len(VALIDATION)} samples"):
        trainer.calibrate()
    trainer.save_model()
    loaded = from_pretrained(tmp_path / "adapter")
    inputs = torch.stack([row["input_ids"] for row in VALIDATION])
    with torch.no_grad():
        found = loaded(inputs).logits
    assert calibration_metrics_from_logits(found, LABELS) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert (found[:, MASKED] == -math.inf).all()
    trainer.model = trainer.model_wrapped = trainer.model.merge_and_unload()
    assert evaluated(trainer.evaluate()) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_labels_of_masked_classes_are_refused_with_their_number(tmp_path):
    count = sum(row["labels"] == 1 for row in TRAIN)
    message = f"{count} of 48 labels of the test data are 'LABEL_1', a class that is masked at evaluation"
    trainer = trainer_of(tmp_path)
    with pytest.raises(ValueError, match=message):
        trainer.evaluate(TRAIN)
    with pytest.raises(ValueError, match=message.replace("test", "validation")):
        trainer.calibrate(predictions=trainer._predict_without_metrics(TRAIN))  # noqa: SLF001
    trainer.add_callback(TrainingDynamicsCallback(trainer, {"train": TRAIN}))
    with pytest.raises(ValueError, match=message.replace("test", "train")):
        trainer.train()


def test_classes_that_the_model_does_not_have_are_refused_at_once(tmp_path):
    with pytest.raises(
        ValueError, match="names 'neutral', which is no class of the model; those are LABEL_0, LABEL_1"
    ):
        trainer_of(tmp_path, masked_classes=["neutral"])


def test_a_mask_set_after_the_trainer_was_made_holds_too(tmp_path):
    trainer = trainer_of(tmp_path, masked_classes=None)
    trainer.model.config.masked_classes = ["LABEL_1", 3]
    logits = plain_logits(trainer.model)
    assert evaluated(trainer.evaluate()) == pytest.approx(of_those_left(logits), rel=1e-4, abs=1e-6)
    assert mask_classes(trainer.model).config.masked_classes == ["LABEL_1", 3]


@pytest.mark.parametrize(("masked", "refused"), [(["c"], True), (["2"], False), (["other"], False), (None, False)])
def test_scripts_refuse_such_labels_before_training(tmp_path, masked, refused):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b", "c"])})
    rows = {"text": ["x", "y", "z", "x"], "label": [0, 1, 2, 2]}
    splits = {split: Dataset.from_dict(rows, features=features) for split in ("train", "validation", "test")}
    splits["test"] = splits["test"].select([0, 1])
    args = RunArguments(output_dir=str(tmp_path), masked_classes=masked)
    source = TrainDataArguments(dataset_name="here")
    if refused:
        with pytest.raises(ValueError, match="2 of 4 labels of the validation data are 'c', a class that is masked"):
            source.load(lambda *names, **options: dict(splits), args)
    else:
        assert len(source.load(lambda *names, **options: dict(splits), args)["validation"]) == 4
