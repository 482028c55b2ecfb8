# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Calibration errors of sigmoid heads: the mean over labels, of cells that each label has of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import block_diag, csr_array, eye_array

from .gaps import Cells, Floats, GapError, Gaps, Parts, RowCells, TopCells, mean_size, shrunk_sizes
from .outputs import ScoredOutputs
from .scored import Scored


_ROWS = 1 << 20  # pairs at a time


class OutputCells(Cells):
    """
    The cells of each label, `n_bins` of them, one label after another; those that a label has no use for are empty.

    Attributes:
        owners (`np.ndarray` of shape `(n_cells,)`): The number of the label of each cell.
    """

    def __init__(self, scored: Scored, n_bins: int, cells: Callable[[Scored, int], Cells]) -> None:
        self._scored, self.n_bins = cast(ScoredOutputs, scored), n_bins
        each = self._scored.each.values()
        self._rows = [rows for rows, _ in each]
        self._labels = [cast(TopCells, cells(one, n_bins)) for _, one in each]
        self.counts, self.said, self.came = (self._together(name) for name in ("counts", "said", "came"))
        self.owners = np.repeat(np.arange(len(self._labels)), n_bins)

    def _together(self, name: str) -> Floats:
        table = np.zeros((len(self._labels), self.n_bins))
        for row, one in zip(table, self._labels, strict=True):
            values = getattr(one, name)
            row[: len(values)] = values
        return table.ravel()

    def pairs(self) -> Iterator[RowCells]:
        waiting: list[RowCells] = []
        for number, (rows, one) in enumerate(zip(self._rows, self._labels, strict=True)):
            for part in one.pairs():
                waiting.append(part._replace(rows=rows[part.rows], cells=part.cells + number * self.n_bins))
            if sum(len(part.rows) for part in waiting) >= _ROWS or number + 1 == len(self._labels):
                yield RowCells(*map(np.concatenate, zip(*waiting, strict=True)))
                waiting = []

    def are_apart(self, numbers: NDArray[np.int64]) -> bool:
        """Whether no two values of a label are of one group, so that those of a cell do not depend on each other."""
        places = self._scored.columns * (int(numbers.max()) + 1) + numbers
        return len(np.unique(places)) == len(places)

    @cached_property
    def parts(self) -> Parts:
        """Whose outcomes are counted together: those of a cell, or that tie where cells part them."""
        ones = [one.parts for one in self._labels]
        if all(one.weights is None for one in ones):
            counts, spread = np.zeros((2, len(self.counts)))
            for number, one in enumerate(ones):
                place = number * self.n_bins
                counts[place : place + len(one.counts)] = one.counts
                spread[place : place + len(one.counts)] = one.spread
            return Parts(counts, spread, None)
        weights = []
        for one in ones:
            own = eye_array(len(one.counts)) if one.weights is None else one.weights
            wide = csr_array(own)
            wide.resize((wide.shape[0], self.n_bins))
            weights.append(wide)
        counts, spread = (np.concatenate([getattr(one, name) for one in ones]) for name in ("counts", "spread"))
        return Parts(counts, spread, csr_array(block_diag(weights)))

    @cached_property
    def placed(self) -> NDArray[np.int64]:
        """The part of each row."""
        places, start = np.empty(len(self._scored), np.int64), 0
        whole = self.parts.weights is None
        for number, (rows, one) in enumerate(zip(self._rows, self._labels, strict=True)):
            places[rows] = one.placed[0] + (number * self.n_bins if whole else start)
            start += len(one.parts.counts)
        return places

    @property
    def outcomes(self) -> tuple[Floats, Floats]:
        """What was said in each row, and whether it came true."""
        said, came = self._scored.pairs
        return said.astype(np.float64), came.astype(np.float64)


def less_shrunk_sizes(observed: Gaps) -> Floats:
    """Half way from [`shrunk_sizes`] to what was observed: labels that are off are so by more than their mean."""
    return (shrunk_sizes(observed) + observed.gaps) / 2


def of_labels(error: GapError) -> GapError:
    """The mean over labels of a calibration error, by how many values of each are known."""

    def mean(value: Callable[[Floats, Floats], Floats] | None) -> Callable[[Floats, Floats], Floats] | None:
        if value is None or value is mean_size:  # which is that mean already
            return value

        def of_all(gaps: Floats, cells: Floats) -> Floats:
            total: Floats = np.zeros(gaps.shape[:-1])
            for owner in np.unique(cells[2]):
                own = cells[2] == owner
                total = total + cells[0, own].sum() * value(gaps[..., own], cells[:2, own])
            return total / cells[0].sum()

        return of_all

    kept = cast(Callable[[Floats, Floats], Floats], mean(error.value))
    return replace(
        error, value=kept, statistic=mean(error.statistic), error=mean(error.error),
        high=less_shrunk_sizes if error.high is shrunk_sizes else error.high,
        cells=lambda scored, n_bins: OutputCells(scored, n_bins, error.cells),
    )  # fmt: skip
