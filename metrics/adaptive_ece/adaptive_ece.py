# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Adaptive Expected Calibration Error (AdaECE) as a metric of `evaluate`."""

from hf_focal.cli import evaluate_metric
from hf_focal.metrics import adaptive_calibration_error


class AdaptiveEce(evaluate_metric.BinnedMetric):
    function = staticmethod(adaptive_calibration_error)
    about = """
Adaptive expected calibration error (AdaECE): the mean gap between confidence and accuracy over bins that hold equal
numbers of samples; 0 is perfect.
"""
    cite = """
@inproceedings{nguyen2015posterior,
  title={Posterior Calibration and Exploratory Analysis for Natural Language Processing Models},
  author={Nguyen, Khanh and O'Connor, Brendan},
  booktitle={Proceedings of the 2015 Conference on Empirical Methods in Natural Language Processing},
  pages={1587--1598},
  year={2015}
}
"""
    options = ", n_bins=2"
    result = 0.15
