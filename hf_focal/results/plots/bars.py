# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Bars of calibration errors with intervals, before and after calibration (Mukhoti et al., 2020, Figure 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .style import BLUE, DARK, ORANGE, add_legend, drawing, short, tell, wrapped


if TYPE_CHECKING:
    from .picture import Picture


# A value, and the ends of the interval of the true one.
Bar = tuple[float, float, float]
_COLOURS = {"before": ORANGE, "after": BLUE}


def draw_bars(
    found: Mapping[str, Mapping[str, Mapping[str, Bar]]], level: float, unit: str = "%", after: str = "after"
) -> Picture:
    """
    By the title of a panel, by run, then by `"before"` and `"after"`: a line for each run in each panel. What is in
    `%` is given as fractions, what is in `nats` as it is; `after` says after what.
    """
    runs = list(dict.fromkeys(run for by_run in found.values() for run in by_run))
    scale, style = (100.0, ".1%") if unit == "%" else (1.0, ".3f")
    with drawing(8.0, 1.7 + 0.42 * len(runs)) as figure:
        axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for axis, (title, by_run) in zip(axes, found.items(), strict=True):
            for index, (moment, colour) in enumerate(_COLOURS.items()):
                places = [runs.index(run) + 0.38 * (index - 0.5) for run in by_run]
                bars = [moments[moment] for moments in by_run.values()]
                label = f"{after if index else moment}, {level:.0%} interval of the true one"
                axis.barh(places, [scale * value for value, *_ in bars], 0.36, color=colour, label=label)
                low, high = ([scale * one[end] for one in bars] for end in (1, 2))
                axis.hlines(places, low, high, color=DARK, linewidth=1.2)
            axis.set_xlabel(wrapped(figure, f"{title} in {unit}", 6.5 / len(found)))
            axis.set_xlim(left=0)
        axes[0].set_yticks(range(len(runs)), [short(run, 22) for run in runs])
        axes[0].set_ylim(len(runs) - 0.5, -0.5)
        add_legend(figure, axes[0], columns=2)
        words = _range(*next(iter(found.items())), style, after)
        told = {
            title: [f"{run} {row['before'][0]:{style}}, {row['after'][0]:{style}}" for run, row in rows.items()]
            for title, rows in found.items()
        }
        numbers = "; ".join(f"{title}: {', '.join(lines)}" for title, lines in told.items())
        tell(figure, words, f"Bars, before calibration and {after}. {words}. {numbers}.")
    return figure


def _range(title: str, by_run: Mapping[str, Mapping[str, Bar]], style: str, after: str) -> str:
    """Where a panel lies before and after."""
    told = []
    for moment in _COLOURS:
        values = {run: moments[moment][0] for run, moments in by_run.items()}
        least, most = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
        ends = " to ".join(f"{values[run]:{style}} ({short(run)})" for run in dict.fromkeys((least, most)))
        told.append(f"{ends} {moment if moment == 'before' else after}")
    return f"{title} {', '.join(told)}"
