# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Metrics of accuracy and calibration, on NumPy: one file each, which registers it. They are listed in this order."""

# ruff: noqa: I001
from .accuracy import accuracy
from .nll import negative_log_likelihood, negative_log_likelihood_from_logits
from .brier import BrierDecomposition, brier_decomposition, brier_score
from .ece import expected_calibration_error
from .mce import maximum_calibration_error
from .adaptive_ece import adaptive_calibration_error
from .classwise_ece import classwise_calibration_error
from .debiased_ece import debiased_calibration_error
from .smooth_ece import smooth_calibration_error
from .f1 import f1_of
from .risk_coverage import ConfidentPredictions, area_under_risk_coverage, confident_predictions, risk_coverage_curve
from .base import METRICS, Metric, Sums, bin_statistics, calibration_metrics, calibration_metrics_from_logits, measure
from .base import ALL_METRICS, SIGMOID_METRICS, metrics_of, register_metric
from .bins import BinStatistics
from .outputs import ScoredOutputs, scored_logits, scored_probabilities
from .scored import Scored
from .accumulator import BatchMetrics, CalibrationAccumulator, compute_metrics
from .chance import NoiseFloor
from .comparison import PairedComparison, compare_scored, paired_bootstrap
from .intervals import bootstrap_interval, confidence_interval
from .noise import calibration_p_value, noise_floor
