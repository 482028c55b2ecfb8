# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Focal loss that adapts its gammas to validation data (AdaFocal)."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from .base import CalibrationLoss, Options, check_number, check_reduction, register_loss
from .rows import Rows


@register_loss("adafocal")
class AdaFocalLoss(CalibrationLoss):
    r"""
    Focal loss that adapts a gamma for each bin of probability to validation data (AdaFocal; Ghosh et al., 2022).

    The validation samples are cut into bins of equal mass by their confidence. After each evaluation the gamma of a
    bin becomes $\gamma e^{\lambda (C - A)}$, C the mean confidence and A the accuracy in the bin (the exponent changes
    its sign for a negative gamma): it grows where the model is over-confident. Where $|\gamma|$ falls below 0.2 it
    jumps to 0.2 of the other sign, between focal and inverse focal loss, and it stays in [-2, 20]. A training sample
    takes the gamma of the bin of its $p_y$; see [`adafocal_loss`]. A bin that ties leave empty keeps its gamma.

    `CalibrationTrainer` updates the loss by itself, a plain `Trainer` needs `callbacks=[loss.callback()]`, and both
    keep the state in checkpoints; a loop of your own calls [`~AdaFocalLoss.update_from_validation`] after each epoch
    and saves `state_dict()`. A loss that is never updated is focal loss with the gamma of the start.

    Args:
        lam (`float`, *optional*, defaults to `1.0`):
            $\lambda$, how fast the gammas move; not negative.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.
        start (`float`, *optional*, defaults to `1.0`):
            The gamma of every bin before the first update, from 0.2 to 20.
        reduction, ignore_index: As in [`CalibrationLoss`].
    """

    gammas: Tensor
    edges: Tensor
    learns_from_validation, validation_callback = True, "AdaFocalCallback"
    SWITCH, LOWEST, HIGHEST = 0.2, -2.0, 20.0

    def __init__(self, *, lam: float = 1.0, n_bins: int = 15, start: float = 1.0, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.lam = check_number("lam", lam)
        if isinstance(n_bins, bool) or not isinstance(n_bins, int) or n_bins < 1:
            raise ValueError(f"n_bins must be an int, at least 1, got {n_bins!r}.")
        self.n_bins = n_bins
        self.start = check_number("start", start, self.SWITCH)
        if self.start > self.HIGHEST:
            raise ValueError(f"start must be at most {self.HIGHEST:g}, got {start!r}.")
        self.register_buffer("gammas", torch.full((n_bins,), self.start))
        self.register_buffer("edges", torch.arange(1, n_bins) / n_bins)

    @torch.no_grad()
    def update_from_validation(self, logits: Any, labels: Any) -> None:
        """As for [`CalibrationLoss`]; raises `ValueError` where no label counts, or a logit is NaN or infinite."""
        rows = Rows.of(torch.as_tensor(logits).float(), torch.as_tensor(labels), self.ignore_index)
        logits, labels = rows.logits[~rows.ignored], rows.labels[~rows.ignored]
        if len(labels) == 0:
            raise ValueError("AdaFocal needs validation labels to be updated from, got none that counts.")
        log_confidences, predictions = torch.log_softmax(logits, dim=-1).max(dim=-1)
        if not bool(torch.isfinite(log_confidences).all()):
            raise ValueError("The validation logits must be finite, got NaN or infinity: has training diverged?")
        confidences, correct = log_confidences.exp().cpu(), (predictions == labels).cpu()
        edges = confidences.sort().values[torch.arange(1, self.n_bins) * len(labels) // self.n_bins]
        self.edges.copy_(edges)
        bins = torch.bucketize(confidences, edges, right=True)
        sums = torch.bincount(bins, confidences.double() - correct.double(), minlength=self.n_bins)
        gap = sums / torch.bincount(bins, minlength=self.n_bins).clamp(min=1)
        gammas = self.gammas.cpu().double()
        signs = gammas.sign()  # which the exponential keeps, unless it underflows
        gammas = gammas * torch.exp(self.lam * gap * signs)
        gammas = torch.where(gammas.abs() < self.SWITCH, -self.SWITCH * signs, gammas)
        self.gammas.copy_(gammas.clamp(self.LOWEST, self.HIGHEST))

    def of_rows(self, rows: Rows) -> Tensor:
        return _of_bins(self.gammas, self.edges, rows)


def adafocal_loss(
    logits: Tensor, labels: Tensor, *, gammas: Tensor, edges: Tensor, reduction: str = "mean", ignore_index: int = -100
) -> Tensor:
    r"""
    Focal loss with a gamma for each bin of $p_y$ (Ghosh et al., 2022): $-(1 - p_y)^\gamma \log p_y$ where the gamma of
    the bin is positive, inverse focal loss $-(1 + p_y)^{|\gamma|} \log p_y$ where it is negative. gamma is a constant
    in the gradient. [`AdaFocalLoss`] holds the bins and updates them from validation data.

    Args:
        logits, labels, reduction, ignore_index: As in [`cross_entropy_loss`].
        gammas (`torch.Tensor` of shape `(B,)`):
            One finite gamma per bin, from low to high $p_y$.
        edges (`torch.Tensor` of shape `(B - 1,)`):
            Where one bin ends and the next, which includes the edge, begins; not decreasing.

    Returns:
        `torch.Tensor`: The loss, not negative.

    Raises:
        ValueError: If gammas and edges do not fit, or shapes, dtypes or labels are wrong.
    """
    check_reduction(reduction)
    if gammas.ndim != 1 or edges.shape != (len(gammas) - 1,):
        raise ValueError(
            f"gammas must be one-dimensional and edges one shorter, got shapes {tuple(gammas.shape)} and "
            f"{tuple(edges.shape)}."
        )
    rows = Rows.of(logits, labels, ignore_index)
    return rows.reduced(_of_bins(gammas, edges, rows), reduction, labels.shape)


def _of_bins(gammas: Tensor, edges: Tensor, rows: Rows) -> Tensor:
    nll = rows.nll()
    gammas = gammas.to(nll.device, nll.dtype, non_blocking=True)
    edges = edges.to(nll.device, nll.dtype, non_blocking=True)
    gamma = gammas[torch.bucketize(torch.exp(-nll.detach()), edges, right=True)]
    inverse = gamma < 0
    # p = 1: as in focal_shape. Inverse focal loss has no such trouble.
    saturated = (nll <= 0) & ~inverse
    inner = torch.where(saturated, 1.0, nll)
    factor = torch.where(inverse, 1 + torch.exp(-inner), -torch.expm1(-inner))
    return torch.where(saturated, 0.0, factor ** gamma.abs() * inner)
