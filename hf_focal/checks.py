# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What arrays, lists and tensors may hold: checks that name the argument, what was found and what is needed."""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Iterator
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import leave_out_masked, to_numpy
from .spill import Rows, forget


IGNORED = -100  # the label that no loss and no metric counts
BLOCK = 1 << 16  # values read at a time: they stay in the cache
SUM_TOLERANCE = 1e-3  # of the sum of probabilities, without asking for a reason
MASK = -3e38  # logits from here on down only masks have: -inf, and the lowest numbers of float32, bfloat16 and float64
LARGEST = 1e6  # of gammas and weights: beyond it nothing changes but that numbers overflow
LARGE_BLOCK = 1 << 20  # values read at a time by what goes through all of them once
_MAPPED = 1 << 25  # bytes of a mapped file that are held at a time
_NO_SOFTMAX = "If these are logits, apply a softmax over the classes first."


def _to_rows(name: str, value: Any) -> NDArray[Any]:
    """The values as a floating-point matrix, a row for each sample and a column for each class."""
    array = to_numpy(name, value)
    if array.ndim != 2:
        hint = " If these are batches, concatenate them first." if array.ndim == 3 else ""
        raise ValueError(f"{name} must have shape (num_samples, num_labels), got {array.shape}.{hint}")
    if array.shape[0] == 0:
        raise ValueError(f"{name} must hold at least one sample, got shape {array.shape}.")
    if array.shape[1] < 2:
        raise ValueError(
            f"{name} must have a column for each of at least 2 classes, got shape {array.shape}. For a binary "
            "classifier that gives one probability p, stack [1 - p, p]."
        )
    if array.dtype == np.float16:  # with which NumPy reckons some thirty times slower
        return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)[array.view(np.uint16)]
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _check_labels(name: str, labels: Any, num_samples: int, num_labels: int) -> NDArray[np.int64]:
    array = to_numpy("labels", labels)
    if array.ndim != 1:
        raise ValueError(f"labels must have shape (num_samples,), got {array.shape}. Pass class indices, not one-hot.")
    if len(array) != num_samples:
        raise ValueError(f"{name} and labels must have the same length, got {num_samples} and {len(array)}.")
    if array.dtype.kind == "f" and not np.all(np.isfinite(array) & (array == np.floor(array))):
        raise ValueError("labels must be whole numbers, got NaN, infinity or a fraction.")
    exact = {"float16": 2048, "bfloat16": 256}.get(str(getattr(labels, "dtype", "")).removeprefix("torch."))
    if exact and array.max() > exact:
        raise ValueError(
            f"labels must be integers: half precision has rounded those above {exact}, up to {array.max()}."
        )
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
    row (nothing where those are not asked for), or a `ValueError` that says what was found and what is needed. Rows
    that are masked, or whose label is, are left out. Rows that sum to 1 within 0.001 stay as they are; of others that
    rounding explains each row is divided by its sum, with a warning.
    """
    probabilities, labels = leave_out_masked(probabilities=probabilities, labels=labels)
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
    sums -= 1
    if lowest < 0 or max(-sums.min(), sums.max()) > SUM_TOLERANCE:
        array = _unrounded(array, sums, float(lowest))
        maxima = array.max(axis=1) if with_maxima else maxima
    return array, _check_labels("probabilities", labels, *array.shape), maxima


def _unrounded(array: NDArray[Any], off: NDArray[Any], lowest: float) -> NDArray[Any]:
    """Probabilities whose rows miss 1 by `off`, divided by their sums where rounding explains that."""
    num_labels, told = array.shape[1], []
    half = all(map(_of_half_precision, _parts(array)))
    below = 1e-3 if half else 1e-6  # 0
    if lowest < -below:
        row = int(array.min(axis=1).argmin())
        raise _no_probabilities(f"a value of {lowest:g} in row {row}", _NO_SOFTMAX)
    clipped = np.clip(array, 0, 1) if lowest < 0 else None
    if clipped is not None:
        told.append(f"some are below 0 by at most {below:g} and were set to 0")
        array, off = clipped, clipped.sum(axis=1) - 1
    row = int(np.abs(off).argmax())
    far = abs(float(off[row]))
    if far > SUM_TOLERANCE:
        digits = next((one for one in range(2, 7) if all(_of_decimals(part, one) for part in _parts(array))), None)
        by_decimals = 0.0 if digits is None else num_labels * 0.5 * 10.0**-digits * (1 + 1e-4)
        bound = min(by_decimals, 5e-2)
        if half and far <= 1e-2:
            told.append("rows sum to 1 only within 0.01, as after rounding to half precision")
        elif far <= bound:
            told.append(f"rows sum to 1 only within {bound:.2g}, as after rounding to {digits} decimals")
        elif far <= 5e-3 and all(map(_of_three_digits, _parts(array))):
            told.append("rows sum to 1 only within 0.005, as after rounding to 3 significant digits")
        else:
            hint = _NO_SOFTMAX
            if abs(np.median(off) - 99) <= 5:
                hint = "If these are percentages, divide them by 100 first."
            elif far <= min(by_decimals, 0.5):
                hint += f" If they were rounded to {digits} decimals, that is too few for {num_labels} classes."
            raise _no_probabilities(f"row {row}, which sums to {off[row] + 1:g}", hint)
    warnings.warn(
        f"The probabilities are rounded: {', and '.join(told)}. Each row was divided by its sum.",
        UserWarning,
        stacklevel=_outside(),
    )
    noise = min(1e-5, num_labels * float(np.finfo(array.dtype).eps))
    sums = np.where(np.abs(off) > noise, off + 1, 1)  # of rows that sum to 1, values on the edge of a bin stay there
    return np.divide(array, sums.astype(array.dtype, copy=False)[:, None], out=clipped)


def _no_probabilities(found: str, hint: str) -> ValueError:
    return ValueError(
        f"probabilities must not be negative and each row must sum to 1 within {SUM_TOLERANCE:g}, got {found}. {hint}"
    )


def _parts(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return parts_of(array)


def parts_of(array: NDArray[Any], size: int = BLOCK) -> Iterator[NDArray[Any]]:
    """Some rows at a time. Of a file that is mapped into memory no more is held than is of use."""
    rows, read = max(1, size // max(1, array.shape[1])), 0
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        yield part
        read += len(part) * max(part[:1].nbytes, abs(array.strides[0]))  # rows that are left out are read as well
        if read > _MAPPED or start + rows >= len(array):
            forget(array)
            read = 0


def _of_half_precision(values: NDArray[Any]) -> bool:
    """Whether bfloat16, or float16, holds all values exactly."""
    with np.errstate(over="ignore"):
        single, half = values.astype(np.float32), values.astype(np.float16)
    brain = (single == values) & (single.view(np.uint32) & 0xFFFF == 0)
    return bool(brain.all() or (half == values).all())


def _of_decimals(values: NDArray[Any], digits: int) -> bool:
    """Whether all values have so many decimals, as far as their type can tell."""
    return _are_whole(values.astype(np.float64) * 10.0**digits, values.dtype)


def _of_three_digits(values: NDArray[Any]) -> bool:
    """Whether all values have three significant digits, as far as their type can tell."""
    wide = values.astype(np.float64)
    leading = np.floor(np.log10(wide, out=np.zeros_like(wide), where=wide > 1e-290))
    return _are_whole(wide * 10.0 ** (2 - leading), values.dtype)


def _are_whole(scaled: NDArray[np.float64], dtype: Any) -> bool:
    return bool((np.abs(scaled - np.rint(scaled)) <= np.finfo(dtype).eps * scaled).all())


def _outside() -> int:
    """The `stacklevel` of a warning that points at who called this package."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __name__.partition(".")[0]:
        frame, level = frame.f_back, level + 1
    return level


def warn_of_probabilities(name: str, array: NDArray[Any]) -> None:
    """
    Warn where what should be logits looks like probabilities: values in [0, 1] of at least 5 rows that all sum to 1,
    or that reach from below 0.1 to above 0.9 as sigmoid outputs do. Logits that are all so are next to impossible, but
    for those of a ReLU, of which many are 0, and for one-hot rows, which are left alone.
    """
    if len(array) < 5:
        return
    low, high, whole, off = np.inf, -np.inf, 0, 0.0
    for part in _parts(array):
        low, high = min(low, part.min()), max(high, part.max())
        if not (low >= 0 and high <= 1):  # logits, or NaN: mostly known after the first block
            return
        whole += int(np.count_nonzero((part == 0) | (part == 1)))
        off = max(off, float(np.abs(part.sum(axis=1, dtype=np.float64) - 1).max()))
    softmax = off <= 5e-2 and whole < array.size
    sigmoid = low < 0.1 and high > 0.9 and whole < array.size / 3
    if not (softmax or sigmoid):
        return
    if softmax:
        seen, out = "rows sum to 1, as after a softmax", "`np.log(probabilities)`, whose softmax they are"
    else:
        seen, out = "they look like sigmoid outputs", "`scipy.special.logit(probabilities)`"
    warnings.warn(
        f"The {name} look like probabilities: all lie in [0, 1], and {seen}. Their softmax is much flatter than they "
        f"are. Pass the model's raw outputs, or {out}; metrics of probabilities have functions of their own, such as "
        "`calibration_metrics`.",
        UserWarning,
        stacklevel=_outside(),
    )


def row_blocks(array: NDArray[Any], dtype: Any, size: int = BLOCK) -> Iterator[tuple[slice, NDArray[Any], int]]:
    """Blocks of rows that stay in the cache, and the axis of their classes."""
    start, num_labels = 0, array.shape[1]
    for values in parts_of(array, size):
        block = slice(start, start + len(values))
        start = block.stop
        if num_labels <= 128:  # NumPy reduces long contiguous rows far faster than many short ones
            yield block, np.ascontiguousarray(values.T, dtype=dtype), 0
        else:
            yield block, values.astype(dtype, copy=False), 1


def check_logits(
    logits: ArrayLike, labels: ArrayLike | None = None, name: str = "logits"
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """
    As [`check_probabilities`], for logits: any finite values, and -inf where a class is masked, which the lowest
    number of a floating point type becomes as well. Without labels the second array is empty.
    """
    if labels is not None:
        logits, labels = leave_out_masked(**{name: logits, "labels": labels})
    array = _to_rows(name, logits)
    low, high = ends_of(array)
    floor = max(MASK, float(np.finfo(array.dtype).min))
    if not (low > floor and high < np.inf):
        array = _masked(name, array, floor)
    warn_of_probabilities(name, array)
    return array, np.empty(0, np.int64) if labels is None else _check_labels(name, labels, *array.shape)


def check_outputs(
    logits: ArrayLike, labels: ArrayLike | None = None, name: str = "logits"
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """
    The logits of a sigmoid head, `(num_samples, num_labels)` and finite, with of each whether its label is right: 1,
    0, or [`IGNORED`] where that is not known; or a `ValueError`. Of one logit the labels may have the shape
    `(num_samples,)`. Without labels the second array is empty.
    """
    array = to_numpy(name, logits)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must have shape (num_samples, num_labels) and not be empty, got {array.shape}.")
    array = array if array.dtype.kind == "f" and array.itemsize > 2 else array.astype(np.float64)
    finite = np.concatenate([np.isfinite(part).all(axis=1) for part in parts_of(array, LARGE_BLOCK)])
    if not finite.all():
        row, others = _first_row(~finite)
        raise ValueError(f"{name} of a sigmoid head must be finite, got NaN or infinity in row {row}{others}.")
    warn_of_probabilities(name, array)
    return array, np.empty(0, np.int64) if labels is None else known_outputs(to_numpy("labels", labels), array.shape)


def known_outputs(labels: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Labels of a sigmoid head with logits of that shape, as 1, 0 and [`IGNORED`], for which NaN stands as well."""
    if labels.shape != shape and not (shape[1:] == (1,) and labels.shape == shape[:1]):
        raise ValueError(
            f"labels must hold 0 or 1 for each of the {shape[1]} outputs of each sample, shape {shape}, got "
            f"{labels.shape}."
        )
    if labels.dtype.kind == "f":
        labels = np.where(np.isnan(labels), IGNORED, labels)
    wrong = (labels != 0) & (labels != 1) & (labels != IGNORED)
    if wrong.any():
        raise ValueError(
            f"labels of a sigmoid head must be 0 or 1, or {IGNORED} where they are not known, got "
            f"{labels[wrong].flat[0]}."
        )
    return labels.astype(np.int64).reshape(shape)


def ends_of(array: NDArray[Any]) -> tuple[float, float]:
    """The least and the largest value, or NaN where there is one."""
    with np.errstate(invalid="ignore"):  # NaN, which whoever asks reports
        lows, highs = zip(*((part.min(), part.max()) for part in parts_of(array, LARGE_BLOCK)), strict=True)
        return float(np.min(lows)), float(np.max(highs))


def _masked(name: str, array: NDArray[Any], floor: float) -> NDArray[Any]:
    """The logits with -inf for every mask; NaN, +inf and a row in which no class is left are refused by row."""
    needed = f"{name} must be finite, or -inf for a class that is masked"
    wrong, empty, finite = [], [], False
    for part in parts_of(array, LARGE_BLOCK):
        masked = part <= floor
        wrong.append((np.isnan(part) | (part == np.inf)).any(axis=1))
        empty.append(masked.all(axis=1))
        finite = finite or bool((part[masked] > -np.inf).any())
    rows = np.concatenate(wrong)
    if rows.any():
        row, others = _first_row(rows)
        found = "NaN" if np.isnan(array[row]).any() else "+inf"
        raise ValueError(
            f"{needed}, got {found} in row {row}{others}. Such logits come from a model that diverged, or that "
            "overflowed in half precision: mend that, or leave the rows out."
        )
    rows = np.concatenate(empty)
    if rows.any():
        row, others = _first_row(rows)
        raise ValueError(
            f"{needed}, got a mask for every class in row {row}{others}. One must be left: mask fewer classes there, "
            "or leave the rows out."
        )
    if not finite:
        return array
    changed = Rows()
    for part in parts_of(array, LARGE_BLOCK):
        changed.add(np.where(part <= floor, -np.inf, part))
    return changed.array()


def refuse_masked_labels(logits: NDArray[Any], labels: NDArray[np.int64]) -> None:
    """Refuse rows whose true class is masked: it has probability 0 whatever is fitted, and their NLL is infinite."""
    start, impossible = 0, np.empty(len(labels), bool)
    for part in parts_of(logits, LARGE_BLOCK):
        rows = slice(start, start + len(part))
        start, impossible[rows] = rows.stop, part[np.arange(len(part)), labels[rows]] == -np.inf
    if impossible.any():
        row, others = _first_row(impossible)
        raise ValueError(
            f"The class of a label must not be masked, but that of row {row}{others}, {labels[row]}, has the logit "
            "-inf: its probability is 0 whatever the temperature. Leave the rows out, or do not mask the class."
        )


def _first_row(rows: NDArray[np.bool_]) -> tuple[int, str]:
    """The first row that is marked, and words on how many more there are."""
    others = int(np.count_nonzero(rows)) - 1
    return int(rows.argmax()), f" (and {others} more)" if others else ""


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
    if isinstance(gamma, bool) or not isinstance(gamma, Real) or gamma < 0 or not gamma < LARGEST:
        raise ValueError(f"{name} must be a number of at least 0, and below {LARGEST:g}, got {gamma!r}.")
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
