# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Dual focal loss."""

import torch
from torch import Tensor
from typing_extensions import Unpack

from .base import CalibrationLoss, Options, as_function, check_number, register_loss
from .rows import Rows


@register_loss("dual-focal")
class DualFocalLoss(CalibrationLoss):
    r"""
    Dual focal loss, $-(1 - p_y + p_j)^\gamma \log p_y$, where $p_j$ is the largest probability strictly below $p_y$,
    and 0 where there is none (Tao et al., 2023). The gradient flows through $p_j$ too.

    Args:
        gamma (`float`, *optional*, defaults to `5.0`):
            Focusing parameter, not negative; 0, the default of the authors' module, is cross-entropy. They tune it for
            each network; 5 is their setting for CIFAR.
        reduction, ignore_index: As in [`CalibrationLoss`].
    """

    def __init__(self, *, gamma: float = 5.0, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.gamma = check_number("gamma", gamma)

    def of_rows(self, rows: Rows) -> Tensor:
        log_probabilities, index = rows.log_probabilities(), rows.targets.unsqueeze(-1)
        # The order of the logits, for equal logits may differ by a rounding once they are probabilities.
        below = rows.logits.detach() < rows.logits.detach().gather(-1, index)
        runner_up = torch.where(below, log_probabilities, -torch.inf).max(dim=-1).values
        nll = -log_probabilities.gather(-1, index).squeeze(-1)
        if not self.gamma:
            return nll
        factor = torch.exp(runner_up) - torch.expm1(-nll)
        # p_y = 1: all is 0 in the limit, but the slope of factor^gamma would be infinite for gamma < 1.
        saturated = factor <= 0
        return torch.where(saturated, 0.0, torch.where(saturated, 1.0, factor) ** self.gamma * nll)


dual_focal_loss = as_function(DualFocalLoss)
