# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Metrics of accuracy and calibration, on NumPy: one file each, which registers it. They are listed in this order.

What to look at, and when:

- ECE is what papers report. It is biased upwards on few samples, depends on the bins, and is no proper score.
- [`debiased_calibration_error`]: to compare models on few samples, or with many bins. It takes off what chance adds.
- [`brier_decomposition`]: to see whether a better Brier score comes of calibration or of telling classes apart. It
  looks at every class's probability.
- [`smooth_calibration_error`]: no bins, so that a small change of the predictions never makes a jump. To track
  calibration along a training run, or to compare models whose confidences crowd in different places.
"""

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
from .risk_coverage import ConfidentPredictions, area_under_risk_coverage, confident_predictions, risk_coverage_curve
from .base import METRICS, Metric, Sums, bin_statistics, calibration_metrics, calibration_metrics_from_logits, measure
from .base import register_metric
from .bins import BinStatistics
from .scored import Scored
from .accumulator import BatchMetrics, CalibrationAccumulator, compute_metrics
from .intervals import PairedComparison, bootstrap_interval, metric_intervals, paired_bootstrap
