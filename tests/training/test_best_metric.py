# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Which way the metric that a model is chosen by is better, whatever is before its name, and that there is one."""

import pytest
from small_models import arguments, build, samples
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from hf_focal import METRICS, CalibrationTrainer, CalibrationTrainingArguments, compute_metrics
from hf_focal.training.arguments import lower_is_better


SETS = {"clean": samples("bert", 16), "other": samples("bert", 16, seed=2)}
BEFORE = ["", "eval_", "eval_clean_", "clean_", "test_", "eval_accuracy_", "eval_ece_", "ece_"]
OTHERS = [None, "", "loss", "eval_clean_loss", "eval_f1", "piece", "accuracy_ecex", "eval_ece_f1"]


@pytest.mark.parametrize(
    "prefix", ["", "eval_", "eval_clean_", "clean_", "test_", "eval_accuracy_", "eval_ece_", "ece_"]
)
@pytest.mark.parametrize("key", METRICS)
def test_the_last_name_of_a_key_is_that_of_the_metric(prefix, key):
    assert lower_is_better(prefix + key) == METRICS[key].lower_is_better == (key != "accuracy")


@pytest.mark.parametrize(
    "name", [None, "", "loss", "eval_clean_loss", "eval_f1", "piece", "accuracy_ecex", "eval_ece_f1"]
)
def test_other_names_are_left_to_the_trainer(name):
    assert not lower_is_better(name)


@pytest.mark.parametrize(
    ("cls", "key", "strategy"),
    [
        (CalibrationTrainingArguments, "eval_clean_ece", "epoch"),
        (CalibrationTrainingArguments, "eval_clean_accuracy", "epoch"),
        (TrainingArguments, "clean_nll", "epoch"),
        (TrainingArguments, "eval_clean_brier", "best"),
    ],
)
def test_the_best_of_the_history_is_kept(tmp_path, cls, key, strategy):
    often = {"eval_strategy": "epoch", "save_strategy": strategy, "load_best_model_at_end": strategy == "epoch"}
    args = arguments(tmp_path, cls, metric_for_best_model=key, num_train_epochs=4, learning_rate=5e-2, **often)
    made = CalibrationTrainer(model=build("bert"), args=args, train_dataset=samples("bert", 16), eval_dataset=SETS)
    made.train()
    full = f"eval_{key.removeprefix('eval_')}"
    seen = [entry[full] for entry in made.state.log_history if full in entry]
    assert len(seen) == 4 and len(set(seen)) > 1
    assert made.state.best_metric == (max if key.endswith("accuracy") else min)(seen)
    if strategy == "epoch":
        assert made.evaluate()[full] == pytest.approx(made.state.best_metric, abs=1e-6)


class Fixed(CalibrationTrainer):
    """Reports values of our choosing."""

    values = iter(())

    def evaluation_loop(self, *args, **kwargs):
        output = super().evaluation_loop(*args, **kwargs)
        if args[-1:] == ("eval_clean",) or kwargs.get("metric_key_prefix") == "eval_clean":
            output.metrics["eval_clean_ece"] = next(self.values)
        return output


@pytest.mark.parametrize("cls", [CalibrationTrainingArguments, TrainingArguments])
def test_early_stopping_waits_while_the_error_falls(tmp_path, cls):
    args = arguments(
        tmp_path, cls, metric_for_best_model="eval_clean_ece", num_train_epochs=6, eval_strategy="epoch",
        save_strategy="epoch", load_best_model_at_end=True,
    )  # fmt: skip
    made = Fixed(model=build("bert"), args=args, train_dataset=samples("bert", 16), eval_dataset=SETS)
    made.values = iter([0.4, 0.3, 0.2, 0.25, 0.1, 0.1])
    made.add_callback(EarlyStoppingCallback(1))
    made.train()
    assert made.state.epoch == 4 and made.state.best_metric == 0.2


def test_a_metric_that_is_named_later_has_its_direction_too(tmp_path):
    for cls in (CalibrationTrainingArguments, TrainingArguments):
        for name, higher in (("eval_clean_ece", False), ("accuracy", True), ("eval_loss", False), ("f1", True)):
            args = arguments(tmp_path, cls)
            args.metric_for_best_model = name
            CalibrationTrainer(model=build("bert"), args=args)
            assert args.greater_is_better is higher


def test_what_the_user_chose_in_our_arguments_stays(tmp_path):
    args = arguments(tmp_path, metric_for_best_model="ece", greater_is_better=True)
    CalibrationTrainer(model=build("bert"), args=args)
    assert args.greater_is_better is True


NAMES = {
    "eval_clean_ecee": "'clean_ece'",
    "ece": "'clean_ece'",  # of which of the sets?
    "eval_claen_nll": "'clean_nll'",
    "eval_third_accuracy": "",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("metrics", [None, compute_metrics])
def test_a_name_that_no_evaluation_gives_ends_before_the_first_step(tmp_path, name, metrics):
    args = arguments(tmp_path, metric_for_best_model=name, eval_strategy="epoch", save_strategy="epoch")
    made = CalibrationTrainer(
        model=build("bert"), args=args, train_dataset=samples("bert", 16), eval_dataset=SETS, compute_metrics=metrics
    )
    with pytest.raises(ValueError, match=f"metric_for_best_model='{name}' is nothing.*Did you mean {NAMES[name]}"):
        made.train()
    assert made.state.global_step == 0


def test_names_that_others_may_give_are_left_alone(tmp_path):
    class Adds(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            metrics["eval_own"] = 1.0

    options = {"metric_for_best_model": "own", "eval_strategy": "epoch", "save_strategy": "epoch"}
    whole = {"train_dataset": samples("bert", 8), "eval_dataset": samples("bert", 8)}
    CalibrationTrainer(model=build("bert"), args=arguments(tmp_path, **options), callbacks=[Adds()], **whole).train()
    CalibrationTrainer(
        model=build("bert"), args=arguments(tmp_path, **options), compute_metrics=lambda seen: {"own": 1.0}, **whole
    ).train()
    options["metric_for_best_model"] = "ece"
    with pytest.raises(ValueError, match="they give the loss alone"):
        CalibrationTrainer(
            model=build("bert"), args=arguments(tmp_path, prediction_loss_only=True, **options), **whole
        ).train()


def test_a_search_minds_the_direction_of_its_metric(tmp_path, monkeypatch):
    searched = []
    monkeypatch.setattr(Trainer, "hyperparameter_search", lambda self, *args, **kwargs: searched.append(args))

    def search(name, **options):
        args = arguments(tmp_path, metric_for_best_model=name)
        made = CalibrationTrainer(model=build("bert"), args=args, eval_dataset=SETS)
        made.hyperparameter_search(**options)
        return searched[-1]

    measured = {"eval_loss": 3.0, "eval_clean_ece": 0.1, "eval_accuracy": 0.7}
    for name, value, direction in (
        ("clean_ece", 0.1, "minimize"), ("accuracy", 0.7, "maximize"), (None, 3.0, "minimize"),
    ):  # fmt: skip
        given = search(name)
        assert given[1](measured) == value and given[3] == direction
    with pytest.raises(ValueError, match="eval_clean_ece is to be minimized, got direction='maximize'"):
        search("clean_ece", direction="maximize")
    own = search("clean_ece", compute_objective=len, direction="maximize")
    assert own[1] is len and own[3] == "maximize"


def test_a_trial_sets_the_parameters_of_the_loss(tmp_path, monkeypatch):
    args = arguments(tmp_path, loss="focal", gamma=1.0)
    made = CalibrationTrainer(model_init=lambda: build("bert"), args=args, train_dataset=samples("bert", 8))

    def setup(self, trial):
        self.args.gamma = trial

    monkeypatch.setattr(Trainer, "_hp_search_setup", setup)
    made._hp_search_setup(2.5)
    assert made.loss.gamma == 2.5 and made.compute_loss_func is made.loss
