# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Tables as text and in Markdown, of cells that are strings already, and how numbers become such cells."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby


PERCENT = ".2%"
WIDTH = 80  # of what is printed, where nothing is known of the terminal


def cell(value: float | None, style: str = PERCENT) -> str:
    """A number as it is printed; `-` for none."""
    return "-" if value is None else format(value, style)


def with_interval(value: float, ends: Sequence[float], style: str = PERCENT) -> str:
    """A number and, where there are any, the ends of its interval: `2.50% (2.00% to 3.00%)`."""
    return cell(value, style) + (f" ({' to '.join(cell(end, style) for end in ends)})" if ends else "")


def with_noise(value: float, highest: float, style: str = PERCENT, short: bool = False) -> str:
    """A calibration error, and whether chance alone shows as much: `2.50% (within noise)`, in short `2.50% ~`."""
    return cell(value, style) + ((" ~" if short else " (within noise)") if value <= highest else "")


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


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], aligned: bool = False) -> str:
    """The same in Markdown; whoever shows it aligns the columns, unless they are to be `aligned` here."""
    lines = [list(header), ["---"] * len(header), *map(list, rows)]
    if aligned:
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines = [[f"{one:<{width}}" for one, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def split_table(
    table: Callable[[Sequence[str], Iterable[Sequence[str]]], str], header: Sequence[str],
    rows: Iterable[Sequence[str]], named: int, width: int = WIDTH,
) -> str:  # fmt: skip
    """
    A table as several that are no wider than `width`, each led by the first `named` columns, which tell the rows
    apart. Where these would take more than half of it, rows are numbered, and told apart before.
    """
    rows = [list(row) for row in rows]
    lead, parts = [list(column) for column in zip(*[row[:named] for row in (list(header), *rows)], strict=True)], []
    if _width(table(*_table_of(lead))) > width // 2:
        for number, row in enumerate(rows, 1):
            told = ", ".join(f"{title} {one}" for title, one in zip(header, row[:named], strict=False))
            parts.append(fill(f"{number}: {told}", width, indent="   "))
        parts = ["\n".join(parts)]
        lead = [["", *(str(number) for number in range(1, len(rows) + 1))]]
    columns = list(zip(*[row[named:] for row in (list(header), *rows)], strict=True))
    taken: list[Sequence[str]] = []
    for pair in _pairs(columns):
        if taken and _width(table(*_table_of([*lead, *taken, *pair]))) > width:
            parts.append(table(*_table_of([*lead, *taken])))
            taken = []
        taken += pair
    return "\n\n".join([*parts, table(*_table_of([*lead, *taken]))])


def _pairs(columns: Sequence[Sequence[str]]) -> Iterator[Sequence[Sequence[str]]]:
    """What was before and what is after stay side by side."""
    for _, pair in groupby(columns, key=lambda column: re.sub(" (before|after)$", "", column[0])):
        yield list(pair)


def _table_of(columns: Iterable[Sequence[str]]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    header, *rows = zip(*columns, strict=True)
    return header, rows


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def wrap_titles(lines: Iterable[Sequence[str]], width: int = WIDTH, least: int = 12) -> list[list[str]]:
    """
    The lines of a text table of numbers, with titles that are wrapped where it would be wider than `width`, into no
    fewer than `least` columns.
    """
    lines = [list(line) for line in lines]
    others = sum(2 + max(map(len, column)) for column in list(zip(*lines, strict=True))[1:])
    room, wrapped = max(width - others - 2, least), []
    for title, *cells in lines:
        first, *further = textwrap.wrap(title, room) or [""]
        wrapped += [[first, *cells], *([f"  {part}"[:room], *[""] * len(cells)] for part in further)]
    return wrapped


def fill(text: str, width: int = WIDTH, indent: str = "") -> str:
    """Prose in lines of at most so many columns; a path or address stays whole. Further lines are indented."""
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
