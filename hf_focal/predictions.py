# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a model said of a data set: logits with labels, and which of them belong together."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from .arrays import check_groups, to_numpy
from .checks import IGNORED, LARGE_BLOCK, check_logits, check_outputs, known_outputs, parts_of
from .files import room
from .spill import IN_MEMORY


_MAPPED = {"F32": "<f4", "F64": "<f8"}  # of logits that may stay in the file
_SUFFIXES = {"logits": "logits", "labels": "labels", "groups": "sentences"}  # field to what the file calls it


@dataclass(frozen=True)
class Predictions:
    """
    Logits before any calibration, with their labels; ignored labels are left out.

    Of a sigmoid head, one of several labels a sample or of a single logit, labels have the shape of the logits.

    Attributes:
        logits (`np.ndarray` of shape `(num_samples, num_labels)`): Raw scores.
        labels (`np.ndarray` of shape `(num_samples,)`): Class indices. Of a sigmoid head `(num_samples, num_labels)`:
            1 where a label is right, 0 where it is not, -100 where that is not known.
        groups (`np.ndarray` of shape `(num_samples,)`, *optional*): What rows that depend on one another belong to.
        split (`str`, *optional*, defaults to `"test"`): What the data are called.
    """

    logits: NDArray[Any]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None
    split: str = "test"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_sigmoid(self) -> bool:
        """Whether each logit stands for a label of its own, rather than all of them for one softmax."""
        return np.ndim(self.labels) == 2

    @classmethod
    def flatten(cls, output: Any, split: str = "test") -> Predictions:
        """
        The rows of what a `Trainer` predicted; labels of -100 are left out.

        Args:
            output (`transformers.EvalPrediction` or `PredictionOutput`):
                Logits `(N, K)`, or `(N, T, K)` whose sequences become groups, or a tuple led by them; labels to fit,
                or of the shape `(N, K)` of the logits, for a sigmoid head.
                Under `eval_do_concat_batches=False` lists of those of each batch.
            split (`str`, *optional*, defaults to `"test"`):
                What the data are called.

        Raises:
            ValueError: If there are no predictions or labels or several labels, or shapes disagree.
        """
        if output.predictions is None:
            raise ValueError(
                "No predictions were kept, so that nothing can be measured or fitted on them: set "
                "prediction_loss_only=False."
            )
        if output.label_ids is None:
            raise ValueError("The data have no labels, so that nothing can be measured or fitted on them.")
        if not _in_batches(output.predictions):
            return cls(*_rows(output.predictions, output.label_ids), split)
        labels = output.label_ids
        if not isinstance(labels, list) or len(labels) != len(output.predictions):
            found = f"{len(labels)} of them" if isinstance(labels, list) else type(labels).__name__
            raise ValueError(
                f"label_ids must be a list of the labels of each of {len(output.predictions)} batches, as the "
                f"predictions are, got {found}."
            )
        logits, kept, groups = zip(*map(_rows, output.predictions, labels), strict=True)
        if any(one is None for one in groups):
            return cls(np.concatenate(logits), np.concatenate(kept), None, split)
        starts = np.cumsum([0, *(len(_first(batch, "label_ids")) for batch in labels)])
        counted = [one + start for one, start in zip(groups, starts, strict=False)]
        return cls(np.concatenate(logits), np.concatenate(kept), np.concatenate(counted), split)


def _in_batches(predictions: Any) -> bool:
    """Whether these are predictions of each batch, and no single array or a tuple led by one."""
    if not isinstance(predictions, list) or not predictions:
        return False
    return np.ndim(_first(predictions[0], "predictions")) > 1 or isinstance(predictions[0], tuple)


def _first(values: Any, name: str) -> Any:
    """The array that a tuple is led by; of labels there may be but one."""
    if not isinstance(values, tuple):
        return values
    if name == "label_ids" and len(values) != 1:
        raise ValueError(
            f"label_ids holds {len(values)} arrays, and which of them the predictions are measured against is not "
            "told: leave label_names unset, or name one."
        )
    return values[0]


def _rows(logits: Any, labels: Any) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64] | None]:
    """Logits and labels of the rows that count, and of sequences the number of each row's."""
    logits = to_numpy("predictions", _first(logits, "predictions"))
    labels = to_numpy("label_ids", _first(labels, "label_ids"))
    if logits.ndim == 2 and (labels.shape == logits.shape or logits.shape[1] == 1 and labels.size == len(logits)):
        labels = known_outputs(labels, logits.shape)
        kept = (labels != IGNORED).any(axis=1)
        return (logits, labels, None) if kept.all() else (logits[kept], labels[kept], None)
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"label_ids must have shape {logits.shape[:-1]} to go with predictions of shape {logits.shape}, got "
            f"{labels.shape}. Predictions must be logits: leave preprocess_logits_for_metrics unset."
        )
    groups = np.nonzero(labels != IGNORED)[0] if labels.ndim == 2 else None
    logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    kept = labels != IGNORED
    return (logits, labels, groups) if kept.all() else (logits[kept], labels[kept], groups)


def save_predictions(path: str | Path, parts: Mapping[str, Predictions], **metadata: str) -> None:
    """
    Write predictions as safetensors: logits in float32, labels and the numbers of groups in int64.

    Args:
        path (`str` or `Path`):
            The file.
        parts (`Mapping[str, Predictions]`):
            By the name that they have in the file, such as `"validation"` and `"test"`.
        metadata (`str`):
            What else to say of them; the names that they have in their data set are added.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for part, predictions in parts.items():
        for field, suffix in _SUFFIXES.items():
            if (values := getattr(predictions, field)) is not None:
                values = check_groups(values, len(predictions)) if field == "groups" else np.asarray(values)
                arrays[f"{part}_{suffix}"] = values
    splits = json.dumps({part: predictions.split for part, predictions in parts.items()})
    with room(path):
        _write(Path(path), arrays, {**metadata, "splits": splits})


def _write(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """The file that `safetensors.numpy.save_file` writes, without a copy of the arrays in memory."""
    types = {name: ("F32", "<f4") if name.endswith("logits") else ("I64", "<i8") for name in arrays}
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    order, end = sorted(arrays, key=lambda name: (types[name][0] == "F32", name)), 0  # what is wider comes first
    for name in order:
        start, end = end, end + arrays[name].size * np.dtype(types[name][1]).itemsize
        header[name] = {"dtype": types[name][0], "shape": arrays[name].shape, "data_offsets": [start, end]}
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    if path.is_file():  # what is written may be mapped from it
        with suppress(OSError):
            path.resolve().unlink()
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in order:
            array = arrays[name] if arrays[name].ndim > 1 else arrays[name].reshape(-1, 1)
            for part in parts_of(array, LARGE_BLOCK):
                file.write(np.ascontiguousarray(part, types[name][1]).tobytes())


def load_predictions(path: str | Path) -> tuple[dict[str, Predictions], dict[str, str]]:
    """
    What [`save_predictions`] wrote, and the metadata beside it. Logits of more than 64 MB stay in the file, which is
    mapped into memory: they can be read alone.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or holds logits, labels or groups that cannot go together; it is named.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no such file: {path}")
    try:
        with safe_open(str(path), "np") as stored:
            metadata = dict(stored.metadata() or {})
            arrays = {name: _array(path, stored, name) for name in stored.keys()}
    except (SafetensorError, TypeError, OSError) as error:  # NumPy has no bfloat16
        raise ValueError(f"{path} is damaged, or holds no predictions: {error}") from error
    try:
        splits = json.loads(metadata.get("splits", "{}"))
        if not isinstance(splits, dict):
            raise ValueError(f"its metadata name no splits, but {splits!r}.")
        parts = {}
        for part in [name.removesuffix("_logits") for name in arrays if name.endswith("_logits")]:
            fields = {field: arrays.get(f"{part}_{suffix}") for field, suffix in _SUFFIXES.items()}
            parts[part] = _checked(part, fields, str(splits.get(part, part)))
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    return parts, metadata


def _array(path: str | Path, stored: Any, name: str) -> NDArray[Any]:
    """An array of a file that safetensors has looked over: where it is large, the file itself."""
    shape, kind = stored.get_slice(name).get_shape(), _MAPPED.get(stored.get_slice(name).get_dtype())
    if kind is None or math.prod(shape) * np.dtype(kind).itemsize <= IN_MEMORY:
        return stored.get_tensor(name)
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        start = json.loads(file.read(size))[name]["data_offsets"][0]
    return np.memmap(path, kind, "r", 8 + size + start, tuple(shape))


def _checked(part: str, fields: Mapping[str, Any], split: str) -> Predictions:
    logits, labels, groups = fields["logits"], fields["labels"], fields["groups"]
    if logits is None or labels is None:
        raise ValueError(f"it has logits of {part!r} without labels.")
    if logits.size:  # a part of no samples is there, but nothing can be made of it
        check = check_outputs if labels.ndim == 2 else check_logits
        logits, labels = check(logits, labels, f"{part}_logits")
    if groups is not None and (groups.shape != labels.shape[:1] or groups.dtype.kind not in "iu"):
        found = f"shape {groups.shape} and type {groups.dtype}"
        raise ValueError(f"{part}_sentences must hold a whole number for each of {len(labels)} labels, got {found}.")
    return Predictions(logits, labels, groups, split)
