# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Fit every calibrator to the logits of a model that you have, and print and draw what each does to other data: NLL,
Brier score, ECE, error, the time of the fit, and what it gains on the NLL over a temperature.

    python scripts/compare_calibrators.py --help

The same as `hf-focal compare-calibrators`; its code is in `hf_focal/cli/compare_calibrators.py`.
"""

from hf_focal.cli.commands import COMMANDS
from hf_focal.cli.script import run_script


main = COMMANDS["compare-calibrators"]

if __name__ == "__main__":
    run_script(main)
