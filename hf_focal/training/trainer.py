# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""`CalibrationTrainer`: a `Trainer` that trains with a calibration loss and fits a temperature afterwards."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, HubStrategy, PredictionOutput, TrainOutput

from .. import networks  # noqa: F401  (registers our architectures, so that their checkpoints load)
from ..calibrators import Fit, calibrator_of
from ..calibrators.base import calibrator_class, fit_for_model
from ..hub.push import push_to_hub
from ..losses import LOSSES, CalibrationLoss, as_loss, create_loss, extract_logits
from ..metrics import BatchMetrics, Scored, measure
from ..models.apply import pending_calibrator
from ..models.fold import fold_calibrator, unfold_temperature
from ..models.head import check_single_label
from ..models.record import ADAPTER_RECORD, calibration_record, has_adapter, record_of
from ..networks.masking import mask_classes, masked_indices, masked_names, refuse_masked
from ..predictions import Predictions
from ..results.card import About
from ..results.folder import CARD, save_card
from ..results.report import Report, make_report
from ..tasks import TASKS, Task, task_of
from .arguments import CalibrationTrainingArguments, settle
from .base_trainer import BaseTrainer


logger = logging.getLogger(__name__)


class CalibrationTrainer(BaseTrainer):
    """
    A `Trainer` for calibrated classifiers.

    It trains with `args.loss`, or with its `default_loss`; `evaluate()` reports accuracy, NLL, Brier score and the
    calibration errors; [`~CalibrationTrainer.calibrate`] fits a temperature and folds it into the model. Batches split
    over accumulation steps or processes give the same weights as whole ones (MMCE pairs samples within a micro-batch,
    so there alone they differ).

    A loss that learns from validation data (`adafocal`) is updated after each evaluation during training; its state
    is saved in the checkpoints.

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`):
            A classifier with one label per sample or token.
        args ([`CalibrationTrainingArguments`] or `TrainingArguments`, *optional*):
            With plain `TrainingArguments` the loss is `default_loss`.
        kwargs:
            As for `Trainer`. A `compute_loss_func` replaces the loss, a `compute_metrics` the metrics.

    Raises:
        ValueError: If the model is multi-label, regression or one-output, the loss does not take a given parameter,
            `label_smoothing_factor > 0`, the process sees several GPUs (`torch.nn.DataParallel`), or the loss learns
            from validation data and there is none or its logits are not kept.
    """

    default_loss = "flsd-53"
    loss: CalibrationLoss

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
        parameters = args.loss_parameters() if isinstance(args, CalibrationTrainingArguments) else {}
        chosen = getattr(args, "loss", None)
        if compute_loss_func is None:
            self.loss_name = str(chosen or self.default_loss)
            self.loss = create_loss(self.loss_name, **parameters)
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
        if self.loss.learns_from_validation:
            self._check_validation()
            self.add_callback(self.loss.callback(evaluate=False))
        check_single_label(self.model)
        self._mask_classes()
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
        `batch_eval_metrics` the logits of all samples are never held.
        """
        self._mask_classes()
        self._batch_metrics = BatchMetrics(getattr(self.args, "n_bins", 15))  # forgets one that was broken off
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if self.is_in_train and metric_key_prefix == "eval" and self.loss.learns_from_validation:
            seen = self.flatten(output)
            self.loss.update_from_validation(seen.logits, seen.labels)
        return output

    def _metrics(self, eval_prediction: EvalPrediction, compute_result: bool | None = None) -> dict[str, float]:
        calibrator, seen = pending_calibrator(self.model), self.flatten(eval_prediction)
        if compute_result is None:
            scored = Scored.from_logits(seen.logits, seen.labels, calibrator)
            return measure(scored, getattr(self.args, "n_bins", 15))
        return self._batch_metrics(eval_prediction, compute_result, calibrator=calibrator)

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
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.loss.reduction == "sum" and not self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # undoes the mean over processes, so that a sum stays one
        return (loss, {"logits": extract_logits(outputs)}) if return_outputs else loss

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """As `Trainer.train`. A temperature of the model is undone and forgotten first: training would outdate it."""
        self.forget_temperature("Training starts from the logits before scaling", self.train_dataset)
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def forget_temperature(self, reason: str, dataset: Any) -> None:
        """
        Undo the temperature of a model that is calibrated, so that its logits are those before scaling. `dataset` has
        samples that the model takes.
        """
        self.fit = self.report = self._held_out = self._card_for = None
        self.about = {}
        record = calibration_record(self.model)
        if record is None:
            return
        logger.warning("%s: the %s of the model is undone and cleared.", reason, calibrator_of(record).named)
        self._known_loss = {key: record[key] for key in ("loss", "loss_parameters") if key in record}
        if record["folded"]:
            unfold_temperature(self.model, inputs=self._probe(dataset))
        del self.model.config.calibration

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
            if dataset is None or isinstance(dataset, dict):
                raise ValueError(
                    "calibrate needs one labelled data set: pass it, or give the trainer an eval_dataset."
                )
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
        held_out = self.flatten(predictions, split)
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
            self.model.config.calibration = record_of(fit.calibrator, facts, folded=False)
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
        return TASKS.get(self.task_name or "") or task_of(self.model)

    def flatten(self, output: Any, split: str = "test") -> Predictions:
        """The rows of what [`~Trainer.predict`] gave, as the task counts them."""
        rows = (self.task or Predictions).flatten(output, split)
        config = self.model.config
        refuse_masked(rows.labels, masked_indices(config), config.id2label, split)
        return rows

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
        """One sample as the model takes it, to try its head on; `None` without data."""
        if dataset is None or isinstance(dataset, dict):
            return None
        sample: Any = [next(iter(dataset))]
        (batch,) = self.get_test_dataloader(sample)
        return {name: value for name, value in batch.items() if name not in self.label_names}

    def _predict_without_metrics(self, dataset: Any) -> PredictionOutput:
        compute_metrics, self.compute_metrics = self.compute_metrics, None
        try:
            return self.predict(dataset, metric_key_prefix="calibration")
        finally:
            self.compute_metrics = compute_metrics

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        if has_adapter(self.model) and self.args.should_save:
            # An adapter is saved without the config; a config.json beside it would make the folder a whole model.
            record = calibration_record(self.model)
            (folder / ADAPTER_RECORD).unlink(missing_ok=True)
            if record is not None:
                labels = [name for _, name in sorted(self.model.config.id2label.items())]
                masks = {"masked_classes": masked} if (masked := masked_names(self.model.config)) else {}
                text = json.dumps({**record, "labels": labels, **masks}, indent=2)
                (folder / ADAPTER_RECORD).write_text(text + "\n", encoding="utf-8")

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
            return push_to_hub(folder, str(self.hub_model_id), **options)
        return HfApi().run_as_future(push_to_hub, folder, str(self.hub_model_id), **options)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero() and self.args.hub_strategy == HubStrategy.EVERY_SAVE:
            self.callback_handler.on_push_begin(self.args, self.state, self.control)
            message = f"Training in progress, step {self.state.global_step}"
            options = {"token": self.args.hub_token, "revision": self.args.hub_revision, "commit_message": message}
            try:
                push_to_hub(checkpoint_folder, str(self.hub_model_id), **options)
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
        if self.report is None and self._held_out is not None:
            self.report_on(self._held_out)
        save_card(self.args.output_dir, self._about(), self.report, self.card_id)
        self._card_for = self.hub_model_id

    @property
    def card_id(self) -> str:
        """What the model card loads the model by: its repository, or its folder."""
        return str(self.hub_model_id or self.args.output_dir)

    def _about(self) -> About:
        config = self.model.config
        known = {
            "model_name": Path(self.card_id).name,
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
