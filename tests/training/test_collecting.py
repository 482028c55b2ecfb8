# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Calibration in little memory: the model runs once, and of what it gives the rows that count are kept."""

import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from launching import launch
from small_models import NUM_LABELS, arguments, padded
from transformers import BertConfig, BertForTokenClassification

from hf_focal import CalibrationTrainer, calibrator_of, fit_calibrator, spill
from hf_focal.metrics import Scored, measure


SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def tagger():
    torch.manual_seed(0)
    model = BertForTokenClassification(BertConfig(vocab_size=40, num_labels=NUM_LABELS, **SIZES)).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(100)
    return model


@functools.cache
def sentences(count=93):
    """Of different lengths; of each a third counts, of some nothing. The model is three times as confident."""
    model, rows, numbers = tagger(), [], np.random.default_rng(1)
    for length in numbers.integers(2, 20, count):
        words = numbers.integers(0, 40, length)
        with torch.no_grad():
            scores = model(torch.tensor(words)[None]).logits[0].numpy() / 3
        labels = (scores + numbers.gumbel(size=scores.shape)).argmax(axis=1)
        labels[numbers.random(length) < 0.66] = -100
        rows.append({"input_ids": words.tolist(), "labels": labels.tolist()})
    return [{**row, "labels": [-100] * len(row["labels"])} if 8 <= i < 16 else row for i, row in enumerate(rows)]


def trainer(folder, cls=CalibrationTrainer, dtype=torch.float32, **options):
    options = {"per_device_eval_batch_size": 8, "temperature_guard": False, **options}
    return cls(model=tagger().to(dtype), args=arguments(folder, **options), data_collator=padded)


@pytest.mark.parametrize("most", [0, 1 << 26])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_rows_kept_are_those_of_a_prediction_that_count(tmp_path, dtype, most, monkeypatch):
    monkeypatch.setattr(spill, "IN_MEMORY", most)
    made = trainer(tmp_path, dtype=dtype)
    found, right = made.predictions_of(sentences(), "dev"), made.flatten(made.predict(sentences()), "dev")
    assert isinstance(found.logits, np.memmap) is (most == 0) and found.split == "dev"
    for name in ("logits", "labels", "groups"):
        assert np.array_equal(getattr(found, name), getattr(right, name))
    assert found.logits.dtype == right.logits.dtype and len(found) == sum(
        label != -100 for row in sentences() for label in row["labels"]
    )


def test_calibrating_runs_the_model_once_and_says_what_it_said(tmp_path, monkeypatch):
    seen = []
    made = trainer(tmp_path)
    whole = made.flatten(made.predict(sentences()))
    made.model.register_forward_hook(lambda *_: seen.append(1))
    monkeypatch.setattr(spill, "IN_MEMORY", 0)
    monkeypatch.setattr(spill, "_COPIED", 64)
    fit = made.calibrate(sentences(), fold=False)
    assert len(seen) == 12 and made.args.batch_eval_metrics is False
    assert fit == fit_calibrator(whole.logits, whole.labels, "temperature", guard=False)
    del made.model.config.calibration
    assert made.calibrate(predictions=whole, fold=False) == fit
    report = made.report_on(made.predictions_of(sentences()))
    assert report.after == fit.after and report.n_samples == len(whole) and report.group is not None


def test_the_logits_kept_are_those_before_a_calibrator_that_is_not_folded(tmp_path):
    made = trainer(tmp_path)
    before = made.predictions_of(sentences())
    assert made.calibrate(sentences(), fold=False).temperature > 1.5
    assert np.array_equal(made.predictions_of(sentences()).logits, before.logits)


@pytest.mark.parametrize("most", [0, 1 << 26])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_an_evaluation_keeps_the_rows_that_count_and_measures_the_same(tmp_path, most, temperature, monkeypatch):
    made = trainer(tmp_path)
    record = {"temperature": temperature, "folded": False}
    if temperature != 1:
        made.model.config.calibration = record
    right = made.flatten(made.predict(sentences()))
    expected = measure(Scored.from_logits(right.logits, right.labels, calibrator_of(record)))
    monkeypatch.setattr(spill, "IN_MEMORY", most)
    found = made.evaluate(sentences())
    assert expected == {key: found[f"eval_{key}"] for key in expected} and "eval_loss" in found
    kept = made.evaluation_loop(made.get_eval_dataloader(sentences()), "Evaluation")
    assert isinstance(kept.predictions, np.memmap) is (most == 0) and made.args.batch_eval_metrics is False
    assert np.array_equal(kept.predictions, right.logits) and np.array_equal(kept.label_ids, right.labels)


def test_an_evaluation_from_a_loader_of_ones_own_is_measured(tmp_path):
    class Own(CalibrationTrainer):
        def get_eval_dataloader(self, dataset=None):
            return torch.utils.data.DataLoader(sentences(), 8, collate_fn=padded)

    own, made = trainer(tmp_path, Own), trainer(tmp_path)
    found, right = own.evaluate(sentences()), made.evaluate(sentences())
    assert {found[key] == right[key] for key in right if key.endswith(("ece", "nll", "accuracy"))} == {True}


def test_metrics_of_the_trainer_are_as_they_were_after_an_error(tmp_path):
    made = trainer(tmp_path)
    kept = made.compute_metrics, made.preprocess_logits_for_metrics

    def broken(*args, **kwargs):
        raise RuntimeError("in the middle")

    made.model.register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="in the middle"):
        made.predictions_of(sentences())
    assert (made.compute_metrics, made.preprocess_logits_for_metrics) == kept and not made.args.batch_eval_metrics


def test_data_without_labels_or_without_any_that_count_are_refused(tmp_path):
    made = trainer(tmp_path)
    with pytest.raises(ValueError, match="No sample of the data has a label that counts"):
        made.calibrate(sentences()[8:16])
    made.data_collator = lambda rows: {name: value for name, value in padded(rows).items() if name != "labels"}
    with pytest.raises(ValueError, match="The data have no labels"):
        made.calibrate(sentences())


def test_what_predicts_in_its_own_way_is_asked(tmp_path):
    class Own(CalibrationTrainer):
        def predict(self, dataset, *args, **kwargs):
            output = super().predict(dataset, *args, **kwargs)
            return output._replace(predictions=2 * output.predictions)

    plain, own = trainer(tmp_path), trainer(tmp_path, Own)
    assert np.array_equal(own.predictions_of(sentences()).logits, 2 * plain.predictions_of(sentences()).logits)


TWO = """
import json, sys
sys.path[:0] = {paths!r}
from test_collecting import *
spill.IN_MEMORY = 0
made = trainer({folder!r}, per_device_eval_batch_size=4)
found = made.predictions_of(sentences())
fit = made.calibrate(sentences(), fold=False)
if made.is_world_process_zero():
    numbers = [made.args.world_size, fit.temperature, fit.after, found.labels.tolist(), found.groups.tolist()]
    print("FOUND", json.dumps([*numbers, found.logits.tolist()]), flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_two_processes_fit_what_one_does(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO.format(paths=[os.path.dirname(__file__), *sys.path], folder=str(tmp_path / "out")))
    out = launch(str(script), processes=2).stdout
    found = json.loads(next(line for line in out.splitlines() if line.startswith("FOUND")).removeprefix("FOUND"))
    made = trainer(tmp_path)
    right, fit = made.predictions_of(sentences()), made.calibrate(sentences(), fold=False)
    assert found[0] == 2 and found[1] == pytest.approx(fit.temperature, rel=1e-5)
    assert found[2] == pytest.approx(fit.after, rel=1e-4)
    assert found[3] == right.labels.tolist() and found[4] == right.groups.tolist()
    assert np.abs(np.array(found[5]) - right.logits).max() < 1e-4


CASE = """
import resource, sys
sys.path.insert(0, {tests!r})
from test_collecting import *
classes, made = 4000, trainer({folder!r}, per_device_eval_batch_size=4, temperature_criterion="nll")
made.model.config.num_labels = made.model.num_labels = classes
made.model.classifier = torch.nn.Linear(32, classes)
rows, numbers = [], np.random.default_rng(0)
for _ in range(256):
    labels = np.where(numbers.random(64) < 0.85, -100, numbers.integers(0, classes, 64))
    rows.append({{"input_ids": numbers.integers(0, 40, 64).tolist(), "labels": labels.tolist()}})
made.calibrate(rows[:8], fold=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made.calibrate(rows, fold=False)
print("ROSE", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_calibrating_a_tagger_takes_no_more_than_twice_the_logits_that_count(tmp_path):
    code = CASE.format(tests=os.path.dirname(__file__), folder=str(tmp_path / "out"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    rose = float(next(line for line in out.stdout.splitlines() if line.startswith("ROSE")).removeprefix("ROSE"))
    assert rose < 2 * 0.15 * 256 * 64 * 4000 * 4 / 2**20, out.stderr[-2000:]  # 75 MB of 250 MB
