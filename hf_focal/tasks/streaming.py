# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Data sets that are read one sample after the other: their splits, columns and classes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from datasets import ClassLabel, Dataset, IterableDataset

from ..names import suggestion
from .columns import Column, NoColumn, is_missing, match_labels, plain_label
from .multi_label import are_vectors, check_kind, class_order, label_matrix, yes_of
from .pairs import check_agreement
from .splits import UNREADABLE, chosen_pair, in_words, load_splits, training_splits, unreadable


logger = logging.getLogger(__name__)

_PEEKED = 64  # rows that are looked at first
_SHARDS = 16  # of data in memory or on disk: their order is shuffled


@dataclass(frozen=True)
class Samples:
    """
    A split that is read one sample after the other.

    Attributes:
        data (`datasets.IterableDataset`): Images and sounds are not decoded.
        split (`str`): What it is called.
        task ([`Task`]): Whose data it is.
        input, label (`str`): The columns that the task reads.
        pair (`str`, *optional*): That of second texts, whose inputs are tuples of two.
        names (`tuple[str, ...]`, *optional*): Those of the classes, where the data or the user tell them.
        model_names (`tuple[str, ...]`, *optional*): The classes that labels become, where they are others.
        sigmoid (`bool`): Whether they are for a model that gives each of these a probability of its own.
        turn (`tuple[int, int]`): Of how many samples in a row which one is taken.
    """

    data: IterableDataset
    split: str
    task: Any
    input: str
    label: str
    pair: str | None = None
    names: tuple[str, ...] | None = None
    model_names: tuple[str, ...] | None = None
    turn: tuple[int, int] = (1, 0)
    sigmoid: bool = False

    @property
    def several(self) -> bool:
        """Whether a sample may have several labels, and not one by itself, or one for each of its words."""
        return self.task.takes_lists and hasattr(self.data.features[self.label], "feature")

    def for_model(self, names: Sequence[str], sigmoid: bool = False) -> Samples:
        """With the classes of a model, of softmax or `sigmoid`, in place of their own, all of which it has to know."""
        sigmoid = sigmoid and (self.several or not self.task.one_class_tells)
        if self.task.takes_lists:
            check_kind(self.several, sigmoid, names)
        return replace(self, model_names=tuple(names), sigmoid=sigmoid)

    def columns(self) -> dict[Column, str]:
        """What the task reads, by what it reads it for."""
        pair = {} if self.pair is None else {self.task.pair: self.pair}
        return {self.task.input: self.input, self.task.label: self.label, **pair}

    @property
    def class_names(self) -> Sequence[str] | None:
        """Those of the classes, where they are known."""
        feature = self.data.features[self.label]
        return self.names or getattr(getattr(feature, "feature", feature), "names", None)

    def classes(self) -> Callable[[Any, str], Any]:
        """
        What makes the index of a class, or of a list of them, of a label at a place; for a sigmoid head 1, 0 and -100
        of each class; `None` of none.
        """
        feature = self.data.features[self.label]
        feature = getattr(feature, "feature", feature)
        if self.several:
            return _Lists(feature, self.split, self.names, self.model_names)
        if self.sigmoid:
            return _YesOrNo(feature, self.split, self.names, (self.model_names or ("",))[0])
        return _Classes(feature, self.split, self.names, self.model_names)


class _Classes:
    def __init__(
        self, feature: Any, split: str, names: Sequence[str] | None, model_names: Sequence[str] | None
    ) -> None:
        self._feature, self._split, self._names, self._model_names = feature, split, names, model_names
        self._known = {name: index for index, name in enumerate(names or model_names or ())}
        matched = names is not None and model_names is not None
        self._order = match_labels(names or (), model_names or ()) if matched else None
        self._warned = False

    def __call__(self, label: Any, place: str) -> Any:
        if is_missing(label):
            return None
        if isinstance(label, list):
            return [self._one(value, f"{place}, word {word}") for word, value in enumerate(label)]
        return self._one(label, place)

    def _one(self, value: Any, place: str) -> int:
        value = plain_label(value, self._feature, self._split, place)
        index = value if isinstance(self._feature, ClassLabel) else self._by_name(value, place)
        return index if self._order is None else self._order[index]

    def _by_name(self, value: Any, place: str) -> int:
        name = str(value)
        if name in self._known:
            return self._known[name]
        if isinstance(value, int) and value < len(self._known):
            if not self._warned:
                logger.warning(
                    "The labels of %r are whole numbers: they are taken for places among %s, from 0.",
                    self._split, f"the {len(self._known)} classes {', '.join([*self._known][:5])}, ...",
                )  # fmt: skip
                self._warned = True
            return value
        if self._names is None and isinstance(value, str):  # apart from case and blanks
            self._known[name] = match_labels([name], self._model_names or ())[0]
            return self._known[name]
        what = f"has the label {value!r} in {place}, which is none of the {len(self._known)} classes"
        raise ValueError(f"The split {self._split!r} {what}.{suggestion(name, self._known)} Mend or remove it.")


class _Lists(_Classes):
    """Of lists of labels 1, 0 and -100 for each class."""

    def __init__(
        self, feature: Any, split: str, names: Sequence[str] | None, model_names: Sequence[str] | None
    ) -> None:
        single = names is not None and model_names is not None and len(names) == len(model_names) == 1
        super().__init__(feature, split, names, None if single else model_names)
        self._number = len(model_names or names or ())
        self._untold: list[int] = []
        if self._order is not None:
            _, self._untold = class_order(self._order, model_names or ())

    def __call__(self, label: Any, place: str) -> Any:
        if is_missing(label):
            return None
        found = [self._one(value, f"{place}, label {number}") for number, value in enumerate(label)]
        return label_matrix([[*found, *self._untold]], self._number)[0].tolist()


class _YesOrNo(_Classes):
    """Of the labels of two classes 1 or 0, for a model with a single logit."""

    def __init__(self, feature: Any, split: str, names: Sequence[str] | None, model_name: str) -> None:
        if names is None:
            raise ValueError("Labels for a single logit are those of two classes: name them with class_names.")
        super().__init__(feature, split, names, None)
        self._yes = yes_of(names, model_name)

    def __call__(self, label: Any, place: str) -> Any:
        index = super().__call__(label, place)
        return None if index is None else [float(index == self._yes)]


def load_streams(
    task: Any,
    name: str,
    config_name: str | None = None,
    input_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    revision: str | None = None,
    *,
    choose: Callable[[list[str]], Collection[str]] = list,
    class_names: Sequence[str] | None = None,
    pair_column: str | None = None,
) -> dict[str, Samples]:
    """
    As [`Task.load`], of data that are read when they are needed, and never as a whole: nothing is downloaded first.

    Args:
        task ([`Task`]): Whose data they are.
        name, config_name, input_column, label_column, revision, choose, pair_column: As for [`Task.load`].
        class_names (`Sequence[str]`, *optional*): Those of the classes, in their order, for labels that are strings
            or whole numbers: which there are cannot be found out without reading all.

    Raises:
        ValueError: If a column is missing or ambiguous, or the first samples of a split have no label and it cannot
            be spared.
    """
    if label_column is not None and not isinstance(label_column, str):
        if len(label_column) > 1:
            raise ValueError("Several columns of labels cannot be streamed: load them without streaming.")
        (label_column,) = label_column
    wanted = task.wanted(name, input_column, label_column, pair_column)
    with in_words(name):
        stored = _stored(task, name, config_name, revision)
        found: dict[str, Samples] = {}
        known: Mapping[Column, str] = {}  # columns of the first split, whose names hold for the others
        without: dict[str, str] = {}  # splits that have no labels, and why they are thought so
        while True:
            try:
                chosen = list(choose([split for split in stored if split not in without]))
            except ValueError as error:
                raise ValueError(" ".join([str(error), *without.values()])) from error
            if not (split := next((one for one in chosen if one not in found), None)):
                break
            try:
                found[split] = _samples(task, name, stored[split], split, wanted, known, class_names)
                known = known or found[split].columns()
            except _NoLabels as none:
                without[split] = str(none)
                logger.warning("%s It is not used.", none)
    if not chosen:
        raise ValueError("The data set has no split with labels.")
    return {split: found[split] for split in chosen}


class _NoLabels(ValueError):
    """A split has no labels, as far as it was looked at."""


def _stored(task: Any, name: str, config_name: str | None, revision: str | None) -> dict[str, Any]:
    """The splits as they are, each of them an `IterableDataset`."""
    if task.embedded_dataset(name) is not None:
        return {split: _streamed(data) for split, data in task.load(name).items()}
    stored: Any = load_splits(name, config_name, revision, streaming=True)
    return {split: _streamed(stored[split]) for split in stored}


def _streamed(data: Any) -> IterableDataset:
    if isinstance(data, Dataset):
        return data.to_iterable_dataset(num_shards=max(1, min(_SHARDS, len(data))))
    return data


def _samples(
    task: Any, name: str, data: IterableDataset, split: str, wanted: Mapping[Column, str | None],
    known: Mapping[Column, str], class_names: Sequence[str] | None,
) -> Samples:  # fmt: skip
    """A split with the columns of the task, its first samples looked at."""
    with _telling_why(name):
        if data.features is None:
            data = data._resolve_features()  # noqa: SLF001  (of the first rows; nothing public does that)
        data = data.decode(False)
    if not data.column_names:
        raise ValueError(f"The split {split!r} is empty.")
    usual = {column: name for column, name in known.items() if name in data.column_names}
    given = {column: name for column, name in wanted.items() if name is not None}
    try:
        columns = task.columns(data, split, {**wanted, **usual, **given})
    except NoColumn as error:
        if error.column is not task.label:
            raise
        raise _NoLabels(str(error)) from error
    check_agreement(known or columns, columns, split)
    data = data.select_columns(list(columns.values()))
    input_name, label_name, pair_name = columns[task.input], columns[task.label], columns.get(task.pair)
    for input_column in filter(None, (input_name, pair_name)):
        if not task.input.fits(data.features[input_column]):
            data = task.check_inputs(data, split, input_column).decode(False)
    with _telling_why(name):
        first = list(data.take(_PEEKED))
    if not first:
        raise ValueError(f"The split {split!r} is empty.")
    if all(is_missing(row[label_name]) for row in first):
        raise _NoLabels(f"The split {split!r} has no label in its first {len(first)} rows.")
    feature = data.features[label_name]
    if task.takes_lists and are_vectors(getattr(feature, "feature", None), [row[label_name] for row in first]):
        what = "vectors of 0 and 1, which cannot be streamed: load them without streaming"
        raise ValueError(f"The labels of {split!r} are {what}.")
    names = _names(feature, split, class_names)
    return Samples(data, split, task, input_name, label_name, pair_name, names)


@contextmanager
def _telling_why(name: str) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise unreadable(name, error) from error
    except ImportError as error:  # of torchcodec, by datasets
        raise ValueError(f"{name} cannot be streamed: {error} Or load the data without streaming.") from error


def _names(feature: Any, split: str, class_names: Sequence[str] | None) -> tuple[str, ...] | None:
    """The names of the classes, if the data or the user tell them."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    if names is None or class_names is None:
        given = class_names if names is None else names
        return None if given is None else tuple(given)
    if list(names) != list(class_names):
        found = f"The split {split!r} names its {len(names)} classes itself: {', '.join(names[:5])}, ..."
        raise ValueError(f"{found} Leave class_names (--class_names) unset.")
    return tuple(names)


def training_streams(
    task: Any, *source: Any, class_names: Sequence[str] | None = None, pair_column: str | None = None
) -> dict[str, Samples]:
    """
    The splits `train`, `validation` and `test` of a data set, see [`load_streams`]. A single split beside that to
    train on is dealt out by turns: every other sample is for testing.
    """
    found = load_streams(task, *source, choose=_with_held_out, class_names=class_names, pair_column=pair_column)
    train, *held_out = found.values()
    if train.names is None:
        kind = "strings or whole numbers"
        raise ValueError(
            f"The labels of the split {train.split!r} are {kind}, and a stream does not tell which there are before "
            "its end. Name the classes in their order with class_names (--class_names cat dog), or load without "
            "streaming."
        )
    if len(train.names) < 2 and not train.several:
        raise ValueError(f"A classifier needs at least two classes, got {', '.join(train.names)}.")
    for one in held_out:
        if one.names != train.names:
            both = f"{_shown(train.names)} in {train.split!r}, {_shown(one.names or ())} in {one.split!r}"
            raise ValueError(f"The splits do not agree on the classes: {both}.")
    validation, test = held_out if len(held_out) == 2 else by_turns(held_out[0])
    return {"train": train, "validation": validation, "test": test}


def _with_held_out(names: Collection[str]) -> list[str]:
    chosen = training_splits(names)
    if len(chosen) < 2:
        what = f"The data set has no split but {chosen[0]!r} to use, and a stream cannot be split at random"
        raise ValueError(f"{what}. Bring a validation or a test split, or load without streaming.")
    return chosen


def held_out_streams(
    task: Any, *source: Any, split: str | None = None, test_split: str | None = None, pair_column: str | None = None
) -> dict[str, Samples]:
    """Splits to fit a calibrator and to measure on, as of [`held_out_pair`]; a single one is dealt out by turns."""
    choose = partial(chosen_pair, split=split, test_split=test_split)
    found = load_streams(task, *source, choose=choose, pair_column=pair_column)
    if "train" in list(found)[:1]:
        logger.warning("The calibrator is fitted on the split 'train': use data that the model was not trained on.")
    if len(found) > 1:
        return found
    (only,) = found.values()
    first, second = by_turns(only)
    return {f"half of {only.split}": first, f"other half of {only.split}": second}


def by_turns(samples: Samples) -> tuple[Samples, Samples]:
    """Every other sample, and the rest: a stream has no length, and cannot be split at random."""
    logger.warning(
        "The only split to hold out is %r: by turns, every other of its samples is for testing alone.", samples.split
    )
    return replace(samples, turn=(2, 0)), replace(samples, turn=(2, 1))


def _shown(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
