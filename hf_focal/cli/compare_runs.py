# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Print finished runs side by side, as tables in Markdown: temperature, error, calibration errors and NLL on the test
data, what the calibrator gained on the NLL, and what the best one known would leave. Runs that differ in nothing but
their seed become one row, with the mean and half the range.

  hf-focal compare outputs/cross_entropy outputs/flsd-53 outputs/flsd-53-43
"""

if __name__ == "__main__":  # before the imports: they take seconds, and --help needs none of them
    from hf_focal.cli.commands import start

    start("compare")


from pathlib import Path

from .script import Parser


LEGEND = "Bold: better than all other rows by more than noise. ~: no more than chance alone would show."


def main() -> None:
    """What the command does."""
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="Output folders of finished runs.")
    parser.add_argument("--wide", action="store_true", help="One table, however wide, as a document needs it.")
    options = parser.parse_args()
    from ..results.compare import compare_runs, compare_runs_in  # here, since it takes seconds
    from ..results.tables import fill
    from .terminal import columns, is_terminal, show

    if options.wide:
        print(compare_runs(options.runs))
    else:
        show(compare_runs_in(columns(), options.runs, aligned=is_terminal()))
        show(f"\n{fill(LEGEND, columns())}")
