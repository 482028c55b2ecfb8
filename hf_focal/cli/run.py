# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""How a run of a script begins, trains and ends."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from ..progress import no_bars
from ..results.folder import home_of, prepare_output_dir, refuse_own_input
from ..tasks import Task
from ..tasks.streaming import Samples
from ..training.best import KeepBestCallback, stopping_table
from ..training.dynamics import TrainingDynamicsCallback
from ..training.finish import finish_run
from ..training.trainer import CalibrationTrainer
from .arguments import AUTO, RunArguments, TrainDataArguments
from .log_lines import use_log_lines
from .terminal import columns, show


logger = logging.getLogger(__name__)
_WORTH_WORKERS = 1000  # images, which take longer to decode than processes to start


def start_run(args: RunArguments, data: str, model: str, *names: str) -> str | None:
    """
    Set up logging, seed and output folder (`"auto"` is one called by data, model and names); the checkpoint to resume
    from.
    """
    if args.disable_tqdm:
        no_bars()
    start_logging(logging.INFO if args.should_log else logging.ERROR)
    if args.n_gpu == 1 == args.world_size and (found := torch.cuda.device_count()) > 1:
        program = Path(sys.argv[0])
        module = f"-m hf_focal {program.name.split()[-1]}" if " " in program.name else str(program)
        logger.warning("Using one of %d GPUs: accelerate launch %s uses all of them.", found, module)
    if args.output_dir == AUTO:
        args.output_dir = str(Path("outputs", "-".join(Path(name).name for name in (data, model, *names))))
    if args.resume_from_checkpoint is None:
        refuse_own_input(args.output_dir, model)
    checkpoint = prepare_output_dir(args, args.overwrite)
    set_seed(args.seed)
    return checkpoint


def start_logging(level: int = logging.INFO) -> None:
    """Messages of ours go to the standard output, of libraries only warnings."""
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
    for library in ("httpx", "httpx2", "accelerate", "datasets"):
        logging.getLogger(library).setLevel(logging.WARNING)


def use_workers(args: RunArguments, decoded: int) -> None:
    """Let as many processes read data as pay, where nobody said how many; `decoded` images are, in every epoch."""
    if args.workers_chosen or decoded < _WORTH_WORKERS:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of this machine
    # A GPU leaves all cores but one idle; on a CPU the model wants them as well.
    args.dataloader_num_workers = min(8, cores // 2 if args.device.type == "cpu" else max(1, cores - 1))
    logger.info("Processes that decode images: %d (--dataloader_num_workers).", args.dataloader_num_workers or 1)


def measure_alone(args: RunArguments, task: Any, model: Any, processor: Any) -> None:
    """Let batches of evaluation hold one sample each where samples of a batch change one another's logits."""
    if args.per_device_eval_batch_size > 1 and task.alone(model, processor):
        args.per_device_eval_batch_size = 1
        logger.info(
            "Samples are measured one by one (--per_device_eval_batch_size 1), as they are served: this model answers "
            "otherwise for a sample that is padded beside longer ones."
        )


def outputs_of(task: Task, parts: Any, names: Sequence[str], one_logit: bool) -> tuple[Any, list[str], bool]:
    """
    Splits, streamed or not, the names of what a model is to tell, and whether each of them gets a probability of its
    own: of samples of several labels, or with `one_logit`, which stands for the second of two classes.
    """
    train = parts["train"]
    several = train.several if isinstance(train, Samples) else task.has_lists(train)
    if not one_logit:
        return parts, list(names), several
    if several or len(names) != 2:
        found = "lists of labels" if several else f"{len(names)} classes"
        raise ValueError(f"--one_logit tells one of two classes from the other, and the data have {found}.")
    label = [names[1]]
    made = {}
    for split, part in parts.items():
        stream = isinstance(part, Samples)
        made[split] = part.for_model(label, sigmoid=True) if stream else task.match_classes(part, label, sigmoid=True)
    return made, label, True


@contextmanager
def telling_how_to_go_on() -> Iterator[None]:
    """Let an interruption by the keyboard say how the run is resumed."""
    try:
        yield
    except KeyboardInterrupt as stop:
        what = (
            "The same command with --resume_from_checkpoint last goes on from the newest checkpoint, if there is one."
        )
        raise KeyboardInterrupt(what) from stop


@telling_how_to_go_on()
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
    pair: tuple[str, str] | None = None,
) -> None:
    """
    Train the model `name` with what [`TrainArguments`] asks to be measured and kept, then [`end_run`]. `checkpoint` is
    what [`start_run`] returned, `plain_train` training data without augmentation to measure the dynamics on; `merge`
    merges an adapter of PEFT into the model, so that what is saved is an ordinary checkpoint; `pair` is
    that of [`finish_run`].
    """
    args: Any = trainer.args
    train: Any = trainer.train_dataset
    validation: Any = trainer.eval_dataset
    if args.track_dynamics or args.dynamics_gradient_epochs:
        options = {"every": args.dynamics_every, "gradient_epochs": args.dynamics_gradient_epochs}
        measured = {"train": plain_train, "test": test}
        trainer.add_callback(TrainingDynamicsCallback(trainer, measured, **options, n_bins=args.n_bins))
    if args.stopping_criteria:
        best = KeepBestCallback(trainer, args.stopping_criteria)
        trainer.add_callback(best)
    logger.info("Training %s with %r in %d process(es)", name, trainer.loss, args.world_size)
    logger.info("Output in %s", home_of(args.output_dir))
    logger.info("Training on %s, validating on %s, testing on %s", *map(count, (train, validation, test)))
    use_log_lines(trainer)
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    results: dict[str, Any] = {"dataset": data_args.dataset_name, "model": name, "seed": args.seed, **metrics}
    if args.stopping_criteria:
        results["stopping_criteria"] = best.compare(validation, test)
        if trainer.is_world_process_zero():
            show(f"\n{stopping_table(results['stopping_criteria'], short=True)}")
    if merge:
        trainer.model = trainer.model_wrapped = trainer.model.merge_and_unload()
    base_model = None if from_scratch or Path(name).exists() else name
    facts = {"base_model": base_model, "pair": pair, **data_args.facts()}
    end_run(trainer, validation, test, task=task, results=results, **facts)


def count(data: Any) -> str:
    """How many samples there are, in words."""
    return f"{len(data)} samples" if hasattr(data, "__len__") else "a stream"


def end_run(trainer: CalibrationTrainer, validation: Any, test: Any, **facts: Any) -> None:
    """Call [`finish_run`] with `facts` as keyword arguments, print what it found, and push if that was asked for."""
    report = finish_run(trainer, validation, test, **facts)
    if trainer.is_world_process_zero():
        show(f"\n{report.text(columns())}\n\nSaved to {trainer.args.output_dir}")
    if trainer.args.push_to_hub:
        pushed = trainer.push_to_hub()
        if trainer.is_world_process_zero():
            print(f"Pushed to {pushed.commit_url}")
