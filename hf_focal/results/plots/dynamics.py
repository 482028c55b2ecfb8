# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Pictures of how training went, after Figures 1 to 3 of Mukhoti et al. (2020), from the files that
[`TrainingDynamicsCallback`] keeps. matplotlib is imported on use; each call returns a Figure.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from ...checks import check_positive
from ...gamma import focal_gradient_ratio
from .style import COLOURS, DASHES, GREY, add_legend, new_figure


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


logger = logging.getLogger(__name__)

Rows = Sequence[Mapping[str, Any]]

_SMALLEST = 1e-6  # of the gradient norms that are drawn apart


def nll_and_entropy_curves(runs: Mapping[str, Rows], split: str = "test") -> Figure:
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
    figure = new_figure(8.0, 5.0)
    axes = figure.subplots(2, 3, sharex=True, squeeze=False)
    parts = {"": "all samples", "_correct": "classified rightly", "_incorrect": "classified wrongly"}
    for row, (key, name) in zip(axes, {"nll": "NLL", "entropy": "entropy"}.items(), strict=True):
        for axis, (part, words) in zip(row, parts.items(), strict=True):
            _curves(axis, runs, split, key + part)
            if key == "nll":
                axis.set_title(words, fontsize=11)
        row[0].set_ylabel(f"{split} {name} (nats)")
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    add_legend(figure, axes[0, 0])
    return figure


def weight_norm_curves(runs: Mapping[str, Rows]) -> Figure:
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
    figure = new_figure(5.0, 3.8)
    axis = figure.subplots()
    _curves(axis, runs, None, "weight_norm")
    axis.set(xlabel="epoch", ylabel="weight norm of the last layer")
    add_legend(figure, axis)
    return figure


def gradient_ratio_curves(gammas: Sequence[float] = (1.0, 2.0, 3.0, 5.0)) -> Figure:
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
    figure = new_figure(5.0, 3.8)
    axis = figure.subplots()
    p = np.linspace(0, 1, 501)
    axis.axhline(1, color=GREY, linestyle="--", linewidth=1, label="cross-entropy")
    for index, gamma in enumerate(gammas):
        p0 = equal_gradients(gamma)
        label = rf"$\gamma$ = {gamma:g}, $p_0$ = {p0:.3f}"
        axis.plot(p, focal_gradient_ratio(p, gamma), label=label, **_style(index))
        axis.plot(p0, 1, marker="o", markersize=5, color=_style(index)["color"], zorder=3)
    axis.set(xlim=(0, 1), ylim=(0, None), xlabel="probability of the true class p", ylabel=r"g(p, $\gamma$)")
    add_legend(figure, axis)
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


def gradient_norm_histograms(runs: Mapping[str, Rows], split: str = "train") -> Figure:
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
    figure = new_figure(max(5.0, 2.8 * len(epochs)), 3.4)
    axes = figure.subplots(1, len(epochs), sharex=True, sharey=True, squeeze=False)[0]
    for axis, epoch in zip(axes, epochs, strict=True):
        for index, (title, of_run) in enumerate(norms.items()):
            values = of_run.get(epoch, np.empty(0))
            style = {"histtype": "step", "label": title, **_style(index)}
            axis.hist(
                np.clip(values, _SMALLEST, None), bins, weights=np.full(len(values), 1 / max(len(values), 1)), **style
            )
        axis.set_xscale("log")
        axis.set_title(f"epoch {epoch:g}", fontsize=11)
        axis.set_xlabel("gradient norm")
    axes[0].set_ylabel(f"share of the {split} samples")
    add_legend(figure, axes[0])
    return figure


def _finite(title: str, row: Mapping[str, Any]) -> NDArray[np.float64]:
    """The gradient norms of an epoch that are numbers; a run that diverges has others."""
    norms = np.asarray(row["gradient_norms"], np.float64)
    finite = np.isfinite(norms)
    if not finite.all():
        told = title, np.count_nonzero(~finite), len(norms), row["epoch"]
        logger.warning("%s: %d of %d gradient norms after epoch %g are infinite or NaN and not drawn.", *told)
    return norms[finite]


def _style(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % 7], "linestyle": DASHES[index % 4], "linewidth": 1.6}


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


def _curves(axis: Axes, runs: Mapping[str, Rows], split: str | None, key: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for index, (title, rows) in enumerate(_of_split(runs, split).items()):
        epochs, values = [row["epoch"] for row in rows], [np.nan if row[key] is None else row[key] for row in rows]
        axis.plot(epochs, values, label=title, **_style(index))
        if "ranges" in rows[0]:
            low, high = np.array([row["ranges"][key] or (np.nan, np.nan) for row in rows]).T
            axis.fill_between(epochs, low, high, color=_style(index)["color"], alpha=0.2, linewidth=0)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
