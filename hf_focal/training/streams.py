# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Data that come one by one: what a trainer can read, and each sample counted once in several processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
from torch.utils.data import IterableDataset


def is_stream(data: Any) -> bool:
    """Whether samples can only be read one after the other."""
    return isinstance(data, (IterableDataset, datasets.IterableDataset))


def check_dataset(data: Any) -> None:
    """Refuse what no data loader can read sample by sample."""
    if isinstance(data, (str, bytes, dict)):
        found = f"a dict of {', '.join(map(str, data))}" if isinstance(data, dict) else repr(data)
        raise ValueError(f"Needed is one data set, got {found}: pass one of its data sets, already loaded.")
    if not (is_stream(data) or hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise ValueError(
            f"A data set must be a datasets.Dataset or IterableDataset, one of torch.utils.data, or a list of "
            f"samples, got {type(data).__name__}: make a list of it, or datasets.Dataset.from_generator(function)."
        )


NO_SAMPLE = "The data set gave no sample: it is empty, or a stream that can be read only once and was read before."


@contextmanager
def reading(processes: int) -> Iterator[None]:
    """Say what is wrong with data of which accelerate makes no batches."""
    try:
        yield
    except ValueError as error:
        if "Batch does not contain any data" in str(error):
            raise ValueError(NO_SAMPLE) from error
        raise
    except RuntimeError as error:
        if processes > 1 and (
            "Sizes of tensors must match" in str(error) or "batches of different size" in str(error)
        ):
            raise ValueError(
                "The batches differ in length, and cannot be dealt out by one process to the others: set "
                'accelerator_config={"dispatch_batches": False}, with which each process makes its own.'
            ) from error
        raise


class CountedStream(IterableDataset):
    """
    A stream that accelerate deals out to several processes with repetitions at the end, so that all have whole
    batches; once it has ended, it tells its loader how many samples of the last batch are none.
    """

    loader: Any = None

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        if name == "stream":  # not there yet, in a copy
            raise AttributeError(name)
        return getattr(self.stream, name)  # `set_epoch` and `generator` keep the processes in step

    def __iter__(self) -> Iterator[Any]:
        count = 0
        for sample in self.stream:
            yield sample
            count += 1
        shard = self.loader.dataset
        whole = shard.batch_size * (1 if shard.split_batches else shard.num_processes)
        self.loader.remainder = count % whole
