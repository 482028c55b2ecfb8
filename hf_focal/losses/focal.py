# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Focal loss."""

import torch
from torch import Tensor
from typing_extensions import Unpack

from .base import CalibrationLoss, ClassWeights, Options, as_function, check_number, register_loss
from .rows import Rows, focal_rows, row_losses


@register_loss("focal")
class FocalLoss(CalibrationLoss):
    r"""
    Focal loss, $-(1 - p_y)^\gamma \log p_y$ (Lin et al., 2017; Mukhoti et al., 2020, Section 3).

    Args:
        gamma (`float`, *optional*, defaults to `3.0`):
            Focusing parameter, not negative; 0 is cross-entropy.
        alpha (`float`, *optional*):
            Of a sigmoid head: the factor where a label is right, in `[0, 1]`, and `1 - alpha` that where it is not
            (Lin et al. take 0.25). It moves the probabilities that are learned away from the true ones; by default
            there is none.
        class_weights, reduction, ignore_index: As in [`CrossEntropyLoss`].
    """

    always_shown = ("gamma",)

    def __init__(
        self, *, gamma: float = 3.0, alpha: float | None = None, class_weights: ClassWeights = None,
        **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(**options)
        self.gamma = check_number("gamma", gamma)
        self.alpha = None if alpha is None else check_number("alpha", alpha)
        if self.alpha is not None and self.alpha > 1:
            raise ValueError(f"alpha must be a number in [0, 1], got {alpha!r}.")
        self.weigh_by(class_weights)

    def of_rows(self, rows: Rows) -> Tensor:
        losses = row_losses(focal_rows(self.gamma), rows)
        if self.alpha is None:
            return losses
        if not rows.outputs:
            raise ValueError("alpha is for sigmoid heads: give a softmax class_weights, one for each class.")
        return losses * torch.where(rows.labels == 1, self.alpha, 1 - self.alpha)


focal_loss = as_function(FocalLoss)
