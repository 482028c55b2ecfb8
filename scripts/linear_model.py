# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
The norm of a linear model's weight under cross-entropy and focal loss (Appendix C of Mukhoti et al., 2020).

    python scripts/linear_model.py --help

The same as `hf-focal linear-model`; its code is in `hf_focal/cli/linear_model.py`.
"""

from hf_focal.cli.commands import COMMANDS
from hf_focal.cli.script import run_script


main = COMMANDS["linear-model"]

if __name__ == "__main__":
    run_script(main)
