# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Train the grid of runs behind the paper's tables and figures, and write pages that set ours beside the paper's, with
intervals and a verdict for each claim.

    python scripts/reproduce.py --help

The same as `hf-focal reproduce`, in the checkout; its code is in `hf_focal/cli/reproduce.py`.
"""

from hf_focal.cli.commands import COMMANDS
from hf_focal.cli.script import run_script


main = COMMANDS["reproduce"]

if __name__ == "__main__":
    run_script(main)
