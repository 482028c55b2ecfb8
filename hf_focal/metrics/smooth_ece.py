# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""SmoothECE."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .scored import Scored, of_probabilities


@of_probabilities
def smooth_calibration_error(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """
    SmoothECE (Błasiok and Nakkiran, 2023): the calibration error of confidences smoothed by a kernel whose width is
    chosen by the error itself. Computed by its authors' package relplot, an optional requirement under Apple's own
    licence.

    Prefer it to ECE to track calibration along a training run, and to compare models whose confidences crowd in
    different places: it has no bins to choose, changes continuously with the predictions, and is within constant
    factors of the distance to the nearest calibrated predictor.

    Raises:
        ImportError: If relplot is not installed.
    """
    confidences, correct = Scored(probabilities, labels).pairs
    try:
        from relplot import smECE
    except ImportError as error:
        raise ImportError("smooth_calibration_error needs the package relplot: pip install relplot") from error
    return float(smECE(np.minimum(confidences.astype(np.float64), 1.0), correct.astype(np.float64)))
