# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Samples of all processes of torch.distributed in each of them, with slopes that add up as those of one process."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def count_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gathered(values: Tensor, marks: Tensor, kept: Tensor, averaged: bool) -> tuple[Tensor, Tensor, Tensor]:
    """
    The values and marks of all processes, in the order of their ranks, and which of them count. Every process must
    call it; they may have different numbers of samples.

    Args:
        values (`torch.Tensor` of shape `(N,)`): Differentiable; those of other processes are constants here.
        marks, kept (`torch.Tensor` of shape `(N,)`): Booleans.
        averaged (`bool`):
            What becomes of a function f of all values that each process adds to its loss: the processes average their
            losses; or else they add them up, f counting once for each sample that is kept. The slopes of f are scaled
            so that each process has its own share of them, and all together those of one process.
    """
    own = torch.stack([values.detach(), marks.to(values.dtype), kept.to(values.dtype)])
    count = torch.tensor([own.shape[1]], device=own.device)
    counts = [torch.empty_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    sizes = torch.cat(counts).tolist()
    padded = F.pad(own, (0, max(sizes) - own.shape[1]))
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    whole = torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], dim=1)
    share = len(sizes) if averaged else whole[2].sum() / own[2].sum().clamp(min=1)
    before = sum(sizes[: dist.get_rank()])
    slopes = (share - 1) * (values - values.detach())  # 0, with a slope
    mine = torch.cat([whole[0, :before], values + slopes, whole[0, before + own.shape[1] :]])
    return mine, whole[1] > 0, whole[2] > 0
