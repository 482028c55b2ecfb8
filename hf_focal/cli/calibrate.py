# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
r"""
Calibrate a classifier that you have, of images, texts, the words of texts or sounds, or of a task of yours, without
training: fit a temperature, or another map, on held-out data, measure what it does on other data, and save (and push)
a checkpoint whose plain softmax is calibrated.

  hf-focal calibrate --model_name_or_path user/model --dataset_name user/data
  hf-focal calibrate --model_name_or_path path/to/model \
      --dataset_name path/to/data --split test --calibrator auto

With several GPUs: `accelerate launch -m hf_focal.cli.calibrate` and the same flags.

The temperature is that of smallest NLL, and it is taken only where these data show that it helps; else it stays 1, and
the model's card says why (`--temperature_guard false` takes it all the same). `--criterion ece` takes the one of
smallest ECE instead, as papers do, whether or not it helps.

`--calibrator auto` lets the held-out data choose among none, a temperature, a factor and a shift of each class
(`vector`), and, for at most 100 classes, a whole matrix (`matrix`): by the NLL of samples that the fit has not seen,
the simpler one where they do not differ, and none that costs accuracy. Whatever is fitted, the report says what it
gained on the NLL of the other data, and whether `--calibrator auto` would lower it further.

`--target_accuracy 0.95` finds the confidence from which on answers are right at least 95% of the time, with 90%
certainty, on the data of the fit, and says what it keeps of the other data; or that these data promise none.
"""

if __name__ == "__main__":  # before the imports: they take seconds, and --help needs none of them
    from hf_focal.cli.commands import start

    start("calibrate")


import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..hub.load import from_pretrained, load_processor
from ..models.sigmoid import is_sigmoid
from ..tasks import ImageClassification, task_of
from ..tasks.base import get_task
from ..tasks.multi_label import multi_hot
from ..tasks.pairs import pair_for
from ..tasks.splits import chosen_pair, held_out_pair, take
from ..tasks.streaming import held_out_streams
from ..training.trainer import CalibrationTrainer
from .arguments import LabelledDataArguments, RunArguments, flag, parse_arguments
from .run import count, end_run, measure_alone, start_run, use_workers
from .streaming import MANY, encoded_parts


logger = logging.getLogger(__name__)


@dataclass
class ModelArguments:
    """Which classifier."""

    model_name_or_path: str = flag(help="A checkpoint on the Hub, or a local folder.")
    model_revision: str | None = flag(default=None, help="Branch, tag or commit on the Hub.")
    task: str | None = flag(default=None, help="A name in `hf_focal.TASKS`. Unset: what the model's config says.")
    max_seq_length: int | None = flag(default=None, help="Cut texts to so many tokens. Unset: what the model takes.")
    candidate_labels: list[str] | None = flag(
        default=None, help="The labels that a zero-shot model chooses from. Unset: the classes of the data."
    )
    hypothesis_template: str | None = flag(
        default=None, help="What makes texts of these, such as 'a photo of a {}'. Unset: 'This is a photo of {}.'"
    )


@dataclass
class DataArguments(LabelledDataArguments):
    """Which data; the model must not have been trained on them."""

    split: str | None = flag(default=None, help="Fit the calibrator on this split. Unset: validation, or else test.")
    test_split: str | None = flag(default=None, help="Measure on this split. Unset: test, or else half of the other.")
    input_column_name: str | None = flag(default=None, help="Column of inputs, of any task.")
    image_column_name: str | None = flag(default=None, help="Column of images.")
    text_column_name: str | None = flag(default=None, help="Column of texts, or of lists of words.")
    text_pair_column_name: str | None = flag(default=None, help="Column of the second text of each pair.")


def main() -> None:
    """What the command does."""
    model_args, data_args, args = parse_arguments([ModelArguments, DataArguments, RunArguments], description=__doc__)
    name = model_args.model_name_or_path
    start_run(args, data_args.dataset_name, name, "calibrated")

    streaming = data_args.streaming
    with args.main_process_first():
        model = from_pretrained(name, task=model_args.task, revision=model_args.model_revision)
        task: Any = get_task(model_args.task) if model_args.task else task_of(model)
        processor = load_processor(name, task.name, model, revision=model_args.model_revision)
        columns = data_args.input_column_name or getattr(data_args, task.column_flag), data_args.label_column_name
        source = data_args.dataset_name, data_args.dataset_config_name, *columns, data_args.dataset_revision
        wanted = {"split": data_args.split, "test_split": data_args.test_split}
        second = data_args.pair_options()
        parts: dict[str, Any]
        if streaming:
            parts = {**held_out_streams(task, *source, **wanted, **second)}
        else:
            splits = task.load(*source, partial(chosen_pair, **wanted), **second)
    if not streaming:
        parts = {**held_out_pair(splits, **wanted, seed=data_args.split_seed)}
        parts = {split: take(data, data_args.max_eval_samples, data_args.split_seed) for split, data in parts.items()}
    first = next(iter(parts.values()))
    known = first.class_names if streaming else task.class_names(first)
    choice = model_args.candidate_labels, model_args.hypothesis_template
    names = task.class_names_for(model, processor, known, *choice)
    sigmoid = is_sigmoid(model.config)
    task.prepare(model, processor, model_args.max_seq_length)
    measure_alone(args, task, model, processor)
    pair = pair_for(model, processor, next(iter(parts.values())))
    images = isinstance(task, ImageClassification)
    if streaming:
        use_workers(args, MANY if images else 0)
        samples = {split: data.for_model(names, sigmoid) for split, data in parts.items()}
        inputs: list[Any] = [*encoded_parts(samples, task, processor, args, data_args).values()]
    else:
        matched = (task.match_classes(data, names, sigmoid) for data in parts.values())
        ready = (multi_hot(data, task.label.name) if task.has_lists(data) else data for data in matched)
        inputs = [task.encode(data, processor) for data in ready]
        use_workers(args, max(map(len, inputs)) if images else 0)

    collator = task.collator(processor)
    trainer = CalibrationTrainer(model=model, args=args, data_collator=collator, processing_class=processor)
    logger.info("Calibrating %s in %d process(es)", name, args.world_size)
    sizes = [f"{count(data)} of {split!r}" for split, data in parts.items()]
    logger.info("Fitting on %s, measuring on %s", *sizes)
    used = dict(zip(("split", "test_split"), parts, strict=True))
    facts = {"base_model": None if Path(name).exists() else name, "pair": pair, **used, **data_args.facts()}
    results = {"dataset": data_args.dataset_name, "model": name, **used}
    end_run(trainer, *inputs, task=task.name, results=results, **facts)
