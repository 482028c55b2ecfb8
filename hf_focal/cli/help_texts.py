# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Keeps what `--help` of each command prints in `help/`, so that nothing heavy is imported to print it.

    python -m hf_focal.cli.help_texts
"""

from __future__ import annotations

import contextlib
import io
import sys
from importlib import import_module

from .commands import COMMANDS, PROGRAM, Command


def help_of(command: Command) -> str:
    """What the parser of a command prints, with [`PROGRAM`] for the name of the program."""
    argv, sys.argv = sys.argv, [PROGRAM, "--help"]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
            import_module(f".{command.module}", __package__).main()
    finally:
        sys.argv = argv
    return printed.getvalue()


def _write() -> None:
    for command in COMMANDS.values():
        command.help_text.parent.mkdir(exist_ok=True)
        command.help_text.write_text(help_of(command), encoding="utf-8", newline="\n")
        print(command.help_text)


if __name__ == "__main__":
    _write()
