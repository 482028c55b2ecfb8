# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Pictures of how training went, after Figures 1 to 3 of Mukhoti et al. (2020), from the files that
[`TrainingDynamicsCallback`] keeps. matplotlib is imported on use; each call returns a Figure.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from ...checks import check_positive
from ...gamma import focal_gradient_ratio
from .curves import Curve, comparison, ends, rise
from .style import (
    COLOURS,
    DASHES,
    GREY,
    add_legend,
    drawing,
    label_lowest,
    listed,
    looks,
    plain_numbers,
    short,
    tell,
    wrapped,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .picture import Picture


logger = logging.getLogger(__name__)

Rows = Sequence[Mapping[str, Any]]

_SMALLEST = 1e-6  # of the gradient norms that are drawn apart


def nll_and_entropy_curves(runs: Mapping[str, Rows], split: str = "test") -> Picture:
    """
    NLL and entropy after each epoch: of all samples, of those classified rightly, and of those classified wrongly
    (Figure 1). In the paper cross-entropy's NLL grows late in training because of the wrong ones alone, while its
    entropy falls.

    Args:
        runs (`Mapping[str, Sequence[Mapping]]`):
            Title to rows, as of [`read_dynamics`]; one line each.
        split (`str`, *optional*, defaults to `"test"`):
            Name of the data set.

    Returns:
        `matplotlib.figure.Figure`: 8 inches wide.

    Raises:
        ValueError: If there is no run, or a run was not measured on `split`.
    """
    parts = {"": "all samples", "_correct": "right answers", "_incorrect": "wrong answers"}
    found: dict[str, dict[str, Curve]] = {}
    with drawing(8.0, 5.3) as figure:
        axes = figure.subplots(2, 3, sharex=True, squeeze=False)
        for row, (key, name) in zip(axes, {"nll": "NLL", "entropy": "entropy"}.items(), strict=True):
            for axis, (part, words) in zip(row, parts.items(), strict=True):
                found[key + part] = _curves(axis, runs, split, key + part)
                if key == "nll":
                    axis.set_title(words)
            row[0].set_ylabel(f"{split} {name} (nats)")
        for axis in axes[-1]:
            axis.set_xlabel("epoch")
        add_legend(figure, axes[0, 0])
        told = [
            comparison(found["entropy_incorrect"], "Entropy of wrong answers", " nats"),
            *(rise(name, curve, f"NLL on {split} data", " nats") for name, curve in found["nll"].items()),
            f"NLL and entropy of {listed([short(name) for name in runs], 3)} on {split} data, after each epoch",
        ]
        words = next(filter(None, told))
        tell(
            figure,
            words,
            f"Curves of the {split} NLL and entropy in nats after each epoch, of all samples and of right and wrong "
            f"answers alone. {'. '.join(filter(None, told[:-1]))}{'. ' * any(told[:-1])}In the end the NLL is "
            f"{ends(found['nll'])}; the entropy of wrong answers {ends(found['entropy_incorrect'])}.",
        )
    return figure


def weight_norm_curves(runs: Mapping[str, Rows]) -> Picture:
    """
    Norm of the last layer's weight after each epoch (Figure 2). In the paper focal loss's starts above
    cross-entropy's and ends below.

    Args:
        runs (`Mapping[str, Sequence[Mapping]]`):
            As in [`nll_and_entropy_curves`].

    Returns:
        `matplotlib.figure.Figure`: 5 inches wide.

    Raises:
        ValueError: If there is no run.
    """
    with drawing(5.0, 3.8) as figure:
        axis = figure.subplots()
        found = _curves(axis, runs, None, "weight_norm")
        axis.set(xlabel="epoch", ylabel="weight norm of the last layer")
        add_legend(figure, axis)
        what = "The last layer's weight norm"
        words = comparison(found, what) or f"{what} after each epoch"
        tell(figure, words, f"Curves of the norm of the last layer's weight. {words}. In the end: {ends(found)}.")
    return figure


def gradient_ratio_curves(gammas: Sequence[float] = (1.0, 2.0, 3.0, 5.0)) -> Picture:
    r"""
    $g(p, \gamma)$, the gradient of focal loss over that of cross-entropy, against the probability of the true class
    (Figure 3a). Below the marked $p_0$ focal loss pulls harder than cross-entropy, above it less.

    Args:
        gammas (`Sequence[float]`, *optional*, defaults to `(1.0, 2.0, 3.0, 5.0)`):
            One curve each; positive.

    Returns:
        `matplotlib.figure.Figure`: 5 inches wide.

    Raises:
        ValueError: If there is no gamma, or one is not positive.
    """
    if not gammas:
        raise ValueError("gammas is empty: give at least one.")
    with drawing(5.0, 3.8) as figure:
        axis = figure.subplots()
        p = np.linspace(0, 1, 501)
        axis.axhline(1, color=GREY, linestyle="--", linewidth=1, label="cross-entropy")
        crossings = [equal_gradients(gamma) for gamma in gammas]
        for index, (gamma, p0) in enumerate(zip(gammas, crossings, strict=True)):
            style: dict[str, Any] = {"color": COLOURS[index % 7], "linestyle": DASHES[index % 4]}
            axis.plot(
                p,
                focal_gradient_ratio(p, gamma),
                label=f"\N{GREEK SMALL LETTER GAMMA} = {gamma:g}, p0 = {p0:.3f}",
                **style,
            )
            axis.plot(p0, 1, marker="o", markersize=5, color=style["color"], zorder=3)
        axis.set(xlim=(0, 1), ylim=(0, None), xlabel="probability p of the true class")
        axis.set_ylabel("gradient over that of cross-entropy")
        add_legend(figure, axis, columns=2)
        words = "Below p0 focal loss pulls harder than cross-entropy, above it less"
        places = listed([f"{p0:.3f} with gamma {gamma:g}" for gamma, p0 in zip(gammas, crossings, strict=True)], 6)
        tell(
            figure,
            words,
            "Curves of the gradient of focal loss over that of cross-entropy, against the probability of the true "
            f"class. {words}; p0 is {places}.",
        )
    return figure


def equal_gradients(gamma: float) -> float:
    r"""
    The probability $p_0$ at which focal loss and cross-entropy have the same gradient, $g(p_0, \gamma) = 1$; the
    inverse of [`gamma_for_threshold`].

    Args:
        gamma (`float`):
            Focusing parameter, positive.

    Returns:
        `float`: Between 0 and 0.5.

    Raises:
        ValueError: If gamma is not positive.

    Example:
    >>> round(equal_gradients(3.0), 4)
    0.2526
    """
    gamma = check_positive("gamma", gamma)
    return float(brentq(lambda p: focal_gradient_ratio(p, gamma) - 1, 1e-3 / (1 + gamma), 0.5))


def gradient_norm_histograms(runs: Mapping[str, Rows], split: str = "train") -> Picture:
    """
    How large the gradients of single samples are in the last layer, at each epoch where they were measured
    (Figure 3b).

    The scale is logarithmic, and norms below a millionth stand in the first bin.

    Args:
        runs (`Mapping[str, Sequence[Mapping]]`):
            As in [`nll_and_entropy_curves`].
        split (`str`, *optional*, defaults to `"train"`):
            Name of the data set.

    Returns:
        `matplotlib.figure.Figure`: One panel per epoch.

    Raises:
        ValueError: If there is no run, a run was not measured on `split`, or no run has gradients.
    """
    norms = {
        title: {row["epoch"]: _finite(title, row) for row in rows if row["gradient_norms"]}
        for title, rows in _of_split(runs, split).items()
    }
    epochs = sorted({epoch for of_run in norms.values() for epoch in of_run})
    if not epochs:
        raise ValueError("No run has gradient norms: give its callback gradient_epochs (--dynamics_gradient_epochs).")
    drawn = np.concatenate([np.maximum(values, _SMALLEST) for of_run in norms.values() for values in of_run.values()])
    if not len(drawn):
        raise ValueError("No gradient norm is finite: there is nothing to draw.")
    bins = np.geomspace(drawn.min() / 1.01, drawn.max() * 1.01, 41)  # rounding puts no sample outside
    columns = min(3, len(epochs))
    lines = math.ceil(len(epochs) / columns)
    with drawing(max(5.0, 2.7 * columns), 0.5 + 2.6 * lines) as figure:
        axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axis in axes.flat[len(epochs) :]:
            axis.set_axis_off()
        for axis, epoch in zip(axes.flat, epochs, strict=False):
            for title, look in looks(norms).items():
                values = norms[title].get(epoch, np.empty(0))
                weights = np.full(len(values), 1 / max(len(values), 1))
                style = {"histtype": "step", "label": short(title), **look.line}
                axis.hist(np.clip(values, _SMALLEST, None), bins, weights=weights, **style)
            axis.set_xscale("log")
            plain_numbers(axis.xaxis, 3)
            axis.set_title(f"epoch {epoch:g}")
        for axis in axes[:, 0]:
            axis.set_ylabel(wrapped(figure, f"share of the {split} samples", 2.2))
        label_lowest(axes, "gradient norm")
        add_legend(figure, axes[0, 0])
        middle = {
            title: float(np.median(of_run[epochs[-1]]))
            for title, of_run in norms.items()
            if len(of_run.get(epochs[-1], ()))
        }
        medians = [f"{short(title)} {value:.2g}" for title, value in middle.items()]
        words = f"Median gradient norm of a sample after epoch {epochs[-1]:g}: {', '.join(medians[:4])}"
        tell(
            figure,
            words,
            f"Histograms of the gradient norm in the last layer of each of the {split} samples, on a logarithmic "
            f"scale, after {listed([f'epoch {epoch:g}' for epoch in epochs])}. {words}.",
        )
    return figure


def _finite(title: str, row: Mapping[str, Any]) -> NDArray[np.float64]:
    """The gradient norms of an epoch that are numbers; a run that diverges has others."""
    norms = np.asarray(row["gradient_norms"], np.float64)
    finite = np.isfinite(norms)
    if not finite.all():
        told = title, np.count_nonzero(~finite), len(norms), row["epoch"]
        logger.warning("%s: %d of %d gradient norms after epoch %g are infinite or NaN and not drawn.", *told)
    return norms[finite]


def _of_split(runs: Mapping[str, Rows], split: str | None) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of one data set, in the order of the epochs."""
    if not runs:
        raise ValueError("runs is empty: give at least one.")
    chosen = {}
    for title, rows in runs.items():
        known = list(dict.fromkeys(row["split"] for row in rows))
        name = known[0] if split is None else split
        if name not in known:
            raise ValueError(f"The run {title!r} was not measured on {name!r}, but on {', '.join(known)}.")
        chosen[title] = sorted((row for row in rows if row["split"] == name), key=lambda row: row["epoch"])
    return chosen


def _curves(axis: Axes, runs: Mapping[str, Rows], split: str | None, key: str) -> dict[str, Curve]:
    """Draw one line for each run, and say what was drawn."""
    from matplotlib.ticker import MaxNLocator

    found = {}
    for (title, rows), look in zip(_of_split(runs, split).items(), looks(runs).values(), strict=True):
        epochs, values = [row["epoch"] for row in rows], [np.nan if row[key] is None else row[key] for row in rows]
        # Of one epoch there is no line, but a mark.
        axis.plot(epochs, values, label=short(title), marker=look.mark if len(rows) == 1 else "", **look.line)
        low, high = values, values
        if "ranges" in rows[0]:
            low, high = np.array([row["ranges"][key] or (np.nan, np.nan) for row in rows]).T
            axis.fill_between(epochs, low, high, color=look.colour, alpha=0.2, linewidth=0)
        found[title] = Curve.of(epochs, values, low, high, [_count(row, key) for row in rows])
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return found


def _count(row: Mapping[str, Any], key: str) -> float:
    """How many samples a number is the mean of: none are known where it was not written; a norm is of no samples."""
    if key == "weight_norm":
        return np.inf
    count, error = row.get("n_samples") or 0, row.get("error")
    part = key.partition("_")[2]
    if part and error is None:
        return 0
    return count * {"correct": 1 - (error or 0), "incorrect": error or 0}.get(part, 1)
