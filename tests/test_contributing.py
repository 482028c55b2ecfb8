# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What CONTRIBUTING says of adding things: a file, a line in its folder, one in the stub, and the battery finds it."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT


LOSS = '''"""Cross-entropy plus a multiple of 1 - p."""

import torch

from .base import CalibrationLoss, as_function, register_loss


@register_loss("poly")
class PolyLoss(CalibrationLoss):
    """
    Cross-entropy plus a multiple of 1 - p (Leng et al., 2022).

    Args:
        epsilon (`float`, *optional*, defaults to `1.0`):
            The multiple.
        reduction, ignore_index: As in [`CalibrationLoss`].
    """

    def __init__(self, *, epsilon: float = 1.0, **options):
        super().__init__(**options)
        self.epsilon = epsilon

    def of_rows(self, rows):
        nll = rows.nll()
        return nll + self.epsilon * (1 - torch.exp(-nll))


poly_loss = as_function(PolyLoss)
'''
METRIC = '''"""The root of the mean squared gap."""

import numpy as np

from .base import register_metric


@register_metric("root_ece", title="Root ECE")
def root_ece(scored, n_bins):
    """The root of the mean squared gap between accuracy and confidence over bins."""
    bins = scored.bins(n_bins)
    gaps = np.nan_to_num(bins.accuracy - bins.confidence)
    return float(np.sqrt(bins.counts @ gaps**2 / bins.counts.sum()))
'''
CALIBRATOR = '''"""A shift of each class."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .base import Affine, Calibrator, register_calibrator


@register_calibrator
@dataclass(frozen=True)
class HalfShift(Calibrator):
    """The logarithm of how much more often a class comes than is said, half of it."""

    method: ClassVar[str] = "half"
    shift: tuple[float, ...]

    @classmethod
    def fit(cls, logits, labels, *, criterion, n_bins):
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        said = (p / p.sum(axis=1, keepdims=True)).mean(axis=0)
        came = (np.bincount(labels, minlength=len(said)) + 1) / (len(labels) + len(said))
        return cls(tuple((0.5 * np.log(came / said)).tolist()))

    def affine(self, num_labels):
        return Affine(shift=np.array(self.shift))
'''
ADDED = {
    "losses/poly.py": (LOSS, "from .poly import PolyLoss, poly_loss", "PolyLoss", "losses/test_every_loss.py", "poly"),
    "metrics/root.py": (METRIC, "from .root import root_ece", "root_ece", "metrics/test_every_metric.py", "root_ece"),
    "calibrators/half.py": (
        CALIBRATOR, "from .half import HalfShift", "HalfShift", "calibrators/test_every_calibrator.py", "half",
    ),
}  # fmt: skip


@pytest.mark.parametrize("file", ADDED)
def test_a_file_and_two_lines_are_all(file, tmp_path):
    text, line, public, battery, which = ADDED[file]
    room, name = file.removesuffix(".py").split("/")
    for part in ("hf_focal", "tests"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "hf_focal" / file).write_text(text)
    for path, more in (
        (f"{room}/__init__.py", line),
        ("__init__.pyi", f"from .{room}.{name} import {public} as {public}"),
    ):
        with (tmp_path / "hf_focal" / path).open("a") as opened:
            opened.write(f"{more}\n")
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        f"{which} and not poly1 and not half_precision",
        f"tests/{battery}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", *options]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert int(ran.stdout.split(" passed")[0].split()[-1]) >= 5
    code = f"import hf_focal; print(hf_focal.{public}.__name__, hf_focal.__file__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert found.stdout.startswith(f"{public} {tmp_path}"), found.stderr


def test_how_to_add_things_is_short():
    text = (ROOT / "CONTRIBUTING.md").read_text().split("## Add a loss")[1].split("\n## ")[0]
    assert len(text.splitlines()) < 40
    for registered in ("register_loss", "register_metric", "register_calibrator", "register_task"):
        assert registered in text
