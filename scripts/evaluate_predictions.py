# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Measure predictions that you saved, however many: metrics with intervals, what chance alone would show, a reliability
diagram, the best temperature, and which of several models is better.

    accelerate launch scripts/evaluate_predictions.py --help

The same as `hf-focal evaluate-predictions`; its code is in `hf_focal/cli/evaluate_predictions.py`.
"""

from hf_focal.cli.commands import COMMANDS
from hf_focal.cli.script import run_script


main = COMMANDS["evaluate-predictions"]

if __name__ == "__main__":
    run_script(main)
