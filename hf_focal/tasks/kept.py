# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Which splits of images are kept in memory as bytes, and reading all of a split in bounded memory."""

from __future__ import annotations

import logging
import math
import mmap
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import torch
from datasets import Dataset
from torch import Tensor

from .levels import Levels
from .pictures import Room, about, decode, fetched, rows_at_once, undecoded
from .rows import UNREADABLE, reason, stored_rows


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


def read_all(
    data: Dataset, split: str, transform: Any, kept: Tensor | None, skip_corrupted: bool,
    seen: Counter[tuple[str, tuple[int, int]]],
) -> tuple[Dataset, Tensor | None]:  # fmt: skip
    """
    Read all images of a split, in threads, as many at a time as few bytes hold.

    Args:
        data (`Dataset`), split (`str`): The images.
        transform ([`ImageTransform`]): What makes bytes of the image in a cell.
        kept (`torch.Tensor`, *optional*): Room for the bytes, which is filled. Without, images are merely decoded.
        skip_corrupted (`bool`): Leave out images that cannot be read, instead of raising.
        seen (`Counter`): Modes and sizes are counted there.

    Returns:
        `tuple[Dataset, Tensor | None]`: The rows that are images, and their bytes.

    Raises:
        ValueError: If an image cannot be read and `skip_corrupted` is off, or none can.
    """
    cells, at_once = undecoded(data), rows_at_once(data)
    mode, room = getattr(data.features["image"], "mode", None), Room()

    def found_in(row: int, cell: Any) -> tuple[str, tuple[int, int]] | Exception:
        try:
            cell = fetched(cell)
            found = about(cell)
            with room.take(4 * math.prod(found[1])):  # Pillow has four bytes a pixel
                cell = cell if mode is None else decode(cell, mode)
                if kept is None:
                    transform.picture(cell)
                else:
                    kept[row] = transform.read(cell)
            return found
        except UNREADABLE as error:
            return error

    rows: list[int] = []
    corrupted: dict[int, Exception] = {}
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(data), at_once):
            block = cells[start : start + at_once]["image"]
            for row, found in enumerate(pool.map(found_in, range(start, start + len(block)), block), start):
                if isinstance(found, Exception):
                    corrupted[row] = found
                else:
                    seen[found] += 1
                    rows.append(row)
    if not corrupted:
        return data, kept
    _tell_corrupted(corrupted, data, split, skip_corrupted and bool(rows))
    if kept is not None:
        for new, old in enumerate(rows):  # in place: a copy would need the room twice
            kept[new] = kept[old]
        kept = kept[: len(rows)]
    return data.select(rows), kept


def _tell_corrupted(corrupted: Mapping[int, Exception], data: Dataset, split: str, left_out: bool) -> None:
    stored = stored_rows(data)
    named = [f"row {stored[row]} ({reason(error)})" for row, error in [*corrupted.items()][:5]]
    message = f"{len(corrupted)} of {len(data)} images of the split {split!r} cannot be read: "
    message += "; ".join(named) + ("; ..." if len(corrupted) > 5 else ".")
    if not left_out:
        mend = "Mend or remove them, or leave them out with skip_corrupted=True (--skip_corrupted_images)."
        raise ValueError(f"{message} Rows are counted from 0 in the split as it is stored. {mend}")
    logger.warning("%s They are left out.", message)


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
