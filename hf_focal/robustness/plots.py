# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Pictures of models beside each other on unfamiliar data, in the style of the others; each call returns a Figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..results.plots.style import (
    GREY,
    MOMENTS,
    add_legend,
    drawing,
    legend_below,
    looks,
    short,
    tell,
    wrapped,
)
from .ood import auroc, roc_points
from .words import of_detection, of_risk, of_severities


if TYPE_CHECKING:
    from ..results.plots.picture import Picture


_SPARSE: dict[str, Any] = {"markevery": 0.2, "markersize": 5}  # marks along a line of many points
# What is drawn against severity, and in which unit.
_SHOWN: dict[str, Callable[[float], float]] = {
    "ece": lambda share: 100 * share,
    "nll": lambda nats: nats,
    "accuracy": lambda share: 100 * (1 - share),
}


def roc_diagram(scores: Mapping[str, Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]]]) -> Picture:
    """
    ROC curves (Mukhoti et al., 2020, Figure 5): one panel per out-of-distribution data set, one colour and mark per
    model.

    Args:
        scores (`Mapping`): By data set, model, and `"before"` and `"after"` calibration (dashed and solid;
            either will do): scores of in-distribution and out-of-distribution samples, as for [`auroc`].

    Returns:
        `matplotlib.figure.Figure`: 4 inches wide per panel, two a row.

    Raises:
        ValueError: If there is nothing to draw, or scores are empty or not finite.
    """
    _refuse_empty(scores)
    lines = max(sum(map(len, models.values())) for models in scores.values())
    columns = min(2, len(scores))
    rows = math.ceil(len(scores) / columns)
    with drawing(4.0 * columns, 0.8 + (3.9 + (0.17 + 0.07 * columns) * (lines + 1)) * rows) as figure:
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axis in axes.flat[len(scores) :]:
            axis.set_axis_off()
        for axis, (title, models) in zip(axes.flat, scores.items(), strict=False):
            for (model, moments), look in zip(models.items(), looks(models).values(), strict=True):
                for moment, pair in moments.items():
                    label = f"{short(model, 22)}, {moment}: {auroc(*pair):.1%}"
                    axis.plot(*roc_points(*pair), **look.of(moment), **_SPARSE, label=label)
            axis.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
            axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="false positive rate")
            axis.tick_params(labelbottom=True)
            axis.set_title(wrapped(figure, title, 3.5))
            legend_below(axis, "AUROC")
        for axis in axes[:, 0]:
            axis.set_ylabel("true positive rate")
        words, found = of_detection(scores)
        tell(figure, words, f"ROC curves of how well the entropy tells other data from the test data. {found}")
    return figure


def _answers_differ(by_severity: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> bool:
    """Whether calibration changed how often a model is right, which a temperature never does."""
    return any(row["before"]["accuracy"] != row["after"]["accuracy"] for row in by_severity.values())


def severity_diagram(results: Mapping[str, Mapping[int, Mapping[str, Mapping[str, Any]]]]) -> Picture:
    """
    ECE, NLL and error against the severity of a corruption, one colour per model.

    Args:
        results (`Mapping`): By model, severity (0 for clean data), and `"before"` and `"after"` (dashed and solid):
            what [`calibration_metrics`] returns and, under `"intervals"` if at all, each metric's interval (bars: of
            its true value) and, under `"by_chance"`, the [`NoiseFloor`] of the ECE as a mapping (dotted: its upper
            end).

    Returns:
        `matplotlib.figure.Figure`: Three panels, 8 inches wide.

    Raises:
        ValueError: If there is nothing to draw.
    """
    _refuse_empty(results)
    with drawing(8.0, 3.4) as figure:
        axes = figure.subplots(1, 3, sharex=True)
        for (model, by_severity), look in zip(results.items(), looks(results).values(), strict=True):
            severities = sorted(by_severity)
            for moment in MOMENTS:
                style = look.of(moment)
                rows = [by_severity[severity][moment] for severity in severities]
                for axis, (key, shown) in zip(axes, _SHOWN.items(), strict=True):
                    if key == "accuracy" and moment == "before" and not _answers_differ(by_severity):
                        continue
                    values = [shown(row[key]) for row in rows]
                    axis.plot(severities, values, label=f"{short(model, 22)}, {moment}", markersize=4, **style)
                    if all("intervals" in row for row in rows):
                        ends = np.array([[shown(end) for end in row["intervals"][key]] for row in rows])
                        axis.vlines(severities, ends.min(axis=1), ends.max(axis=1), color=look.colour, linewidth=1)
                if all("by_chance" in row for row in rows):
                    chance = [100 * row["by_chance"]["high"] for row in rows]
                    last = model == [*results][-1] and moment == "after"
                    named = {"label": "ECE by chance, at most"} if last else {}
                    axes[0].plot(severities, chance, color=look.colour, linestyle=":", linewidth=1, **named)
        ticks = sorted(set().union(*results.values()))
        for axis, name in zip(axes, ("ECE in %", "NLL in nats", "error in %"), strict=True):
            axis.set(xlabel="severity", ylabel=name, xticks=ticks)
            axis.set_ylim(bottom=0)
        add_legend(figure, axes[0])
        words, found = of_severities(results)
        tell(figure, words, f"Curves of ECE, NLL and error against the severity of a corruption. {found}")
    return figure


def risk_coverage_diagram(curves: Mapping[str, Mapping[str, tuple[NDArray[Any], NDArray[Any]]]]) -> Picture:
    """
    Error of the most confident predictions against the share of samples that is predicted, one colour per model.

    Args:
        curves (`Mapping`): By model, then by `"before"` and `"after"` calibration (dashed and solid; either
            will do): what [`risk_coverage_curve`] returns.

    Returns:
        `matplotlib.figure.Figure`: 5 inches wide; the legend gives the area under each curve.

    Raises:
        ValueError: If there is nothing to draw.
    """
    _refuse_empty(curves)
    lines = sum(map(len, curves.values()))
    with drawing(5.0, 4.4 + 0.19 * (lines + 1)) as figure:
        axis, highest = figure.subplots(), 0.0
        for (model, moments), look in zip(curves.items(), looks(curves).values(), strict=True):
            for moment, (coverage, risk) in moments.items():
                label = f"{short(model)}, {moment}: {risk.mean():.2%}"
                axis.plot(100 * coverage, 100 * risk, **look.of(moment), **_SPARSE, label=label)
                highest = max(highest, risk[len(risk) // 50 :].max())  # of fewer samples it jumps up and down
        axis.set(xlim=(0, 100), xlabel="coverage in % of the answers", ylabel="error in %")
        axis.set_ylim(0, max(105 * highest, 1))
        legend_below(axis, "AURC")
        words, found = of_risk(curves)
        tell(figure, words, f"Curves of the error of the most confident answers against their share. {found}")
    return figure


def _refuse_empty(drawn: Mapping[str, Any]) -> None:
    if not drawn:
        raise ValueError("There is nothing to draw: give at least one entry.")
