# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Train an image classifier with a calibration loss, calibrate it on validation data, and save it.

    accelerate launch scripts/run_image.py --help

The same as `hf-focal run-image`; its code is in `hf_focal/cli/run_image.py`.
"""

from hf_focal.cli.commands import COMMANDS
from hf_focal.cli.script import run_script


main = COMMANDS["run-image"]

if __name__ == "__main__":
    run_script(main)
