# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Train a classifier of texts, or of their words, with a calibration loss, calibrate it on validation data, and save it.

    accelerate launch scripts/run_text.py --help

The same as `hf-focal run-text`; its code is in `hf_focal/cli/run_text.py`.
"""

from hf_focal.cli.commands import COMMANDS
from hf_focal.cli.script import run_script


main = COMMANDS["run-text"]

if __name__ == "__main__":
    run_script(main)
