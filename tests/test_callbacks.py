# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Callbacks with real trainers: what they measure, against plain definitions, and what they leave alone."""

import json
import random

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from test_trainer import NUM_LABELS, arguments, build, flat, samples
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
    CalibrationTrainer,
    KeepBestCallback,
    TrainingDynamicsCallback,
    calibration_metrics_from_logits,
    create_loss,
    fit_temperature,
    focal_gradient_ratio,
    stopping_table,
)
from hf_focal.callbacks import DYNAMICS, gradient_norms
from hf_focal.text import train_tokenizer


def cifar_network():
    torch.manual_seed(0)
    return hf_focal.create_image_classifier("cifar_resnet8", list("abcde"), from_scratch=True)[0]


def classifier(kind):
    return cifar_network() if kind == "cifar_resnet8" else build(kind)


def data(kind, count, seed=0):
    return samples("timm" if kind == "cifar_resnet8" else kind, count, seed)


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
    if hasattr(loss, "set_progress"):
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


# ---- The best model by several criteria -----------------------------------------------------------------------------

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


def test_models_are_compared_each_at_its_own_temperature(kept):
    folder, trainer, best = kept
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
    lines = stopping_table(compared).splitlines()
    assert [line.split()[0] for line in lines] == ["best", "last", *CRITERIA]
    row = compared["nll"]
    assert lines[3].split()[1:4] == [
        f"{row['epoch']:g}", f"{row['temperature']:.3g}", f"{1 - row['test_before_accuracy']:.2%}"
    ]  # fmt: skip
    json.dumps(compared)


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
