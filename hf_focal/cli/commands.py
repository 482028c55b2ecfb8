# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The commands that there are: the one table of their names, for `hf-focal`, `scripts/` and `python -m`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from .script import run_script


PROGRAM = "{program}"  # in the texts of help


@dataclass(frozen=True)
class Command:
    """A module of this folder with a `main`, which is imported when the command is called."""

    module: str
    about: str

    @property
    def help_text(self) -> Path:
        """The file of what `--help` prints; `make help-texts` writes it."""
        return Path(__file__).parent / "help" / f"{self.module}.txt"

    def __call__(self) -> None:
        """Do what the command line says; errors stay as they are. For `--help` nothing is imported."""
        if not {"-h", "--help"}.isdisjoint(sys.argv[1:]) and self.help_text.is_file():
            print(self.help_text.read_text(encoding="utf-8").replace(PROGRAM, Path(sys.argv[0]).name), end="")
            sys.exit(0)
        import_module(f".{self.module}", __package__).main()


COMMANDS = {
    "calibrate": Command("calibrate", "Calibrate and measure a classifier that you have."),
    "run-image": Command("run_image", "Train, calibrate and measure a classifier of images."),
    "run-text": Command("run_text", "Train, calibrate and measure one of texts, or of words."),
    "run-audio": Command("run_audio", "Train, calibrate and measure a classifier of sounds."),
    "ood": Command("run_ood", "Measure image classifiers on unfamiliar or poor images."),
    "compare": Command("compare_runs", "Print finished runs as one table."),
    "compare-calibrators": Command("compare_calibrators", "Fit every calibrator to logits that you have."),
    "evaluate-predictions": Command("evaluate_predictions", "Measure predictions that you saved, however many."),
    "plot-dynamics": Command("plot_dynamics", "Draw what training did to calibration."),
    "linear-model": Command("linear_model", "Appendix C of the paper, drawn."),
    "reproduce": Command("reproduce", "The paper's tables: a grid of runs, and its pages."),
}


def start(name: str) -> NoReturn:
    """Run a command as the program, to its end."""
    run_script(COMMANDS[name])
    sys.exit()
