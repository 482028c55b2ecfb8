# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What arrays, lists and tensors may hold: checks that name the argument, what was found and what is needed."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


BLOCK = 1 << 16  # values read at a time: they stay in the cache


def to_numpy(name: str, value: Any) -> NDArray[Any]:
    """The values as a real NumPy array."""
    if hasattr(value, "detach"):  # a torch tensor; NumPy has no bfloat16
        value = value.detach().cpu()
        value = value.float() if "float16" in str(value.dtype) else value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be a rectangular array of numbers, got rows of unequal length.") from error
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, got an array of dtype {array.dtype}.")
    return array


def _to_rows(name: str, value: Any) -> NDArray[Any]:
    """The values as a floating-point matrix, a row for each sample and a column for each class."""
    array = to_numpy(name, value)
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape (num_samples, num_labels), got {array.shape}.")
    if array.shape[0] == 0:
        raise ValueError(f"{name} must hold at least one sample, got shape {array.shape}.")
    if array.shape[1] < 2:
        raise ValueError(
            f"{name} must have a column for each of at least 2 classes, got shape {array.shape}. For a binary "
            "classifier that gives one probability p, stack [1 - p, p]."
        )
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _check_labels(name: str, labels: Any, num_samples: int, num_labels: int) -> NDArray[np.int64]:
    array = to_numpy("labels", labels)
    if array.ndim != 1:
        raise ValueError(f"labels must have shape (num_samples,), got {array.shape}. Pass class indices, not one-hot.")
    if len(array) != num_samples:
        raise ValueError(f"{name} and labels must have the same length, got {num_samples} and {len(array)}.")
    if array.dtype.kind == "f" and not np.all(np.isfinite(array) & (array == np.floor(array))):
        raise ValueError("labels must be whole numbers, got NaN, infinity or a fraction.")
    if array.min() < 0 or array.max() >= num_labels:
        raise ValueError(
            f"labels must lie in [0, {num_labels - 1}] for {num_labels} columns, got values from {array.min()} to "
            f"{array.max()}. Remove ignored samples (-100) first."
        )
    return array.astype(np.int64, copy=False)


def check_probabilities(
    probabilities: ArrayLike, labels: ArrayLike, with_maxima: bool = True
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[Any]]:
    """
    The two as arrays of shapes `(num_samples, num_labels)` and `(num_samples,)`, and the largest probability of each
    row (nothing where those are not asked for), or a `ValueError` that says what was found and what is needed.
    """
    array = _to_rows("probabilities", probabilities)
    dtype = np.promote_types(array.dtype, np.float32)
    sums, maxima, lowest = np.empty(len(array), dtype), np.empty(len(array) * with_maxima, dtype), np.inf
    for block, values, axis in row_blocks(array, dtype):
        with np.errstate(invalid="ignore", over="ignore"):  # infinities, reported below
            np.add.reduce(values, axis=axis, out=sums[block])
        if with_maxima:
            np.maximum.reduce(values, axis=axis, out=maxima[block])
        lowest = min(lowest, values.min())
    if not np.all(np.isfinite(sums)) and not np.all(np.isfinite(array)):
        raise ValueError("probabilities must be finite, got NaN or infinity.")
    half = "float16" in str(getattr(probabilities, "dtype", array.dtype))  # bfloat16 too
    tolerance = 1e-2 if half else 1e-3
    sums -= 1
    if lowest < 0 or max(-sums.min(), sums.max()) > tolerance:
        worst = int(np.argmax(np.abs(sums)))
        found = f"a value of {lowest:g}" if lowest < 0 else f"row {worst}, which sums to {sums[worst] + 1:g}"
        raise ValueError(
            f"probabilities must not be negative and each row must sum to 1 within {tolerance:g}, got {found}. "
            "If these are logits, apply a softmax over the classes first."
        )
    return array, _check_labels("probabilities", labels, *array.shape), maxima


def row_blocks(array: NDArray[Any], dtype: Any, size: int = BLOCK) -> Iterator[tuple[slice, NDArray[Any], int]]:
    """Blocks of rows that stay in the cache, and the axis of their classes."""
    num_samples, num_labels = array.shape
    rows = max(1, size // max(1, num_labels))
    for start in range(0, num_samples, rows):
        block = slice(start, start + rows)
        values = array[block]
        if num_labels <= 128:  # NumPy reduces long contiguous rows far faster than many short ones
            yield block, np.ascontiguousarray(values.T, dtype=dtype), 0
        else:
            yield block, values.astype(dtype, copy=False), 1


def check_logits(
    logits: ArrayLike, labels: ArrayLike | None = None, name: str = "logits"
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """As [`check_probabilities`], for logits: any finite values. Without labels the second array is empty."""
    array = _to_rows(name, logits)
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite, got NaN or infinity.")
    return array, np.empty(0, np.int64) if labels is None else _check_labels(name, labels, *array.shape)


def check_scores(name: str, scores: ArrayLike) -> NDArray[np.float64]:
    """The scores as a float64 array of shape `(num_samples,)`, finite and not empty, or a `ValueError`."""
    array = to_numpy(name, scores)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"{name} must hold one score for each of at least 1 sample, got shape {array.shape}.")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite, got NaN or infinity.")
    return array.astype(np.float64, copy=False)


def check_n_bins(n_bins: Any) -> int:
    """`n_bins` as an `int` of at least 1; `TypeError` or `ValueError` otherwise."""
    return check_count("n_bins", n_bins)


def check_positive(name: str, value: Any) -> float:
    """The value as a `float` above 0, or a `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < np.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}.")
    return float(value)


def check_gamma(gamma: Any, name: str = "gamma") -> float:
    """Gamma as a `float` of at least 0, or a `ValueError`."""
    largest = sys.float_info.max  # of whole numbers, some are beyond it
    if isinstance(gamma, bool) or not isinstance(gamma, Real) or gamma < 0 or not gamma <= largest:
        raise ValueError(f"{name} must be a number of at least 0, got {gamma!r}.")
    return float(gamma)


def check_count(name: str, value: Any) -> int:
    """The value as an `int` of at least 1; `TypeError` or `ValueError` otherwise."""
    try:
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if count < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}.")
    return count


def suggestion(name: object, names: Iterable[str]) -> str:
    """A question for the end of an error: whether the nearest of the names is meant; nothing where none is near."""
    known = {one.lower(): one for one in names}
    near = get_close_matches(str(name).lower(), known, n=1, cutoff=0.65)
    return f" Did you mean {known[near[0]]!r}?" if near else ""


def means_folder(name: str) -> bool:
    """Whether a name is a path; an id on the Hub is one word, or two with a slash between."""
    parts = name.split("/")
    return (
        name.startswith((".", "~"))
        or "\\" in name
        or "" in parts
        or len(parts) > 2
        or len(parts) == 2
        and Path(parts[0]).is_dir()
    )


def refuse_missing_folder(name: str | Path, what: str = "folder", on_hub: bool = True) -> None:
    """Refuse the name of a folder where there is nothing; what may be an id `on_hub` passes, unless it is a path."""
    path = Path(name)
    if path.exists() or on_hub and not means_folder(str(name)):
        return
    near = suggestion(path.name, (one.name for one in path.parent.iterdir()) if path.parent.is_dir() else ())
    if path.expanduser() != path and path.expanduser().exists():
        near = f" Did you mean {path.expanduser()}?"
    raise FileNotFoundError(f"There is no such {what}: {name}.{near}")
