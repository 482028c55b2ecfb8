# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Validation and test logits from the files that people have: of a run of ours, or NumPy archives."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import check_groups
from ..checks import check_logits, check_outputs
from ..metrics.outputs import are_of_outputs
from ..predictions import Predictions, load_predictions
from ..spill import taken
from .folder import PREDICTIONS


logger = logging.getLogger(__name__)

_PARTS = {"validation": ("validation", "val", "valid", "dev"), "test": ("test",)}
_WANTED = "logits and labels, or val_logits, val_labels, test_logits and test_labels"


def load_logits(path: str | Path, test: str | Path | None = None, seed: int = 42) -> dict[str, Predictions]:
    """
    Logits to fit a calibrator on, and others to measure it on.

    Args:
        path (`str` or `Path`):
            The output folder of a run, its `predictions.safetensors`, or an `.npz` archive with arrays of these names:
            `logits`, `labels` and, if need be, `groups`, or the same with `val_` (or `validation_`) and `test_`. Of a
            sigmoid head labels have the shape of the logits and are 1, 0, or -100 where nothing is known.
        test (`str` or `Path`, *optional*):
            Another one, to measure on. By default both parts are taken from the first; where it has but one, each gets
            half of it (of its groups), and that is logged.
        seed (`int`, *optional*, defaults to `42`):
            Of the halves.

    Returns:
        `dict[str, Predictions]`: Under `"validation"` and `"test"`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is damaged, holds nothing of the kind, or arrays that cannot go together.
    """
    parts = _read(Path(path))
    if test is not None:
        others = _read(Path(test))
        return {"validation": _pick(parts, "validation"), "test": _pick(others, "test")}
    if {*_PARTS} <= {*parts}:
        return {name: parts[name] for name in _PARTS}
    (name,) = parts
    halves = _halve(parts[name], seed)
    sizes = [len(half) for half in halves]
    logger.warning(
        "%s has one part alone: it is halved, %d samples to fit on and %d to measure on (seed %d).", path, *sizes, seed
    )
    return dict(zip(_PARTS, halves, strict=True))


def _pick(parts: Mapping[str, Predictions], name: str) -> Predictions:
    """That part, or the only one."""
    return parts[name] if name in parts else next(iter(parts.values()))


def _read(path: Path) -> dict[str, Predictions]:
    file = path / PREDICTIONS if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"There is no such file: {file}")
    if file.suffix == ".npz":
        return _of_archive(file)
    if file.suffix != ".safetensors":
        raise ValueError(f"{file} is neither a folder of a run, nor .safetensors, nor .npz.")
    parts = {name: part for name, part in load_predictions(file)[0].items() if len(part)}
    known = {name: part for name, part in parts.items() if name in _PARTS}
    if not known:
        raise ValueError(f"{file} holds no predictions of validation or test data, but {', '.join(parts) or 'none'}.")
    return known


def _of_archive(file: Path) -> dict[str, Predictions]:
    try:
        with np.load(file) as stored:  # which reads no pickles
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    found = {}
    for name, prefixes in _PARTS.items():
        for prefix in prefixes:
            if f"{prefix}_logits" in arrays:
                found[name] = _part(arrays, f"{prefix}_", file)
                break
    if not found and "logits" in arrays:
        found["validation"] = _part(arrays, "", file)
    if not found:
        raise ValueError(f"{file} has the arrays {', '.join(arrays) or 'none'}. Needed are {_WANTED}.")
    return found


def _part(arrays: Mapping[str, NDArray[Any]], prefix: str, file: Path) -> Predictions:
    if f"{prefix}labels" not in arrays:
        raise ValueError(f"{file} has {prefix}logits without {prefix}labels. Needed are {_WANTED}.")
    try:
        given = arrays[f"{prefix}logits"], arrays[f"{prefix}labels"]
        check = check_outputs if are_of_outputs(*given) else check_logits
        logits, labels = check(*given, f"{prefix}logits")
        groups = arrays.get(f"{prefix}groups")
        return Predictions(logits, labels, None if groups is None else check_groups(groups, len(labels)))
    except ValueError as error:
        raise ValueError(f"{file} cannot be used: {error}") from error


def _halve(whole: Predictions, seed: int) -> tuple[Predictions, Predictions]:
    groups = np.arange(len(whole)) if whole.groups is None else np.asarray(whole.groups)
    names = np.unique(groups)
    if len(names) < 2:
        raise ValueError("The data are of one sample or group alone, of which no half is left to measure on.")
    drawn = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    first = np.isin(groups, drawn)
    names_of = [None if whole.groups is None else groups[rows] for rows in (first, ~first)]
    halves = zip(map(np.flatnonzero, (first, ~first)), names_of, strict=True)
    one, other = (
        Predictions(taken(whole.logits, rows), whole.labels[rows], kept, whole.split) for rows, kept in halves
    )
    return one, other
