# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The splits of a data set: they are loaded, those that are missing are made, two are held out, samples are drawn."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from ..online import online


logger = logging.getLogger(__name__)

VALIDATION_NAMES = ("validation", "valid", "val", "dev")


@contextmanager
def naming_encoding(name: str) -> Iterator[None]:
    """Say so where files of this data set are not in UTF-8."""
    try:
        yield
    except (UnicodeError, DatasetGenerationError) as error:
        wrong: BaseException | None = error
        while wrong is not None and not isinstance(wrong, UnicodeError):
            wrong = wrong.__cause__ or wrong.__context__
        if wrong is None:
            raise
        raise ValueError(f"A file of the data set {name!r} is not in UTF-8: {wrong}. Convert it.") from error


@online
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
        mend = "a data set of several configurations needs config_name (--dataset_config_name)."
        what = f"cannot be loaded: {error} Every split must hold samples, and {mend}"
        raise ValueError(f"The data set {name!r} {what}") from error


def split_data(
    splits: Mapping[str, Dataset], holdout: float, seed: int, quiet: bool = False, validation_size: int | None = None
) -> DatasetDict:
    """Make the splits that a data set lacks, see [`load_image_dataset`]; stratified where it has a column `label`."""
    splits = dict(splits)
    say = logger.debug if quiet else logger.warning
    if "train" not in splits:
        raise ValueError(f"The data set has no split 'train'; it has {', '.join(splits)}.")
    train, test = splits["train"], splits.get("test")
    validation_name = next((name for name in VALIDATION_NAMES if name in splits), "")
    validation = splits.get(validation_name)
    total = len(train)
    if test is None and validation is not None:
        say("No test split: %r is the test set, and validation data are split off the training data.", validation_name)
        validation, test = None, validation
    elif test is None:
        train, test = _hold_out(train, round(holdout * total), seed)
        say("No test split: %d of %d training samples are split off (seed %d).", len(test), total, seed)
    if validation_size is not None:
        if validation is not None:
            raise ValueError(f"validation_size={validation_size}, but the data set has a validation split already.")
        if not 0 < validation_size < len(train):
            raise ValueError(f"validation_size must lie between 1 and {len(train) - 1}, got {validation_size}.")
        order = np.random.RandomState(seed).permutation(len(train))
        train, validation = train.select(order[validation_size:]), train.select(order[:validation_size])
        say("Validation: %d of %d training samples, by permutation (seed %d).", validation_size, total, seed)
    if validation is None:
        train, validation = _hold_out(train, round(holdout * total), seed)
        say("No validation split: %d of %d training samples are split off (seed %d).", len(validation), total, seed)
    return DatasetDict(train=train, validation=validation, test=test)


def held_out_pair(
    splits: Mapping[str, Dataset], split: str | None = None, test_split: str | None = None, seed: int = 42
) -> dict[str, Dataset]:
    """Splits to fit and to measure on: validation, or else test or the only one, and test, or halves of the first."""
    have = f"it has {', '.join(splits)}"
    if split is None:
        choices = [*VALIDATION_NAMES, "test", *(splits if len(splits) == 1 else ())]
        split = next((name for name in choices if name in splits), None)
        if split is None:
            raise ValueError(f"The data set has no validation split; {have}. Choose one with --split.")
    for name in (split, test_split or split):
        if name not in splits:
            raise ValueError(f"The data set has no split {name!r}; {have}.")
    if split == test_split:
        raise ValueError(f"A temperature cannot be fitted and measured on the same split, {split!r}.")
    if split == "train":
        logger.warning("The temperature is fitted on the split 'train': use data that the model was not trained on.")
    test_split = test_split or ("test" if "test" in splits and split != "test" else None)
    if test_split is not None:
        return {split: splits[split], test_split: splits[test_split]}
    first, second = _hold_out(splits[split], len(splits[split]) // 2, seed)
    logger.warning(
        "No other split to measure on: %r is halved, %d samples to fit the temperature on and %d to measure it on "
        "(seed %d).", split, len(first), len(second), seed,
    )  # fmt: skip
    return {f"half of {split}": first, f"other half of {split}": second}


def _hold_out(data: Dataset, size: int, seed: int) -> tuple[Dataset, Dataset]:
    if size < 1 or size >= len(data):
        raise ValueError(f"Cannot split {size} samples off {len(data)}: too few. Bring a split of your own.")
    if stratify := "label" if "label" in data.column_names else None:
        counts = np.bincount(np.asarray(data.with_format("numpy")["label"][:]))
        if counts[counts > 0].min() < 2 or size < (counts > 0).sum():
            logger.warning("Too few samples per class to stratify: the split is drawn without regard to classes.")
            stratify = None
    parts = data.train_test_split(test_size=size, seed=seed, stratify_by_column=stratify)
    return parts["train"], parts["test"]


def take(data: Dataset, count: int | None, seed: int) -> Dataset:
    """A random `count` of the samples, or all of them where there are no more."""
    if count is None or count >= len(data):
        return data
    if count < 1:
        raise ValueError(f"At least 1 sample is needed, got {count}.")
    return data.shuffle(seed=seed).select(range(count))
