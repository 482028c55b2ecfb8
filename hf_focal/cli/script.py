# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""How a script ends: a mistake of the user's is one line, the last on the terminal, and no traceback."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import psutil
from tqdm import tqdm

from ..names import suggestion
from ..online import scrub
from ..results.lock import release_all
from .usage import page


TRACEBACK = "HF_FOCAL_TRACEBACK"  # set in the environment: mistakes have their traceback, too
# Those of libraries that are neither of these, by name: a damaged file, data that cannot be read, no connection.
_MISTAKES = ValueError, OSError, ImportError, SyntaxError
_OF_LIBRARIES = {"SafetensorError", "DatasetsError", "HTTPError", "DecompressionBombError", "StrictDataclassError"}
_NOT_INSTALLED = re.compile("pip install|to be installed")
_NO_MEMORY = re.compile("out of memory|allocate memory|not enough memory", re.IGNORECASE)
_LAUNCHERS = {"accelerate", "accelerate-launch", "torchrun"}
_LAUNCHERS |= {f"accelerate.commands.{name}" for name in ("launch", "accelerate_cli")}
_LAUNCHERS |= {f"torch.distributed.{name}" for name in ("run", "launch")}
# A launcher prints its own traceback once the script has ended: a process that outlives both says the line again,
# on a terminal while the launcher cleans up (seconds), before the prompt; a log has it once the launcher is gone.
_ECHO = """
import sys, time, psutil
def lives(pid):
    try: return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    except psutil.Error: return False
script, launcher, quick, line = sys.argv[1:]
end = time.monotonic() + 60
while lives(launcher) and time.monotonic() < end and not (quick and not psutil.pid_exists(int(script))):
    time.sleep(0.02)
for _ in range(15):
    time.sleep(0.02 * lives(launcher))
print(line, file=sys.stderr, flush=True)
"""


def run_script(main: Callable[[], None]) -> None:
    """
    Call `main`. A mistake of the user's (an argument, a file, a name, data, memory) ends the program with one line on
    the standard error and exit code 2; the environment variable `HF_FOCAL_TRACEBACK` brings its traceback back. All
    other errors, which are ours, have it anyway. An interruption by the keyboard ends with code 130.

    Of several processes the main one speaks. Another does where the main one lives on, seconds later.
    """
    others = os.environ.get("RANK", "0") != "0"
    try:
        main()
    except KeyboardInterrupt as stop:
        if others:
            sys.exit(130)
        _end(f"interrupted. {stop}".strip(), 130)
    except Exception as error:
        if others:
            time.sleep(20)  # if the main process has failed as well, its launcher ends this one meanwhile
        said = None if os.environ.get(TRACEBACK) else _mistake(error)
        if said is None:
            raise
        _end(f"error: {said}", 2)
    finally:
        release_all()


class Parser(argparse.ArgumentParser):
    """A parser of arguments whose errors are a `ValueError` of one line, with the nearest name that there is."""

    def format_help(self) -> str:
        """What `--help` prints, see [`usage.page`]."""
        named = [action for action in self._actions if action.option_strings]
        positional = [action for action in self._actions if not action.option_strings]
        groups = {"arguments": positional, "flags": named} if positional else {"flags": named}
        return page(self, groups, choices=True)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise ValueError(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As usual, but unknown flags are refused first: one that is required may be misspelt."""
        known = self._option_string_actions
        for word in sys.argv[1:] if args is None else args:
            name = word.partition("=")[0]
            if name.startswith("--") and name.strip("-") and name not in known:
                raise ValueError(f"There is no flag {name}.{suggestion(name, known) or ' See --help.'}")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        names = [str(choice) for choice in action.choices or ()]
        if names and value not in (action.choices or ()):
            hint = suggestion(str(value), names) or f" It is one of {', '.join(names)}."
            raise argparse.ArgumentError(action, f"there is no {value!r}.{hint}")


def _mistake(error: BaseException) -> str | None:
    """What the user did wrong, in one line; `None` where the error is ours."""
    if isinstance(error, MemoryError) or isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)):
        found = " ".join(str(error).split()).partition(". ")[0] or "out of memory"
        flags = "--per_device_train_batch_size, --per_device_eval_batch_size"
        return f"{found.rstrip('.')}. Smaller batches need less: {flags}."
    names = {cls.__name__ for cls in type(error).__mro__}
    missing = isinstance(error, RuntimeError) and _NOT_INSTALLED.search(str(error))
    if not (isinstance(error, _MISTAKES) or missing or names & _OF_LIBRARIES):
        return None
    said = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        said = f"{error.filename}: {error.strerror}"
    elif "DatasetGenerationError" in names and error.__cause__ is not None:
        said = f"{error}: {error.__cause__}"
    said = " ".join(said.split()) or type(error).__name__
    raised = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    if (
        Path(__file__).resolve().parents[1] not in raised.parents
        and raised.parent != Path(sys.argv[0]).resolve().parent
    ):
        said += f" ({TRACEBACK}=1 shows where.)"
    return said


def _end(said: str, code: int) -> NoReturn:
    line = scrub(f"{Path(sys.argv[0]).name}: {said}")  # the command line may hold a token
    started = "\n" if getattr(tqdm, "_instances", None) else ""  # a progress bar has no end of line
    print(f"{started}{line}", file=sys.stderr, flush=True)
    if _launched():
        quick = sys.stderr.isatty() and "TORCHELASTIC_RUN_ID" not in os.environ
        command: Sequence[str] = [sys.executable, "-c", _ECHO, str(os.getpid()), str(os.getppid()), "1" * quick, line]
        nowhere = subprocess.DEVNULL
        subprocess.Popen(command, stdin=nowhere, stdout=nowhere, start_new_session=True)
    sys.exit(code)


def _launched() -> bool:
    """Whether the parent process is a launcher, which reports that this one has failed."""
    try:
        python, *words = psutil.Process(os.getppid()).cmdline()[:4]
    except (psutil.Error, ValueError):
        return False
    return "python" in Path(python).name and not _LAUNCHERS.isdisjoint(Path(word).name for word in words)
