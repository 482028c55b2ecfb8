# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Pictures of calibration, drawn with matplotlib (imported on use) and no global state: each call returns a Figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom, binomtest

from ...arrays import to_numpy
from ...checks import check_n_bins
from ...metrics.base import bin_statistics
from ...metrics.bins import BinStatistics, equal_width
from ...metrics.intervals import check_level
from ...metrics.noise import binomial_band, calibrated_band, pooled_floor
from ...metrics.outputs import ScoredOutputs, are_of_outputs, scored_probabilities
from ...metrics.scored import Scored, WithoutConfidences, of_probabilities
from .style import (
    BLUE,
    DARK,
    GREY,
    ORANGE,
    add_legend,
    drawing,
    label_lowest,
    listed,
    plain_numbers,
    short,
    tell,
    titled_panels,
    wrapped,
)
from .words import ANSWERS, CLASSES, LABELS, POOLED, SINGLE, Shown, Terms, alt_text, class_finding, finding


if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .picture import Picture


@of_probabilities
def reliability_diagram(
    probabilities: ArrayLike | Mapping[str, ArrayLike], labels: ArrayLike, n_bins: int = 15, level: float = 0.9
) -> Picture:
    """
    Accuracy against confidence per bin of equal width, above a histogram of the confidences.

    Blue bars are the accuracy of a bin; the hatched orange gap reaches from there to its mean confidence, and is what
    ECE averages. The whiskers are Wilson intervals of the accuracy. The grey band of a bin is where its accuracy would
    lie were the model calibrated: a bar that ends in it tells of nothing but chance.

    Of a sigmoid head, whose labels have the shape of the probabilities, all labels are counted in the same bins, of
    how likely each was said to be, and the bars say how often these were right. [`classwise_reliability_diagram`]
    draws labels by themselves.

    Args:
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)` or a mapping of title to such arrays):
            Softmax outputs; a mapping draws one panel each, on the same labels.
        level (`float`, *optional*, defaults to `0.9`):
            Level of the whiskers and of the band, in (0, 1).

    Returns:
        `matplotlib.figure.Figure`: 4 inches wide per panel, two a row; `figure.savefig("reliability.png")` writes it,
            `figure.alt_text` says what it shows.
    """
    check_level(level)
    n_bins = check_n_bins(n_bins)
    panels = {title: scored_probabilities(values, labels) for title, values in titled_panels(probabilities).items()}
    shown = {
        title: Shown(one.bins(n_bins), pooled_floor(one, n_bins, level=level), terms=terms_of(one))
        for title, one in panels.items()
    }
    bands = {title: calibrated_band(one, n_bins, level=level) for title, one in panels.items()}
    unit = "labels" if any(one.terms is POOLED for one in shown.values()) else "samples"
    return draw_reliability(shown, level, bands, unit)


def terms_of(scored: Scored) -> Terms:
    """What the diagram of these pairs is about."""
    if not isinstance(scored, ScoredOutputs):
        return ANSWERS
    return POOLED if scored.num_outputs > 1 else SINGLE


def draw_reliability(
    shown: Mapping[str, Shown],
    level: float = 0.9,
    bands: Mapping[str, NDArray[np.float64]] | None = None,
    unit: str = "samples",
) -> Picture:
    """
    [`reliability_diagram`] of what was counted already, in bins of equal width, by the title of each panel; `bands`
    are other ends of the range of calibrated bins than those of independent samples.
    """
    bands = {title: binomial_band(one.bins, level) for title, one in shown.items()} | dict(bands or {})
    columns = min(2, len(shown))
    rows = math.ceil(len(shown) / columns)
    with drawing(4.0 * columns, 0.2 + (4.2 + 0.2 * columns) * rows) as figure:
        axes = figure.subplots(
            2 * rows, columns, sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1] * rows
        )
        for index, (title, one) in enumerate(shown.items()):
            place = divmod(index, columns)
            top, bottom = axes[2 * place[0], place[1]], axes[2 * place[0] + 1, place[1]]
            _bars(top, one.bins, level, one.terms, bands[title])
            _numbers(bottom, one)
            if title:  # of a panel without, the title of the picture says it all
                chance = f"\nby chance {one.floor.low:.2%} to {one.floor.high:.2%}" if one.floor else ""
                top.set_title(f"{wrapped(figure, title, 3.5)}\n{one.terms.error} {one.error:.2%}{chance}")
        for axis in axes.flat:
            axis.set_axis_on() if axis.has_data() else axis.set_axis_off()
        terms = next(iter(shown.values())).terms
        for row, name in zip(axes, [terms.share, unit] * rows, strict=True):
            row[0].set_ylabel(name)
        add_legend(figure, axes[0, 0], axes[1, 0])
        tell(figure, finding(shown), alt_text(shown, level, bands, unit))
    return figure


def _numbers(axis: Axes, shown: Shown) -> None:
    """How many samples each bin holds, with both means."""
    edges = shown.bins.edges
    axis.bar(edges[:-1], shown.bins.counts, edges[1], align="edge", color=GREY, edgecolor="white")
    axis.axvline(shown.mean, color=ORANGE, label=shown.terms.mean)
    axis.axvline(shown.share, color=BLUE, linestyle="--", label=shown.terms.overall)
    axis.set_yscale("log")
    axis.set_ylim(0.6, max(12, axis.get_ylim()[1]))
    plain_numbers(axis.yaxis)
    axis.set_xlabel(f"{shown.terms.said}\n(mean {shown.mean:.1%}, {shown.terms.whole} {shown.share:.1%})")


OF_CLASS = Terms("probability", "frequency of the class", "mean confidence")


@of_probabilities
def classwise_reliability_diagram(
    probabilities: ArrayLike,
    labels: ArrayLike,
    n_bins: int = 15,
    classes: ArrayLike | None = None,
    label_names: Sequence[str] | None = None,
    level: float = 0.9,
) -> Picture:
    """
    One small diagram per class, or label of a sigmoid head, whose labels have the shape of the probabilities: how
    often the class is the true one, against the probability that it was given.

    Args:
        classes (`Sequence[int]` or array of them, *optional*):
            Classes to draw; by default the 12 that add most to Classwise-ECE, the worst first.
        label_names (`Sequence[str]`, *optional*):
            Names for the titles.
        level (`float`, *optional*, defaults to `0.9`):
            Level of the whiskers and bands, in (0, 1).

    Returns:
        `matplotlib.figure.Figure`: Up to three diagrams a row.

    Raises:
        ValueError: If classes are out of range.
    """
    n_bins = check_n_bins(n_bins)
    check_level(level)
    pairs_of, known, num_labels = _pairs_of_classes(probabilities, labels)
    nouns = LABELS if are_of_outputs(probabilities, labels) else CLASSES
    if label_names is not None and len(label_names) != num_labels:
        raise ValueError(f"label_names must hold {num_labels} names, got {len(label_names)}.")
    chosen = np.arange(num_labels) if classes is None else to_numpy("classes", classes)
    inside = chosen.ndim == 1 and chosen.dtype.kind in "iu" and all(0 <= index < num_labels for index in chosen)
    if not (inside and len(chosen)):
        raise ValueError(f"classes must be indices in [0, {num_labels - 1}], got {chosen.tolist()}.")
    statistics = {index: equal_width(*pairs_of(index), n_bins) for index in chosen.tolist() if index in known}
    if not statistics:
        raise ValueError("Nothing is known of these labels: all of them are -100.")
    noise = class_noise(list(statistics.values()))
    if classes is None:
        worst = sorted(statistics, key=lambda index: -statistics[index].expected_error())
        statistics = {index: statistics[index] for index in worst[:12]}
    columns = min(3, len(statistics))
    rows = math.ceil(len(statistics) / columns)
    width = max(4.0, 2.6 * columns)
    names = {index: short(str(index if label_names is None else label_names[index]), 18) for index in statistics}
    errors = {index: bins.expected_error() for index, bins in statistics.items()}
    with drawing(width, 2.4 * rows + 0.6) as figure:
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axis in axes.flat[len(statistics) :]:
            axis.set_axis_off()
        for axis, (index, bins) in zip(axes.flat, statistics.items(), strict=False):
            _bars(axis, bins, level, SINGLE if nouns is LABELS else OF_CLASS)
            axis.set_title(f"{names[index]}: {errors[index]:.2%}")
        for axis in axes[:, 0]:
            axis.set_ylabel("frequency")
        label_lowest(axes, "probability")
        add_legend(figure, axes[0, 0])
        largest = listed([f"{names[index]} {errors[index]:.2%}" for index in errors], 3)
        words = class_finding(*noise, nouns)
        tell(
            figure,
            words,
            f"Reliability diagrams of {len(statistics)} of {num_labels} {nouns[1]}: how often a {nouns[0]} is "
            f"{'right' if nouns is LABELS else 'the true one'}, against the probability that it was given, in "
            f"{n_bins} bins. Calibration errors: {largest}. {words}.",
        )
    return figure


def _pairs_of_classes(
    probabilities: ArrayLike, labels: ArrayLike
) -> tuple[Callable[[int], tuple[NDArray[Any], NDArray[np.bool_]]], Container[int], int]:
    """Of each class, or label, its probabilities and where it was true; of which these are known, and of how many."""
    scored = scored_probabilities(probabilities, labels, WithoutConfidences)
    if isinstance(scored, ScoredOutputs):
        outputs = scored
        return lambda index: outputs.of(index).pairs, outputs.each, outputs.num_outputs
    array, indices = scored.probabilities, scored.labels
    return lambda index: (array[:, index], indices == index), range(array.shape[1]), array.shape[1]


def class_noise(every: Sequence[BinStatistics]) -> tuple[int, int, int]:
    """How many classes have a larger error than 95% of draws of calibrated ones; of how many; most by chance."""
    generator, beyond = np.random.default_rng(0), 0
    for bins in every:
        filled = bins.counts > 0
        counts, means = bins.counts[filled], np.clip(bins.confidence[filled], 0, 1)
        drawn = np.abs(generator.binomial(counts, means, (200, len(counts))) / counts - means) @ counts
        beyond += bool(np.abs(bins.correct_sums - bins.confidence_sums).sum() > np.quantile(drawn, 0.95))
    return beyond, len(every), int(binom.ppf(0.95, len(every), 0.05))


@of_probabilities
def confidence_histogram(
    probabilities: ArrayLike | Mapping[str, ArrayLike], labels: ArrayLike, n_bins: int = 15
) -> Picture:
    """
    How confident the model is where it is right, and where it is wrong.

    Args:
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)` or a mapping of title to such arrays):
            Softmax outputs; a mapping draws one panel each, on the same labels.

    Returns:
        `matplotlib.figure.Figure`: 4 inches wide per panel, two a row.
    """
    panels = titled_panels(probabilities)
    if any(are_of_outputs(values, labels) for values in panels.values()):
        raise ValueError(
            "A histogram of right and wrong answers is of one label a sample; of a sigmoid head, reliability_diagram "
            "shows how often labels are right, above how many have such a probability."
        )
    statistics = {title: bin_statistics(values, labels, n_bins) for title, values in panels.items()}
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    with drawing(4.0 * columns, 0.4 + 2.9 * rows) as figure:
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        for axis, (title, bins) in zip(axes.flat, statistics.items(), strict=False):
            right, wrong = bins.correct_sums, bins.counts - bins.correct_sums
            width = 1 / n_bins
            place: dict[str, Any] = {"align": "edge", "edgecolor": "white"}
            axis.bar(bins.edges[:-1], right, width / 2, color=BLUE, label="right", **place)
            axis.bar(bins.edges[:-1] + width / 2, wrong, width / 2, color=ORANGE, hatch="////", label="wrong", **place)
            axis.set_yscale("log")
            axis.set_xlim(0, 1)
            axis.set_ylim(bottom=0.6)
            plain_numbers(axis.yaxis)
            axis.set_title(wrapped(figure, title, 3.5))
        for axis in axes[:, 0]:
            axis.set_ylabel("samples")
        label_lowest(axes, "confidence")
        add_legend(figure, axes[0, 0])
        words = "; ".join(_of_wrong(title, bins) for title, bins in statistics.items())
        tell(figure, words, f"Histogram of the confidences of right and of wrong answers, in {n_bins} bins. {words}.")
    return figure


def _of_wrong(title: str, bins: BinStatistics) -> str:
    """How sure the wrong answers are."""
    wrong = bins.counts - bins.correct_sums
    head = f"{title}: " if title else ""
    if not (total := round(wrong.sum())):
        return f"{head}no answer of {bins.counts.sum():,} is wrong"
    place = int(np.flatnonzero(bins.counts)[-1])
    sure = round(wrong[place])
    return f"{head}{sure:,} of {total:,} wrong answers have a confidence above {bins.edges[place]:.1%}"


def _bars(
    axis: Axes, bins: BinStatistics, level: float, terms: Terms, band: NDArray[np.float64] | None = None
) -> None:
    """Bars of accuracy, the gap to the mean confidence, the band of calibrated bins, whiskers and the diagonal."""
    filled = bins.counts > 0
    lower, width = bins.edges[:-1][filled], bins.edges[1] - bins.edges[0]
    accuracy, confidence = bins.accuracy[filled], bins.confidence[filled]
    axis.bar(lower, accuracy, width, align="edge", color=BLUE, edgecolor="white", label=terms.share)
    gap: dict[str, Any] = {"bottom": np.minimum(accuracy, confidence), "height": np.abs(confidence - accuracy)}
    style: dict[str, Any] = {"facecolor": "none", "edgecolor": ORANGE, "hatch": "////", "linewidth": 1}
    axis.bar(lower, width=width, align="edge", label=f"gap to {terms.mean}", **gap, **style)
    least, most = (binomial_band(bins, level) if band is None else band)[:, filled]
    calibrated: dict[str, Any] = {"color": GREY, "alpha": 0.5, "linewidth": 0, "label": f"{level:.0%} if calibrated"}
    axis.bar(lower, most - least, width, least, align="edge", **calibrated)
    whiskers = _wilson(bins.correct_sums[filled], bins.counts[filled], accuracy, level)
    middle = lower + width / 2
    axis.errorbar(
        middle, accuracy, whiskers, fmt="none", ecolor=DARK, elinewidth=1, capsize=2, label=f"{level:.0%} interval"
    )
    axis.plot([0, 1], [0, 1], color=DARK, linestyle=":", linewidth=1, label="perfect calibration")
    axis.set(xlim=(0, 1), ylim=(0, 1))


def _wilson(
    hits: NDArray[np.float64], counts: NDArray[np.int64], accuracy: NDArray[np.float64], level: float
) -> NDArray[np.float64]:
    """Distances from the accuracy to both ends of its Wilson interval, shape `(2, n_bins)`."""
    intervals = [
        binomtest(round(hit), int(count)).proportion_ci(level, "wilson")
        for hit, count in zip(hits, counts, strict=True)
    ]
    ends = [(share - interval.low, interval.high - share) for share, interval in zip(accuracy, intervals, strict=True)]
    return np.maximum(np.transpose(ends), 0)  # rounding can put an end a hair inside the accuracy itself
