# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The arguments of the scripts: dataclasses, a file whose values explicit flags override, and plugins."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import inspect
import json
import os
import re
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import HfArg, string_to_bool
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType

from ..checks import check_count
from ..metrics import ALL_METRICS
from ..names import suggestion
from ..networks.masking import refuse_masked
from ..tasks.splits import take
from ..training.arguments import REFINEMENT, CalibrationTrainingArguments
from .config_file import read_config, unique_keys
from .script import Parser
from .usage import page


AUTO = "auto"
_OF_SCHEDULES = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}  # which the trainer gives
flag: Any = HfArg  # which says that it returns a field, where a class has its default


@dataclass
class RunArguments(CalibrationTrainingArguments):
    """`CalibrationTrainingArguments` with the defaults of the scripts."""

    help_groups: ClassVar[dict[str, str]] = {
        "calibration": "calibrator temperature_criterion temperature_guard target_accuracy target_precision "
        "threshold_metric fold_temperature",
        "measurement": "n_bins masked_classes per_device_eval_batch_size seed use_cpu",
        "output": "output_dir overwrite",
        "Hub": "push_to_hub hub_model_id push_predictions",
    }

    output_dir: str = flag(default=AUTO, help="Where to save; 'auto' is outputs/<dataset>-<model>-<loss>.")
    overwrite: bool = flag(default=False, help="Replace a run in the output folder, at the end.")
    per_device_eval_batch_size: int = flag(default=128, help="Batch size per device.")
    remove_unused_columns: bool = flag(default=False, help="Off: inputs are made by transforms.")
    dataloader_num_workers: int | None = flag(  # type: ignore[assignment]  # None is settled when it is made
        default=None, help="Processes that read data. Unset: as many as pay where images are decoded in every epoch."
    )
    dataloader_pin_memory: bool = flag(default=torch.cuda.is_available(), help="Pin memory in data loaders.")
    report_to: None | str | list[str] = flag(default="none", help="Where to log, such as tensorboard.")
    seed: int = flag(default=42, help="Seed of the weights and of the order of samples.")
    use_cpu: bool = flag(default=False, help="Leave a GPU alone.")
    bf16: bool = flag(default=False, help="Train and predict in bfloat16, for GPUs.")
    push_to_hub: bool = flag(default=False, help="Push the result to the Hub, once it is calibrated.")
    hub_model_id: str | None = flag(default=None, help="Where to push: user/name. Unset: yours, named as output_dir.")
    resume_from_checkpoint: str | None = flag(
        default=None, help="Go on from a checkpoint of this run: its folder, or 'last'."
    )

    def __post_init__(self) -> None:
        """Refuse what would be an error from deep inside, or none at all."""
        self.workers_chosen = self.dataloader_num_workers is not None
        self.dataloader_num_workers = self.dataloader_num_workers or 0
        for name in self._VALID_DICT_FIELDS:
            value = getattr(self, name)
            if isinstance(value, str) and (name.endswith("kwargs") or value.lstrip().startswith("{")):
                json_object(f"--{name}", value)
                setattr(self, name, value.strip())
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            check_count(name, getattr(self, name))
        if not 0 <= self.num_train_epochs < float("inf"):
            raise ValueError(f"num_train_epochs must be a number of at least 0, got {self.num_train_epochs}.")
        super().__post_init__()
        if self.n_gpu > 1:
            self._n_gpu = 1  # a process uses one: DataParallel would scale losses wrong, see [`start_run`]
        if self.lr_scheduler_kwargs:
            kind = SchedulerType(self.lr_scheduler_type)
            schedule: Any = TYPE_TO_SCHEDULER_FUNCTION[kind]
            taken = {*inspect.signature(schedule).parameters} - _OF_SCHEDULES
            for name in {*self.lr_scheduler_kwargs} - taken:
                found = f"{kind.value!r} takes no {name!r} (lr_scheduler_kwargs)"
                own = f" It takes {', '.join(sorted(taken))}." if taken else ""
                raise ValueError(f"The schedule {found}.{suggestion(name, taken)}{own}")


@dataclass
class TrainArguments(RunArguments):
    """`RunArguments` with defaults that suit small data sets."""

    help_groups: ClassVar[dict[str, str]] = {
        "loss": "loss gamma lam smoothing loss_kwargs loss_reduction",
        "training": "num_train_epochs per_device_train_batch_size learning_rate lr_scheduler_type warmup_steps "
        "weight_decay lr_milestones decay_all_parameters seed bf16 use_cpu",
        **RunArguments.help_groups,
        "measurement": "eval_strategy per_device_eval_batch_size n_bins masked_classes stopping_criteria "
        "track_dynamics dynamics_gradient_epochs dynamics_every",
        "output": "output_dir overwrite resume_from_checkpoint save_strategy save_total_limit logging_strategy "
        "report_to",
    }

    num_train_epochs: float = flag(default=20, help="Number of epochs.")
    per_device_train_batch_size: int = flag(default=64, help="Batch size per device.")
    learning_rate: float = flag(default=2e-3, help="Peak learning rate.")
    lr_scheduler_type: SchedulerType | str = flag(default="cosine", help="Learning rate schedule.")
    warmup_steps: float = flag(default=0.1, help="Warm-up: steps, or a share of them below 1.")
    weight_decay: float = flag(default=0.01, help="Weight decay.")
    eval_strategy: IntervalStrategy | str = flag(default="epoch", help="When to evaluate: no, epoch or steps.")
    save_strategy: SaveStrategy | str = flag(default="epoch", help="When to save a checkpoint: no, epoch or steps.")
    save_total_limit: int | None = flag(default=1, help="Checkpoints to keep.")
    logging_strategy: IntervalStrategy | str = flag(default="epoch", help="When to log: no, epoch or steps.")
    track_dynamics: bool = flag(default=False, help="Keep NLL, entropy and weight norm of each epoch in a file.")
    dynamics_gradient_epochs: list[int] = flag(default_factory=list, help="Track gradients as well, after these.")
    dynamics_every: int = flag(default=1, help="Epochs from one measurement of these to the next.")
    stopping_criteria: list[str] = flag(default_factory=list, help="Compare the best models by these: ece nll ...")

    def __post_init__(self) -> None:
        """Refuse a metric that no evaluation gives."""
        super().__post_init__()
        metric, known = (
            (self.metric_for_best_model or "loss").removeprefix("eval_"),
            [*ALL_METRICS, REFINEMENT, "loss"],
        )
        if metric not in known:
            near = suggestion(metric, known)
            raise ValueError(f"metric_for_best_model must be one of {', '.join(known)}, got {metric!r}.{near}")


@dataclass
class LabelledDataArguments:
    """Which data; a script may say what `dataset_name` is by default."""

    dataset_name: str = flag(help="A data set on the Hub, or a local folder.")
    dataset_config_name: str | None = flag(default=None, help="Configuration of the data set.")
    dataset_revision: str | None = flag(default=None, help="Revision of a data set on the Hub.")
    label_column_name: list[str] | None = flag(default=None, help="Column of labels, or all of 0 and 1 a label.")
    split_seed: int = flag(default=42, help="Seed of the splits, apart from --seed.")
    max_eval_samples: int | None = flag(default=None, help="Fit or validate, and test, on so many samples.")
    streaming: bool = flag(default=False, help="Read samples when they are needed, and download nothing first.")

    def pair_options(self) -> dict[str, Any]:
        """The argument of second texts, where it is given; only tasks of texts take one."""
        second = getattr(self, "text_pair_column_name", None)
        return {} if second is None else {"pair_column": second}

    def facts(self) -> dict[str, Any]:
        """Where the data are from, as [`finish_run`] wants to be told."""
        config, revision = self.dataset_config_name, self.dataset_revision
        return {"dataset_name": self.dataset_name, "dataset_config": config, "dataset_revision": revision}


@dataclass
class TrainDataArguments(LabelledDataArguments):
    """Which data, and how to split them."""

    holdout: float = flag(default=0.1, help="Share of the training data for each missing split.")
    validation_size: int | None = flag(default=None, help="Validate on so many, not on a share of them.")
    max_train_samples: int | None = flag(default=None, help="Train on so many random samples only.")
    class_names: list[str] | None = flag(default=None, help="With --streaming, classes that the data do not name.")

    def __post_init__(self) -> None:
        if self.class_names is not None and not self.streaming:
            raise ValueError("--class_names is for --streaming: otherwise the data tell which classes there are.")

    def load(self, load: Callable[..., DatasetDict], args: RunArguments, **options: Any) -> DatasetDict:
        """What `load`, such as [`load_text_dataset`], gives for these arguments, as small as they say."""
        options |= {"label_column": self.label_column_name, "revision": self.dataset_revision}
        options |= {"holdout": self.holdout, "validation_size": self.validation_size, "seed": self.split_seed}
        with args.main_process_first():
            dataset = load(self.dataset_name, self.dataset_config_name, **options)
        for split, data in dataset.items():
            limit = self.max_train_samples if split == "train" else self.max_eval_samples
            dataset[split] = take(data, limit, self.split_seed)
            if split != "train":  # known before training, and not only after it
                _refuse_masked_labels(dataset[split], split, args.masked_classes or ())
        return dataset


def _refuse_masked_labels(data: Dataset, split: str, masked: Sequence[str]) -> None:
    """Refuse labels of classes that are masked at evaluation, as far as the data name these."""
    for column, feature in data.features.items():
        names = list(getattr(getattr(feature, "feature", feature), "names", ()))
        if indices := [names.index(name) for name in masked if name in names]:
            refuse_masked(np.hstack([np.asarray(row) for row in data[column]]), indices, names, split)


def parse_arguments(
    dataclass_types: Sequence[type], arguments: Sequence[str] | None = None, **parser_kwargs: Any
) -> tuple[Any, ...]:
    """
    Parse flags into one object per dataclass. `--config file.yaml` (or `.json`) sets values that explicit flags
    override; `--plugin` imports Python files or modules first, see [`import_plugin`].

    Args:
        dataclass_types (`Sequence[type]`):
            Dataclasses, such as `CalibrationTrainingArguments`; every field is a flag.
        arguments (`Sequence[str]`, *optional*, defaults to `sys.argv[1:]`):
            The command line.
        parser_kwargs:
            As for `argparse.ArgumentParser`.

    Returns:
        `tuple`: One instance per dataclass.

    Raises:
        ValueError: If a flag is unknown, or its value does not parse; or if the file cannot be read, is no mapping, or
            has a key twice or one that no dataclass has.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    about = "YAML or JSON file of arguments; explicit flags override it."
    early.add_argument("--config", type=Path, nargs="?", const=Path(), action="append", default=[], help=about)
    about = "Python files or modules to import first: what they register works by name."
    early.add_argument("--plugin", nargs="+", action="extend", default=[], help=about)
    about = "This, and all of transformers.TrainingArguments."
    early.add_argument("--help_all", "--help-all", action="store_true", help=about)
    try:
        given, rest = early.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    # Abbreviations are off: `--learning_rat` in a job script should fail, not guess.
    parser = _FlagParser(list(dataclass_types), allow_abbrev=False, parents=[early], **parser_kwargs)
    if given.help_all:
        print(parser.format_help(everything=True), end="")
        sys.exit(0)
    if len(given.config) > 1:
        raise ValueError(f"--config is given {len(given.config)} times. Give one file.")
    config = given.config[0].expanduser() if given.config else None
    values = {} if config is None else read_config(config)
    plugins = values.pop("plugin", None) or []
    for name in [*([plugins] if isinstance(plugins, str) else plugins), *given.plugin]:
        import_plugin(str(name))
    kinds = {name: _kinds(hint) for cls in dataclass_types for name, hint in get_type_hints(cls).items()}
    fields = [field.name for cls in dataclass_types for field in dataclasses.fields(cls) if field.init]
    if unknown := [key for key in values if key not in fields]:
        near = suggestion(unknown[0], fields)
        raise ValueError(f"{config} has unknown keys: {', '.join(unknown)}. Keys are the names of flags.{near}")
    for key, value in values.items():
        try:
            parser.take(key, value, kinds[key])
        except (ValueError, argparse.ArgumentError) as error:
            raise ValueError(f"{config}: {error}") from error
    *parsed, _, unused = parser.parse_args_into_dataclasses(rest, True, look_for_args_file=False)
    if unused:
        what = f"There is no flag {unused[0]}." if unused[0].startswith("-") else f"{unused[0]!r} belongs to no flag."
        raise ValueError(what + (suggestion(unused[0], map("--{}".format, fields)) or " See --help."))
    return tuple(parsed)


def _kinds(hint: Any) -> set[Any]:
    """The types that a field may have, without those of elements."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return {get_origin(part) or part for part in parts}


def _groups(cls: Any) -> dict[str, list[str]]:
    """
    The fields that `--help` shows, by the title above them: what `help_groups` lists, then those of classes derived
    from the one that has it; of a class without it, all but those of [`TrainingArguments`].
    """
    groups = {title: names.split() for title, names in getattr(cls, "help_groups", {}).items()}
    stock = TrainingArguments if issubclass(cls, TrainingArguments) else None
    base = next((one for one in cls.__mro__ if "help_groups" in vars(one)), stock)
    known = {field.name for field in dataclasses.fields(base)} if base is not None else set()
    title = re.sub("(?<!^)(?=[A-Z])", " ", cls.__name__.removesuffix("Arguments") or "Arguments").lower()
    groups[title] = [field.name for field in dataclasses.fields(cls) if field.init and field.name not in known]
    return groups


class _FlagParser(Parser, HfArgumentParser):
    """A parser of dataclasses' flags, some of which a file may have set."""

    def __init__(self, dataclass_types: Any, **kwargs: Any) -> None:
        self._taken: dict[str, Any] = {}
        super().__init__(dataclass_types, **kwargs)

    def format_help(self, everything: bool = False) -> str:
        """What `--help` prints: our flags; with `everything`, and after them, those of [`TrainingArguments`]."""
        groups: dict[str, list[str]] = {}
        for cls in self.dataclass_types:
            for title, names in _groups(cls).items():
                groups.setdefault(title, []).extend(names)
        first: dict[str, argparse.Action] = {}
        for action in self._actions:
            first.setdefault(action.dest, action)  # the second is its opposite, as of --no_fold_temperature
        shown = {name for names in groups.values() for name in names}
        hidden = [field.name for cls in self.dataclass_types for field in dataclasses.fields(cls) if field.init]
        hidden = [name for name in hidden if name not in shown]
        groups["more"] = ["config", "plugin", "help", *["help_all"] * bool(hidden)]
        if everything:
            stock = {field.name for field in dataclasses.fields(TrainingArguments)}
            groups["others"] = [name for name in hidden if name not in stock]
            groups["of transformers.TrainingArguments"] = [name for name in hidden if name in stock]
        actions = {title: [first[name] for name in names] for title, names in groups.items()}
        return page(self, {title: group for title, group in actions.items() if group}, choices=everything)

    def take(self, key: str, value: Any, kinds: set[Any]) -> None:
        """Let what [`read_config`] gave for a flag, of these types, stand where the command line says nothing."""
        action = self._option_string_actions[f"--{key}"]
        if value is None and type(None) not in kinds:
            raise ValueError(f"{key} has no value. Leave the line out for the default.")
        if isinstance(value, (dict, list)) and type(value) not in kinds:
            raise ValueError(f"{key} takes a single value, got {value}.")
        if isinstance(value, list) and not all(isinstance(element, str) for element in value):
            raise ValueError(f"{key} takes a list of single values, got {value}.")
        texts = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        found = [self._get_value(action, text) for text in texts if text is not None]
        for one in found:
            self._check_value(action, one)
        many = isinstance(value, list) or found and action.nargs == "+"
        self._taken[action.dest] = found if many else next(iter(found), None)
        action.required = False

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """As usual, but a home folder may be called `~`, and a switch be on or off."""
        if action.type is string_to_bool:
            arg_string = {"on": "true", "off": "false"}.get(arg_string.lower(), arg_string)
        elif arg_string == "~" or arg_string.startswith("~/"):
            arg_string = os.path.expanduser(arg_string)
        return super()._get_value(action, arg_string)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As usual; what a file has set is there before."""
        return super().parse_known_args(args, namespace or argparse.Namespace(**self._taken))


def import_plugin(name: str) -> ModuleType:
    """Import a .py file, whose folder is put on `sys.path` so that worker processes find it, or a module by name."""
    path = Path(name).resolve()
    if path.suffix != ".py":
        try:
            return importlib.import_module(name.lstrip("."))  # a path without .py is no relative import
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name.lstrip('.')}.".startswith(f"{error.name}."):
                raise  # something that the plugin itself imports
            what = "there is no such module. Give a module's name, or a .py file."
            raise ValueError(f"--plugin {name}: {what}") from error
    if not path.is_file():
        raise ValueError(f"--plugin {name}: there is no such file.")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.find_spec(path.stem) if path.stem.isidentifier() else None
    if spec is None or Path(str(spec.origin)).resolve() != path:
        found = "is no name of a module" if spec is None else f"is that of another module, {spec.origin}"
        raise ValueError(f"--plugin {name}: {path.stem!r} {found}. Rename the file.")
    return importlib.import_module(path.stem)


def json_object(flag: str, value: str | dict[str, Any] | None) -> dict[str, Any] | None:
    """A flag's JSON object, parsed."""
    try:
        parsed = json.loads(value, object_pairs_hook=unique_keys) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"{flag} must be a JSON object, got {value!r}: {error}") from error
    if not isinstance(parsed, dict | None):
        raise ValueError(f"{flag} must be a JSON object, got {value!r}.")
    return parsed
