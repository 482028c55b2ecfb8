# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What `--streaming` asks of the other flags, and the inputs that it makes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ..tasks.encoded_stream import EncodedStream
from ..tasks.streaming import Samples, training_streams
from .arguments import LabelledDataArguments, RunArguments, TrainArguments, TrainDataArguments


logger = logging.getLogger(__name__)

MANY = 1 << 62  # samples of a stream, which nobody has counted
NO_LENGTH = "a stream has no length"
NO_ORDER = "samples of a stream cannot be drawn at random"


def refuse(flags: Mapping[str, str], *arguments: Any) -> None:
    """Refuse flags that were set, each for its reason, beside `--streaming`."""
    for flag, why in flags.items():
        if any(getattr(one, flag, None) for one in arguments):
            raise ValueError(f"--streaming cannot go with --{flag}: {why}.")


def check_training(args: TrainArguments, data_args: TrainDataArguments) -> None:
    """Refuse what cannot be done when training data are streamed."""
    if args.max_steps < 1:
        raise ValueError(
            f"--streaming needs --max_steps: {NO_LENGTH}, so that the steps of an epoch cannot be counted. For so "
            "many epochs of a known number of samples these are epochs * samples / batch size."
        )
    measured = f"it measures samples of the training data again, and {NO_ORDER}"
    flags = {
        "max_train_samples": f"{NO_ORDER}; --max_steps says how much is trained on",
        "validation_size": f"{NO_ORDER}, and none can be split off",
        "lr_milestones": f"they are epochs, and {NO_LENGTH}",
        "track_dynamics": measured,
        "dynamics_gradient_epochs": measured,
        "check_images": "images are read one after the other, and one that cannot be read is named when it is met",
    }
    refuse(flags, args, data_args)


def load_training_streams(task: Any, data_args: TrainDataArguments, input_column: str | None) -> dict[str, Samples]:
    """The splits to train, validate and test on; nothing of them is read but the first rows."""
    columns = input_column, data_args.label_column_name, data_args.dataset_revision
    source = data_args.dataset_name, data_args.dataset_config_name
    options = {"class_names": data_args.class_names, **data_args.pair_options()}
    return training_streams(task, *source, *columns, **options)


def threads_of(args: RunArguments, task: Any) -> int:
    """
    How many threads encode, as many as workers were asked for; and the workers that a data loader is to have instead.
    One of them reads. Inputs that differ in length cannot be dealt out by one process to the others: each reads then.
    """
    workers = args.dataloader_num_workers or 0
    args.dataloader_num_workers = min(1, workers)
    config: Any = args.accelerator_config
    if args.world_size > 1 and task.processor != "image_processor" and config.dispatch_batches is None:
        config.dispatch_batches, args.dataloader_num_workers = False, 0
    return max(1, workers)


def encoded_parts(
    parts: Mapping[str, Samples], task: Any, processor: Any, args: RunArguments, data_args: LabelledDataArguments,
    train: Callable[..., dict[str, Any]] | None = None, skip_unreadable: bool = False,
) -> dict[str, EncodedStream]:  # fmt: skip
    """The inputs of each part; those of the part `train` are shuffled, and encoded by the argument `train`."""
    encode = task.sample_encoder(processor)
    options: dict[str, Any] = {"threads": threads_of(args, task), "skip_unreadable": skip_unreadable}
    inputs = {}
    for name, samples in parts.items():
        if name == "train" and train is not None:
            inputs[name] = EncodedStream(samples, train, seed=args.seed, **options)
            continue
        take = data_args.max_eval_samples
        seed = None if take is None else data_args.split_seed
        inputs[name] = EncodedStream(samples, encode, seed=seed, take=take, **options)
    return inputs


def start_anew(args: RunArguments, train: EncodedStream, checkpoint: str | None) -> None:
    """Let a run that is resumed go on with the stream from its start, in another order: it cannot be wound forward."""
    if checkpoint is not None:
        logger.warning("Resumed training goes through the stream from its start, in another order.")
        args.ignore_data_skip = True
        train.seed = args.seed + 1 + int(checkpoint.rpartition("-")[2]) if checkpoint[-1:].isdigit() else args.seed + 1
