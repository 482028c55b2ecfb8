# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Bars of calibration errors with intervals, before and after calibration (Mukhoti et al., 2020, Figure 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .style import BLUE, DARK, ORANGE, add_legend, drawing, short, tell


if TYPE_CHECKING:
    from .picture import Picture


# A value, and the ends of the interval of the true one.
Bar = tuple[float, float, float]
_COLOURS = {"before": ORANGE, "after": BLUE}


def draw_bars(found: Mapping[str, Mapping[str, Mapping[str, Bar]]], level: float) -> Picture:
    """By the title of a metric, by run, then by `"before"` and `"after"`: a panel each, a line for each run."""
    runs = list(dict.fromkeys(run for by_run in found.values() for run in by_run))
    with drawing(8.0, 1.7 + 0.42 * len(runs)) as figure:
        axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for axis, (title, by_run) in zip(axes, found.items(), strict=True):
            for index, (moment, colour) in enumerate(_COLOURS.items()):
                places = [runs.index(run) + 0.38 * (index - 0.5) for run in by_run]
                bars = [moments[moment] for moments in by_run.values()]
                label = f"{moment}, {level:.0%} interval of the true one"
                axis.barh(places, [100 * value for value, *_ in bars], 0.36, color=colour, label=label)
                low, high = ([100 * one[end] for one in bars] for end in (1, 2))
                axis.hlines(places, low, high, color=DARK, linewidth=1.2)
            axis.set_xlabel(f"{title} in %")
            axis.set_xlim(left=0)
        axes[0].set_yticks(range(len(runs)), [short(run, 22) for run in runs])
        axes[0].set_ylim(len(runs) - 0.5, -0.5)
        add_legend(figure, axes[0], columns=2)
        words = _finding(found)
        numbers = "; ".join(
            f"{title}: "
            + ", ".join(f"{run} {row['before'][0]:.2%}, {row['after'][0]:.2%}" for run, row in rows.items())
            for title, rows in found.items()
        )
        tell(figure, words, f"Bars of calibration errors before and after calibration. {words}. {numbers}.")
    return figure


def _finding(found: Mapping[str, Mapping[str, Mapping[str, Bar]]]) -> str:
    """Where the first metric lies before and after."""
    title, by_run = next(iter(found.items()))
    told = []
    for moment in _COLOURS:
        values = {run: moments[moment][0] for run, moments in by_run.items()}
        least, most = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
        ends = f"{values[least]:.1%} ({short(least)})"
        told.append(
            f"{moment} calibration {ends if least == most else f'{ends} to {values[most]:.1%} ({short(most)})'}"
        )
    return f"{title} is {', '.join(told)}"
