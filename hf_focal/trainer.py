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
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import EvalPrediction, PredictionOutput, TrainOutput
from transformers.utils import SAFE_WEIGHTS_NAME

from . import networks  # noqa: F401  (registers our architectures, so that their checkpoints load)
from .calibration import (
    ADAPTER_RECORD,
    TemperatureFit,
    calibration_record,
    check_single_label,
    fit_temperature,
    fold_temperature,
    has_adapter,
    pending_temperature,
    unfold_temperature,
)
from .losses import ScheduledFocalLoss, create_loss, extract_logits
from .metrics import calibration_metrics_from_logits, flatten_predictions
from .training_args import CalibrationTrainingArguments, lower_is_better


logger = logging.getLogger(__name__)


class CalibrationTrainer(Trainer):
    """
    A `Trainer` for calibrated classifiers.

    It trains with `args.loss`, or with its `default_loss`; `evaluate()` reports accuracy, NLL, Brier score and the
    calibration errors; [`~CalibrationTrainer.calibrate`] fits a temperature and folds it into the model. Batches split
    over accumulation steps or processes give the same weights as whole ones (MMCE pairs samples within a micro-batch,
    so there alone they differ).

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`):
            A classifier with one label per sample or token.
        args ([`CalibrationTrainingArguments`] or `TrainingArguments`, *optional*):
            With plain `TrainingArguments` the loss is `default_loss`.
        kwargs:
            As for `Trainer`. A `compute_loss_func` replaces the loss, a `compute_metrics` the metrics.

    Raises:
        ValueError: If the model is multi-label, regression or one-output, the loss does not take a given parameter,
            `label_smoothing_factor > 0`, or the process sees several GPUs (`torch.nn.DataParallel`).
    """

    default_loss = "flsd-53"
    # The Trainer allows for more than gets past __init__ here: a model without a config, no output folder.
    model: Any
    args: Any
    loss: Any

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
        if model is not None:
            check_single_label(model)
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
        check_single_label(self.model)
        if self.model.config.problem_type is None:
            self.model.config.problem_type = "single_label_classification"

    def _metrics(self, eval_prediction: EvalPrediction) -> dict[str, float]:
        logits, labels = flatten_predictions(eval_prediction)
        n_bins = getattr(self.args, "n_bins", 15)
        return calibration_metrics_from_logits(logits, labels, n_bins, pending_temperature(self.model))

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

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """As `Trainer.train`. A temperature of the model is undone and forgotten first: training would outdate it."""
        self._forget_temperature("Training starts from the logits before scaling")
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def _forget_temperature(self, reason: str) -> None:
        record = calibration_record(self.model)
        if record is None:
            return
        logger.warning("%s: the temperature %g of the model is undone and cleared.", reason, record["temperature"])
        if record["folded"]:
            unfold_temperature(self.model)
        del self.model.config.calibration

    def calibrate(
        self,
        dataset: Any = None,
        *,
        predictions: PredictionOutput | None = None,
        criterion: str | None = None,
        split: str = "validation",
        fold: bool = True,
    ) -> TemperatureFit:
        """
        Fit a temperature on held-out data, record it in `model.config.calibration` and fold it into the head.

        Args:
            dataset (`Dataset`, *optional*, defaults to `eval_dataset`):
                Labelled data that the model was not trained on. A model that is calibrated already is unfolded first.
            predictions (`PredictionOutput`, *optional*):
                What [`~Trainer.predict`] gave on that data, in place of `dataset`, to spare a second pass.
            criterion (`str`, *optional*, defaults to `args.temperature_criterion`):
                `"ece"` or `"nll"`, see [`fit_temperature`].
            split (`str`, *optional*, defaults to `"validation"`):
                Name of the data, for the record.
            fold (`bool`, *optional*, defaults to `True`):
                Divide the head, so that the plain softmax is calibrated. Otherwise the temperature stays in the
                config alone, where `evaluate()` heeds it. An adapter of PEFT carries the head that it trained, and
                `save_model()` writes the record beside it, into `calibration.json`.

        Returns:
            [`TemperatureFit`]: The temperature, and the metrics on this data before and after.

        Raises:
            ValueError: If there is no data, the model cannot be folded, or its weights are sharded over processes.
        """
        if fold and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError(
                "The head is sharded over processes and cannot be folded here. Save the model, load it in one process "
                "and calibrate it there, or pass fold=False."
            )
        if predictions is None:
            dataset = self.eval_dataset if dataset is None else dataset
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
            self._forget_temperature("Calibrating anew")
            predictions = self._predict_without_metrics(dataset)
        elif calibration_record(self.model) is not None:
            raise ValueError("This model is calibrated already, so its predictions may be scaled: pass the dataset.")
        if predictions.label_ids is None:
            raise ValueError("The data to calibrate on has no labels.")
        fit = fit_temperature(
            *flatten_predictions(predictions),
            criterion=str(criterion or getattr(self.args, "temperature_criterion", "ece")),
            n_bins=getattr(self.args, "n_bins", 15),
        )
        record = {
            "method": "temperature",
            "criterion": fit.criterion,
            "loss": self.loss_name,
            "split": split,
            "n_samples": fit.n_samples,
        }
        if fold:
            fold_temperature(self.model, fit.temperature, record=record)
        else:
            self.model.config.calibration = {**record, "temperature": fit.temperature, "folded": False}
        return fit

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
                (folder / ADAPTER_RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


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
