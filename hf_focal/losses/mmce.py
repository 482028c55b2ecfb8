# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Cross-entropy plus the Maximum Mean Calibration Error."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from .base import CalibrationLoss, Options, as_function, check_number, register_loss
from .processes import count_processes, gathered
from .rows import PROBABILITY, Rows, row_losses, widen


MMCE_KERNEL_WIDTH = 0.4


@register_loss("mmce-unweighted", weighted=False)
@register_loss("mmce")
class MMCELoss(CalibrationLoss):
    r"""
    Mean cross-entropy plus `lam` times the Maximum Mean Calibration Error of the batch (Kumar et al., 2018).

    With $r$ the confidence, $k(r, r') = e^{-|r - r'| / 0.4}$, m samples right and n wrong, the weighted form is
    $\mathrm{MMCE}_w^2 = \sum_{cc} \frac{(1-r_i)(1-r_j) k}{m^2} + \sum_{ww} \frac{r_i r_j k}{n^2}
    - 2 \sum_{cw} \frac{(1-r_i) r_j k}{mn}$, and 0 where m or n is 0; the unweighted one is
    $\sum_{ij} (c_i - r_i)(c_j - r_j) k / N^2$. The root is taken of both.

    The term pairs samples, so it depends on how a batch is cut: each process pairs those of its own micro-batch, and
    `"sum"` is the number of samples times the mean. With `gather` the samples of all processes at one step of training
    are paired, as if one process had them: the value is the same in each, and the gradient is that of one process once
    the processes average (mean) or add up (sum) theirs, as a `Trainer` does. Accumulation still cuts: samples of
    different micro-batches are never paired, and each micro-batch counts by its share of the labels. Every process
    must then call the loss equally often. It is computed in float64 where the device has it.

    Where all samples share one confidence r, the weighted form is |1 - 2r|: a model of two classes starts at its
    least, and for `lam` of 1 or more cross-entropy, whose slope in r is at most 2, may never pull it away.

    Args:
        lam (`float`, *optional*, defaults to `2.0`):
            Weight of the calibration term, not negative.
        weighted (`bool`, *optional*, defaults to `True`):
            The weighted form, which the paper trains.
        normalization (`str`, *optional*, defaults to `"definition"`):
            `"definition"`, or `"released"`: what the paper's published code computes and Table 1 was made with. Its
            weighted form divides the means once more by m^2, n^2 and mn (each plus 1e-5) and adds 1e-10 under the
            root; its unweighted form takes no root.
        gather (`bool`, *optional*, defaults to `False`):
            Pair samples of all processes of torch.distributed while gradients are computed; without such processes,
            and in evaluation, it changes nothing.
        reduction, ignore_index: As in [`CalibrationLoss`]; `"none"` adds the batch's term to each cross-entropy.
    """

    batch_coupled = True

    def __init__(
        self, *, lam: float = 2.0, weighted: bool = True, normalization: str = "definition", gather: bool = False,
        **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(**options)
        self.lam = check_number("lam", lam)
        if normalization not in ("definition", "released"):
            raise ValueError(f"normalization must be 'definition' or 'released', got {normalization!r}.")
        if not isinstance(gather, bool):
            raise ValueError(f"gather must be true or false, got {gather!r}.")
        self.weighted, self.normalization, self.gather = weighted, normalization, gather

    def of_rows(self, rows: Rows) -> Tensor:
        return self._of_rows(rows, averaged=False)

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        """As for every loss; how the processes put theirs together decides what share of the slope is this one's."""
        rows = Rows.of(logits, labels, self.ignore_index)
        losses = self._of_rows(rows, averaged=reduction == "mean")
        return rows.reduced(losses, reduction, labels.shape, self._buffers["class_weights"])

    def _of_rows(self, rows: Rows, averaged: bool) -> Tensor:
        nll, released = rows.nll(), self.normalization == "released"
        together = self.gather and torch.is_grad_enabled() and rows.scores.requires_grad and count_processes() > 1
        share = ("averaged" if averaged else "added") if together else None
        term = _mmce(rows.scores, rows.labels, ~rows.ignored, self.weighted, released, share)
        return nll + self.lam * term.to(nll.dtype)


mmce_loss = as_function(MMCELoss)


def _mmce(
    logits: Tensor, labels: Tensor, kept: Tensor, weighted: bool, released: bool, processes: str | None = None
) -> Tensor:
    """Of these rows, or of those of all processes, which average or add up what comes of it."""
    wide = widen(logits) if logits.device.type == "mps" else logits.double()
    outputs = int(wide.shape[1] == 1)  # of a sigmoid head
    if outputs:
        predictions = (wide.detach().squeeze(-1) > 0).long()
    else:
        predictions = wide.detach().max(dim=-1).indices  # argmax takes three times as long
    confidences = row_losses(PROBABILITY, Rows(wide, predictions, -1, all_count=True, outputs=outputs))
    correct = (predictions == labels) & kept
    if processes is not None:
        confidences, correct, kept = gathered(confidences, correct, kept, averaged=processes == "averaged")
    if not weighted:
        residuals = torch.where(kept, correct.to(wide.dtype) - confidences, 0.0)
        squared = _kernel_forms(confidences, residuals.unsqueeze(0))[0, 0] / kept.sum().clamp(min=1) ** 2
        return squared if released else _safe_root(squared)
    m, n = correct.sum().to(wide.dtype), (kept & ~correct).sum().to(wide.dtype)
    both = (m > 0) & (n > 0)
    right = torch.where(correct, 1 - confidences, 0.0) / m.clamp(min=1)
    wrong = torch.where(kept & ~correct, confidences, 0.0) / n.clamp(min=1)
    if released:  # divides the means once more by m^2, n^2 and mn
        forms = _kernel_forms(confidences, torch.stack([right, wrong]))
        squared = forms[0, 0] / (m * m + 1e-5) + forms[1, 1] / (n * n + 1e-5)
        squared = squared - 2 * forms[0, 1] / (m * n + 1e-5) + 1e-10
    else:
        squared = _kernel_forms(confidences, (right - wrong).unsqueeze(0))[0, 0]
    return _safe_root(torch.where(both, squared, 0.0))


def _kernel_forms(confidences: Tensor, weights: Tensor) -> Tensor:
    r"""$w K w^\top$ of the rows of `weights` `(m, B)`, $K_{ij} = e^{-|r_i - r_j| / 0.4}$, in the time of sorting."""
    # Below the diagonal of the sorted kernel K is a product, e^{-r_i / 0.4} e^{r_j / 0.4}: a running sum over j serves
    # all i. Tied confidences are summed apart, as groups in which K is 1: there the slope of |r_i - r_j| is 0.
    if not len(confidences):
        return weights @ weights.mT
    scaled, order = (confidences / MMCE_KERNEL_WIDTH).sort()
    weights = torch.gather(weights, -1, order.expand_as(weights))
    growth = torch.exp(scaled)
    before = F.pad(torch.cumsum(torch.cat([weights * growth, weights]), dim=-1), (1, -1))
    starts = F.pad(scaled[1:] != scaled[:-1], (1, 0), value=True)
    first = torch.where(starts, torch.arange(len(scaled), device=scaled.device), 0).cummax(-1).values
    lower, tied = torch.gather(before, -1, first.expand_as(before)).chunk(2)
    half = (weights / growth) @ lower.mT + weights @ (before.chunk(2)[1] - tied).mT
    return half + half.mT + weights @ weights.mT


def _safe_root(squared: Tensor) -> Tensor:
    """Square root with value and gradient 0 at 0 (and where rounding went below it)."""
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)
