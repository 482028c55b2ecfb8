# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Tables as text and in Markdown, of cells that are strings already, and how numbers become such cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


PERCENT = ".2%"


def cell(value: float | None, style: str = PERCENT) -> str:
    """A number as it is printed; `-` for none."""
    return "-" if value is None else format(value, style)


def with_interval(value: float, ends: Sequence[float], style: str = PERCENT) -> str:
    """A number and, where there are any, the ends of its interval: `2.50% (2.00% to 3.00%)`."""
    return cell(value, style) + (f" ({' to '.join(cell(end, style) for end in ends)})" if ends else "")


def with_noise(value: float, highest: float, style: str = PERCENT) -> str:
    """A calibration error, and whether chance alone shows as much: `2.50% (within noise)`."""
    return cell(value, style) + (" (within noise)" if value <= highest else "")


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False) -> str:
    """
    Columns as wide as their widest cell, two blanks apart, without blanks at the ends of lines.

    Args:
        header (`Sequence[str]`):
            Titles of the columns.
        rows (`Iterable[Sequence[str]]`):
            As many cells each.
        numbers (`bool`, *optional*, defaults to `False`):
            All columns but the first hold numbers: they are aligned on the right and stand off from the first.
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[0] += 2 * numbers
    aligns = ["<", *(">" if numbers else "<" for _ in widths[1:])]
    shapes = [f"{{:{align}{width}}}" for align, width in zip(aligns, widths, strict=True)]
    return "\n".join("  ".join(map(str.format, shapes, line)).rstrip() for line in lines)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same in Markdown; whoever shows it aligns the columns."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
