# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""`CalibrationTrainer`: a `Trainer` that trains with a calibration loss and fits a temperature afterwards."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, HubStrategy, PredictionOutput, TrainOutput
from transformers.utils import SAFE_WEIGHTS_NAME

from .. import networks  # noqa: F401  (registers our architectures, so that their checkpoints load)
from ..calibrators.base import Fit, calibrator_class, calibrator_of, fit_calibrator, measured
from ..losses.base import ScheduledFocalLoss, create_loss, extract_logits
from ..metrics.accumulator import BatchMetrics
from ..models.apply import pending_calibrator
from ..models.fold import fold_calibrator, unfold_temperature
from ..models.head import check_single_label
from ..models.record import ADAPTER_RECORD, calibration_record, has_adapter, record_of
from ..predictions import Predictions
from .arguments import CalibrationTrainingArguments, lower_is_better


logger = logging.getLogger(__name__)


class CalibrationTrainer(Trainer):
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
    # The Trainer allows for more than gets past __init__ here: a model without a config, no output folder.
    model: Any
    args: Any
    loss: Any
    lr_scheduler: Any

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
            self.loss_name, self.loss = "custom", compute_loss_func
        if args.label_smoothing_factor > 0:
            raise ValueError(
                f"label_smoothing_factor={args.label_smoothing_factor} would be ignored, because the loss is ours. "
                "Use loss='label_smoothing' with smoothing=..., or label_smoothing_factor=0."
            )
        if args.n_gpu > 1:
            raise ValueError(
                f"One process sees {args.n_gpu} GPUs and would use torch.nn.DataParallel, which scales losses wrong. "
                "Start one process per GPU: accelerate launch --num_processes <number of GPUs> script.py"
            )
        if lower_is_better(args.metric_for_best_model) and args.greater_is_better:
            if not isinstance(args, CalibrationTrainingArguments):  # its stock default, not the user's choice
                logger.warning("%s is best where lowest: greater_is_better set to False.", args.metric_for_best_model)
                args.greater_is_better = False
        if args.push_to_hub and not isinstance(args, CalibrationTrainingArguments):
            if args.hub_strategy != HubStrategy.END:  # another stock default
                logger.warning("hub_strategy set to 'end': nothing is pushed before the model is calibrated.")
                args.hub_strategy = HubStrategy.END
        if model is not None:
            check_single_label(model)
        # What the model card is made of, as far as it is known: the keyword arguments of `report.write_card`.
        self.card_facts: dict[str, Any] = {}
        self._card_for: str | None = None  # the id for which README.md is up to date
        self._known_loss: dict[str, Any] = {}  # what an earlier run trained the model with, as the record tells
        super().__init__(
            model,
            args,
            data_collator,
            train_dataset,
            eval_dataset,
            compute_loss_func=self.loss,
            compute_metrics=compute_metrics or self._metrics,
            **kwargs,
        )
        if hasattr(self.loss, "update_from_validation"):
            self._check_validation()
            self.add_callback(self.loss.callback(evaluate=False))
        check_single_label(self.model)
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
        self._batch_metrics = BatchMetrics(getattr(self.args, "n_bins", 15))  # forgets one that was broken off
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if self.is_in_train and metric_key_prefix == "eval" and hasattr(self.loss, "update_from_validation"):
            seen = Predictions.of_output(output)
            self.loss.update_from_validation(seen.logits, seen.labels)
        return output

    def _metrics(self, eval_prediction: EvalPrediction, compute_result: bool | None = None) -> dict[str, float]:
        calibrator, seen = pending_calibrator(self.model), Predictions.of_output(eval_prediction)
        if compute_result is None:
            return measured(calibrator, seen.logits, seen.labels, getattr(self.args, "n_bins", 15))
        if calibrator is not None:  # one batch, under batch_eval_metrics
            calibrated = calibrator.calibrated_logits(seen.logits.astype(np.float64))
            eval_prediction = EvalPrediction(calibrated, seen.labels)
        return self._batch_metrics(eval_prediction, compute_result)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a micro-batch, scaled so that micro-batches and processes add up to the whole batch."""
        if isinstance(self.loss, ScheduledFocalLoss) and torch.is_grad_enabled():
            state = self.state
            self.loss.set_progress(fraction=state.global_step / max(state.max_steps, 1), epoch=state.epoch or 0.0)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if getattr(self.loss, "reduction", None) == "sum" and not self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # undoes the mean over processes, so that a sum stays one
        return (loss, {"logits": extract_logits(outputs)}) if return_outputs else loss

    # The Trainer drops the last samples of validation and test data too, and measures on the others without a word.

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """As `Trainer.get_eval_dataloader`; `args.dataloader_drop_last` is about training alone."""
        with self._whole():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """As `Trainer.get_test_dataloader`; `args.dataloader_drop_last` is about training alone."""
        with self._whole():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        dropped, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = dropped

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """As `Trainer.create_scheduler`; with `args.lr_milestones` the learning rate falls in steps."""
        milestones = getattr(self.args, "lr_milestones", None)
        if milestones and self.lr_scheduler is None:
            steps = [math.ceil(epoch * num_training_steps / self.args.num_train_epochs) for epoch in milestones]
            scheduled: Any = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.MultiStepLR(scheduled, steps, gamma=0.1)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """As `Trainer.get_decay_parameter_names`; with `args.decay_all_parameters` these are all."""
        if getattr(self.args, "decay_all_parameters", False):
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

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
        self.card_facts, self._card_for = {}, None
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
        method: str = "temperature",
        **options: Any,
    ) -> Fit:
        """
        Fit a calibrator, by default a temperature, on held-out data, record it in `model.config.calibration` and fold
        it into the head.

        Args:
            dataset (`Dataset`, *optional*, defaults to `eval_dataset`):
                Labelled data that the model was not trained on. A model that is calibrated already is unfolded first.
            predictions (`PredictionOutput`, *optional*):
                What [`~Trainer.predict`] gave on that data, to spare a second pass.
            criterion (`str`, *optional*, defaults to `args.temperature_criterion`):
                `"ece"` or `"nll"`, see [`fit_calibrator`].
            split (`str`, *optional*, defaults to `"validation"`):
                Name of the data, for the record.
            fold (`bool`, *optional*, defaults to `args.fold_temperature`, `False` for a method no head can do):
                Change the head, so that the plain softmax is calibrated. Otherwise the calibrator stays in the
                config alone, where `evaluate()` heeds it. An adapter of PEFT carries the head that it trained, and
                `save_model()` writes the record beside it, into `calibration.json`.
            method (`str`, *optional*, defaults to `"temperature"`):
                A name in `hf_focal.CALIBRATORS`, such as `"focal"`, which cannot be folded.
            options:
                Of the method, such as `gamma`, see [`fit_calibrator`].

        Returns:
            [`Fit`]: The calibrator, and the metrics on this data before and after.

        Raises:
            ValueError: If there is no data, the model cannot be folded, or its weights are sharded over processes.
        """
        foldable = calibrator_class(method).foldable()
        if fold is None:
            fold = foldable and getattr(self.args, "fold_temperature", True)
        if fold and not foldable:
            raise ValueError(f"method={method!r} is not linear in the logits and cannot be folded: leave fold unset.")
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
        if predictions.label_ids is None:
            raise ValueError("The data to calibrate on has no labels.")
        held_out = Predictions.of_output(predictions, split)
        logits, labels = held_out.logits, held_out.labels
        fit = fit_calibrator(
            logits,
            labels,
            method,
            criterion=str(criterion or getattr(self.args, "temperature_criterion", "ece")),
            n_bins=getattr(self.args, "n_bins", 15),
            **options,
        )
        record = {
            "criterion": fit.criterion,
            **(self._loss_facts() if self.state.global_step else self._known_loss),
            "split": split,
            "n_samples": fit.n_samples,
        }
        if fold:
            fold_calibrator(self.model, fit.calibrator, inputs=self._probe(dataset), record=record)
        else:
            self.model.config.calibration = record_of(fit.calibrator, record, folded=False)
        self.card_facts = {"logits": logits, "labels": labels, "groups": held_out.groups, "split": split}
        self._card_for = None
        return fit

    def _loss_facts(self) -> dict[str, Any]:
        """The loss for the record, with the parameters that were set."""
        given = self.args.loss_parameters() if hasattr(self.args, "loss_parameters") else {}
        parameters = {key: value for key, value in given.items() if (key, value) != ("reduction", "mean")}
        return {"loss": self.loss_name, **({"loss_parameters": parameters} if parameters else {})}

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

    # transformers saves some models (ViT, for one) under the names of its earlier versions, and the Trainer loads its
    # checkpoints without translating them back: training would go on from random weights, with no more than a warning
    # (https://github.com/huggingface/transformers/issues/43701). `from_pretrained` does translate.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        model = self.model if model is None else model
        if not self._load_translated(resume_from_checkpoint, model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._load_translated(str(self.state.best_model_checkpoint), self.model):
            super()._load_best_model()

    def _load_translated(self, checkpoint: str, model: Any) -> bool:
        """Load a checkpoint whose names of weights are not the model's; false where the Trainer can do it."""
        weights = Path(checkpoint, SAFE_WEIGHTS_NAME)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or not isinstance(model, PreTrainedModel):
            return False
        if not weights.is_file():
            return False
        with safe_open(weights, framework="pt") as stored:
            if set(stored.keys()) == set(model.state_dict()):
                return False
        model.load_state_dict(type(model).from_pretrained(checkpoint).state_dict())
        return True

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        # A pickle of the arguments, which nothing reads back: a saved model holds none.
        (folder / "training_args.bin").unlink(missing_ok=True)
        if has_adapter(self.model) and self.args.should_save:
            # An adapter is saved without the config; a config.json beside it would make the folder a whole model.
            record = calibration_record(self.model)
            (folder / ADAPTER_RECORD).unlink(missing_ok=True)
            if record is not None:
                labels = [name for _, name in sorted(self.model.config.id2label.items())]
                text = json.dumps({**record, "labels": labels}, indent=2)
                (folder / ADAPTER_RECORD).write_text(text + "\n", encoding="utf-8")

    # ---- The Hub: only what a stranger needs, never before it is calibrated, and with a card of ours ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer.save_model`, which pushes too under `push_to_hub`: not before the model is calibrated."""
        if self.args.push_to_hub and not _internal_call and calibration_record(self.model) is None:
            logger.warning("Saved but not pushed: the model is not calibrated yet. push_to_hub() pushes it as it is.")
            _internal_call = True
        super().save_model(output_dir, _internal_call)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As `Trainer.init_hf_repo`; that the token may write is found out here, before any training."""
        from ..hub.load import check_access, plain_errors

        token = token or self.args.hub_token
        with plain_errors(self.args.hub_model_id or Path(self.args.output_dir).absolute().name, token):
            super().init_hf_repo(token, private)
            if self.is_world_process_zero():
                check_access(str(self.hub_model_id), token)

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
        from ..hub.load import push_to_hub

        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token or self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        folder = Path(self.args.output_dir)
        # Of a model that was neither calibrated nor trained here, the card that is there knows more.
        known = self._card_for == self.hub_model_id or not (self.card_facts or self.state.global_step)
        if kwargs or not known or not (folder / "README.md").is_file():
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
        from ..hub.load import push_to_hub

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
        from ..results.report import write_card

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
        if self.is_world_process_zero():
            self.card_facts |= {key: value for key, value in given.items() if value is not None}
            write_card(self, **self.card_facts)
            self._card_for = self.hub_model_id


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
