# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Calibration errors as functions of the gaps of cells, and which true gaps may be behind those observed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from .bins import bin_indices
from .scored import Scored


Floats = NDArray[np.float64]
POPULATED = 0.01  # share of the samples that a bin must hold for the interval of a largest gap
FAR = 4.0  # standard errors beyond which a gap is no chance and is not shrunk


class RowCells(NamedTuple):
    """
    Some pairs of what was said and what came true: their rows, their cells, the two, and how much of the pair is in
    the cell: all of it, but where bins of equal mass part samples that tie.
    """

    rows: NDArray[np.int64]
    cells: NDArray[np.int64]
    said: Floats
    came: Floats
    weights: Floats


class Parts(NamedTuple):
    """
    Samples whose outcomes are counted together: those of a cell, or that tie where cells part them.

    Attributes:
        counts, spread (`np.ndarray` of shape `(n_parts,)`): Number of samples, and sum of squared deviations of what
            was said from its mean.
        weights (`np.ndarray` of shape `(n_parts, n_cells)`, *optional*): How much of a part is in each cell; `None`
            where the parts are the cells.
    """

    counts: Floats
    spread: Floats
    weights: Floats | None


class Cells(ABC):
    """
    Pairs of a probability that was said and whether it came true, counted in cells.

    Attributes:
        counts, said, came (`np.ndarray` of shape `(n_cells,)`): Number of pairs, sum of what was said, how many came
            true.
        n_bins (`int`): How many cells in a row belong together.
    """

    counts: Floats
    said: Floats
    came: Floats
    n_bins: int

    @abstractmethod
    def pairs(self) -> Iterator[RowCells]:
        """Every pair, some rows at a time."""

    @cached_property
    def filled(self) -> NDArray[np.intp]:
        """The cells that are not empty."""
        return np.flatnonzero(self.counts > 0)


class TopCells(Cells):
    """Confidence and whether the answer was right, in bins of equal width or equal mass."""

    def __init__(self, scored: Scored, n_bins: int, adaptive: bool = False) -> None:
        bins = scored.bins(n_bins, adaptive)
        self.counts, self.said, self.came = bins.counts.astype(np.float64), bins.confidence_sums, bins.correct_sums
        self._pairs, self.adaptive, self.n_bins = scored.pairs, adaptive, n_bins

    @cached_property
    def placed(self) -> tuple[NDArray[np.int64], Floats | None]:
        """The part of each sample, and how much of each part is in each cell, if the parts are not the cells."""
        confidences = self._pairs[0].astype(np.float64)
        if not self.adaptive:
            return bin_indices(confidences, self.n_bins), None
        order = np.argsort(confidences, kind="stable")
        ordered, ends = confidences[order], np.cumsum(self.counts).astype(int)
        starts = ends - self.counts.astype(int)
        first, last = np.searchsorted(ordered, ordered[starts]), np.searchsorted(ordered, ordered[starts], "right")
        parted = first < starts
        edges = np.unique(np.concatenate([starts[~parted], first[parted], last[parted], [len(ordered)]]))
        parts = np.empty(len(order), np.int64)
        parts[order] = np.searchsorted(edges, np.arange(len(order)), "right") - 1
        if not parted.any():
            return parts, None
        lower, upper = edges[:-1, None], edges[1:, None]
        inside = np.maximum(np.minimum(upper, ends) - np.maximum(lower, starts), 0)
        return parts, inside / (upper - lower)

    @cached_property
    def parts(self) -> Parts:
        """Whose outcomes are counted together."""
        confidences, (parts, weights) = self._pairs[0].astype(np.float64), self.placed
        number = len(self.counts) if weights is None else len(weights)
        counts = np.bincount(parts, minlength=number).astype(np.float64)
        off = confidences - (np.bincount(parts, confidences, number) / np.maximum(counts, 1))[parts]
        return Parts(counts, np.bincount(parts, off * off, number).astype(np.float64), weights)

    def pairs(self) -> Iterator[RowCells]:
        said, came = (values.astype(np.float64) for values in self._pairs)
        parts, weights = self.placed
        rows, cells, inside = np.arange(len(parts)), parts, np.ones(len(parts))
        if weights is not None:
            many = csr_array(weights)[parts].tocoo()
            rows, cells, inside = many.row.astype(np.int64), many.col.astype(np.int64), many.data
        yield RowCells(rows, cells, said[rows], came[rows], inside)


class ClassCells(Cells):
    """The probability of each class and whether it was the true one, in bins of equal width for each class."""

    BLOCK = 1 << 19  # probabilities at a time

    def __init__(self, scored: Scored, n_bins: int, gaps: Floats) -> None:
        self.scored, self.n_bins = scored, n_bins
        self.counts, self.said = np.zeros((2, scored.num_labels * n_bins))
        for _, cells, values in self.rows():
            flat = cells.ravel()
            self.counts += np.bincount(flat, minlength=len(self.counts))
            self.said += np.bincount(flat, values.ravel(), len(self.counts))
        self.came = np.rint(self.said + gaps.ravel())

    def rows(self) -> Iterator[tuple[slice, NDArray[np.int64], Floats]]:
        """Rows of the matrix of probabilities, and the cell of each entry."""
        starts = np.arange(self.scored.num_labels) * self.n_bins
        for block, values, axis in self.scored.blocks(self.BLOCK):
            rows = values if axis else values.T
            yield block, bin_indices(rows, self.n_bins) + starts, rows

    def pairs(self) -> Iterator[RowCells]:
        for block, cells, values in self.rows():
            rows = np.arange(block.start, block.start + len(values))
            came = np.zeros(values.shape)
            came[np.arange(len(values)), self.scored.labels[block]] = 1
            whole = np.ones(values.size)
            yield RowCells(np.repeat(rows, values.shape[1]), cells.ravel(), values.ravel(), came.ravel(), whole)

    def drawn(self, generator: np.random.Generator, draws: int, ratios: Floats | None = None) -> Floats:
        """
        What chance adds to `came` in the cells that are not empty, `(draws, n_filled_cells)`: a label is drawn for
        each row from its own probabilities, or from those times a ratio for each cell, less what is to be expected.
        """
        places = np.zeros(len(self.counts), np.int64)
        places[self.filled] = np.arange(len(self.filled))
        noise = np.zeros((draws, len(self.filled)))
        for _, cells, values in self.rows():
            if ratios is not None:
                values = values * ratios[cells]
            flat = places[cells].ravel()
            sums = np.cumsum(values, axis=1)
            expected = np.bincount(flat, (values / sums[:, -1:]).ravel(), len(self.filled))
            sums /= sums[:, -1:]
            numbers = np.arange(len(values))
            sums += numbers[:, None]
            ends = sums.ravel()
            for draw in range(draws):
                found = np.searchsorted(ends, generator.random(len(values)) + numbers, side="right")
                chosen = flat[np.minimum(found, len(ends) - 1)]
                noise[draw] += np.bincount(chosen, minlength=len(self.filled)) - expected
        return noise


class Gaps(NamedTuple):
    """
    What was observed in the cells that are not empty.

    Attributes:
        counts, mean (`np.ndarray` of shape `(n_cells,)`): Number of pairs, and mean of what was said.
        gaps (`np.ndarray` of shape `(n_cells,)`): Share of what came true, less that mean.
        variance (`np.ndarray` of shape `(n_cells,)`): Of the gap, by chance.
        inflation (`float`): How much larger the variance is than that of independent samples.
        places (`np.ndarray` of shape `(n_cells,)`): The numbers of these cells among all.
        n_bins (`int`): How many cells in a row belong together, such as those of a class.
    """

    counts: Floats
    mean: Floats
    gaps: Floats
    variance: Floats
    inflation: float
    places: NDArray[np.intp]
    n_bins: int


Direction = Callable[[Gaps], Floats]


def as_observed(observed: Gaps) -> Floats:
    """The gaps as they are."""
    return observed.gaps


def shrunk_sizes(observed: Gaps) -> Floats:
    """
    Gaps of the observed signs, their sizes shrunk towards the mean size by how much of their scatter is chance
    (empirical Bayes, normal prior, by moments).
    """
    sizes, weights = np.abs(observed.gaps), observed.counts
    variance = observed.variance
    for _ in range(6):
        mean = weights @ sizes / weights.sum()
        prior = max(observed.counts @ ((sizes - mean) ** 2 - variance) / observed.counts.sum(), 0.0)
        weights = 1 / (variance + prior) if prior > 0 else observed.counts
    return np.where(observed.gaps < 0, -1, 1) * (mean + (sizes - mean) * prior / (variance + prior))


def as_large_as_may_be(observed: Gaps) -> Floats:
    """Every gap a standard error larger, but none above the largest: then many share the largest."""
    sizes = np.abs(observed.gaps)
    largest = sizes[populated(observed.counts)].max()
    return np.where(observed.gaps < 0, -1, 1) * np.minimum(sizes + np.sqrt(observed.variance), largest)


def populated(counts: Floats) -> NDArray[np.bool_]:
    """Bins that hold their share of the samples; the fullest where none does."""
    enough = counts >= POPULATED * counts.sum()
    return enough if enough.any() else counts == counts.max()


def common_gaps(observed: Gaps) -> Floats:
    """
    Of classes by bins, what a gap has in common with others: the gap that all classes have in this bin, and that of
    its class in all bins, shrunk by how much of the classes' scatter is chance (empirical Bayes, by moments).
    """
    return _common(observed)[0]


def _common(observed: Gaps) -> tuple[Floats, Floats]:
    """The same, and the variance of a sample of each cell."""
    counts, gaps, n_bins = observed.counts, observed.gaps, observed.n_bins
    classes, bins = np.divmod(observed.places, n_bins)
    totals = np.maximum(np.bincount(bins, counts, n_bins), 1)
    of_class, spread = np.zeros(len(gaps)), np.zeros(len(gaps))
    for _ in range(3):  # each without the other
        of_bin = (np.bincount(bins, counts * (gaps - of_class), n_bins) / totals)[bins]
        shares = np.clip(observed.mean + of_bin + of_class, 0.0, 1.0)
        mean = (np.bincount(bins, counts * shares, n_bins) / totals)[bins]
        shares = np.where(shares * (1 - shares) < 1e-6, np.clip(mean, 1e-6, 1 - 1e-6), shares)
        spread = shares * (1 - shares)
        # In units of the variance of one sample.
        known = np.maximum(np.bincount(classes, counts * spread), 1e-12)
        scores = np.bincount(classes, counts * (gaps - of_bin)) / known
        of_class = _shrunk(scores, observed.inflation / known)[classes] * spread
    return of_bin + of_class, spread


def of_classes(observed: Gaps) -> Floats:
    """Gaps of classes by bins, each shrunk towards what it has in common with others, see [`common_gaps`]."""
    counts, n_bins, bins = observed.counts, observed.n_bins, observed.places % observed.n_bins
    common, spread = _common(observed)
    variance = observed.inflation * spread / counts
    far = np.abs(observed.gaps - common) > FAR * np.sqrt(variance)
    kept = np.where(far, 0.0, counts)
    rest = kept * (1 - counts / np.maximum(np.bincount(bins, counts, n_bins), 1)[bins])
    excess = np.bincount(bins, kept * (observed.gaps - common) ** 2 - rest * variance, n_bins)
    prior = np.maximum(excess / np.maximum(np.bincount(bins, rest, n_bins), 1e-9), 0.0)[bins]
    return np.where(far, observed.gaps, common + (observed.gaps - common) * prior / (prior + variance))


def of_classes_less_shrunk(observed: Gaps) -> Floats:
    """Nearer to what was observed: gaps of single classes in single bins may be more than they have in common."""
    return 0.7 * of_classes(observed) + 0.3 * observed.gaps


def _shrunk(values: Floats, variance: Floats) -> Floats:
    """Values shrunk towards 0 by how much of their scatter is chance; those that cannot be are left alone."""
    far = np.abs(values) > FAR * np.sqrt(variance)
    weights = np.where(far, 0.0, 1 / variance)
    prior = max(float(weights @ (values**2 - variance)) / max(float(weights.sum()), 1e-300), 0.0)
    return np.where(far, values, values * prior / (prior + variance))


@dataclass(frozen=True)
class GapError:
    """
    A calibration error that is a function of the gaps of cells.

    Attributes:
        cells (`Callable[[Scored, int], Cells]`): The cells, of so many bins.
        value (`Callable[[np.ndarray, np.ndarray], np.ndarray]`): The metric of summed gaps `(..., n_cells)` of the
            cells that are not empty, with what was said in them as `(counts, mean)` of shape `(2, n_cells)`.
        statistic (`Callable`, *optional*): What the interval inverts in place of the value.
        error (`Callable`, *optional*): The same for true gaps without chance in them; by default the statistic.
        low, high (`Callable[[Gaps], np.ndarray]`): Along which gaps the lower and the upper end are looked for.
        likely (`Callable[[Gaps], np.ndarray]`): From which gaps the sums of groups scatter.
    """

    cells: Callable[[Scored, int], Cells]
    value: Callable[[Floats, Floats], Floats]
    statistic: Callable[[Floats, Floats], Floats] | None = None
    error: Callable[[Floats, Floats], Floats] | None = None
    low: Direction = shrunk_sizes
    high: Direction = shrunk_sizes
    likely: Direction = shrunk_sizes

    def observed(self, gaps: Floats, cells: Floats) -> Floats:
        """What the interval inverts."""
        return (self.statistic or self.value)(gaps, cells)

    def true(self, gaps: Floats, cells: Floats) -> Any:
        """The error of true gaps."""
        return (self.error or self.statistic or self.value)(gaps, cells)


def mean_size(gaps: Floats, cells: Floats) -> Floats:
    """Mean size of the gap over all pairs."""
    return np.abs(gaps).sum(axis=-1) / cells[0].sum()


def largest_size(gaps: Floats, cells: Floats) -> Floats:
    """Largest size of a cell's mean gap."""
    return (np.abs(gaps) / cells[0]).max(axis=-1)


def largest_size_of_populated(gaps: Floats, cells: Floats) -> Floats:
    """The same among cells that hold their share of the samples."""
    enough = populated(cells[0])
    return largest_size(gaps[..., enough], cells[:, enough])
