# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Print finished runs as one table in Markdown: temperature, error, calibration errors and NLL on the test data, what the
calibrator gained on the NLL, and what the best one known would leave. Runs that differ in nothing but their seed
become one row, with the mean and half the range.

    python scripts/compare_runs.py --help

The same as `hf-focal compare`; its code is in `hf_focal/cli/compare_runs.py`.
"""

from hf_focal.cli.commands import COMMANDS
from hf_focal.cli.script import run_script


main = COMMANDS["compare"]

if __name__ == "__main__":
    run_script(main)
