# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
How all pictures look: colours, dashes and marks, sizes, titles, legends, and what may stand in their alt texts.
matplotlib is imported on use, and nothing of its state is changed for longer than a call.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike


if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .picture import Picture


# Of the palette of Okabe and Ito (2008), which colour-blind readers tell apart.
BLUE, ORANGE, GREY, DARK = "#0072B2", "#D55E00", "#8C8C8C", "#222222"
SKY, LIGHT = "#56B4E9", "#E4E4E4"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", SKY, DARK)
DASHES = ("-", "--", "-.", ":")  # they tell lines apart where colours do not, and so do these
MARKS = ("o", "s", "^", "D")
MOMENTS = {"before": "--", "after": "-"}  # dashes of what is drawn before and after calibration

_FIXED = (
    *("cross_entropy", "focal", "flsd_53", "brier", "mmce", "label_smoothing", "dual_focal"),
    *("adafocal", "flsd_532", "flsc_531", "flsc_532", "mmce_unweighted"),
)


@dataclass(frozen=True)
class Look:
    """How what belongs to one name is drawn: no two of 28 names of a picture share colour and dash, or mark."""

    colour: str
    dash: str
    mark: str

    @property
    def line(self) -> dict[str, Any]:
        """Of a line of its own dash."""
        return {"color": self.colour, "linestyle": self.dash}

    def of(self, moment: str) -> dict[str, Any]:
        """Of a line before or after calibration, which the dash tells."""
        return {"color": self.colour, "linestyle": MOMENTS[moment], "marker": self.mark}


def looks(names: Iterable[str]) -> dict[str, Look]:
    """
    The look of each name. A loss, whatever its parameters and however it is spelt (`flsd-53`, `FLSD-53`), has the same
    one in all pictures; the same loss with other parameters keeps the colour where it can.
    """
    names = list(dict.fromkeys(names))
    free = list(range(28))
    places: dict[str, int] = {}

    def take(name: str, wanted: Iterable[int]) -> None:
        if name not in places and (place := next((one for one in wanted if one in free), None)) is not None:
            free.remove(place)
            places[name] = place

    bases = {name: re.sub(r"[-_ ]+", "_", re.sub(r" *\(.*", "", name)).lower() for name in names}
    known = {name: _FIXED.index(base) for name, base in bases.items() if base in _FIXED}
    for name, place in known.items():
        take(name, [place])
    for name, place in known.items():
        take(name, [(place + 7 * turn) % 28 for turn in range(4)])
    for index, name in enumerate(names):
        take(name, [*free])
        places.setdefault(name, index % 28)  # of more than 28, some look alike
    return {name: Look(COLOURS[places[name] % 7], DASHES[places[name] % 4], MARKS[places[name] % 4]) for name in names}


def font_size(width: float) -> float:
    """In points, of a figure of so many inches: at least 8 pixels where it is shown 400 pixels wide."""
    return max(9.0, 1.5 * width)


def settings(size: float) -> dict[str, Any]:
    """One size for all text; a grid behind what is drawn; no box around it."""
    texts = ("font.size", "axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize")
    return {
        **dict.fromkeys(texts, size),
        "legend.title_fontsize": size,
        "figure.titlesize": size,
        "text.color": DARK,
        "axes.labelcolor": DARK,
        "axes.edgecolor": DARK,
        "xtick.color": DARK,
        "ytick.color": DARK,
        "text.parse_math": False,  # a name may hold a dollar sign
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": LIGHT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.8,
        "hatch.linewidth": 0.8,
        "legend.frameon": False,
        "legend.handlelength": 2.4,
    }


@contextmanager
def drawing(width: float, height: float) -> Iterator[Picture]:
    """An empty figure of so many inches, to be drawn on within the `with`, whatever the settings of the user are."""
    from .picture import Picture

    rules = settings(font_size(width))
    figure = Picture(rules, figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    with figure.in_style():
        yield figure


def tell(figure: Picture, finding: str, alt_text: str) -> None:
    """Give a picture its title, wrapped, and its alt text."""
    figure.finding, figure.alt_text = one_line(finding), markup_free(alt_text)
    title = wrapped(figure, figure.finding, figure.get_figwidth(), bold=True)
    _grow(figure, title.count("\n"))
    figure.suptitle(title, x=0.01, horizontalalignment="left", fontweight="bold")


def wrapped(figure: Picture, text: str, inches: float, bold: bool = False) -> str:
    """Text in lines that fit into so many inches of a figure, four at most."""
    letters = max(12, int(_letters(figure, inches) * (0.8 if bold else 1)))
    return "\n".join(textwrap.wrap(one_line(text), letters, max_lines=4, placeholder=" …"))


def _grow(figure: Picture, lines: int) -> None:
    """Room for so many more lines of text, which is not taken from the panels."""
    size = font_size(figure.get_figwidth())
    figure.set_figheight(figure.get_figheight() + 1.5 * lines * size / 72)


def _letters(figure: Picture, inches: float) -> float:
    """How many letters fit into so many inches: they are half as wide as high."""
    return 72 * inches / (0.51 * font_size(figure.get_figwidth()))


def short(name: str, most: int = 36) -> str:
    """A name for a legend: a long one loses its middle. matplotlib hides what begins with an underscore."""
    name = one_line(name)
    if len(name) > most:
        kept = most // 2
        name = f"{name[:kept]}…{name[kept + 1 - most :]}"
    return f" {name}" if name.startswith("_") else name


def one_line(text: str) -> str:
    """Text without line breaks and the like."""
    return re.sub(r"[\s\x00-\x1f\x7f]+", " ", text).strip()


def markup_free(text: str) -> str:
    """Text that neither Markdown nor HTML takes for more than text, for `![...](...)` and `alt="..."`."""
    text = text.replace('"', "'").replace("<=", "at most ").replace(">=", "at least ").replace("&", " and ")
    return one_line(re.sub(r"[\[\]<>|`*\\$~{}]+", " ", text))


def listed(parts: Sequence[str], most: int = 4) -> str:
    """`a, b and c`; of many, how many more there are."""
    if len(parts) > most:
        parts = [*parts[: most - 1], f"{len(parts) - most + 1} more"]
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1] if parts else ""]))


def titled_panels(probabilities: ArrayLike | Mapping[str, ArrayLike]) -> dict[str, ArrayLike]:
    """What each panel shows, by its title; a single array is one panel without."""
    panels = dict(probabilities) if isinstance(probabilities, Mapping) else {"": probabilities}
    if not panels:
        raise ValueError("probabilities holds no panel: give at least one array.")
    return panels


def add_legend(figure: Picture, *axes: Axes, columns: int = 3) -> None:
    """One legend for all panels, below them, where it hides nothing: the figure grows by its lines."""
    handles: list[Any] = []
    names: list[str] = []
    for axis in axes:
        more_handles, more_names = axis.get_legend_handles_labels()
        handles, names = handles + more_handles, names + more_names
    if not names:
        return
    longest = max(map(len, names)) + 6  # with the line or the patch before it
    fitting = max(1, min(columns, len(names), int(_letters(figure, figure.get_figwidth()) / longest)))
    _grow(figure, math.ceil(len(names) / fitting))
    figure.legend(handles, names, loc="outside lower center", ncols=fitting)


def plain_numbers(axis: Any, ticks: int = 5) -> None:
    """Ticks of a logarithmic axis as numbers, for exponents are too small to be read."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    def between(value: float, _: int | None = None) -> str:
        """Twos and fives, where the powers of ten alone may be one or none."""
        low, high = sorted(axis.get_view_interval())
        return _as_number(value) if high < 30 * low and f"{value:e}"[0] in "25" else ""

    axis.set_major_locator(LogLocator(numticks=ticks))
    axis.set_major_formatter(FuncFormatter(_as_number))
    axis.set_minor_formatter(FuncFormatter(between))


def _as_number(value: float, _: int | None = None) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}".replace("e-0", "e-")


def legend_below(axis: Axes, title: str) -> None:
    """The legend of one panel, below it."""
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), title=title)


def label_lowest(axes: Any, label: str) -> None:
    """Numbers and a label below the lowest panel of each column of a grid that is not quite filled."""
    for column in axes.T:
        (*_, lowest) = [axis for axis in column if axis.axison] or column[:1]
        lowest.tick_params(labelbottom=True)
        lowest.set_xlabel(label)
