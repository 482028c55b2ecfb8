# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
r"""
Measure calibrated image classifiers on unfamiliar data, before and after calibration: how well they notice another
data set, how calibration holds out as images get worse, and what their confidence is worth.

  hf-focal ood --model_name_or_path outputs/model --dataset_name cifar10 \
      --ood_dataset_name ufldl-stanford/svhn --ood_config_name cropped_digits \
      --corruption gaussian_noise --selective

Several models are drawn side by side. With several GPUs: `accelerate launch -m hf_focal.cli.run_ood` and the same
flags.
"""

if __name__ == "__main__":  # before the imports: they take seconds, and --help needs none of them
    from hf_focal.cli.commands import start

    start("ood")


import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset

from ..checks import check_count
from ..metrics.promise import check_target
from ..metrics.risk_coverage import check_threshold
from ..results.folder import check_folder
from ..results.tables import fill
from ..robustness.corruptions import CORRUPTIONS, SEVERITIES, ImageCorruption
from ..robustness.study import Study, UncalibratedModel, measure, save, tables, titles_of
from ..tasks import ImageClassification
from ..tasks.embedded import DIGITS
from ..tasks.image import load_image_dataset, load_images
from ..tasks.splits import take
from .arguments import parse_arguments
from .run import start_logging
from .terminal import columns, show


logger = logging.getLogger(__name__)
UNSET = "none"


def _each_of_them(what: str, default: str) -> Any:
    return field(default_factory=list, metadata={"help": f"Their {what}, one for each; {UNSET!r} for {default}."})


@dataclass
class OodArguments:
    """Which models, on which data."""

    help_groups: ClassVar[dict[str, str]] = {
        "model": "model_name_or_path",
        "data": "dataset_name dataset_config_name split image_column_name label_column_name holdout split_seed "
        "max_samples",
        "unfamiliar data": "ood_dataset_name ood_config_name ood_split ood_image_column_name",
        "corrupted data": "corruption severities",
        "confidence": "selective threshold target_accuracy",
        "measurement": "per_device_eval_batch_size n_bins n_resamples seed",
        "output": "output_dir",
    }
    model_name_or_path: list[str] = field(metadata={"help": "Calibrated checkpoints: folders, or ids on the Hub."})
    output_dir: str = field(default="outputs/ood", metadata={"help": "Where tables and pictures go."})
    dataset_name: str = field(default=DIGITS, metadata={"help": "Familiar data with labels, as for run-image."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    split: str | None = field(default=None, metadata={"help": "Its split. Unset: the test split of run-image."})
    image_column_name: str | None = field(default=None, metadata={"help": "Column of images."})
    label_column_name: str | None = field(default=None, metadata={"help": "Column of labels."})
    holdout: float = field(default=0.1, metadata={"help": "As for run-image, where the test split is split off."})
    split_seed: int = field(default=42, metadata={"help": "Seed of the splits and of --max_samples."})
    ood_dataset_name: list[str] = field(default_factory=list, metadata={"help": "Unfamiliar data; labels or not."})
    ood_config_name: list[str] = _each_of_them("configurations", "the default")
    ood_image_column_name: list[str] = _each_of_them("columns of images", "the only one")
    ood_split: list[str] = _each_of_them("splits", "the test split")
    corruption: list[str] = field(default_factory=list, metadata={"help": f"Any of {', '.join(CORRUPTIONS)}."})
    severities: list[int] = field(default_factory=lambda: [*SEVERITIES], metadata={"help": "From 1 to 5."})
    selective: bool = field(default=False, metadata={"help": "Confident predictions and risk-coverage curves."})
    threshold: float = field(default=0.99, metadata={"help": "What --selective calls confident, in (0, 1]."})
    target_accuracy: float | None = field(
        default=None, metadata={"help": "From which confidence on --selective finds answers right so often."}
    )
    max_samples: int | None = field(default=None, metadata={"help": "So many random samples of each data set."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Batch size per device."})
    n_bins: int = field(default=15, metadata={"help": "Bins of ECE."})
    n_resamples: int = field(default=1000, metadata={"help": "Bootstrap resamples for the 90%% intervals."})
    seed: int = field(default=0, metadata={"help": "Seed of noise and bootstrap."})


def _load_ood_data(args: OodArguments) -> dict[str, Dataset]:
    count, columns = len(args.ood_dataset_name), dict[str, list[str | None]]()
    for flag in ("ood_config_name", "ood_image_column_name", "ood_split"):
        values = getattr(args, flag) or [UNSET] * count
        if len(values) != count:
            whose = f"for each of the {count} of --ood_dataset_name ({UNSET!r} to leave one out)"
            raise ValueError(f"--{flag} must name one {whose}, got {len(values)}.")
        columns[flag] = [None if value == UNSET else value for value in values]
    data = {}
    for name, config, column, split in zip(args.ood_dataset_name, *columns.values(), strict=True):
        title = Path(name).name if config is None else f"{Path(name).name} ({config})"
        if title in data:
            raise ValueError(f"Two of --ood_dataset_name are called {title!r}.")
        images = load_images(name, config, split=split, image_column=column)
        data[title] = take(images, args.max_samples, args.split_seed)
    return data


def _load_test_data(args: OodArguments) -> Dataset:
    source = (args.dataset_name, args.dataset_config_name)
    if args.split is not None:

        def choose(names: list[str]) -> list[str]:
            if args.split not in names:
                raise ValueError(f"--dataset_name {args.dataset_name} has no split {args.split!r}; it has {names}.")
            return [args.split]

        columns = args.image_column_name, args.label_column_name
        return ImageClassification().load(*source, *columns, choose=choose)[args.split]
    named: dict[str, Any] = {"image_column": args.image_column_name, "label_column": args.label_column_name}
    return load_image_dataset(*source, holdout=args.holdout, seed=args.split_seed, **named)["test"]


def _check(args: OodArguments) -> None:
    """What can be known to be wrong before anything is loaded."""
    if not (args.ood_dataset_name or args.corruption or args.selective):
        raise ValueError("Nothing to measure: give --ood_dataset_name, --corruption or --selective.")
    check_folder(args.output_dir)
    check_threshold(args.threshold)
    if args.target_accuracy is not None:
        check_target("target_accuracy", args.target_accuracy)
        if not args.selective:
            raise ValueError("--target_accuracy is for the table of --selective: give that as well.")
    check_count("n_bins", args.n_bins)
    check_count("n_resamples", args.n_resamples)
    np.random.SeedSequence(args.seed)  # refuses what is no seed
    for name in args.model_name_or_path:
        if args.model_name_or_path.count(name) > 1:
            raise ValueError(f"--model_name_or_path {name} is given twice.")


def main() -> None:
    """What the command does."""
    (args,) = parse_arguments([OodArguments], description=__doc__)
    start_logging()
    _check(args)
    names, severities = list(dict.fromkeys(args.corruption)), sorted(set(args.severities))
    corruptions = [ImageCorruption(name, severity, args.seed) for name in names for severity in severities]
    ood_data = _load_ood_data(args)
    test = take(_load_test_data(args), args.max_samples, args.split_seed)
    if ImageClassification().has_lists(test):
        raise ValueError(
            "--dataset_name has lists of labels: these scores are of a softmax, and of one label an image."
        )
    batch_size = args.per_device_eval_batch_size
    models = [UncalibratedModel(name, args.output_dir, batch_size) for name in args.model_name_or_path]
    labels = [model.labels(test["label"][:], ImageClassification().class_names(test)) for model in models]

    def predict(title: str, model: UncalibratedModel) -> Iterator[tuple[str | ImageCorruption, np.ndarray]]:
        for name, data in ood_data.items():
            logger.info("%s: %s", title, name)
            yield name, model.logits(data)
        for one in corruptions:
            logger.info("%s: %s of severity %d", title, one.name, one.severity)
            yield one, model.logits(test, one)

    # As in the paper, one panel for each other data set and one for each corruption at its worst.
    panels = [*ood_data, *(f"{name} {severities[-1]}" for name in names)]
    study = Study(args.dataset_name, len(test), args.seed, panels)
    options = {"n_bins": args.n_bins, "n_resamples": args.n_resamples, "seed": args.seed}
    options |= {"corruptions": names, "threshold": args.threshold if args.selective else None}
    options |= {"target_accuracy": args.target_accuracy}
    for title, model, classes in zip(titles_of(models), models, labels, strict=True):
        logger.info("%s: %s", title, args.dataset_name)
        logits, others = model.logits(test), predict(title, model)
        if model.is_main_process:
            about = {"model": model.name, "loss": model.loss, **options}
            study.models[title] = measure(logits, classes, others, model.calibrator, **about)
        for _ in others:  # where another process measures, this one helps to predict
            pass
    if study.models:  # else another process writes
        files = save(study, args.output_dir)
        saved = fill(f"Saved to {Path(args.output_dir)}: {', '.join(files)}", columns())
        show(f"\n{tables(study, columns())}\n\n{saved}")
