# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Pictures of calibration, drawn with matplotlib (imported on use) and no global state: each call returns a Figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from .metrics import bin_statistics


if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Of the Okabe-Ito palette, which colour-blind readers tell apart.
BLUE, ORANGE, GREY, DARK = "#0072B2", "#D55E00", "#8C8C8C", "#222222"


def reliability_diagram(
    probabilities: ArrayLike | Mapping[str, ArrayLike], labels: ArrayLike, n_bins: int = 15, level: float = 0.9
) -> Figure:
    """
    Accuracy against confidence per bin, above a histogram of the confidences.

    Blue bars are the accuracy of a bin, an orange outline its mean confidence: the hatched gap between the two is what
    ECE averages. The whiskers are Wilson intervals of the accuracy.

    Args:
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)` or a mapping of title to such arrays):
            Softmax outputs; a mapping draws one panel each, side by side, on the same labels.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of equal-width bins.
        level (`float`, *optional*, defaults to `0.9`):
            Level of the whiskers, in (0, 1).

    Returns:
        `matplotlib.figure.Figure`: 4 inches wide per panel; `figure.savefig("reliability.png")` writes it.

    Raises:
        ValueError: If shapes disagree, values are no probabilities, or labels are out of range.
    """
    from matplotlib.figure import Figure

    panels = dict(probabilities) if isinstance(probabilities, Mapping) else {"": probabilities}
    if not panels:
        raise ValueError("probabilities holds no panel: give at least one array.")
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level!r}.")
    statistics = {title: bin_statistics(values, labels, n_bins) for title, values in panels.items()}
    figure = Figure(figsize=(4.0 * len(panels), 5.0), dpi=150, layout="constrained")
    axes = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1])
    for column, (title, bins) in enumerate(statistics.items()):
        top, bottom = axes[:, column]
        width = 1 / n_bins
        lower, filled = bins.edges[:-1], bins.counts > 0
        accuracy, confidence = bins.accuracy[filled], bins.confidence[filled]
        top.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfect calibration")
        top.bar(lower[filled], accuracy, width, align="edge", color=BLUE, edgecolor="white", label="accuracy")
        gap = {"bottom": np.minimum(accuracy, confidence), "height": np.abs(confidence - accuracy)}
        style = {"facecolor": "none", "edgecolor": ORANGE, "hatch": "////", "linewidth": 1}
        top.bar(lower[filled], width=width, align="edge", label="gap to confidence", **gap, **style)
        tests = [
            binomtest(int(hits), int(count)).proportion_ci(level, "wilson")
            for hits, count in zip(bins.correct_sums[filled], bins.counts[filled], strict=True)
        ]
        # Rounding can put an end of the interval a hair inside the accuracy itself.
        ends = [(max(a - test.low, 0.0), max(test.high - a, 0.0)) for a, test in zip(accuracy, tests, strict=True)]
        top.errorbar(
            lower[filled] + width / 2, accuracy, np.transpose(ends), fmt="none", ecolor=DARK, elinewidth=1, capsize=2
        )
        top.set(xlim=(0, 1), ylim=(0, 1))
        top.set_title(f"{title}\nECE {bins.expected_error():.2%}".strip(), fontsize=11)
        bottom.bar(lower, bins.counts, width, align="edge", color=GREY, edgecolor="white")
        bottom.set_yscale("log")
        bottom.set_ylim(bottom=0.8)
        bottom.set_xlabel("confidence")
        mean = bins.confidence_sums.sum() / bins.counts.sum()
        share = bins.correct_sums.sum() / bins.counts.sum()
        bottom.axvline(mean, color=ORANGE, linewidth=1.2, label=f"mean confidence {mean:.1%}")
        bottom.axvline(share, color=BLUE, linewidth=1.2, linestyle="--", label=f"accuracy {share:.1%}")
        bottom.legend(fontsize=7, loc="upper left", framealpha=0.9)
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("samples")
    axes[0, 0].legend(fontsize=8, loc="upper left", framealpha=0.9)
    return figure
