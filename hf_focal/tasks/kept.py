# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Which splits of images are kept in memory as bytes."""

from __future__ import annotations

import logging
import math
import mmap
from collections.abc import Mapping

import psutil
import torch
from datasets import Dataset
from torch import Tensor

from .levels import Levels


logger = logging.getLogger(__name__)

MEMORY = 4 * 10**9  # bytes of all splits that may be kept


def keep(dataset: Mapping[str, Dataset], levels: Levels, memory: float = MEMORY) -> dict[str, Tensor | None]:
    """
    Room for the bytes of each split, empty yet; `None` for one that is not kept. The log says which are, and why not.

    Args:
        dataset (`Mapping[str, Dataset]`): Splits of images.
        levels ([`Levels`]): What is made of each.
        memory (`float`, *optional*, defaults to `4e9`): Bytes that all may take together, in their order.

    Raises:
        ValueError: If `memory` is negative or NaN.
    """
    if not memory >= 0:
        raise ValueError(f"memory (--image_cache_gb) must be a number of at least 0, got {memory}.")
    kept: dict[str, Tensor | None] = {}
    left, free = memory, psutil.virtual_memory().available
    for split, data in dataset.items():
        shape = len(data), *levels.shape
        size = math.prod(shape)
        why = ""
        if not levels.exact:
            why = "their image processor does more than resize and normalise"
        elif size > left:
            rest = f"{_gb(left)} of {_gb(memory)} are left (--image_cache_gb, memory=)"
            why = f"they take {_gb(size)} as bytes, and {rest}"
        elif size > free / 2:
            why = f"they take {_gb(size)} as bytes, more than half of the {_gb(free)} of memory that are free"
        if why:
            logger.info("Images of the split %r are decoded whenever they are read: %s.", split, why)
            kept[split] = None
            continue
        logger.info("Images of the split %r are kept in memory once they are read: %s as bytes.", split, _gb(size))
        kept[split] = shared_bytes(*shape)
        left, free = left - size, free - size
    return kept


def shared_bytes(*shape: int) -> Tensor:
    """Zeros of a shape, in memory that processes share which are forked later; it is taken as it is written to."""
    return torch.frombuffer(mmap.mmap(-1, max(1, math.prod(shape))), dtype=torch.uint8)[: math.prod(shape)].view(shape)


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
