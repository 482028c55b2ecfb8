# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Focal loss with a gamma for each sample (FLSD)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Unpack

from .base import CalibrationLoss, ClassWeights, Options, as_function, check_steps, register_loss
from .rows import NLL, Rows, focal_shape, row_losses


@register_loss("flsd-532", gammas=(5.0, 3.0, 2.0), thresholds=(0.2, 0.5))
@register_loss("flsd-53")
class SampleDependentFocalLoss(CalibrationLoss):
    r"""
    Focal loss whose gamma depends on each sample's probability of the true class: `gammas[i]` holds up to, and not
    including, `thresholds[i]`, the last gamma from there on. The default is FLSD-53: 5 for $p_y < 0.2$, else 3
    (Mukhoti et al., 2020, Section 4). gamma is a constant in the gradient.

    Args:
        gammas (`Sequence[float]`, *optional*, defaults to `(5.0, 3.0)`):
            One gamma per interval of $p_y$, from low to high probability.
        thresholds (`Sequence[float]`, *optional*, defaults to `(0.2,)`):
            Where one interval ends and the next begins: strictly increasing, in `(0, 1)`.
        class_weights, reduction, ignore_index: As in [`CrossEntropyLoss`].
    """

    def __init__(
        self,
        *,
        gammas: Sequence[float] = (5.0, 3.0),
        thresholds: Sequence[float] = (0.2,),
        class_weights: ClassWeights = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        if any(not 0 < threshold < 1 for threshold in thresholds):
            raise ValueError(f"thresholds must lie strictly between 0 and 1, got {tuple(thresholds)}.")
        self.gammas = check_steps(gammas, thresholds, "thresholds")
        self.thresholds = tuple(thresholds)
        self.weigh_by(class_weights)

    def of_rows(self, rows: Rows) -> Tensor:
        return row_losses(NLL(self._shape), rows)

    def _shape(self, nll: Tensor) -> tuple[Tensor, Tensor]:
        # p < threshold, told from nll; a margin of rounding, for p = 0.2 of five equal logits is not below 0.2.
        margin = 1 + 2 * torch.finfo(nll.dtype).eps
        gamma: float | Tensor = self.gammas[-1]
        for threshold, value in zip(reversed(self.thresholds), reversed(self.gammas[:-1]), strict=True):
            gamma = torch.where(nll > margin * math.log(1 / threshold), value, gamma)
        return focal_shape(nll, gamma, min(self.gammas))


sample_dependent_focal_loss = as_function(SampleDependentFocalLoss)
