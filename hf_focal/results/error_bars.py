# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Finished runs beside each other in one picture: their calibration errors with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..losses import loss_label
from ..metrics import ALL_METRICS
from .compare import read_runs
from .plots.bars import draw_bars
from .report import LEVEL


if TYPE_CHECKING:
    from .plots.picture import Picture

ERRORS = ("ece", "adaptive_ece", "classwise_ece")


def calibration_error_bars(folders: Sequence[str | Path], metrics: Sequence[str] = ERRORS) -> Picture:
    """
    Calibration errors of finished runs on their test data before and after calibration, with 90% intervals of the true
    ones (Mukhoti et al., 2020, Figure 4).

    Args:
        folders (`Sequence` of `str` or `Path`):
            Output folders of `run_image.py`, `run_text.py` or `calibrate.py`, or of [`finish_run`].
        metrics (`Sequence[str]`, *optional*, defaults to `("ece", "adaptive_ece", "classwise_ece")`):
            Keys of calibration errors, one panel each.

    Returns:
        `matplotlib.figure.Figure`: 8 inches wide; a run is called by its loss, or by its folder where two have the
        same.

    Raises:
        FileNotFoundError: If a folder is not there.
        ValueError: If there is no folder, one is given twice or holds no results, or its results have no interval of a
            metric.
    """
    if not metrics:
        raise ValueError("metrics is empty: give at least one.")
    runs = read_runs(folders)
    losses = [
        loss_label(one["loss"], one.get("loss_parameters")) if one.get("loss") else None for one in runs.values()
    ]
    by_loss = all(losses) and len({*losses}) == len(losses)
    names = [str(name) for name in (losses if by_loss else runs)]
    found: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {}
    for key in metrics:
        for name, (folder, results) in zip(names, runs.items(), strict=True):
            bars = {}
            for moment in ("before", "after"):
                ends = results.get("intervals", {}).get(moment, {}).get(key)
                if ends is None or f"test_{moment}_{key}" not in results:
                    raise ValueError(
                        f"{folder} has no interval of {key!r}: it is no calibration error that it measured."
                    )
                bars[moment] = (results[f"test_{moment}_{key}"], *ends)
            title = ALL_METRICS[key].title if key in ALL_METRICS else results["metrics"][key]["title"]
            found.setdefault(title, {})[name] = bars
    return draw_bars(found, LEVEL)
