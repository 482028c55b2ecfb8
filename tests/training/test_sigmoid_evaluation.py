# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What is measured of sigmoid heads while they train, and what a run of them leaves."""

import json

import numpy as np
import pytest
import torch
from scipy.special import expit
from transformers import BertConfig, BertForSequenceClassification

from hf_focal import (
    CalibrationTrainer,
    CalibrationTrainingArguments,
    KeepBestCallback,
    TrainingDynamicsCallback,
    calibration_metrics,
    finish_run,
    load_predictions,
    read_dynamics,
    stopping_table,
)


def build(labels, seed=0):
    torch.manual_seed(seed)
    names = {number: f"label {number}" for number in range(labels)}
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=8, problem_type="multi_label_classification", id2label=names,
            label2id={name: number for number, name in names.items()},
        )
    )  # fmt: skip


def rows(count, labels, seed):
    generator = np.random.default_rng(seed)
    words = generator.integers(5, 40, (count, 6))
    told = [((words % (labels + 2)) == number).any(axis=1) for number in range(labels)]
    truth = np.stack(told, axis=1) & (generator.random((count, labels)) < 0.8)
    return [
        {"input_ids": ids.tolist(), "attention_mask": [1] * 6, "labels": row.astype(float).tolist()}
        for ids, row in zip(words, truth, strict=True)
    ]


def cross_entropy(outputs, labels, num_items_in_batch=None):
    logits = outputs["logits"]
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.float().reshape(logits.shape))


def trainer_of(folder, labels, **options):
    args = CalibrationTrainingArguments(
        str(folder), num_train_epochs=1, report_to="none", eval_strategy="epoch", save_strategy="no", use_cpu=True,
        per_device_train_batch_size=32, per_device_eval_batch_size=64, learning_rate=5e-3, disable_tqdm=True,
        remove_unused_columns=False, calibrator="temperature", **options,
    )  # fmt: skip
    data = {"train_dataset": rows(128, labels, 1), "eval_dataset": rows(200, labels, 2)}
    return CalibrationTrainer(model=build(labels), args=args, compute_loss_func=cross_entropy, **data)


@pytest.mark.parametrize(("labels", "batches"), [(3, False), (3, True), (1, False)])
def test_a_run_is_measured_from_training_to_the_card(labels, batches, tmp_path):
    trainer, test = trainer_of(tmp_path, labels, batch_eval_metrics=batches), rows(200, labels, 3)
    best = KeepBestCallback(trainer, ["ece", "f1_macro"] + ([] if batches else ["refinement"]))
    trainer.add_callback(best)
    trainer.add_callback(TrainingDynamicsCallback(trainer, {"test": test}))
    trainer.train()
    (logged,) = [entry for entry in trainer.state.log_history if "eval_f1_macro" in entry]
    assert {"eval_ece", "eval_adaptive_ece", "eval_nll", "eval_brier", "eval_f1_micro"} <= {*logged}
    table = stopping_table(best.compare(trainer.eval_dataset, test))
    assert "f1_macro" in table and table.count("\n") == len(best.criteria) + 1
    predictions = trainer.predictions_of(test)
    assert predictions.logits.shape == predictions.labels.shape == (200, labels)
    expected = calibration_metrics(expit(predictions.logits.astype(np.float64)), predictions.labels)
    ((*_, last),) = read_dynamics([tmp_path]).values()
    for key, name in (("nll", "nll"), ("ece", "ece")):
        assert last[key] == pytest.approx(expected[name], abs=1e-6)
    assert last["error"] == pytest.approx(1 - expected["accuracy"]) and last["n_samples"] == 200
    report = finish_run(trainer, trainer.eval_dataset, test, dataset_name="words", task="text-classification")
    assert [label.name for label in report.labels] == [f"label {number}" for number in range(labels)]
    assert report.before == pytest.approx(expected, abs=1e-6)
    found = trainer.evaluate(test, metric_key_prefix="again")
    assert found["again_nll"] == pytest.approx(report.after["nll"], abs=1e-4)  # it is in the weights
    entries = json.loads((tmp_path / "all_results.json").read_text())
    assert entries["test_after_f1_macro"] == report.after["f1_macro"] and len(entries["labels"]) == labels
    assert (tmp_path / "metrics_by_label.csv").is_file() == (labels > 1)
    assert load_predictions(tmp_path / "predictions.safetensors")[0]["test"].labels.shape == (200, labels)
    assert "sigmoid" in (tmp_path / "README.md").read_text()


def test_a_metric_that_no_evaluation_gives_is_refused_by_the_head(tmp_path):
    trainer = trainer_of(tmp_path, 3, metric_for_best_model="mce")
    with pytest.raises(ValueError, match="nothing that the evaluations"):
        trainer.train()
    trainer_of(tmp_path, 3, metric_for_best_model="f1_micro")._check_best_metric()
