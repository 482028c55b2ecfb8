# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The best model by several criteria: which one is kept, and what is measured of it."""

import json
import shutil
import tempfile

import numpy as np
import pytest
import torch
from small_models import NUM_LABELS, arguments, build, data, flat
from transformers import Trainer, TrainerCallback, TrainingArguments, ViTForImageClassification

from hf_focal import (
    CalibrationTrainer,
    KeepBestCallback,
    calibration_metrics_from_logits,
    fit_temperature,
    noise_floor,
    spill,
    stopping_table,
)


CRITERIA = ["ece", "nll", "accuracy"]
EPOCHS = 6


def learnable(count, seed=0):
    """Noise, and a faint picture for each label."""
    pictures = torch.randn(NUM_LABELS, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    return [
        {"pixel_values": row["pixel_values"] + 0.25 * pictures[row["labels"]], "labels": row["labels"]}
        for row in data("vit", count, seed)
    ]


def keeper(folder, callback=None, **kwargs):
    """A network that soon overfits 40 samples, so that the criteria disagree."""
    args = {"num_train_epochs": EPOCHS, "eval_strategy": "epoch", "save_strategy": "epoch", "learning_rate": 5e-3}
    trainer = CalibrationTrainer(
        model=build("vit"), args=arguments(folder, loss="cross_entropy", **{**args, **kwargs}),
        train_dataset=learnable(40), eval_dataset=learnable(60, seed=1),
    )  # fmt: skip
    best = KeepBestCallback(trainer, CRITERIA)
    trainer.add_callback(best)
    if callback is not None:
        trainer.add_callback(callback)
    return trainer, best


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    trainer, best = keeper(folder)
    trainer.train()
    return folder, trainer, best


def best_files(folder):
    return {criterion: json.loads((folder / f"best-{criterion}" / "best.json").read_text()) for criterion in CRITERIA}


def logits_and_labels(model, rows):
    model.eval()
    with torch.no_grad():
        logits = model(torch.stack([row["pixel_values"] for row in rows])).logits.numpy()
    return logits, np.array([row["labels"] for row in rows])


def test_the_kept_model_is_the_one_with_the_best_value_in_the_history(kept):
    folder, trainer, best = kept
    history = [entry for entry in trainer.state.log_history if "eval_nll" in entry]
    assert len(history) == EPOCHS
    epochs = set()
    for criterion, found in best_files(folder).items():
        values = [entry[f"eval_{criterion}"] for entry in history]
        index = int(np.argmax(values) if criterion == "accuracy" else np.argmin(values))
        assert found == {"value": values[index], "epoch": index + 1, "step": history[index]["step"]}
        stored = ViTForImageClassification.from_pretrained(folder / f"best-{criterion}")
        logits, labels = logits_and_labels(stored, learnable(60, seed=1))
        assert calibration_metrics_from_logits(logits, labels)[criterion] == pytest.approx(found["value"], abs=1e-5)
        epochs.add(found["epoch"])
    assert len(epochs) > 1 and epochs != {EPOCHS}  # the criteria do differ here
    assert sorted(path.name for path in folder.glob("best-*")) == sorted(f"best-{name}" for name in CRITERIA)


def test_models_are_compared_each_at_its_own_temperature(kept, monkeypatch):
    folder, trainer, best = kept
    monkeypatch.setattr(trainer.args, "temperature_criterion", "ece")  # by NLL all stay 1 on these data
    before, validation, test = flat(trainer.model), learnable(240, seed=1), learnable(50, seed=2)
    compared = best.compare(validation, test)
    assert torch.equal(flat(trainer.model), before) and trainer.state.best_model_checkpoint is None
    assert list(compared) == ["last", *CRITERIA]
    models = {name: ViTForImageClassification.from_pretrained(folder / f"best-{name}") for name in CRITERIA}
    for name, model in {"last": trainer.model, **models}.items():
        temperature = fit_temperature(*logits_and_labels(model, validation), criterion="ece").temperature
        assert compared[name]["temperature"] == pytest.approx(temperature)
        for moment, value in (("before", 1.0), ("after", temperature)):
            metrics = calibration_metrics_from_logits(*logits_and_labels(model, test), 15, value)
            for key, expected in metrics.items():
                assert compared[name][f"test_{moment}_{key}"] == pytest.approx(expected, abs=1e-5)
            logits, _ = logits_and_labels(model, test)
            floor = noise_floor("ece", torch.tensor(logits, dtype=torch.float64).div(value).softmax(-1))
            assert compared[name][f"test_{moment}_ece_by_chance"] == pytest.approx(floor.high, abs=1e-4)
    lines = stopping_table(compared).splitlines()
    assert [line.split()[0] for line in lines] == ["best", "last", *CRITERIA]
    row = compared["nll"]
    assert lines[3].split()[1:4] == [
        f"{row['epoch']:g}", f"{row['temperature']:.3g}", f"{1 - row['test_before_accuracy']:.2%}"
    ]  # fmt: skip
    within = row["test_before_ece"] <= row["test_before_ece_by_chance"]
    assert f"  {row['test_before_ece']:.2%}{' (within noise)' * within}  " in lines[3]
    json.dumps(compared)


def test_what_does_not_fit_into_memory_is_compared_from_a_file(kept, monkeypatch):
    _, trainer, best = kept
    validation, test = learnable(240, seed=1), learnable(50, seed=2)
    expected, files, opened = best.compare(validation, test), [], tempfile.TemporaryFile
    monkeypatch.setattr(spill, "IN_MEMORY", 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: files.append(opened()) or files[-1])
    assert best.compare(validation, test) == expected and len(files) == 2 * len(expected)


def test_a_resumed_run_keeps_the_best(kept, tmp_path):
    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 18:  # in epoch 4 of 5 steps each
                raise KeyboardInterrupt

    trainer, _ = keeper(tmp_path, Interrupt())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer, best = keeper(tmp_path)
    trainer.train(resume_from_checkpoint=True)
    assert best.best == best_files(tmp_path) == best_files(kept[0])
    # A run that starts anew forgets what is there.
    trainer, best = keeper(tmp_path, num_train_epochs=1)
    trainer.train()
    assert {found["step"] for found in best_files(tmp_path).values()} == {5}
    trainer.evaluate(learnable(5))  # after training, of other data: of no account
    assert {found["step"] for found in best.best.values()} == {5}


def test_the_best_model_of_a_plain_trainer_is_restored_whatever_its_weights_are_called_in_files(tmp_path):
    """Those of ViT have other names there, which the Trainer's own loading passes over with a warning."""
    accuracies = iter([0.9, 0.5])
    args = arguments(tmp_path, cls=TrainingArguments, num_train_epochs=2, eval_strategy="epoch")
    trainer = Trainer(
        model=build("vit"), args=args, train_dataset=learnable(40), eval_dataset=learnable(10, seed=1),
        compute_metrics=lambda prediction: {"accuracy": next(accuracies)},
    )  # fmt: skip
    best = KeepBestCallback(trainer, ["accuracy"])
    trainer.add_callback(best)
    trainer.train()
    last, kept = flat(trainer.model), flat(ViTForImageClassification.from_pretrained(tmp_path / "best-accuracy"))
    best.restore("accuracy")
    assert torch.equal(flat(trainer.model), kept) and not torch.equal(kept, last)


def test_a_kept_adapter_is_restored(tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"])
    args = arguments(tmp_path, num_train_epochs=3, eval_strategy="epoch", loss="cross_entropy")
    trainer = CalibrationTrainer(
        model=peft.get_peft_model(build("bert"), config), args=args, train_dataset=data("bert", 24),
        eval_dataset=data("bert", 30, seed=1),
    )  # fmt: skip
    best = KeepBestCallback(trainer, ["ece"])
    trainer.add_callback(best)
    trainer.train()
    before = flat(trainer.model)
    best.restore("ece")
    assert trainer.evaluate()["eval_ece"] == pytest.approx(best.best["ece"]["value"], abs=1e-6)
    assert not torch.equal(flat(trainer.model), before) or best.best["ece"]["epoch"] == 3


def test_criteria_that_cannot_be_kept_are_refused(tmp_path):
    trainer, _ = keeper(tmp_path, eval_strategy="no")
    with pytest.raises(ValueError, match="eval_strategy"):
        trainer.train()
    for criteria in ([], ["loss"]):
        with pytest.raises(ValueError, match="criteria must be some of accuracy, nll"):
            KeepBestCallback(trainer, criteria)
    with pytest.raises(ValueError, match="No model was kept"):
        KeepBestCallback(trainer).compare(data("vit", 5), data("vit", 5))
    trainer, _ = keeper(tmp_path)
    trainer.compute_metrics = lambda prediction: {"accuracy": 0.5}
    with pytest.raises(ValueError, match="gives no eval_ece, but eval_loss"):
        trainer.train()


def test_a_criterion_without_a_number_is_never_the_best(tmp_path):
    values = iter([0.3, np.nan, 0.2, np.nan, 0.25, 0.2])
    trainer, _ = keeper(tmp_path)
    best = KeepBestCallback(trainer, ["ece"])
    trainer.pop_callback(KeepBestCallback)
    trainer.add_callback(best)
    trainer.compute_metrics = lambda prediction: {"ece": next(values)}
    trainer.train()
    assert best.best["ece"] == {"value": 0.2, "epoch": 3, "step": 15}
    values = iter([np.nan, 0.4] * 3)
    trainer.train()
    assert best.best["ece"] == {"value": 0.4, "epoch": 2, "step": 10}


def test_an_evaluation_under_another_name_is_of_no_account(tmp_path):
    class Peek(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kwargs):
            trainer.evaluate(learnable(5), metric_key_prefix="peek")

    trainer, best = keeper(tmp_path, Peek(), num_train_epochs=1)
    trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "eval_ece" in entry]
    assert best.best["ece"]["value"] == entry["eval_ece"]


def test_the_last_model_must_be_the_last_and_not_calibrated(tmp_path):
    trainer, _ = keeper(tmp_path, load_best_model_at_end=True)
    with pytest.raises(ValueError, match="load_best_model_at_end would replace the last model"):
        trainer.train()
    trainer, best = keeper(tmp_path, num_train_epochs=1)
    trainer.train()
    trainer.calibrate(learnable(240, seed=1))
    with pytest.raises(ValueError, match="Compare the models before calibrate"):
        best.compare(learnable(240, seed=1), learnable(10, seed=2))


def test_a_run_that_was_killed_while_it_replaced_a_model_goes_on_with_the_newer_one(tmp_path):
    trainer, _ = keeper(tmp_path, num_train_epochs=1)
    trainer.train()
    folder, newer = tmp_path / "best-ece", tmp_path / "best-ece.tmp"
    shutil.copytree(folder, newer)
    found = {"value": 0.0, "epoch": 1.0, "step": 5}
    (newer / "best.json").write_text(json.dumps(found))
    (folder / "model.safetensors").unlink()  # the older one was half removed
    shutil.copytree(tmp_path / "best-nll", tmp_path / "best-nll.tmp")
    (tmp_path / "best-nll.tmp" / "best.json").unlink()  # and this newer one not complete
    trainer, best = keeper(tmp_path, num_train_epochs=2)
    trainer.train(resume_from_checkpoint=True)
    assert best.best["ece"] == best_files(tmp_path)["ece"] == found
    assert (folder / "model.safetensors").is_file() and not newer.exists()
    assert best.best["nll"] == best_files(tmp_path)["nll"] and best.best["nll"]["step"] in (5, 10)
