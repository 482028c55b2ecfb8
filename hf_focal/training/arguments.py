# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The arguments of `CalibrationTrainer`: `TrainingArguments` plus the loss, its parameters and the calibrator."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, TypeVar

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy, SchedulerType

from ..calibrators.base import AUTO, CRITERIA, check_method
from ..checks import check_n_bins
from ..losses import LOSSES, create_loss
from ..metrics.base import ALL_METRICS
from ..metrics.promise import check_target
from ..metrics.thresholds import F1


logger = logging.getLogger(__name__)
LABELS = "labels"  # the key of a batch that the loss takes
REFINEMENT = "refinement"  # what a checkpoint may be chosen by beside a metric, see `temperature_refinement`
_Class = TypeVar("_Class", bound=type)


def lower_is_better(metric: str | None) -> bool:
    """Whether `metric`, a key of `evaluate()` with or without its prefixes, is one of ours of which less is better."""
    name = metric or ""
    if name == REFINEMENT or name.endswith(f"_{REFINEMENT}"):
        return True
    # The name of a data set stands before that of the metric, and may itself be that of a metric.
    keys = [key for key in ALL_METRICS if name == key or name.endswith(f"_{key}")]
    return bool(keys) and ALL_METRICS[max(keys, key=len)].lower_is_better


def documented(cls: _Class) -> _Class:
    """Put the help of a dataclass's own fields where its docstring says `{fields}`."""
    own = [one for one in fields(cls) if one.name in vars(cls)["__annotations__"]]
    heads = [f"        {one.name} (`{one.type}`, defaults to `{one.default!r}`):" for one in own]
    listed = [f"{head}\n            {one.metadata['help']}" for head, one in zip(heads, own, strict=True)]
    cls.__doc__ = (cls.__doc__ or "").replace("        {fields}", "\n".join(listed))
    return cls


@documented
@dataclass
class CalibrationTrainingArguments(TrainingArguments):
    """
    `TrainingArguments` with a calibration loss.

    Args:
        {fields}

    Three defaults of `TrainingArguments` differ. `greater_is_better` is false for every metric of ours but accuracy,
    so `metric_for_best_model="ece"`, or `"eval_<set>_ece"` of a dict of data sets, keeps the checkpoint of LOWEST
    calibration error. `metric_for_best_model="refinement"` keeps that of lowest NLL after a temperature, fitted to the
    very data of the evaluation (Berta, Holzmüller, Jordan and Bach, 2025): what calibration cannot mend later.
    `eval_accumulation_steps` is 32: without a limit the time to predict grows with the square of the data set.
    `hub_strategy` is `"end"`: nothing is pushed before the model is calibrated. `"every_save"` pushes weights during
    training as well; the strategies that push whole checkpoints are refused, because optimizer states are pickles.

    Raises:
        ValueError: If the loss is unknown, does not take a given parameter, or a parameter is out of range; with
            `label_smoothing_factor > 0`, which a loss of ours would silently replace; or with a `hub_strategy` that
            pushes pickles.
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "loss_kwargs"]  # noqa: SLF001

    hub_token: str | None = field(  # the repr that a dataclass gets would show it
        default=None, repr=False, metadata={"help": "The token to push with, where it is not that of the login."}
    )
    loss: str | None = field(
        default=None,
        metadata={
            "help": "The loss to train with, such as cross_entropy, focal, flsd-53, brier or mmce: a name in "
            "hf_focal.LOSSES. Default: the trainer's (flsd-53)."
        },
    )
    gamma: float | None = field(
        default=None, metadata={"help": "Focusing parameter of focal (3 if unset) and dual-focal (5), not negative."}
    )
    lam: float | None = field(
        default=None, metadata={"help": "Weight of the MMCE term (2 if unset) or rate of adafocal (1)."}
    )
    smoothing: float | None = field(
        default=None, metadata={"help": "Probability in [0, 1) that label smoothing takes off the true class (0.05)."}
    )
    loss_kwargs: dict | str | None = field(
        default=None,
        metadata={"help": "Further parameters of the loss as JSON, such as '{\"milestones\": [100, 250]}'."},
    )
    loss_reduction: str = field(
        default="mean", metadata={"help": "'mean' over the accumulated batch, or its plain 'sum', never divided."}
    )
    lr_milestones: list[float] | None = field(
        default=None, metadata={"help": "Epochs after which the (constant) learning rate is divided by 10."}
    )
    decay_all_parameters: bool = field(
        default=False, metadata={"help": "Weight decay for biases and normalisations too, as in PyTorch."}
    )
    masked_classes: list[str] | None = field(
        default=None,
        metadata={
            "help": "Classes that train but never count at evaluation, where their logit is -inf: names or indices. "
            "Unset: those of the model's config."
        },
    )
    n_bins: int = field(default=15, metadata={"help": "Number of bins of the calibration errors."})
    calibrator: str | None = field(
        default=None,
        metadata={
            "help": "A name in hf_focal.CALIBRATORS (temperature, bias, vector, matrix, focal), 'auto' (the data "
            "choose) or 'none'; of several labels a sample, or one logit, temperature, platt, 'auto' or 'none'. "
            "Unset: temperature (SigLIP: platt)."
        },
    )
    temperature_criterion: str = field(
        default="nll",
        metadata={
            "help": "What it minimises: 'nll', for models to use, or, of temperature and focal alone, 'ece', on the "
            "paper's grid.",
            "aliases": ["--criterion"],
        },
    )
    temperature_guard: bool | None = field(
        default=None,
        metadata={"help": "Take it only where the data show that it helps. Unset: on for 'nll', off for 'ece'."},
    )
    fold_temperature: bool = field(
        default=True,
        metadata={"help": "Fold it into the head; else it stays in the config."},
    )
    target_accuracy: float | None = field(
        default=None,
        metadata={
            "help": "Find the confidence from which on answers are right so often, such as 0.95, with certainty 0.9."
        },
    )
    target_precision: float | None = field(
        default=None,
        metadata={"help": "Of several labels, or one logit: the same of the probability of each label, such as 0.9."},
    )
    threshold_metric: str | None = field(
        default=None,
        metadata={"help": "'f1': of these, find the probability of highest F1 of each label."},
    )
    push_predictions: bool = field(
        default=False, metadata={"help": "Push predictions.safetensors (logits and labels) along with the model."}
    )
    hub_strategy: HubStrategy | str = field(
        default="end", metadata={"help": "When to push: 'end' (once it is calibrated), or 'every_save' as well."}
    )
    eval_accumulation_steps: int | None = field(
        default=32, metadata={"help": "Prediction steps after which outputs move to the CPU."}
    )

    def __post_init__(self) -> None:
        if self.greater_is_better is None and lower_is_better(self.metric_for_best_model):
            self.greater_is_better = False
        super().__post_init__()
        check_n_bins(self.n_bins)
        check_method(AUTO if self.calibrator is None else self.calibrator)
        if self.temperature_criterion not in CRITERIA:
            raise ValueError(
                f"temperature_criterion must be one of {', '.join(CRITERIA)}, got {self.temperature_criterion!r}."
            )
        self._check_thresholds()
        if self.hub_strategy not in (HubStrategy.END, HubStrategy.EVERY_SAVE):
            raise ValueError(
                f"hub_strategy={HubStrategy(self.hub_strategy).value!r} would push optimizer states, which are "
                "pickles. Use 'end' or 'every_save'."
            )
        if self.loss_reduction not in ("mean", "sum"):
            raise ValueError(f"loss_reduction must be 'mean' or 'sum', got {self.loss_reduction!r}.")
        self._check_milestones()
        _refuse_smoothing(self)
        if self.loss is not None:
            create_loss(self.loss, **self.loss_parameters())
        else:  # the trainer chooses the loss, so only the ranges can be checked
            for parameter in ("gamma", "lam", "smoothing"):
                if getattr(self, parameter) is not None:
                    taking = (loss for loss in LOSSES.values() if parameter in inspect.signature(loss).parameters)
                    next(taking)(**{parameter: getattr(self, parameter)})

    def _check_thresholds(self) -> None:
        for name in ("target_accuracy", "target_precision"):
            if getattr(self, name) is not None:
                check_target(name, getattr(self, name))
        if self.threshold_metric not in (None, F1):
            raise ValueError(
                f"threshold_metric must be {F1!r}, got {self.threshold_metric!r}; for a precision set "
                "target_precision."
            )
        if self.threshold_metric is not None and self.target_precision is not None:
            raise ValueError("Thresholds are chosen by one thing: set threshold_metric or target_precision, not both.")

    def _check_milestones(self) -> None:
        milestones = self.lr_milestones
        if milestones is None:
            return
        bounds = [0.0, *milestones, self.num_train_epochs]
        if not all(before < after for before, after in pairwise(bounds)):
            raise ValueError(
                f"lr_milestones must increase and lie between 0 and num_train_epochs={self.num_train_epochs:g}, got "
                f"{milestones}."
            )
        if self.lr_scheduler_type != SchedulerType.CONSTANT:
            raise ValueError(
                "lr_milestones divide a constant learning rate: use lr_scheduler_type='constant', not "
                f"{SchedulerType(self.lr_scheduler_type).value!r}."
            )

    def loss_parameters(self) -> dict[str, Any]:
        """What `create_loss` is called with: the parameters that were set, and the reduction."""
        if self.loss_kwargs is not None and not isinstance(self.loss_kwargs, dict):
            raise ValueError(f"loss_kwargs must be a JSON object of parameters, got {self.loss_kwargs!r}.")
        given = {"gamma": self.gamma, "lam": self.lam, "smoothing": self.smoothing}
        parameters = {name: value for name, value in given.items() if value is not None}
        return {**parameters, **(self.loss_kwargs or {}), "reduction": self.loss_reduction}


def settle(args: TrainingArguments) -> None:
    """Refuse arguments that no trainer of ours can follow, and set stock defaults right that nobody chose."""
    _refuse_smoothing(args)
    if args.n_gpu > 1:
        raise ValueError(
            f"One process sees {args.n_gpu} GPUs and would use torch.nn.DataParallel, which scales losses wrong. "
            "Start one process per GPU (accelerate launch --num_processes <number of GPUs> script.py), or let it see "
            "a single one (CUDA_VISIBLE_DEVICES=0)."
        )
    if args.label_names and LABELS not in args.label_names:
        raise ValueError(
            f"label_names={args.label_names} lacks {LABELS!r}, the only labels that the loss takes and that are "
            f"measured: name the column {LABELS!r}, and leave label_names unset."
        )
    if args.eval_use_gather_object and args.world_size > 1:
        raise ValueError(
            "eval_use_gather_object=True mixes up the samples of several processes: leave it False. Sequences of "
            "different lengths are padded."
        )
    if args.metric_for_best_model is not None and args.greater_is_better is None:  # it was set later than the rest
        higher = not args.metric_for_best_model.endswith("loss")
        args.greater_is_better = higher and not lower_is_better(args.metric_for_best_model)
    if isinstance(args, CalibrationTrainingArguments):  # what differs here is the user's choice
        return
    if lower_is_better(args.metric_for_best_model) and args.greater_is_better:
        logger.warning("%s is best where lowest: greater_is_better set to False.", args.metric_for_best_model)
        args.greater_is_better = False
    if args.push_to_hub and args.hub_strategy != HubStrategy.END:
        logger.warning("hub_strategy set to 'end': nothing is pushed before the model is calibrated.")
        args.hub_strategy = HubStrategy.END


def _refuse_smoothing(args: TrainingArguments) -> None:
    if args.label_smoothing_factor > 0:
        raise ValueError(
            f"label_smoothing_factor={args.label_smoothing_factor} would be ignored, because the loss is ours. "
            "Use loss='label_smoothing' with smoothing=..., or label_smoothing_factor=0."
        )
