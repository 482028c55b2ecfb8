# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a task is: its data, how samples become inputs of a model, and what it calls things. The registry of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from datasets import ClassLabel, Dataset, DatasetDict
from torch import Tensor
from transformers import PreTrainedModel

from ..predictions import Predictions
from .columns import LABEL, Column, check_label, encode_labels, find_columns, match_labels, relabelled
from .splits import load_splits, naming_encoding, split_data


class Task(ABC):
    """
    A kind of classification. A subclass says what is its own, and [`register_task`] makes it known by its name.

    Attributes:
        name (`str`): Name of the pipeline of transformers, such as `"image-classification"`.
        aliases (`Collection[str]`): Other names of that pipeline.
        suffix (`str`): What the names of its models hold, such as `"ForImageClassification"`.
        models (`Collection[str]`): Names of models that do not hold it, or hold that of another task.
        auto_class (`type`): The Auto class of its models.
        processor (`str`): What makes their inputs: `"image_processor"`, `"tokenizer"` or `"feature_extractor"`.
        input, label ([`Column`]): The columns that it reads.
        label_first (`bool`): Which of the two is found first, where neither is named.
        column_flag (`str`): Another flag of `calibrate.py` than `--input_column_name` for the column of inputs.
        embedded (`Mapping[str, Callable]`): Data sets that need no download.
        unit, group (`str`): What is counted, and what those belong to that depend on one another, where they do.
        adapter_type (`str`): Task type of an adapter of PEFT.
        example, example_options, card_note (`str`): For the model card: an input, further arguments of the pipeline,
            and a remark on the scores.
    """

    name: ClassVar[str]
    aliases: ClassVar[Collection[str]] = ()
    suffix: ClassVar[str]
    models: ClassVar[Collection[str]] = ()
    auto_class: ClassVar[Any]
    processor: ClassVar[str]
    input: ClassVar[Column]
    label: ClassVar[Column] = LABEL
    label_first: ClassVar[bool] = True
    column_flag: ClassVar[str] = "input_column_name"
    embedded: ClassVar[Mapping[str, Callable[[], Dataset]]] = {}
    unit: ClassVar[str] = "samples"
    group: ClassVar[str | None] = None
    adapter_type: ClassVar[str | None] = None
    example: ClassVar[str] = "..."
    example_options: ClassVar[str] = ""
    card_note: ClassVar[str] = ""

    def load(
        self,
        name: str,
        config_name: str | None = None,
        input_column: str | None = None,
        label_column: str | None = None,
        revision: str | None = None,
    ) -> dict[str, Dataset]:
        """The splits that a data set has, with the columns of the task, as [`load_image_dataset`] loads them."""
        if (embedded := self.embedded_dataset(name)) is not None:
            return dict(split_data({"train": embedded}, holdout=0.2, seed=42, quiet=True))
        with naming_encoding(name):
            loaded = load_splits(name, config_name, revision)
            splits = {split: self._plain(data, split, input_column, label_column) for split, data in loaded.items()}
            labels = {split: self.checked_labels(data, split) for split, data in splits.items()}
            return encode_labels(splits, labels, self.label.name)

    def load_dataset(
        self,
        name: str,
        config_name: str | None = None,
        input_column: str | None = None,
        label_column: str | None = None,
        holdout: float = 0.1,
        validation_size: int | None = None,
        seed: int = 42,
        revision: str | None = None,
        check: Callable[[Any, int], Any] | None = None,
    ) -> DatasetDict:
        """
        [`Task.load`], with the splits `train`, `validation` and `test`, as [`load_image_dataset`] makes them; `check`
        is called with each input and its row, and its ValueError names the split.
        """
        if not 0 < holdout < 1:
            raise ValueError(f"holdout must lie strictly between 0 and 1, got {holdout!r}.")
        if (embedded := self.embedded_dataset(name)) is not None:
            return split_data({"train": embedded}, holdout=0.2, seed=seed, quiet=True, validation_size=validation_size)
        splits = self.load(name, config_name, input_column, label_column, revision)
        if check is not None:
            for split, data in splits.items():
                try:
                    for row, cell in enumerate(data[self.input.name]):
                        check(cell, row)
                except ValueError as error:
                    raise ValueError(f"The split {split!r} cannot be used. {error}") from error
        return split_data(splits, holdout=holdout, seed=seed, validation_size=validation_size)

    def check_inputs(self, data: Dataset, split: str, column: str) -> Dataset:
        """Refuse inputs that cannot serve, or cast them; before columns have their plain names."""
        return data

    def checked_labels(self, data: Dataset, split: str) -> list[Any]:
        """The labels of a split, none of them missing."""
        labels = data[self.label.name][:]
        for row, value in enumerate(labels):
            check_label(value, split, f"row {row}")
        return labels

    def class_names(self, data: Dataset) -> list[str]:
        """The names of the classes of loaded data."""
        feature = data.features[self.label.name]
        return getattr(feature, "feature", feature).names

    def match_classes(self, data: Dataset, model_names: Sequence[str]) -> Dataset:
        """Loaded data with the classes of a model in place of their own; they are matched by name."""
        order = match_labels(self.class_names(data), model_names)
        return relabelled(data, data[self.label.name][:], ClassLabel(names=list(model_names)), order, self.label.name)

    def embedded_dataset(self, name: str) -> Dataset | None:
        """The embedded data set of that name, unless a folder here is called so."""
        return self.embedded[name]() if name in self.embedded and not Path(name).exists() else None

    def _plain(self, data: Dataset, split: str, input_column: str | None, label_column: str | None) -> Dataset:
        wanted = {self.input: input_column, self.label: label_column}
        found = find_columns(data, split, dict(reversed(wanted.items())) if self.label_first else wanted)
        old = {found[column]: column.name for column in wanted}
        data = self.check_inputs(data.select_columns(list(old)), split, found[self.input])
        return data.rename_columns({column: name for column, name in old.items() if column != name})

    def prepare(self, model: PreTrainedModel, processor: Any, max_length: int | None = None) -> None:
        """Let model and processor agree, before anything is encoded; `max_length` is for texts."""
        return None

    @abstractmethod
    def encode(self, data: Dataset, processor: Any) -> Any:
        """The inputs of a model, and `labels`, of loaded data, without augmentation; for a `Trainer`."""

    def collator(self, processor: Any) -> Callable[[list[Any]], Any] | None:
        """What makes a batch of encoded samples; `None` for what a `Trainer` with this processor uses by itself."""
        return None

    def probe(self, model: PreTrainedModel) -> dict[str, Tensor] | None:
        """A batch to try a head on; `None` where the model's `main_input_name` tells what it takes."""
        return None

    def flatten(self, output: Any, split: str = "test") -> Predictions:
        """The rows of what a `Trainer` predicted, see [`Predictions.flatten`]."""
        return Predictions.flatten(output, split)


TASKS: dict[str, Task] = {}
_T = TypeVar("_T", bound=type[Task])


def register_task(task: _T) -> _T:
    """
    Make a task known by its name, to every script and to [`from_pretrained`]. A decorator of subclasses of `Task`.

    Raises:
        ValueError: If there is a task of that name already.
    """
    if task.name in TASKS:
        raise ValueError(f"There is a task {task.name!r} already.")
    TASKS[task.name] = task()
    return task


def get_task(name: str) -> Task:
    """The task of a pipeline of transformers; a ValueError names those that there are."""
    for task in TASKS.values():
        if name in (task.name, *task.aliases):
            return task
    raise ValueError(f"{supported_tasks()} Got task={name!r}.")


def task_of(config: Any) -> Task | None:
    """The task of the model that a config names, or of a model; `None` where it is no classifier of a known kind."""
    of_model = hasattr(config, "config")
    names = list(getattr(config.config if of_model else config, "architectures", None) or ())
    names += [type(config).__name__] if of_model else []
    exact = (task for task in TASKS.values() if not set(names).isdisjoint(task.models))
    return next(exact, None) or next((task for task in TASKS.values() if task.suffix in " ".join(names)), None)


def supported_tasks() -> str:
    """A sentence that names every task."""
    return "Supported: " + ", ".join(f"{name} (*{task.suffix})" for name, task in TASKS.items()) + "."
