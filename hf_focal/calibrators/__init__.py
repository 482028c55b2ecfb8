# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Maps from logits to calibrated logits, fitted on held-out data, on NumPy. One file holds one method."""

from .base import (
    CALIBRATORS,
    CRITERIA,
    Affine,
    Calibrator,
    Chain,
    UnfoldableError,
    calibrator_of,
    check_method,
    register_calibrator,
)
from .bias import BiasCorrection
from .confidence import describe_confidence
from .fit import Fit, TemperatureFit, fit_calibrator, fit_temperature
from .focal import FocalRecalibration
from .matrix import MatrixScaling
from .none import NoCalibration
from .prior import PriorShift
from .temperature import TemperatureScaling
from .vector import VectorScaling
