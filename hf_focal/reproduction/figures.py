# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The paper's figures, drawn of what the cells of a grid left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..metrics import METRICS
from ..metrics.risk_coverage import ConfidentPredictions, confident_predictions
from ..results.dynamics_file import average_rows
from ..results.error_bars import ERRORS
from ..results.plots.bars import draw_bars
from ..results.plots.dynamics import (
    gradient_norm_histograms,
    gradient_ratio_curves,
    nll_and_entropy_curves,
    weight_norm_curves,
)
from ..results.plots.reliability import reliability_diagram
from ..results.report import LEVEL
from ..robustness.plots import roc_diagram
from .claims import FOCAL, PLAIN, SAMPLED, unfamiliar_data
from .measured import BEST, MOMENTS, Row, Run, estimate


if TYPE_CHECKING:
    from ..results.plots.picture import Picture

SURE = 0.99  # the confidence above which Appendix H counts
_CHOSEN = (PLAIN, "label_smoothing", "brier", "mmce", FOCAL, SAMPLED)  # of that on unfamiliar data
_LINES = (PLAIN, "focal-1", "focal-2", FOCAL, SAMPLED)  # of the figures on training


def figures(row: Row) -> Iterator[tuple[str, str, Picture]]:
    """All that can be drawn of a row: the name of a file, what it is in the paper, and the picture."""
    if not row.runs:
        return
    tracked = {
        loss: [run for run in row.runs.get(loss, []) if run.dynamics] for loss in _LINES if loss in row.runs
    }  # fmt: skip
    if curves := {loss: average_rows([run.dynamics for run in runs]) for loss, runs in tracked.items() if runs}:
        yield "figure1", "Figure 1: NLL and entropy during training", nll_and_entropy_curves(curves)
        yield "figure2", "Figure 2: norm of the last layer", weight_norm_curves(curves)
        if sized := {loss: rows for loss, rows in curves.items() if any(one["gradient_norms"] for one in rows)}:
            words = "Figure 3 (b to d): gradients of all training samples"
            yield "figure3", words, gradient_norm_histograms(sized)
    yield "figure4", "Figure 4: calibration errors", _bars(row)
    familiar = {loss: runs[0] for loss, runs in row.runs.items() if runs[0].entropies and loss in _CHOSEN}
    if familiar:
        yield "figure5", "Figure 5: unfamiliar data (first seed)", _curves_of(familiar)
    chosen = {loss: row.runs[loss][0] for loss in (PLAIN, SAMPLED) if loss in row.runs}
    if len(chosen) == 2 and _same_labels(list(chosen.values())):
        panels = {
            f"{loss} {moment}": run.scored(moment).probabilities for loss, run in chosen.items() for moment in MOMENTS
        }
        labels = next(iter(chosen.values())).scored("before").labels
        yield "figureA1", "Figure A.1: reliability (first seed)", reliability_diagram(panels, labels)


def ratio() -> Picture:
    """Figure 3 (a), which needs no run."""
    return gradient_ratio_curves()


def left(rows: Sequence[Row]) -> Picture | None:
    """The NLL of each loss before calibration and after its best map: what is left of its advantage."""
    shown = [row for row in rows if row.in_paper and len(row.runs) > 1 and not row.is_stopped]
    known = Counter(row.network for row in shown)
    found: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {}
    for row in shown:
        panel = row.network if known[row.network] == 1 else f"{row.network} ({row.preset}/{row.table.name})"
        for loss, runs in row.runs.items():
            both = {moment: estimate(runs, "nll", place) for moment, place in (("before", "before"), ("after", BEST))}
            bars = {moment: (one.mean, float(one.low or 0), float(one.high or 0)) for moment, one in both.items()}
            found.setdefault(f"{panel}: NLL", {})[loss] = bars
    return draw_bars(found, LEVEL, "nats", "after the best map") if found else None


def _bars(row: Row) -> Picture:
    found: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {}
    for key in ERRORS:
        for loss, runs in row.runs.items():
            both = {moment: estimate(runs, key, moment) for moment in MOMENTS}
            bars = {moment: (one.mean, float(one.low or 0), float(one.high or 0)) for moment, one in both.items()}
            found.setdefault(METRICS[key].title, {})[loss] = bars
    return draw_bars(found, LEVEL)


def _curves_of(runs: Mapping[str, Run]) -> Picture:
    panels = {
        title: {
            loss: {moment: (run.entropies[moment]["familiar"], run.entropies[moment][title]) for moment in MOMENTS}
            for loss, run in runs.items()
        }
        for title in unfamiliar_data({loss: [run] for loss, run in runs.items()})
    }
    return roc_diagram(panels)


def _same_labels(runs: Sequence[Run]) -> bool:
    first = runs[0].scored("before").labels
    return all(np.array_equal(first, run.scored("before").labels) for run in runs)


def sure_answers(row: Row) -> list[tuple[Run, str, ConfidentPredictions]]:
    """Appendix H: of each run at each moment its answers of confidence 0.99 and more, and how many are right."""
    return [
        (run, moment, confident_predictions(run.scored(moment).probabilities, run.scored(moment).labels, SURE))
        for runs in row.runs.values()
        for run in runs
        for moment in MOMENTS
    ]
