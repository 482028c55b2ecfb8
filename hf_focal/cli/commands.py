# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The commands that there are: the one table of their names, for `hf-focal`, `scripts/` and `python -m`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

from .script import run_script


@dataclass(frozen=True)
class Command:
    """A module of this folder with a `main`, which is imported when the command is called."""

    module: str
    about: str

    def __call__(self) -> None:
        """Do what the command line says; errors stay as they are."""
        import_module(f".{self.module}", __package__).main()


COMMANDS = {
    "calibrate": Command("calibrate", "Calibrate and measure a classifier that you have, without training."),
    "run-image": Command("run_image", "Train, calibrate and measure a classifier of images."),
    "run-text": Command("run_text", "Train, calibrate and measure a classifier of texts, or of their words."),
    "ood": Command("run_ood", "Measure image classifiers on unfamiliar and corrupted data."),
    "compare": Command("compare_runs", "Print finished runs as one table."),
    "compare-calibrators": Command("compare_calibrators", "Fit every calibrator to logits that you have."),
    "plot-dynamics": Command("plot_dynamics", "Draw what training did to calibration, for several runs."),
    "reproduce": Command("reproduce", "Train the grid behind the paper's tables, and write its pages."),
    "linear-model": Command("linear_model", "Appendix C of the paper: norms under cross-entropy and focal loss."),
}


def start(name: str) -> NoReturn:
    """Run a command as the program, to its end."""
    run_script(COMMANDS[name])
    sys.exit()
