# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""A training that diverges ends with the step at which it did, whoever sees it first, and leaves what was before."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from small_models import arguments, build, flat, samples
from transformers import TrainerCallback

from hf_focal import CalibrationTrainer
from hf_focal.training.divergence import SKIPPED_STEPS, DivergenceWatch, are_scores


def trainer(folder, callback=None, count=48, **options):
    """Six steps of eight samples."""
    options = {"eval_strategy": "no", "loss": "cross_entropy", **options}
    made = CalibrationTrainer(
        model=build("bert"), args=arguments(folder, **options), train_dataset=samples("bert", count),
        eval_dataset=samples("bert", 16, seed=1),
    )  # fmt: skip
    if callback is not None:
        made.add_callback(callback)
    return made


class SpoilAt(TrainerCallback):
    """Set weights to a value before that step is computed, or right after the step was made."""

    def __init__(self, step, value=torch.nan, after=False):
        self.step, self.value, self.after = step, value, after

    def spoil(self, model):
        model.classifier.weight.data[0] = self.value

    def on_step_begin(self, args, state, control, model, **kwargs):
        if not self.after and state.global_step + 1 == self.step:
            self.spoil(model)

    def on_step_end(self, args, state, control, model, **kwargs):
        if self.after and state.global_step == self.step:
            self.spoil(model)


@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_first_step_of_a_loss_that_is_not_finite_is_named(tmp_path, filtered, accumulated):
    options = {"logging_nan_inf_filter": filtered, "gradient_accumulation_steps": accumulated}
    made = trainer(tmp_path, SpoilAt(3), **options)
    with pytest.raises(ValueError, match="training diverged at step 3: the loss is not finite.*lower learning_rate"):
        made.train()
    assert made.state.global_step == 2 and not made.is_in_train


def test_a_learning_rate_beyond_all_bounds_ends_with_what_to_try(tmp_path):
    options = {"learning_rate": 1e30, "optim": "sgd", "max_grad_norm": 0.0}
    with pytest.raises(ValueError, match=r"diverged at step \d: .*now 1e\+30\).*max_grad_norm=1.0 to clip gradients"):
        trainer(tmp_path, **options).train()


def test_checkpoints_before_stay_and_none_is_saved_of_weights_that_are_not_finite(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2}
    with pytest.raises(ValueError, match="diverged at step 4: weights are not finite"):
        trainer(tmp_path, SpoilAt(4, after=True), **options).train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    kept = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(value.isfinite().all() for value in kept.values())
    whole = trainer(tmp_path / "whole", **options)
    whole.train()
    resumed = trainer(tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert torch.equal(flat(resumed.model), flat(whole.model))
    again = trainer(tmp_path, SpoilAt(5), **options)
    with pytest.raises(ValueError, match="diverged at step 5"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_weights_that_the_last_step_spoils_are_found_at_the_end(tmp_path):
    with pytest.raises(ValueError, match="diverged at step 6: weights are not finite"):
        trainer(tmp_path, SpoilAt(6, after=True)).train()


@pytest.mark.parametrize("metrics", [None, lambda prediction: {"ece": 0.1}])
def test_an_evaluation_whose_logits_are_not_finite_is_no_metric(tmp_path, metrics):
    """The weights are finite, and what they give is not."""
    made = trainer(tmp_path, SpoilAt(3, 3e38, after=True), eval_strategy="steps", eval_steps=3, learning_rate=0.0)
    made.model.bert.pooler.dense.weight.data.fill_(0)
    made.model.bert.pooler.dense.bias.data.fill_(10)  # features of 1, so that a row of 32 such weights overflows
    if metrics is not None:
        made.compute_metrics = metrics
    with pytest.raises(ValueError, match="diverged at step 3: the logits of the evaluation are not finite"):
        made.train()


def test_a_batch_without_a_label_that_counts_is_no_divergence(tmp_path):
    """Its loss is nothing, and so is its gradient: the weights are those of training without it."""
    options = {"optim": "sgd", "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential"}
    data = samples("bert", 24)
    masked = data[:8] + [{**row, "labels": -100} for row in data[8:16]] + data[16:]
    weights = []
    for rows in (masked, data[:8] + data[16:]):
        made = trainer(tmp_path, **options)
        made.train_dataset = rows
        made.train()
        weights.append(flat(made.model))
    assert torch.equal(*weights)


def watched(scaled, filtered=True):
    model = torch.nn.Linear(2, 2)
    args = SimpleNamespace(device=torch.device("cpu"), logging_nan_inf_filter=filtered, max_grad_norm=1.0, fp16=scaled,
                           learning_rate=0.1)  # fmt: skip
    return model, DivergenceWatch(model, args, scaled)


def test_an_infinite_loss_with_finite_gradients_is_no_divergence():
    """Such as that of a label whose class is masked."""
    model, watch = watched(scaled=False)
    model.weight.grad = torch.ones(2, 2)
    watch.see(torch.tensor(torch.inf), 1)
    watch.see(torch.tensor(1.0), 2)
    watch.end(2)
    model.weight.grad[0, 0] = torch.nan
    with pytest.raises(ValueError, match="diverged at step 3"):
        watch.see(torch.tensor(torch.nan), 3)


def test_steps_that_a_gradient_scaler_skips_are_no_divergence_until_it_skips_them_all():
    model, watch = watched(scaled=True)
    model.weight.grad = torch.full((2, 2), torch.nan)
    for step in range(1, SKIPPED_STEPS + 1):
        watch.see(torch.tensor(torch.inf), step)
    watch.see(torch.tensor(1.0), SKIPPED_STEPS + 1)
    watch.check_weights(SKIPPED_STEPS + 1)
    first = SKIPPED_STEPS + 2
    for step in range(first, first + SKIPPED_STEPS):
        watch.see(torch.tensor(torch.inf), step)
    with pytest.raises(ValueError, match=f"diverged at step {first}: .*bf16 or float32 instead of fp16"):
        watch.see(torch.tensor(torch.inf), first + SKIPPED_STEPS)
    with pytest.raises(ValueError, match=f"diverged at step {first}"):
        watch.end(first + 1)


def test_scores_are_rows_that_a_softmax_can_be_taken_of():
    inf, nan = torch.inf, torch.nan
    rows = torch.tensor([[0.0, 1.0], [-inf, 1.0], [-inf, -inf], [inf, 0.0], [nan, 0.0], [nan, -inf]])
    assert are_scores(rows).tolist() == [True, True, False, False, False, False]
    assert are_scores(rows).tolist() == rows.softmax(-1).isfinite().all(-1).tolist()
