# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Bars with the time that is left, of work that may take long: in a terminal alone, and one at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm


T = TypeVar("T")
DELAY = 2.0  # seconds: what is done by then shows no bar
_state = {"off": False, "busy": False}


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """
    The items, with a bar on the standard error once they have taken two seconds. There is none where that is no
    terminal, in other processes than the first, after [`no_bars`], and within the items of another.
    """
    if _state["off"] or _state["busy"] or os.environ.get("RANK", "0") != "0" or not _is_terminal():
        return items
    return _shown(items, what, total)


def _shown(items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
    _state["busy"] = True
    try:
        yield from tqdm(items, desc=what, total=total, delay=DELAY, leave=False, dynamic_ncols=True)
    finally:
        _state["busy"] = False


def no_bars() -> None:
    """Show none from now on."""
    _state["off"] = True


def _is_terminal() -> bool:
    return bool(getattr(sys.stderr, "isatty", bool)())
