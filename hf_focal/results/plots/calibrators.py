# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The picture of several calibrators of one model: what each gains over a temperature, and its ECE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...metrics.chance import NoiseFloor
from ...metrics.comparison import PairedComparison
from .style import BLUE, GREY, ORANGE, add_legend, drawing, listed, short, tell


if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .picture import Picture


# The gain over a temperature, the ECE, the ends of the interval of the true one, and what chance would show.
Drawn = tuple[PairedComparison | None, float, tuple[float, float], NoiseFloor]


def draw_calibrators(found: Mapping[str, Drawn], level: float) -> Picture:
    """One line for each method, by its name; the first on top."""
    with drawing(8.0, 1.4 + 0.34 * len(found)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        _gains(left, {method: gain for method, (gain, *_) in found.items()}, level)
        for place, (_, error, ends, floor) in enumerate(found.values()):
            label: dict[str, Any] = {"label": f"{level:.0%} by chance"} if place == 0 else {}
            bar: dict[str, Any] = {"height": 0.6, "color": GREY, "alpha": 0.5, "linewidth": 0}
            right.barh(place, 100 * (floor.high - floor.low), left=100 * floor.low, **bar, **label)
            label = {"label": f"ECE, {level:.0%} interval of the true one"} if place == 0 else {}
            right.hlines(place, 100 * ends[0], 100 * ends[1], color=ORANGE)
            right.plot(100 * error, place, "o", color=ORANGE, markersize=5, **label)
        right.set_xlabel("ECE in %")
        right.set_xlim(left=0)
        left.set_yticks(range(len(found)), [short(method, 20) for method in found])
        left.set_ylim(len(found) - 0.5, -0.5)
        add_legend(figure, left, right, columns=2)
        words = _finding({method: gain for method, (gain, *_) in found.items()})
        errors = ", ".join(f"{method} {error:.2%}" for method, (_, error, *_) in found.items())
        tell(
            figure,
            words,
            f"Two panels with a line for each calibrator: what it gains on the NLL over a temperature, and its ECE, "
            f"with {level:.0%} intervals. {words}. ECE: {errors}.",
        )
    return figure


def _finding(gains: Mapping[str, PairedComparison | None]) -> str:
    """Which calibrators are better than a temperature by more than noise."""
    verdicts = {method: gain.verdict for method, gain in gains.items() if gain is not None}
    better, worse = (
        [method for method, verdict in verdicts.items() if verdict == wanted]
        for wanted in ("b_is_better", "a_is_better")
    )
    told = [f"Clearly better than a temperature: {listed(better)}" if better else ""]
    told.append(f"clearly worse: {listed(worse)}" if better and worse else "")
    return "; ".join(filter(None, told)) or "No calibrator is clearly better than a temperature"


def _gains(axis: Axes, gains: Mapping[str, PairedComparison | None], level: float) -> None:
    """What loses much, as no calibrator at all mostly does, is written at the edge."""
    known = [gain for gain in gains.values() if gain is not None]
    kept = [gain for gain in known if gain.high >= 0] or known  # what is not clearly worse
    reach = 5 * max((max(abs(gain.low), abs(gain.high)) for gain in kept), default=0.0)
    near = [gain for gain in known if gain.low >= -reach]
    low, high = min([0.0, *(gain.low for gain in near)]), max([0.0, *(gain.high for gain in near)])
    margin = 0.1 * (high - low) or 1e-3
    room = 5.5 if len(near) < len(known) else 1  # for what is written at the edge
    axis.axvline(0, color=GREY, linestyle="--", linewidth=1, label="temperature")
    labelled = False
    for place, gain in enumerate(gains.values()):
        if gain is None:
            continue
        if gain.low < low:
            axis.text(low - 5.3 * margin, place, f"\N{LEFTWARDS ARROW} {gain.difference:.4f}", va="center")
            continue
        label: dict[str, Any] = {} if labelled else {"label": f"gain, and its {level:.0%} interval"}
        axis.hlines(place, gain.low, gain.high, color=BLUE)
        axis.plot(gain.difference, place, "o", color=BLUE, markersize=5, **label)
        labelled = True
    axis.set_xlim(low - room * margin, high + margin)
    axis.set_xlabel("NLL gain over a temperature, in nats")
    axis.locator_params(axis="x", nbins=4)
