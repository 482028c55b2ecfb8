# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""How much of a split of images is looked at before training, by whom, and what is remembered of it."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed
from datasets import Dataset
from huggingface_hub import constants
from torch import Tensor

from ..progress import progress
from .kept import shared_bytes
from .pictures import Room, about, decode, fetched, rows_at_once, undecoded
from .rows import UNREADABLE, reason, stored_rows


logger = logging.getLogger(__name__)

FOLDER = Path(constants.HF_HOME, "hf_focal", "images")
CHECKS = ("all", "sample", "none")
SMALL = 10**9  # pixels that are decoded in some ten seconds of a core: of data of no more, all are looked at
SAMPLE, SAMPLED = 256, 2 * 10**8  # of larger ones so many images, unless they have more pixels than that
_EACH = 10**4  # pixels in whose time an image is opened
_HEADS = 16  # images whose size tells that of all
_SHARES = 8  # for each process
_FORM = 1  # of what is remembered


@dataclass
class Looked:
    """
    What was found in a split.

    Attributes:
        corrupted (`dict[int, str]`): Rows that cannot be read, and why.
        seen (`Counter`): How many images are of which mode and size.
    """

    corrupted: dict[int, str] = field(default_factory=dict)
    seen: Counter[tuple[str, tuple[int, int]]] = field(default_factory=Counter)

    def add(self, rows: Sequence[int], found: Sequence[Any]) -> None:
        """Add rows, and the mode and size of each, or why it cannot be read."""
        for row, one in zip(rows, found, strict=True):
            if isinstance(one, str):
                self.corrupted[row] = one
            else:
                mode, (width, height) = one
                self.seen[mode, (width, height)] += 1

    @property
    def count(self) -> int:
        """How many images were looked at."""
        return len(self.corrupted) + self.seen.total()


class Looker:
    """
    Looks at the images of a split, in threads, in as few bytes as few images take. Processes of `torch.distributed`
    share them out, and each learns what the others found; whichever of them is the first to ask begins, and none waits
    for one that does not.

    Args:
        data (`Dataset`), split (`str`): The images.
        transform ([`ImageTransform`]): What reads the image in a cell.
        kept, filled (`torch.Tensor`, *optional*): Room for the bytes of each, and whether they are there.
    """

    def __init__(
        self, data: Dataset, split: str, transform: Any, kept: Tensor | None = None, filled: Tensor | None = None
    ) -> None:
        self.data, self.split, self._transform, self._kept, self._filled = data, split, transform, kept, filled
        self._cells, self._room = undecoded(data.select_columns(["image"])), Room()
        self._mode = getattr(data.features["image"], "mode", None)

    def look(self, how: str | None) -> Looked:
        """Look at all of the images, a sample or none; `None` leaves it to their size."""
        if how is not None and how not in CHECKS:
            raise ValueError(f"check_images must be one of {', '.join(CHECKS)}, got {how!r}.")
        if how == "none":
            return Looked()
        total = len(self.data)
        pixels = self._pixels()
        if how is None:
            how = "all" if total * (pixels + _EACH) <= SMALL else "sample"
        count = total if how == "all" else min(total, SAMPLE, max(_HEADS, int(SAMPLED / pixels)))
        if (known := self._remembered(count)) is not None:
            return known
        drawn = np.random.default_rng(0).permutation(total)[:count]
        looked = self._looked_at(range(total) if count == total else np.sort(drawn).tolist())
        if count < total:
            logger.info(
                "Looked at %d of %d images of %r: another that cannot be read is named when it is met "
                "(--check_images all, check_images=\"all\" look at each).", count, total, self.split,
            )  # fmt: skip
        self._remember(looked)
        return looked

    def _pixels(self) -> float:
        """About how many an image has."""
        rows = np.random.default_rng(0).permutation(len(self.data))[:_HEADS].tolist()
        sizes = [found[1] for found in map(self._head, rows) if not isinstance(found, str)]
        return max(1.0, sum(map(math.prod, sizes)) / max(1, len(sizes)))

    def _head(self, row: int) -> tuple[str, tuple[int, int]] | str:
        try:
            return about(self._cells[row]["image"])
        except UNREADABLE as error:
            return reason(error)

    def _looked_at(self, rows: Sequence[int]) -> Looked:
        size = min(rows_at_once(self.data), max(1, math.ceil(len(rows) / (_SHARES * _processes()))))
        blocks = [rows[start : start + size] for start in range(0, len(rows), size)]
        key = f"hf_focal/images/{self.data._fingerprint}/{len(rows)}"  # noqa: SLF001
        looked = Looked()
        with ThreadPoolExecutor() as pool:
            mine, what = _shared_out(key, len(blocks)), f"Looking at images of {self.split!r}"
            for number in progress(mine, what, math.ceil(len(blocks) / _processes())):
                block = blocks[number]
                found = [*pool.map(self._one, block, self._cells[block]["image"])]
                _tell_others(key, number, found)
                looked.add(block, found)
        if _processes() == 1:
            return looked
        looked = Looked()
        for number, found in enumerate(_told(key, len(blocks))):
            looked.add(blocks[number], found)
        return looked

    def _one(self, row: int, cell: Any) -> tuple[str, tuple[int, int]] | str:
        try:
            cell = fetched(cell)
            found = about(cell)
            with self._room.take(4 * math.prod(found[1])):  # Pillow has four bytes a pixel
                cell = cell if self._mode is None else decode(cell, self._mode)
                if self._kept is None or self._filled is None:
                    self._transform.picture(cell)
                else:
                    self._kept[row] = self._transform.read(cell)
                    self._filled[row] = True
            return found
        except UNREADABLE as error:
            return reason(error)

    # What was found is kept in a file, by the fingerprint of the data.

    def _file(self) -> Path:
        return FOLDER / f"{self.data._fingerprint}.json"  # noqa: SLF001

    def _remembered(self, count: int) -> Looked | None:
        """What was found before, if so many images were looked at; those that could not be read are read again."""
        try:
            stored = json.loads(self._file().read_text(encoding="utf-8"))
            if stored["form"] != _FORM or stored["images"] != len(self.data):
                return None
            looked = Looked({int(row): str(why) for row, why in stored["corrupted"].items()})
            for mode, width, height, number in stored["seen"]:
                looked.seen[str(mode), (int(width), int(height))] += int(number)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or none of ours
            return None
        if looked.count < count or any(not 0 <= row < len(self.data) for row in looked.corrupted):
            return None
        again = Looked()
        for row in looked.corrupted:
            again.add([row], [self._one(row, self._cells[row]["image"])])
        return Looked(again.corrupted, looked.seen + again.seen)

    def _remember(self, looked: Looked) -> None:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            return
        seen = [[mode, width, height, number] for (mode, (width, height)), number in looked.seen.items()]
        stored = {"form": _FORM, "images": len(self.data), "corrupted": looked.corrupted, "seen": seen}
        file = self._file()
        written = file.with_suffix(f".{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            written.write_text(json.dumps(stored), encoding="utf-8")
            written.replace(file)
        except OSError as error:  # it will be found out again
            logger.debug("%s cannot be written: %s", file, error)


# Processes share out blocks of rows through the store in which they have met: a collective operation would wait for
# those that do not take part, such as under `main_process_first`.


def _processes() -> int:
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 1


def _store() -> Any:
    return torch.distributed.distributed_c10d._get_default_store()  # noqa: SLF001  (nothing public gives it)


def _shared_out(key: str, count: int) -> Iterator[int]:
    """The numbers, of so many, that no other process has taken."""
    if _processes() == 1:
        yield from range(count)
        return
    store = _store()
    while (number := store.add(f"{key}/taken", 1) - 1) < count:
        yield number


def _tell_others(key: str, number: int, found: Sequence[Any]) -> None:
    if _processes() > 1:
        _store().set(f"{key}/{number}", json.dumps(found))


def _told(key: str, count: int) -> Iterator[list[Any]]:
    """What all processes have found, once they have."""
    for number in range(count):
        yield json.loads(_store().get(f"{key}/{number}"))


def checked(
    data: Dataset, split: str, transform: Any, kept: Tensor | None, how: str | None, skip: bool,
    seen: Counter[tuple[str, tuple[int, int]]],
) -> tuple[Dataset, Tensor | None, Tensor | None]:  # fmt: skip
    """
    Look at as many images as is asked for, see [`Looker`], and leave out those that cannot be read.

    Returns:
        `tuple[Dataset, Tensor | None, Tensor | None]`: The rest; room for its bytes; and which are there, unless all
        are.

    Raises:
        ValueError: If images cannot be read and are not to be left out (`skip`), or none is left.
    """
    filled = None if kept is None else shared_bytes(len(data)).view(torch.bool)
    looked = Looker(data, split, transform, kept, filled).look(how)
    seen += looked.seen
    if looked.corrupted:
        rows = _readable(looked, data, split, skip)
        data = data.select(rows)
        if kept is not None and filled is not None:
            for new, old in enumerate(rows):  # in place: a copy would need the room twice
                kept[new], filled[new] = kept[old], filled[old]
            kept, filled = kept[: len(rows)], filled[: len(rows)]
    return data, kept, None if filled is None or bool(filled.all()) else filled


def _readable(looked: Looked, data: Dataset, split: str, skip: bool) -> list[int]:
    """The rows that are left where some cannot be read."""
    stored, count = stored_rows(data), len(looked.corrupted)
    named = [f"row {stored[row]} ({why})" for row, why in [*looked.corrupted.items()][:5]]
    message = f"{count} of {len(data)} images of the split {split!r} cannot be read: "
    if looked.count < len(data):
        message = f"{count} of {looked.count} images of the split {split!r} that were looked at cannot be read: "
    message += "; ".join(named) + ("; ..." if count > 5 else ".")
    if not skip or looked.count == count:
        mend = "Mend or remove them, or leave them out with skip_corrupted=True (--skip_corrupted_images)."
        raise ValueError(f"{message} Rows are counted from 0 in the split as it is stored. {mend}")
    logger.warning("%s They are left out.", message)
    return [row for row in range(len(data)) if row not in looked.corrupted]


def tell_what_is_converted(seen: Counter[tuple[str, tuple[int, int]]], made: str) -> None:
    """Say once which images are converted to the mode that is made of all, and that they are resized."""
    modes: Counter[str] = Counter()
    for (mode, _), count in seen.items():
        modes[mode] += count
    if others := ", ".join(f"{count} of mode {mode}" for mode, count in modes.most_common() if mode != made):
        deep = " Pipelines clip grey of 16 bits instead of scaling it: scale such images before one."
        more = deep if any(mode.startswith("I;16") for mode in modes) else ""
        kind = "RGB" if made == "RGB" else "grey"
        logger.warning("Images made %s of 8 bits: %s. Transparency is dropped.%s", kind, others, more)
    sizes = {size for _, size in seen}
    if len(sizes) > 1:
        smallest, *_, largest = (f"{width}x{height}" for width, height in sorted(sizes, key=math.prod))
        logger.warning("Images of %d sizes, from %s to %s, are resized to one.", len(sizes), smallest, largest)
