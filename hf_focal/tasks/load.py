# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Load the splits of a data set as they are, by name or folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from datasets import Dataset, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError


@contextmanager
def naming_encoding(name: str) -> Iterator[None]:
    """Say so where files of this data set are not in UTF-8."""
    try:
        yield
    except (UnicodeError, DatasetGenerationError) as error:
        if wrong := _cause(error, UnicodeError):
            raise ValueError(f"A file of the data set {name!r} is not in UTF-8: {wrong}. Convert it.") from error
        raise


def load_splits(name: str, config_name: str | None, revision: str | None) -> Mapping[str, Dataset]:
    """The splits of a data set as they are, on the Hub or in a folder."""
    try:
        if (Path(name) / "dataset_dict.json").is_file():
            return load_from_disk(name)
        if (Path(name) / "state.json").is_file():  # a single split
            return {"train": load_from_disk(name)}
        return load_dataset(name, config_name, revision=revision)
    except UnicodeError:  # which is a ValueError
        raise
    # Among them an empty split: 'Instruction "test" corresponds to no data!', and an IndexError from the disk.
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"The data set {name!r} cannot be loaded: {error} Every split must hold samples, and a data set of "
            "several configurations needs config_name (--dataset_config_name)."
        ) from error


def _cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The first error of a kind among an error and what it came from."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error
