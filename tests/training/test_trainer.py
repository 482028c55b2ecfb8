# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""`CalibrationTrainer` with real models: batches split in any way, checkpoints, calibration, and what it refuses."""

import copy
import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from small_models import MODELS, NUM_LABELS, PERCEIVERS, arguments, build, flat, samples, without_head
from transformers import (
    PerceiverConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import hf_focal
from hf_focal import (
    CalibrationTrainer,
    CalibrationTrainingArguments,
    FocalTrainer,
    ScheduledFocalLoss,
    compute_metrics,
)
from hf_focal.metrics import METRICS


# ---- Splitting a batch changes nothing ------------------------------------------------------------------------------


def train_in_steps(
    folder, kind, loss, count, batch_size, steps, reduction="mean", learning_rate=0.1, trainer_class=CalibrationTrainer
):
    model = build(kind)
    extra = {"loss": loss, "loss_reduction": reduction} if trainer_class is CalibrationTrainer else {}
    cls = CalibrationTrainingArguments if trainer_class is CalibrationTrainer else TrainingArguments
    args = arguments(
        folder, cls, per_device_train_batch_size=batch_size, gradient_accumulation_steps=steps, optim="sgd",
        learning_rate=learning_rate, max_grad_norm=0.0, lr_scheduler_type="constant", num_train_epochs=3, **extra,
    )  # fmt: skip
    trainer_class(model=model, args=args, train_dataset=samples(kind, count)).train()
    return flat(model)


SUMS = ["cross_entropy", "label_smoothing", "brier", "focal", "flsd-53", "flsc-531"]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("loss", ["cross_entropy", "flsd-53"])
def test_accumulation_gives_the_weights_of_the_whole_batch(tmp_path, kind, loss):
    start = flat(build(kind))
    whole = train_in_steps(tmp_path, kind, loss, 32, 32, 1)
    assert (whole - start).abs().max() > 1e-3  # it did train
    for batch_size, steps in ((16, 2), (8, 4)):
        assert (train_in_steps(tmp_path, kind, loss, 32, batch_size, steps) - whole).abs().max() < 1e-6


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("loss", SUMS)
def test_ragged_accumulation_gives_the_weights_of_the_whole_batch(tmp_path, kind, loss):
    whole = train_in_steps(tmp_path, kind, loss, 30, 30, 1)
    assert (train_in_steps(tmp_path, kind, loss, 30, 8, 4) - whole).abs().max() < 1e-6


def test_sum_reduction_is_the_plain_sum_over_the_accumulated_batch(tmp_path):
    mean = train_in_steps(tmp_path, "vit", "focal", 30, 30, 1)
    for batch_size, steps in ((30, 1), (8, 4)):  # 30 samples: their sum is 30 times the mean
        total = train_in_steps(tmp_path, "vit", "focal", 30, batch_size, steps, "sum", learning_rate=0.1 / 30)
        assert (total - mean).abs().max() < 1e-6


def test_the_stock_trainer_fails_the_same_check_on_bert(tmp_path):
    """The negative control: without our loss the check does see a difference."""
    whole = train_in_steps(tmp_path, "bert", None, 32, 32, 1, trainer_class=Trainer)
    split = train_in_steps(tmp_path, "bert", None, 32, 8, 4, trainer_class=Trainer)
    assert (split - whole).abs().max() > 1e-3


def test_sum_reduction_is_sum_gradient(tmp_path):
    """One SGD step with loss_reduction='sum' moves the weights by lr times the gradient of the summed loss."""
    model = build()
    data = samples("vit", 8)
    args = arguments(tmp_path, loss="focal", loss_reduction="sum", optim="sgd", learning_rate=1e-3, max_grad_norm=0.0,
                     lr_scheduler_type="constant")  # fmt: skip
    reference = copy.deepcopy(model)
    pixels = torch.stack([row["pixel_values"] for row in data])
    labels = torch.tensor([row["labels"] for row in data])
    probability = reference(pixels).logits.softmax(-1).gather(1, labels[:, None]).squeeze(1)
    (-((1 - probability) ** 3) * probability.log()).sum().backward()
    CalibrationTrainer(model=model, args=args, train_dataset=data).train()
    expected = torch.cat([(p - 1e-3 * p.grad).detach().reshape(-1) for p in reference.parameters()])
    assert (flat(model) - expected).abs().max() < 1e-6


def test_mmce_trains_under_accumulation_with_finite_weights(tmp_path):
    assert torch.isfinite(train_in_steps(tmp_path, "vit", "mmce", 30, 8, 4)).all()


@pytest.mark.parametrize("loss", [name for name in hf_focal.LOSSES if not name.startswith("flsc")])
def test_every_loss_serves_a_plain_trainer_unchanged(tmp_path, loss):
    model = build()
    start = flat(model)
    args = arguments(tmp_path, TrainingArguments, gradient_accumulation_steps=2, eval_strategy="epoch")
    Trainer(
        model=model, args=args, train_dataset=samples("vit", 20), eval_dataset=samples("vit", 10, seed=1),
        compute_loss_func=hf_focal.create_loss(loss), compute_metrics=compute_metrics,
    ).train()  # fmt: skip
    assert torch.isfinite(flat(model)).all() and (flat(model) - start).abs().max() > 1e-3


# ---- Epoch schedules ------------------------------------------------------------------------------------------------


def test_a_plain_trainer_needs_the_callback_of_a_scheduled_loss(tmp_path):
    loss = ScheduledFocalLoss()
    arguments_ = {"model": build(), "args": arguments(tmp_path, TrainingArguments), "train_dataset": samples("vit", 8)}
    with pytest.raises(RuntimeError, match="callback"):
        Trainer(**arguments_, compute_loss_func=loss).train()
    Trainer(**arguments_, compute_loss_func=loss, callbacks=[loss.callback()]).train()


class GammaRecorder(TrainerCallback):
    def __init__(self, loss):
        self.loss, self.seen = loss, []

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append((state.global_step, self.loss.gamma))


@pytest.mark.parametrize(
    ("loss_kwargs", "expected"),
    [
        ({"milestones": [1, 3]}, [5, 5, 3, 3, 3, 3, 1, 1]),  # epochs of two steps
        ({"milestones": [0.25, 0.5]}, [5, 5, 3, 3, 1, 1, 1, 1]),  # fractions of eight steps
    ],
)
def test_gamma_follows_the_schedule_and_a_resumed_run_goes_on_with_the_right_one(tmp_path, loss_kwargs, expected):
    options = {"loss": "flsc-531", "loss_kwargs": loss_kwargs, "num_train_epochs": 4, "save_strategy": "steps",
               "save_steps": 3, "lr_scheduler_type": "constant"}  # fmt: skip

    def run(folder, resume=None):
        model = build()
        trainer = CalibrationTrainer(model=model, args=arguments(folder, **options), train_dataset=samples("vit", 16))
        recorder = GammaRecorder(trainer.loss)
        trainer.add_callback(recorder)
        trainer.train(resume_from_checkpoint=resume)
        return recorder.seen, flat(model)

    seen, weights = run(tmp_path)
    assert [gamma for _, gamma in seen] == expected
    resumed, resumed_weights = run(tmp_path, resume=str(tmp_path / "checkpoint-3"))
    assert resumed == seen[3:]
    assert torch.equal(resumed_weights, weights)


def test_scheduled_loss_by_callback_equals_the_trainer_of_ours(tmp_path):
    loss = ScheduledFocalLoss(milestones=(1, 3))
    ours, theirs = build(), build()
    options = {"num_train_epochs": 4}
    Trainer(model=theirs, args=arguments(tmp_path, TrainingArguments, **options), train_dataset=samples("vit", 16),
            compute_loss_func=loss, callbacks=[loss.callback()]).train()  # fmt: skip
    CalibrationTrainer(
        model=ours,
        args=arguments(tmp_path, loss="flsc-531", loss_kwargs={"milestones": [1, 3]}, **options),
        train_dataset=samples("vit", 16),
    ).train()
    assert torch.equal(flat(ours), flat(theirs))


# ---- Evaluation and checkpoints -------------------------------------------------------------------------------------


def test_dropping_the_last_batch_drops_it_from_training_alone(tmp_path):
    data = samples("vit", 10)
    options = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "dataloader_drop_last": True}
    args = arguments(tmp_path, **options)
    trainer = CalibrationTrainer(model=build(), args=args, train_dataset=data, eval_dataset=data)
    assert len(trainer.get_train_dataloader()) == 2
    assert trainer.predict(data).predictions.shape == (10, NUM_LABELS)
    assert len(trainer.get_eval_dataloader()) == 3
    assert args.dataloader_drop_last is True


def test_evaluate_reports_every_metric_of_the_logits(tmp_path):
    data = samples("vit", 50)
    trainer = CalibrationTrainer(model=build(), args=arguments(tmp_path, n_bins=7), eval_dataset=data)
    metrics = trainer.evaluate()
    output = trainer.predict(data)
    expected = hf_focal.calibration_metrics_from_logits(output.predictions, output.label_ids, n_bins=7)
    assert {f"eval_{key}" for key in METRICS} <= set(metrics)
    for key, value in expected.items():
        assert metrics[f"eval_{key}"] == pytest.approx(value, abs=1e-12)
    pixels = torch.stack([row["pixel_values"] for row in data])
    with torch.no_grad():
        logits = trainer.model(pixels).logits
    assert np.abs(output.predictions - logits.numpy()).max() < 1e-6


class FixedECE(CalibrationTrainer):
    """Reports an ECE of our choosing at each evaluation."""

    values = (0.3, 0.1, 0.2)

    def evaluate(self, *args, **kwargs):
        metrics = super().evaluate(*args, **kwargs)
        metrics["eval_ece"] = self.values[round(self.state.epoch) - 1]
        return metrics


@pytest.mark.parametrize("cls", [CalibrationTrainingArguments, TrainingArguments])
def test_best_model_by_ece_is_the_one_of_lowest_ece(tmp_path, cls):
    args = arguments(
        tmp_path, cls, metric_for_best_model="ece", load_best_model_at_end=True, eval_strategy="epoch",
        save_strategy="epoch", num_train_epochs=3,
    )  # fmt: skip
    trainer = FixedECE(
        model=build(), args=args, train_dataset=samples("vit", 16), eval_dataset=samples("vit", 16, seed=1)
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    assert trainer.state.best_metric == 0.1


@pytest.mark.parametrize("kind", MODELS)
def test_the_weights_of_the_best_checkpoint_are_loaded(tmp_path, kind):
    """Of ViT too, whose checkpoints are saved under other names than the model's own."""
    args = arguments(
        tmp_path, metric_for_best_model="ece", load_best_model_at_end=True, eval_strategy="epoch",
        save_strategy="epoch", num_train_epochs=3,
    )  # fmt: skip
    model = build(kind)
    trainer = FixedECE(model=model, args=args, train_dataset=samples(kind, 16), eval_dataset=samples(kind, 16, seed=1))
    kept = {}

    class Keep(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            kept[state.global_step] = flat(model)

    trainer.add_callback(Keep())
    trainer.train()
    assert torch.equal(flat(model), kept[4])
    assert not torch.equal(kept[4], kept[6])


def test_greater_is_better_is_true_for_accuracy_and_as_given_otherwise(tmp_path):
    assert arguments(tmp_path, metric_for_best_model="accuracy").greater_is_better is True
    assert arguments(tmp_path, metric_for_best_model="eval_nll").greater_is_better is False
    assert arguments(tmp_path, metric_for_best_model="ece", greater_is_better=True).greater_is_better is True
    assert arguments(tmp_path, metric_for_best_model="loss").greater_is_better is False


def test_saved_model_holds_no_pickle(tmp_path):
    trainer = CalibrationTrainer(model=build(), args=arguments(tmp_path))
    trainer.save_model()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]


# ---- Calibration ----------------------------------------------------------------------------------------------------


def test_calibrate_fits_records_and_folds(tmp_path, overconfident):
    model, data = overconfident
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path, temperature_criterion="nll"), eval_dataset=data)
    raw = trainer.predict(data).predictions
    fit = trainer.calibrate(data)
    assert 5 < fit.temperature < 12
    assert without_head(model.config.calibration) == {
        "method": "temperature", "criterion": "nll", "split": "validation", "n_samples": 400,
        "temperature": fit.temperature, "folded": True,
    }  # fmt: skip
    assert np.abs(trainer.predict(data).predictions - raw / fit.temperature).max() < 1e-5
    assert trainer.evaluate()["eval_nll"] == pytest.approx(fit.after["nll"], rel=1e-5)
    json.dumps(model.config.calibration)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("why", ["one class alone", "criterion", "no label counts", "a head without a bias"])
def test_a_calibration_that_is_refused_leaves_the_one_that_was_there(tmp_path, overconfident, why, fold):
    model, data = overconfident
    if why == "a head without a bias":
        model.classifier.bias = None
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path), eval_dataset=data)
    fit = trainer.calibrate(data, fold=fold)
    record, weights = dict(model.config.calibration), {k: v.clone() for k, v in model.state_dict().items()}
    given, options = data, {"fold": True}
    if why == "criterion":
        options["criterion"] = "foo"
    elif why == "a head without a bias":
        options["method"] = "bias"
    else:
        options["method"] = "vector"
        given = [{**sample, "labels": -100 if why == "no label counts" else 1} for sample in data]
    with pytest.raises(ValueError):
        trainer.calibrate(given, **options)
    assert model.config.calibration == record and trainer.fit is fit
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert trainer.evaluate()["eval_nll"] == pytest.approx(fit.after["nll"], rel=1e-5)


def test_unfolded_temperature_counts_in_evaluation_once(tmp_path, overconfident):
    model, data = overconfident
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path), eval_dataset=data)
    raw = trainer.predict(data).predictions
    fit = trainer.calibrate(data, fold=False)
    assert model.config.calibration["folded"] is False
    assert np.abs(trainer.predict(data).predictions - raw).max() < 1e-6
    assert trainer.evaluate()["eval_ece"] == pytest.approx(fit.after["ece"], abs=1e-6)


def test_calibrating_again_unfolds_refits_and_folds(tmp_path, overconfident):
    model, data = overconfident
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path), eval_dataset=data)
    first = trainer.calibrate(data, criterion="nll")
    second = trainer.calibrate(data, criterion="nll")
    assert second.temperature == pytest.approx(first.temperature, rel=1e-5)
    assert second.before["nll"] == pytest.approx(first.before["nll"], rel=1e-5)
    with pytest.raises(ValueError, match="calibrated already"):
        trainer.calibrate(predictions=trainer.predict(data))


def test_training_unfolds_and_forgets_the_temperature(tmp_path, overconfident):
    model, data = overconfident
    trainer = CalibrationTrainer(
        model=model, args=arguments(tmp_path, learning_rate=0.0), train_dataset=data[:8], eval_dataset=data
    )
    raw = trainer.predict(data).predictions
    trainer.calibrate(data)
    trainer.train()
    assert getattr(model.config, "calibration", None) is None
    assert np.abs(trainer.predict(data).predictions - raw).max() < 1e-4


@pytest.mark.parametrize(("cls", "own", "batch_size"), PERCEIVERS)
def test_a_model_whose_inputs_the_config_does_not_tell_is_folded_with_a_sample_of_the_data(
    tmp_path, cls, own, batch_size
):
    torch.manual_seed(0)
    config = PerceiverConfig(
        num_latents=4, d_latents=16, d_model=16, num_blocks=1, num_self_attends_per_block=1, num_labels=NUM_LABELS,
        num_self_attention_heads=1, num_cross_attention_heads=1, attention_probs_dropout_prob=0.0, **own,
    )  # fmt: skip
    model = cls(config).eval()
    with pytest.raises(ValueError, match="inputs="):
        hf_focal.fold_temperature(model, 2.0)
    generator = torch.Generator().manual_seed(1)
    if "vocab_size" in own:
        inputs = torch.randint(3, 50, (210, 8), generator=generator)
    else:
        inputs = torch.randn(210, 3, 8, 8, generator=generator)
    head = next(p for p in model.perceiver.decoder.parameters() if len(p) == NUM_LABELS)
    with torch.no_grad():
        head *= 2 / model(inputs=inputs).logits.std()
        shares = (model(inputs=inputs).logits / 2).softmax(-1)
    labels = torch.multinomial(shares, 1, generator=generator).flatten().tolist()
    data = [{"inputs": row, "labels": label} for row, label in zip(inputs, labels, strict=True)]
    args = arguments(
        tmp_path, temperature_criterion="nll", per_device_eval_batch_size=batch_size, learning_rate=0.0,
        max_steps=1,
    )  # fmt: skip
    trainer = CalibrationTrainer(model=model, args=args, train_dataset=data[:8], eval_dataset=data)
    predictions = trainer.predict(data)
    fit = trainer.calibrate(predictions=predictions)
    assert 1.3 < fit.temperature < 3
    for again in (False, True):
        assert model.config.calibration["folded"] is True
        scaled = trainer.predict(data).predictions
        assert np.abs(scaled - predictions.predictions / fit.temperature).max() < 1e-5
        if not again:
            trainer.calibrate(Dataset.from_list(data).with_format("torch"))  # unfolds and folds
    trainer.train()  # unfolds
    assert np.abs(trainer.predict(data).predictions - predictions.predictions).max() < 1e-5


def test_calibrating_on_the_training_set_warns(tmp_path, overconfident):
    model, data = overconfident
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path), train_dataset=data)
    with pytest.warns(UserWarning, match="training set"):
        trainer.calibrate(data)


def test_calibrate_without_data_says_so(tmp_path):
    with pytest.raises(ValueError, match="data set"):
        CalibrationTrainer(model=build(), args=arguments(tmp_path)).calibrate()


# ---- What is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"loss": "focl"}, "Unknown loss 'focl'.*flsd-53"),
        ({"loss": "flsd-53", "gamma": 2.0}, "takes no 'gamma'"),
        ({"loss": "focal", "gamma": -1.0}, "gamma"),
        ({"gamma": -1.0}, "gamma"),
        ({"loss": "label_smoothing", "smoothing": 1.0}, "smoothing"),
        ({"loss": "mmce", "lam": -0.1}, "lam"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing"),
        ({"loss_reduction": "none"}, "loss_reduction"),
        ({"temperature_criterion": "accuracy"}, "temperature_criterion"),
        ({"n_bins": 0}, "n_bins"),
        ({"loss": "flsc-531", "loss_kwargs": {"milestones": [0.5, 2]}}, "milestones"),
    ],
)
def test_arguments_are_checked_at_construction(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **kwargs)


def test_a_parameter_that_the_default_loss_does_not_take_is_refused(tmp_path):
    with pytest.raises(ValueError, match="takes no 'gamma'"):
        CalibrationTrainer(model=build(), args=arguments(tmp_path, gamma=2.0))
    assert FocalTrainer(model=build(), args=arguments(tmp_path, gamma=2.0)).loss.gamma == 2.0


def test_subclasses_only_set_another_default(tmp_path):
    defaults = {
        "FocalTrainer": "focal", "FLSDTrainer": "flsd-53", "BrierTrainer": "brier", "MMCETrainer": "mmce",
        "LabelSmoothingTrainer": "label_smoothing",
    }  # fmt: skip
    for name, loss in defaults.items():
        cls = getattr(hf_focal, name)
        assert cls.__bases__ == (CalibrationTrainer,)
        assert cls(model=build(), args=arguments(tmp_path)).loss_name == loss
        assert cls(model=build(), args=arguments(tmp_path, loss="cross_entropy")).loss_name == "cross_entropy"


@pytest.mark.parametrize("num_labels", [1, NUM_LABELS])
def test_regressions_are_refused(tmp_path, num_labels):
    model = build()
    model.config.problem_type, model.config.num_labels = "regression", num_labels
    with pytest.raises(ValueError, match="A regression has no probabilities to calibrate"):
        CalibrationTrainer(model=model, args=arguments(tmp_path))


@pytest.mark.parametrize("setting", ["multi_label_classification", "one output"])
def test_heads_of_sigmoids_are_told_by_their_problem_type(tmp_path, setting):
    model = build()
    if setting == "one output":
        model.config.num_labels = 1
    else:
        model.config.problem_type = setting
    CalibrationTrainer(model=model, args=arguments(tmp_path))
    assert model.config.problem_type == "multi_label_classification"


def test_stock_label_smoothing_is_refused_with_plain_arguments_too(tmp_path):
    with pytest.raises(ValueError, match="label_smoothing"):
        CalibrationTrainer(model=build(), args=arguments(tmp_path, TrainingArguments, label_smoothing_factor=0.1))


def test_data_parallel_is_refused(tmp_path):
    args = arguments(tmp_path)
    args._n_gpu = 2
    with pytest.raises(ValueError, match="accelerate launch"):
        CalibrationTrainer(model=build(), args=args)


def test_a_loss_and_a_loss_function_together_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not both"):
        CalibrationTrainer(
            model=build(), args=arguments(tmp_path, loss="focal"), compute_loss_func=hf_focal.BrierLoss()
        )


def test_a_function_of_the_user_is_called_as_a_plain_trainer_would(tmp_path):
    seen = []

    def own(outputs, labels, num_items_in_batch=None):
        seen.append((type(outputs), labels.shape, num_items_in_batch))
        return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    def trained(loss):
        args = arguments(tmp_path, max_steps=1, per_device_train_batch_size=8, gradient_accumulation_steps=2)
        data = samples("vit", 16)
        trainer = CalibrationTrainer(model=build(), args=args, train_dataset=data, compute_loss_func=loss)
        trainer.train()
        return trainer

    trainer = trained(own)
    assert trainer.compute_loss_func is own and trainer.loss_name == "custom" and "own" in trainer.loss.title
    assert [(kind.__name__, shape, int(count)) for kind, shape, count in seen] == [
        ("ImageClassifierOutput", (8,), 16)
    ] * 2
    with_module = trained(hf_focal.CrossEntropyLoss())
    assert with_module.compute_loss_func is with_module.loss
    torch.testing.assert_close(flat(trainer.model), flat(with_module.model))


def test_plain_arguments_train_with_the_default_loss(tmp_path):
    trainer = CalibrationTrainer(
        model=build(), args=arguments(tmp_path, TrainingArguments), train_dataset=samples("vit", 8)
    )
    trainer.train()
    assert repr(trainer.loss) == repr(hf_focal.SampleDependentFocalLoss())
    assert trainer.model.config.problem_type == "single_label_classification"


def test_compute_metrics_serves_token_classification():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(4, 5, 3)), generator.integers(0, 3, (4, 5))
    labels[:, 3:] = -100
    kept = compute_metrics(SimpleNamespace(predictions=logits, label_ids=labels))
    flat_metrics = hf_focal.calibration_metrics_from_logits(logits[:, :3].reshape(-1, 3), labels[:, :3].reshape(-1))
    assert kept == flat_metrics
    assert compute_metrics(SimpleNamespace(predictions=(logits, None), label_ids=labels)) == kept


def test_a_forgotten_temperature_is_logged(tmp_path, caplog):
    model = build()
    hf_focal.fold_temperature(model, 2.0)
    with caplog.at_level(logging.WARNING, logger="hf_focal.training.trainer"):
        CalibrationTrainer(model=model, args=arguments(tmp_path), train_dataset=samples("vit", 8)).train()
    assert "temperature 2" in caplog.text
