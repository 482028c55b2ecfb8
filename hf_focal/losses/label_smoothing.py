# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Label smoothing."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from .base import CalibrationLoss, Options, as_function, check_number, register_loss
from .rows import CROSS_ENTROPY, Rows, highest_mask, row_losses


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
        if not self.smoothing:
            return rows.nll()
        if rows.outputs:
            other = replace(rows, labels=torch.where(rows.ignored, rows.labels, 1 - rows.labels)).nll()
            other = torch.where(other < torch.inf, other, 0.0)  # ruled out
            return (1 - self.smoothing) * rows.nll() + self.smoothing * other
        return row_losses(_Smoothed(self.smoothing, highest_mask(rows.scores.dtype)), rows)


class _Smoothed:
    """The loss of each row; classes at `mask` and below are left out."""

    def __init__(self, smoothing: float, mask: float) -> None:
        self.smoothing, self.mask = smoothing, mask

    def plain(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        log_probabilities = F.log_softmax(logits, dim=-1)
        index = torch.where(labels == ignore_index, 0, labels).unsqueeze(-1)
        true = log_probabilities.gather(-1, index).squeeze(-1)
        left_out = (logits <= self.mask).scatter(-1, index, True)
        others = log_probabilities.masked_fill(left_out, 0.0).sum(-1) / (~left_out).sum(-1).clamp(min=1)
        return -(1 - self.smoothing) * true - self.smoothing * others

    def value(self, logits: Tensor, p: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        nll, _ = CROSS_ENTROPY.value(logits, p, index)
        # log p_k = z_k - largest + log of the largest p, whose logarithm is accurate where that of p_k is not.
        below = logits - logits.amax(-1, keepdim=True)
        count = torch.full_like(nll, logits.shape[-1] - 1)
        # Looking costs little where there is no device to wait for.
        if logits.device.type == "cpu" and logits.numel() and logits.amin().item() > self.mask:
            others = (below.sum(-1, keepdim=True) - below.gather(-1, index)) / count
        else:
            left_out = (logits <= self.mask).scatter_(-1, index, True)
            count -= left_out.sum(-1, keepdim=True) - 1
            others = below.masked_fill_(left_out, 0.0).sum(-1, keepdim=True) / count.clamp(min=1)
        others = torch.where(count > 0, others + p.amax(-1, keepdim=True).log(), 0.0)
        return (1 - self.smoothing) * nll - self.smoothing * others, (count,)

    def slopes(self, logits: Tensor, p: Tensor, index: Tensor, scale: Tensor, carried: Sequence[Tensor]) -> None:
        # p_k - target_k, where the targets of all classes sum to 1, and to less where no other class is left.
        (count,) = carried
        share = scale * (self.smoothing / count.clamp(min=1))
        total = scale * torch.where(count > 0, 1.0, 1 - self.smoothing)
        true = total * p.gather(-1, index) - (1 - self.smoothing) * scale
        p.mul_(total)
        if p.device.type == "cpu" and len(p) and count.amin().item() == p.shape[-1] - 1:
            p.sub_(share)
        else:
            p.sub_(torch.where(logits <= self.mask, 0.0, share))
        p.scatter_(-1, index, true)


label_smoothing_loss = as_function(LabelSmoothingLoss)
