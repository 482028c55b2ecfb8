# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The folder that a run leaves: its files by name, going on after an interruption, and what is written at the end."""

from __future__ import annotations

import json
import logging
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open
from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from ..metrics import ALL_METRICS
from ..predictions import Predictions, save_predictions
from .card import About, create_model_card
from .gain import numbers_of
from .labels import BY_LABEL, labels_as_csv
from .lock import hold, release
from .replace import (
    CARD,
    PICTURE,
    PREDICTIONS,
    RESULTS,
    UNFINISHED,
    checkpoints_of,
    clean,
    of_a_run,
    promote,
    remove,
    replacing,
)
from .report import Report


logger = logging.getLogger(__name__)

MODEL_ID = "model_id"  # in the results: what the card loads the model by
_LAST = ("last", "true", "True")
# What a Trainer resumes from beside weights: archives, whose directory is at their end.
_STATES = ("optimizer", "scheduler", "scaler", "rng_state", "pytorch_model")


def prepare_output_dir(args: TrainingArguments, overwrite: bool = False) -> str | None:
    """
    Keep a run from burying another one: look at `args.output_dir` before any work is done, and lock it for this
    process until [`finish_run`] or its end. What processes that died left half replaced there is mended.

    A run that replaces another one is written into the folder `.unfinished` in `args.output_dir`, which
    `args.output_dir` then names; [`finish_run`] (or `trainer.save_model()`) puts it in the place of the other, which
    is left alone until then. `last` goes on with such a run, too.

    Args:
        args (`transformers.TrainingArguments`):
            With `output_dir` and `resume_from_checkpoint` (a folder, or `last` for the newest in `output_dir`).
        overwrite (`bool`, *optional*, defaults to `False`):
            Replace the run, or the files that a run would write over, that are there.

    Returns:
        `str` or `None`: The checkpoint to resume from.

    Raises:
        ValueError: If the folder holds a run, or files that a run would write over, and neither flag is given; or the
            checkpoint is not there, or was not written to its end.
        OSError: If it is no folder, it cannot be written, or another process is writing there.
    """
    found: list[Any] = [None]
    if getattr(args, "process_index", 0) == 0:
        try:
            found = [_prepare(args, overwrite)]
        except (ValueError, OSError) as error:
            found = [error]
    if getattr(args, "world_size", 1) > 1:  # all decide alike, and none waits for another one
        broadcast_object_list(found)
    if isinstance(found[0], Exception):
        raise found[0]
    checkpoint, folder = found[0]
    if folder != Path(str(args.output_dir)):
        args.hub_model_id = getattr(args, "hub_model_id", None) or Path(str(args.output_dir)).absolute().name
        args.output_dir = str(folder)
    return checkpoint


def _prepare(args: TrainingArguments, overwrite: bool) -> tuple[str | None, Path]:
    """The checkpoint to resume from, and where to write."""
    check_folder(args.output_dir)
    folder = Path(str(args.output_dir))
    try:
        new = hold(folder)
    except BlockingIOError:
        raise
    except OSError as error:
        raise OSError(f"--output_dir {folder} cannot be written: {error.strerror}.") from error
    try:
        clean(folder)
        return _place(folder, args.resume_from_checkpoint, overwrite)
    except BaseException:
        if new:
            release(folder)
        raise


def check_folder(folder: str | Path | None, flag: str = "--output_dir") -> None:
    """Refuse with an `OSError` what is no folder and cannot become one."""
    if not str(folder or "").strip():
        raise NotADirectoryError(f"{flag} is empty: give the name of a folder.")
    path = Path(str(folder))
    for place in (path, *path.parents):
        if place.is_symlink() and not place.exists():
            raise NotADirectoryError(f"{flag} {path}: {place} is a link to {os.readlink(place)}, which is not there.")
        if place.is_dir():
            return
        if place.exists():
            what = "is" if place == path else f"lies in {place}, which is"
            raise NotADirectoryError(f"{flag} {path} {what} a file, not a folder.")


def _place(folder: Path, resume: str | None, overwrite: bool) -> tuple[str | None, Path]:
    unfinished = folder / UNFINISHED
    checkpoint: Path | None = None
    if resume is not None:
        checkpoint = _last(folder) if str(resume) in _LAST else Path(resume)
        if reason := incomplete(checkpoint):
            raise ValueError(f"--resume_from_checkpoint {resume}: {checkpoint} {reason}.")
        if checkpoint.resolve().parent == unfinished.resolve():
            return str(checkpoint), unfinished
        if checkpoint.resolve().parent == folder.resolve():
            if unfinished.is_dir() and last_complete_checkpoint(unfinished) is None:
                remove(unfinished)
            return str(checkpoint), folder
    old = sorted(path.name for path in folder.iterdir() if of_a_run(path))
    if old and not overwrite:
        raise ValueError(_refusal(folder, old))
    if old:
        logger.info("%s is replaced once this run is complete; until then it is in %s", folder, unfinished)
    return None if checkpoint is None else str(checkpoint), unfinished if old else folder


def _refusal(folder: Path, old: list[str]) -> str:
    """Why a folder that holds these is not written over, and what to do."""
    checkpoints, newer = checkpoints_of(folder), checkpoints_of(folder / UNFINISHED)
    ways = ["--overwrite to replace it", "another --output_dir"]
    if RESULTS in old:
        found = "a finished run"
    elif checkpoints:
        found = f"an unfinished run ({checkpoints[-1].name})"
    else:
        others = [name for name in old if name != UNFINISHED]
        found = f"files that this run would write over ({', '.join(others[:4])}{', ...' if len(others) > 4 else ''})"
        found, ways[0] = (found, "--overwrite to replace them") if others else ("an unfinished run", ways[0])
    if newer:
        found += f", and an unfinished one that is to replace it ({newer[-1].name})"
    if checkpoints or newer:
        ways.insert(1, "--resume_from_checkpoint last to go on from its newest checkpoint")
    return f"{folder} holds {found}. Use {', '.join(ways[:-1])}, or {ways[-1]}."


def _last(folder: Path) -> Path:
    """The checkpoint to go on from."""
    unfinished = folder / UNFINISHED
    if found := last_complete_checkpoint(unfinished if unfinished.is_dir() else folder):
        return found
    if not unfinished.is_dir():
        raise ValueError(f"--resume_from_checkpoint last: no such checkpoint in {folder}.")
    ways = "Start it again with --overwrite"
    if earlier := last_complete_checkpoint(folder):
        ways += f", or go on with the earlier one by --resume_from_checkpoint {earlier}"
    raise ValueError(
        f"--resume_from_checkpoint last: the run that is to replace the one in {folder} was stopped before its first "
        f"checkpoint. {ways}."
    )


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a folder that was written to its end."""
    for checkpoint in reversed(checkpoints_of(folder)):
        if reason := incomplete(checkpoint):
            logger.warning("%s %s and is passed over.", checkpoint, reason)
        else:
            return checkpoint
    return None


def incomplete(checkpoint: Path) -> str | None:
    """Why a checkpoint is none to resume from: `None` if it was written to its end."""
    if not checkpoint.is_dir():
        return "is no such checkpoint"
    if not (checkpoint / TRAINER_STATE_NAME).is_file():
        return f"is no checkpoint, or was not written to its end: it holds no {TRAINER_STATE_NAME}"
    file = checkpoint / TRAINER_STATE_NAME
    try:
        TrainerState.load_from_json(str(file))  # which is written last
        for file in sorted(checkpoint.iterdir()):
            if file.suffix == ".safetensors":
                with safe_open(str(file), "np"):  # refuses a file of another length than it says
                    pass
            elif file.is_file() and file.name.startswith(_STATES) and not zipfile.is_zipfile(file):
                raise ValueError("it is cut off")
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        return f"was not written to its end ({file.name}: {error})"
    names = {path.name for path in checkpoint.iterdir()}
    if "scheduler.pt" in names and not any(name.startswith(("optimizer", "global_step")) for name in names):
        return "was not written (or copied) to its end: it holds no state of the optimizer"
    return None


def find_best_checkpoint(checkpoint: Path) -> None:
    """Let a checkpoint name the best one where it is now, if the folder of the run was moved."""
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    best = Path(state.best_model_checkpoint or checkpoint)
    if not best.is_dir() and (checkpoint.parent / best.name).is_dir():
        state.best_model_checkpoint = str(checkpoint.parent / best.name)
        with suppress(PermissionError), replacing(checkpoint, "files") as staged:
            state.save_to_json(str(staged / TRAINER_STATE_NAME))


def refuse_own_input(folder: str | Path, model: str | Path) -> None:
    """Refuse a model that lies in what a run replaces in its output folder."""
    home, source = Path(folder).resolve(), Path(model).resolve()
    if not source.exists():
        return
    if source == home:
        raise ValueError(f"--output_dir {folder} is the model itself, which would be overwritten.")
    if home in source.parents and of_a_run(home / source.relative_to(home).parts[0]):
        what = f"lies in --output_dir {folder} and would be overwritten with it"
        raise ValueError(f"--model_name_or_path {model} {what}. Give another --output_dir.")


def home_of(folder: str | Path) -> Path:
    """The folder of a run, of which one that replaces another is written into a part."""
    folder = Path(folder)
    return folder.parent if folder.name == UNFINISHED else folder


def start_afresh(args: TrainingArguments) -> None:
    """Forget what an earlier run, which was to replace another one, left unfinished."""
    folder = Path(str(args.output_dir))
    if folder.name == UNFINISHED and folder.is_dir() and args.should_save:
        for path in folder.iterdir():
            remove(path)


def put_in_place(args: TrainingArguments) -> None:
    """Put a run that replaces another one into its place, which `args.output_dir` then names, and unlock it."""
    home = home_of(str(args.output_dir))
    if home != Path(str(args.output_dir)):
        if args.should_save:
            promote(home)
        args.output_dir = str(home)
    release(home)


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
    metadata = {"calibrator": fit.method, **{key: repr(value) for key, value in numbers.items()}}
    save_predictions(folder / PREDICTIONS, parts, scaled="false", **metadata, id2label=names)
    entries = {**results, "calibrator": fit.method, "temperature": None, **numbers}
    entries |= {"temperature_criterion": fit.criterion, "n_bins": report.n_bins}
    entries |= {"helped": fit.helped, **({"why": fit.why} if fit.unchanged else {})}
    for split, moments in (("validation", (fit.before, fit.after)), ("test", (report.before, report.after))):
        for moment, values in zip(("before", "after"), moments, strict=True):
            entries |= {f"{split}_{moment}_{key}": value for key, value in values.items()}
    left = report.refinement
    entries |= {"headline": report.headline, "answers_changed": report.changed}
    entries["nll_gain"] = numbers_of(report.nll_gain)
    entries["refinement"] = left and {
        "value": left.value, "method": left.calibrator.method, "further": numbers_of(left.further)
    }  # fmt: skip
    if report.promise is not None:
        entries["threshold"] = {**report.promise.to_record(), "test": report.kept and asdict(report.kept)}
    entries["intervals"] = {moment: dict(found) for moment, found in report.intervals.items()}
    entries["by_chance"] = {
        moment: {key: asdict(floor) for key, floor in found.items()} for moment, found in report.floors.items()
    }
    entries["metrics"] = {key: ALL_METRICS[key].facts() for key in report.before}
    if report.labels:
        entries["labels"] = [label.to_record() for label in report.labels]
        entries["pooled_ece"] = {moment: bins.expected_error() for moment, bins in report.bins.items()}
    if len(report.labels) > 1:
        (folder / BY_LABEL).write_text(labels_as_csv(report.labels), encoding="utf-8")
    entries[MODEL_ID] = model_id
    _write_results(folder, entries)


def save_card(folder: str | Path, about: About, report: Report | None, model_id: str) -> None:
    """Write the card, and the reliability diagram where something was measured."""
    folder = Path(folder)
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
    if known == repo_id:
        return
    with replacing(folder, "files") as staged:
        text = card.read_text("utf-8").replace(json.dumps(known), json.dumps(repo_id))
        (staged / CARD).write_text(text, encoding="utf-8")
        if entries:
            _write_results(staged, {**entries, MODEL_ID: repo_id})


def _write_results(folder: Path, entries: Mapping[str, Any]) -> None:
    (folder / RESULTS).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
