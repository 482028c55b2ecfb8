# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Saved predictions of a model: of what kind they are, by their columns, and their rows in blocks of equal size."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from ..names import suggestion
from .table_files import MOST_CLASSES, CsvTable, Rows, Table


_NEEDED = (
    "`logits` or `probabilities` with `label`, `topk_probabilities` and `topk_classes` with `label`, or `confidence` "
    "and `correct`"
)


class SavedPredictions:
    """
    Predictions of one model: what kind they are of, and their rows in blocks of equal size, over all tables.

    Args:
        tables (`Sequence[Table]`):
            All with the same columns.
        names (`Mapping[str, str]`, *optional*):
            What columns are called that are not called as they should be.

    Attributes:
        kind (`str`): `"logits"`, `"probabilities"`, `"topk"` or `"pairs"`.
        width (`int`): Number of classes of logits and probabilities, else 1.
        of_outputs (`bool`): Whether labels hold 0 or 1 for each of them, as those of a sigmoid head do.
        num_rows (`int`): Number of rows.
    """

    _KINDS = {
        "logits": ("logits", "label"), "probabilities": ("probabilities", "label"),
        "topk": ("topk_probabilities", "topk_classes", "label"), "pairs": ("confidence", "correct"),
    }  # fmt: skip

    def __init__(self, tables: Sequence[Table], names: Mapping[str, str] | None = None) -> None:
        self.tables, self._names = tables, dict(names or {})
        self.name = tables[0].name
        self.kind, self.of_outputs = self._kind(), False
        self.width = self._width()

    def _kind(self) -> str:
        columns = self.tables[0].columns
        for column, name in self._names.items():
            if not self._held(column):
                near = suggestion(name, columns)
                raise ValueError(f"{self.name} has no column {name!r}, but {_listed(columns)}.{near}")
        asked = [kind for kind, needed in self._KINDS.items() if {*needed[:-1]} & {*self._names}]
        for kind in asked or self._KINDS:
            if all(map(self._held, self._KINDS[kind])):
                return kind
        if any(self._held(kind) for kind in ("logits", "probabilities")):
            raise ValueError(f"{self.name} has no column `label`, but {_listed(columns)}. See --label_column_name.")
        raise ValueError(
            f"{self.name} has the columns {_listed(columns)}. Needed are {_NEEDED}; --help says how others are named."
        )

    def _held(self, column: str) -> list[str]:
        """The columns that hold one: itself, or those of its single classes, such as `probabilities_0`."""
        name, columns = self._names.get(column, column), self.tables[0].columns
        if name in columns:
            return [name]
        numbered = {
            int(found[1]): one
            for one in columns
            if (found := re.fullmatch(rf"{re.escape(name)}[_.]?(\d{{1,7}})", one))
        }
        return (
            [numbered[place] for place in range(len(numbered))] if sorted(numbered) == [*range(len(numbered))] else []
        )

    def _width(self) -> int:
        if self.kind not in ("logits", "probabilities"):
            return 1
        for table in self.tables:
            if table.num_rows:
                row = next(self._read(table, 0, 1, 1))
                first = row[self.kind]
                self.of_outputs = first.ndim == 2 and row["label"].shape == first.shape
                if first.ndim != 2 or first.shape[1] < 2 and not self.of_outputs:
                    raise ValueError(
                        f"{table.name}: {self.kind!r} must hold a number for each of at least 2 classes in every row. "
                        "Of a binary classifier that gives one probability p, save [1 - p, p], or [p] with `label` as "
                        "lists of one number, too."
                    )
                if first.shape[1] > MOST_CLASSES:
                    raise ValueError(f"{table.name}: {self.kind!r} has more than {MOST_CLASSES:,} classes.")
                return first.shape[1]
        raise ValueError(f"{self.name} holds no rows.")

    @cached_property
    def num_rows(self) -> int:
        """Number of rows of all tables."""
        return sum(table.num_rows for table in self.tables)

    def blocks(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Rows]]:
        """The rows from `start` to `stop` in blocks of `size`, each with its first row; the last may be smaller."""
        waiting: list[Rows] = []
        place = start
        for rows in self._parts(size, start, stop):
            waiting.append(rows)
            while sum(map(_length, waiting)) >= size:
                whole = _joined(waiting)
                yield place, {name: values[:size] for name, values in whole.items()}
                place += size
                waiting = [{name: values[size:] for name, values in whole.items()}]
        if waiting and _length(last := _joined(waiting)):
            yield place, last

    def _parts(self, size: int, start: int, stop: int | None) -> Iterator[Rows]:
        first = 0
        for table in self.tables:
            if stop is None and start == 0:
                yield from self._read(table, 0, 1 << 62, size)
                continue
            last = first + table.num_rows
            end = last if stop is None else min(stop, last)
            if first < end and last > start:
                yield from self._read(table, max(start - first, 0), end - first, size)
            first = last

    def _read(self, table: Table, start: int, stop: int, size: int) -> Iterator[Rows]:
        held = {column: self._held(column) for column in self._KINDS[self.kind]}
        wanted = [name for names in held.values() for name in names]
        if missing := [name for name in wanted if name not in table.columns]:
            raise ValueError(f"{table.name} has no column {missing[0]!r}, as {self.name} has.")
        stop = min(stop, table.num_rows) if not isinstance(table, CsvTable) else stop
        for rows in table.read(wanted, start, stop, size):
            yield {
                column: rows[names[0]] if len(names) == 1 else np.stack([rows[name] for name in names], axis=1)
                for column, names in held.items()
            }


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(columns[:12]) + (f" and {len(columns) - 12} more" if len(columns) > 12 else "")


def _length(rows: Rows) -> int:
    return len(next(iter(rows.values())))


def _joined(parts: list[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    shapes = [{name: values.shape[1:] for name, values in part.items()} for part in parts]
    for one in shapes[1:]:
        if one != shapes[0]:
            raise ValueError(f"All rows must have equally many numbers, got {one} after {shapes[0]}.")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
