# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Label smoothing."""

from torch import Tensor
from typing_extensions import Unpack

from .base import CalibrationLoss, Options, as_function, check_number, register_loss
from .rows import Rows, ruled_out


@register_loss("label_smoothing")
class LabelSmoothingLoss(CalibrationLoss):
    r"""
    Cross-entropy against a smoothed target: $1 - \alpha$ for the true class and $\alpha / (K - 1)$ for each other one
    (Mukhoti et al., 2020, Section 5). PyTorch's `label_smoothing` spreads its mass over all K classes instead; the
    same target needs `label_smoothing = smoothing * K / (K - 1)` there. Classes that a logit of -inf rules out get
    nothing, and K counts those that are left.

    Args:
        smoothing (`float`, *optional*, defaults to `0.05`):
            $\alpha$, in `[0, 1)`.
        reduction, ignore_index: As in [`CalibrationLoss`].
    """

    def __init__(self, *, smoothing: float = 0.05, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.smoothing = check_number("smoothing", smoothing, below=1.0)

    def of_rows(self, rows: Rows) -> Tensor:
        log_probabilities = rows.log_probabilities()
        true = log_probabilities.gather(-1, rows.targets.unsqueeze(-1)).squeeze(-1)
        if not self.smoothing:
            return -true
        left_out = ruled_out(rows.logits).scatter(-1, rows.targets.unsqueeze(-1), True)
        others = log_probabilities.masked_fill(left_out, 0.0).sum(-1) / (~left_out).sum(-1).clamp(min=1)
        return -(1 - self.smoothing) * true - self.smoothing * others


label_smoothing_loss = as_function(LabelSmoothingLoss)
