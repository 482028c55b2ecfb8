# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Print finished runs as one table in Markdown: temperature, error, calibration errors and NLL on the test data, what the
calibrator gained on the NLL, and what the best one known would leave. Runs that differ in nothing but their seed
become one row, with the mean and half the range.

  hf-focal compare outputs/cross_entropy outputs/flsd-53 outputs/flsd-53-43
"""

if __name__ == "__main__":  # before the imports: they take seconds, and --help needs none of them
    from hf_focal.cli.commands import start

    start("compare")


from pathlib import Path

from .script import Parser


def main() -> None:
    """What the command does."""
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="Output folders of finished runs.")
    options = parser.parse_args()
    from ..results.compare import compare_runs  # here, since it takes seconds

    print(compare_runs(options.runs))
