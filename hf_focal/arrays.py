# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Whatever people keep numbers in, read as NumPy arrays: tensors, columns, tables, lists of these, with masks."""

from __future__ import annotations

import re
from contextlib import suppress
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_numpy(name: str, value: Any) -> NDArray[Any]:
    """
    The values as a real NumPy array. They may be an array of NumPy or of another library, a tensor on any device, with
    a gradient or of half precision, a column or table of pandas, Arrow or `datasets`, one of lists included, a list of
    any of these, or of numbers. What has masked values is refused: see [`leave_out_masked`].
    """
    value, masked = _split_mask(name, value)
    if masked is not None:
        where = f"row {int(masked.argmax())}" if masked.any() else "all"
        raise ValueError(f"{name} must have no masked values here, got some ({where}). Leave those rows out first.")
    array = _read(name, value)
    if array.dtype.kind not in "fiub":
        texts = array.dtype.kind in "OTSU" and any(isinstance(one, str | bytes) for one in array.flat)
        hint = " Turn names into class indices first." if texts and name == "labels" else ""
        raise ValueError(f"{name} must hold real numbers, got an array of dtype {array.dtype}.{hint}")
    return array


def _read(name: str, value: Any) -> NDArray[Any]:
    """The values as a NumPy array of whatever they are, without their mask."""
    if type(value).__module__.partition(".")[0] == "datasets":  # a column, which would be read row by row
        value = value[:]
    if getattr(value, "is_nested", False):  # a tensor of tensors
        value = value.unbind()
    rows = value if isinstance(value, list | tuple) else []
    if any(hasattr(row, "detach") for row in rows[:1]):  # NumPy would read each number on its own
        return _stacked(name, rows)
    try:
        array = _as_array(value)
    except (ValueError, TypeError, RuntimeError, BufferError) as error:
        if len(rows):
            return _stacked(name, rows)
        what = " ".join(str(error).split())
        raise ValueError(f"{name} cannot be read as an array from a {type(value).__name__}: {what}") from error
    if array.dtype.kind != "O":
        return array
    column = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if column.ndim == 1 and any(np.ndim(row) or hasattr(row, "detach") for row in column[:1]):
        return _stacked(name, column)
    if hasattr(value, "iloc") and all(isinstance(one, Real) for one in array.flat):  # pandas
        return array.astype(np.float64)
    return array


def _as_array(value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):  # a torch tensor; NumPy has no bfloat16
        value = value.detach()
        value = value.to_dense() if "sparse" in str(value.layout) else value
        value = value.float() if "float16" in str(value.dtype) or "float8" in str(value.dtype) else value
        value = value.cpu().resolve_conj().resolve_neg()
    elif hasattr(value, "toarray"):  # a sparse matrix of SciPy
        value = value.toarray()
    elif hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        value = np.from_dlpack(value)
    array = np.asarray(value)
    if array.dtype.kind == "V" and re.match(r"b?float\d|u?int\d", array.dtype.name):  # of ml_dtypes
        return array.astype(np.float32)
    return array


def _stacked(name: str, rows: Any) -> NDArray[Any]:
    """Arrays or tensors of one shape, one after another."""
    arrays = [to_numpy(name, row) for row in rows]
    if len({array.shape for array in arrays}) > 1:
        raise ValueError(
            f"{name} must be a rectangular array of numbers, got rows of unequal length. If these are batches, "
            "concatenate them first."
        )
    return np.stack(arrays)


def _split_mask(name: str, value: Any) -> tuple[Any, NDArray[np.bool_] | None]:
    """The values without their mask, and which rows it hides, if any."""
    if isinstance(value, list | tuple) and any(isinstance(one, np.ma.MaskedArray) for one in value):
        try:
            value = np.ma.stack([np.ma.asanyarray(one) for one in value])
        except ValueError:  # of unequal length, which is refused when it is read
            return value, None
    if not isinstance(value, np.ma.MaskedArray):
        return value, None
    mask: NDArray[np.bool_] = np.ma.getmaskarray(value)
    data = value.data
    if not mask.any():
        return data, None
    by_row = mask.reshape(len(mask) if mask.ndim else 1, -1)
    hidden = np.asarray(by_row.all(axis=1))
    parts = np.flatnonzero(by_row.any(axis=1) & ~hidden)
    if len(parts):
        count = int(by_row[parts[0]].sum())
        raise ValueError(
            f"{name} has {count} of {by_row.shape[1]} values masked in row {parts[0]}: mask whole rows only."
        )
    return data, hidden


def leave_out_masked(**arrays: Any) -> list[Any]:
    """Arrays that belong together, without the rows that are masked in any of them; `None` stays."""
    split = {name: _split_mask(name, value) for name, value in arrays.items()}
    masks = {name: mask for name, (_, mask) in split.items() if mask is not None}
    values = {name: value for name, (value, _) in split.items()}
    if not masks:
        return list(values.values())
    (first, mask), *_ = masks.items()
    kept = np.ones(len(mask), bool)
    for name, value in values.items():
        if value is None:
            continue
        values[name] = value = value if isinstance(value, list | tuple) else _read(name, value)
        length = len(value) if np.ndim(value) else 0
        if length != len(kept):
            raise ValueError(f"{first} and {name} must have the same length, got {len(kept)} and {length}.")
        kept &= ~masks.get(name, ~kept)
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            values[name] = value[kept]
        elif value is not None:
            values[name] = [one for one, stays in zip(value, kept, strict=True) if stays]
    return list(values.values())


def check_groups(groups: Any, num_samples: int) -> NDArray[np.int64]:
    """
    The group of each sample as a number from 0, in the order of the groups, or where they have none, as they come.
    Groups are told apart by whole numbers, texts, dates or any other ids that can be keys of a dictionary.
    """
    array = _read("groups", groups)
    plain = array.ndim == 1 and array.dtype.kind in "iufb"
    if isinstance(groups, list | tuple) and not plain:  # as an array all would be of one type
        array = np.fromiter(groups, dtype=object, count=len(groups))
    found = f"an array of shape {array.shape} and dtype {array.dtype}"
    if array.shape == (num_samples,) and array.dtype.kind not in "cV":
        try:
            return _numbered(array)
        except (TypeError, ValueError) as error:
            found = str(error)
    raise ValueError(
        f"groups must hold a whole number for each of the {num_samples} samples, got {found}. Texts, dates and other "
        "ids are good as well."
    )


def _numbered(array: NDArray[Any]) -> NDArray[np.int64]:
    """The place of each value among all different ones."""
    if any(map(_is_missing, array)) if array.dtype.kind == "O" else np.any(array != array):
        raise ValueError("missing values")
    if array.dtype.kind == "f" and not np.all(np.isfinite(array) & (array == np.floor(array))):
        raise ValueError("fractions or infinity")
    if array.dtype.kind != "O":
        return np.unique(array, return_inverse=True)[1].astype(np.int64, copy=False)
    names = dict.fromkeys(array)
    with suppress(TypeError):  # they have no order
        names = dict.fromkeys(sorted(names))
    places = {one: place for place, one in enumerate(names)}
    return np.array([places[one] for one in array], dtype=np.int64)


def _is_missing(value: Any) -> bool:
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):  # pandas.NA, which is neither; an array
        return not np.ndim(value)
