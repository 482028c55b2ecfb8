# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Print finished runs as one table in Markdown: temperature, error, calibration errors and NLL on the test data, what the
calibrator gained on the NLL, and what the best one known would leave. Runs that differ in nothing but their seed
become one row, with the mean and half the range.

    python scripts/compare_runs.py outputs/cross_entropy-0 outputs/cross_entropy-1 outputs/flsd-53-0 outputs/flsd-53-1
"""

if __name__ == "__main__":  # before the imports: they take seconds, and --help needs none of them
    from hf_focal.cli.commands import start

    start("compare")


import argparse
from pathlib import Path

from ..results.compare import compare_runs
from .script import Parser


def main() -> None:
    """What the command does."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="Output folders of finished runs.")
    print(compare_runs(parser.parse_args().runs))
