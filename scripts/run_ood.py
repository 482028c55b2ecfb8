# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Measure calibrated image classifiers on unfamiliar data, before and after calibration: how well they notice
another data set, how calibration holds out as images get worse, and what their confidence is worth.

    accelerate launch scripts/run_ood.py --help

The same as `hf-focal ood`; its code is in `hf_focal/cli/run_ood.py`.
"""

from hf_focal.cli.commands import COMMANDS
from hf_focal.cli.script import run_script


main = COMMANDS["ood"]

if __name__ == "__main__":
    run_script(main)
