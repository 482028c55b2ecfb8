# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Train a classifier of sounds with a calibration loss, calibrate it on validation data, and save it.

    accelerate launch scripts/run_audio.py --help

The same as `hf-focal run-audio`; its code is in `hf_focal/cli/run_audio.py`.
"""

from hf_focal.cli.commands import COMMANDS
from hf_focal.cli.script import run_script


main = COMMANDS["run-audio"]

if __name__ == "__main__":
    run_script(main)
