# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Pictures of models beside each other on unfamiliar data, in the style of the others; each call returns a Figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..results.plots.style import COLOURS, GREY, add_legend, new_figure
from .ood import auroc, roc_points


if TYPE_CHECKING:
    from matplotlib.figure import Figure


_MOMENTS = {"before": "--", "after": "-"}
# One look for each model: colours that come again are of thicker lines, with other marks.
_LOOKS = [
    {"color": colour, "marker": marker, "linewidth": width}
    for (marker, width), colour in product([("o", 1.3), ("s", 2.4), ("^", 3.5), ("D", 4.6)], COLOURS)
]
# What is drawn against severity, and in which unit.
_SHOWN: dict[str, Callable[[float], float]] = {
    "ece": lambda share: 100 * share,
    "nll": lambda nats: nats,
    "accuracy": lambda share: 100 * (1 - share),
}


def _look(index: int, moment: str, **more: Any) -> dict[str, Any]:
    return {**_LOOKS[index % len(_LOOKS)], "linestyle": _MOMENTS[moment], **more}


def roc_diagram(scores: Mapping[str, Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]]]) -> Figure:
    """
    ROC curves (Mukhoti et al., 2020, Figure 5): one panel per out-of-distribution data set, one colour per model.

    Args:
        scores (`Mapping`): By data set, model, and `"before"` and `"after"` calibration (dashed and solid;
            either will do): scores of in-distribution and out-of-distribution samples, as for [`auroc`].

    Returns:
        `matplotlib.figure.Figure`: 4 inches wide per panel.

    Raises:
        ValueError: If there is nothing to draw, or scores are empty or not finite.
    """
    _refuse_empty(scores)
    lines = max(sum(map(len, models.values())) for models in scores.values())
    figure = new_figure(4.0 * len(scores), 4.0 + 0.17 * lines)
    axes = figure.subplots(1, len(scores), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (title, models) in zip(axes, scores.items(), strict=True):
        for index, (model, moments) in enumerate(models.items()):
            for moment, pair in moments.items():
                label = f"{model}, {moment}: {auroc(*pair):.1%}"
                axis.plot(*roc_points(*pair), **_look(index, moment, marker=""), label=label)
        axis.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="false positive rate")
        axis.set_title(title, fontsize=11)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), fontsize=8, frameon=False, title="AUROC")
    axes[0].set_ylabel("true positive rate")
    return figure


def _answers_differ(by_severity: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> bool:
    """Whether calibration changed how often a model is right, which a temperature never does."""
    return any(row["before"]["accuracy"] != row["after"]["accuracy"] for row in by_severity.values())


def severity_diagram(results: Mapping[str, Mapping[int, Mapping[str, Mapping[str, Any]]]]) -> Figure:
    """
    ECE, NLL and error against the severity of a corruption, one colour per model.

    Args:
        results (`Mapping`): By model, severity (0 for clean data), and `"before"` and `"after"` (dashed and solid):
            what [`calibration_metrics`] returns and, under `"intervals"` if at all, each metric's interval (bars: of
            its true value) and, under `"by_chance"`, the [`NoiseFloor`] of the ECE as a mapping (dotted: its upper
            end).

    Returns:
        `matplotlib.figure.Figure`: Three panels, 11 inches wide.

    Raises:
        ValueError: If there is nothing to draw.
    """
    _refuse_empty(results)
    figure = new_figure(11.0, 3.8)
    axes = figure.subplots(1, 3, sharex=True)
    for index, (model, by_severity) in enumerate(results.items()):
        severities = sorted(by_severity)
        for moment in _MOMENTS:
            style = _look(index, moment, markersize=4)
            rows = [by_severity[severity][moment] for severity in severities]
            for axis, (key, shown) in zip(axes, _SHOWN.items(), strict=True):
                if key == "accuracy" and moment == "before" and not _answers_differ(by_severity):
                    continue
                axis.plot(severities, [shown(row[key]) for row in rows], label=f"{model}, {moment}", **style)
                if all("intervals" in row for row in rows):
                    ends = np.array([[shown(end) for end in row["intervals"][key]] for row in rows])
                    axis.vlines(severities, ends.min(axis=1), ends.max(axis=1), color=style["color"], linewidth=1)
            if all("by_chance" in row for row in rows):
                chance = [100 * row["by_chance"]["high"] for row in rows]
                axes[0].plot(severities, chance, color=style["color"], linestyle=":", linewidth=1)
    ticks = sorted(set().union(*results.values()))
    for axis, name in zip(axes, ("ECE in %", "NLL in nats", "error in %"), strict=True):
        axis.set(xlabel="severity", ylabel=name, xticks=ticks)
        axis.set_ylim(bottom=0)
    add_legend(figure, axes[0])
    return figure


def risk_coverage_diagram(curves: Mapping[str, Mapping[str, tuple[NDArray[Any], NDArray[Any]]]]) -> Figure:
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
    figure = new_figure(5.0, 4.2)
    axis, highest = figure.subplots(), 0.0
    for index, (model, moments) in enumerate(curves.items()):
        for moment, (coverage, risk) in moments.items():
            label = f"{model}, {moment}: {risk.mean():.2%}"
            axis.plot(100 * coverage, 100 * risk, **_look(index, moment, marker=""), label=label)
            highest = max(highest, risk[len(risk) // 50 :].max())  # of fewer samples it jumps up and down
    axis.set(xlim=(0, 100), xlabel="coverage in %", ylabel="error in %")
    axis.set_ylim(0, max(105 * highest, 1))
    axis.legend(loc="upper left", fontsize=8, frameon=False, title="AURC", title_fontsize=8)
    return figure


def _refuse_empty(drawn: Mapping[str, Any]) -> None:
    if not drawn:
        raise ValueError("There is nothing to draw: give at least one entry.")
