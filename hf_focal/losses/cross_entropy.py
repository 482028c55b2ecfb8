# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Cross-entropy."""

from torch import Tensor
from typing_extensions import Unpack

from .base import CalibrationLoss, ClassWeights, Options, as_function, register_loss
from .rows import Rows


@register_loss("cross_entropy")
class CrossEntropyLoss(CalibrationLoss):
    r"""
    Cross-entropy, $-\log p_y$, in nats.

    Args:
        class_weights (`Sequence[float]` or `torch.Tensor` of shape `(K,)`, *optional*):
            Factors of the classes' losses, of a sigmoid head of its labels', not negative; a mean divides by the
            number of labels, not by their sum.
        reduction, ignore_index: As in [`CalibrationLoss`].
    """

    def __init__(self, *, class_weights: ClassWeights = None, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.weigh_by(class_weights)

    def of_rows(self, rows: Rows) -> Tensor:
        return rows.nll()


cross_entropy_loss = as_function(CrossEntropyLoss)
