# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Classwise Expected Calibration Error (Classwise-ECE) as a metric of `evaluate`."""

from hf_focal.cli import evaluate_metric
from hf_focal.metrics import classwise_calibration_error


class ClasswiseEce(evaluate_metric.BinnedMetric):
    function = staticmethod(classwise_calibration_error)
    about = """
Classwise expected calibration error (Classwise-ECE): the calibration error of the probability of every class, not of
the largest alone, averaged over classes; 0 is perfect.
"""
    cite = r"""
@inproceedings{kull2019beyond,
  title={Beyond Temperature Scaling: Obtaining Well-Calibrated Multi-Class Probabilities with {D}irichlet Calibration},
  author={Kull, Meelis and Perello Nieto, Miquel and K{\"a}ngsepp, Markus and Silva Filho, Telmo and Song, Hao and
          Flach, Peter},
  booktitle={Advances in Neural Information Processing Systems},
  volume={32},
  year={2019}
}
"""
    bounds = "[0, 2 / K]"
    result = 0.2167
