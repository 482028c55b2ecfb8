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

# isort: off
from .accuracy import accuracy as accuracy
from .nll import negative_log_likelihood as negative_log_likelihood
from .nll import negative_log_likelihood_from_logits as negative_log_likelihood_from_logits
from .brier import brier_score as brier_score
from .ece import expected_calibration_error as expected_calibration_error
from .mce import maximum_calibration_error as maximum_calibration_error
from .adaptive_ece import adaptive_calibration_error as adaptive_calibration_error
from .classwise_ece import classwise_calibration_error as classwise_calibration_error

# isort: on
from .accumulator import CalibrationAccumulator as CalibrationAccumulator
from .base import METRICS as METRICS
from .base import Metric as Metric
from .base import Running as Running
from .base import bin_statistics as bin_statistics
from .base import calibration_metrics as calibration_metrics
from .base import calibration_metrics_from_logits as calibration_metrics_from_logits
from .base import measure as measure
from .base import register_metric as register_metric
from .bins import BinStatistics as BinStatistics
from .brier_parts import BrierDecomposition as BrierDecomposition
from .brier_parts import brier_decomposition as brier_decomposition
from .debiased_ece import debiased_calibration_error as debiased_calibration_error
from .evaluation import BatchMetrics as BatchMetrics
from .evaluation import compute_metrics as compute_metrics
from .intervals import PairedComparison as PairedComparison
from .intervals import bootstrap_interval as bootstrap_interval
from .intervals import metric_intervals as metric_intervals
from .intervals import paired_bootstrap as paired_bootstrap
from .risk_coverage import ConfidentPredictions as ConfidentPredictions
from .risk_coverage import area_under_risk_coverage as area_under_risk_coverage
from .risk_coverage import confident_predictions as confident_predictions
from .risk_coverage import risk_coverage_curve as risk_coverage_curve
from .scored import Scored as Scored
from .smooth_ece import smooth_calibration_error as smooth_calibration_error
