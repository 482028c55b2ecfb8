# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What is measured and fitted on: every sample once, the labels of the loss, calibrated scores, whatever is set."""

import dataclasses
import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.data_loader import IterableDatasetShard
from datasets import Dataset
from small_models import NUM_LABELS, arguments, build, data, flat, padded
from torch.utils.data import DataLoader, IterableDataset
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification
from transformers.modeling_outputs import ModelOutput

import hf_focal
from hf_focal import CalibrationTrainer, KeepBestCallback, apply_temperature, compute_metrics
from hf_focal.predictions import Predictions
from hf_focal.training.base_trainer import load_weights
from hf_focal.training.streams import CountedStream


COUNT = 250
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def text_model(cls=BertForSequenceClassification):
    """Three times as confident as the labels of `texts()`, which are drawn from its own scores."""
    torch.manual_seed(0)
    model = cls(BertConfig(vocab_size=40, num_labels=NUM_LABELS, **SIZES)).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(200)
    return model


def texts(count=COUNT):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(0, 40, (count, 6), generator=generator)
    with torch.no_grad():
        shares = text_model()(inputs).logits.div(3).softmax(-1)
    labels = torch.multinomial(shares, 1, generator=generator).flatten()
    return [{"input_ids": row, "labels": int(label)} for row, label in zip(inputs, labels, strict=True)]


TEXTS = texts()
INPUTS = torch.stack([row["input_ids"] for row in TEXTS])
LABELS = torch.tensor([row["labels"] for row in TEXTS])


def trainer(folder, model=None, metrics=None, **options):
    options = {"loss": "cross_entropy", "per_device_eval_batch_size": 32, "temperature_guard": False, **options}
    return CalibrationTrainer(
        model=text_model() if model is None else model, args=arguments(folder, **options), eval_dataset=TEXTS,
        compute_metrics=metrics,
    )  # fmt: skip


@torch.no_grad()
def nll(temperature=1.0):
    """By PyTorch alone."""
    return float(F.cross_entropy(text_model()(INPUTS).logits.double() / temperature, LABELS))


# ---- What a model returns -------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Plain:
    features: Any
    logits: Any


@dataclasses.dataclass
class WithFeatures(ModelOutput):
    features: Any = None
    logits: Any = None
    hidden_states: Any = None


RETURNED = {
    "dict": lambda features, logits: {"features": features, "logits": logits},
    "tuple": lambda features, logits: (logits, features),
    "tensor": lambda features, logits: logits,
    "dataclass": Plain,
    "output": lambda features, logits: WithFeatures(features, logits, (features,)),
}


def returning(made):
    class Returning(BertForSequenceClassification):
        def forward(self, input_ids, labels=None):
            return made(input_ids.float(), super().forward(input_ids).logits)

    return text_model(Returning)


@pytest.mark.parametrize("kind", RETURNED)
def test_a_model_is_calibrated_whatever_it_returns(tmp_path, kind):
    made = trainer(tmp_path, returning(RETURNED[kind]))
    fit = made.calibrate(fold=False)
    assert fit.before["nll"] == pytest.approx(nll(), abs=1e-6)
    assert 2 < fit.temperature < 4.5
    measured = made.evaluate()
    assert measured["eval_nll"] == pytest.approx(nll(fit.temperature), abs=1e-6)
    assert measured["eval_loss"] == pytest.approx(nll(fit.temperature), abs=1e-6)
    raw = text_model()(INPUTS).logits.detach().numpy()
    unlabelled = [{"input_ids": row["input_ids"]} for row in TEXTS]
    for rows in (TEXTS, unlabelled):
        assert np.abs(made.predict(rows).predictions - raw).max() < 1e-5
    apply_temperature(made.model)
    assert made.evaluate()["eval_nll"] == pytest.approx(nll(fit.temperature), abs=1e-6)
    assert made.calibrate(fold=True).temperature == pytest.approx(fit.temperature, rel=1e-4)
    assert np.abs(made.predict(unlabelled).predictions - raw / fit.temperature).max() < 1e-5


def test_what_is_no_row_of_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"num_labels = 5, but what it returns as logits has shape \(32, 6\)"):
        trainer(tmp_path, returning(lambda features, logits: (features, logits))).evaluate()
    model = text_model()
    model.classifier = torch.nn.Linear(32, 7)
    with pytest.raises(ValueError, match="one of other classes, set config.num_labels too"):
        trainer(tmp_path, model).calibrate()


@pytest.mark.slow
def test_a_compiled_model_is_measured_saved_and_loaded(tmp_path):
    compiled = torch.compile(text_model(), backend="eager")
    made = trainer(tmp_path, compiled)
    made.eval_dataset = Dataset.from_list(TEXTS).add_column("noise", [0] * COUNT).with_format("torch")
    fit = made.calibrate()
    assert fit.n_samples == COUNT and fit.before["nll"] == pytest.approx(nll(), abs=1e-6)
    made.save_model()
    loaded = BertForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        off = loaded(INPUTS).logits - text_model()(INPUTS).logits / fit.temperature
    assert off.abs().max() < 1e-5


# ---- A calibrator that is not folded in -----------------------------------------------------------------------------


def own_metrics(prediction):
    logits, labels = torch.tensor(prediction.predictions), torch.tensor(prediction.label_ids)
    return {"mine": float(F.cross_entropy(logits.double(), labels))}


@pytest.mark.parametrize("method", ["temperature", "focal"])
@pytest.mark.parametrize("options", [{}, {"include_for_metrics": ["inputs", "loss"]}, {"bf16_full_eval": True}])
def test_loss_and_metrics_heed_it_and_predictions_do_not(tmp_path, method, options):
    made = trainer(tmp_path, metrics=own_metrics, **options)
    raw = made.predict(TEXTS).predictions
    fit = made.calibrate(fold=False, method=method)
    expected = -np.log(fit.probabilities(raw)[np.arange(COUNT), LABELS]).mean()
    assert abs(expected - nll()) > 0.05  # it makes a difference
    found, predicted = made.evaluate(), made.predict(TEXTS)
    for value in (found["eval_mine"], found["eval_loss"], predicted.metrics["test_mine"]):
        assert value == pytest.approx(expected, abs=2e-2 if options.get("bf16_full_eval") else 1e-5)
    assert np.array_equal(predicted.predictions, raw)
    made.compute_metrics = compute_metrics
    assert made.evaluate()["eval_nll"] == pytest.approx(expected, abs=2e-2)
    assert made.compute_metrics is compute_metrics and made.compute_loss_func is made.loss
    with pytest.raises(ValueError, match="calibrated already"):
        made.calibrate(predictions=predicted)


def test_preprocessing_is_of_calibrated_logits_and_no_hindrance_to_a_fit(tmp_path):
    made = trainer(tmp_path, metrics=lambda prediction: {"top": float(prediction.predictions.max(-1).mean())})
    made.preprocess_logits_for_metrics = lambda logits, labels: logits.softmax(-1)
    fit = made.calibrate(fold=False)
    assert fit.before["nll"] == pytest.approx(nll(), abs=1e-6)
    with torch.no_grad():
        expected = (text_model()(INPUTS).logits / fit.temperature).softmax(-1).max(-1).values.mean()
    assert made.evaluate()["eval_top"] == pytest.approx(float(expected), abs=1e-6)


# ---- Options of the Trainer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"eval_do_concat_batches": False},
        {"eval_do_concat_batches": False, "eval_accumulation_steps": 3},
        {"batch_eval_metrics": True},
        {"label_names": ["noise", "labels"]},
        {"label_names": []},
        {"prediction_loss_only": True},
        {"dataloader_drop_last": True},
        {"remove_unused_columns": False},
        {"eval_use_gather_object": True},
        pytest.param({"torch_compile": True, "torch_compile_backend": "eager"}, marks=pytest.mark.slow),
    ],
)
def test_all_samples_and_the_labels_of_the_loss_count(tmp_path, options):
    noise = np.random.default_rng(2).integers(0, NUM_LABELS, COUNT).tolist()
    made = trainer(tmp_path, **options)
    made.eval_dataset = Dataset.from_list(TEXTS).add_column("noise", noise).with_format("torch")
    measured = made.evaluate()
    assert measured["eval_loss"] == pytest.approx(nll(), abs=1e-5)
    if not options.get("prediction_loss_only"):
        assert measured["eval_nll"] == pytest.approx(nll(), abs=1e-6)
    fit = made.calibrate()
    assert fit.n_samples == COUNT and fit.before["nll"] == pytest.approx(nll(), abs=1e-6)
    assert fit.temperature == pytest.approx(trainer(tmp_path).calibrate().temperature, rel=1e-6)


def test_other_labels_than_those_of_the_loss_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"label_names=\['noise'\] lacks 'labels'"):
        trainer(tmp_path, label_names=["noise"])
    with pytest.raises(ValueError, match="label_ids holds 2 arrays"):
        compute_metrics(SimpleNamespace(predictions=np.zeros((2, 3)), label_ids=(np.zeros(2, int), np.zeros(2, int))))


def sentences():
    """Of different lengths, some tokens without a label."""
    generator = np.random.default_rng(0)
    rows = []
    for length in generator.integers(2, 9, 60):
        labels = np.where(generator.random(length) < 0.3, -100, generator.integers(0, NUM_LABELS, length))
        rows.append({"input_ids": generator.integers(0, 40, length).tolist(), "labels": labels.tolist()})
    return rows


def test_tokens_of_batches_of_different_lengths_are_those_of_one_array(tmp_path):
    seen = []
    for together in (True, False):
        args = arguments(tmp_path, eval_do_concat_batches=together, per_device_eval_batch_size=7)
        model = text_model(BertForTokenClassification)
        made = CalibrationTrainer(model=model, args=args, data_collator=padded)
        seen.append(made.flatten(made.predict(sentences())))
        assert made.evaluate(sentences())["eval_nll"] > 0
    assert np.abs(seen[0].logits - seen[1].logits).max() < 1e-6
    assert np.array_equal(seen[0].labels, seen[1].labels) and np.array_equal(seen[0].groups, seen[1].groups)
    counted = [np.sum(np.array(row["labels"]) != -100) for row in sentences()]
    assert np.array_equal(seen[1].groups, np.repeat(np.arange(60), counted))


def test_batches_that_do_not_go_together_are_refused():
    logits, labels = [np.zeros((2, 3)), np.zeros((1, 3))], [np.zeros(2, int), np.zeros(1, int)]
    assert len(Predictions.flatten(SimpleNamespace(predictions=logits, label_ids=labels))) == 3
    led = [(one, None) for one in logits]
    assert len(Predictions.flatten(SimpleNamespace(predictions=led, label_ids=labels))) == 3
    rows = SimpleNamespace(predictions=[[0.0, 1.0], [1.0, 0.0]], label_ids=[0, 1])
    assert Predictions.flatten(rows).logits.tolist() == rows.predictions
    for wrong, words in ((labels[:1], "2 batches.*got 1 of them"), (np.zeros(3, int), "got ndarray")):
        with pytest.raises(ValueError, match=words):
            Predictions.flatten(SimpleNamespace(predictions=logits, label_ids=wrong))
    with pytest.raises(ValueError, match="prediction_loss_only=False"):
        Predictions.flatten(SimpleNamespace(predictions=None, label_ids=None))


# ---- Streams --------------------------------------------------------------------------------------------------------


class Once(IterableDataset):
    """Can be read a single time."""

    def __init__(self, rows):
        self.rows = iter(rows)

    def __iter__(self):
        yield from self.rows


@pytest.mark.parametrize("folded", [False, True])
def test_a_stream_that_can_be_read_once_is_calibrated_on_whole_and_then_said_to_be_empty(tmp_path, folded):
    made, stream = trainer(tmp_path), Once(TEXTS)
    first = made.calibrate() if folded else None
    fit = made.calibrate(stream)
    assert fit.n_samples == COUNT and made.model.config.calibration["folded"]
    assert first is None or fit.temperature == pytest.approx(first.temperature, rel=1e-4)
    assert made.evaluate()["eval_nll"] == pytest.approx(nll(fit.temperature), abs=1e-5)
    for measure in (made.evaluate, made.predict, made.calibrate):
        with pytest.raises(ValueError, match="gave no sample: it is empty, or a stream that can be read only once"):
            measure(stream)


NOTHING = {
    "a generator": (lambda: (row for row in TEXTS), "got generator: make a list of it"),
    "a dict": (lambda: {"clean": TEXTS, "other": TEXTS}, "one data set, got a dict of clean, other"),
    "a name": (lambda: "clean", "one data set, got 'clean'"),
    "no samples": (list, "gave no sample"),
    "no labels": (lambda: [{"input_ids": row["input_ids"]} for row in TEXTS], "have no labels"),
    "no label that counts": (lambda: [{**row, "labels": -100} for row in TEXTS], "label that counts: all of them"),
}


@pytest.mark.parametrize("kind", NOTHING)
def test_data_to_fit_on_that_are_none_are_refused_in_words(tmp_path, kind):
    made, words = NOTHING[kind]
    with pytest.raises(ValueError, match=words):
        trainer(tmp_path).calibrate(made())


def test_an_evaluation_without_labels_is_refused(tmp_path):
    with pytest.raises(ValueError, match="evaluate on have no 'labels', but input_ids"):
        trainer(tmp_path).evaluate([{"input_ids": row["input_ids"]} for row in TEXTS])


@pytest.mark.parametrize("count", [1, 32, 100, 101, 128])
@pytest.mark.parametrize("split", [False, True])
def test_a_stream_of_several_processes_tells_how_many_samples_fill_it_up(count, split):
    """Of the last batch, gathered from the processes in turn, so many samples are none."""

    class Counting(IterableDataset):
        def __iter__(self):
            return iter(range(count))

    batches, remainders = [], []
    for process in range(2):
        stream = CountedStream(Counting())
        shard = IterableDatasetShard(stream, 16, num_processes=2, process_index=process, split_batches=split)
        stream.loader = SimpleNamespace(dataset=shard, remainder=-1)
        batches.append(list(DataLoader(shard, batch_size=8 if split else 16)))
        remainders.append(stream.loader.remainder)
    gathered = [torch.cat(both).tolist() for both in zip(*batches, strict=True)]
    assert remainders[0] == remainders[1]
    if remainders[0]:
        gathered[-1] = gathered[-1][: remainders[0]]
    assert [number for batch in gathered for number in batch] == list(range(count))


TWO = """
import json, os, sys
sys.path.insert(0, {tests!r})
from test_evaluation import *
out = []
stream = Dataset.from_list(TEXTS[:101]).with_format("torch")
for options in json.loads(sys.argv[1]):
    made = trainer({folder!r}, accelerator_config=options, per_device_eval_batch_size=16)
    for rows in (stream.to_iterable_dataset(), stream.to_iterable_dataset(num_shards=4), TEXTS[:101]):
        out.append([made.predict(rows).metrics["test_nll"], len(made.predict(rows).predictions)])
made = CalibrationTrainer(model=text_model(BertForTokenClassification), data_collator=padded,
                          args=arguments({folder!r}, accelerator_config={{"dispatch_batches": None}}))
words = Dataset.from_list(sentences()).to_iterable_dataset()
try:
    made.predict(words)
except ValueError as error:
    print("REFUSED", error, flush=True)
if made.is_world_process_zero():
    print("FOUND", json.dumps(out), flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_two_processes_count_each_sample_of_a_stream_once(tmp_path):
    options = [
        {"dispatch_batches": dispatch, "even_batches": even} for dispatch in (None, False) for even in (True, False)
    ]
    script = tmp_path / "two.py"
    script.write_text(TWO.format(tests=os.path.dirname(__file__), folder=str(tmp_path / "out")))
    tests = os.path.dirname(os.path.dirname(__file__))
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command = [*launch, "--main_process_port", "0", str(script), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    (found,) = [line[6:] for line in done.stdout.splitlines() if line.startswith("FOUND ")] or [done.stderr[-3000:]]
    assert "differ in length" in done.stdout and "dispatch_batches" in done.stdout
    with torch.no_grad():
        expected = float(F.cross_entropy(text_model()(INPUTS[:101]).logits.double(), LABELS[:101]))
    values = json.loads(found)
    assert len(values) == 12
    for value, count in values:
        assert count == 101 and value == pytest.approx(expected, abs=1e-6)


# ---- Heads that were replaced ---------------------------------------------------------------------------------------


def with_other_head(kind):
    model = build(kind)
    torch.manual_seed(5)
    model.classifier = torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.ReLU(), torch.nn.Linear(16, NUM_LABELS))
    return model


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_a_replaced_head_lives_through_best_checkpoints_and_resuming(tmp_path, kind):
    """Of ViT too, whose weights are called otherwise in files."""

    def run(folder, best=False, **options):
        args = arguments(folder, num_train_epochs=3, eval_strategy="epoch", save_strategy="epoch", **options)
        made = CalibrationTrainer(
            model=with_other_head(kind), args=args, train_dataset=data(kind, 24), eval_dataset=data(kind, 24, seed=1)
        )
        keep = KeepBestCallback(made, ["ece"])
        if best:
            made.add_callback(keep)
        return made, keep

    made, _ = run(tmp_path, load_best_model_at_end=True, metric_for_best_model="eval_ece")
    made.train()
    seen = [entry["eval_ece"] for entry in made.state.log_history if "eval_ece" in entry]
    assert made.state.best_metric == min(seen) == pytest.approx(made.evaluate()["eval_ece"], abs=1e-6)
    made, keep = run(tmp_path / "whole", best=True)
    made.train()
    last = flat(made.model)
    keep.restore("ece")
    assert made.evaluate()["eval_ece"] == pytest.approx(keep.best["ece"]["value"], abs=1e-6)
    made, _ = run(tmp_path / "whole")
    made.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    assert torch.equal(flat(made.model), last)
    with pytest.warns(UserWarning, match="24 samples"):
        made.calibrate(guard=False)
    made.save_model(str(tmp_path / "saved"))
    again = with_other_head(kind)
    load_weights(again, tmp_path / "saved")
    assert torch.equal(flat(again), flat(made.model))
    with pytest.raises(ValueError, match="classifier.bias, classifier.weight"):
        hf_focal.from_pretrained(str(tmp_path / "saved"))


def test_weights_of_another_head_are_not_loaded(tmp_path):
    with_other_head("bert").save_pretrained(tmp_path)
    model = build("bert")
    before = flat(model)
    with pytest.raises(ValueError, match=r"saved of a model with other weights than this Bert.*: classifier\.bias"):
        load_weights(model, tmp_path)
    wider = with_other_head("bert")
    wider.classifier[0], wider.classifier[2] = torch.nn.Linear(32, 8), torch.nn.Linear(8, NUM_LABELS)
    with pytest.raises(ValueError, match=r"classifier\.0\.weight"):
        load_weights(wider, tmp_path)
    assert torch.equal(flat(model), before)
