# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What chance alone does to calibration errors: noise floor, p-value, and intervals that take it into account."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import bdtr, ndtr

from ..arrays import check_groups
from ..progress import progress
from .gaps import Cells, ClassCells, Floats, GapError, Gaps, Parts, TopCells
from .output_cells import OutputCells


SPARSE = 10.0  # variance of a count below which it is drawn as the binomial that it is
DRAWS, CLASS_DRAWS = 1000, 200
_DRAWN = 1 << 25  # labels that are drawn at most, down to 100 of each sample
_WEIGHTS = 1 << 22  # weights of groups that are drawn at a time
_PRODUCTS, _NUMBERS = 1 << 29, 1 << 23  # of draws with rows, and with parts, at most, down to 200 draws
_RATIO = 9.0  # how much a variance may differ from the one that noise was drawn with
_LEAST = 0.1  # of a standard error: what a gap must be to have a direction
_NEAR = 1 / 3  # of the gaps that were found: up to here the noise is that of a calibrated model


def group_numbers(groups: ArrayLike | None, num_samples: int, least: int = 1) -> NDArray[np.int64] | None:
    """As [`check_groups`]; `least` is how many groups there must be, or samples where there are no groups."""
    numbers = None if groups is None else check_groups(groups, num_samples)
    found = num_samples if numbers is None else int(numbers.max()) + 1
    if found < least:
        what = "group" if groups is not None else "sample"
        raise ValueError(f"An interval needs at least {least} {what}s, got {found}: nothing tells how they scatter.")
    return numbers


@dataclass(frozen=True)
class NoiseFloor:
    """
    What a metric of a perfectly calibrated model with the same probabilities would show on as many samples.

    Attributes:
        median, low, high (`float`): Middle of its values, and the ends of the range that holds `level` of them.
    """

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Floats, level: float) -> NoiseFloor:
        """The floor that was drawn."""
        low, median, high = np.quantile(values, [(1 - level) / 2, 0.5, (1 + level) / 2]).tolist()
        return NoiseFloor(median, low, high)


class Law:
    """
    The law of a calibration error, given the true gaps.

    How many of a cell come true is binomial, with the variance that is left where what was said differs within the
    cell; labels of classes are drawn row by row, for the classes of a row depend on each other. Samples of a group
    enter by the scatter of the groups' own sums. Labels of a sigmoid head are binomial in each cell, which holds no
    more than one of a sample, and what the labels of a sample have in common makes the cells depend on each other.

    Args:
        error ([`GapError`]), cells ([`Cells`]):
            The error, and what was counted.
        numbers (`np.ndarray`, *optional*):
            The group of each sample, numbered from 0.
        seed (`int`, *optional*, defaults to `0`):
            Of the draws.
        standard (`np.ndarray` of shape `(draws, n_filled_cells)`, *optional*):
            Standard normal draws in place of its own, where there are no groups.
    """

    def __init__(
        self,
        error: GapError,
        cells: Cells,
        numbers: NDArray[np.int64] | None = None,
        seed: int = 0,
        standard: Floats | None = None,
    ) -> None:
        self.error, self.cells, self.numbers = error, cells, numbers
        self.generator = np.random.default_rng(seed)
        filled = cells.filled
        self.counts, self.said, self.came = cells.counts[filled], cells.said[filled], cells.came[filled]
        self.mean = np.clip(self.said / self.counts, 0.0, 1.0)
        self.apart = isinstance(cells, OutputCells) and numbers is not None and cells.are_apart(numbers)
        owners = [cells.owners[filled]] if isinstance(cells, OutputCells) else []
        self.shape = np.stack([self.counts, self.mean, *owners])
        self.observed = float(error.observed(self.came - self.said, self.shape))
        self.standard = standard
        self.together = False  # whether its noise is drawn with that of others

    @cached_property
    def residuals(self) -> csr_array:
        """What each group came to less what was to be expected of it, `(n_groups, n_filled_cells)`."""
        if self.numbers is None:
            raise ValueError("There are no groups.")
        total = csr_array((int(self.numbers.max()) + 1, len(self.mean)))
        for groups, columns, values in self._residuals_of_rows(self.numbers):
            total = total + csr_array((values, (groups, columns)), shape=total.shape)
        return total

    def _residuals_of_rows(
        self, numbers: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Floats]]:
        """The same of each row, some at a time: their groups and cells, and the numbers."""
        gaps, columns = np.zeros(len(self.cells.counts)), np.zeros(len(self.cells.counts), np.int64)
        gaps[self.cells.filled] = self.likely_gaps
        columns[self.cells.filled] = np.arange(len(self.mean))
        for part in self.cells.pairs():
            values = part.weights * (part.came - part.said - gaps[part.cells])
            yield numbers[part.rows], columns[part.cells], values

    def _scatter(self, numbers: NDArray[np.int64]) -> float:
        """The summed squares of the residuals; of classes in little memory where the rows of a group lie together."""
        if not isinstance(self.cells, ClassCells) or np.any(np.diff(numbers) < 0):
            return float(self.residuals.power(2).sum())
        total, last, sums = 0.0, -1, np.zeros(len(self.mean))
        for groups, columns, values in self._residuals_of_rows(numbers):
            first, shape = int(groups[0]), (int(groups[-1] - groups[0]) + 1, len(self.mean))
            found = csr_array((values, (groups - first, columns)), shape=shape)
            found.sum_duplicates()  # which SciPy below 1.14 leaves apart
            if first == last:
                sums += found[[0]].toarray()[0]
            else:
                total, sums = total + float(sums @ sums), found[[0]].toarray()[0]
            if shape[0] > 1:  # the last one may go on
                inner = found[1:-1].data
                total, sums = total + float(sums @ sums) + float(inner @ inner), found[[-1]].toarray()[0]
            last = int(groups[-1])
        return total + float(sums @ sums)

    @cached_property
    def plain_shares(self) -> Floats:
        """What is likely to come true, were the samples independent: neither all nor nothing."""
        least = 0.5 / (self.counts + 1)
        return np.clip(self.mean + self.error.likely(self._gaps(1.0)), least, 1 - least)

    @property
    def likely_gaps(self) -> Floats:
        """What is likely to come true of each cell less what was said, were the samples independent."""
        return self.plain_shares - self.mean

    def _gaps(self, inflation: float) -> Gaps:
        shares = (self.came + self.mean) / (self.counts + 1)
        variance = inflation * np.maximum(shares * (1 - shares), 1e-9) / self.counts
        gaps, cells = self.came / self.counts - self.mean, self.cells
        return Gaps(self.counts, self.mean, gaps, variance, inflation, cells.filled, cells.n_bins)

    @cached_property
    def gaps(self) -> Gaps:
        """What was observed."""
        if self.numbers is None or self.apart:
            return self._gaps(1.0)
        shares = self.plain_shares
        independent = float((self.counts * shares * (1 - shares)).sum())
        return self._gaps(max(self._scatter(self.numbers) / max(independent, 1e-300), 1e-3))

    def along(self, direction: Callable[[Gaps], Floats]) -> Floats:
        """
        Gaps to look along. Where 0 or 1 is nearer than a standard error, as where a sure model was always right, what
        was observed says little of the direction, and the other one leads further. Classes tell it of each other.
        """
        gaps = direction(self.gaps)
        shares = (self.came + 0.5) / (self.counts + 1)
        error = np.sqrt(shares * (1 - shares) / self.counts)
        inwards = np.where(self.mean < 0.5, 1, -1) * np.maximum(np.abs(gaps), _LEAST * error)
        if isinstance(self.cells, ClassCells):
            return gaps if np.abs(gaps).max() > 1e-12 else inwards
        ahead = np.where(gaps > 0, 1 - self.mean, self.mean)
        return np.where((ahead < error) | (np.abs(gaps) < _LEAST * error), inwards, gaps)

    # ---- Draws ------------------------------------------------------------------------------------------------------

    def drawn(self, shares: Floats) -> Floats:
        """Summed gaps, `(draws, n_filled_cells)`, where so large shares of the cells come true."""
        expected = self.counts * (shares - self.mean)
        if isinstance(self.cells, ClassCells) and not self.together:
            # Sums of groups are too few and too skewed here to be drawn by themselves: only their scatter counts.
            found = self.counts @ np.abs(self._fitted_shares - self.mean)
            near = self.counts @ np.abs(shares - self.mean) <= _NEAR * found
            noise = self._scaled(self._of_null if near else self._of_fit, shares)
            return expected + np.sqrt(self.gaps.inflation) * noise
        if self.numbers is not None and not self.apart:
            return expected + self._scaled(self.of_groups, shares)
        counts, spread, weights = self._parts
        if weights is None:
            return expected + _outcomes(*self._normal, counts, shares, spread)
        return expected + _outcomes(*self._normal, counts, np.minimum(weights @ shares, 1.0), spread) @ weights

    @cached_property
    def _parts(self) -> Parts:
        """Whose outcomes are counted together, of cells that are not empty."""
        counts, spread, weights = cast(TopCells, self.cells).parts
        filled = self.cells.filled
        if weights is None:
            return Parts(counts[filled], spread[filled], None)
        return Parts(counts, spread, weights if len(filled) == weights.shape[1] else weights[:, filled])

    @cached_property
    def _normal(self) -> tuple[Floats, Floats]:
        standard = self.standard
        if standard is None and self.apart:
            (standard,) = _of_samples([self], self.generator)
        elif standard is None:
            standard = self.generator.normal(size=(DRAWS, len(self._parts.counts)))
        return standard, ndtr(standard)

    @cached_property
    def _fitted_shares(self) -> Floats:
        return np.clip(self.mean + self.along(self.error.low), 0.0, 1.0)

    @cached_property
    def of_groups(self) -> tuple[Floats, Floats]:
        """Noise whose covariance is that of the groups' sums, and the shares it is for."""
        ((noise, shares),) = _noise_of_groups([self], self.generator, DRAWS)
        return noise, shares

    @cached_property
    def of_parts(self) -> csr_array:
        """What each group came to in each part less what was to be expected, `(n_groups, n_parts)`, scaled to 1."""
        cells, filled = cast(OutputCells, self.cells), self.cells.filled
        places, shares = cells.placed, self.plain_shares
        if (weights := self._parts.weights) is None:
            places = np.searchsorted(filled, places)
        else:
            shares = np.minimum(weights @ shares, 1.0)
        residuals = cells.outcomes[1] - shares[places]
        sizes = np.sqrt(np.bincount(places, residuals**2, len(self._parts.counts)))
        values = residuals / np.maximum(sizes, 1e-300)[places]
        numbers = cast(NDArray[np.int64], self.numbers)
        return csr_array((values, (numbers, places)), shape=(int(numbers.max()) + 1, len(sizes)))

    @staticmethod
    def draw_together(laws: Sequence[Law], generator: np.random.Generator, draws: int) -> None:
        """Let laws of the same groups have noise of the same weight of each group, so many times."""
        if all(law.apart for law in laws):
            for law, standard in zip(laws, _of_samples(laws, generator, draws), strict=True):
                law.standard = standard
            return
        for law, noise in zip(laws, _noise_of_groups(laws, generator, draws), strict=True):
            law.together, law.of_groups = True, noise

    def _of_labels(self, ratios: Floats | None = None) -> Floats:
        """Noise of labels that are drawn row by row."""
        cells = cast(ClassCells, self.cells)
        draws = int(np.clip(_DRAWN // len(cells.scored), 100, CLASS_DRAWS))
        return cells.drawn(self.generator, draws, ratios)

    @cached_property
    def _of_null(self) -> tuple[Floats, Floats]:
        return self._of_labels(), self.mean

    @cached_property
    def _of_fit(self) -> tuple[Floats, Floats]:
        ratios = np.ones(len(self.cells.counts))
        ratios[self.cells.filled] = np.clip(self._fitted_shares, 1e-12, 1) / np.maximum(self.mean, 1e-12)
        return self._of_labels(ratios), self._fitted_shares

    @staticmethod
    def _scaled(reference: tuple[Floats, Floats], shares: Floats) -> Floats:
        noise, where = reference
        ratios = shares * (1 - shares) / np.maximum(where * (1 - where), 1e-9)
        return noise * np.sqrt(np.clip(ratios, 1 / _RATIO, _RATIO))

    # ---- What follows from them -------------------------------------------------------------------------------------

    @cached_property
    def calibrated(self) -> Floats:
        """Values of the metric that a calibrated model would show."""
        return self.error.value(self.drawn(self.mean), self.shape)

    def interval(self, level: float) -> tuple[float, float]:
        """
        The true errors under which the observed one lies in neither tail: a test that is inverted along gaps that are
        the observed ones, shrunk, times any factor. That fewer gaps are seen than chance shows tells nothing: the
        upper end takes an observed error for no less than what a calibrated model shows in 15% of all data.
        """
        tail, rounding = (1 - level) / 2, 1e-12
        usual = np.quantile(self.error.observed(self.drawn(self.mean), self.shape), 0.15)
        least, most = self.observed - rounding, max(self.observed, usual) + rounding
        low = self._end(self.along(self.error.low), lambda drawn: bool(np.quantile(drawn, 1 - tail) >= least))
        high = self._end(self.along(self.error.high), lambda drawn: bool(np.quantile(drawn, tail) > most))
        return min(low, high), high

    def _end(self, gaps: Floats, beyond: Callable[[Floats], bool]) -> float:
        """The true error at the smallest factor for which the law of the error is beyond what was observed."""

        def at(factor: float) -> Floats:
            return np.clip(self.mean + factor * gaps, 0.0, 1.0)

        def is_beyond(factor: float) -> bool:
            return beyond(self.error.observed(self.drawn(at(factor)), self.shape))

        def true(factor: float) -> float:
            return float(self.error.true(self.counts * (at(factor) - self.mean), self.shape))

        if is_beyond(0.0):
            return true(0.0)
        low, high = 0.0, 1.0
        while not is_beyond(high):
            low, high = high, 2 * high
            if true(high) == true(low):  # every share is 0 or 1
                return true(high)
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (low, middle) if is_beyond(middle) else (middle, high)
        return true((low + high) / 2)


def _noise_of_groups(laws: Sequence[Law], generator: np.random.Generator, draws: int) -> list[tuple[Floats, Floats]]:
    """Of each law sums of the groups' residuals, each times a weight that is drawn, and the shares they are for."""
    count, noise = laws[0].residuals.shape[0], [np.empty((draws, len(law.mean))) for law in laws]
    at_once = max(1, _WEIGHTS // count)
    for start in range(0, draws, at_once):
        weights = generator.normal(size=(min(at_once, draws - start), count))
        for law, into in zip(laws, noise, strict=True):
            into[start : start + at_once] = (law.residuals.T @ weights.T).T
    few = np.sqrt(count / max(count - 1, 1))
    return [(few * one, law.plain_shares) for one, law in zip(noise, laws, strict=True)]


def _of_samples(laws: Sequence[Law], generator: np.random.Generator, draws: int = DRAWS) -> list[Floats]:
    """
    Standard normal draws for the parts of each law, `(draws, n_parts)`, which depend on each other as the labels of a
    sample do: sums of what each sample came to, times a weight that is drawn.
    """
    found = [law.of_parts for law in laws]
    most = min(_PRODUCTS // max(one.nnz for one in found), _NUMBERS // max(one.shape[1] for one in found))
    draws, count = int(np.clip(most, min(200, draws), draws)), found[0].shape[0]
    standard, at_once = [np.empty((draws, one.shape[1])) for one in found], max(1, _WEIGHTS // count)
    for start in range(0, draws, at_once):
        weights = generator.normal(size=(count, min(at_once, draws - start)))
        for one, into in zip(found, standard, strict=True):
            into[start : start + at_once] = (one.T @ weights).T
    return standard


def _outcomes(standard: Floats, uniform: Floats, counts: Floats, shares: Floats, spread: Floats) -> Floats:
    """How many of each cell come true, less what is to be expected: binomial, normal where that is as good."""
    variance = counts * shares * (1 - shares)
    noise = np.rint(counts * shares + standard * np.sqrt(variance)) - counts * shares  # whole numbers come true
    noise *= np.sqrt(np.clip(1 - spread / np.maximum(variance, 1e-300), 0.25, 1.0))
    for cell in np.flatnonzero(variance < SPARSE):  # exact, so that what is observed can tie with what is drawn
        count, share = counts[cell], shares[cell]
        rare, sign, levels = (share, 1, uniform[:, cell]) if share <= 0.5 else (1 - share, -1, 1 - uniform[:, cell])
        expected = count * rare
        most = int(min(count, expected + 10 * np.sqrt(expected) + 10))
        table = bdtr(np.arange(most), int(count), rare)
        noise[:, cell] = sign * (np.searchsorted(table, levels) - expected)
    return noise


def wholly_dependent(cells: Cells, numbers: NDArray[np.int64], seed: int, error: GapError) -> Floats:
    """
    Values of the metric of a calibrated model whose samples of a group are as dependent as they can be: one random
    number a group decides all its outcomes.
    """
    generator = np.random.default_rng(seed)
    levels = generator.random((CLASS_DRAWS, int(numbers.max()) + 1))
    came = np.zeros((CLASS_DRAWS, len(cells.counts)))
    for row, level in progress(zip(came, levels, strict=True), "noise floor", CLASS_DRAWS):
        for chosen, inside in _decided(cells, level[numbers]):
            row += np.bincount(chosen, inside, len(row))
    filled = cells.filled
    shape = np.stack([cells.counts[filled], np.clip(cells.said[filled] / cells.counts[filled], 0, 1)])
    return error.value((came - cells.said)[:, filled], shape)


def _decided(cells: Cells, levels: Floats) -> Iterator[tuple[NDArray[np.int64], Floats | None]]:
    """The cells in which something comes true, and how much of it, where each row has a random number."""
    if isinstance(cells, ClassCells):
        for block, indices, values in cells.rows():
            sums = np.cumsum(values, axis=1)
            places = (sums <= (levels[block] * sums[:, -1])[:, None]).sum(axis=1).clip(max=values.shape[1] - 1)
            yield indices[np.arange(len(values)), places], None
    else:
        for part in cells.pairs():
            true = levels[part.rows] < part.said
            yield part.cells[true], part.weights[true]
