# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""F1 of the answers of sigmoid heads, yes above a probability of 0.5: of all labels together, and their mean."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .base import register_metric
from .output_sums import OutputSums
from .outputs import ScoredOutputs
from .scored import SIGMOID, Scored


def _rows(scored: ScoredOutputs) -> tuple[NDArray[Any], ...]:
    """Of each row whether yes was said and right, whether it was said, whether it was right, and 1."""
    yes, came = scored.yes, scored.labels == 1
    return yes & came, yes, came, np.ones(len(yes))


def f1_of(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """That of such sums; 0 where nothing was right and no yes was said, as of scikit-learn."""
    both = totals[..., 1] + totals[..., 2]
    return 2 * totals[..., 0] / np.where(both > 0, both, 1)


def _mean_of_labels(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of labels of which something is known."""
    known = totals[..., 3] > 0
    return (f1_of(totals) * known).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)


_MICRO = OutputSums(_rows, lambda totals: f1_of(totals.sum(axis=-2)))
_MACRO = OutputSums(_rows, _mean_of_labels, by_label=True)
_DETAILS: dict[str, Any] = {"lower_is_better": False, "binned": False, "heads": (SIGMOID,), "rank": 1}


@register_metric("f1_micro", title="F1 (micro)", sums=_MICRO, **_DETAILS)
def _micro(scored: Scored, n_bins: int = 0) -> float:
    return float(_MICRO.of(cast(ScoredOutputs, scored)))


@register_metric("f1_macro", title="F1 (macro)", sums=_MACRO, **_DETAILS)
def _macro(scored: Scored, n_bins: int = 0) -> float:
    return float(_MACRO.of(cast(ScoredOutputs, scored)))
