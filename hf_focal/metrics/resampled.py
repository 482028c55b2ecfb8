# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Metrics of a resample from what each sample adds: that is worked out once, and then only drawn and summed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Statistic
from .bins import bin_indices
from .scored import Scored


def mean_of(values: NDArray[np.float64]) -> Statistic:
    """The mean of the rows' values."""
    return lambda rows: float(values.take(rows).mean() + 0.0)


def binned_gaps(scored: Scored, n_bins: int) -> Any:
    """A function of rows: the size of the summed gap of each bin of equal width, and the bin of each row."""
    confidences, correct = scored.pairs
    wide = confidences.astype(np.float64)
    bins, gaps = bin_indices(wide, n_bins), wide - correct

    def of_rows(rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        drawn = bins.take(rows)
        return np.abs(np.bincount(drawn, gaps.take(rows))), drawn

    return of_rows
