# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Labels that are missing from a data set: what is left out for it, and what is said of that."""

from __future__ import annotations

import logging

from datasets import Dataset

from .columns import HIDDEN, Column, NoColumn, is_class, is_missing
from .rows import keep_rows


logger = logging.getLogger(__name__)


class MissingLabels:
    """Labels that are missing: rows and splits without are left out, and counted in one warning."""

    def __init__(self) -> None:
        self.splits: set[str] = set()  # without any label
        self._counts: list[str] = []
        self._absent: dict[str, NoColumn] = {}  # of these, a column of labels
        self._hidden = False  # whether -1 stood for it where it might have been meant as a class

    def add_split(self, split: str, error: NoColumn) -> None:
        """A split has no column of labels."""
        self._absent[split] = error
        self.splits.add(split)
        self._counts.append(f"all of {split!r}")

    def leave_out(self, data: Dataset, split: str, column: str) -> Dataset | None:
        """The rows with a label in a column; `None` where there are none."""
        cells = data[column][:]
        kept = [not is_missing(cell) for cell in cells]
        if all(kept):
            return data
        self._hidden |= not is_class(data.features[column]) and any(cell in HIDDEN for cell in cells)
        lost = kept.count(False)
        self._counts.append(f"{lost} of {len(kept)} of {split!r}" if any(kept) else f"all {lost} of {split!r}")
        if any(kept):
            return keep_rows(data, kept)
        self.splits.add(split)
        return None

    def refusal(self, error: ValueError, label: Column) -> ValueError:
        """Why no splits can be chosen, which those without labels may be the reason of."""
        if self._absent.keys() == self.splits:
            return next(iter(self._absent.values()), error)
        mend = f"Name another column with {label.argument}, or use other data."
        return ValueError(f"{error} Without labels: {', '.join(self._counts)}. {mend}")

    def warn(self) -> None:
        """Say what was left out."""
        if self._counts:
            mend = " Where -1 is a class of its own, write the labels as strings." if self._hidden else ""
            logger.warning("Rows without a label (-1, or nothing) are left out: %s.%s", ", ".join(self._counts), mend)
