# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Train the grid of runs behind the paper's tables and figures; see `hf_focal/cli/reproduce.py`."""

from hf_focal.cli.reproduce import main
from hf_focal.cli.script import run_script


if __name__ == "__main__":
    run_script(main)
