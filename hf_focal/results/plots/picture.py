# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
The figure that every plot function returns: it knows what it shows in words, and looks the same under any settings of
matplotlib. This file imports matplotlib, and so is imported on use.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from threading import RLock
from typing import Any

import matplotlib as mpl
from matplotlib import style
from matplotlib.figure import Figure


_ONE_AT_A_TIME = RLock()


class Picture(Figure):
    """
    A [`matplotlib.figure.Figure`], to save, show and change like any other.

    Attributes:
        finding (`str`): What the picture shows, in one sentence: its title.
        alt_text (`str`): What somebody reads who does not see it, without any markup. PNG and SVG files that `savefig`
            writes hold both, as `Title` and `Description`.
    """

    finding: str = ""
    alt_text: str = ""

    def __init__(self, settings: dict[str, Any], **kwargs: Any) -> None:
        self._settings = settings
        super().__init__(**kwargs)

    @contextmanager
    def in_style(self) -> Iterator[None]:
        """
        Settings of matplotlib for as long as something is drawn; one thread at a time, for there is one set of them.
        Fonts of the user serve where ours has no sign.
        """
        with _ONE_AT_A_TIME:
            fonts = {"font.family": list(dict.fromkeys(["DejaVu Sans", *mpl.rcParams["font.family"]]))}
            fonts["font.sans-serif"] = mpl.rcParams["font.sans-serif"]
            with style.context(["default", self._settings, fonts]):
                yield

    def draw(self, renderer: Any) -> None:
        """matplotlib makes ticks as late as this."""
        with self.in_style():
            super().draw(renderer)

    def savefig(self, fname: Any, *, transparent: bool | None = None, **kwargs: Any) -> None:
        """As of matplotlib, with what the picture shows written into the file."""
        with self.in_style():
            name = os.fspath(fname) if isinstance(fname, str | os.PathLike) else ""
            ending = kwargs.get("format") or os.path.splitext(name)[1].lstrip(".") or mpl.rcParams["savefig.format"]
            if ending.lower() in ("png", "svg"):
                told = {key: text for key, text in (("Title", self.finding), ("Description", self.alt_text)) if text}
                kwargs["metadata"] = {**told, **(kwargs.get("metadata") or {})}
            super().savefig(fname, transparent=transparent, **kwargs)

    def _repr_png_(self) -> bytes:
        """Notebooks show it, without `%matplotlib inline` too."""
        file = BytesIO()
        self.savefig(file, format="png", dpi=100)
        return file.getvalue()
