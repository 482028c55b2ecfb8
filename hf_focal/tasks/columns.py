# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The columns of a data set: which holds what; the classes of its labels, and how they are matched to a model's."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

from datasets import ClassLabel, Dataset, List, Value


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Column:
    """
    A column that a task reads, and how it is told: by its type, and where that does not settle it by its name.

    Attributes:
        name (`str`): What it is called once it is found, such as `"image"`.
        contents (`str`): What it holds, in the plural, for error messages.
        fits (`Callable`): Whether a feature of `datasets` is of its type.
        names (`tuple[str, ...]`): What it may be called, in lower case.
        argument (`str`): The argument, and the flag of the scripts, that names it, for error messages.
    """

    name: str
    contents: str
    fits: Callable[[Any], bool]
    names: tuple[str, ...]
    argument: str = "input_column (--input_column_name)"


def is_text(feature: Any) -> bool:
    """Whether a column holds strings."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def is_class(feature: Any) -> bool:
    """Whether a column holds class labels."""
    return isinstance(feature, ClassLabel)


_NAMES = ("label", "labels", "class", "category", "target")
LABEL = Column("label", "labels", is_class, _NAMES, "label_column (--label_column_name)")


def find_columns(data: Dataset, split: str, wanted: Mapping[Column, str | None]) -> dict[Column, str]:
    """The names of the wanted columns: those that are given, and then, in this order, those that are found."""
    if len(data) == 0:
        raise ValueError(f"The split {split!r} is empty.")
    found: dict[Column, str] = {}
    for column in sorted(wanted, key=lambda column: wanted[column] is None):  # those that are given first
        found[column] = find_column(data, split, column, wanted[column], tuple(found.values()))
    if len(set(found.values())) < len(found):
        name, contents = next(iter(found.values())), " and the ".join(column.contents for column in found)
        raise ValueError(f"The column {name!r} cannot hold both the {contents}.")
    return found


def find_column(
    data: Dataset, split: str, column: Column, given: str | None = None, taken: tuple[str, ...] = ()
) -> str:
    """The column `given`, or the one, other than those that are `taken`, that type or name tells to be `column`."""
    if given is not None:
        if given not in data.column_names:
            have = f"has no column {given!r}; its columns are {', '.join(data.column_names)}"
            raise ValueError(f"The split {split!r} {have}. Set {column.argument} to one of them.")
        return given
    columns = [name for name in data.column_names if name not in taken]
    candidates = [name for name in columns if column.fits(data.features[name])]
    if len(candidates) != 1:  # of several the one of such a name; without any, a name will do whatever the type
        candidates = [name for name in candidates or columns if name.lower() in column.names] or candidates
    if len(candidates) != 1:
        found = f"several could serve: {', '.join(candidates)}" if candidates else f"none of {', '.join(columns)} does"
        found = f"holds the {column.contents}? {found[0].upper()}{found[1:]}"
        raise ValueError(f"Which column of the split {split!r} {found}. Set {column.argument}.")
    return candidates[0]


def check_label(value: Any, split: str, place: str) -> None:
    """Refuse a label that is missing, or hidden."""
    if value is None or value != value:  # CSV files have NaN for nothing
        raise ValueError(f"The split {split!r} has no label in {place}. Remove the row, or the split.")
    if isinstance(value, int) and value < 0:
        what = f"has samples without a label (index {value}, {place}): hidden labels cannot be used"
        raise ValueError(f"The split {split!r} {what}. Remove them, or pass a data set without this split.")


def encode_labels(splits: Mapping[str, Dataset], labels: Mapping[str, list[Any]], column: str) -> dict[str, Dataset]:
    """The splits with one `ClassLabel` for all labels, or lists of them, unless they have one already."""
    columns = {split: data.features[column] for split, data in splits.items()}
    features = {split: getattr(feature, "feature", feature) for split, feature in columns.items()}
    nested = {split for split, feature in columns.items() if hasattr(feature, "feature")}
    values = {split: set(chain.from_iterable(rows) if split in nested else rows) for split, rows in labels.items()}
    found = set().union(*values.values())
    if len(found) < 2:
        raise ValueError(f"A classifier needs at least two classes; every label is {found.pop()!r}.")
    if any(is_class(feature) for feature in features.values()):
        names = {split: getattr(feature, "names", None) for split, feature in features.items()}
        if len({str(value) for value in names.values()}) > 1:
            raise ValueError(f"The splits do not agree on the classes: {names}.")
        return dict(splits)
    if len({type(value) for value in found}) > 1 or not isinstance(found.copy().pop(), (int, str)):
        kinds = ", ".join(sorted({type(value).__name__ for value in found}))
        raise ValueError(f"Labels must be class labels, whole numbers or strings, got values of type {kinds}.")
    if unseen := found - values.get("train", found):
        raise ValueError(f"Labels that no training sample has: {', '.join(map(repr, sorted(unseen)))}.")
    order = {value: index for index, value in enumerate(sorted(found))}
    feature = ClassLabel(names=[str(value) for value in order])
    return {split: relabelled(data, labels[split], feature, order, column) for split, data in splits.items()}


def relabelled(data: Dataset, labels: list[Any], feature: ClassLabel, index: Any, column: str) -> Dataset:
    """The data with `index` of each label, or of each in a list of labels, in a column."""
    nested = hasattr(data.features[column], "feature")
    found = [[index[label] for label in row] if nested else index[row] for row in labels]
    return data.remove_columns(column).add_column(column, found, feature=List(feature) if nested else feature)


def match_labels(data_names: Sequence[str], model_names: Sequence[str]) -> list[int]:
    """The model's class of each class of the data: by plain name, or in order where either has but numbers."""
    known = f"The data set has {_listed(data_names)}; the model has {_listed(model_names)}."
    if len(data_names) != len(model_names):
        raise ValueError(f"Data and model do not have the same classes. {known} Calibration needs all of them.")
    for plain in (str, _plain):
        index = {plain(name): i for i, name in enumerate(model_names)}
        order = [index.get(plain(name), -1) for name in data_names]
        if sorted(order) == list(range(len(model_names))):
            return order
    if _numbered(data_names) or _numbered(model_names):
        _warn_once(f"Data and model do not both name their classes, so these are matched in order. {known}")
        return list(range(len(model_names)))
    unknown = [name for name, i in zip(data_names, order, strict=True) if i < 0]
    what = f"does not know the classes {', '.join(map(repr, unknown[:5]))} of the data. {known}"
    raise ValueError(f"The model {what} Rename the classes of the data, or set id2label in the model's config.json.")


@cache
def _warn_once(text: str) -> None:  # and not for each split
    logger.warning("%s", text)


def _plain(name: str) -> str:
    """A name in which case, blanks, hyphens and underscores count for nothing."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _numbered(names: Sequence[str]) -> bool:
    return [name.removeprefix("LABEL_") for name in names] == [str(i) for i in range(len(names))]


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
