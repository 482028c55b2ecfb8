# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The classes of a data set, the same for all its splits, and how they are matched to those of a model."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from datasets import ClassLabel, Dataset, List

from .columns import is_class


logger = logging.getLogger(__name__)


def class_names(data: Dataset, column: str) -> list[str]:
    """The names of the classes in a column of class labels, or of lists of them."""
    feature = data.features[column]
    return getattr(feature, "feature", feature).names


def encode_labels(splits: Mapping[str, Dataset], labels: Mapping[str, list[Any]], column: str) -> dict[str, Dataset]:
    """The splits with class labels that all have in common in a column, made of their labels, or of lists of them."""
    features = {split: data.features[column] for split, data in splits.items()}
    nested = {split: hasattr(feature, "feature") for split, feature in features.items()}
    classes = common_classes(
        {split: chain.from_iterable(rows) if nested[split] else rows for split, rows in labels.items()},
        {split: feature.feature if nested[split] else feature for split, feature in features.items()},
    )
    if classes is None:
        return dict(splits)
    return {split: _relabelled(data, labels[split], *classes, column) for split, data in splits.items()}


def match_classes(data: Dataset, model_names: Sequence[str], column: str) -> Dataset:
    """The data with the classes of a model, see [`match_labels`], in place of its own in a column."""
    order = match_labels(class_names(data, column), model_names)
    return _relabelled(data, data[column][:], ClassLabel(names=list(model_names)), order, column)


def _relabelled(data: Dataset, labels: list[Any], feature: ClassLabel, index: Any, column: str) -> Dataset:
    """The data with `index` of each label, or of each in a list of labels."""
    nested = hasattr(data.features[column], "feature")
    found = [[index[label] for label in row] if nested else index[row] for row in labels]
    return data.remove_columns(column).add_column(column, found, feature=List(feature) if nested else feature)


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
    if any(is_class(feature) for feature in features.values()):
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
