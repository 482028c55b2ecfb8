# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Calibrate a classifier that you have, of images, texts, the words of texts or sounds, or of a task of yours, without
training: fit a temperature, or another map, on held-out data, measure what it does on other data, and save (and push)
a checkpoint whose plain softmax is calibrated.

    accelerate launch scripts/calibrate.py --help

The same as `hf-focal calibrate`; its code is in `hf_focal/cli/calibrate.py`.
"""

from hf_focal.cli.commands import COMMANDS
from hf_focal.cli.script import run_script


main = COMMANDS["calibrate"]

if __name__ == "__main__":
    run_script(main)
