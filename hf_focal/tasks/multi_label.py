# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Several labels a sample: read as lists of classes, vectors or columns of 0 and 1, kept as lists of class indices in
which `~index` says that a class is not known of a sample, and given to a sigmoid head as 1, 0 and -100.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, List, Value
from numpy.typing import NDArray

from ..predictions import IGNORED
from .columns import HIDDEN, LABEL, NoColumn, is_class, is_missing, plain_label, plain_name, replaced
from .rows import stored_rows


logger = logging.getLogger(__name__)

_SHOWN = 5  # names in a warning


class JoinedLabels(Mapping[str, Dataset]):
    """Splits whose columns of 0 and 1, each for a label, are one column of vectors, called after all of them."""

    def __init__(self, splits: Mapping[str, Dataset], columns: Sequence[str]) -> None:
        if len({*columns}) < len(columns):
            raise ValueError(f"{LABEL.argument} names a column twice: {', '.join(columns)}.")
        self._splits, self.columns, self.name = splits, list(columns), ", ".join(columns)

    def __getitem__(self, split: str) -> Dataset:
        data = self._splits[split]
        if missing := [name for name in self.columns if name not in data.column_names]:
            if len(missing) == len(self.columns):
                return data  # a split without labels
            have = f"has no column {missing[0]!r}; its columns are {', '.join(data.column_names)}"
            raise NoColumn(LABEL, f"The split {split!r} {have}. Set {LABEL.argument} to some of them.")
        for name in self.columns:
            feature = data.features[name]
            if not isinstance(feature, Value) and getattr(feature, "num_classes", None) != 2:
                raise ValueError(
                    f"The column {name!r} of the split {split!r} must hold 0 and 1, one a row: {feature}. Of several "
                    "columns of labels each is for one label."
                )
        cells = zip(*(data[name][:] for name in self.columns), strict=True)
        vectors = [
            [_flag(value, split, row, name) for name, value in zip(self.columns, values, strict=True)]
            for row, values in zip(stored_rows(data), cells, strict=True)
        ]
        first, *others = self.columns
        data = replaced(data.remove_columns(others), vectors, List(Value("int8")), first)
        return data.rename_column(first, self.name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)


def checked_lists(data: Dataset, split: str, column: str, names: Sequence[str] | None = None) -> Dataset:
    """A split whose labels are lists, of classes, or vectors of 0 and 1 (as where names are given) made such lists."""
    feature, rows = data.features[column].feature, data[column][:]
    places = stored_rows(data)
    if not isinstance(feature, (ClassLabel, Value)):
        raise ValueError(f"The column {column!r} of the split {split!r} must hold lists of labels: {feature}.")
    if names is None and not are_vectors(feature, rows):
        for row, labels in zip(places, rows, strict=True):
            for place, label in enumerate(labels):
                plain_label(label, feature, split, f"row {row}, label {place}")
        return data
    length = len(rows[0])
    for row, values in zip(places, rows, strict=True):
        if len(values) != length:
            found = f"{len(values)} numbers in row {row}, and {length} in row {places[0]}"
            raise ValueError(
                f"The split {split!r} has {found}. Vectors of 0 and 1, one for each label, are of one length; lists "
                "of the classes of a sample name none twice."
            )
    if names is None:
        logger.info("The labels of %r are vectors of 0 and 1: these %d are called by their places.", split, length)
        names = [str(index) for index in range(length)]
    lists = []
    for row, values in zip(places, rows, strict=True):
        flags = enumerate(_flag(value, split, row, name) for name, value in zip(names, values, strict=True))
        lists.append([~index if flag is None else index for index, flag in flags if flag != 0])
    return replaced(data, lists, List(ClassLabel(names=list(names))), column)


def are_vectors(feature: Any, rows: Sequence[Any]) -> bool:
    """Whether lists are vectors of 0 and 1: by their type, or since lists of classes name none twice."""
    dtype = str(getattr(feature, "dtype", "string"))
    if is_class(feature) or "string" in dtype:
        return False
    if dtype.startswith(("bool", "float", "double")):
        return True
    known = [row for row in rows if row]
    return all(value in (None, 0, 1, *HIDDEN) for row in known for value in row) and any(
        len({*row}) < len(row) for row in known
    )


def _flag(value: Any, split: str, row: int, name: str) -> int | None:
    """Whether a label is right, 1 or 0; `None` where that is not known."""
    if is_missing(value):
        return None
    if value not in (0, 1):
        kind = " A number on a scale is for a regression, which has no probabilities to calibrate."
        raise ValueError(
            f"The split {split!r} has {value!r} for the label {name!r} in row {row}: needed is 1, 0, or nothing where "
            f"it is not known.{kind if isinstance(value, float) else ''}"
        )
    return int(value)


def label_matrix(rows: Sequence[Sequence[int]], num_labels: int) -> NDArray[np.float32]:
    """Of lists of classes 1, 0, and -100 where it is not known, `(num_samples, num_labels)`."""
    matrix = np.zeros((len(rows), num_labels), np.float32)
    lengths = [len(row) for row in rows]
    labels = np.fromiter((label for row in rows for label in row), np.int64, sum(lengths))
    samples = np.repeat(np.arange(len(rows)), lengths)
    matrix[samples, np.where(labels < 0, ~labels, labels)] = np.where(labels < 0, IGNORED, 1)
    return matrix


def multi_hot(data: Dataset, column: str = "label") -> Dataset:
    """
    The data with 1, 0 and -100 for each label, as a sigmoid head is trained on, in place of lists of classes; others
    stay as they are. Labels that no sample has, or that every one has, are named in a warning.

    Args:
        data (`datasets.Dataset`):
            Such as [`load_text_dataset`] returns.
        column (`str`, *optional*, defaults to `"label"`):
            A `List` of `ClassLabel`: of each sample the classes that are right, and `~index` of each of which it is
            not known.

    Returns:
        `datasets.Dataset`: The column holds `num_labels` floats a row, as `BCEWithLogitsLoss` takes them where all is
        known.

    Example:
    >>> from datasets import Features
    >>> features = Features({"label": List(ClassLabel(names=["anger", "joy"]))})
    >>> data = Dataset.from_dict({"label": [[0, 1], [], [0, ~1]]}, features=features)
    >>> multi_hot(data)["label"][:]
    [[1.0, 1.0], [0.0, 0.0], [1.0, -100.0]]
    """
    feature = getattr(data.features.get(column), "feature", None)
    if not isinstance(feature, ClassLabel):
        return data
    matrix = label_matrix(data[column][:], feature.num_classes)
    where = "" if data.split is None else f" of {str(data.split)!r}"
    known = (matrix != IGNORED).any(axis=0)
    for value, whose in ((1, f"No sample{where} has"), (0, f"Every sample{where} has")):
        alike = known & ~(matrix == value).any(axis=0)
        if alike.any():
            listed = _listed([name for name, one in zip(feature.names, alike, strict=True) if one])
            logger.warning("%s these labels, of which nothing can be learned or measured there: %s.", whose, listed)
    return replaced(data, list(matrix), List(Value("float32")), column)


def of_two_classes(labels: Sequence[int], names: Sequence[str], model_name: str) -> list[list[int]]:
    """Lists of the one class of a model with a single logit, of labels of two classes, of which one is yes."""
    yes = yes_of(names, model_name)
    return [[0] if label == yes else [] for label in labels]


def yes_of(names: Sequence[str], model_name: str) -> int:
    """Which of two classes a single logit stands for: the one that is called as it is, or else the second."""
    if len(names) != 2:
        raise ValueError(
            f"The model has a single logit, which tells yes from no, and the data have {len(names)} classes. Needed "
            "are data of two classes, or a model with a logit for each."
        )
    alike = [plain_name(name) == plain_name(model_name) for name in names]
    yes = 0 if alike == [True, False] else 1
    logger.info("The model's single logit stands for %r, against %r.", names[yes], names[1 - yes])
    return yes


def check_kind(several: bool, sigmoid: bool, model_names: Sequence[str]) -> None:
    """Refuse several labels a sample for a softmax, and one of many for a model that gives each its own."""
    if several and not sigmoid:
        raise ValueError(
            f"The data have lists of labels, and the model one softmax over its {len(model_names)} classes, of which "
            "only one is right. Needed is a model with problem_type='multi_label_classification', or a column of one "
            f"label a row: set {LABEL.argument}."
        )
    if sigmoid and not several and len(model_names) > 1:
        raise ValueError(
            f"The data have one label a row, and the model gives each of its {len(model_names)} labels a probability "
            "of its own (problem_type='multi_label_classification'). Needed are lists of labels, each with all that "
            f"are right, or a column of 0 and 1 for each label: set {LABEL.argument}."
        )


def class_order(order: Sequence[int], model_names: Sequence[str]) -> tuple[dict[int, int], list[int]]:
    """What the classes of a list become, and what every list gets: `~index` of those that the data do not tell of."""
    index = {place: found for place, found in enumerate(order) if found >= 0}
    index |= {~place: ~found for place, found in index.items()}
    untold = [place for place in range(len(model_names)) if place not in order]
    if untold:
        listed = _listed([model_names[place] for place in untold])
        logger.warning("The data do not tell of all labels of the model, and these are left out: %s.", listed)
    return index, [~place for place in untold]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(map(repr, names[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
