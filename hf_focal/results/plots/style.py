# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What all pictures share: colours, dashes, figures without global state, legends. matplotlib is imported on use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Of the Okabe-Ito palette, which colour-blind readers tell apart.
BLUE, ORANGE, GREY, DARK = "#0072B2", "#D55E00", "#9A9A9A", "#222222"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", DARK)
DASHES = ("-", "--", "-.", ":")  # they tell lines apart where colours do not


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def titled_panels(probabilities: ArrayLike | Mapping[str, ArrayLike]) -> dict[str, ArrayLike]:
    """What each panel shows, by its title; a single array is one panel without."""
    panels = dict(probabilities) if isinstance(probabilities, Mapping) else {"": probabilities}
    if not panels:
        raise ValueError("probabilities holds no panel: give at least one array.")
    return panels


def add_legend(figure: Figure, *axes: Axes) -> None:
    """One legend for all panels, below them, where it hides nothing."""
    handles: list[Any] = []
    names: list[str] = []
    for axis in axes:
        more_handles, more_names = axis.get_legend_handles_labels()
        handles, names = handles + more_handles, names + more_names
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
