# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Rows of a split: where they are stored, whatever was drawn from it, and which of them cannot be read."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset, NamedSplit
from PIL import Image as PILImage


# What Pillow, torchcodec and processors are known to raise on data that are no image or sound, or only the beginning.
UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError, struct.error,
    PILImage.DecompressionBombError,
)  # fmt: skip


def stored_rows(data: Dataset) -> Sequence[int]:
    """Where the samples are in the split as it is stored, whatever was drawn from it."""
    selected = data._indices  # noqa: SLF001  (rows of the table behind; nothing public tells them)
    return range(len(data)) if selected is None else selected.column(0).to_pylist()


def keep_rows(data: Dataset, kept: Sequence[bool]) -> Dataset:
    """Some of the samples, which [`stored_rows`] still knows: `select` forgets where it is a piece of the table."""
    return data._select_with_indices_mapping([row for row, keep in enumerate(kept) if keep])  # noqa: SLF001


def named_split(data: Dataset, split: str) -> Dataset:
    """The data, which say what their split is called."""
    if data.split is not None or not re.fullmatch(r"\w+", split):
        return data
    about: Any = {"split": NamedSplit(split), "fingerprint": data._fingerprint}  # noqa: SLF001
    return Dataset(data.data, info=data.info, indices_table=data._indices, **about)  # noqa: SLF001


def reason(error: Exception) -> str:
    """What an error says, without the address of a buffer."""
    return re.sub(r" <_io\.\w+ object at \w+>", "", str(error)).removesuffix(".") or type(error).__name__


class NamedRows(torch.utils.data.Dataset[Any]):
    """
    Samples that are made when they are read, as a `Trainer` takes them; a ValueError names the row of one that cannot
    be made.

    Args:
        data (`datasets.Dataset`): With a transform.
        contents (`str`): What a sample is, such as `"image"`.
    """

    def __init__(self, data: Dataset, contents: str) -> None:
        self.data, self.contents = data, contents

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """The samples of a batch, as data loaders of PyTorch ask for them."""
        try:
            return self.data.__getitems__(indices)
        except UNREADABLE:
            for index in indices:
                try:
                    self.data[index]
                except UNREADABLE as error:
                    raise unusable(self.data, index, self.contents, error) from error
            raise


def unusable(data: Dataset, index: int, contents: str, error: Exception) -> ValueError:
    """What to say of a sample that cannot be made, such as of an image."""
    split = "" if data.split is None else f" {str(data.split)!r}"
    where = f"The {contents} in row {stored_rows(data)[index]} of the split{split}"
    return ValueError(f"{where} cannot be used: {reason(error)}. Mend or remove it.")
