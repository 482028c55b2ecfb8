# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Training of sigmoid heads, of several labels and of a single logit, up to their predictions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from process_runs import several_labels
from small_models import arguments, build, data, flat
from transformers import Trainer, TrainingArguments

import hf_focal
from hf_focal import CalibrationTrainer, KeepBestCallback, Predictions


UNKNOWN = -100.0


def sigmoid_model(num_labels=5, dtype=torch.float64):
    model = build("bert").to(dtype)
    model.classifier = torch.nn.Linear(32, num_labels, dtype=dtype)
    torch.nn.init.normal_(model.classifier.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(model.classifier.bias)
    model.config.num_labels = num_labels
    model.num_labels = num_labels
    if num_labels > 1:
        model.config.problem_type = "multi_label_classification"
    return model


def measured(prediction):
    return {"known": float(np.isin(prediction.label_ids, (0, 1)).mean()), "nll": 0.1}


def trainer(folder, model, train=None, evaluate=None, **options):
    args = arguments(folder, **{"optim": "sgd", "learning_rate": 0.1, **options})
    return CalibrationTrainer(
        model=model, args=args, train_dataset=train, eval_dataset=evaluate, compute_metrics=measured
    )


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_a_step_is_that_of_the_mean_over_all_known_outputs(tmp_path, loss):
    samples = several_labels(data("bert", 12))
    made = trainer(
        tmp_path, sigmoid_model(), samples, loss=loss, per_device_train_batch_size=12, max_steps=1, max_grad_norm=0,
        lr_scheduler_type="constant", warmup_steps=0,
    )  # fmt: skip
    model = sigmoid_model()
    made.train()
    logits = model(torch.stack([row["input_ids"] for row in samples])).logits
    labels = torch.tensor([row["labels"] for row in samples], dtype=torch.float64)
    known = ~(labels.isnan() | (labels == UNKNOWN))
    target = torch.where(known, labels, 0.0)
    nll = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if loss == "focal":
        nll = nll * (1 - torch.exp(-nll)) ** 3
    mean = nll[known].mean()
    mean.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    torch.testing.assert_close(flat(made.model), flat(model), rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", ["focal", "label_smoothing", "adafocal"])
def test_micro_batches_give_the_weights_of_whole_ones(tmp_path, loss):
    def weights(batch, steps):
        samples = several_labels(data("bert", 16))
        more = {"eval_strategy": "epoch"} if loss == "adafocal" else {}
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps, "loss": loss, **more}
        made = trainer(tmp_path, sigmoid_model(), samples, several_labels(data("bert", 9, seed=1)), **options)
        made.train()
        return flat(made.model)

    torch.testing.assert_close(weights(8, 1), weights(2, 4), rtol=0, atol=1e-12)


def test_predictions_are_logits_and_labels_of_each_output(tmp_path):
    samples = several_labels(data("bert", 11))
    samples[4]["labels"] = [UNKNOWN] * 5  # counts for nothing
    made = trainer(tmp_path, sigmoid_model(), evaluate=samples, loss="focal", per_device_eval_batch_size=3)
    labels = np.nan_to_num([row["labels"] for row in samples if row is not samples[4]], nan=UNKNOWN)
    with torch.no_grad():
        inputs = torch.stack([row["input_ids"] for row in samples if row is not samples[4]])
        logits = made.model(inputs).logits.numpy()
    for seen in (made.predictions_of(samples), made.flatten(made.predict(samples))):
        assert seen.is_sigmoid and seen.groups is None and len(seen) == 10
        np.testing.assert_allclose(seen.logits, logits, rtol=0, atol=1e-12)
        assert np.array_equal(seen.labels, labels)
    assert made.evaluate()["eval_known"] == pytest.approx((labels != UNKNOWN).sum() / 55)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_single_logit_learns_yes_and_no(tmp_path, shape):
    samples = data("bert", 64)
    for row in samples:
        row["labels"] = np.full(shape, float(row["input_ids"][0] >= 20)).tolist()
    made = trainer(
        tmp_path, sigmoid_model(1, torch.float32), samples, samples, loss="focal", optim="adamw_torch",
        num_train_epochs=8, learning_rate=5e-3, eval_strategy="epoch",
    )  # fmt: skip
    assert made.model.config.problem_type == "multi_label_classification"
    made.train()
    seen = made.predictions_of(samples)
    assert seen.logits.shape == seen.labels.shape == (64, 1)
    assert ((seen.logits > 0) == seen.labels).mean() > 0.9


def test_a_plain_trainer_takes_the_same_labels_with_the_loss_and_with_its_own(tmp_path):
    samples = several_labels(data("bert", 8))
    for row in samples:
        row["labels"] = [float(value == 1) for value in row["labels"]]
    plain = {"report_to": "none", "use_cpu": True, "max_steps": 1, "disable_tqdm": True, "save_strategy": "no"}
    weights = []
    for loss in (hf_focal.CrossEntropyLoss(), None):
        args = TrainingArguments(str(tmp_path), per_device_train_batch_size=8, optim="sgd", **plain)
        made = Trainer(model=sigmoid_model(), args=args, train_dataset=samples, compute_loss_func=loss)
        made.train()
        weights.append(flat(made.model))
    torch.testing.assert_close(*weights, rtol=0, atol=1e-12)


def test_class_weights_are_those_of_the_labels(tmp_path):
    samples = several_labels(data("bert", 8))
    made = trainer(
        tmp_path, sigmoid_model(), samples, loss="cross_entropy", max_steps=1,
        loss_kwargs={"class_weights": [0.0, 0.0, 0.0, 0.0, 2.0]},
    )  # fmt: skip
    before = made.model.classifier.weight.detach().clone()
    made.train()
    moved = (made.model.classifier.weight.detach() != before).any(dim=1).tolist()
    assert moved == [False, False, False, False, True]
    made = trainer(tmp_path, sigmoid_model(), samples, loss="focal", loss_kwargs={"class_weights": [1.0, 2.0]})
    with pytest.raises(ValueError, match="one number for each of the 5 labels"):
        made.train()


def test_what_is_of_a_softmax_is_refused_with_its_reason(tmp_path):
    samples = several_labels(data("bert", 8))
    with pytest.raises(ValueError, match="Masked classes need one label per sample, of a softmax"):
        trainer(tmp_path, sigmoid_model(), samples, samples, loss="focal", masked_classes=["LABEL_0"])
    model = build("bert")
    model.config.problem_type = "regression"
    with pytest.raises(ValueError, match="A regression has no probabilities to calibrate"):
        trainer(tmp_path, model, samples, loss="focal")


def test_labels_of_the_other_kind_are_refused(tmp_path):
    made = trainer(tmp_path, sigmoid_model(), data("bert", 8), loss="focal")
    with pytest.raises(ValueError, match="one a sample, and the model gives each of its 5 outputs"):
        made.train()
    made = trainer(tmp_path, build("bert"), [{**row, "labels": [1.0, 0.0]} for row in data("bert", 8)], loss="focal")
    with pytest.raises(ValueError, match=r"labels must .*shape"):
        made.train()
    several = trainer(tmp_path, build("bert"), several_labels(data("bert", 8)), loss="focal")
    with pytest.raises(ValueError, match="say of each of the 5 outputs .* one softmax over them"):
        several.train()
    several.loss_name = "custom"  # whose labels are its own; what is measured is not
    with pytest.raises(ValueError, match="say of each of the 5 outputs"):
        several.predictions_of(several_labels(data("bert", 8)))


def test_the_best_models_are_kept_by_what_an_evaluation_gives(tmp_path):
    samples = several_labels(data("bert", 16))
    made = trainer(tmp_path, sigmoid_model(), samples, samples, loss="focal", eval_strategy="epoch")
    best = KeepBestCallback(made, ["nll"])
    made.add_callback(best)
    made.train()
    assert best.best["nll"]["epoch"] == 1.0
    best.restore("nll")
    assert isinstance(made.predictions_of(samples), Predictions)
