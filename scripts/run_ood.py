# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Measure calibrated image classifiers on unfamiliar data, before and after their temperature: how well they notice
another data set, how calibration holds out as images get worse, and what their confidence is worth.

    accelerate launch scripts/run_ood.py --model_name_or_path outputs/model --dataset_name cifar10 \
        --ood_dataset_name ufldl-stanford/svhn --ood_config_name cropped_digits --corruption gaussian_noise --selective

Several models are drawn side by side. `--config file.yaml` sets many flags at once.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torchvision.transforms import Compose
from transformers import Trainer, TrainingArguments

from hf_focal import (
    Affine,
    ImageCorruption,
    ImageTransform,
    calibration_metrics_from_logits,
    calibrator_of,
    confident_predictions,
    focal_recalibration,
    from_pretrained,
    load_image_dataset,
    load_images,
    ood_detection,
    ood_scores,
    parse_arguments,
    risk_coverage_curve,
    risk_coverage_diagram,
    roc_diagram,
    severity_diagram,
)
from hf_focal.checks import check_count
from hf_focal.cli.run import start_logging
from hf_focal.hub.load import load_processor
from hf_focal.metrics.intervals import metric_intervals
from hf_focal.metrics.risk_coverage import check_threshold
from hf_focal.models.record import calibration_record
from hf_focal.robustness.corruptions import CORRUPTIONS, SEVERITIES
from hf_focal.tasks.load import DIGITS, load_labelled, match_labels, take


logger = logging.getLogger("run_ood")
RESULTS = "ood_results.json"
TABLES = "ood_results.txt"
UNSET = "none"


@dataclass
class OodArguments:
    """Which models, on which data."""

    model_name_or_path: list[str] = field(metadata={"help": "Calibrated checkpoints: folders, or ids on the Hub."})
    output_dir: str = field(default="outputs/ood", metadata={"help": "Where tables and pictures go."})
    dataset_name: str = field(
        default=DIGITS, metadata={"help": "In-distribution data with labels, as for run_image.py."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    split: str | None = field(
        default=None, metadata={"help": "Its split. Unset: the test split that run_image.py would take."}
    )
    image_column_name: str | None = field(default=None, metadata={"help": "Column of images."})
    label_column_name: str | None = field(default=None, metadata={"help": "Column of labels."})
    holdout: float = field(default=0.1, metadata={"help": "As for run_image.py, where the test split is split off."})
    split_seed: int = field(default=42, metadata={"help": "Seed of the splits and of --max_samples."})
    ood_dataset_name: list[str] = field(
        default_factory=list, metadata={"help": "Out-of-distribution data; labels are not needed."}
    )
    ood_config_name: list[str] = field(
        default_factory=list, metadata={"help": f"Their configurations, one for each; {UNSET!r} for the default."}
    )
    ood_image_column_name: list[str] = field(
        default_factory=list, metadata={"help": f"Their columns of images, one for each; {UNSET!r} for the only one."}
    )
    ood_split: list[str] = field(
        default_factory=list, metadata={"help": f"Their splits, one for each; {UNSET!r} for the test split."}
    )
    corruption: list[str] = field(default_factory=list, metadata={"help": f"Any of {', '.join(CORRUPTIONS)}."})
    severities: list[int] = field(default_factory=lambda: [*SEVERITIES], metadata={"help": "From 1 to 5."})
    selective: bool = field(default=False, metadata={"help": "Confident predictions and risk-coverage curves."})
    threshold: float = field(default=0.99, metadata={"help": "What --selective calls confident, in (0, 1]."})
    max_samples: int | None = field(default=None, metadata={"help": "So many random samples of each data set."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Batch size per device."})
    n_bins: int = field(default=15, metadata={"help": "Bins of ECE."})
    n_resamples: int = field(default=1000, metadata={"help": "Bootstrap resamples for the 90%% intervals."})
    seed: int = field(default=0, metadata={"help": "Seed of noise and bootstrap."})


class Model:
    """A checkpoint, and its logits as they were before its temperature."""

    def __init__(self, name: str, class_names: list[str], args: OodArguments) -> None:
        self.name, self.model = name, from_pretrained(name, task="image-classification")
        record = calibration_record(self.model) or {"temperature": 1.0, "folded": False}
        calibrator = calibrator_of(record)
        self.loss, self.temperature = record.get("loss"), getattr(calibrator, "temperature", 1.0)
        self.gamma = getattr(calibrator, "gamma", 0.0)
        self.undo = calibrator.affine(self.model.config.num_labels).inverse() if record["folded"] else Affine()
        self.model.config.calibration = None  # its logits are then those of the weights, and divided by nothing
        config = self.model.config
        self.classes = np.array(match_labels(class_names, [config.id2label[i] for i in range(config.num_labels)]))
        self.transform = ImageTransform(load_processor(name, "image-classification", self.model))
        training_args = TrainingArguments(
            output_dir=args.output_dir,
            per_device_eval_batch_size=args.per_device_eval_batch_size,
            eval_accumulation_steps=16,
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to="none",
        )
        self.trainer = Trainer(model=self.model, args=training_args)

    def logits(self, data: Dataset, *corruption: ImageCorruption) -> np.ndarray:
        predictions = self.trainer.predict(data.with_transform(Compose([*corruption, self.transform]))).predictions
        return self.undo(np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions, np.float64))


def load_ood_data(args: OodArguments) -> dict[str, Dataset]:
    count, columns = len(args.ood_dataset_name), {}
    for flag in ("ood_config_name", "ood_image_column_name", "ood_split"):
        values = getattr(args, flag) or [UNSET] * count
        if len(values) != count:
            raise ValueError(
                f"--{flag} must name one for each of the {count} of --ood_dataset_name ({UNSET!r} to leave one out), "
                f"got {len(values)}."
            )
        columns[flag] = [None if value == UNSET else value for value in values]
    data = {}
    for name, config, column, split in zip(args.ood_dataset_name, *columns.values(), strict=True):
        title = Path(name).name if config is None else f"{Path(name).name} ({config})"
        if title in data:
            raise ValueError(f"Two of --ood_dataset_name are called {title!r}.")
        data[title] = take(
            load_images(name, config, split=split, image_column=column), args.max_samples, args.split_seed
        )
    return data


def load_test_data(args: OodArguments) -> Dataset:
    source = (args.dataset_name, args.dataset_config_name)
    if args.split is not None:
        splits = load_labelled("image", *source, args.image_column_name, args.label_column_name)
        if args.split not in splits:
            raise ValueError(f"--dataset_name {args.dataset_name} has no split {args.split!r}; it has {list(splits)}.")
        return splits[args.split]
    columns = {"image_column": args.image_column_name, "label_column": args.label_column_name}
    return load_image_dataset(*source, holdout=args.holdout, seed=args.split_seed, **columns)["test"]


def titles_of(models: Sequence[Model]) -> list[str]:
    """The losses where they tell the models apart, else the names of their folders, else what was given."""
    for titles in ([model.loss for model in models], [Path(model.name).name for model in models]):
        if None not in titles and len(set(titles)) == len(models):
            return titles
    return [model.name for model in models]


def measure(
    model: Model, logits: np.ndarray, labels: np.ndarray, others: dict[Any, np.ndarray], args: OodArguments
) -> tuple[dict[str, Any], dict[Any, Any], dict[str, Any]]:
    """
    All figures of one model, from its logits on the test data and on others, which are named by a data set or by
    `(corruption, severity)`; and what is drawn of it: scores by name, and risk-coverage curves.
    """
    scalings = {"before": (1.0, 0.0), "after": (model.temperature, model.gamma)}

    def calibration(values: np.ndarray) -> dict[str, Any]:
        measured = {}
        for moment, (temperature, gamma) in scalings.items():
            probabilities = focal_recalibration(values, gamma, temperature)
            options = {"n_resamples": args.n_resamples, "seed": args.seed, "n_bins": args.n_bins}
            measured[moment] = {
                **calibration_metrics_from_logits(values, labels, args.n_bins, temperature, gamma),
                "intervals": metric_intervals(("accuracy", "nll", "ece"), probabilities, labels, **options),
            }
        return measured

    clean = calibration(logits) if args.corruption else None
    found: dict[str, Any] = {"model": model.name, "loss": model.loss, "temperature": model.temperature}
    found |= {"gamma": model.gamma, "ood": {}, "shift": {name: {0: clean} for name in args.corruption}}
    found["selective"] = {}
    scores: dict[Any, Any] = {}
    for name, values in others.items():
        title = name
        if isinstance(name, tuple):
            found["shift"][name[0]][name[1]] = calibration(values)
            title = f"{name[0]} {name[1]}"
        results = ood_detection(
            logits, values, model.temperature, model.gamma, n_resamples=args.n_resamples, seed=args.seed
        )
        found["ood"][title] = {
            score: {moment: asdict(one) for moment, one in row.items()} for score, row in results.items()
        }
        scores[title] = {
            moment: (ood_scores(logits, *scaling)["entropy"], ood_scores(values, *scaling)["entropy"])
            for moment, scaling in scalings.items()
        }
    curves = {}
    for moment, (temperature, gamma) in scalings.items() if args.selective else ():
        probabilities = focal_recalibration(logits, gamma, temperature)
        curves[moment] = risk_coverage_curve(probabilities, labels)
        confident = asdict(confident_predictions(probabilities, labels, args.threshold))
        aurc = float(curves[moment][1].mean())
        found["selective"][moment] = {"threshold": args.threshold, **confident, "aurc": aurc}
    return found, scores, curves


# ---- Tables ---------------------------------------------------------------------------------------------------------


def table(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (header, *rows)]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}%"


def with_interval(share: float, low: float, high: float) -> str:
    return f"{percent(share)} ({percent(low)} to {percent(high)})"


def tables(found: dict[str, Any], panels: list[str]) -> str:
    """What was found about one model."""
    parts = []
    if panels:
        rows = [
            [
                name,
                score,
                *(with_interval(one["auroc"], one["low"], one["high"]) for one in row.values()),
            ]
            for name in panels
            for score, row in found["ood"][name].items()
        ]
        parts.append(table(["AUROC (90% interval)", "score", "before", "after"], rows))
    for name, by_severity in found["shift"].items():
        rows = []
        for severity, row in by_severity.items():
            errors = [with_interval(one["ece"], *one["intervals"]["ece"]) for one in row.values()]
            nlls = [f"{one['nll']:.4f}" for one in row.values()]
            rows.append([f"severity {severity}", percent(1 - row["after"]["accuracy"]), *errors, *nlls])
        parts.append(table([name, "error", "ECE before", "ECE after", "NLL before", "NLL after"], rows))
    if selective := found["selective"]:
        rows = [
            [moment, f"{one['count']} ({percent(one['share'])})", percent(one["accuracy"]), percent(one["aurc"])]
            for moment, one in selective.items()
        ]
        header = ["temperature", f"confidence >= {selective['after']['threshold']:g}", "of these right", "AURC"]
        parts.append(table(header, rows))
    return "\n\n".join(parts)


def check(args: OodArguments) -> None:
    """What can be known to be wrong before anything is loaded."""
    if not (args.ood_dataset_name or args.corruption or args.selective):
        raise ValueError("Nothing to measure: give --ood_dataset_name, --corruption or --selective.")
    check_threshold(args.threshold)
    check_count("n_bins", args.n_bins)
    check_count("n_resamples", args.n_resamples)
    np.random.SeedSequence(args.seed)  # refuses what is no seed
    for name in args.model_name_or_path:
        if args.model_name_or_path.count(name) > 1:
            raise ValueError(f"--model_name_or_path {name} is given twice.")


def save(
    args: OodArguments, num_samples: int, results: dict[str, Any], rocs: dict[str, Any], curves: dict[str, Any]
) -> None:
    """Write and print what was found: by model, and for the pictures by panel and by model."""
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"dataset": args.dataset_name, "num_samples": num_samples, "seed": args.seed}
    (folder / RESULTS).write_text(json.dumps({**settings, "models": results}, indent=2) + "\n", encoding="utf-8")
    pictures = {
        f"severity_{name}.png": severity_diagram({t: found["shift"][name] for t, found in results.items()})
        for name in args.corruption
    }
    if rocs:
        pictures["roc.png"] = roc_diagram(rocs)
    if args.selective:
        pictures["risk_coverage.png"] = risk_coverage_diagram(curves)
    for name, figure in pictures.items():
        figure.savefig(folder / name)
    parts = []
    for title, found in results.items():
        heading = f"== {title}: {args.dataset_name}, {num_samples} images, T = {found['temperature']:.4g}"
        heading += f", gamma = {found['gamma']:g}" if found["gamma"] else ""
        parts += [heading, tables(found, list(rocs))]
    report = "\n\n".join(parts)
    (folder / TABLES).write_text(report + "\n", encoding="utf-8")
    print(f"\n{report}\n\nSaved to {folder}: {', '.join([RESULTS, TABLES, *pictures])}")


def main() -> None:
    (args,) = parse_arguments([OodArguments])
    start_logging()
    check(args)
    severities = sorted(set(args.severities))
    corruptions = [ImageCorruption(name, level, args.seed) for name in args.corruption for level in severities]
    ood_data = load_ood_data(args)
    test = load_test_data(args)
    class_names = test.features["label"].names
    test = take(test, args.max_samples, args.split_seed)
    labels = np.asarray(test["label"][:])
    models = [Model(name, class_names, args) for name in args.model_name_or_path]

    results, curves = {}, {}
    # As in the paper, one panel for each other data set and one for each corruption at its worst.
    rocs = {panel: {} for panel in (*ood_data, *(f"{name} {severities[-1]}" for name in args.corruption))}
    for title, model in zip(titles_of(models), models, strict=True):
        logger.info("%s: %s", title, args.dataset_name)
        logits, others = model.logits(test), {}
        for name, data in ood_data.items():
            logger.info("%s: %s", title, name)
            others[name] = model.logits(data)
        for one in corruptions:
            logger.info("%s: %s of severity %d", title, one.name, one.severity)
            others[one.name, one.severity] = model.logits(test, one)
        if model.trainer.is_world_process_zero():
            results[title], scores, curves[title] = measure(model, logits, model.classes[labels], others, args)
            for panel, models_of_panel in rocs.items():
                models_of_panel[title] = scores[panel]
    if results:  # else another process writes
        save(args, len(test), results, rocs, curves)


if __name__ == "__main__":
    main()
