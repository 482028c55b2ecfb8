# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The Brier score."""

from torch import Tensor

from .base import CalibrationLoss, as_function, register_loss
from .rows import BRIER, BRIER_OF_TWO, Rows, row_losses


@register_loss("brier")
class BrierLoss(CalibrationLoss):
    r"""
    Brier score, $\sum_k (p_k - [k = y])^2$ (Brier, 1950): summed over classes and never divided by K. Each sample's
    lies in `[0, 2]`. Of a sigmoid head the classes are yes and no, and it is twice $(p - y)^2$.

    Args:
        reduction, ignore_index: As in [`CalibrationLoss`].
    """

    def of_rows(self, rows: Rows) -> Tensor:
        return row_losses(BRIER_OF_TWO if rows.outputs else BRIER, rows)


brier_loss = as_function(BrierLoss)
