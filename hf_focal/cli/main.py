# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The program `hf-focal`, and `python -m hf_focal`: it finds a command by its name, or says which there are."""

from __future__ import annotations

import sys
from pathlib import Path

from ..names import suggestion
from ..version import __version__
from .commands import COMMANDS
from .script import run_script


NAME = "hf-focal"
_HELP = ("-h", "--help")


def main() -> None:
    """Run the command that the command line names."""
    sys.argv[0] = str(Path(sys.argv[0]).with_name(NAME))
    run_script(_run)


def _run() -> None:
    name, *flags = sys.argv[1:] or _HELP[-1:]
    if name in _HELP:
        print(_overview())
    elif name == "--version":
        print(f"{NAME} {__version__}")
    else:
        name = _find(name)
        sys.argv = [f"{sys.argv[0]} {name}", *flags]  # whose last part is the name that errors begin with
        COMMANDS[name]()


def _find(name: str) -> str:
    """The name of a command, which may be given as that of its script."""
    if name.startswith("-"):
        hint = suggestion(name, [*_HELP, "--version"]) or f" See {NAME} --help."
        raise ValueError(f"There is no flag {name} before a command.{hint}")
    known = {command.module.replace("_", "-"): own for own, command in COMMANDS.items()}
    known |= {own: own for own in COMMANDS}
    wanted = name.lower().removesuffix(".py").replace("_", "-")
    if wanted not in known:
        hint = suggestion(wanted, known) or f" It is one of {', '.join(COMMANDS)}."
        raise ValueError(f"There is no command {name!r}.{hint}")
    return known[wanted]


def _overview() -> str:
    column = max(map(len, COMMANDS)) + 3
    commands = "\n".join(f"  {name:<{column}}{command.about}" for name, command in COMMANDS.items())
    return f"""\
usage: {NAME} COMMAND [flags]

Makes Hugging Face classifiers say 80% where they are right 80% of the time.

{commands}

{NAME} COMMAND --help     the flags of a command
{NAME} --version          {__version__}

With several GPUs, one process for each:
  accelerate launch -m hf_focal COMMAND [flags]"""
