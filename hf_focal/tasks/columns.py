# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The columns of a data set: which holds what; the classes of its labels, and how they are matched to a model's."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

from datasets import ClassLabel, Dataset, List, Value

from ..predictions import IGNORED
from .rows import stored_rows


logger = logging.getLogger(__name__)

HIDDEN = -1, IGNORED  # labels that say that there is none


class NoColumn(ValueError):
    """A split does not have a column."""

    def __init__(self, column: Column, message: str) -> None:
        super().__init__(message)
        self.column = column


@dataclass(frozen=True)
class Column:
    """
    A column that a task reads, and how it is told: by its type, and where that does not settle it by its name.

    Attributes:
        name (`str`): What it is called once it is found, such as `"image"`.
        contents (`str`): What it holds, in the plural, for error messages.
        fits (`Callable`): Whether a feature of `datasets` is of its type.
        names (`tuple[str, ...]`): What it may be called, in lower case.
        lists (`Callable`, *optional*): Whether a feature will do where neither type nor name tells of any.
        argument (`str`): The argument, and the flag of the scripts, that names it, for error messages.
    """

    name: str
    contents: str
    fits: Callable[[Any], bool]
    names: tuple[str, ...]
    argument: str = "input_column (--input_column_name)"
    lists: Callable[[Any], bool] | None = None


def is_text(feature: Any) -> bool:
    """Whether a column holds strings."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def is_class(feature: Any) -> bool:
    """Whether a column holds class labels."""
    return isinstance(feature, ClassLabel)


def is_list_of_classes(feature: Any) -> bool:
    """Whether a column holds lists of class labels."""
    return is_class(getattr(feature, "feature", None))


TRAIN_NAMES = ("train", "training")
_NAMES = ("label", "labels", "class", "category", "target")
LABEL = Column("label", "labels", is_class, _NAMES, "label_column (--label_column_name)", is_list_of_classes)


def find_columns(data: Dataset, split: str, wanted: Mapping[Column, str | None]) -> dict[Column, str]:
    """The names of the wanted columns: those that are given, and then, in this order, those that are found."""
    if isinstance(data, Dataset) and len(data) == 0:
        raise ValueError(f"The split {split!r} is empty.")
    found: dict[Column, str] = {}
    for column in sorted(wanted, key=lambda column: wanted[column] is None):  # those that are given first
        found[column] = find_column(data, split, column, wanted[column], tuple(found.values()))
    for name in found.values():
        if len(same := [column.contents for column, other in found.items() if other == name]) > 1:
            raise ValueError(f"The column {name!r} cannot hold both the {' and the '.join(same)}.")
    return found


def find_column(
    data: Dataset, split: str, column: Column, given: str | None = None, taken: tuple[str, ...] = ()
) -> str:
    """The column `given`, or the one, other than those that are `taken`, that type or name tells to be `column`."""
    if given is not None:
        if given not in data.column_names:
            have = f"has no column {given!r}; its columns are {', '.join(data.column_names)}"
            raise NoColumn(column, f"The split {split!r} {have}. Set {column.argument} to one of them.")
        return given
    columns = [name for name in data.column_names if name not in taken]
    candidates = [name for name in columns if column.fits(data.features[name])]
    if len(candidates) != 1:  # of several the one of such a name; without any, a name will do whatever the type
        candidates = [name for name in candidates or columns if name.lower() in column.names] or candidates
    if not candidates and column.lists is not None:
        candidates = [name for name in columns if column.lists(data.features[name])]
    if len(candidates) != 1:
        found = f"several could serve: {', '.join(candidates)}" if candidates else f"none of {', '.join(columns)} does"
        found = f"holds the {column.contents}? {found[0].upper()}{found[1:]}"
        folders = "Files in folders that are called after their classes (train/cat/1.png) have the names for labels."
        hint = f" {folders}" if data.column_names in (["image"], ["audio"]) and column is LABEL else ""
        flags = [name for name in columns if getattr(data.features[name], "dtype", "").startswith(("bool", "int"))]
        if column is LABEL and not candidates and len(flags) > 1:
            hint += f" Of columns of 0 and 1, each for a label, name all: {' '.join(flags)}."
        message = f"Which column of the split {split!r} {found}. Set {column.argument}.{hint}"
        raise ValueError(message) if candidates else NoColumn(column, message)
    return candidates[0]


def is_missing(value: Any) -> bool:
    """Whether there is no label in a cell, or in a list of labels: nothing, -1 or -100."""
    if isinstance(value, list):
        return bool(value) and all(map(is_missing, value))
    if value is None or value != value:  # CSV files have NaN for nothing
        return True
    return not value.strip() if isinstance(value, str) else not isinstance(value, bool) and value in HIDDEN


def plain_label(value: Any, feature: Any, split: str, place: str) -> Any:
    """A label as a whole number, or a string; or a ValueError that names its place."""
    if is_missing(value):
        hidden = f" (index {value})" if isinstance(value, int) else ""
        raise ValueError(f"The split {split!r} has no label in {place}{hidden}. Remove the row.")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (int, str)):
        wanted = "Labels must be class labels, whole numbers or strings, got values of type"
        scale = " A number on a scale is for a regression, which has no probabilities to calibrate."
        raise ValueError(
            f"{wanted} {type(value).__name__} ({value!r} in {place} of the split {split!r})."
            f"{scale if isinstance(value, float) else ''}"
        )
    if isinstance(feature, ClassLabel) and isinstance(value, int) and not 0 <= value < feature.num_classes:
        names = f"the {feature.num_classes} classes are numbered from 0 to {feature.num_classes - 1}"
        raise ValueError(f"The split {split!r} has the label {value} in {place}, but {names}. Mend or remove the row.")
    if isinstance(value, int) and value < 0:
        what = f"has the label {value} in {place}: an index of a class cannot be negative"
        raise ValueError(f"The split {split!r} {what}. Where these are classes by name, write them as strings.")
    return value


def encode_labels(
    splits: Mapping[str, Dataset], labels: Mapping[str, list[Any]], column: str, several: bool = False
) -> dict[str, Dataset]:
    """
    The splits with one `ClassLabel` for all labels, or lists of them, unless they have one already. Where a sample may
    have `several`, a single class will do, and one that no training sample has.
    """
    columns = {split: data.features[column] for split, data in splits.items()}
    features = {split: getattr(feature, "feature", feature) for split, feature in columns.items()}
    nested = {split for split, feature in columns.items() if hasattr(feature, "feature")}
    values = {split: set(chain.from_iterable(rows) if split in nested else rows) for split, rows in labels.items()}
    found = set().union(*values.values())
    if several and not found:
        raise ValueError(f"No sample has a label: every list is empty. Set {LABEL.argument} to another column.")
    if len(found) < 2 and not several:
        raise ValueError(f"A classifier needs at least two classes; every label is {found.pop()!r}.")
    if any(is_class(feature) for feature in features.values()):
        names = {split: getattr(feature, "names", None) for split, feature in features.items()}
        if len({str(value) for value in names.values()}) > 1:
            raise ValueError(f"The splits do not agree on the classes: {names}.")
        return dict(splits)
    if len({type(value) for value in found}) > 1:
        kinds = ", ".join(sorted({type(value).__name__ for value in found}))
        raise ValueError(f"Labels must be class labels, whole numbers or strings, got values of type {kinds}.")
    train = next((values[name] for name in TRAIN_NAMES if name in values), found)
    if (unseen := found - train) and not several:
        raise ValueError(f"Labels that no training sample has: {', '.join(map(repr, sorted(unseen)))}.")
    order = {value: index for index, value in enumerate(sorted(found))}
    feature = ClassLabel(names=[str(value) for value in order])
    return {split: relabelled(data, labels[split], feature, order, column) for split, data in splits.items()}


def relabelled(data: Dataset, labels: list[Any], feature: ClassLabel, index: Any, column: str) -> Dataset:
    """The data with `index` of each label, or of each in a list of labels, in a column."""
    nested = hasattr(data.features[column], "feature")
    found = [[index[label] for label in row] if nested else index[row] for row in labels]
    return replaced(data, found, List(feature) if nested else feature, column)


def replaced(data: Dataset, found: list[Any], feature: Any, column: str) -> Dataset:
    """The data with other cells in a column."""
    new = f"{column} "  # beside the old one, for data of no column have no rows
    if data._indices is None:  # noqa: SLF001
        return data.add_column(new, found, feature=feature).remove_columns(column).rename_column(new, column)
    # A new column would make a table of what was drawn, whose rows nobody finds in the file.
    rows, fingerprint = stored_rows(data), data._fingerprint  # noqa: SLF001
    whole = Dataset(data.data, info=data.info, split=data.split, fingerprint=fingerprint)
    cells: list[Any] = [[] if hasattr(feature, "feature") else 0] * len(whole)
    for row, label in zip(rows, found, strict=True):
        cells[row] = label
    whole = whole.add_column(new, cells, feature=feature).remove_columns(column).rename_column(new, column)
    return whole._select_with_indices_mapping(rows)  # noqa: SLF001


RENAME = "Rename the classes of the data, or set id2label in the model's config.json."


def match_labels(
    data_names: Sequence[str], model_names: Sequence[str], present: Collection[int] | None = None
) -> list[int]:
    """
    The model's class of each class of the data: by plain name, or by number where either has but numbers. The data may
    lack some of the model's classes. Of `present` (all) there are samples; others that the model lacks become -1.
    """
    known = f"The data set has {_listed(data_names)}; the model has {_listed(model_names)}."
    exact = {name: i for i, name in enumerate(model_names)}
    plain: dict[str, list[int]] = {}
    for i, name in enumerate(model_names):
        plain.setdefault(plain_name(name), []).append(i)
    order = []
    for name in data_names:
        alike = plain.get(plain_name(name), [])
        order.append(exact.get(name, alike[0] if len(alike) == 1 else -1))
    wanted = range(len(data_names)) if present is None else sorted(present)
    unknown = [data_names[i] for i in wanted if order[i] < 0]
    if not unknown:
        for i in {order[i] for i in wanted}:
            if len(same := [data_names[k] for k in wanted if order[k] == i]) > 1:
                what = f"The classes {', '.join(map(repr, same))} of the data are one class of the model"
                raise ValueError(f"{what}, {model_names[i]!r}. Rename them in the data, or make them one.")
        if other := [f"{data_names[i]!r} is {model_names[order[i]]!r}" for i in wanted if data_names[i] not in exact]:
            logger.info("Classes are matched by name apart from case and blanks: %s.", ", ".join(other[:5]))
        return order
    numbers, in_order = _numbers(data_names), list(range(len(model_names)))
    if _numbers(model_names) == in_order:  # a class of it is its number, whichever of them the data have
        numbers = in_order if numbers is None and len(data_names) == len(model_names) else numbers
        matched = numbers is not None and max(numbers) < len(model_names)
    else:  # numbers can be names in another order, or of other classes, unless they are as many
        matched = numbers == in_order
    if matched and numbers is not None:
        _warn_once(f"Data and model do not both name their classes, so these are matched in order. {known}")
        return numbers
    shown = []
    for name in unknown[:5]:
        near = difflib.get_close_matches(plain_name(name), plain, n=1)
        shown.append(f"{name!r} (the nearest is {model_names[plain[near[0]][0]]!r})" if near else repr(name))
    what = f"does not know the classes {', '.join(shown)}{', ...' if len(unknown) > 5 else ''} of the data. {known}"
    raise ValueError(f"The model {what} {RENAME}")


@cache
def _warn_once(text: str) -> None:  # and not for each split
    logger.warning("%s", text)


def plain_name(name: str) -> str:
    """A name in which case, blanks, hyphens and underscores count for nothing."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _numbers(names: Sequence[str]) -> list[int] | None:
    """The numbers that names are, all of them different; `None` where they are not."""
    plain = [name.removeprefix("LABEL_") for name in names]
    found = [int(name) for name in plain if re.fullmatch("0|[1-9][0-9]*", name)]
    return found if len(set(found)) == len(names) else None


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
