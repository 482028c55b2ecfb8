# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
The functions of `functional` as modules, and `LOSSES`, name -> factory.

A module is called as `loss(logits, labels)` or handed to a `Trainer` as `compute_loss_func`. With
`num_items_in_batch` (the labels that count in the whole accumulated batch) a mean becomes `sum / num_items_in_batch`,
so that splitting a batch into micro-batches changes nothing.
"""

from __future__ import annotations

import inspect
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .functional import (
    _check_normalization,
    _check_number,
    _check_reduction,
    _check_sample_dependent,
    _check_steps,
    brier_loss,
    cross_entropy_loss,
    focal_loss,
    label_smoothing_loss,
    mmce_loss,
    sample_dependent_focal_loss,
)


if TYPE_CHECKING:
    from transformers import TrainerCallback


def extract_logits(outputs: Any) -> Tensor:
    """The logits in what a model returned: a tensor, an object or a mapping with `logits`, or a tuple led by them."""
    logits = outputs
    if not isinstance(outputs, Tensor):
        if getattr(outputs, "logits", None) is not None:
            logits = outputs.logits
        elif isinstance(outputs, Mapping):
            logits = outputs.get("logits")
        elif isinstance(outputs, (tuple, list)) and outputs:
            logits = outputs[0]
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"No logits found in a model output of type {type(outputs).__name__}. Needed: a tensor, an object or a "
            "mapping with `logits`, or a tuple whose first entry is the logits."
        )
    return logits


class CalibrationLoss(nn.Module):
    """
    Base of the loss modules: reduction, `ignore_index`, and the call that a `Trainer` makes.

    Args:
        reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"`, `"sum"` or `"none"`.
        ignore_index (`int`, *optional*, defaults to `-100`):
            Label that counts for nothing. (A `Trainer` counts every label but -100.)
    """

    def __init__(self, *, reduction: str = "mean", ignore_index: int = -100) -> None:
        super().__init__()
        _check_reduction(reduction)
        self.reduction = reduction
        self.ignore_index = ignore_index

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        """The pure function with this module's parameters."""
        raise NotImplementedError(f"{type(self).__name__} must define compute(logits, labels, reduction).")

    def forward(self, outputs: Any, labels: Tensor | None, num_items_in_batch: int | Tensor | None = None) -> Tensor:
        """
        Args:
            outputs (`torch.Tensor`, `ModelOutput`, `Mapping` or `tuple`):
                The logits, or what holds them.
            labels (`torch.Tensor` of shape `(N,)` or `(N, T)`):
                Class indices, or `ignore_index`.
            num_items_in_batch (`int` or 0-d `torch.Tensor`, *optional*):
                How many labels count in the whole accumulated batch. A mean becomes `sum / num_items_in_batch`; a sum
                stays the plain sum.

        Returns:
            `torch.Tensor`: A scalar, or one value per label for `reduction="none"`.
        """
        logits = extract_logits(outputs)
        if labels is None:
            raise ValueError(
                "The loss got no labels. The batches must hold class indices under the key 'labels' (the Trainer's "
                "default collator renames a 'label' column)."
            )
        if num_items_in_batch is None:
            return self.compute(logits, labels, self.reduction)
        if self.reduction == "none":
            raise ValueError("reduction='none' gives no scalar to train on: use 'mean' or 'sum' with a Trainer.")
        if isinstance(num_items_in_batch, Tensor):
            if num_items_in_batch.numel() != 1:
                raise ValueError(
                    f"num_items_in_batch must be one number, got shape {tuple(num_items_in_batch.shape)}. "
                    "torch.nn.DataParallel is not supported: start one process per device with `accelerate launch`."
                )
            num_items_in_batch = num_items_in_batch.reshape(()).to(logits.device)
        total = self.compute(logits, labels, "sum")
        return total if self.reduction == "sum" else total / num_items_in_batch

    def extra_repr(self) -> str:
        shown = inspect.signature(type(self)).parameters
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in shown if hasattr(self, name))


class CrossEntropyLoss(CalibrationLoss):
    """[`cross_entropy_loss`] as a module."""

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return cross_entropy_loss(logits, labels, reduction=reduction, ignore_index=self.ignore_index)


class LabelSmoothingLoss(CalibrationLoss):
    """[`label_smoothing_loss`] as a module."""

    def __init__(self, *, smoothing: float = 0.05, reduction: str = "mean", ignore_index: int = -100) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        self.smoothing = _check_number("smoothing", smoothing, below=1.0)

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return label_smoothing_loss(
            logits, labels, smoothing=self.smoothing, reduction=reduction, ignore_index=self.ignore_index
        )


class BrierLoss(CalibrationLoss):
    """[`brier_loss`] as a module."""

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return brier_loss(logits, labels, reduction=reduction, ignore_index=self.ignore_index)


class FocalLoss(CalibrationLoss):
    """[`focal_loss`] as a module."""

    def __init__(self, *, gamma: float = 3.0, reduction: str = "mean", ignore_index: int = -100) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        self.gamma = _check_number("gamma", gamma)

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return focal_loss(logits, labels, gamma=self.gamma, reduction=reduction, ignore_index=self.ignore_index)


class SampleDependentFocalLoss(CalibrationLoss):
    """[`sample_dependent_focal_loss`] (FLSD) as a module."""

    def __init__(
        self,
        *,
        gammas: Sequence[float] = (5.0, 3.0),
        thresholds: Sequence[float] = (0.2,),
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        self.gammas = _check_sample_dependent(gammas, thresholds)
        self.thresholds = tuple(thresholds)

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return sample_dependent_focal_loss(
            logits,
            labels,
            gammas=self.gammas,
            thresholds=self.thresholds,
            reduction=reduction,
            ignore_index=self.ignore_index,
        )


class ScheduledFocalLoss(CalibrationLoss):
    """
    Focal loss whose gamma falls as training goes on (FLSc; Mukhoti et al., 2020, Appendix F).

    It has to be told how far training has come: `CalibrationTrainer` does so by itself, a plain `Trainer` needs
    `callbacks=[loss.callback()]`, a loop of your own calls [`~ScheduledFocalLoss.set_progress`]. Until then a call
    that could train (gradients enabled) raises. Evaluation uses the gamma of the moment, and before any training the
    last one.

    Args:
        gammas (`Sequence[float]`, *optional*, defaults to `(5.0, 3.0, 1.0)`):
            One gamma per stage.
        milestones (`Sequence[float]` or `Sequence[int]`, *optional*, defaults to `(0.286, 0.714)`):
            Where one stage ends and the next begins: all fractions of training in `(0, 1)`, or all whole epochs
            counted from 0 (`(100, 250)` in the paper's 350 epochs on CIFAR).
    """

    def __init__(
        self,
        *,
        gammas: Sequence[float] = (5.0, 3.0, 1.0),
        milestones: Sequence[float] = (0.286, 0.714),
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        self.in_epochs = all(isinstance(step, int) and step >= 1 for step in milestones)
        if not self.in_epochs and not all(isinstance(step, float) and 0 < step < 1 for step in milestones):
            raise ValueError(
                "milestones must be all fractions of training in (0, 1) or all whole epochs (int, from 1), "
                f"got {tuple(milestones)}."
            )
        self.gammas = _check_steps(gammas, milestones, "milestones")
        self.milestones = tuple(milestones)
        self._gamma: float | None = None

    @property
    def gamma(self) -> float | None:
        """The gamma of the moment; `None` before the loss was told of any progress."""
        return self._gamma

    def set_progress(self, *, fraction: float | None = None, epoch: float | None = None) -> None:
        """
        Tell the loss how far training has come.

        Args:
            fraction (`float`, *optional*):
                Share of the training steps already done; needed for milestones that are fractions.
            epoch (`float`, *optional*):
                Epochs already done, from 0; needed for milestones that are epochs.
        """
        position = epoch if self.in_epochs else fraction
        if position is None:
            raise ValueError(f"milestones {self.milestones} need {'epoch' if self.in_epochs else 'fraction'}=....")
        self._gamma = self.gammas[bisect_right(self.milestones, position)]

    def callback(self) -> TrainerCallback:
        """A `TrainerCallback` that keeps this loss informed, from the trainer's own state (so resuming is exact)."""
        from transformers import TrainerCallback

        class ScheduleCallback(TrainerCallback):
            def on_step_begin(callback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: N805
                self.set_progress(fraction=state.global_step / max(state.max_steps, 1), epoch=state.epoch or 0.0)

        return ScheduleCallback()

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        # A Trainer never switches this module to evaluation, so gradients tell training from evaluation.
        if self._gamma is None and torch.is_grad_enabled():
            raise RuntimeError(
                "ScheduledFocalLoss does not know how far training has come. Use CalibrationTrainer, give a plain "
                "Trainer callbacks=[loss.callback()], or call loss.set_progress(...) before each epoch."
            )
        gamma = self.gammas[-1] if self._gamma is None else self._gamma
        return focal_loss(logits, labels, gamma=gamma, reduction=reduction, ignore_index=self.ignore_index)


class MMCELoss(CalibrationLoss):
    """[`mmce_loss`] as a module. Under gradient accumulation samples are paired within each micro-batch."""

    def __init__(
        self,
        *,
        lam: float = 2.0,
        weighted: bool = True,
        normalization: str = "definition",
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        self.lam = _check_number("lam", lam)
        _check_normalization(normalization)
        self.weighted = weighted
        self.normalization = normalization

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return mmce_loss(
            logits,
            labels,
            lam=self.lam,
            weighted=self.weighted,
            normalization=self.normalization,
            reduction=reduction,
            ignore_index=self.ignore_index,
        )


LOSSES: dict[str, Callable[..., CalibrationLoss]] = {
    "cross_entropy": CrossEntropyLoss,
    "label_smoothing": LabelSmoothingLoss,
    "brier": BrierLoss,
    "mmce": MMCELoss,
    "mmce-unweighted": partial(MMCELoss, weighted=False),
    "focal": FocalLoss,
    "flsd-53": SampleDependentFocalLoss,
    "flsd-532": partial(SampleDependentFocalLoss, gammas=(5.0, 3.0, 2.0), thresholds=(0.2, 0.5)),
    "flsc-531": ScheduledFocalLoss,
    "flsc-532": partial(ScheduledFocalLoss, gammas=(5.0, 3.0, 2.0)),
}


def create_loss(name: str, **parameters: Any) -> CalibrationLoss:
    """
    Build the loss of that name.

    Args:
        name (`str`):
            A key of `LOSSES`.
        parameters:
            What the loss takes: `gamma`, `lam`, `smoothing`, `reduction`, ...

    Returns:
        [`CalibrationLoss`]: The module.

    Raises:
        ValueError: If the name is unknown or the loss does not take a parameter.

    Example:
    >>> create_loss("focal", gamma=2.0)
    FocalLoss(gamma=2.0, reduction='mean', ignore_index=-100)
    """
    if name not in LOSSES:
        raise ValueError(f"Unknown loss {name!r}. Valid names: {', '.join(LOSSES)}.")
    accepted = list(inspect.signature(LOSSES[name]).parameters)
    for parameter in parameters:
        if parameter not in accepted:
            raise ValueError(f"The loss {name!r} takes no {parameter!r}; it takes {', '.join(accepted)}.")
    return LOSSES[name](**parameters)
