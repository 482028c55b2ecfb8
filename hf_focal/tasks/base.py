# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a task is: its data, how samples become inputs of a model, and what it calls things. The registry of tasks."""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import transformers
from datasets import ClassLabel, Dataset, DatasetDict, List, Value
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING
from transformers.pipelines import TASK_ALIASES

from ..files import explained
from ..names import suggestion
from ..predictions import Predictions
from .columns import (
    LABEL,
    Column,
    NoColumn,
    encode_labels,
    find_columns,
    is_class,
    match_labels,
    plain_label,
    relabelled,
    replaced,
)
from .missing import MissingLabels
from .multi_label import JoinedLabels, check_kind, checked_lists, class_order, of_two_classes
from .pairs import check_agreement, keep_names
from .rows import named_split, stored_rows
from .splits import in_words, load_splits, split_data, training_splits


logger = logging.getLogger(__name__)


# What makes inputs of samples, by the name of the argument of a pipeline: what loads it, and the files that it is in.
PROCESSORS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "image_processor": (transformers.AutoImageProcessor, ("preprocessor_config.json", "processor_config.json")),
    "tokenizer": (transformers.AutoTokenizer, ("tokenizer_config.json", "tokenizer.json")),
    "feature_extractor": (transformers.AutoFeatureExtractor, ("preprocessor_config.json", "processor_config.json")),
    "processor": (transformers.AutoProcessor, ("processor_config.json", "preprocessor_config.json")),
}
_NO_TEXT = "pixel_values", "input_values", "input_features"  # inputs of models that are not for texts
TIMM = "timm_wrapper"  # the type of models whose config tells of their image processor


class CardWords(NamedTuple):
    """
    What a model card says of a task, for the record of a calibration.

    Attributes:
        options (`str`): Further arguments of the pipeline.
        note (`str`): A remark on the scores.
        limit (`str`): What the calibration does not hold for.
        head (`str`): What a calibrator is folded into.
    """

    options: str = ""
    note: str = ""
    limit: str = ""
    head: str = "the classification head"


class Task(ABC):
    """
    A kind of classification. A subclass says what is its own, and [`register_task`] makes it known by its name.

    Attributes:
        name (`str`): Name of the pipeline of transformers, such as `"image-classification"`.
        aliases (`Collection[str]`): Other names of it, beside those that transformers takes for that pipeline.
        suffix (`str`): What the names of its models hold, such as `"ForImageClassification"`.
        models (`Collection[str]`): Names of models that do not hold it, or hold that of another task.
        auto_class (`type`): The Auto class of its models.
        processor (`str`): What makes their inputs: `"image_processor"`, `"tokenizer"`, `"feature_extractor"`, or the
            `"processor"` that holds several of these.
        input, label ([`Column`]): The columns that it reads.
        pair ([`Column`], *optional*): That of the second text of a sample, which data may have.
        label_first (`bool`): Which of the two is found first, where neither is named.
        column_flag (`str`): Another flag of `calibrate.py` than `--input_column_name` for the column of inputs.
        embedded (`Mapping[str, Callable]`): Data sets that need no download.
        unit, group (`str`): What is counted, and what those belong to that depend on one another, where they do.
        adapter_type (`str`): Task type of an adapter of PEFT.
        example, example_options, card_note (`str`): For the model card: an input, further arguments of the pipeline,
            and a remark on the scores.
        batch (`str`): Two samples as Python, with what else its processor is called with; for an export to ONNX.
        batch_imports (`tuple[str, ...]`): What they need.
        varying (`Mapping[int, str]`): The axes of its inputs that differ from batch to batch.
        parts (`tuple[str, ...]`): The arguments of a pipeline that the processor is passed as; by default its own.
        one_class_tells (`bool`): Whether one class of a sample says that no other is right, so that a head of sigmoids
            takes data with one label a row.
        why_these (`str`): Why its heads can do no other [`calibrators`][Task.calibrators], as the end of a sentence.
        untrained (`str`): Why its models are not trained, as the end of a sentence; `""` where they are.
    """

    name: ClassVar[str]
    aliases: ClassVar[Collection[str]] = ()
    suffix: ClassVar[str]
    models: ClassVar[Collection[str]] = ()
    auto_class: ClassVar[Any]
    processor: ClassVar[str]
    input: ClassVar[Column]
    label: ClassVar[Column] = LABEL
    pair: ClassVar[Column | None] = None
    label_first: ClassVar[bool] = True
    column_flag: ClassVar[str] = "input_column_name"
    embedded: ClassVar[Mapping[str, Callable[[], Dataset]]] = {}
    unit: ClassVar[str] = "samples"
    group: ClassVar[str | None] = None
    adapter_type: ClassVar[str | None] = None
    example: ClassVar[str] = "..."
    example_options: ClassVar[str] = ""
    card_note: ClassVar[str] = ""
    batch: ClassVar[str] = ""
    batch_imports: ClassVar[tuple[str, ...]] = ()
    varying: ClassVar[Mapping[int, str]] = {0: "batch"}
    parts: ClassVar[tuple[str, ...]]
    one_class_tells: ClassVar[bool] = False
    why_these: ClassVar[str] = ""
    untrained: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "processor" in vars(cls) and "parts" not in vars(cls):
            cls.parts = (cls.processor,)

    def load(
        self,
        name: str,
        config_name: str | None = None,
        input_column: str | None = None,
        label_column: str | Sequence[str] | None = None,
        revision: str | None = None,
        choose: Callable[[list[str]], Collection[str]] = list,
        *,
        pair_column: str | None = None,
    ) -> dict[str, Dataset]:
        """
        The splits that a data set has, with the columns of the task, as [`load_image_dataset`] loads them.

        `choose` is told their names and says which are wanted; the others are not looked at. Rows without a label are
        left out, and of a split that has none `choose` is told no more; one warning counts them. `pair_column` has
        second texts.
        """
        self.wanted(name, input_column, None, pair_column)
        if (embedded := self.embedded_dataset(name)) is not None:
            return dict(split_data({"train": embedded}, holdout=0.2, seed=42, quiet=True))
        with in_words(name):
            stored: Mapping[str, Dataset] = load_splits(name, config_name, revision)
            if label_column is not None and not isinstance(label_column, str):
                stored, label_column = self.joined(stored, label_column)
            wanted = self.wanted(name, input_column, label_column, pair_column)
            splits = self._labelled(stored, choose, wanted)
            labels = {split: self.checked_labels(data, split) for split, data in splits.items()}
            several = {self.has_lists(data) for data in splits.values()}
            if len(several) > 1:
                raise ValueError("Some splits have lists of labels, and others one label a row. Make them alike.")
            return encode_labels(splits, labels, self.label.name, several.pop())

    def load_dataset(
        self,
        name: str,
        config_name: str | None = None,
        input_column: str | None = None,
        label_column: str | Sequence[str] | None = None,
        holdout: float = 0.1,
        validation_size: int | None = None,
        seed: int = 42,
        revision: str | None = None,
        check: Callable[[Any, int], Any] | None = None,
        *,
        pair_column: str | None = None,
    ) -> DatasetDict:
        """
        [`Task.load`], with the splits `train`, `validation` and `test`, as [`load_image_dataset`] makes them; `check`
        is called with each input and its row, and its ValueError names the split.
        """
        if not 0 < holdout < 1:
            raise ValueError(f"holdout must lie strictly between 0 and 1, got {holdout!r}.")
        if (embedded := self.embedded_dataset(name)) is not None:
            self.wanted(name, input_column, None, pair_column)
            return split_data({"train": embedded}, holdout=0.2, seed=seed, quiet=True, validation_size=validation_size)
        pairs = {} if pair_column is None else {"pair_column": pair_column}
        splits = self.load(name, config_name, input_column, label_column, revision, training_splits, **pairs)
        if check is not None:
            for split, data in splits.items():
                try:
                    for row, cell in zip(stored_rows(data), data[self.input.name], strict=True):
                        check(cell, row)
                except ValueError as error:
                    raise ValueError(f"The split {split!r} cannot be used. {error}") from error
        return split_data(splits, holdout=holdout, seed=seed, validation_size=validation_size)

    def wanted(
        self, name: str, input_column: str | None, label_column: str | None, pair_column: str | None = None
    ) -> dict[Column, str | None]:
        """The columns of the task, with the names that are given for them; refuses second texts where none can be."""
        columns: dict[Column, str | None] = {self.input: input_column, self.label: label_column}
        if pair_column is None:
            return columns
        only = "text_pair_column (--text_pair_column_name) is for pairs of texts"
        if self.pair is None:
            raise ValueError(f"{only}, and a sample of {self.name} is one of {self.input.contents}. Leave it unset.")
        if name in self.embedded and not Path(name).exists():
            raise ValueError(f"{only}, and the embedded {name} has none. Leave it unset.")
        return {**columns, self.pair: pair_column}

    def check_inputs(self, data: Dataset, split: str, column: str) -> Dataset:
        """Refuse inputs that cannot serve, or cast them; before columns have their plain names."""
        return data

    def checked_labels(self, data: Dataset, split: str) -> list[Any]:
        """The labels of a split as whole numbers or strings, none of them missing."""
        column, feature = data[self.label.name][:], data.features[self.label.name]
        if self.has_lists(data):  # which were checked before
            return column
        rows = zip(stored_rows(data), column, strict=True)
        return [plain_label(value, feature, split, f"row {row}") for row, value in rows]

    def class_names(self, data: Dataset) -> list[str]:
        """The names of the classes of loaded data."""
        feature = data.features[self.label.name]
        return getattr(feature, "feature", feature).names

    @property
    def takes_lists(self) -> bool:
        """Whether a list of labels says that a sample has several, as it does where a sample has one by itself."""
        return self.label.fits is is_class

    def has_lists(self, data: Any) -> bool:
        """Whether loaded data may have several labels a sample."""
        return self.takes_lists and hasattr(data.features[self.label.name], "feature")

    def joined(self, splits: Mapping[str, Dataset], columns: Sequence[str]) -> tuple[Mapping[str, Dataset], str]:
        """Splits with one column of labels in place of several, and what that is called."""
        if len(columns) == 1:
            return splits, columns[0]
        if not self.takes_lists:
            raise ValueError(f"Labels of {self.name} are in one column: name that alone ({self.label.argument}).")
        found = JoinedLabels(splits, columns)
        return found, found.name

    def match_classes(self, data: Dataset, model_names: Sequence[str], sigmoid: bool = False) -> Dataset:
        """
        Loaded data with the classes of a model in place of their own; those that occur are matched by name. For a
        `sigmoid` head these are lists; of one with a single logit the second of two classes is the one that is right,
        unless the first is called as the model's.
        """
        labels, names, several = data[self.label.name][:], self.class_names(data), self.has_lists(data)
        sigmoid = sigmoid and (several or not self.one_class_tells)
        feature = ClassLabel(names=list(model_names))
        if sigmoid and not self.takes_lists:
            raise ValueError(f"A model of {self.name} needs a softmax over at least two classes for each of its rows.")
        check_kind(several, sigmoid, model_names)
        if not several:
            if sigmoid:
                lists = of_two_classes(labels, names, model_names[0])
                return replaced(data, lists, List(feature), self.label.name)
            present = {label for row in labels for label in (row if isinstance(row, list) else [row])}
            return relabelled(data, labels, feature, match_labels(names, model_names, present), self.label.name)
        present = {label if label >= 0 else ~label for row in labels for label in row}
        order = [0] if len(names) == len(model_names) == 1 else match_labels(names, model_names, present)
        index, untold = class_order(order, model_names)
        found = relabelled(data, labels, feature, index, self.label.name)
        if not untold:
            return found
        lists = [[*row, *untold] for row in found[self.label.name][:]]
        return replaced(found, lists, List(feature), self.label.name)

    def embedded_dataset(self, name: str) -> Dataset | None:
        """The embedded data set of that name, unless a folder here is called so."""
        return self.embedded[name]() if name in self.embedded and not Path(name).exists() else None

    def _labelled(
        self, stored: Mapping[str, Dataset], choose: Callable[[list[str]], Collection[str]],
        wanted: Mapping[Column, str | None],
    ) -> dict[str, Dataset]:  # fmt: skip
        """The chosen splits with the columns of the task, without rows that have no label."""
        found, missing, chosen = dict[str, Dataset](), MissingLabels(), list[str]()
        known: Mapping[Column, str] = {}  # of the first split, whose names hold for the others
        while True:
            try:
                chosen = list(choose([split for split in stored if split not in missing.splits]))
                if not chosen:
                    raise ValueError("The data set has no split with labels.")
            except ValueError as error:
                raise missing.refusal(error, self.label) from error
            if not (split := next((split for split in chosen if split not in found), None)):
                break
            data = named_split(stored[split], split)
            usual = {column: name for column, name in known.items() if name in data.column_names}
            given = {column: name for column, name in wanted.items() if name is not None}
            try:
                columns = self.columns(data, split, {**wanted, **usual, **given})
            except NoColumn as error:
                if error.column is not self.label:
                    raise
                missing.add_split(split, error)
                continue
            known = known or columns
            check_agreement(known, columns, split)
            if (kept := missing.leave_out(data, split, columns[self.label])) is not None:
                found[split] = data = self._plain(kept, split, columns)
                if self.has_lists(data):
                    names = stored.columns if isinstance(stored, JoinedLabels) else None
                    found[split] = checked_lists(data, split, self.label.name, names)
        missing.warn()
        if unused := [repr(split) for split in stored if split not in found and split not in missing.splits]:
            logger.info("Splits that are not used: %s.", ", ".join(unused))
        return {split: found[split] for split in chosen}

    def columns(self, data: Dataset, split: str, wanted: Mapping[Column, str | None]) -> dict[Column, str]:
        """The names of the columns of inputs and labels in a split."""
        order = (self.label, self.input) if self.label_first else (self.input, self.label)
        given = {column: name for column, name in wanted.items() if name is not None}
        found = find_columns(data, split, {column: wanted[column] for column in order} | given)
        feature = data.features[found[self.label]]
        if self.takes_lists and not isinstance(getattr(feature, "feature", feature), (ClassLabel, Value)):
            what = f"must hold a label a row, or a list of labels, not {feature}"
            mend = f"Set {self.label.argument} to another column."
            raise ValueError(f"The column {found[self.label]!r} of the split {split!r} {what}. {mend}")
        return found

    def _plain(self, data: Dataset, split: str, columns: Mapping[Column, str]) -> Dataset:
        """A split with these columns, checked and called as the task calls them."""
        inputs = [column for column in (self.input, self.pair) if column is not None and column in columns]
        old = {columns[column]: column.name for column in (*inputs, self.label)}
        data = data.select_columns(list(old))
        for column in inputs:
            data = self.check_inputs(data, split, columns[column])
        data = data.rename_columns({column: name for column, name in old.items() if column != name})
        return keep_names(data, columns) if len(inputs) > 1 else data

    def load_processor(self, name: str | Path, config: Any, **kwargs: Any) -> Any:
        """What makes inputs of samples, of a checkpoint with this config; a ValueError where a folder has none."""
        auto_class, _ = PROCESSORS[self.processor]
        if getattr(config, "model_type", None) == TIMM:
            kwargs["backend"] = "pil"  # the only one that there is, as a warning would tell
        try:
            with explained(name):
                return auto_class.from_pretrained(name, trust_remote_code=False, **kwargs)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            if Path(name).is_dir() and not self.has_processor(config, name):
                raise ValueError(self.without_processor(name)) from error
            raise

    def has_processor(self, config: Any, folder: str | Path) -> bool:
        """Whether a folder with a model of this config holds what makes its inputs, or it needs no files."""
        if getattr(config, "model_type", None) == TIMM or self.processor not in PROCESSORS:
            return True
        _, files = PROCESSORS[self.processor]
        if self.processor == "tokenizer" and type(config) in TOKENIZER_MAPPING:
            own: Any = TOKENIZER_MAPPING[type(config)]
            classes = [cls for cls in (own if isinstance(own, tuple) else [own]) if cls is not None]
            if any(not cls.vocab_files_names for cls in classes):  # of bytes or characters
                return True
            files = (*files, *(file for cls in classes for file in cls.vocab_files_names.values() if file))
        return any(Path(folder, file).is_file() for file in files)

    def without_processor(self, folder: str | Path) -> str:
        """What is to be done about a folder that has none."""
        what = f"holds a model but no {self.processor.replace('_', ' ')}, without which nobody can use it"
        mend = f"Pass processing_class={self.processor} to the trainer that saves it, or call"
        return f"{folder} {what}. {mend} {self.processor}.save_pretrained({str(folder)!r})."

    def check_processor(self, model: PreTrainedModel, processor: Any, name: str | Path) -> None:
        """Refuse what cannot be the processor of this model; `name` is where it is from."""
        return None

    def for_pipeline(self, processor: Any) -> dict[str, Any]:
        """The arguments by which a pipeline of transformers takes it."""
        return {part: processor if part == self.processor else getattr(processor, part) for part in self.parts}

    def class_names_for(
        self, model: PreTrainedModel, processor: Any, data_names: Sequence[str] | None,
        candidate_labels: Sequence[str] | None = None, hypothesis_template: str | None = None,
    ) -> list[str]:  # fmt: skip
        """The classes of a model, for data with classes of these names, where they are known."""
        if candidate_labels or hypothesis_template:
            raise ValueError(
                f"candidate_labels and hypothesis_template are for zero-shot models, and this one is for {self.name}, "
                "with classes of its own: leave them unset."
            )
        config: Any = model.config
        return [config.id2label[index] for index in range(config.num_labels)]

    @classmethod
    def calibrators(cls, model: Any) -> dict[str, dict[str, Any]]:
        """The methods that the head of such a model can do, with their options, the usual one first; none: all."""
        return {}

    def record_facts(self, model: Any) -> dict[str, Any]:
        """What the record of a calibration has to tell of the model."""
        return {}

    @classmethod
    def card_words(cls, record: Mapping[str, Any]) -> CardWords:
        """What a card says, of a model with this record of a calibration."""
        return CardWords(cls.example_options, cls.card_note)

    def prepare(self, model: PreTrainedModel, processor: Any, max_length: int | None = None) -> None:
        """Let model and processor agree, before anything is encoded; `max_length` is for texts."""
        return None

    @abstractmethod
    def encode(self, data: Dataset, processor: Any) -> Any:
        """The inputs of a model, and `labels`, of loaded data, without augmentation; for a `Trainer`."""

    def sample_encoder(self, processor: Any) -> Callable[[Any, Any, Any], dict[str, Any]]:
        """
        What [`Task.encode`] makes of one sample, its label being the index of a class: called with its input, label
        and a generator of NumPy, for data that come one by one.
        """
        raise ValueError(f"Data of the task {self.name} cannot be streamed: load them without streaming.")

    def size(self, processor: Any) -> str:
        """How large an input becomes, in words; `""` where that is not known."""
        return ""

    def collator(self, processor: Any) -> Callable[[list[Any]], Any] | None:
        """What makes a batch of encoded samples; `None` for what a `Trainer` with this processor uses by itself."""
        return None

    def alone(self, model: PreTrainedModel, processor: Any) -> bool:
        """Whether samples of a batch change one another's logits, so that each is measured alone, as it is served."""
        return False

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
    if task.name in TASKS or canonical_task(task.name) != task.name:
        raise ValueError(f"There is a task {task.name!r} already.")
    TASKS[task.name] = task()
    return task


def get_task(name: str) -> Task:
    """The task of a pipeline of transformers, by any of its names; a ValueError names those that there are."""
    name = canonical_task(name)
    if name not in TASKS:
        names = {*TASKS, *(alias for task in TASKS.values() for alias in task.aliases)}
        raise ValueError(f"{supported_tasks()} Got task={name!r}.{suggestion(name, names)}")
    return TASKS[name]


def canonical_task(name: str) -> str:
    """The one name of a task that may have several, such as `"ner"`; an unknown one stays what it is."""
    own = (task.name for task in TASKS.values() if name in task.aliases)
    return next(own, str(TASK_ALIASES.get(name, name)))


def task_of(config: Any) -> Task | None:
    """The task of the model that a config names, or of a model; `None` where it is no classifier of a known kind."""
    if not hasattr(config, "config"):
        return _task_of_classes(getattr(config, "architectures", None) or ())
    model = getattr(config, "_orig_mod", config)  # of torch.compile
    if hasattr(model, "get_base_model"):  # of PEFT, whose own name tells of texts whatever it holds
        model = model.get_base_model()
    # A class of somebody's own is what it is derived from; what the config tells may be of an earlier head.
    found = _task_of_classes([cls.__name__ for cls in inspect.getmro(type(model))])
    found = found or _task_of_classes(getattr(model.config, "architectures", None) or ())
    if found is not None and found.processor == "tokenizer" and getattr(model, "main_input_name", "") in _NO_TEXT:
        return None
    return found


def _task_of_classes(names: Sequence[str]) -> Task | None:
    exact = (task for task in TASKS.values() if not set(names).isdisjoint(task.models))
    return next(exact, None) or next((task for task in TASKS.values() if task.suffix in " ".join(names)), None)


def supported_tasks() -> str:
    """A sentence that names every task."""
    return "Supported: " + ", ".join(f"{name} (*{task.suffix})" for name, task in TASKS.items()) + "."
