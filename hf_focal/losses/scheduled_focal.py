# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Focal loss whose gamma falls as training goes on (FLSc)."""

from bisect import bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Unpack

from .base import CalibrationLoss, Options, check_steps, register_loss
from .rows import Rows, focal_rows, row_losses


@register_loss("flsc-532", gammas=(5.0, 3.0, 2.0))
@register_loss("flsc-531")
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
            Where a stage ends: all fractions of training, or all whole epochs (the paper's `(100, 250)` of 350).
        reduction, ignore_index: As in [`CalibrationLoss`].
    """

    def __init__(
        self,
        *,
        gammas: Sequence[float] = (5.0, 3.0, 1.0),
        milestones: Sequence[float] = (0.286, 0.714),
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.in_epochs = all(isinstance(step, int) and step >= 1 for step in milestones)
        if not self.in_epochs and not all(isinstance(step, float) and 0 < step < 1 for step in milestones):
            raise ValueError(
                "milestones must be all fractions of training in (0, 1) or all whole epochs (int, from 1), "
                f"got {tuple(milestones)}."
            )
        self.gammas = check_steps(gammas, milestones, "milestones")
        self.milestones = tuple(milestones)
        self.gamma: float | None = None  # of the moment; before the loss was told of any progress, none

    def set_progress(self, *, fraction: float | None = None, epoch: float | None = None) -> None:
        """As for [`CalibrationLoss`]: milestones that are fractions need `fraction`, epochs need `epoch`."""
        position = epoch if self.in_epochs else fraction
        if position is None:
            raise ValueError(f"milestones {self.milestones} need {'epoch' if self.in_epochs else 'fraction'}=....")
        self.gamma = self.gammas[bisect_right(self.milestones, position)]

    def of_rows(self, rows: Rows) -> Tensor:
        # A Trainer never switches this module to evaluation, so gradients tell training from evaluation.
        if self.gamma is None and torch.is_grad_enabled():
            raise RuntimeError(
                "ScheduledFocalLoss does not know how far training has come. Use CalibrationTrainer, give a plain "
                "Trainer callbacks=[loss.callback()], or call loss.set_progress(...) before each epoch."
            )
        return row_losses(focal_rows(self.gammas[-1] if self.gamma is None else self.gamma), rows)
