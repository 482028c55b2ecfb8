# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The folder that a run leaves: its files by name, going on after an interruption, and what is written at the end."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from ..metrics import METRICS
from ..predictions import Predictions, save_predictions
from .card import About, create_model_card
from .dynamics_file import DYNAMICS
from .report import Report


logger = logging.getLogger(__name__)

RESULTS = "all_results.json"
PREDICTIONS = "predictions.safetensors"
PICTURE = "reliability.png"
CARD = "README.md"
BEST = "best.json"  # in the folders of KeepBestCallback
MODEL_ID = "model_id"  # in the results: what the card loads the model by
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


def save_run(
    folder: str | Path,
    report: Report,
    parts: Mapping[str, Predictions],
    id2label: Mapping[int, str],
    results: Mapping[str, Any],
    model_id: str,
) -> None:
    """Write the predictions, before calibration, and the results; `model_id` is what the card loads the model by."""
    fit, folder = report.fit, Path(folder)
    names = json.dumps({str(index): name for index, name in id2label.items()})
    numbers = {key: value for key, value in fit.calibrator.to_record().items() if isinstance(value, float)}
    metadata = {key: repr(value) for key, value in numbers.items()}
    save_predictions(folder / PREDICTIONS, parts, scaled="false", **metadata, id2label=names)
    entries = {**results, "calibrator": fit.method, "temperature": None, **numbers}
    entries |= {"temperature_criterion": fit.criterion, "n_bins": report.n_bins}
    entries |= {"helped": fit.helped, **({"why": fit.why} if fit.unchanged else {})}
    for split, moments in (("validation", (fit.before, fit.after)), ("test", (report.before, report.after))):
        for moment, values in zip(("before", "after"), moments, strict=True):
            entries |= {f"{split}_{moment}_{key}": value for key, value in values.items()}
    entries["intervals"] = {moment: dict(found) for moment, found in report.intervals.items()}
    entries["by_chance"] = {
        moment: {key: asdict(floor) for key, floor in found.items()} for moment, found in report.floors.items()
    }
    entries["metrics"] = {key: METRICS[key].facts() for key in report.before}
    entries[MODEL_ID] = model_id
    _write_results(folder, entries)


def save_card(folder: str | Path, about: About, report: Report | None, model_id: str) -> None:
    """Write the card, and the reliability diagram where something was measured."""
    folder = Path(folder)
    (folder / PICTURE).unlink(missing_ok=True)  # of an earlier model
    if report is not None:
        report.diagram().savefig(folder / PICTURE)
    create_model_card(about, report, model_id=model_id).save(folder / CARD)


def name_in_card(folder: Path, repo_id: str) -> None:
    """Let the snippet of a card load the repository that it goes to, and not what it was written for."""
    card, results = folder / CARD, folder / RESULTS
    if not card.is_file():
        return
    try:
        entries = json.loads(results.read_text("utf-8"))
    except (OSError, ValueError):  # not of a run of ours
        entries = {}
    known = entries.get(MODEL_ID, str(folder))
    if known != repo_id:
        card.write_text(card.read_text("utf-8").replace(json.dumps(known), json.dumps(repo_id)), encoding="utf-8")
    if entries:
        _write_results(folder, {**entries, MODEL_ID: repo_id})


def _write_results(folder: Path, entries: Mapping[str, Any]) -> None:
    (folder / RESULTS).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
