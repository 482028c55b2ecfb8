# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""`CalibrationTrainer`: a `Trainer` that trains with a calibration loss and fits a calibrator afterwards."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from datasets import IterableDataset
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import EvalPrediction, PredictionOutput, TrainOutput

from .. import networks  # noqa: F401  (registers our architectures, so that their checkpoints load)
from ..calibrators import Fit, calibrator_of
from ..calibrators.base import AUTO, NONE, calibrator_class, check_method
from ..calibrators.fit import DEFAULT, fit_for_model, takes_intercept
from ..calibrators.threshold import promise_after
from ..checks import row_blocks
from ..losses import LOSSES, CalibrationLoss, as_loss, create_loss
from ..metrics.thresholds import thresholds_of
from ..models.fingerprint import fingerprint
from ..models.fold import fold_calibrator, is_half, lacks_bias, rolled_back, unfold_calibrator
from ..models.head import check_classifier, check_labels_of_head
from ..models.record import (
    ROUNDED,
    calibration_record,
    forget_record,
    record_of,
    stated_record,
    why_of_another_head,
)
from ..models.scores import score_map
from ..models.sigmoid import activation_of, is_sigmoid, tell_of_sigmoids
from ..networks.zero_shot import choice_of, has_scale, refuse_without_labels
from ..predictions import Predictions
from ..results.report import Report
from ..results.spread import spread_of
from ..tasks import Task
from .arguments import LABELS, CalibrationTrainingArguments, settle
from .base_trainer import plain_module
from .divergence import DivergenceWatch
from .facts import training_facts
from .sharing import SharingTrainer
from .streams import check_dataset, is_stream


logger = logging.getLogger(__name__)

_TRAINING = "Training starts from the logits before calibration"


class CalibrationTrainer(SharingTrainer):
    """
    A `Trainer` for calibrated classifiers.

    It trains with `args.loss`, or with its `default_loss`; `evaluate()` reports accuracy, NLL, Brier score and the
    calibration errors; [`~CalibrationTrainer.calibrate`] fits a calibrator, such as a temperature, and folds it into
    the model. Batches split over accumulation steps or processes give the same weights as whole ones (MMCE pairs
    samples within a micro-batch, so there alone they differ).

    A loss that learns from validation data (`adafocal`) is updated after each evaluation during training; its state
    is saved in the checkpoints.

    What [`~Trainer.predict`] returns are logits before any calibration that is not folded into the head, of models
    with further outputs the logits alone. The loss and the metrics that `evaluate()` and `predict()` report, of a
    `compute_metrics` too, are those after it.

    Training that diverges ends with a `ValueError` that names the step, before anything not finite is saved.

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`):
            A classifier with one label per sample or token; or with a sigmoid head, of several labels a sample or of
            a single logit, whose labels are 0 and 1 for each output, or -100 where it is not known. Its config then
            gets `problem_type="multi_label_classification"`.
        args ([`CalibrationTrainingArguments`] or `TrainingArguments`, *optional*):
            With plain `TrainingArguments` the loss is `default_loss`.
        kwargs:
            As for `Trainer`. A `compute_loss_func` replaces the loss, a `compute_metrics` the metrics.

    Raises:
        ValueError: If the model is a regression, the loss does not take a given parameter,
            `label_smoothing_factor > 0`, the process sees several GPUs (`torch.nn.DataParallel`), `label_names` lacks
            `"labels"`, a target is for the other kind of head, or the loss learns from validation data and there is
            none or its logits are not kept.
    """

    default_loss = "flsd-53"
    loss: CalibrationLoss
    _ready = False  # whether the trainer is made

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        *,
        compute_loss_func: Callable | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        **kwargs: Any,
    ) -> None:
        args = CalibrationTrainingArguments("tmp_trainer") if args is None else args
        model = plain_module(model)
        refuse_without_labels(model)
        chosen = getattr(args, "loss", None)
        if compute_loss_func is None:
            self._create_loss(args)
        elif chosen is not None:
            raise ValueError(f"Give either loss={chosen!r} in the arguments or a compute_loss_func, not both.")
        else:
            self.loss_name, self.loss = "custom", as_loss(compute_loss_func)
        settle(args)
        if model is not None:
            check_classifier(model)
        self.fit: Fit | None = None
        self.report: Report | None = None
        self.about: dict[str, Any] = {}  # fields of the card's `About`, as far as they are known
        self.task_name: str | None = None  # where the name of the model does not tell
        self._held_out: Predictions | None = None  # what the calibrator was fitted on
        self._card_for: str | None = None  # the id for which README.md is up to date
        self._trained: dict[str, str] = {}  # the facts of a training that ended
        self._known_loss: dict[str, Any] = {}  # what an earlier run trained the model with, as the record tells
        super().__init__(
            model,
            args,
            data_collator,
            train_dataset,
            eval_dataset,
            compute_loss_func=self.loss if compute_loss_func is None else compute_loss_func,
            compute_metrics=compute_metrics or self._metrics,
            **kwargs,
        )
        self.label_names = [LABELS]  # whatever else `label_names` and the model's forward tell of
        if self.loss.learns_from_validation:
            self._check_validation()
            self.add_callback(self.loss.callback(evaluate=False))
        check_classifier(self.model)
        self._mask_classes()
        self._ready = True
        self._forget_other_head(folded_alone=True)  # an unfolded record is refused by whatever would apply it
        told = tell_of_sigmoids(self.model.config, self.model)
        if not told and self.model.config.problem_type is None and choice_of(self.model) is None:
            self.model.config.problem_type = "single_label_classification"
        self._check_targets()

    def _check_targets(self) -> None:
        """Refuse thresholds of the other kind of head."""
        sigmoid, num_labels = is_sigmoid(self.model.config), self.model.config.num_labels
        given = [name for name in ("target_precision", "threshold_metric") if getattr(self.args, name, None)]
        if given and not sigmoid:
            raise ValueError(
                f"{given[0]} is for models of several labels a sample, or of one logit, and this one has a softmax "
                f"over {num_labels} classes: use target_accuracy, a threshold on the confidence of the one answer."
            )
        if sigmoid and getattr(self.args, "target_accuracy", None) is not None:
            raise ValueError(
                f"target_accuracy is for models that give one answer a sample, and each of the {num_labels} labels of "
                "this one has a probability of its own: use target_precision or threshold_metric='f1', which give a "
                "threshold for each."
            )

    def _check_validation(self) -> None:
        if self.eval_dataset is None or isinstance(self.eval_dataset, dict) or self.args.eval_strategy == "no":
            raise ValueError(
                f"The loss {self.loss_name!r} learns from one validation set after each evaluation: give the trainer "
                'an eval_dataset (no dict of them), and its arguments eval_strategy="epoch".'
            )
        if self.args.prediction_loss_only or self.args.batch_eval_metrics:
            raise ValueError(
                f"The loss {self.loss_name!r} learns from the validation logits: prediction_loss_only and "
                "batch_eval_metrics must be False."
            )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a micro-batch, scaled so that micro-batches and processes add up to the whole batch."""
        if torch.is_grad_enabled():
            state = self.state
            self.loss.set_progress(fraction=state.global_step / max(state.max_steps, 1), epoch=state.epoch or 0.0)
            if isinstance(num_items_in_batch, Tensor):  # no label of the batch counts: 0, not 0 / 0
                num_items_in_batch = num_items_in_batch.clamp(min=1)
        labels = inputs.get(LABELS)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.loss_name != "custom" and isinstance(labels, Tensor) and self._logits(outputs).ndim == 2:
            check_labels_of_head(self.model.config, labels.shape)
        if not torch.is_grad_enabled():
            loss = self._loss_of_samples(loss, outputs, labels)
            return (loss, {"logits": self._logits(outputs)}) if return_outputs else loss
        if self.loss.reduction == "sum" and not self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # undoes the mean over processes, so that a sum stays one
        return (loss, {"logits": self._logits(outputs)}) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """As `Trainer.training_step`; a training that diverged goes no further."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._watch is not None:
            self._watch.see(loss, self.state.global_step + 1)
        return loss

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        control = self.control
        if self._watch is not None and (control.should_save or control.should_evaluate):
            self._watch.check_weights(self.state.global_step)
        elif self._watch is not None and control.should_log:
            self._watch.check(self.state.global_step)
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """
        As `Trainer.train`. A calibrator of the model is undone and forgotten first: training would outdate it. One of
        another head, such as that of a checkpoint from which another task begins, is forgotten and nothing is undone.

        Raises:
            ValueError: If training diverged, or `args.metric_for_best_model` is nothing that an evaluation gives.
        """
        self._check_best_metric()
        if why := (self.task or Task).untrained:
            raise ValueError(f"{type(self.model).__name__} {why}")
        if self.model_init is None:
            self.forget_temperature(_TRAINING, self.train_dataset)
        self._watch = None  # `model_init` may still replace the model
        try:
            with self._closed_bars():
                output = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
                if self._watch is not None:
                    self._watch.end(self.state.global_step)
            self._trained = training_facts(self)
        finally:
            self.is_in_train, self._watch = False, None
        return output

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int = 20,
        direction: str | list[str] | None = None,
        backend: Any = None,
        hp_name: Callable[[Any], str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        As `Trainer.hyperparameter_search`, whose own objective is the sum of all metrics, the better and the worse
        ones: here it is `args.metric_for_best_model`, or else the loss, in its own direction. A trial may set
        parameters of the loss, such as `gamma`.

        Raises:
            ValueError: If the direction given is not that of the metric.
        """
        if compute_objective is None:
            name = self.args.metric_for_best_model or "loss"
            key = name if name.startswith("eval_") else f"eval_{name}"
            wanted = "maximize" if self.args.metric_for_best_model and self.args.greater_is_better else "minimize"
            if direction not in (None, wanted):
                raise ValueError(f"{key} is to be {wanted}d, got direction={direction!r}: leave it unset.")
            compute_objective, direction = lambda metrics: metrics[key], wanted
        return super().hyperparameter_search(
            hp_space, compute_objective, n_trials, direction or "minimize", backend, hp_name, **kwargs
        )

    def _hp_search_setup(self, trial: Any) -> None:
        super()._hp_search_setup(trial)
        if trial is not None and self.loss_name != "custom":
            if self.loss.learns_from_validation:
                self.pop_callback(type(self.loss.callback()))
            self._create_loss(self.args)
            self.compute_loss_func = self.loss
            if self.loss.learns_from_validation:
                self.add_callback(self.loss.callback(evaluate=False))

    def _create_loss(self, args: TrainingArguments) -> None:
        parameters = args.loss_parameters() if isinstance(args, CalibrationTrainingArguments) else {}
        self.loss_name = str(getattr(args, "loss", None) or self.default_loss)
        self.loss = create_loss(self.loss_name, **parameters)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        self._watch = DivergenceWatch(self.model, self.args, self.accelerator.scaler is not None)
        return prepared

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """As `Trainer.call_model_init`, which gives a model for each training: see [`~CalibrationTrainer.train`]."""
        model = plain_module(super().call_model_init(trial))
        if self._ready:
            self.model = model
            self.forget_temperature(_TRAINING, self.train_dataset)
        return model

    def forget_temperature(self, reason: str, dataset: Any) -> None:
        """
        Undo the temperature of a model that is calibrated, so that its logits are those before scaling. `dataset` has
        samples that the model takes.
        """
        self.fit = self.report = self._held_out = self._card_for = None
        self.about = {}
        self._forget_other_head()
        record = stated_record(self.model)
        if record is None:
            return
        if record["folded"]:
            unfold_calibrator(self.model, inputs=self._probe(dataset))
        logger.warning("%s: the %s of the model is undone and cleared.", reason, calibrator_of(record).named)
        self._known_loss = {key: record[key] for key in ("loss", "loss_parameters") if key in record}
        del self.model.config.calibration

    def _forget_other_head(self, folded_alone: bool = False) -> None:
        """Forget a record that was not fitted to the head of this model, whose logits stay as they are."""
        record = stated_record(self.model)
        if record is not None and (record["folded"] or not folded_alone):
            if reason := why_of_another_head(self.model, record):
                forget_record(self.model, reason)

    def calibrate(
        self,
        dataset: Any = None,
        *,
        predictions: PredictionOutput | Predictions | None = None,
        criterion: str | None = None,
        split: str = "validation",
        fold: bool | None = None,
        method: str | None = None,
        guard: bool | None = None,
        **options: Any,
    ) -> Fit:
        """
        Fit a calibrator, such as a temperature, on held-out data, record it in `model.config.calibration` and fold it
        into the head.

        Where the data do not show that it helps (under the guard), or it is at an end of the range searched (always),
        the model is left as it is: the record holds the temperature 1, `helped` as false, and `why`.

        With `args.target_accuracy` the record holds as `threshold` from which confidence on the calibrated model is
        right so often, see [`choose_threshold`]: `confidence` (`None` where nothing can be promised), `accuracy`,
        `level`, and what it keeps of this data. For a head of sigmoids it holds as `thresholds` what
        `args.target_precision` or `args.threshold_metric` ask for, see [`choose_thresholds`]: `metric`, and with a
        place for each label `values` (`None` where there is none), `observed` and `kept`.

        Args:
            dataset (`Dataset`, *optional*, defaults to `eval_dataset`):
                Labelled data that the model was not trained on. A model that is calibrated already is unfolded first.
            predictions (`PredictionOutput` or [`Predictions`], *optional*):
                What [`~Trainer.predict`], or in less memory [`~CalibrationTrainer.predictions_of`], gave on that data,
                to spare a second pass.
            criterion (`str`, *optional*, defaults to `args.temperature_criterion`):
                `"ece"` or `"nll"`, see [`fit_calibrator`].
            split (`str`, *optional*, defaults to `"validation"`):
                Name of the data, for the record.
            fold (`bool`, *optional*, defaults to `args.fold_temperature`, and `False` where no head can do it):
                Change the head, so that the plain softmax is calibrated, or its sigmoids. Otherwise the calibrator
                stays in the config alone, where `evaluate()` heeds it. For a head without a bias, `"vector"`,
                `"matrix"`, `"platt"` and `"auto"` are then fitted without an intercept. What the head was is saved
                with the model. Rounding changes some answers of a head in half precision: one more pass over the data
                counts them, for record and report. An adapter of PEFT carries the head that it trained, and
                `save_model()` writes the record beside it, into `calibration.json`.
            method (`str`, *optional*, defaults to `args.calibrator`):
                A name in `hf_focal.CALIBRATORS`, such as `"temperature"` or `"focal"`. `"focal"` cannot be folded. For
                a head of sigmoids one in `hf_focal.SIGMOID_CALIBRATORS`, such as `"platt"`. Zero-shot models take a
                temperature alone, and a SigLIP `"platt"` as well, with a scale and a shift that all labels share,
                which is what it gets where nothing is asked for.
            guard (`bool`, *optional*, defaults to `args.temperature_guard`):
                Take it only where the data show that it helps: unset, on for `"nll"` and off for `"ece"`.
            options:
                Of the method, such as `gamma` of `"focal"`: the gamma to undo, by default fitted.

        Returns:
            [`Fit`]: The calibrator, and the metrics on this data before and after.

        Raises:
            ValueError: If there is no data, the model cannot be folded, or its weights are sharded over processes.
        """
        method = self.method_for(method)
        options = {**self._able.get(method, {}), **options}
        fold = self._is_to_fold(method, fold)
        given, dataset = dataset, self.eval_dataset if dataset is None else dataset
        if predictions is None:
            given = dataset
            if dataset is None:
                raise ValueError(
                    "calibrate needs one labelled data set: pass it, or give the trainer an eval_dataset."
                )
            check_dataset(dataset)
            if dataset is self.train_dataset:
                warnings.warn(
                    "The calibrator is being fitted on the training set, where the model is more confident and more "
                    "often right than on new data. Use held-out data.",
                    UserWarning,
                    stacklevel=2,
                )
        elif calibration_record(self.model) is not None:
            raise ValueError("This model is calibrated already, so its predictions may be scaled: pass the dataset.")
        with self.kept_on_error():
            if predictions is None:
                self.forget_temperature("Calibrating anew", dataset)
                predictions = self.predictions_of(dataset, split)
            return self._fit_to(predictions, given, dataset, split, fold, method, criterion, guard, options)

    def method_for(self, asked: str | None = None) -> str:
        """The calibrator to fit, by what is asked for here or in the arguments, and what heads of the task can do."""
        able = self._able
        usual = next(iter(able), DEFAULT)
        method = check_method(str(asked or getattr(self.args, "calibrator", None) or usual))
        if not able:
            return check_method(method, activation_of(self.model))
        if method in (NONE, *able):
            return method
        if method == AUTO:  # the guard leaves what does not help
            return usual
        ways, why = " or ".join(map(repr, able)), (self.task or Task).why_these
        raise ValueError(f"calibrator={method!r} cannot be: {why}. Use {ways}, or leave it unset.")

    @property
    def _able(self) -> dict[str, dict[str, Any]]:
        """The methods that the head can do, with their options; none: all of them."""
        return (self.task or Task).calibrators(self.model)

    @contextmanager
    def kept_on_error(self) -> Iterator[None]:
        """After an error, the calibration of the model, and what is known of it, as they were."""
        names = ("fit", "report", "about", "_held_out", "_card_for", "_known_loss", "_asked", "_auto_options")
        known = {name: getattr(self, name) for name in names}
        with rolled_back(self.model):
            try:
                yield
            except BaseException:
                vars(self).update(known)
                raise

    def _fit_to(
        self, predictions: PredictionOutput | Predictions, given: Any, dataset: Any, split: str, fold: bool,
        method: str, criterion: str | None, guard: bool | None, options: dict[str, Any],
    ) -> Fit:  # fmt: skip
        """Fit a calibrator to the predictions of a data set, where it was given, and put it on the model."""
        held_out, activation = self._labelled(predictions, split), activation_of(self.model)
        check_labels_of_head(self.model.config, held_out.labels.shape)
        options = {name: value for name, value in options.items() if value is not None}
        without = {"intercept": False} if fold and lacks_bias(self.model, self._probe(dataset)) else {}
        if takes_intercept(method, activation):
            options = {**without, **options}
        fit = fit_for_model(
            held_out.logits,
            held_out.labels,
            method,
            criterion=str(criterion or getattr(self.args, "temperature_criterion", "nll")),
            n_bins=getattr(self.args, "n_bins", 15),
            guard=getattr(self.args, "temperature_guard", None) if guard is None else guard,
            **options,
        )
        loss = self._loss_record() if self.state.global_step else self._known_loss
        facts = {"criterion": fit.criterion, **loss, "split": split, "n_samples": fit.n_samples}
        facts |= self.task.record_facts(self.model) if self.task else {}
        facts |= self._threshold(fit, held_out, options)
        if fit.unchanged:
            facts |= {"helped": False, "why": fit.why}
        if fold:
            fold_calibrator(self.model, fit.calibrator, inputs=self._probe(dataset), record=facts)
            self._count_rounding(fit, held_out, given)
        else:
            if has_scale(self.model):
                score_map(self.model, fit.calibrator)  # refuses what differs from label to label
            self.model.config.calibration = record_of(fit.calibrator, facts, False, fingerprint(self.model))
            tell_of_sigmoids(self.model.config, self.model)
        self.fit, self.report, self._held_out, self._card_for, self.about = fit, None, held_out, None, {}
        self._asked, self._auto_options = method, without
        self._warn_of_spread(fit, held_out, fold)
        return fit

    def _warn_of_spread(self, fit: Fit, held_out: Predictions, folded: bool) -> None:
        """Where the logits that the model gives lie further apart than a server takes, which tells of a softmax."""
        if held_out.is_sigmoid:
            return
        what = f"{held_out.split} {(self.task or Task).unit}"
        if words := spread_of(held_out.logits, fit.calibrator if folded else None).words(what):
            logger.warning("%s", words)

    def _is_to_fold(self, method: str, fold: bool | None) -> bool:
        """Whether a head is to do what a method fits; that it could not is an error."""
        activation = activation_of(self.model)
        asked, foldable = fold, method == AUTO or calibrator_class(method, activation).foldable()
        if fold is None:
            fold = foldable and getattr(self.args, "fold_temperature", True)
        if fold and not foldable:
            raise ValueError(f"method={method!r} is not linear in the logits and cannot be folded: leave fold unset.")
        if fold and self._head_is_elsewhere():
            how = "Only FSDP of version 2 gathers it; hf_focal.fold_checkpoint(folder) folds a model once it is saved"
            if asked:
                raise ValueError(f"The head is sharded over processes and cannot be folded here. {how}.")
            logger.warning("The head is sharded over processes, so that the calibrator stays in the config. %s.", how)
            return False
        return fold

    def _head_is_elsewhere(self) -> bool:
        """Whether the processes hold parts of the head that cannot be put together here."""
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        return self.is_deepspeed_enabled or self.is_fsdp_enabled and getattr(plugin, "fsdp_version", 1) != 2

    def _count_rounding(self, fit: Fit, held_out: Predictions, dataset: Any) -> None:
        """Write down how many answers are others since the head was rounded to half precision."""
        once = is_stream(dataset) and not isinstance(dataset, IterableDataset)
        if fit.unchanged or dataset is None or once or not is_half(self.model):
            return
        rounded = self._labelled(self.predictions_of(dataset, held_out.split)).logits
        if len(rounded) != len(held_out.logits):
            return
        changed, both = 0, [row_blocks(one, np.float64) for one in (held_out.logits, rounded)]
        for (_, before, axis), (_, after, _) in zip(*both, strict=True):
            before, after = (before, after) if axis else (before.T, after.T)
            answers = fit.calibrator.calibrated_logits(before)
            if held_out.is_sigmoid:
                changed += int(np.count_nonzero(((answers > 0) != (after > 0)).any(axis=1)))
            else:
                changed += int(np.count_nonzero(answers.argmax(axis=1) != after.argmax(axis=1)))
        self.model.config.calibration[ROUNDED] = changed

    def _threshold(self, fit: Fit, held_out: Predictions, options: dict[str, Any]) -> dict[str, Any]:
        """What the record says of thresholds that the arguments ask for; nothing where they do not."""
        precision = getattr(self.args, "target_precision", None)
        if precision is not None or getattr(self.args, "threshold_metric", None) is not None:
            # The map of a label keeps the order of its samples, so that the data of the fit may be used again.
            said = fit.probabilities(held_out.logits)
            return {"thresholds": thresholds_of(said, held_out.labels, precision).to_record()}
        target = getattr(self.args, "target_accuracy", None)
        if target is None:
            return {}
        group = None if held_out.groups is None else (self.task or Task).group or "group"
        promise = promise_after(fit, held_out.logits, held_out.labels, target, group=group, **options)
        return {"threshold": promise.to_record()}

    def _loss_record(self) -> dict[str, Any]:
        """The loss, with the parameters that its name does not tell."""
        usual = create_loss(self.loss_name).hyperparameters() if self.loss_name in LOSSES else {}
        own = {key: value for key, value in self.loss.hyperparameters().items() if (key, value) not in usual.items()}
        return {"loss": self.loss_name, **({"loss_parameters": own} if own else {})}

    def _probe(self, dataset: Any) -> dict[str, Tensor] | None:
        """Inputs as the model takes them, to try its head on; `None` where there are none without reading a stream."""
        if is_stream(dataset) and not isinstance(dataset, IterableDataset):
            return self._inputs or None  # it may be one that can be read only once
        first = None if dataset is None or isinstance(dataset, dict) else next(iter(dataset), None)
        if first is None:
            return None
        sample: Any = [first]
        (batch,) = self.get_test_dataloader(sample)
        return {name: value for name, value in batch.items() if name not in self.label_names}


class FocalTrainer(CalibrationTrainer):
    """[`CalibrationTrainer`] whose default is focal loss with a fixed gamma."""

    default_loss = "focal"


class FLSDTrainer(CalibrationTrainer):
    """[`CalibrationTrainer`] whose default is the sample-dependent FLSD-53."""

    default_loss = "flsd-53"


class BrierTrainer(CalibrationTrainer):
    """[`CalibrationTrainer`] whose default is the Brier score."""

    default_loss = "brier"


class MMCETrainer(CalibrationTrainer):
    """[`CalibrationTrainer`] whose default is cross-entropy plus weighted MMCE."""

    default_loss = "mmce"


class LabelSmoothingTrainer(CalibrationTrainer):
    """[`CalibrationTrainer`] whose default is label smoothing."""

    default_loss = "label_smoothing"
