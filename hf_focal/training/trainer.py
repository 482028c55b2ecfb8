# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""`CalibrationTrainer`: a `Trainer` that trains with a calibration loss and fits a temperature afterwards."""

from __future__ import annotations

import difflib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import IterableDataset
from huggingface_hub import HfApi
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, HubStrategy, PredictionOutput, TrainOutput

from .. import networks  # noqa: F401  (registers our architectures, so that their checkpoints load)
from ..calibrators import Fit, calibrator_of
from ..calibrators.base import Calibrator, calibrator_class, fit_for_model
from ..hub.push import upload_run
from ..losses import LOSSES, CalibrationLoss, as_loss, create_loss, extract_logits, replace_logits
from ..metrics import METRICS, BatchMetrics, Scored, measure
from ..metrics import compute_metrics as our_metrics
from ..models.apply import pending_calibrator
from ..models.fingerprint import fingerprint
from ..models.fold import fold_calibrator, unfold_temperature
from ..models.head import check_single_label
from ..models.record import (
    ADAPTER_RECORD,
    calibration_record,
    forget_record,
    has_adapter,
    record_of,
    stated_record,
    why_of_another_head,
)
from ..networks.masking import mask_classes, masked_indices, masked_names, refuse_masked
from ..predictions import Predictions
from ..results.card import About
from ..results.folder import CARD, home_of, save_card
from ..results.replace import SAVING, replacing
from ..results.report import Report, make_report
from ..tasks import TASKS, Task, task_of
from ..tasks.base import canonical_task
from .arguments import LABELS, CalibrationTrainingArguments, settle
from .base_trainer import BaseTrainer, plain_module
from .divergence import DivergenceWatch
from .streams import NO_SAMPLE, check_dataset, is_stream, reading


logger = logging.getLogger(__name__)

_TRAINING = "Training starts from the logits before scaling"


def _calibrated(logits: Any, calibrator: Calibrator | None) -> Any:
    """Logits of any shape `(..., num_labels)`, or of each batch, as a calibrator maps them, if there is one."""
    if calibrator is None:
        return logits
    if isinstance(logits, (list, tuple)):
        return [_calibrated(batch, calibrator) for batch in logits]
    if isinstance(logits, Tensor):
        return calibrator.on_tensor(logits)
    return calibrator.calibrated_logits(logits.reshape(-1, logits.shape[-1])).reshape(logits.shape)


class CalibrationTrainer(BaseTrainer):
    """
    A `Trainer` for calibrated classifiers.

    It trains with `args.loss`, or with its `default_loss`; `evaluate()` reports accuracy, NLL, Brier score and the
    calibration errors; [`~CalibrationTrainer.calibrate`] fits a temperature and folds it into the model. Batches split
    over accumulation steps or processes give the same weights as whole ones (MMCE pairs samples within a micro-batch,
    so there alone they differ).

    A loss that learns from validation data (`adafocal`) is updated after each evaluation during training; its state
    is saved in the checkpoints.

    What [`~Trainer.predict`] returns are logits before any calibration that is not folded into the head, of models
    with further outputs the logits alone. The loss and the metrics that `evaluate()` and `predict()` report, of a
    `compute_metrics` too, are those after it.

    Training that diverges ends with a `ValueError` that names the step, before anything not finite is saved.

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`):
            A classifier with one label per sample or token.
        args ([`CalibrationTrainingArguments`] or `TrainingArguments`, *optional*):
            With plain `TrainingArguments` the loss is `default_loss`.
        kwargs:
            As for `Trainer`. A `compute_loss_func` replaces the loss, a `compute_metrics` the metrics.

    Raises:
        ValueError: If the model is multi-label, regression or one-output, the loss does not take a given parameter,
            `label_smoothing_factor > 0`, the process sees several GPUs (`torch.nn.DataParallel`), `label_names` lacks
            `"labels"`, or the loss learns from validation data and there is none or its logits are not kept.
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
        chosen = getattr(args, "loss", None)
        if compute_loss_func is None:
            self._create_loss(args)
        elif chosen is not None:
            raise ValueError(f"Give either loss={chosen!r} in the arguments or a compute_loss_func, not both.")
        else:
            self.loss_name, self.loss = "custom", as_loss(compute_loss_func)
        settle(args)
        if model is not None:
            check_single_label(model)
        self.fit: Fit | None = None
        self.report: Report | None = None
        self.about: dict[str, Any] = {}  # fields of the card's `About`, as far as they are known
        self.task_name: str | None = None  # where the name of the model does not tell
        self._held_out: Predictions | None = None  # what the calibrator was fitted on
        self._card_for: str | None = None  # the id for which README.md is up to date
        self._lack_told = False  # that what makes the inputs is not saved with the model
        self._known_loss: dict[str, Any] = {}  # what an earlier run trained the model with, as the record tells
        self._pending: Calibrator | None = None  # what the metrics of ours are to heed
        self._watch: DivergenceWatch | None = None  # of the training that goes on
        self._inputs: dict[str, Any] | None = None  # the first batch of an evaluation
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
        check_single_label(self.model)
        self._mask_classes()
        self._ready = True
        self._forget_other_head(folded_alone=True)  # an unfolded record is refused by whatever would apply it
        if self.model.config.problem_type is None:
            self.model.config.problem_type = "single_label_classification"

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

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            columns: Any = self._signature_columns
            columns += self.args.label_names or ()

    def _mask_classes(self) -> None:
        """Of the model at hand, which `model_init` makes anew and merging an adapter replaces."""
        mask_classes(self.model, getattr(self.args, "masked_classes", None))

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """
        As `Trainer.evaluation_loop`. Evaluation during training updates a loss that learns from it; under
        `batch_eval_metrics` the logits of all samples are never held. A prediction keeps its logits whatever
        `args.prediction_loss_only` says.

        Raises:
            ValueError: If there is no sample, or training has diverged.
        """
        self._mask_classes()
        if description == "Prediction":
            prediction_loss_only = False
        self._batch_metrics = BatchMetrics(getattr(self.args, "n_bins", 15))  # forgets one that was broken off
        self._inputs = None
        batches = reading(self.accelerator.num_processes)
        with self._closed_bars(), batches, self._heeding(pending_calibrator(self.model)):
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        if self._inputs is None:
            raise ValueError(NO_SAMPLE)
        if description != "Prediction" and f"{metric_key_prefix}_loss" not in (output.metrics or {}):
            raise ValueError(f"The data to evaluate on have no {LABELS!r}, but {', '.join(self._inputs)}.")
        self._check_logits()  # where no metrics were asked for
        if not is_stream(getattr(dataloader, "dataset", None)):
            self._inputs = {}  # others can be read again
        if self.is_in_train and metric_key_prefix == "eval" and self.loss.learns_from_validation:
            seen = self.flatten(output)
            self.loss.update_from_validation(seen.logits, seen.labels)
        return output

    @contextmanager
    def _heeding(self, calibrator: Calibrator | None) -> Iterator[None]:
        """Let losses and metrics see what a calibrator makes of the logits, which are predicted as they are."""
        loss: Any = self.compute_loss_func
        metrics: Any = self.compute_metrics
        preprocess: Any = self.preprocess_logits_for_metrics
        self._pending = calibrator if preprocess is None else None
        pending = None if metrics == self._metrics else self._pending  # those of ours heed it by themselves

        def heeding_loss(outputs: Any, labels: Tensor | None, num_items_in_batch: Any = None) -> Tensor:
            outputs = replace_logits(outputs, _calibrated(extract_logits(outputs), calibrator))
            return loss(outputs, labels, num_items_in_batch=num_items_in_batch)

        def heeding_preprocess(logits: Tensor, labels: Tensor) -> Any:
            return preprocess(_calibrated(logits, calibrator), labels)

        def heeding_metrics(prediction: EvalPrediction, **kwargs: Any) -> dict[str, float]:
            self._check_logits()
            logits = _calibrated(prediction.predictions, pending)
            return metrics(
                EvalPrediction(logits, prediction.label_ids, prediction.inputs, prediction.losses), **kwargs
            )

        if metrics is not None:
            self.compute_metrics = heeding_metrics
        if calibrator is not None:
            self.compute_loss_func = heeding_loss
            self.preprocess_logits_for_metrics = None if preprocess is None else heeding_preprocess
        try:
            yield
        finally:
            self.compute_loss_func, self.compute_metrics = loss, metrics
            self.preprocess_logits_for_metrics, self._pending = preprocess, None

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """As `Trainer.prediction_step`; of what a model returns the logits alone, with or without labels."""
        if self._inputs is None:
            self._inputs = {name: value for name, value in inputs.items() if name != LABELS}
        if inputs.get(LABELS) is not None:
            loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
            if self.is_in_train and self._watch is not None and isinstance(logits, Tensor):
                self._watch.see_logits(logits, inputs[LABELS])
            return loss, logits, labels
        inputs = self._prepare_inputs({name: value for name, value in inputs.items() if name != LABELS})
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = self._logits(model(**inputs)).detach()
        return None, None if prediction_loss_only else logits, None

    def _logits(self, outputs: Any) -> Tensor:
        """The logits in what the model returned, one column for each class."""
        logits, num_labels = extract_logits(outputs), self.model.config.num_labels
        if logits.shape[-1:] != (num_labels,):
            raise ValueError(
                f"The model has config.num_labels = {num_labels}, but what it returns as logits has shape "
                f"{tuple(logits.shape)}. Needed are (..., {num_labels}), as `logits` of an object or mapping, or "
                "first in a tuple. Of a head that was replaced by one of other classes, set config.num_labels too."
            )
        return logits

    def _check_logits(self) -> None:
        if self.is_in_train and self._watch is not None:
            self._watch.check_logits(self.state.global_step)

    def _metrics(self, eval_prediction: EvalPrediction, compute_result: bool | None = None) -> dict[str, float]:
        if compute_result is None:
            seen = self._labelled(eval_prediction)
            scored = Scored.from_logits(seen.logits, seen.labels, self._pending)
            return measure(scored, getattr(self.args, "n_bins", 15))
        return self._batch_metrics(eval_prediction, compute_result, calibrator=self._pending)

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
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
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
        As `Trainer.train`. A temperature of the model is undone and forgotten first: training would outdate it. One of
        another head, such as that of a checkpoint from which another task begins, is forgotten and nothing is undone.

        Raises:
            ValueError: If training diverged, or `args.metric_for_best_model` is nothing that an evaluation gives.
        """
        self._check_best_metric()
        if self.model_init is None:
            self.forget_temperature(_TRAINING, self.train_dataset)
        self._watch = None  # `model_init` may still replace the model
        try:
            with self._closed_bars():
                output = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
                if self._watch is not None:
                    self._watch.end(self.state.global_step)
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

    def _check_best_metric(self) -> None:
        """Refuse a `metric_for_best_model` that no evaluation gives, as far as that is known before the first one."""
        args, chosen = self.args, self.args.metric_for_best_model
        changed = type(self).evaluate is not BaseTrainer.evaluate or any(
            type(one).on_evaluate is not TrainerCallback.on_evaluate
            for one in self.callback_handler.callbacks
            if type(one).__module__.partition(".")[0] not in ("transformers", "hf_focal")
        )
        if chosen is None or args.eval_strategy == "no" or changed:
            return
        name = chosen.removeprefix("eval_")
        given = [f"{one}_" for one in self.eval_dataset] if isinstance(self.eval_dataset, dict) else [""]
        known = ["loss", "runtime", "samples_per_second", "steps_per_second"]
        if self.compute_metrics in (self._metrics, our_metrics) and not args.prediction_loss_only:
            known += [key for key, one in METRICS.items() if one.running is not None or not args.batch_eval_metrics]
        elif not args.prediction_loss_only:  # a function of the user's gives what it gives
            known += [name.removeprefix(part) for part in given if name.startswith(part)]
        keys = [part + key for part in given for key in known]
        if name not in keys:
            near = [key for key in keys if key.endswith(f"_{name}")] or difflib.get_close_matches(name, keys, 1, 0.0)
            alone = "With prediction_loss_only=True they give the loss alone."
            raise ValueError(
                f"metric_for_best_model={chosen!r} is nothing that the evaluations of this trainer give. "
                f"{alone if args.prediction_loss_only else f'Did you mean {near[0]!r}?'}"
            )

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
        logger.warning("%s: the %s of the model is undone and cleared.", reason, calibrator_of(record).named)
        self._known_loss = {key: record[key] for key in ("loss", "loss_parameters") if key in record}
        if record["folded"]:
            unfold_temperature(self.model, inputs=self._probe(dataset))
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
        predictions: PredictionOutput | None = None,
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

        Args:
            dataset (`Dataset`, *optional*, defaults to `eval_dataset`):
                Labelled data that the model was not trained on. A model that is calibrated already is unfolded first.
            predictions (`PredictionOutput`, *optional*):
                What [`~Trainer.predict`] gave on that data, to spare a second pass.
            criterion (`str`, *optional*, defaults to `args.temperature_criterion`):
                `"ece"` or `"nll"`, see [`fit_calibrator`].
            split (`str`, *optional*, defaults to `"validation"`):
                Name of the data, for the record.
            fold (`bool`, *optional*, defaults to `args.fold_temperature`, and `False` where no head can do it):
                Change the head, so that the plain softmax is calibrated. Otherwise the calibrator stays in the config
                alone, where `evaluate()` heeds it. An adapter of PEFT carries the head that it trained, and
                `save_model()` writes the record beside it, into `calibration.json`.
            method (`str`, *optional*, defaults to `args.calibrator`):
                A name in `hf_focal.CALIBRATORS`, such as `"temperature"` or `"focal"`. `"focal"` cannot be folded.
            guard (`bool`, *optional*, defaults to `args.temperature_guard`):
                Take it only where the data show that it helps: unset, on for `"nll"` and off for `"ece"`.
            options:
                Of the method, such as `gamma` of `"focal"`: the gamma to undo, by default fitted.

        Returns:
            [`Fit`]: The calibrator, and the metrics on this data before and after.

        Raises:
            ValueError: If there is no data, the model cannot be folded, or its weights are sharded over processes.
        """
        kind = calibrator_class(str(method or getattr(self.args, "calibrator", "temperature")))
        if fold is None:
            fold = kind.foldable() and getattr(self.args, "fold_temperature", True)
        if fold and not kind.foldable():
            raise ValueError(
                f"method={kind.method!r} is not linear in the logits and cannot be folded: leave fold unset."
            )
        if fold and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError(
                "The head is sharded over processes and cannot be folded here. Save the model, load it in one process "
                "and calibrate it there, or pass fold=False."
            )
        dataset = self.eval_dataset if dataset is None else dataset
        if predictions is None:
            if dataset is None:
                raise ValueError(
                    "calibrate needs one labelled data set: pass it, or give the trainer an eval_dataset."
                )
            check_dataset(dataset)
            if dataset is self.train_dataset:
                warnings.warn(
                    "The temperature is being fitted on the training set, where the model is more confident and more "
                    "often right than on new data. Use held-out data.",
                    UserWarning,
                    stacklevel=2,
                )
            self.forget_temperature("Calibrating anew", dataset)
            predictions = self._predict_without_metrics(dataset)
        elif calibration_record(self.model) is not None:
            raise ValueError("This model is calibrated already, so its predictions may be scaled: pass the dataset.")
        held_out = self._labelled(predictions, split)
        fit = fit_for_model(
            held_out.logits,
            held_out.labels,
            kind.method,
            criterion=str(criterion or getattr(self.args, "temperature_criterion", "nll")),
            n_bins=getattr(self.args, "n_bins", 15),
            guard=getattr(self.args, "temperature_guard", None) if guard is None else guard,
            **{name: value for name, value in options.items() if value is not None},
        )
        loss = self._loss_record() if self.state.global_step else self._known_loss
        facts = {"criterion": fit.criterion, **loss, "split": split, "n_samples": fit.n_samples}
        if fit.unchanged:
            facts |= {"helped": False, "why": fit.why}
        if fold:
            fold_calibrator(self.model, fit.calibrator, inputs=self._probe(dataset), record=facts)
        else:
            self.model.config.calibration = record_of(fit.calibrator, facts, False, fingerprint(self.model))
        self.fit, self.report, self._held_out, self._card_for, self.about = fit, None, held_out, None, {}
        return fit

    def _loss_record(self) -> dict[str, Any]:
        """The loss, with the parameters that its name does not tell."""
        usual = create_loss(self.loss_name).hyperparameters() if self.loss_name in LOSSES else {}
        own = {key: value for key, value in self.loss.hyperparameters().items() if (key, value) not in usual.items()}
        return {"loss": self.loss_name, **({"loss_parameters": own} if own else {})}

    @property
    def task(self) -> Task | None:
        """The registered task of that name, or of the model."""
        return TASKS.get(canonical_task(self.task_name or "")) or task_of(self.model)

    def flatten(self, output: Any, split: str = "test") -> Predictions:
        """The rows of what [`~Trainer.predict`] gave, as the task counts them."""
        rows = (self.task or Predictions).flatten(output, split)
        config = self.model.config
        refuse_masked(rows.labels, masked_indices(config), config.id2label, split)
        return rows

    def _labelled(self, output: Any, split: str = "test") -> Predictions:
        """As `flatten`, of data of which at least one label counts."""
        seen = self.flatten(output, split)
        if not len(seen):
            raise ValueError("No sample of the data has a label that counts: all of them are -100.")
        return seen

    def report_on(self, predictions: Predictions) -> Report:
        """
        Measure the fitted calibrator; the model card then tells of these data.

        Args:
            predictions ([`Predictions`]):
                Before calibration, of data that it was not fitted on.

        Raises:
            ValueError: If nothing was fitted yet.
        """
        if self.fit is None:
            raise ValueError("No calibrator was fitted yet: call calibrate() first.")
        counted = self.task or Task
        n_bins = getattr(self.args, "n_bins", 15)
        self.report = make_report(predictions, self.fit, n_bins=n_bins, unit=counted.unit, group=counted.group)
        self._card_for = None
        return self.report

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

    def _predict_without_metrics(self, dataset: Any) -> PredictionOutput:
        kept = self.compute_metrics, self.preprocess_logits_for_metrics
        self.compute_metrics = self.preprocess_logits_for_metrics = None
        try:
            return self.predict(dataset, metric_key_prefix="calibration")
        finally:
            self.compute_metrics, self.preprocess_logits_for_metrics = kept

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        record = calibration_record(self.model)  # of this head, or none is written
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        self._warn_without_processor(folder)
        if has_adapter(self.model) and self.args.should_save:
            # An adapter is saved without the config; a config.json beside it would make the folder a whole model.
            if record is not None:
                labels = [name for _, name in sorted(self.model.config.id2label.items())]
                masks = {"masked_classes": masked} if (masked := masked_names(self.model.config)) else {}
                text = json.dumps({**record, "labels": labels, **masks}, indent=2)
                (folder / ADAPTER_RECORD).write_text(text + "\n", encoding="utf-8")

    def _warn_without_processor(self, folder: Path) -> None:
        """Once: whoever loads a model of texts alone gets a made-up tokenizer."""
        if self._lack_told or self.task is None or has_adapter(self.model) or not self.is_world_process_zero():
            return
        place = folder.parent if folder.name.startswith(SAVING) else folder  # where others lie already
        if not any(self.task.has_processor(self.model.config, one) for one in {folder, place}):
            self._lack_told = True
            logger.warning("%s", self.task.without_processor(self.args.output_dir))

    def ready_to_push(self) -> bool:
        """Whether the model is calibrated."""
        return calibration_record(self.model) is not None

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Push weights, config, image processor or tokenizer, model card and reliability diagram.

        Args:
            commit_message, blocking, token, revision, private:
                As for `Trainer.push_to_hub`.
            kwargs:
                Passed on to [`~CalibrationTrainer.create_model_card`]. Without them a `README.md` that was edited
                after it was written stays as it is.

        Returns:
            `huggingface_hub.CommitInfo`, or a future of it if not `blocking`.

        Raises:
            OSError: If the push failed. The output folder is complete all the same.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token or self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        folder = Path(self.args.output_dir)
        # Of a model that was neither calibrated nor trained here, the card that is there knows more.
        known = self._card_for == self.hub_model_id or not (self.fit or self.about or self.state.global_step)
        if kwargs or not known or not (folder / CARD).is_file():
            self.create_model_card(**kwargs)
        self._finish_current_push()
        options: dict[str, Any] = {
            "token": token,
            "private": self.args.hub_private_repo if private is None else private,
            "revision": revision or self.args.hub_revision,
            "push_predictions": getattr(self.args, "push_predictions", False),
            "commit_message": commit_message or "End of training",
        }
        if blocking:
            return upload_run(folder, str(self.hub_model_id), **options)
        return HfApi().run_as_future(upload_run, folder, str(self.hub_model_id), **options)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero() and self.args.hub_strategy == HubStrategy.EVERY_SAVE:
            self.callback_handler.on_push_begin(self.args, self.state, self.control)
            message = f"Training in progress, step {self.state.global_step}"
            options = {"token": self.args.hub_token, "revision": self.args.hub_revision, "commit_message": message}
            try:
                upload_run(checkpoint_folder, str(self.hub_model_id), **options)
            except OSError as error:  # no reason to stop training
                logger.warning("%s", error)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """
        Write our model card and the reliability diagram into the output folder, from what `calibrate` measured; a
        model that was never calibrated gets a card that says so. The arguments are those of
        `Trainer.create_model_card`, and `dataset_args` the configuration of the data set.
        """

        def first(value: str | list[str] | None) -> str | None:
            return value[0] if isinstance(value, list) and value else str(value) if value else None

        given = {
            "language": language,
            "license": license,
            "tags": [tags] if isinstance(tags, str) else tags,
            "model_name": model_name,
            "base_model": finetuned_from,
            "task": first(tasks),
            "dataset": first(dataset_tags) or first(dataset),
            "dataset_config": first(dataset_args),
        }
        if not self.is_world_process_zero():
            return
        self.about |= {key: value for key, value in given.items() if value is not None}
        with replacing(self.args.output_dir, "card") as staged:
            self.write_card(staged)

    def write_card(self, folder: Path) -> None:
        """Write card and diagram into a folder that is put in place later."""
        if self.report is None and self._held_out is not None:
            self.report_on(self._held_out)
        save_card(folder, self._about(), self.report, self.card_id)
        self._card_for = self.hub_model_id

    @property
    def card_id(self) -> str:
        """What the model card loads the model by: its repository, or its folder."""
        return str(self.hub_model_id or home_of(self.args.output_dir))

    def _about(self) -> About:
        config = self.model.config
        known = {
            "model_name": Path(self.card_id).absolute().name,
            "task": None if self.task is None else self.task.name,
            "calibration": calibration_record(self.model),
            "architecture": getattr(config, "architecture", config.model_type),
            "masked": masked_names(config),
            "adapter": has_adapter(self.model),
            "base_model": config._name_or_path if has_adapter(self.model) else None,
        }
        return About(**{**known, **{key: value for key, value in self.about.items() if value is not None}})


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
