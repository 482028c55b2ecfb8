# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""A batch as a loss sees it: checked and flattened to rows, and reduced again."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .rows import CROSS_ENTROPY, is_traced, row_losses, widen


class Rows(NamedTuple):
    """Logits `(M, K)` and labels `(M,)` of a batch, checked; what a loss gives where a label is ignored is dropped."""

    logits: Tensor
    labels: Tensor
    ignore_index: int
    all_count: bool  # whether no label is known to be ignored

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, ignore_index: int) -> Rows:
        """Check the two and flatten them."""
        if not isinstance(logits, Tensor) or not isinstance(labels, Tensor):
            raise ValueError(
                f"logits and labels must be tensors, got {type(logits).__name__} and {type(labels).__name__}."
            )
        if logits.ndim not in (2, 3):
            raise ValueError(f"logits must have shape (N, K) or (N, T, K), got {tuple(logits.shape)}.")
        if not logits.is_floating_point():
            raise ValueError(f"logits must be floating point, got {logits.dtype}. Pass the raw scores of the model.")
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"labels must be class indices of an integer dtype, got {labels.dtype}.")
        if labels.shape != logits.shape[:-1]:
            raise ValueError(
                f"labels must have shape {tuple(logits.shape[:-1])} to go with logits of shape {tuple(logits.shape)}, "
                f"got {tuple(labels.shape)}."
            )
        num_labels = logits.shape[-1]
        if num_labels < 2:
            raise ValueError(f"logits must have at least 2 classes in their last dimension, got {num_labels}.")
        flat = logits.ndim == 2  # a view costs as much as a small softmax
        flat_labels = (labels if flat else labels.reshape(-1)).long()
        # Reading values would synchronise an accelerator and cannot be traced, so only eager CPU labels are looked at.
        looked_at = labels.device.type == "cpu" and not is_traced()
        all_count = looked_at and _check_range(flat_labels, num_labels, ignore_index)
        return cls(logits if flat else logits.reshape(-1, num_labels), flat_labels, ignore_index, all_count)

    @property
    def ignored(self) -> Tensor:
        """Which labels count for nothing, `(M,)`."""
        return self.labels == self.ignore_index

    @property
    def targets(self) -> Tensor:
        """The labels, with 0 where they are ignored, `(M,)`."""
        return self.labels if self.all_count else torch.where(self.ignored, 0, self.labels)

    def log_probabilities(self) -> Tensor:
        """The log-softmax, `(M, K)`, by differentiable operations."""
        return F.log_softmax(widen(self.logits), dim=-1)

    def nll(self) -> Tensor:
        """Cross-entropy, `(M,)`, with its gradient in closed form."""
        return row_losses(CROSS_ENTROPY, *self)


def _check_range(labels: Tensor, num_labels: int, ignore_index: int) -> bool:
    """Refuse labels out of range; return whether none of them is ignored, as far as a glance tells."""
    if len(labels) == 0:
        return False
    low, high = labels.aminmax()
    if low.item() >= 0 and high.item() < num_labels:
        return not 0 <= ignore_index < num_labels
    out_of_range = (labels != ignore_index) & ((labels < 0) | (labels >= num_labels))
    if out_of_range.any():
        raise ValueError(
            f"labels must lie in [0, {num_labels - 1}] or equal ignore_index={ignore_index}, "
            f"got {labels[out_of_range][0].item()}."
        )
    return False


def reduced_losses(
    of_rows: Callable[[Rows], Tensor],
    logits: Tensor,
    labels: Tensor,
    reduction: str,
    ignore_index: int,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Check and flatten a batch, take the loss of each row, drop what is ignored, weigh and reduce."""
    rows = Rows.of(logits, labels, ignore_index)
    losses = of_rows(rows)
    if losses.shape != rows.labels.shape:
        raise ValueError(f"of_rows must give {len(rows.labels)} losses, one a row, got shape {tuple(losses.shape)}.")
    if not rows.all_count:
        losses = torch.where(rows.ignored, 0.0, losses)
    if class_weights is not None:
        if class_weights.shape != rows.logits.shape[-1:]:
            raise ValueError(
                f"class_weights must hold one number for each of the {logits.shape[-1]} classes, "
                f"got shape {tuple(class_weights.shape)}."
            )
        # Not blocking: numbers this few are staged at once, and the device need not be waited for.
        weights = class_weights.to(losses.device, losses.dtype, non_blocking=True)
        losses = losses * weights[rows.targets]
    if reduction == "none":
        return losses.reshape(labels.shape)
    if reduction == "mean" and rows.all_count:
        return losses.mean()
    total = losses.sum()
    return total if reduction == "sum" else total / (labels != ignore_index).sum()
