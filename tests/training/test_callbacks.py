# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Callbacks with real trainers: what they measure, against plain definitions, and what they leave alone."""

import json
import random

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from launching import launch
from small_models import NUM_LABELS, arguments, build, data, flat
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForTokenClassification,
    DataCollatorForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

import hf_focal
from hf_focal import (
    LOSSES,
    BrierLoss,
    CalibrationTrainer,
    FocalLoss,
    TrainingDynamicsCallback,
    apply_temperature,
    create_loss,
    focal_gradient_ratio,
)
from hf_focal.results.dynamics_file import DYNAMICS
from hf_focal.tasks.text import train_tokenizer
from hf_focal.training.dynamics import gradient_norms


def cifar_network():
    torch.manual_seed(0)
    return hf_focal.create_image_classifier("cifar_resnet8", list("abcde"), from_scratch=True)[0]


def classifier(kind):
    return cifar_network() if kind == "cifar_resnet8" else build(kind)


SCRIPT = str(ROOT / "scripts" / "run_image.py")


def rows(folder, split="test"):
    return [row for row in pq.read_table(folder / DYNAMICS).to_pylist() if row["split"] == split]


def probabilities_of(logits, labels):
    return logits.softmax(-1)[torch.arange(len(labels)), labels]


# Each loss of one sample once more, from its definition.
DEFINITIONS = {
    "cross_entropy": lambda logits, label: F.cross_entropy(logits, label),
    "focal": lambda logits, label: (1 - logits.softmax(-1)[0, label]) ** 3 * F.cross_entropy(logits, label),
    "flsd-53": lambda logits, label: (
        (1 - logits.softmax(-1)[0, label]) ** (5 if logits.softmax(-1)[0, label] < 0.2 else 3)
        * F.cross_entropy(logits, label)
    ).sum(),
    "brier": lambda logits, label: (logits.softmax(-1) - F.one_hot(label, NUM_LABELS)).square().sum(),
}


@pytest.mark.parametrize("kind", ["cifar_resnet8", "vit", "bert"])
def test_gradient_norms_are_those_of_per_sample_autograd(tmp_path, kind):
    """A backward pass for each of 64 samples, to the weight and bias of the real last layer."""
    train, test = data(kind, 32), data(kind, 64, seed=1)
    head = {"cifar_resnet8": "timm_model.fc", "vit": "classifier", "bert": "classifier"}[kind]
    for loss, definition in DEFINITIONS.items():
        model = classifier(kind)
        args = arguments(tmp_path, loss=loss, num_train_epochs=1, learning_rate=5e-3)
        trainer = CalibrationTrainer(model=model, args=args, train_dataset=train)
        trainer.add_callback(TrainingDynamicsCallback(trainer, {"test": test}, gradient_epochs=[1]))
        trainer.train()
        model.eval()
        weights = list(model.get_submodule(head).parameters())
        assert len(weights) == 2
        expected = []
        for sample in test:
            inputs = {key: value[None] for key, value in sample.items() if key != "labels"}
            value = definition(model(**inputs).logits, torch.tensor([sample["labels"]])).sum()
            gradients = torch.autograd.grad(value, weights)
            expected.append(torch.cat([gradient.reshape(-1) for gradient in gradients]).norm().item())
        measured = rows(tmp_path)[-1]["gradient_norms"]
        assert len(measured) == 64 and np.ptp(expected) > 1e-3
        np.testing.assert_allclose(measured, expected, rtol=2e-4, atol=1e-6)


def test_gradient_norms_of_a_token_classifier_are_those_of_its_tokens(tmp_path):
    """A backward pass for each token with a label, of sentences that differ in length and are padded in batches."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForTokenClassification(BertConfig(vocab_size=30, num_labels=3, **sizes))
    tokenizer = train_tokenizer(["a b c"])
    test = []
    for length in (3, 9, 1, 5, 5, 7, 2):
        labels = torch.randint(0, 3, (length,))
        labels[1::2] = -100  # further pieces of words
        test.append({"input_ids": torch.randint(5, 30, (length,)).tolist(), "labels": labels.tolist()})
    args = arguments(tmp_path, loss="focal", num_train_epochs=1, learning_rate=5e-3, per_device_eval_batch_size=2)
    collator = DataCollatorForTokenClassification(tokenizer)
    trainer = CalibrationTrainer(model=model, args=args, data_collator=collator, train_dataset=test)
    trainer.add_callback(TrainingDynamicsCallback(trainer, {"test": test}, gradient_epochs=[1]))
    trainer.train()
    model.eval()
    expected, losses = [], []
    for sample in test:
        logits = model(input_ids=torch.tensor([sample["input_ids"]])).logits[0]
        for place, label in enumerate(sample["labels"]):
            if label != -100:
                value = DEFINITIONS["focal"](logits[place : place + 1], torch.tensor([label])).sum()
                gradients = torch.autograd.grad(value, list(model.classifier.parameters()), retain_graph=True)
                expected.append(torch.cat([gradient.reshape(-1) for gradient in gradients]).norm().item())
                losses.append(F.cross_entropy(logits[place], torch.tensor(label)).item())
    row = rows(tmp_path)[-1]
    assert row["n_samples"] == len(expected) == 19
    np.testing.assert_allclose(row["gradient_norms"], expected, rtol=2e-4, atol=1e-6)
    assert row["nll"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_layer_without_bias_adds_no_one_to_the_features(tmp_path):
    model = build("vit")
    model.classifier = torch.nn.Linear(32, NUM_LABELS, bias=False)
    test = data("vit", 8)
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path, loss="brier"), train_dataset=data("vit", 16))
    trainer.add_callback(TrainingDynamicsCallback(trainer, {"test": test}, gradient_epochs=[1]))
    trainer.train()
    model.eval()
    value = DEFINITIONS["brier"](model(test[0]["pixel_values"][None]).logits, torch.tensor([test[0]["labels"]]))
    (gradient,) = torch.autograd.grad(value, model.classifier.weight)
    assert rows(tmp_path)[-1]["gradient_norms"][0] == pytest.approx(gradient.norm().item(), rel=1e-4)


def test_gradients_of_focal_losses_are_those_of_cross_entropy_times_g():
    """Proposition 1, with the gamma of each sample."""
    torch.manual_seed(0)
    logits, labels = 2 * torch.randn(500, 4, dtype=torch.float64), torch.randint(0, 4, (500,))
    lengths = torch.rand(500, dtype=torch.float64) + 1
    p = probabilities_of(logits, labels)
    plain = (logits.softmax(-1) - F.one_hot(labels, 4)).norm(dim=1) * lengths
    for loss, gamma in (("cross_entropy", 0.0), ("focal", 3.0), ("flsd-53", torch.where(p < 0.2, 5.0, 3.0))):
        expected = plain * focal_gradient_ratio(p, torch.as_tensor(gamma, dtype=p.dtype))
        torch.testing.assert_close(gradient_norms(create_loss(loss), logits, labels, lengths), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_gradient_norms_by_finite_differences(name):
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3, dtype=torch.float64), torch.randint(0, 3, (6,))
    loss = create_loss(name)
    loss.set_progress(fraction=0.5, epoch=0)
    norms = gradient_norms(loss, logits, labels, torch.full((6,), 2.0, dtype=torch.float64))
    step = 1e-6 * torch.eye(18, dtype=torch.float64).reshape(18, 6, 3)
    with torch.no_grad():
        slopes = [6 * (loss(logits + one, labels) - loss(logits - one, labels)) / 2e-6 for one in step]
    torch.testing.assert_close(norms, 2 * torch.stack(slopes).reshape(6, 3).norm(dim=1), rtol=1e-5, atol=1e-6)


def test_a_function_as_loss_is_taken_as_a_mean():
    logits, labels = torch.randn(9, 3, dtype=torch.float64), torch.randint(0, 3, (9,))

    def loss(outputs, labels, num_items_in_batch=None):
        return F.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    ones = torch.ones(9, dtype=torch.float64)
    expected = gradient_norms(create_loss("cross_entropy"), logits, labels, ones)
    torch.testing.assert_close(gradient_norms(loss, logits, labels, ones), expected)


def test_numbers_are_those_of_plain_definitions(tmp_path):
    model, test = cifar_network(), data("cifar_resnet8", 45, seed=3)
    args = arguments(tmp_path, loss="focal", gamma=2.0, num_train_epochs=3, per_device_eval_batch_size=7)
    trainer = CalibrationTrainer(model=model, args=args, train_dataset=data("cifar_resnet8", 64))
    train = data("cifar_resnet8", 20)
    trainer.add_callback(TrainingDynamicsCallback(trainer, {"train": train, "test": test}, every=2, n_bins=10))
    trainer.train()
    measured = rows(tmp_path)
    assert [row["epoch"] for row in measured] == [0, 2, 3]  # before training, every other, and the last
    assert [row["step"] for row in measured] == [0, 16, 24]
    assert all(row["loss"] == "focal (gamma 2)" and row["gradient_norms"] is None for row in measured)
    assert [row["n_samples"] for row in rows(tmp_path, "train")] == [20, 20, 20]

    model.eval()
    with torch.no_grad():
        logits = model(torch.stack([sample["pixel_values"] for sample in test])).logits.double().numpy()
    sums = {key: [] for key in ("nll", "nll_correct", "nll_incorrect")}
    sums |= {key.replace("nll", "entropy"): [] for key in sums}
    bins = [[0, 0.0, 0.0] for _ in range(10)]
    for row, sample in zip(logits, test, strict=True):
        p = np.exp(row) / np.exp(row).sum()
        part = "correct" if p.argmax() == sample["labels"] else "incorrect"
        for key, value in (("nll", -np.log(p[sample["labels"]])), ("entropy", -(p * np.log(p)).sum())):
            sums[key].append(value)
            sums[f"{key}_{part}"].append(value)
        cell = bins[int(np.ceil(p.max() * 10)) - 1]
        cell[0], cell[1], cell[2] = cell[0] + 1, cell[1] + p.max(), cell[2] + (part == "correct")
    last = measured[-1]
    for key, values in sums.items():
        assert last[key] == pytest.approx(np.mean(values), rel=1e-4), key
    assert last["error"] == pytest.approx(len(sums["nll_incorrect"]) / 45)
    assert last["ece"] == pytest.approx(sum(abs(confidence - right) for _, confidence, right in bins) / 45, abs=1e-5)
    assert last["weight_norm"] == pytest.approx(np.sqrt((model.timm_model.fc.weight.detach().numpy() ** 2).sum()))
    logged = [entry for entry in trainer.state.log_history if "test_nll" in entry]
    assert [entry["test_nll"] for entry in logged] == [row["nll"] for row in measured]
    assert [entry["weight_norm"] for entry in logged] == [row["weight_norm"] for row in measured]


def test_a_part_without_samples_is_empty(tmp_path):
    class AlwaysTheFirst(TrainerCallback):
        def on_epoch_end(self, args, state, control, model, **kwargs):
            model.classifier.weight.data.zero_()
            model.classifier.bias.data.copy_(torch.tensor([5.0, 0.0, 0.0, 0.0, 0.0]))

    model, test = build(), [{**sample, "labels": 0} for sample in data("vit", 4)]
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path), train_dataset=data("vit", 8))
    trainer.add_callback(AlwaysTheFirst())
    trainer.add_callback(TrainingDynamicsCallback(trainer, {"test": test}))
    trainer.train()
    last = rows(tmp_path)[-1]
    assert last["nll_incorrect"] is None and last["nll_correct"] == last["nll"] > 0
    assert "test_nll_incorrect" not in trainer.state.log_history[-2]


class Restless(Dataset):
    """Draws from every source of randomness, as augmentations do."""

    def __init__(self, kind, count):
        self.samples = data(kind, count)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        noise = torch.randn(3, 16, 16) + random.random() + np.random.random()
        return {**self.samples[index], "pixel_values": self.samples[index]["pixel_values"] + 0.1 * noise}


def train_restless(folder, trainer_class, tracked):
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16,
                       patch_size=8, hidden_dropout_prob=0.3)  # fmt: skip
    config.num_labels = NUM_LABELS
    model = ViTForImageClassification(config)
    cls = {} if trainer_class is CalibrationTrainer else {"cls": TrainingArguments}
    args = arguments(folder, **cls, num_train_epochs=3, logging_strategy="epoch")
    trainer = trainer_class(model=model, args=args, train_dataset=Restless("vit", 32))
    if tracked:
        restless = {"train": Restless("vit", 12), "test": Restless("vit", 9)}
        trainer.add_callback(TrainingDynamicsCallback(trainer, restless, gradient_epochs=[1, 2]))
    trainer.train()
    return model, trainer.state.log_history


@pytest.mark.parametrize("trainer_class", [CalibrationTrainer, Trainer])
def test_training_is_bit_equal_with_and_without_it(tmp_path, trainer_class):
    model, history = train_restless(tmp_path / "without", trainer_class, False)
    tracked, longer = train_restless(tmp_path / "with", trainer_class, True)
    assert torch.equal(flat(model), flat(tracked))
    assert {name: module.training for name, module in model.named_modules()} == {
        name: module.training for name, module in tracked.named_modules()
    }
    # What the trainer logs by itself is still logged, in its order, and ours beside it.
    own = [entry for entry in longer if "test_nll" not in entry]
    assert [entry.get("loss") for entry in own] == [entry.get("loss") for entry in history]
    assert len(longer) == len(history) + 4
    assert [row["gradient_norms"] is not None for row in rows(tmp_path / "with")] == [False, True, True, False]


def test_tensorboard_gets_every_number_at_its_step(tmp_path, monkeypatch):
    """Through `report_to`, written by the real writer and read back by the real reader."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    args = arguments(tmp_path, report_to="tensorboard", num_train_epochs=3, logging_strategy="epoch")
    trainer = CalibrationTrainer(model=build(), args=args, train_dataset=data("vit", 24))
    datasets = {"train": data("vit", 10), "test": data("vit", 14, seed=1)}
    trainer.add_callback(TrainingDynamicsCallback(trainer, datasets, gradient_epochs=[2]))
    trainer.train()
    events = event_accumulator.EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    found = {tag: {one.step: one.value for one in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    for split, tag in (("train", "train/train_{}"), ("test", "test/{}")):  # as transformers renames what it reports
        measured = rows(tmp_path, split)
        assert [row["step"] for row in measured] == [0, 3, 6, 9]
        for key in measured[0].keys() - {"epoch", "step", "split", "loss", "n_samples", "gradient_norms"}:
            expected = {row["step"]: row[key] for row in measured if row[key] is not None}
            assert found["train/weight_norm" if key == "weight_norm" else tag.format(key)] == pytest.approx(expected)
        norms = np.array(measured[2]["gradient_norms"])
        assert found[tag.format("gradient_norm")] == pytest.approx({6: norms.mean()})
    assert set(found["train/loss"]) == {3, 6, 9}  # the trainer's own


def test_a_resumed_run_goes_on_with_the_file(tmp_path):
    def run(folder, epochs=4, resume=None):
        args = arguments(folder, num_train_epochs=4, save_strategy="epoch", learning_rate=1e-3)
        trainer = CalibrationTrainer(model=cifar_network(), args=args, train_dataset=data("cifar_resnet8", 24))
        trainer.add_callback(
            TrainingDynamicsCallback(trainer, {"test": data("cifar_resnet8", 10)}, gradient_epochs=[2, 4])
        )
        trainer.train(resume_from_checkpoint=resume)
        return rows(folder)

    whole = run(tmp_path)
    assert [row["epoch"] for row in whole] == [0, 1, 2, 3, 4]
    # As if the run had broken off in epoch 4: the rows of epochs 3 and 4 are there, but their weights are lost.
    assert run(tmp_path, resume=str(tmp_path / "checkpoint-6")) == whole
    # A run that starts anew in the folder starts a new file.
    assert run(tmp_path) == whole


@pytest.mark.slow
def test_processes_and_micro_batches_measure_the_same_and_keep_the_same_model(tmp_path):
    """77 samples in batches of 10 over two processes: the last batch is uneven, and padded."""
    flags = "--model_name_or_path test_vit --train_from_scratch --image_size 32 --augmentation none --use_cpu true "
    flags += "--max_train_samples 200 --max_eval_samples 77 --per_device_eval_batch_size 10 --num_train_epochs 2 "
    flags += "--loss focal --optim sgd --learning_rate 0.05 --lr_scheduler_type constant --warmup_steps 0 "
    flags += "--dynamics_gradient_epochs 1 2 --stopping_criteria ece nll --per_device_train_batch_size"
    split = {"whole": (1, ["20"]), "processes": (2, ["10"]), "micro": (1, "5 --gradient_accumulation_steps 4".split())}
    found, kept = {}, {}
    for name, (processes, batch) in split.items():
        folder = tmp_path / name
        launch(SCRIPT, *flags.split(), *batch, "--output_dir", str(folder), processes=processes)
        found[name] = [*rows(folder, "train"), *rows(folder)]
        kept[name] = json.loads((folder / "all_results.json").read_text())["stopping_criteria"]
    assert len(found["whole"]) == 6
    for name in ("processes", "micro"):
        for one, other in zip(found["whole"], found[name], strict=True):
            for key, value in one.items():
                close = key not in ("split", "loss") and value is not None
                assert other[key] == (pytest.approx(value, rel=1e-4, abs=1e-5) if close else value), (name, key)
        for criterion, row in kept["whole"].items():
            assert kept[name][criterion] == pytest.approx(row, rel=1e-4, abs=1e-5), (name, criterion)


def test_what_it_cannot_measure_is_refused_before_training(tmp_path):
    test = data("vit", 8)

    def refused(message, datasets=None, args=None, trainer_class=CalibrationTrainer, **kwargs):
        args = arguments(tmp_path, num_train_epochs=2) if args is None else args
        trainer = trainer_class(model=build(), args=args, train_dataset=data("vit", 16))
        with pytest.raises(ValueError, match=message):
            trainer.add_callback(TrainingDynamicsCallback(trainer, datasets or {"test": test}, **kwargs))
            trainer.train()
        assert trainer.state.global_step == 0

    refused(r"gradient_epochs names \[3\], but training ends after 2", gradient_epochs=[1, 3])
    refused("every must be at least 1", every=0)
    refused("gradient_epochs must be at least 1", gradient_epochs=[0])
    smoothing = arguments(tmp_path, cls=TrainingArguments, label_smoothing_factor=0.1)
    refused("LabelSmoothingLoss", args=smoothing, trainer_class=Trainer, gradient_epochs=[1])
    trainer = CalibrationTrainer(model=build(), args=arguments(tmp_path), train_dataset=data("vit", 16))
    with pytest.raises(ValueError, match="no data set"):
        TrainingDynamicsCallback(trainer, {})


def test_models_whose_logits_are_not_one_linear_layer_of_one_row_are_refused(tmp_path):
    torch.manual_seed(0)
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=40, num_labels=NUM_LABELS, **tokens)
    dla = hf_focal.create_image_classifier("dla46_c", list("abcde"), from_scratch=True, image_size=32)[0]
    for model, message in ((GPT2ForSequenceClassification(config), "one row of logits"), (dla, "found Conv2d")):
        trainer = CalibrationTrainer(model=model, args=arguments(tmp_path), train_dataset=data("bert", 16))
        trainer.add_callback(TrainingDynamicsCallback(trainer, {"test": data("bert", 8)}))
        with pytest.raises(ValueError, match=message):
            trainer.train()


def test_data_that_cannot_be_measured_are_named_before_training(tmp_path):
    rows_ = data("vit", 8)
    unlabelled = [{"pixel_values": row["pixel_values"]} for row in rows_]
    ignored = [{**row, "labels": -100} for row in rows_]
    for test, message in (
        ([], "The data set 'test' holds no sample"),
        (unlabelled, "The data set 'test' has no labels"),
        (ignored, "The data set 'test' holds no sample"),
    ):
        trainer = CalibrationTrainer(model=build(), args=arguments(tmp_path), train_dataset=data("vit", 16))
        trainer.add_callback(TrainingDynamicsCallback(trainer, {"test": test}))
        with pytest.raises(ValueError, match=message):
            trainer.train()
        assert trainer.state.global_step == 0


def test_samples_that_are_not_to_be_counted_are_not_counted(tmp_path):
    """As in evaluation: those with the label -100."""
    test = data("vit", 8)
    trainer = CalibrationTrainer(model=build(), args=arguments(tmp_path), train_dataset=data("vit", 16))
    more = [{**test[0], "labels": -100}, *test, {**test[1], "labels": -100}]
    trainer.add_callback(TrainingDynamicsCallback(trainer, {"test": test, "more": more}, gradient_epochs=[1]))
    trainer.train()
    found = rows(tmp_path, "more")[-1]
    assert found["n_samples"] == 8
    for key, value in rows(tmp_path)[-1].items():
        assert found[key] == (pytest.approx(value, rel=1e-5) if key not in ("split", "loss") else found[key]), key


def test_a_temperature_that_a_plain_trainer_trains_through_is_no_part_of_the_last_layer(tmp_path):
    """The gradient in the layer would be a T-th of what is measured: refused where gradients are asked for."""
    model = build()
    model.config.calibration = {"method": "temperature", "temperature": 4.0, "folded": False}
    apply_temperature(model)
    args = arguments(tmp_path, cls=TrainingArguments)
    trainer = Trainer(model=model, args=args, train_dataset=data("vit", 16))
    trainer.add_callback(TrainingDynamicsCallback(trainer, {"test": data("vit", 8)}, gradient_epochs=[1]))
    with pytest.raises(ValueError, match="gradients .* logits are what its last layer gives.*del model.config"):
        trainer.train()
    assert trainer.state.global_step == 0
    trainer = Trainer(model=model, args=args, train_dataset=data("vit", 16))
    trainer.add_callback(TrainingDynamicsCallback(trainer, {"test": data("vit", 8)}))
    trainer.train()
    assert len(rows(tmp_path)) == 2


def test_diverged_training_is_said_to_have_diverged(tmp_path):
    class Diverge(TrainerCallback):
        def on_epoch_end(self, args, state, control, model, **kwargs):
            model.classifier.weight.data.fill_(torch.nan)

    trainer = CalibrationTrainer(model=build(), args=arguments(tmp_path), train_dataset=data("vit", 8))
    trainer.add_callback(Diverge())
    trainer.add_callback(TrainingDynamicsCallback(trainer, {"test": data("vit", 8)}))
    with pytest.raises(ValueError, match="training diverged at step 1: the logits of 'test' are not finite"):
        trainer.train()
    assert [row["epoch"] for row in rows(tmp_path)] == [0]


def test_a_model_without_a_last_linear_layer_is_refused_in_words_of_its_own(tmp_path):
    model = build()
    model.classifier = torch.nn.Sequential(torch.nn.Linear(32, 2 * NUM_LABELS), torch.nn.GLU())
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path), train_dataset=data("vit", 8))
    trainer.add_callback(TrainingDynamicsCallback(trainer, {"test": data("vit", 8)}))
    with pytest.raises(ValueError, match="Training dynamics need .*found none") as error:
        trainer.train()
    assert "fold" not in str(error.value)


def test_a_run_is_named_by_its_loss(tmp_path):
    plain = arguments(tmp_path, cls=TrainingArguments)
    smooth = arguments(tmp_path, cls=TrainingArguments, label_smoothing_factor=0.1)

    def name(trainer_class, args, loss=None):
        trainer = trainer_class(model=build(), args=args, train_dataset=data("vit", 8), compute_loss_func=loss)
        trainer.add_callback(TrainingDynamicsCallback(trainer, {"test": data("vit", 8)}))
        trainer.train()
        return rows(tmp_path)[0]["loss"]

    assert name(Trainer, plain) == "cross_entropy"
    assert name(Trainer, smooth) == "label_smoothing (label_smoothing_factor 0.1)"
    assert name(Trainer, plain, FocalLoss(gamma=2.0)) == name(CalibrationTrainer, plain, FocalLoss(gamma=2.0))
    assert name(CalibrationTrainer, plain, FocalLoss(gamma=2.0)) == "FocalLoss (gamma 2)"
    assert name(CalibrationTrainer, plain, BrierLoss()) == "BrierLoss"


def test_runs_of_other_parameters_are_no_seeds_of_one(tmp_path):
    folders = []
    for smoothing, seed in ((0.05, 1), (0.05, 2), (0.5, 1)):
        folders.append(tmp_path / f"{smoothing}-{seed}")
        args = arguments(folders[-1], loss="label_smoothing", smoothing=smoothing, seed=seed, num_train_epochs=1)
        trainer = CalibrationTrainer(model=build(), args=args, train_dataset=data("vit", 8))
        trainer.add_callback(TrainingDynamicsCallback(trainer, {"test": data("vit", 8)}))
        trainer.train()
    averaged = hf_focal.read_dynamics(folders, average=True)
    assert list(averaged) == ["label_smoothing", "label_smoothing (smoothing 0.5)"]
    alone = hf_focal.read_dynamics(folders[2:])["label_smoothing (smoothing 0.5)"]
    assert [row["nll"] for row in averaged["label_smoothing (smoothing 0.5)"]] == [row["nll"] for row in alone]
