# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The arguments of the scripts: dataclasses, a file whose values explicit flags override, and plugins."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from datasets import DatasetDict
from transformers import HfArgumentParser
from transformers.hf_argparser import HfArg

from ..tasks.splits import take
from ..training.arguments import CalibrationTrainingArguments


AUTO = "auto"
flag: Any = HfArg  # which says that it returns a field, where a class has its default


@dataclass
class RunArguments(CalibrationTrainingArguments):
    """`CalibrationTrainingArguments` with the defaults of the scripts."""

    output_dir: str = flag(default=AUTO, help="Where to save; 'auto' is outputs/<dataset>-<model>-<loss>.")
    overwrite: bool = flag(default=False, help="Replace a run that is in the output folder, at the end.")
    per_device_eval_batch_size: int = flag(default=128, help="Batch size per device.")
    remove_unused_columns: bool = flag(default=False, help="Off: inputs are made by transforms.")
    dataloader_pin_memory: bool = flag(default=torch.cuda.is_available(), help="Pin memory in data loaders.")
    report_to: None | str | list[str] = flag(default="none", help="Where to log, such as tensorboard.")


@dataclass
class TrainArguments(RunArguments):
    """`RunArguments` with defaults that suit small data sets."""

    num_train_epochs: float = flag(default=20, help="Number of epochs.")
    per_device_train_batch_size: int = flag(default=64, help="Batch size per device.")
    learning_rate: float = flag(default=2e-3, help="Peak learning rate.")
    lr_scheduler_type: str = flag(default="cosine", help="Learning rate schedule.")
    warmup_steps: float = flag(default=0.1, help="Warm-up: steps, or a share of them below 1.")
    weight_decay: float = flag(default=0.01, help="Weight decay.")
    eval_strategy: str = flag(default="epoch", help="When to evaluate: no, epoch or steps.")
    save_strategy: str = flag(default="epoch", help="When to save a checkpoint: no, epoch or steps.")
    save_total_limit: int | None = flag(default=1, help="Checkpoints to keep.")
    logging_strategy: str = flag(default="epoch", help="When to log: no, epoch or steps.")
    track_dynamics: bool = flag(default=False, help="Keep NLL, entropy and weight norm of each epoch in a file.")
    dynamics_gradient_epochs: list[int] = flag(default_factory=list, help="Track gradients as well, after these.")
    dynamics_every: int = flag(default=1, help="Epochs from one measurement of these to the next.")
    stopping_criteria: list[str] = flag(default_factory=list, help="Compare the best models by these: ece nll ...")


@dataclass
class LabelledDataArguments:
    """Which data; a script may say what `dataset_name` is by default."""

    dataset_name: str = flag(help="A data set on the Hub, or a local folder.")
    dataset_config_name: str | None = flag(default=None, help="Configuration of the data set.")
    dataset_revision: str | None = flag(default=None, help="Revision of a data set on the Hub.")
    label_column_name: str | None = flag(default=None, help="Column of labels.")
    split_seed: int = flag(default=42, help="Seed of the splits, apart from --seed.")
    max_eval_samples: int | None = flag(default=None, help="Fit or validate, and test, on so many samples only.")

    def facts(self) -> dict[str, Any]:
        """Where the data are from, as [`finish_run`] wants to be told."""
        config, revision = self.dataset_config_name, self.dataset_revision
        return {"dataset_name": self.dataset_name, "dataset_config": config, "dataset_revision": revision}


@dataclass
class TrainDataArguments(LabelledDataArguments):
    """Which data, and how to split them."""

    holdout: float = flag(default=0.1, help="Share of the training data for each missing split.")
    validation_size: int | None = flag(default=None, help="So many to validate on, by permutation, not the share.")
    max_train_samples: int | None = flag(default=None, help="Train on so many random samples only.")

    def load(self, load: Callable[..., DatasetDict], args: RunArguments, **options: Any) -> DatasetDict:
        """What `load`, such as [`load_text_dataset`], gives for these arguments, as small as they say."""
        options |= {"label_column": self.label_column_name, "revision": self.dataset_revision}
        options |= {"holdout": self.holdout, "validation_size": self.validation_size, "seed": self.split_seed}
        with args.main_process_first():
            dataset = load(self.dataset_name, self.dataset_config_name, **options)
        for split, data in dataset.items():
            limit = self.max_train_samples if split == "train" else self.max_eval_samples
            dataset[split] = take(data, limit, self.split_seed)
        return dataset


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
        ValueError: If the file cannot be read, is no mapping, or has a key that no dataclass has.
        SystemExit: If a flag is unknown or its value does not parse, as usual for argparse.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    about = "YAML or JSON file of arguments; explicit flags override it."
    early.add_argument("--config", type=Path, nargs="?", const=Path(), help=about)
    about = "Python files or modules to import first: what they register works by name."
    early.add_argument("--plugin", nargs="+", action="extend", default=[], help=about)
    given, rest = early.parse_known_args(arguments)
    values = {} if given.config is None else _read(given.config)
    plugins = values.pop("plugin", None) or []
    for name in [*([plugins] if isinstance(plugins, str) else plugins), *given.plugin]:
        import_plugin(str(name))
    # Abbreviations are off: `--learning_rat` in a job script should fail, not guess.
    types: Any = list(dataclass_types)
    parser = HfArgumentParser(types, allow_abbrev=False, parents=[early], **parser_kwargs)
    fields = {field.name for cls in dataclass_types for field in dataclasses.fields(cls) if field.init}
    if unknown := [str(key) for key in values if key not in fields]:
        raise ValueError(f"{given.config} has unknown keys: {', '.join(unknown)}. Keys are the names of flags.")
    # Of a flag given twice argparse keeps the last, so the file's come first.
    *parsed, _ = parser.parse_args_into_dataclasses([*_tokens(values), *rest], look_for_args_file=False)
    return tuple(parsed)


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
        parsed = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError as error:
        raise ValueError(f"{flag} must be a JSON object, got {value!r}: {error}") from error
    if not isinstance(parsed, dict | None):
        raise ValueError(f"{flag} must be a JSON object, got {value!r}.")
    return parsed


def _read(path: Path) -> dict[str, Any]:
    """The values of a YAML or JSON file, by the names of flags."""
    if not path.is_file():
        raise ValueError(f"--config needs the path of a file; {str(path)!r} is no file.")
    kind, load = ("JSON", json.loads) if path.suffix == ".json" else ("YAML", yaml.safe_load)
    try:
        values = load(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not valid {kind}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of argument names to values, got {type(values).__name__}.")
    return values


def _tokens(values: dict[str, Any]) -> list[str]:
    """Values as command-line tokens, so that one parser checks every one."""
    tokens = []
    for key, value in values.items():
        if isinstance(value, list):
            tokens += [f"--{key}", *map(str, value)]
        elif value is not None:
            tokens.append(f"--{key}={json.dumps(value) if isinstance(value, dict) else value}")
    return tokens
