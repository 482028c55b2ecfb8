# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Maps from logits to calibrated logits, on NumPy: a method a file, `CALIBRATORS` by name, in the order of these."""

# ruff: noqa: I001
from .base import (
    CALIBRATORS,
    CRITERIA,
    SIGMOID_CALIBRATORS,
    Affine,
    Calibrator,
    Chain,
    UnfoldableError,
    calibrator_of,
    check_method,
    register_calibrator,
)
from .temperature import TemperatureScaling
from .bias import BiasCorrection
from .vector import VectorScaling
from .matrix import MatrixScaling
from .focal import FocalRecalibration
from .platt import PlattScaling
from .none import NoCalibration
from .prior import PriorShift
from .fit import Fit, TemperatureFit, fit_calibrator, fit_temperature
from .confidence import describe_confidence
