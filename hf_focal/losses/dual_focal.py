# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Dual focal loss."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from .base import CalibrationLoss, Options, as_function, check_number, register_loss
from .rows import CROSS_ENTROPY, NLL, Rows, row_losses


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
        if not self.gamma:
            return rows.nll()
        return row_losses(NLL(self._of_two) if rows.outputs else _Dual(self.gamma), rows)

    def _of_two(self, nll: Tensor) -> tuple[Tensor, Tensor]:
        # 1 - p_y + p_j, where p_j is 1 - p_y if that is the smaller one, and 0 otherwise.
        p, rest = torch.exp(-nll), -torch.expm1(-nll)
        times = torch.where(rest < p, 2.0, 1.0)
        saturated = rest <= 0  # as in _Dual
        power = torch.where(saturated, 1.0, times * rest) ** (self.gamma - 1)
        slope = power * times * (rest + self.gamma * nll * p)
        return torch.where(saturated, 0.0, power * times * rest * nll), torch.where(saturated, 0.0, slope)


class _Dual:
    """The loss of each row, for a gamma above 0."""

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    @staticmethod
    def _runner_up(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Whether a class lies below the true one, and the index of the largest that does, each `(M, 1)`."""
        # The order of the logits, for equal logits may differ by a rounding once they are probabilities.
        logits = logits.detach()
        largest, runner_up = torch.where(logits < logits.gather(-1, index), logits, -torch.inf).max(-1, keepdim=True)
        return largest > -torch.inf, runner_up

    def _factor(self, nll: Tensor, runner_up: Tensor) -> tuple[Tensor, Tensor]:
        """1 - p_y + p_j, and whether it is 0, where all is 0 in the limit, but the slope of a power below 1 is not."""
        factor = runner_up - torch.expm1(-nll)
        saturated = factor <= 0
        return torch.where(saturated, 1.0, factor), saturated

    def plain(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        log_probabilities = F.log_softmax(logits, dim=-1)
        index = torch.where(labels == ignore_index, 0, labels).unsqueeze(-1)
        there, runner_up = self._runner_up(logits, index)
        nll = -log_probabilities.gather(-1, index)
        factor, saturated = self._factor(nll, torch.where(there, log_probabilities.gather(-1, runner_up).exp(), 0.0))
        return torch.where(saturated, 0.0, factor**self.gamma * nll).squeeze(-1)

    def value(self, logits: Tensor, p: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        nll, _ = CROSS_ENTROPY.value(logits, p, index)
        there, runner_up = self._runner_up(logits, index)
        true, other = p.gather(-1, index), torch.where(there, p.gather(-1, runner_up), 0.0)
        factor, saturated = self._factor(nll, other)
        power = factor ** (self.gamma - 1)
        of_nll, of_factor = power * factor, self.gamma * power * nll
        # Of p_y the slope in z_k is p_y ([k = y] - p_k), of p_j alike, and of -log p_y it is p_k - [k = y].
        slopes = of_factor * (true - other) + of_nll, -(of_factor * true + of_nll), of_factor * other
        carried = (torch.where(saturated, 0.0, slope) for slope in slopes)
        return torch.where(saturated, 0.0, of_nll * nll), (runner_up, *carried)

    def slopes(self, logits: Tensor, p: Tensor, index: Tensor, scale: Tensor, carried: Sequence[Tensor]) -> None:
        runner_up, of_all, of_true, of_other = carried
        p.mul_(scale * of_all).scatter_add_(-1, index, scale * of_true).scatter_add_(-1, runner_up, scale * of_other)


dual_focal_loss = as_function(DualFocalLoss)
