# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Metrics by key, by name or by function, those that are no metrics of tables included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..names import suggestion
from .base import ALL_METRICS, Metric, Statistic
from .debiased_ece import DEBIASED
from .scored import Scored


AnyMetric = str | Callable[[Any, Any], float]


def metric_of(metric: AnyMetric) -> Metric:
    """The entry of a metric given by its key or its function, or one for any other function."""
    known = [*ALL_METRICS.values(), DEBIASED]
    if isinstance(metric, str):
        named = {entry.function.__name__: entry for entry in known if entry.function is not None}
        named |= {entry.key: entry for entry in known}  # a key comes before the name of another's function
        if metric in named:
            return named[metric]
    if not callable(metric):
        near = suggestion(metric, [*ALL_METRICS])
        raise ValueError(f"metric must be a function or one of {', '.join(ALL_METRICS)}, got {metric!r}.{near}")
    function: Callable[[Any, Any], float] = metric

    def resampled(scored: Scored, n_bins: int) -> Statistic:
        return lambda rows: float(function(scored.probabilities[rows], scored.labels[rows]))

    own = Metric("", "", function, binned=False, resampled=resampled)
    return next((entry for entry in known if metric in (entry.function, entry.value)), own)
