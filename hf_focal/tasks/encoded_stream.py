# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Inputs of samples that come one after the other: shuffled, decoded and encoded ahead, each of them once."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any

import datasets
import numpy as np
import torch
from datasets.utils.file_utils import is_local_path
from torch.utils.data import get_worker_info

from .pictures import decode
from .rows import UNREADABLE, reason
from .sounds import has_torchcodec
from .streaming import Samples


logger = logging.getLogger(__name__)

BUFFER = 2**28  # bytes of samples, as they are stored, among which the next one is drawn
_CELL = 300  # bytes that a sample takes at least
_READ = 32  # rows read at a time
_BLOCK = 8  # samples that a thread encodes before it hands them over
_FEW = 10  # samples a class, from which on a buffer should have seen most classes

Encoder = Callable[[Any, Any, np.random.Generator], dict[str, Any]]


class EncodedStream(torch.utils.data.IterableDataset[dict[str, Any]]):
    """
    The samples of a stream as a `Trainer` takes them, encoded by threads ahead of what is asked for.

    Each comes once. Of several workers of a data loader one reads, so that batches are whole but for the last; of
    several processes accelerate lets the main one read and deals its batches out.

    Args:
        samples ([`Samples`]):
            A split.
        encode (`Callable`):
            Makes the inputs of a model, and `labels`, of an input, a label and a generator of random numbers.
        seed (`int`, *optional*):
            Of the order, and of what `encode` draws. Samples are drawn from a buffer of 256 MB as they are stored,
            after the order of files was drawn, each epoch anew. Unset: in the order of the data.
        take (`int`, *optional*):
            The first so many alone, which with a seed are the same ones in each epoch.
        skip_unreadable (`bool`, *optional*, defaults to `False`):
            Leave out what cannot be read; one warning an epoch counts it.
        threads (`int`, *optional*, defaults to `1`):
            That encode.

    Raises:
        ValueError: If a sample cannot be read or encoded: the error names it.
    """

    def __init__(
        self,
        samples: Samples,
        encode: Encoder,
        *,
        seed: int | None = None,
        take: int | None = None,
        skip_unreadable: bool = False,
        threads: int = 1,
    ) -> None:
        self.samples, self.encode, self.seed, self.take = samples, encode, seed, take
        self.skip_unreadable, self.threads, self.epoch = skip_unreadable, threads, 0
        feature = samples.data.features[samples.input]
        self._feature = replace(feature, decode=True) if hasattr(feature, "decode") else feature

    def set_epoch(self, epoch: int) -> None:
        """Which epoch comes next: another order, but of a part that is taken."""
        self.epoch = 0 if self.take is not None else epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        if worker is not None and worker.id:
            return
        lost: list[str] = []
        rows = self._rows(lost)
        if self.seed is not None:
            rows = self._shuffled(rows, np.random.default_rng([self.seed, self.epoch]))
        encoded: Iterable[dict[str, Any]] = self._ahead(rows, lost)
        yield from encoded if self.take is None else islice(encoded, self.take)
        if lost:
            shown = "; ".join(lost[:5]) + ("; ..." if len(lost) > 5 else "")
            logger.warning("%d samples of %r are left out: %s.", len(lost), self.samples.split, shown)

    def first(self) -> dict[str, Any] | None:
        """The first sample, encoded; `None` where there is none."""
        return next(iter(EncodedStream(self.samples, self.encode, skip_unreadable=True)), None)

    def _rows(self, lost: list[str]) -> Iterator[tuple[str, Any, Any]]:
        """Where a sample is, its input as it is stored, and its label."""
        samples = self.samples
        data, (every, turn), classes = samples.data, samples.turn, samples.classes()
        if self.seed is not None:
            data = _files_shuffled(data, [self.seed, self.epoch])
        number = without = 0
        batches = data.iter(_READ)
        while (batch := self._next(batches, number)) is not None:
            cells = batch[samples.input]
            if samples.pair is not None:
                cells = zip(cells, batch[samples.pair], strict=True)
            for cell, label in zip(cells, batch[samples.label], strict=True):
                number += 1
                if (number - 1) % every != turn:
                    continue
                place = _place(number - 1, cell, shuffled=self.seed is not None)
                if (index := classes(label, place)) is None:
                    without += 1
                    continue
                yield place, cell, index
        if without:
            logger.warning("Rows without a label are left out: %d of %d of %r.", without, number, samples.split)

    def _next(self, batches: Iterator[Any], number: int) -> Any:
        try:
            return next(batches, None)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            read = f"The stream {self.samples.split!r} cannot be read on after {number} samples"
            raise ValueError(f"{read}: {reason(error)}.") from error

    def _shuffled(self, rows: Iterator[Any], generator: np.random.Generator) -> Iterator[Any]:
        """Each sample once, drawn from a buffer that is as full as it may be."""
        buffer: list[Any] = []
        held, full = 0, False
        for row in rows:
            buffer.append(row)
            held += _size(row[1])
            while held > BUFFER and len(buffer) > 1:
                if not full:
                    full = True
                    self._warn_if_sorted(buffer)
                place = int(generator.integers(len(buffer)))
                buffer[place], buffer[-1] = buffer[-1], buffer[place]
                drawn = buffer.pop()
                held -= _size(drawn[1])
                yield drawn
        generator.shuffle(buffer)
        yield from buffer

    def _warn_if_sorted(self, buffer: list[Any]) -> None:
        names = self.samples.names or ()
        labels = {label for _, _, label in buffer if isinstance(label, int)}
        if labels and len(buffer) >= _FEW * len(names) and 2 * len(labels) < len(names):
            logger.warning(
                "The first %d samples of %r are of %d of %d classes alone: the data are sorted by class, which a "
                "stream cannot undo. Shuffle them where they are stored, or load them without streaming.",
                len(buffer), self.samples.split, len(labels), len(names),
            )  # fmt: skip

    def _ahead(self, rows: Iterator[Any], lost: list[str]) -> Iterator[dict[str, Any]]:
        """What threads make of the rows, in their order."""
        waiting: deque[Future[tuple[list[dict[str, Any]], list[str]]]] = deque()
        pool = ThreadPoolExecutor(self.threads)
        try:
            for number, block in enumerate(iter(lambda: list(islice(rows, _BLOCK)), [])):
                waiting.append(pool.submit(self._encoded, block, number))
                if len(waiting) > self.threads:
                    yield from self._done(waiting.popleft(), lost)
            while waiting:
                yield from self._done(waiting.popleft(), lost)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _done(block: Future[Any], lost: list[str]) -> list[dict[str, Any]]:
        encoded, left_out = block.result()
        lost.extend(left_out)
        return list(encoded)

    def _encoded(self, block: list[Any], number: int) -> tuple[list[dict[str, Any]], list[str]]:
        generator = np.random.default_rng([self.seed or 0, self.epoch, number])
        encoded, left_out = [], []
        for place, cell, label in block:
            try:
                encoded.append(self.encode(self._decoded(cell), label, generator))
            except UNREADABLE as error:
                if not self.skip_unreadable:
                    contents, where = self.samples.task.input.contents, f"in {place} of {self.samples.split!r}"
                    raise ValueError(
                        f"One of the {contents} cannot be used, {where}: {reason(error)}. Mend or remove it."
                    ) from error
                left_out.append(f"{place} ({reason(error)})")
        return encoded, left_out

    def _decoded(self, cell: Any) -> Any:
        """A sound of what is stored of it, or an image of a file elsewhere; others their encoder decodes."""
        if cell is None or not hasattr(self._feature, "decode_example"):
            return cell
        if isinstance(self._feature, datasets.Audio) and not has_torchcodec():
            return cell
        if isinstance(self._feature, datasets.Image) and (cell["bytes"] is not None or is_local_path(cell["path"])):
            return cell if self._feature.mode is None else decode(cell, self._feature.mode)
        tokens = self.samples.data._token_per_repo_id  # noqa: SLF001  (files of private data are opened with them)
        return self._feature.decode_example(cell, token_per_repo_id=tokens)


def _files_shuffled(data: datasets.IterableDataset, seed: list[int]) -> datasets.IterableDataset:
    """The data with their files in another order; the buffer of `datasets` is bounded in rows, not in bytes."""
    options: dict[str, Any] = {"buffer_size": 1}
    if "max_buffer_input_shards" in inspect.signature(data.shuffle).parameters:
        options["max_buffer_input_shards"] = 1  # its threads sleep for five seconds where files end
    return data.shuffle(seed=int(np.random.SeedSequence(seed).generate_state(1)[0]), **options)


def side_of_first(samples: Samples) -> int | None:
    """The longer side, in pixels, of the first image that can be read; `None` where none can."""

    def side(image: Any, *_: Any) -> dict[str, Any]:
        return {"side": max(decode(image).size)}

    first = EncodedStream(samples, side, skip_unreadable=True).first()
    return None if first is None else first["side"]


def _place(number: int, cell: Any, shuffled: bool) -> str:
    """Where a sample is: its file, if it has one."""
    path = cell.get("path") if isinstance(cell, dict) else None
    row = f"sample {number}{' as they are read' if shuffled else ''}"
    return f"{row} ({path})" if path else row


def _size(cell: Any) -> int:
    """About how many bytes an input takes as it is stored."""
    if isinstance(cell, dict):
        cell = cell.get("bytes")
    if isinstance(cell, tuple):  # a pair of texts
        return sum(map(_size, cell))
    return _CELL + (len(cell) if isinstance(cell, (bytes, str, list)) else 0)
