# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Pictures as they are stored: opened, decoded in bounded memory, and made RGB or grey of 8 bits."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
from datasets.utils.file_utils import is_local_path
from PIL import ExifTags, ImageOps
from PIL import Image as PILImage
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg


ENCODED = 2**24  # bytes of stored images that are read at a time
DECODED = 2**27  # bytes of decoded ones that are held at a time


def undecoded(data: Dataset) -> Dataset:
    """The data with images as they are stored, so that reading several decodes none."""
    return data.cast_column("image", Image(decode=False))


def rows_at_once(data: Dataset) -> int:
    """How many stored images may be read at a time: a block is bounded in bytes, not in images."""
    return max(1, min(512, ENCODED * len(data.data) // max(1, data.data.nbytes)))


class Room:
    """Bytes that threads share: whoever needs some waits until others have given theirs back."""

    def __init__(self, size: int = DECODED) -> None:
        self._size, self._taken, self._changed = size, 0, threading.Condition()

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Hold `count` bytes; more than there are in all only while nobody else holds any."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + count <= self._size)
            self._taken += count
        try:
            yield
        finally:
            with self._changed:
                self._taken -= count
                self._changed.notify_all()


def open_picture(cell: Any) -> PILImage.Image:
    """The image in a cell, of which no more is read than its size and mode; one that is decoded stays as it is."""
    if cell is None:
        raise ValueError("the cell is empty")
    if not isinstance(cell, dict):
        return cell
    if (stored := cell["bytes"]) is not None:
        return PILImage.open(io.BytesIO(stored))
    return PILImage.open(cell["path"]) if is_local_path(cell["path"]) else Image().decode_example(cell)


def fetched(cell: Any) -> Any:
    """The cell; of a file elsewhere the image in it, so that it is asked for once."""
    elsewhere = isinstance(cell, dict) and cell["bytes"] is None and not is_local_path(cell["path"])
    return open_picture(cell) if elsewhere else cell


def about(cell: Any) -> tuple[str, tuple[int, int]]:
    """Mode and size, upright, of the image in a cell, without decoding it."""
    image = open_picture(cell)
    sideways = image is not cell and image.getexif().get(ExifTags.Base.Orientation, 1) > 4
    return image.mode, image.size[::-1] if sideways else image.size


def decode(cell: Any, mode: str | None = None, at_least: int | None = None) -> PILImage.Image:
    """
    The image in a cell, upright, as `datasets` decodes it.

    Args:
        cell (`dict`, `PIL.Image.Image` or `None`):
            Of a column of images that is decoded or not.
        mode (`str`, *optional*):
            Pillow's mode that the column asks for.
        at_least (`int`, *optional*):
            Decode a JPEG file at an eighth, a quarter or half of its size, whose sides still have so many pixels.

    Raises:
        ValueError: If the cell is empty. Of a broken file Pillow raises what it raises.
    """
    image = open_picture(cell)
    if image is cell:
        return image
    if at_least is not None:
        image.draft(None, (at_least, at_least))
    image.load()
    if _turned(image):
        image = ImageOps.exif_transpose(image)
    return image if mode is None else as_mode(image, mode)


def planes(cell: Any, mode: str, at_least: int | None = None) -> Tensor:
    """The picture in a cell as bytes `(C, H, W)`, of mode `"RGB"` or `"L"`; JPEG files are decoded by torchvision."""
    image = open_picture(cell)
    smaller = at_least is not None and min(image.size) >= 2 * at_least
    plain = image is not cell and not smaller and image.format == "JPEG" and image.mode == mode == "RGB"
    if plain and not _turned(image) and _decodes_alike():
        stored = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
        try:
            return decode_jpeg(torch.frombuffer(bytearray(stored), dtype=torch.uint8), ImageReadMode.RGB)
        except RuntimeError:  # Pillow says more plainly what is wrong with it
            pass
    return as_planes(as_mode(to_rgb(decode(cell, at_least=at_least)), mode))


def as_planes(image: PILImage.Image) -> Tensor:
    """A picture's bytes, `(C, H, W)`."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def as_mode(image: PILImage.Image, mode: str) -> PILImage.Image:
    """An image of another mode; of this one, itself and no copy."""
    return image if image.mode == mode else image.convert(mode)


def to_rgb(image: PILImage.Image | None) -> PILImage.Image:
    """
    An image as pipelines make it: grey copied, transparency dropped. But grey of 16 bits is scaled, not clipped. One
    that is RGB is no copy.
    """
    if image is None:
        raise ValueError("the cell is empty")
    if image.mode.startswith("I;16"):
        image = PILImage.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"the image is of mode {image.mode}, whose range is not known: convert it to 8 bits")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without a warning
    return as_mode(image, "RGB")


def _turned(image: PILImage.Image) -> bool:
    return image.getexif().get(ExifTags.Base.Orientation) is not None


@cache
def _decodes_alike() -> bool:
    """Whether torchvision gives the very pixels of Pillow, here: both bring a copy of libjpeg-turbo."""
    file = io.BytesIO()
    smooth = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    PILImage.fromarray(smooth).resize((83, 61), PILImage.Resampling.BICUBIC).save(file, "JPEG", quality=80)
    expected = as_planes(PILImage.open(file))
    try:
        found = decode_jpeg(torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8), ImageReadMode.RGB)
    except RuntimeError:  # built without libjpeg
        return False
    return torch.equal(found, expected)
