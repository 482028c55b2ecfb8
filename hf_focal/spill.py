# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Rows of numbers that may not fit into memory: many of them lie in a temporary file that is mapped into memory."""

from __future__ import annotations

import math
import mmap
import tempfile
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray


IN_MEMORY = 1 << 26  # bytes of rows up to which they are no file
_COPIED = 1 << 24  # bytes that are copied at a time


class Rows:
    """
    Rows that come some at a time, and are one array in the end. Up to 64 MB of them stay in memory; more go to a file
    without a name in the folder for temporary files (`TMPDIR` sets another one), which is gone with the array, even
    where the process is killed.
    """

    def __init__(self) -> None:
        self._parts: list[NDArray[Any]] = []
        self._file: Any = None
        self._count = self._bytes = 0

    def __len__(self) -> int:
        return self._count

    def add(self, rows: NDArray[Any]) -> None:
        """
        Add rows of the shape and type of those before.

        Raises:
            OSError: If the folder for temporary files has no room for them.
        """
        if self._parts:
            rows = rows.astype(self._parts[0].dtype, copy=False)
        self._count, self._bytes = self._count + len(rows), self._bytes + rows.nbytes
        if self._file is None and self._bytes <= IN_MEMORY:
            self._parts.append(rows.copy())
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()
                for part in self._parts:
                    self._write(part)
                self._parts = [rows[:0].copy()]  # of which shape and type are known
            self._write(rows)
        except OSError as error:
            raise self._no_room(error) from error

    def _write(self, rows: NDArray[Any]) -> None:
        if rows.size:
            self._file.write(np.ascontiguousarray(rows).data.cast("B"))

    def _no_room(self, error: OSError) -> OSError:
        if self._file is not None:
            with suppress(OSError):  # it tries to write what is left
                self._file.close()
        return OSError(
            f"{self._count} rows of logits, {self._bytes / 1e9:.1f} GB so far, do not go into memory, and cannot be "
            f"written to {tempfile.gettempdir()}: {error.strerror or error}. Set the environment variable TMPDIR to a "
            "folder with more room."
        )

    def array(self) -> NDArray[Any]:
        """All rows; none may be added afterwards."""
        if self._file is None:
            return np.concatenate(self._parts)
        try:
            self._file.flush()
        except OSError as error:
            raise self._no_room(error) from error
        like = self._parts[0]
        with self._file as file:
            return np.memmap(file, like.dtype, "r+", shape=(self._count, *like.shape[1:]))


def taken(array: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """`array[rows]`, of rows that may be too many for memory."""
    size = math.prod(array.shape[1:]) * array.itemsize
    if len(rows) * size <= IN_MEMORY:
        return np.asarray(array[rows])
    some, at_once = Rows(), max(1, _COPIED // size)
    for start in range(0, len(rows), at_once):
        some.add(array[rows[start : start + at_once]])
        forget(array)
    return some.array()


def forget(array: Any) -> None:
    """Let go of what was read of a mapped file, which the system counts as memory of the process; else do nothing."""
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    if isinstance(array, np.memmap) and array.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
        # What was changed of a copy on write would be lost.
        mapped: Any = array
        mapped._mmap.madvise(mmap.MADV_DONTNEED)  # noqa: SLF001
