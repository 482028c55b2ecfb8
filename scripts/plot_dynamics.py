# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Draw how NLL, entropy, the norm of the last layer and the gradients of several runs develop during training.

    python scripts/plot_dynamics.py --help

The same as `hf-focal plot-dynamics`; its code is in `hf_focal/cli/plot_dynamics.py`.
"""

from hf_focal.cli.commands import COMMANDS
from hf_focal.cli.script import run_script


main = COMMANDS["plot-dynamics"]

if __name__ == "__main__":
    run_script(main)
