# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""How results are shown: as wide as the terminal, coloured in one, and as plain text everywhere else."""

from __future__ import annotations

import os
import re
import shutil
import sys
from typing import TextIO

from ..results.tables import WIDTH


_NARROW, _WIDE = 60, 100
_BOLD, _DIM, _GOOD, _BAD = "1", "2", "36", "33"  # cyan and yellow, which all eyes tell apart; words say it as well
_STYLES = (
    (re.compile(r"^(Calibrated|Left alone: calibrated as it is|Nearly calibrated)\b"), f"{_BOLD};{_GOOD}"),
    (re.compile(r"^(Still|Now|Worse|Not calibrated|Too little data|Left alone)\b[^:]*"), f"{_BOLD};{_BAD}"),
    (re.compile(r"(?<=  )better$"), _GOOD),
    (re.compile(r"(?<=  )worse$"), _BAD),
    (re.compile(r"\bgot worse by more than noise\b"), _BAD),
    (re.compile(r"^- (true value|by chance|interval|left)\b.*$"), _DIM),
    (re.compile(r"^== .*$"), _BOLD),
    (re.compile(r"\*\*[^*|]+\*\*"), f"{_BOLD};{_GOOD}"),
)


def columns(stream: TextIO | None = None) -> int:
    """How wide lines may be: as the terminal, from 60 to 100; elsewhere 80."""
    if not _is_terminal(stream or sys.stdout):
        return WIDTH
    return min(max(shutil.get_terminal_size((WIDTH, 24)).columns, _NARROW), _WIDE)


def coloured(stream: TextIO | None = None) -> bool:
    """Whether colours are wanted: in a terminal, unless `NO_COLOR`, `CLICOLOR=0` or `TERM=dumb` says otherwise."""
    if os.environ.get("NO_COLOR"):
        return False
    if any(os.environ.get(name, "0") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    plain = os.environ.get("TERM") == "dumb" or os.environ.get("CLICOLOR") == "0"
    if os.name == "nt" and "WT_SESSION" not in os.environ:  # older consoles show the codes themselves
        plain = True
    return not plain and _is_terminal(stream or sys.stdout)


def show(text: str) -> None:
    """Print results."""
    print("\n".join(map(_styled, text.splitlines())) if coloured() else text)


def is_terminal() -> bool:
    """Whether the standard output is one."""
    return _is_terminal(sys.stdout)


def _is_terminal(stream: TextIO) -> bool:
    return bool(getattr(stream, "isatty", bool)())


def _styled(line: str) -> str:
    for pattern, codes in _STYLES:
        line = pattern.sub(rf"\033[{codes}m\g<0>\033[0m", line)
    return line
