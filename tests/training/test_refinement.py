# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints chosen by the NLL after a temperature, and what the end of a run tells of gains."""

import json

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from small_models import arguments, build, data
from transformers import Trainer, TrainingArguments

from hf_focal import CalibrationTrainer, KeepBestCallback, compute_metrics, finish_run, fit_calibrator
from hf_focal.training.arguments import lower_is_better


def rows(count, seed=0):
    return data("vit", count, seed)


def trainer(folder, cls=CalibrationTrainer, validation=None, **kwargs):
    often = {"eval_strategy": "epoch", "num_train_epochs": 4, "learning_rate": 2e-2, **kwargs}
    validation = rows(60, 1) if validation is None else validation
    return cls(model=build("vit"), args=arguments(folder, **often), train_dataset=rows(40), eval_dataset=validation)


def smallest_nll(logits, labels):
    """Over all temperatures, by another search than ours."""

    def nll(log_t):
        found = log_softmax(logits.astype(float) / np.exp(log_t), axis=1)
        return -found[np.arange(len(labels)), labels].mean()

    return minimize_scalar(nll, bounds=(-4.6, 4.6), method="bounded", options={"xatol": 1e-10}).fun


def test_the_checkpoint_of_least_refinement_is_kept(tmp_path):
    chosen = {"metric_for_best_model": "refinement", "save_strategy": "epoch", "load_best_model_at_end": True}
    made = trainer(tmp_path, **chosen)
    made.train()
    seen = [entry["eval_refinement"] for entry in made.state.log_history if "eval_refinement" in entry]
    nlls = [entry["eval_nll"] for entry in made.state.log_history if "eval_nll" in entry]
    assert len(seen) == 4 and made.state.best_metric == min(seen) < max(seen)
    assert all(value <= nll + 1e-9 for value, nll in zip(seen, nlls, strict=True))
    output = made.predict(rows(60, 1))
    expected = smallest_nll(output.predictions, output.label_ids)
    assert output.metrics["test_refinement"] == pytest.approx(expected, abs=1e-7)
    assert made.evaluate()["eval_refinement"] == pytest.approx(made.state.best_metric, abs=1e-6)


def test_nobody_else_is_told_of_it(tmp_path):
    assert "eval_refinement" not in trainer(tmp_path).evaluate()
    assert lower_is_better("eval_clean_refinement") and lower_is_better("refinement")
    assert not lower_is_better("loss")


def test_it_is_one_criterion_of_several(tmp_path):
    made = trainer(tmp_path)
    best = KeepBestCallback(made, ["refinement", "nll"])
    made.add_callback(best)
    made.train()
    seen = [entry["eval_refinement"] for entry in made.state.log_history if "eval_refinement" in entry]
    assert best.best["refinement"]["value"] == min(seen)
    found = json.loads((tmp_path / "best-refinement" / "best.json").read_text())
    assert found["epoch"] == 1 + int(np.argmin(seen))
    assert set(best.compare(rows(240, 1), rows(50, 2))) == {"last", "refinement", "nll"}
    with pytest.raises(ValueError, match="got \\['refinment'\\]. Did you mean 'refinement'"):
        KeepBestCallback(made, ["refinment"])


def test_where_it_cannot_be_had_that_is_said_before_training(tmp_path):
    chosen = {"metric_for_best_model": "refinement"}
    with pytest.raises(ValueError, match="'refinement' is nothing that the evaluations of this trainer give"):
        trainer(tmp_path, **chosen, batch_eval_metrics=True).train()
    args = arguments(tmp_path, TrainingArguments, eval_strategy="epoch")
    stock = Trainer(
        model=build("vit"), args=args, train_dataset=rows(16), eval_dataset=rows(16), compute_metrics=compute_metrics
    )
    stock.add_callback(KeepBestCallback(stock, ["refinement"]))
    with pytest.raises(ValueError, match="gives no eval_refinement, but "):
        stock.train()


def test_of_several_sets_each_has_its_own(tmp_path):
    sets = {"clean": rows(30, 1), "other": rows(30, 2)}
    made = trainer(tmp_path, validation=sets, metric_for_best_model="eval_other_refinement", num_train_epochs=1)
    made.train()
    values = made.evaluate()
    assert {"eval_clean_refinement", "eval_other_refinement"} <= {*values} and made.args.greater_is_better is False


# ---- How a run ends -------------------------------------------------------------------------------------------------


class Tilted(CalibrationTrainer):
    """Its logits are too sharp, and lack a shift of the classes, so that a vector does more than a temperature."""

    def predict(self, dataset, *args, **kwargs):
        output = super().predict(dataset, *args, **kwargs)
        generator = np.random.default_rng(len(dataset))
        logits = 2 * generator.normal(size=output.predictions.shape)
        tilted = logits + np.linspace(-1.5, 1.5, logits.shape[1]) + generator.gumbel(size=logits.shape)
        return output._replace(predictions=(2 * logits).astype(np.float32), label_ids=tilted.argmax(axis=1))


class Scaled(CalibrationTrainer):
    """Its logits want a factor for each class."""

    def predict(self, dataset, *args, **kwargs):
        output = super().predict(dataset, *args, **kwargs)
        generator = np.random.default_rng(len(dataset))
        logits = 2 * generator.normal(size=output.predictions.shape)
        labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
        return output._replace(predictions=(logits * [0.5, 1, 1, 2, 4]).astype(np.float32), label_ids=labels)


@pytest.mark.parametrize("method", ["temperature", "auto", "none"])
def test_the_end_of_a_run_tells_what_was_gained_and_what_is_left(tmp_path, method):
    made = trainer(tmp_path, Tilted, calibrator=method)
    report = finish_run(made, rows(600, 1), rows(500, 2), dataset_name="noise", task="image-classification")
    results = json.loads((tmp_path / "all_results.json").read_text())
    card = (tmp_path / "README.md").read_text()
    assert results["calibrator_asked_for"] == method and report.gain in card and report.gain in str(report)
    held_out, test = (made.flatten(made.predict(rows(count))) for count in (600, 500))
    best = fit_calibrator(held_out.logits, held_out.labels, "auto")
    after = log_softmax(best.calibrator.calibrated_logits(test.logits.astype(float)), axis=1)
    left = -after[np.arange(500), test.labels].mean()
    assert best.method in ("vector", "matrix") and results["refinement"]["method"] == best.method
    assert results["refinement"]["value"] == pytest.approx(left, abs=1e-6)
    gain = results["test_before_nll"] - results["test_after_nll"]
    assert results["nll_gain"]["value"] == pytest.approx(gain, abs=1e-9)
    if method == "auto":
        assert results["calibrator"] == best.method and results["refinement"]["further"] is None
        assert "no other map of its logits is known to lower" in card
    else:
        assert results["refinement"]["further"]["low"] > 0 and f"--calibrator auto ({best.method})" in card
    if method == "none":
        assert results["nll_gain"] == {"value": 0.0, "low": 0.0, "high": 0.0}
        assert "as they were trained" in card and "no calibrator was asked for" in card
        assert torch.equal(made.model.classifier.weight, build("vit").classifier.weight)


def test_of_a_head_without_a_bias_no_more_is_promised_than_it_can_do(tmp_path):
    made = trainer(tmp_path, Scaled)
    made.model.classifier = torch.nn.Linear(32, 5, bias=False)
    report = finish_run(made, rows(600, 1), rows(500, 2), dataset_name="noise", task="image-classification")
    assert report.refinement.further.low > 0 and report.refinement.calibrator.shift == ()
    assert report.refinement.calibrator.method in ("vector", "matrix")


def test_a_report_on_the_data_of_the_fit_promises_nothing(tmp_path):
    made = trainer(tmp_path, Tilted, validation=rows(600, 1))
    made.calibrate()
    report = made.report_on(made.flatten(made.predict(rows(600, 1))))
    assert report.refinement is None and "auto" not in report.gain
