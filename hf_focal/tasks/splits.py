# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The splits of a data set: they are loaded, those that are missing are made, two are held out, samples are drawn."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, load_dataset, load_dataset_builder, load_from_disk
from datasets.exceptions import DatasetBuildError
from pyarrow import parquet

from ..names import refuse_missing_folder, suggestion
from ..online import online
from .columns import TRAIN_NAMES, is_missing
from .embedded import DIGITS, SCIPY_DOCS
from .sounds import has_torchcodec, sound_files


logger = logging.getLogger(__name__)

VALIDATION_NAMES = ("validation", "valid", "val", "dev", "validation_matched")
TEST_NAMES = ("test", "testing", "test_matched", "eval", "evaluation")
_SAVED = "dataset_dict.json"
# What `datasets` and what it reads with are known to raise on files that are empty, broken or of another form.
UNREADABLE = (
    DatasetBuildError, ValueError, IndexError, KeyError, TypeError, AttributeError, StopIteration, RuntimeError,
    pa.ArrowException,
)  # fmt: skip


@contextmanager
def in_words(name: str) -> Iterator[None]:
    """Say so where files of this data set are not in UTF-8."""
    try:
        yield
    except UnicodeError as error:
        raise _not_utf8(name, error) from error


def _not_utf8(name: str, error: BaseException) -> ValueError:
    return ValueError(f"A file of the data set {name!r} is not in UTF-8: {error}. Convert it.")


class _Splits(Mapping[str, Dataset]):
    """Splits that are loaded when they are asked for."""

    def __init__(
        self, name: str, files: Mapping[str, Sequence[str]], load: Callable[[str], Dataset],
        features: Features | None = None,
    ) -> None:  # fmt: skip
        self._name, self._files, self._load, self._features = name, files, load, features
        self._loaded: dict[str, Dataset] = {}

    def __getitem__(self, split: str) -> Dataset:
        if split not in self._files:
            raise KeyError(split)
        if split not in self._loaded:
            try:
                self._loaded[split] = self._load(split)
            except _Damaged:
                raise
            except UNREADABLE as error:
                raise _reason(self._name, error, self._files[split], self._features) from error
        return self._loaded[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


@online
def load_splits(
    name: str, config_name: str | None, revision: str | None, streaming: bool = False
) -> Mapping[str, Dataset]:
    """
    The splits of a data set as they are, on the Hub or in a folder. One that cannot be loaded is an error where it is
    asked for, and not before. With `streaming` they are `IterableDataset`, but for those that were saved to disk.
    """
    path = Path(name)
    if path.is_file():
        raise ValueError(f"{name} is a file: a data set is a folder that holds its files.")
    refuse_missing_folder(name)
    if (path / _SAVED).is_file():
        try:
            names = json.loads((path / _SAVED).read_text(encoding="utf-8"))["splits"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path / _SAVED} is damaged: it does not name the splits.") from error
        return _Splits(name, {split: () for split in names}, lambda split: _saved(path / split))
    if (path / "state.json").is_file():  # a single split
        return _Splits(name, {"train": ()}, lambda _: _saved(path))
    try:
        loaded = load_dataset(name, config_name, revision=revision, streaming=streaming)
    except UNREADABLE as error:
        if streaming:
            raise unreadable(name, error) from error
        return _one_by_one(name, config_name, revision, error)
    except OSError as error:
        if path.exists():
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
        near = suggestion(name, (DIGITS, SCIPY_DOCS))
        raise kind(
            f"There is no such folder: {name}; nor can such a data set be had from the Hub: {error}{near}"
        ) from error
    if not streaming and len(loaded) > 1 and all(len(data.features) == 1 for data in loaded.values()):
        # Images in no folder of a class cost those of the other splits theirs.
        return _one_by_one(name, config_name, revision, None) or loaded
    return loaded


class _Damaged(ValueError):
    """Says already what is wrong, and where."""


def _saved(folder: Path) -> Dataset:
    """A split that was saved to disk."""
    try:
        return load_from_disk(folder)
    except FileNotFoundError:  # which names the file
        raise
    except (*UNREADABLE, OSError) as error:
        why = "" if isinstance(error, IndexError) else f": {str(error).removesuffix('.') or type(error).__name__}"
        raise _Damaged(f"The saved split {folder} cannot be loaded, for it is empty or damaged{why}.") from error


def _one_by_one(
    name: str, config_name: str | None, revision: str | None, error: Exception | None
) -> Mapping[str, Dataset]:
    """The splits of a data set that cannot be loaded at once, or which have no labels where there is no error."""
    features: Features | None = None
    files: dict[str, list[str]] = {}
    try:
        builder = load_dataset_builder(name, config_name, revision=revision)
        if error is not None or builder.name in ("imagefolder", "audiofolder"):
            files = {str(split): list(of_split) for split, of_split in (builder.config.data_files or {}).items()}
            features = builder.info.features
    except UNREADABLE:
        logger.debug("The files of %s are not known.", name)
    if error is not None and files and builder.name == "audiofolder" and not has_torchcodec():
        return _Splits(name, files, partial(sound_files, files))
    if error is not None and len(files) < 2:
        raise _reason(name, error, next(iter(files.values()), _data_files(Path(name))), features) from error

    def load(split: str) -> Dataset:
        return load_dataset(name, config_name, revision=revision, data_files={split: files[split]}, split=split)

    return _Splits(name, files, load, features)


def unreadable(name: str, error: BaseException) -> ValueError:
    """Why a data set that is a folder of files cannot be read, with the file where it can be found."""
    return _reason(name, error, _data_files(Path(name)))


def _data_files(path: Path) -> list[str]:
    return [str(file) for file in sorted(path.rglob("*")) if file.suffix in (*_TEXT, ".parquet")]


def _reason(name: str, error: BaseException, files: Sequence[str], features: Features | None = None) -> ValueError:
    """Why files of a data set cannot be loaded; the file and the line where they can be found."""
    wrong: BaseException | None = error
    while wrong is not None and not isinstance(wrong, UnicodeError):
        wrong = wrong.__cause__ or wrong.__context__
    if wrong is not None:
        return _not_utf8(name, wrong)
    for file in map(Path, files):
        if file.is_file() and (fault := _fault(file, features)):
            return ValueError(f"The data set {name!r} cannot be loaded: {file} {fault}.")
    cause = str(error.__cause__ or error) or type(error).__name__
    mend = "a data set of several configurations needs config_name (--dataset_config_name)."
    end = "" if cause.endswith((".", "!")) else "."
    return ValueError(
        f"The data set {name!r} cannot be loaded: {cause}{end} Every split must hold samples, and {mend}"
    )


_TEXT = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")


def _fault(file: Path, features: Features | None) -> str | None:
    """What is wrong with a file of a data set, and in which row or line; `None` where nothing is found."""
    if file.stat().st_size == 0:
        return "is empty"
    if file.suffix in (".json", ".jsonl", ".ndjson"):
        return _fault_of_json(file)
    classes = {name: feature for name, feature in (features or {}).items() if isinstance(feature, ClassLabel)}
    try:
        if file.suffix == ".parquet":
            count, labels = _read_parquet(file, list(classes))
        elif file.suffix in (".csv", ".tsv"):
            frame = pandas.read_csv(file, sep="\t" if file.suffix == ".tsv" else ",", dtype=object)
            count, labels = len(frame), {name: frame[name].tolist() for name in classes if name in frame}
        else:
            return None
    except (ValueError, OSError, pa.ArrowException) as error:
        return f"cannot be read: {str(error).strip()}"
    if not count:
        return "holds no data, but for a header. Every split must hold samples"
    faults = (_unknown_label(labels.get(name, []), feature) for name, feature in classes.items())
    return next((fault for fault in faults if fault), None)


def _read_parquet(file: Path, columns: Sequence[str]) -> tuple[int, dict[str, list[Any]]]:
    """How many rows a file has, all of which are read, and some of its columns."""
    count, found = 0, dict[str, list[Any]]()
    for batch in parquet.ParquetFile(file).iter_batches():
        count += len(batch)
        for name in set(columns) & set(batch.schema.names):
            found.setdefault(name, []).extend(batch.column(name).to_pylist())
    return count, found


def _unknown_label(labels: list[Any], feature: ClassLabel) -> str | None:
    known = {*feature.names, *map(str, range(-1, feature.num_classes))}
    for row, label in enumerate(labels):
        if not is_missing(label) and str(label).strip().removesuffix(".0") not in known:
            return f"has the label {label!r} in row {row}; the classes are {', '.join(feature.names[:5])}"
    return None


def _fault_of_json(file: Path) -> str | None:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            try:
                if line.strip():
                    json.loads(line)
            except json.JSONDecodeError as error:
                if number > 1 or file.suffix != ".json":
                    return f"is broken in line {number}: {error.msg} column {error.colno}"
                break  # one value over several lines
        else:
            if number > 1:
                return None
    try:
        value = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        return f"is no JSON: {error}"
    return None if isinstance(value, (list, dict)) and value else "holds no rows"


def training_splits(names: Collection[str]) -> list[str]:
    """Which of the splits of these names serve to train, to validate and to test, as far as they are there."""
    train = next((name for name in TRAIN_NAMES if name in names), None)
    if train is None:
        have = f"it has {', '.join(names)}" if names else "no other has labels"
        raise ValueError(f"The data set has no split 'train'; {have}. The one to train on must be called so.")
    validation, test = _roles(names)
    return [name for name in (train, validation, test) if name is not None]


def _roles(names: Collection[str]) -> tuple[str | None, str | None]:
    """The splits to validate and to test on; one called `eval` serves for either that has no other."""
    test = next((name for name in TEST_NAMES if name in names), None)
    choices = (name for name in (*VALIDATION_NAMES, *TEST_NAMES) if name in names and name != test)
    return next(choices, None), test


def split_data(
    splits: Mapping[str, Dataset], holdout: float, seed: int, quiet: bool = False, validation_size: int | None = None
) -> DatasetDict:
    """Make the splits that a data set lacks, see [`load_image_dataset`]; stratified where it has a column `label`."""
    say = logger.debug if quiet else logger.warning
    train = splits[training_splits(splits)[0]]
    validation_name, test_name = _roles(splits)
    validation = None if validation_name is None else splits[validation_name]
    test = None if test_name is None else splits[test_name]
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


def chosen_pair(names: Collection[str], split: str | None = None, test_split: str | None = None) -> list[str]:
    """The names of the splits to fit and to measure on, or of the one to halve, see [`held_out_pair`]."""
    have = f"it has {', '.join(names)}" if names else "no other has labels"
    validation, test = _roles(names)
    if split is None:
        split = validation or test or (next(iter(names)) if len(names) == 1 else None)
        if split is None:
            raise ValueError(f"The data set has no validation split; {have}. Choose one with --split.")
    for name in (split, test_split or split):
        if name not in names:
            raise ValueError(f"The data set has no split {name!r}; {have}.")
    if split == test_split:
        raise ValueError(f"A calibrator cannot be fitted and measured on the same split, {split!r}.")
    test_split = test_split or (test if test != split else None)
    return [split] if test_split is None else [split, test_split]


def held_out_pair(
    splits: Mapping[str, Dataset], split: str | None = None, test_split: str | None = None, seed: int = 42
) -> dict[str, Dataset]:
    """Splits to fit and to measure on: validation, or else test or the only one, and test, or halves of the first."""
    split, *others = chosen = chosen_pair(splits, split, test_split)
    if split == "train":
        logger.warning("The calibrator is fitted on the split 'train': use data that the model was not trained on.")
    if others:
        return {name: splits[name] for name in chosen}
    first, second = _hold_out(splits[split], len(splits[split]) // 2, seed)
    logger.warning(
        "No other split to measure on: %r is halved, %d samples to fit the temperature on and %d to measure it on "
        "(seed %d).", split, len(first), len(second), seed,
    )  # fmt: skip
    return {f"half of {split}": first, f"other half of {split}": second}


def _hold_out(data: Dataset, size: int, seed: int) -> tuple[Dataset, Dataset]:
    if size < 1 or size >= len(data):
        raise ValueError(f"Cannot split {size} samples off {len(data)}: too few. Bring a split of your own.")
    if stratify := "label" if isinstance(data.features.get("label"), ClassLabel) else None:
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
