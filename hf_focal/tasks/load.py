# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Load images or texts with labels, by name or folder, and make sure of the splits."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from ..networks.trees import parse_tree
from .embedded import scipy_docs


logger = logging.getLogger(__name__)

DIGITS = "digits"
SCIPY_DOCS = "scipy-docs"
SPLITS = ("train", "validation", "test")
_VALIDATION_NAMES = ("validation", "valid", "val", "dev")


def load_image_dataset(
    name: str = DIGITS,
    config_name: str | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    holdout: float = 0.1,
    validation_size: int | None = None,
    seed: int = 42,
    revision: str | None = None,
) -> DatasetDict:
    """
    Load labelled images with the splits `train`, `validation` and `test`, and the columns `image` and `label`.

    A missing validation split is split off the training data, a missing test split is the validation data (or, where
    there is neither, is split off too), stratified by class; the log says so.

    Args:
        name (`str`, *optional*, defaults to `"digits"`):
            A data set on the Hub, a local folder that `datasets.load_dataset` or `load_from_disk` reads, or
            `"digits"`: 1,797 scanned digits of 8 by 8 pixels that ship with scikit-learn, split 60/20/20.
        config_name (`str`, *optional*):
            Configuration of the data set.
        image_column, label_column (`str`, *optional*):
            Columns to use. By default the column of images and that of class labels, where there are several the one
            that is called so.
        holdout (`float`, *optional*, defaults to `0.1`):
            Share of the training data split off for each missing split, in (0, 1).
        validation_size (`int`, *optional*):
            Take so many training samples for validation, in place of the share: the first of a permutation of all by
            NumPy's `RandomState(seed)`, without regard to class. With `seed=1` and 5,000 of the 50,000 images of CIFAR
            that is the split of the paper's published code.
        seed (`int`, *optional*, defaults to `42`):
            Seed of the splitting.
        revision (`str`, *optional*):
            Revision of a data set on the Hub.

    Returns:
        `datasets.DatasetDict`: `label` is a `ClassLabel`, whose `names` are those of the classes. Labels that are
        whole numbers or strings become classes in their sorted order.

    Raises:
        ValueError: If there is no training split, a column is missing or ambiguous, a split is empty, a sample has no
            label, or there are fewer than two classes.
    """
    columns = image_column, label_column
    return _load_and_split("image", name, config_name, *columns, holdout, seed, revision, validation_size)


def load_text_dataset(
    name: str = SCIPY_DOCS,
    config_name: str | None = None,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    trees: bool = False,
    holdout: float = 0.1,
    validation_size: int | None = None,
    seed: int = 42,
    revision: str | None = None,
) -> DatasetDict:
    """
    Load labelled texts with the splits `train`, `validation` and `test`, and the columns `text` and `label`.

    Missing splits are made as by [`load_image_dataset`].

    Args:
        name (`str`, *optional*, defaults to `"scipy-docs"`):
            A data set on the Hub, a local folder that `datasets.load_dataset` (CSV, JSON, Parquet) or
            `load_from_disk` reads, or `"scipy-docs"`: over a thousand descriptions of functions from the documentation
            of the SciPy that is installed, labelled by subpackage, split 60/20/20.
        config_name (`str`, *optional*):
            Configuration of the data set.
        text_column, label_column (`str`, *optional*):
            Columns to use. By default the column of strings, where there are several the one that is called `text`,
            `sentence`, `review` or the like, and the column of class labels or that is called `label`.
        trees (`bool`, *optional*, defaults to `False`):
            The texts are trees in brackets, see [`parse_tree`]: malformed ones are refused by split and row.
        holdout (`float`, *optional*, defaults to `0.1`):
            Share of the training data split off for each missing split, in (0, 1).
        validation_size (`int`, *optional*):
            As for [`load_image_dataset`].
        seed (`int`, *optional*, defaults to `42`):
            Seed of the splitting.
        revision (`str`, *optional*):
            Revision of a data set on the Hub.

    Returns:
        `datasets.DatasetDict`: `label` is a `ClassLabel`, whose `names` are those of the classes. Labels that are
        whole numbers or strings become classes in their sorted order, the same for all splits.

    Raises:
        ValueError: As [`load_image_dataset`], and if a text is missing or empty, or a file is not in UTF-8.
    """
    columns = text_column, label_column
    check = parse_tree if trees else None
    return _load_and_split("text", name, config_name, *columns, holdout, seed, revision, validation_size, check)


def load_labelled(
    kind: str,
    name: str,
    config_name: str | None = None,
    input_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
) -> dict[str, Dataset]:
    """
    The splits that a data set has, with the columns `image` or `text` (the `kind`) and `label`, as
    [`load_image_dataset`] and [`load_text_dataset`] make them.
    """
    if embedded := _embedded(kind, name):
        return dict(split_data({"train": embedded}, holdout=0.2, seed=42, quiet=True))
    with naming_encoding(name):
        loaded = load_splits(name, config_name, revision)
        columns = {
            split: _two_columns(data, split, kind, input_column, label_column) for split, data in loaded.items()
        }
        return _encode_labels(columns)


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


def _load_and_split(
    kind: str,
    name: str,
    config_name: str | None,
    input_column: str | None,
    label_column: str | None,
    holdout: float,
    seed: int,
    revision: str | None,
    validation_size: int | None,
    check: Callable[[str, int], Any] | None = None,
) -> DatasetDict:
    check_holdout(holdout)
    if embedded := _embedded(kind, name):
        return split_data({"train": embedded}, holdout=0.2, seed=seed, quiet=True, validation_size=validation_size)
    splits = load_labelled(kind, name, config_name, input_column, label_column, revision)
    if check is not None:
        for split, data in splits.items():
            for row, sample in enumerate(data[kind]):
                try:
                    check(sample, row)
                except ValueError as error:
                    raise ValueError(f"The split {split!r} cannot be used. {error}") from error
    return split_data(splits, holdout=holdout, seed=seed, validation_size=validation_size)


def load_images(
    name: str,
    config_name: str | None = None,
    *,
    split: str | None = None,
    image_column: str | None = None,
    revision: str | None = None,
) -> Dataset:
    """
    Load one split of a data set for its images alone; labels are neither needed nor kept.

    Args:
        name (`str`):
            As for [`load_image_dataset`].
        config_name (`str`, *optional*):
            Configuration of the data set.
        split (`str`, *optional*):
            By default the test split, where there is none the validation split, where there is only one split that.
        image_column (`str`, *optional*):
            Column of images, by default the only one.
        revision (`str`, *optional*):
            Revision of a data set on the Hub.

    Returns:
        `datasets.Dataset`: With the column `image`.

    Raises:
        ValueError: If the split or the column is missing or ambiguous, or a split is empty.
    """
    embedded = _embedded("image", name)
    splits = load_splits(name, config_name, revision) if embedded is None else {"train": embedded}
    if split is None:
        known = [known for known in ("test", *_VALIDATION_NAMES) if known in splits]
        split = known[0] if known else next(iter(splits)) if len(splits) == 1 else None
    if split is None or split not in splits:
        wanted = "test or validation split" if split is None else f"split {split!r}"
        raise ValueError(f"The data set {name!r} has no {wanted}; it has {', '.join(splits)}. Name one of these.")
    data = splits[split]
    column = find_column(data, split, image_column, "image", other=None)
    data = data.select_columns([column])
    data = data if column == "image" else data.rename_column(column, "image")
    return data if _is_image(data.features["image"]) else data.cast_column("image", Image())


def _cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The first error of a kind among an error and what it came from."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _embedded(kind: str, name: str) -> Dataset | None:
    if (kind, name) not in (("image", DIGITS), ("text", SCIPY_DOCS)) or Path(name).exists():
        return None
    return _digits() if kind == "image" else scipy_docs()


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    rgb = [np.repeat(image[..., None], 3, axis=2) for image in images]
    features = Features({"image": Image(), "label": ClassLabel(names=[str(name) for name in digits.target_names])})
    return Dataset.from_dict({"image": rgb, "label": digits.target}, features=features)


# ---- Columns --------------------------------------------------------------------------------------------------------


def _is_image(feature: Any) -> bool:
    return isinstance(feature, Image)


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _is_class(feature: Any) -> bool:
    return isinstance(feature, ClassLabel)


def _is_words(feature: Any) -> bool:
    return _is_text(getattr(feature, "feature", None))


def _is_tags(feature: Any) -> bool:
    label = getattr(feature, "feature", None)
    return _is_words(feature) or str(getattr(label, "dtype", "")).startswith(("int", "uint"))


# How a column is told: by its type, and where that does not settle it by its name.
_COLUMNS: dict[str, tuple[Callable[[Any], bool], tuple[str, ...]]] = {
    "image": (_is_image, ("image", "img")),
    "text": (_is_text, ("text", "sentence", "review", "content", "document", "comment", "tweet")),
    "label": (_is_class, ("label", "labels", "class", "category", "target")),
    "word": (_is_words, ("tokens", "words")),
    "tag": (_is_tags, ("ner_tags", "pos_tags", "tags", "labels")),  # the labels of the words
}
_ARGUMENTS = {"word": "words_column (--text_column_name)", "tag": "label_column (--label_column_name)"}


def _two_columns(data: Dataset, split: str, kind: str, input_column: str | None, label_column: str | None) -> Dataset:
    if len(data) == 0:
        raise ValueError(f"The split {split!r} is empty.")
    if input_column is not None and input_column not in data.column_names:
        raise _no_column(data, split, input_column, kind)
    label_column = find_column(data, split, label_column, "label", other=input_column)
    input_column = find_column(data, split, input_column, kind, other=label_column)
    data = data.select_columns([input_column, label_column])
    renamed = {input_column: kind, label_column: "label"}
    data = data.rename_columns({old: new for old, new in renamed.items() if old != new})
    if kind == "image" and not _is_image(data.features["image"]):
        data = data.cast_column("image", Image())
    if kind == "text":
        _check_texts(data, split, input_column)
    return data


def find_column(data: Dataset, split: str, given: str | None, kind: str, other: str | None) -> str:
    """The column `given`, or the one, other than `other`, that type or name tells to hold what `kind` says."""
    columns = data.column_names
    if given is not None:
        if given not in columns:
            raise _no_column(data, split, given, kind)
        return given
    is_of_type, names = _COLUMNS[kind]
    columns = [column for column in columns if column != other]
    candidates = [column for column in columns if is_of_type(data.features[column])]
    if len(candidates) != 1:  # of several the one of such a name; without any, a name will do whatever the type
        named = [column for column in candidates or columns if column.lower() in names]
        candidates = named or candidates
    if len(candidates) != 1:
        found = f"several could serve: {', '.join(candidates)}" if candidates else f"none of {', '.join(columns)} does"
        raise ValueError(
            f"Which column of the split {split!r} holds the {kind}s? {found[0].upper()}{found[1:]}. Set "
            f"{_argument(kind)}."
        )
    return candidates[0]


def _no_column(data: Dataset, split: str, given: str, kind: str) -> ValueError:
    return ValueError(
        f"The split {split!r} has no column {given!r}; its columns are {', '.join(data.column_names)}. Set "
        f"{_argument(kind)} to one of them."
    )


def _argument(kind: str) -> str:
    return _ARGUMENTS.get(kind, f"{kind}_column (--{kind}_column_name)")


def _check_texts(data: Dataset, split: str, column: str) -> None:
    if not _is_text(data.features["text"]):
        raise ValueError(f"The column {column!r} of the split {split!r} must hold strings: {data.features['text']}.")
    for row, text in enumerate(data["text"]):
        if not (text or "").strip():
            found = "a missing" if text is None else "an empty"
            raise ValueError(f"The split {split!r} has {found} text in row {row} (column {column!r}). Remove it.")


def _encode_labels(splits: Mapping[str, Dataset]) -> dict[str, Dataset]:
    labels = {split: data["label"][:] for split, data in splits.items()}
    for split, values in labels.items():
        for row, value in enumerate(values):
            check_label(value, split, f"row {row}")
    classes = common_classes(labels, {split: data.features["label"] for split, data in splits.items()})
    if classes is None:
        return dict(splits)
    feature, index = classes
    return {
        split: with_labels(data, [index[value] for value in labels[split]], feature) for split, data in splits.items()
    }


def check_label(value: Any, split: str, place: str) -> None:
    """Refuse a label that is missing, or hidden."""
    if value is None or value != value:  # CSV files have NaN for nothing
        raise ValueError(f"The split {split!r} has no label in {place}. Remove the row, or the split.")
    if isinstance(value, int) and value < 0:
        raise ValueError(
            f"The split {split!r} has samples without a label (index {value}, {place}): hidden labels cannot be used. "
            "Remove them, or pass a data set without this split."
        )


def common_classes(
    labels: Mapping[str, Iterable[Any]], features: Mapping[str, Any]
) -> tuple[ClassLabel, dict[Any, int]] | None:
    """
    One `ClassLabel` for the labels of all splits, whole numbers or strings in order, and the index of each in it;
    `None` where they have one already.
    """
    values = {split: set(of_split) for split, of_split in labels.items()}
    found = set().union(*values.values())
    if len(found) < 2:
        raise ValueError(f"A classifier needs at least two classes; every label is {found.pop()!r}.")
    if any(_is_class(feature) for feature in features.values()):
        names = {split: getattr(feature, "names", None) for split, feature in features.items()}
        if len({str(value) for value in names.values()}) > 1:
            raise ValueError(f"The splits do not agree on the classes: {names}.")
        return None
    if len({type(value) for value in found}) > 1 or not isinstance(found.copy().pop(), (int, str)):
        kinds = ", ".join(sorted({type(value).__name__ for value in found}))
        raise ValueError(f"Labels must be class labels, whole numbers or strings, got values of type {kinds}.")
    unseen = found - values.get("train", found)
    if unseen:
        raise ValueError(f"Labels that no training sample has: {', '.join(map(repr, sorted(unseen)))}.")
    order = sorted(found)
    return ClassLabel(names=[str(value) for value in order]), {value: i for i, value in enumerate(order)}


def with_labels(data: Dataset, labels: Sequence[Any], feature: Any, column: str = "label") -> Dataset:
    """The data with other labels."""
    return data.remove_columns(column).add_column(column, list(labels), feature=feature)


def match_labels(data_names: Sequence[str], model_names: Sequence[str]) -> list[int]:
    """
    The model's class of each class of the data: by name, or in order where either has no names but numbers.

    Args:
        data_names (`Sequence[str]`):
            Class names of a data set.
        model_names (`Sequence[str]`):
            Those of a model, in the order of its outputs. Case, blanks, hyphens and underscores count for nothing.

    Raises:
        ValueError: If there are not as many of one as of the other, or their names differ.
    """
    known = f"The data set has {_listed(data_names)}; the model has {_listed(model_names)}."
    if len(data_names) != len(model_names):
        raise ValueError(f"Data and model do not have the same classes. {known} Calibration needs all of them.")
    for plain in (str, _plain):
        index = {plain(name): i for i, name in enumerate(model_names)}
        order = [index.get(plain(name), -1) for name in data_names]
        if sorted(order) == list(range(len(model_names))):
            return order
    if _numbered(data_names) or _numbered(model_names):
        logger.warning("Data and model do not both name their classes, so these are matched in order. %s", known)
        return list(range(len(model_names)))
    unknown = [name for name, i in zip(data_names, order, strict=True) if i < 0]
    raise ValueError(
        f"The model does not know the classes {', '.join(map(repr, unknown[:5]))} of the data. {known} Rename the "
        "classes of the data, or set id2label in the model's config.json."
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _numbered(names: Sequence[str]) -> bool:
    return [name.removeprefix("LABEL_") for name in names] == [str(i) for i in range(len(names))]


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


# ---- Splits ---------------------------------------------------------------------------------------------------------


def check_holdout(holdout: float) -> None:
    """Refuse what is no share."""
    if not 0 < holdout < 1:
        raise ValueError(f"holdout must lie strictly between 0 and 1, got {holdout!r}.")


def split_data(
    splits: Mapping[str, Dataset], holdout: float, seed: int, quiet: bool = False, validation_size: int | None = None
) -> DatasetDict:
    """Make the splits that a data set lacks, see [`load_image_dataset`]; stratified where it has a column `label`."""
    splits = dict(splits)
    say = logger.debug if quiet else logger.warning
    if "train" not in splits:
        raise ValueError(f"The data set has no split 'train'; it has {', '.join(splits)}.")
    train = splits["train"]
    validation_name = _validation_name(splits)
    validation, test = splits.get(validation_name or ""), splits.get("test")
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


def _validation_name(splits: Mapping[str, Dataset]) -> str | None:
    return next((name for name in _VALIDATION_NAMES if name in splits), None)


def held_out_pair(
    splits: Mapping[str, Dataset], split: str | None = None, test_split: str | None = None, seed: int = 42
) -> dict[str, Dataset]:
    """
    Two parts of a data set, by name: one to fit a temperature on, and one to measure it on.

    Args:
        splits (`Mapping[str, Dataset]`):
            As [`load_labelled`] returns them.
        split (`str`, *optional*):
            The first; by default the validation split, or else the test split, or else the only one.
        test_split (`str`, *optional*):
            The second; by default the test split. Where there is no other than the first, that is halved, stratified
            by its column `label` if it has one, and the log says so.
        seed (`int`, *optional*, defaults to `42`):
            Seed of the halving.

    Raises:
        ValueError: If a split is not there, both are the same, or the data set has nothing but training data among
            other splits of unknown names.
    """
    have = f"it has {', '.join(splits)}"
    if split is None:
        split = _validation_name(splits) or ("test" if "test" in splits else None)
        split = next(iter(splits)) if split is None and len(splits) == 1 else split
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
    data = splits[split]
    first, second = _hold_out(data, len(data) // 2, seed)
    logger.warning(
        "No other split to measure on: %r is halved, %d samples to fit the temperature on and %d to measure it on "
        "(seed %d).", split, len(first), len(second), seed,
    )  # fmt: skip
    return {f"half of {split}": first, f"other half of {split}": second}


def _hold_out(data: Dataset, size: int, seed: int) -> tuple[Dataset, Dataset]:
    if size < 1 or size >= len(data):
        raise ValueError(f"Cannot split {size} samples off {len(data)}: too few. Bring a split of your own.")
    stratify = "label" if "label" in data.column_names else None
    if stratify is not None:
        counts = np.bincount(np.asarray(data.with_format("numpy")["label"][:]))
        if counts[counts > 0].min() < 2 or size < (counts > 0).sum():
            logger.warning("Too few samples per class to stratify: the split is drawn without regard to classes.")
            stratify = None
    parts = data.train_test_split(test_size=size, seed=seed, stratify_by_column=stratify)
    return parts["train"], parts["test"]


def take(data: Dataset, count: int | None, seed: int) -> Dataset:
    """A random `count` of the samples, or all of them where `count` is `None` or no smaller."""
    if count is None or count >= len(data):
        return data
    if count < 1:
        raise ValueError(f"At least 1 sample is needed, got {count}.")
    return data.shuffle(seed=seed).select(range(count))
