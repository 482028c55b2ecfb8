# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The folder that a run of a script leaves: weights, predictions, results, picture and model card."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from ..calibrators.base import Calibrator, Fit, UnfoldableError, calibrator_of, describe_confidence
from ..metrics import measure
from ..metrics.intervals import metric_intervals
from ..metrics.scored import Scored
from ..models.record import calibration_record, has_adapter
from ..predictions import Predictions, save_predictions
from ..tasks import TASKS, Task, task_of
from .card import create_model_card, results_table
from .dynamics_file import DYNAMICS
from .plots.reliability import reliability_diagram
from .tables import text_table


if TYPE_CHECKING:
    from transformers import TrainingArguments

    from ..training.trainer import CalibrationTrainer


logger = logging.getLogger(__name__)

RESULTS = "all_results.json"
PREDICTIONS = "predictions.safetensors"
PICTURE = "reliability.png"
CARD = "README.md"
BEST = "best.json"  # in the folders of KeepBestCallback
_LAST = ("last", "true", "True")


def prepare_output_dir(args: TrainingArguments, overwrite: bool = False) -> str | None:
    """
    Keep a run from burying another one: look at `args.output_dir` before any work is done.

    Args:
        args (`transformers.TrainingArguments`):
            With `output_dir` and `resume_from_checkpoint` (a folder, or `last` for the newest in `output_dir`).
        overwrite (`bool`, *optional*, defaults to `False`):
            Remove the checkpoints and results that are there.

    Returns:
        `str` or `None`: The checkpoint to resume from.

    Raises:
        ValueError: If the folder holds a run and neither flag is given, or the checkpoint is not there.
    """
    folder = Path(str(args.output_dir))
    if args.resume_from_checkpoint is not None:
        checkpoint: str | None = args.resume_from_checkpoint
        if checkpoint in _LAST:
            checkpoint = _last_complete_checkpoint(folder)
        if checkpoint is None or not Path(checkpoint).is_dir():
            raise ValueError(
                f"--resume_from_checkpoint {args.resume_from_checkpoint}: no such checkpoint"
                + (f" in {folder}." if checkpoint is None else ".")
            )
        return str(checkpoint)
    checkpoints = sorted(folder.glob("checkpoint-*"))
    finished = (folder / RESULTS).is_file()
    if (finished or checkpoints) and not overwrite:
        found = "a finished run" if finished else f"an unfinished run ({checkpoints[-1].name})"
        raise ValueError(
            f"{folder} holds {found}. Use --overwrite to replace it, --resume_from_checkpoint last to go on from its "
            "newest checkpoint, or another --output_dir."
        )
    if args.should_save:
        for old in [*checkpoints, *(path.parent for path in folder.glob(f"best-*/{BEST}"))]:
            shutil.rmtree(old)
        for name in (RESULTS, PREDICTIONS, PICTURE, CARD, DYNAMICS):
            (folder / name).unlink(missing_ok=True)
    return None


def _last_complete_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint whose last file, the state of the trainer, was written to its end."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True):
        try:
            TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        except (OSError, ValueError):
            logger.warning("%s was not written to its end and is passed over.", checkpoint)
        else:
            return str(checkpoint)
    return None


@dataclass(frozen=True)
class RunReport:
    """
    What a finished run found on its test split.

    Attributes:
        fit ([`Fit`]): The calibrator, fitted on validation data.
        before, after (`dict[str, float]`): Test metrics at temperature 1 and at the fitted one.
        words (`str`): Whether the model was over- or under-confident.
        intervals (`dict[str, dict[str, tuple[float, float]]]`): Under `"before"` and `"after"`, the 90% bootstrap
            interval of each metric.
        split (`str`): Name of the test split.
        unit (`str`): What was counted, such as `"samples"` or `"tokens"`.
        group (`str`, *optional*): What was drawn anew for the intervals in place of these, such as `"sentence"`.
    """

    fit: Fit
    before: dict[str, float]
    after: dict[str, float]
    words: str
    intervals: dict[str, dict[str, tuple[float, float]]]
    split: str = "test"
    unit: str = "samples"
    group: str | None = None

    def __str__(self) -> str:
        title = self.split if self.unit == Task.unit else f"{self.split} {self.unit}"
        drawn = f", by {self.group}" if self.group else ""
        rows = results_table(self.before, self.after, self.intervals)
        head, *lines = text_table((title, "before", "after"), rows, numbers=True).splitlines()
        head += f"   ({self.fit.calibrator}; in brackets: 90% intervals{drawn})"
        return "\n".join([head, *lines, self.words])


def finish_run(
    trainer: CalibrationTrainer,
    validation: Any,
    test: Any,
    *,
    dataset_name: str,
    task: str,
    results: Mapping[str, Any] | None = None,
    base_model: str | None = None,
    dataset_config: str | None = None,
    dataset_revision: str | None = None,
    split: str = "validation",
    test_split: str = "test",
) -> RunReport:
    """
    Calibrate a model on `validation`, measure it on `test`, and write all there is to keep into
    `trainer.args.output_dir`. Nothing is pushed; `trainer.push_to_hub()` does that.

    It leaves the weights, with the temperature folded in unless `trainer.args.fold_temperature` is off or there is no
    head to fold it into, the config with its record, the image processor or tokenizer, `predictions.safetensors`
    (logits before scaling, and labels; of token classifiers those of the tokens with a label, and the number of each
    token's sentence), `all_results.json`, `reliability.png` and the model card. No pickle is among them.

    Args:
        trainer ([`CalibrationTrainer`]):
            After `train()`, or with a model to calibrate as it is. An earlier temperature of the model is undone.
        validation, test (`Dataset`):
            Labelled data that the model was not trained on.
        dataset_name (`str`):
            For the model card.
        task (`str`):
            Pipeline task, such as `"image-classification"`.
        results (`Mapping[str, Any]`, *optional*):
            Further entries of `all_results.json`.
        base_model (`str`, *optional*):
            Hub id of the checkpoint that was fine-tuned.
        dataset_config, dataset_revision (`str`, *optional*):
            Configuration and revision of the data set, for the model card.
        split, test_split (`str`, *optional*, defaults to `"validation"` and `"test"`):
            What the two are called in the data set, for the record and the model card.

    Returns:
        [`RunReport`]: Printed, it is the table before and after.
    """
    trainer.forget_temperature("Calibrating anew", validation)
    predictions = {"validation": trainer.predict(validation), "test": trainer.predict(test)}
    try:
        fit = trainer.calibrate(validation, predictions=predictions["validation"], split=split)
    except UnfoldableError as error:
        logger.warning("%s\nThe temperature is kept in the config alone.", error)
        fit = trainer.calibrate(validation, predictions=predictions["validation"], split=split, fold=False)
    parts = {
        "validation": Predictions.of_output(predictions["validation"], split),
        "test": Predictions.of_output(predictions["test"], test_split),
    }
    logits, labels, groups = parts["test"].logits, parts["test"].labels, parts["test"].groups
    measured = _measure(logits, labels, fit.calibrator, trainer.args.n_bins, groups)
    words, intervals = measured["confidence_sentence"], measured["intervals"]
    known = TASKS.get(task, Task)
    report = RunReport(
        fit, measured["before"], measured["after"], words, intervals, test_split, known.unit, known.group
    )
    trainer.save_model(_internal_call=True)  # not pushed yet: there is no card
    trainer.card_facts = {
        "logits": logits,
        "labels": labels,
        "groups": groups,
        "measured": measured,
        "split": test_split,
        "task": task,
        "dataset": dataset_name,
        "dataset_config": dataset_config,
        "dataset_revision": dataset_revision,
        "base_model": base_model,
    }
    if trainer.is_world_process_zero():
        _write(trainer, report, parts, dict(results or {}))
        trainer.create_model_card()
    trainer.accelerator.wait_for_everyone()
    return report


def _write(
    trainer: CalibrationTrainer, report: RunReport, parts: dict[str, Predictions], results: dict[str, Any]
) -> None:
    folder, config, n_bins = Path(trainer.args.output_dir), trainer.model.config, trainer.args.n_bins
    fit = report.fit
    id2label = json.dumps({str(index): name for index, name in config.id2label.items()})
    metadata = {"scaled": "false", "temperature": repr(fit.temperature), "id2label": id2label}
    save_predictions(folder / PREDICTIONS, parts, **metadata)

    results |= {"temperature": fit.temperature, "temperature_criterion": fit.criterion, "n_bins": n_bins}
    for split, moments in (("validation", (fit.before, fit.after)), ("test", (report.before, report.after))):
        for moment, values in zip(("before", "after"), moments, strict=True):
            results |= {f"{split}_{moment}_{key}": value for key, value in values.items()}
    (folder / RESULTS).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def write_card(
    trainer: CalibrationTrainer,
    *,
    logits: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    split: str = "test",
    measured: Mapping[str, Any] | None = None,
    model_name: str | None = None,
    task: str | None = None,
    **details: Any,
) -> None:
    """
    Write the model card into `trainer.args.output_dir`, and the reliability diagram if there is something to draw.

    Args:
        trainer ([`CalibrationTrainer`]):
            Its model's `config.calibration` is what the card tells.
        logits, labels (`np.ndarray`, *optional*):
            Data to measure the model on, before scaling. Without them the card has no numbers.
        groups (`np.ndarray`, *optional*):
            The sentence of each token, as for [`bootstrap_interval`].
        split (`str`, *optional*, defaults to `"test"`):
            Name of these data.
        measured (`Mapping[str, Any]`, *optional*):
            What was measured on them, where that was done already.
        model_name, task (`str`, *optional*):
            Heading and pipeline task of the card; by default told by the repository and the model.
        details:
            As for [`create_model_card`].
    """
    folder, config = Path(trainer.args.output_dir), trainer.model.config
    record, n_bins = calibration_record(trainer.model), getattr(trainer.args, "n_bins", 15)
    (folder / PICTURE).unlink(missing_ok=True)  # of an earlier model
    facts: dict[str, Any] = {}
    if record is not None and logits is not None and labels is not None:
        calibrator = calibrator_of(record)
        facts = {**(measured or _measure(logits, labels, calibrator, n_bins, groups)), "test_split": split}
        panels = dict(zip(("before", f"after ({calibrator})"), _panels(logits, calibrator), strict=True))
        reliability_diagram(panels, labels, n_bins).savefig(folder / PICTURE)
    adapter = has_adapter(trainer.model)
    if adapter and not details.get("base_model"):
        details["base_model"] = config._name_or_path
    model_id = str(trainer.hub_model_id or folder)
    card = create_model_card(
        model_name=model_name or Path(model_id).name,
        model_id=model_id,
        task=task or getattr(task_of(trainer.model), "name", None),
        calibration=record,
        adapter=adapter,
        architecture=getattr(config, "architecture", config.model_type),
        **facts,
        **details,
    )
    card.save(folder / CARD)


def _panels(logits: ArrayLike, calibrator: Calibrator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities before and after."""
    wide = np.asarray(logits, dtype=np.float64)
    return softmax(wide, axis=1), calibrator.probabilities(wide)


def _measure(
    logits: ArrayLike, labels: ArrayLike, calibrator: Calibrator, n_bins: int, groups: ArrayLike | None
) -> dict[str, Any]:
    """What a report and a card tell of logits before scaling, by the names of the arguments of `create_model_card`."""
    before, after = _panels(logits, calibrator)
    return {
        "before": measure(Scored.from_logits(logits, labels), n_bins),
        "after": measure(Scored.from_logits(logits, labels, calibrator), n_bins),
        "intervals": {
            "before": metric_intervals(Scored(before, labels), n_bins, groups),
            "after": metric_intervals(Scored(after, labels), n_bins, groups),
        },
        "n_test": len(np.asarray(labels)),
        "n_bins": n_bins,
        "confidence_sentence": describe_confidence(logits, labels, calibrator),
    }
