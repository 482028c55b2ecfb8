# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Maps from logits to calibrated logits, fitted on held-out data, on NumPy. One file holds one method."""

from .base import (
    CALIBRATORS,
    CRITERIA,
    Affine,
    Calibrator,
    Fit,
    TemperatureFit,
    UnfoldableError,
    calibrator_of,
    describe_confidence,
    fit_calibrator,
    fit_temperature,
    register_calibrator,
)
from .focal import FocalRecalibration
from .temperature import TemperatureScaling
