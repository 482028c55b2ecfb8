# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
What the scripts have in common: arguments as dataclasses, a YAML or JSON file whose values explicit flags override,
how a run begins and how it ends.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from transformers import HfArgumentParser, set_seed

from ..results.report import finish_run, prepare_output_dir
from ..tasks.splits import take
from ..training.arguments import CalibrationTrainingArguments
from ..training.best import KeepBestCallback, stopping_table
from ..training.dynamics import TrainingDynamicsCallback


if TYPE_CHECKING:
    from datasets import DatasetDict

    from ..training.trainer import CalibrationTrainer


logger = logging.getLogger(__name__)

AUTO = "auto"


@dataclass
class RunArguments(CalibrationTrainingArguments):
    """`CalibrationTrainingArguments` with the defaults of the scripts."""

    output_dir: str = field(
        default=AUTO, metadata={"help": "Where to save; 'auto' is outputs/<dataset>-<model>-<loss>."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace a run that is in the output folder."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Batch size per device."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Off: inputs are made by transforms."})
    dataloader_pin_memory: bool = field(
        default=torch.cuda.is_available(), metadata={"help": "Pin memory in data loaders."}
    )
    report_to: None | str | list[str] = field(default="none", metadata={"help": "Where to log, such as tensorboard."})


@dataclass
class TrainArguments(RunArguments):
    """`RunArguments` with defaults that suit small data sets."""

    num_train_epochs: float = field(default=20, metadata={"help": "Number of epochs."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Batch size per device."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Warm-up: steps, or a share of them below 1."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, epoch or steps."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint: no, epoch or steps."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep."})
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log: no, epoch or steps."})
    track_dynamics: bool = field(
        default=False,
        metadata={"help": "Keep NLL, entropy and weight norm per epoch in training_dynamics.parquet."},
    )
    dynamics_gradient_epochs: list[int] = field(
        default_factory=list, metadata={"help": "Track the dynamics, and gradients after these epochs too."}
    )
    dynamics_every: int = field(default=1, metadata={"help": "Epochs from one measurement of these to the next."})
    stopping_criteria: list[str] = field(
        default_factory=list,
        metadata={"help": "Keep and compare the best models by these validation metrics, such as: ece nll accuracy."},
    )


@dataclass
class LabelledDataArguments:
    """Which data; a script may say what `dataset_name` is by default."""

    dataset_name: str = field(metadata={"help": "A data set on the Hub, or a local folder."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Revision of a data set on the Hub."})
    label_column_name: str | None = field(default=None, metadata={"help": "Column of labels."})
    split_seed: int = field(default=42, metadata={"help": "Seed of the splits, apart from --seed."})
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Fit or validate, and test, on so many random samples only."}
    )


@dataclass
class TrainDataArguments(LabelledDataArguments):
    """Which data, and how to split them."""

    holdout: float = field(default=0.1, metadata={"help": "Share of the training data for each missing split."})
    validation_size: int | None = field(
        default=None, metadata={"help": "Training samples to validate on, by permutation, in place of the share."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on so many random samples only."})

    def load(self, load: Callable[..., DatasetDict], args: RunArguments, **options: Any) -> DatasetDict:
        """What `load`, such as [`load_text_dataset`], gives for these arguments, as small as they say."""
        with args.main_process_first():
            dataset = load(
                self.dataset_name,
                self.dataset_config_name,
                label_column=self.label_column_name,
                holdout=self.holdout,
                validation_size=self.validation_size,
                seed=self.split_seed,
                revision=self.dataset_revision,
                **options,
            )
        for split, data in dataset.items():
            limit = self.max_train_samples if split == "train" else self.max_eval_samples
            dataset[split] = take(data, limit, self.split_seed)
        return dataset


def start_run(args: RunArguments, *names: str) -> str | None:
    """
    Set up logging and the seed, and make sure that the output folder holds no other run, see [`prepare_output_dir`].

    Args:
        args ([`RunArguments`]):
            Whose `output_dir`, where it is `"auto"`, becomes a folder in `outputs`.
        names (`str`):
            What to call that folder by: data set, model, loss.

    Returns:
        `str` or `None`: The checkpoint to resume from.

    Raises:
        ValueError: As [`prepare_output_dir`].
    """
    start_logging(logging.INFO if args.should_log else logging.ERROR)
    if args.output_dir == AUTO:
        args.output_dir = str(Path("outputs", "-".join(Path(name).name for name in names)))
    checkpoint = prepare_output_dir(args, args.overwrite)
    set_seed(args.seed)
    return checkpoint


def start_logging(level: int = logging.INFO) -> None:
    """Messages of ours go to the standard output, of libraries only warnings."""
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
    for library in ("httpx", "httpx2", "accelerate", "datasets"):
        logging.getLogger(library).setLevel(logging.WARNING)


def train_run(
    trainer: CalibrationTrainer,
    test: Any,
    *,
    name: str,
    task: str,
    data_args: TrainDataArguments,
    checkpoint: str | None,
    from_scratch: bool,
    plain_train: Any,
    merge: bool = False,
) -> None:
    """
    Train, with what [`TrainArguments`] asks to be measured and kept on the way, then [`end_run`].

    Args:
        trainer ([`CalibrationTrainer`]):
            With its training and validation data.
        test (`Dataset`):
            What to measure on.
        name, task (`str`):
            Of the model, and its pipeline task.
        data_args ([`TrainDataArguments`]):
            Where the data are from.
        checkpoint (`str`, *optional*):
            What [`start_run`] returned.
        from_scratch (`bool`):
            Whether the weights were random.
        plain_train (`Dataset`):
            Training data to measure the dynamics on, without augmentation.
        merge (`bool`, *optional*, defaults to `False`):
            Merge an adapter of PEFT into the model after training, so that what is saved is an ordinary checkpoint.
    """
    args: Any = trainer.args
    train: Any = trainer.train_dataset
    validation: Any = trainer.eval_dataset
    if args.track_dynamics or args.dynamics_gradient_epochs:
        options = {"every": args.dynamics_every, "gradient_epochs": args.dynamics_gradient_epochs}
        measured = {"train": plain_train, "test": test}
        trainer.add_callback(TrainingDynamicsCallback(trainer, measured, **options, n_bins=args.n_bins))
    best = KeepBestCallback(trainer, args.stopping_criteria) if args.stopping_criteria else None
    if best is not None:
        trainer.add_callback(best)
    logger.info("Training %s with %r in %d process(es)", name, trainer.loss, args.world_size)
    logger.info("Output in %s", args.output_dir)
    logger.info("Training on %d samples, validating on %d, testing on %d", len(train), len(validation), len(test))
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    results: dict[str, Any] = {"dataset": data_args.dataset_name, "model": name, "loss": trainer.loss_name}
    results |= {"loss_parameters": args.loss_parameters(), "seed": args.seed, **metrics}
    if best is not None:
        results["stopping_criteria"] = best.compare(validation, test)
        if trainer.is_world_process_zero():
            print(f"\n{stopping_table(results['stopping_criteria'])}")
    if merge:
        trainer.model = trainer.model_wrapped = trainer.model.merge_and_unload()
    end_run(
        trainer,
        validation,
        test,
        dataset_name=data_args.dataset_name,
        task=task,
        results=results,
        base_model=None if from_scratch or Path(name).exists() else name,
        dataset_config=data_args.dataset_config_name,
        dataset_revision=data_args.dataset_revision,
    )


def end_run(trainer: CalibrationTrainer, validation: Any, test: Any, **facts: Any) -> None:
    """Call [`finish_run`] with `facts` as keyword arguments, print its table, and push where that was asked for."""
    report = finish_run(trainer, validation, test, **facts)
    if trainer.is_world_process_zero():
        print(f"\n{report}\nSaved to {trainer.args.output_dir}")
    if trainer.args.push_to_hub:
        pushed = trainer.push_to_hub()
        if trainer.is_world_process_zero():
            print(f"Pushed to {pushed.commit_url}")


def parse_arguments(
    dataclass_types: Sequence[type], arguments: Sequence[str] | None = None, **parser_kwargs: Any
) -> tuple[Any, ...]:
    """
    Parse flags into one object per dataclass. `--config file.yaml` (or `.json`) sets values that explicit flags
    override; what neither names keeps its default.

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
    # Abbreviations are off: `--learning_rat` in a job script should fail, not guess.
    types: Any = list(dataclass_types)
    parser = HfArgumentParser(types, allow_abbrev=False, **parser_kwargs)
    parser.add_argument("--config", help="YAML or JSON file of arguments; explicit flags override it.")
    config, rest = _split_config(arguments)
    fields = {field.name: field for cls in dataclass_types for field in dataclasses.fields(cls) if field.init}
    tokens = [] if config is None else _tokens(config, fields)
    # Of a flag given twice argparse keeps the last, so the file's come first.
    *parsed, _ = parser.parse_args_into_dataclasses([*tokens, *rest], look_for_args_file=False)
    return tuple(parsed)


def json_object(flag: str, value: str | dict[str, Any] | None) -> dict[str, Any] | None:
    """A flag's JSON object, parsed."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError as error:
        raise ValueError(f"{flag} must be a JSON object, got {value!r}: {error}") from error
    if not isinstance(parsed, dict | None):
        raise ValueError(f"{flag} must be a JSON object, got {value!r}.")
    return parsed


def _split_config(arguments: list[str]) -> tuple[Path | None, list[str]]:
    config, rest, waiting = None, [], False
    for argument in arguments:
        if waiting:
            config, waiting = Path(argument), False
        elif argument == "--config":
            waiting = True
        elif argument.startswith("--config="):
            config = Path(argument.removeprefix("--config="))
        else:
            rest.append(argument)
    if waiting:
        raise ValueError("--config needs the path of a YAML or JSON file.")
    return config, rest


def _tokens(path: Path, fields: dict[str, dataclasses.Field]) -> list[str]:
    """The file as command-line tokens, so that one parser checks every value."""
    if not path.is_file():
        raise ValueError(f"--config names {path}, which is no file.")
    text = path.read_text(encoding="utf-8")
    try:
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not valid {'JSON' if path.suffix == '.json' else 'YAML'}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of argument names to values, got {type(values).__name__}.")
    unknown = [str(key) for key in values if key not in fields]
    if unknown:
        raise ValueError(f"{path} has unknown keys: {', '.join(unknown)}. Keys are the names of flags.")
    tokens = []
    for key, value in values.items():
        if isinstance(value, list):
            tokens += [f"--{key}", *map(str, value)]
        elif value is not None:
            tokens.append(f"--{key}={json.dumps(value) if isinstance(value, dict) else value}")
    return tokens
