# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What `--help` prints: a parser's flags in groups, 80 columns wide, the same with every version of Python."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


WIDTH, COLUMN = 80, 30
_METAVARS: dict[Any, str] = {int: "N", float: "X", Path: "PATH"}
_SUFFIXES = {"_kwargs": "JSON", "_dir": "PATH"}  # of flags that say more than their type
_SWITCH = "string_to_bool"  # how transformers reads true and false


def page(parser: argparse.ArgumentParser, groups: Mapping[str, Sequence[argparse.Action]], choices: bool) -> str:
    """The help of a parser: how it is called, its description, and these groups of its flags."""
    actions = [action for group in groups.values() for action in group]
    needed = [action for action in actions if action.required]
    words = [parser.prog, *(_invocation(action) for action in needed), "[flags]"]
    usage = textwrap.fill(" ".join(words), WIDTH, initial_indent="usage: ", subsequent_indent=" " * 7, **_WORDS)
    parts = [usage, *_paragraphs(parser.description or "")]
    for title, group in groups.items():
        parts.append("\n".join([f"{title}:", *(_entry(action, choices) for action in group)]))
    return "\n\n".join(parts) + "\n"


_WORDS: dict[str, Any] = {"break_on_hyphens": False, "break_long_words": False}


def _paragraphs(text: str) -> Iterable[str]:
    """Those of a docstring, filled; what is indented stays as it is."""
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        lines = paragraph.split("\n")
        verbatim = all(line.startswith("  ") for line in lines)
        yield paragraph if verbatim else textwrap.fill(" ".join(lines), WIDTH, **_WORDS)


def _entry(action: argparse.Action, choices: bool) -> str:
    said = " ".join((action.help or "").replace("%%", "%").split()) if action.dest != "help" else "This page."
    if choices and action.choices:
        said += f" One of {', '.join(map(str, action.choices))}."
    default = _default(action)
    said = f"{said} ({default})" if default else said
    head = f"  {_invocation(action)}"
    if not said:
        return head
    lines = textwrap.wrap(said, WIDTH - COLUMN, **_WORDS)
    first = f"{head:<{COLUMN}}{lines[0]}" if len(head) <= COLUMN - 2 else f"{head}\n{' ' * COLUMN}{lines[0]}"
    return "\n".join([first, *(" " * COLUMN + line for line in lines[1:])])


def _invocation(action: argparse.Action) -> str:
    """The first name of a flag, with what it takes."""
    if action.nargs == 0 or action.const is True:  # a switch
        return ", ".join(action.option_strings if action.dest == "help" else action.option_strings[:1])
    suffixes = [taken for suffix, taken in _SUFFIXES.items() if action.dest.endswith(suffix)]
    metavar = next(iter(suffixes), _METAVARS.get(action.type, "TEXT"))
    if getattr(action.type, "__name__", "") == _SWITCH:
        metavar = "true|false"
    if not action.option_strings:
        metavar = action.dest.upper()
    metavar = action.metavar if isinstance(action.metavar, str) else metavar
    return " ".join([*action.option_strings[:1], metavar, *["..."] * (action.nargs in ("+", "*"))])


def _default(action: argparse.Action) -> str:
    if action.required:
        return "required"
    value = getattr(action.default, "value", action.default)  # of an enumeration
    if value in (None, argparse.SUPPRESS, False) or value == [] or action.nargs == 0:
        return ""
    value = "true" if value is True else value
    return f"default: {' '.join(map(str, value)) if isinstance(value, list) else value}"
