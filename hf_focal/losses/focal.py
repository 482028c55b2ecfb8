# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Focal loss."""

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
        class_weights, reduction, ignore_index: As in [`CrossEntropyLoss`].
    """

    always_shown = ("gamma",)

    def __init__(self, *, gamma: float = 3.0, class_weights: ClassWeights = None, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.gamma = check_number("gamma", gamma)
        self.weigh_by(class_weights)

    def of_rows(self, rows: Rows) -> Tensor:
        return row_losses(focal_rows(self.gamma), rows)


focal_loss = as_function(FocalLoss)
