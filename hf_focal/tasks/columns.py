# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The columns of a data set: which holds what, and what they may hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset, Value


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
    """Whether a column of this feature holds strings."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def is_class(feature: Any) -> bool:
    """Whether a column of this feature holds class labels."""
    return isinstance(feature, ClassLabel)


LABEL = Column(
    "label",
    "labels",
    is_class,
    ("label", "labels", "class", "category", "target"),
    "label_column (--label_column_name)",
)


def find_columns(data: Dataset, split: str, wanted: Mapping[Column, str | None]) -> dict[Column, str]:
    """
    The names of the wanted columns.

    Args:
        data (`datasets.Dataset`):
            With columns of any names.
        split (`str`):
            What it is called, for error messages.
        wanted (`Mapping[Column, str]`):
            The name of each column, or `None` to find it. They are found in this order.

    Raises:
        ValueError: If there are no samples, or a column is missing, ambiguous or named twice.
    """
    if len(data) == 0:
        raise ValueError(f"The split {split!r} is empty.")
    found = {column: find_column(data, split, column, given) for column, given in wanted.items() if given is not None}
    for column in wanted:
        if column not in found:
            found[column] = find_column(data, split, column, taken=tuple(found.values()))
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
            raise ValueError(
                f"The split {split!r} has no column {given!r}; its columns are {', '.join(data.column_names)}. Set "
                f"{column.argument} to one of them."
            )
        return given
    columns = [name for name in data.column_names if name not in taken]
    candidates = [name for name in columns if column.fits(data.features[name])]
    if len(candidates) != 1:  # of several the one of such a name; without any, a name will do whatever the type
        named = [name for name in candidates or columns if name.lower() in column.names]
        candidates = named or candidates
    if len(candidates) != 1:
        found = f"several could serve: {', '.join(candidates)}" if candidates else f"none of {', '.join(columns)} does"
        raise ValueError(
            f"Which column of the split {split!r} holds the {column.contents}? {found[0].upper()}{found[1:]}. Set "
            f"{column.argument}."
        )
    return candidates[0]


def check_texts(data: Dataset, split: str, column: str) -> None:
    """Refuse what is no text, or none at all."""
    if not is_text(data.features[column]):
        raise ValueError(f"The column {column!r} of the split {split!r} must hold strings: {data.features[column]}.")
    for row, text in enumerate(data[column]):
        if not (text or "").strip():
            found = "a missing" if text is None else "an empty"
            raise ValueError(f"The split {split!r} has {found} text in row {row} (column {column!r}). Remove it.")


def check_label(value: Any, split: str, place: str) -> None:
    """Refuse a label that is missing, or hidden."""
    if value is None or value != value:  # CSV files have NaN for nothing
        raise ValueError(f"The split {split!r} has no label in {place}. Remove the row, or the split.")
    if isinstance(value, int) and value < 0:
        raise ValueError(
            f"The split {split!r} has samples without a label (index {value}, {place}): hidden labels cannot be used. "
            "Remove them, or pass a data set without this split."
        )


def check_each(splits: Mapping[str, Dataset], column: str, check: Callable[[Any, int], Any]) -> None:
    """Call `check` with each cell of a column and its row; its ValueError is told with the name of the split."""
    for split, data in splits.items():
        for row, cell in enumerate(data[column]):
            try:
                check(cell, row)
            except ValueError as error:
                raise ValueError(f"The split {split!r} cannot be used. {error}") from error
