# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Metrics of sigmoid heads that follow from sums over samples: they are resampled by sample without their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..progress import progress
from .outputs import ScoredOutputs


Floats = NDArray[np.float64]
_NUMBERS = 1 << 22  # weights of samples at a time


@dataclass(frozen=True)
class OutputSums:
    """
    A metric that is a function of sums over samples.

    Attributes:
        rows (`Callable[[ScoredOutputs], tuple[np.ndarray, ...]]`): What each row adds, some numbers of shape
            `(num_rows,)`.
        value (`Callable[[np.ndarray], np.ndarray]`): The metric of their sums `(..., num_outputs, n_numbers)`.
        by_label (`bool`): Whether it asks for the sums of each label; else those of all are given as of one.
    """

    rows: Callable[[ScoredOutputs], tuple[NDArray[Any], ...]]
    value: Callable[[Floats], Any]
    by_label: bool = False

    def of(self, scored: ScoredOutputs) -> Any:
        """The metric of all rows."""
        return self.value(self.totals(scored))

    def totals(self, scored: ScoredOutputs) -> Floats:
        """The sums of all rows, `(num_outputs, n_numbers)`, of one output where they are not kept by label."""
        columns = scored.columns if self.by_label else np.zeros(len(scored), np.int64)
        size = scored.num_outputs if self.by_label else 1
        sums: list[NDArray[Any]] = [np.bincount(columns, values, size) for values in self.rows(scored)]
        return np.stack(sums, axis=-1)

    def by_group(self, scored: ScoredOutputs, numbers: NDArray[np.int64]) -> Floats:
        """The same of each group, `(n_groups, num_outputs, n_numbers)`."""
        size, count = scored.num_outputs if self.by_label else 1, int(numbers.max()) + 1
        places = numbers * size + (scored.columns if self.by_label else 0)
        sums: list[NDArray[Any]] = [np.bincount(places, values, count * size) for values in self.rows(scored)]
        return np.stack(sums, axis=-1).reshape(count, size, -1)

    def resampled(
        self, scored: ScoredOutputs, numbers: NDArray[np.int64] | None, n_resamples: int, seed: int, title: str
    ) -> Floats:
        """
        Its value on resamples of groups; of equal seed and groups they are the same ones. They are those of
        [`bootstrap_interval`].
        """
        sums = self.by_group(scored, np.arange(len(scored)) if numbers is None else numbers)
        values = []
        for drawn in _draws(len(sums), n_resamples, seed, title):
            totals = drawn @ sums.reshape(len(sums), -1)
            values.append(np.asarray(self.value(totals.reshape(-1, *sums.shape[1:]))))
        return np.concatenate(values)


def _draws(count: int, n_resamples: int, seed: int, title: str) -> Iterator[Floats]:
    """How often each of the groups is drawn, some resamples at a time."""
    generator, at_once = np.random.default_rng(seed), max(1, _NUMBERS // count)
    waiting: list[NDArray[np.int64]] = []
    for number in progress(range(n_resamples), f"bootstrap of {title}"):
        waiting.append(np.bincount(generator.integers(0, count, count), minlength=count))
        if len(waiting) == at_once or number + 1 == n_resamples:
            yield np.array(waiting, dtype=np.float64)
            waiting = []


def mean_sums(values: Callable[[ScoredOutputs], NDArray[Any]]) -> OutputSums:
    """The mean over rows of what each of them has."""

    def mean(totals: Floats) -> Floats:
        sums = totals.sum(axis=-2)
        return sums[..., 0] / sums[..., 1] + 0.0  # no negative zero

    return OutputSums(lambda scored: (values(scored), np.ones(len(scored))), mean)
