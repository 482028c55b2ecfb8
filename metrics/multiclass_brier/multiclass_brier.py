# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Multiclass Brier Score as a metric of `evaluate`."""

from hf_focal.cli import evaluate_metric
from hf_focal.metrics import brier_score


class MulticlassBrier(evaluate_metric.CalibrationMetric):
    function = staticmethod(brier_score)
    about = """
Brier score for any number of classes: the mean squared distance between the predicted probabilities and the one-hot
true class, summed over classes; 0 is perfect.
"""
    cite = """
@article{brier1950verification,
  title={Verification of Forecasts Expressed in Terms of Probability},
  author={Brier, Glenn W.},
  journal={Monthly Weather Review},
  volume={78},
  number={1},
  pages={1--3},
  year={1950}
}
"""
    bounds = "[0, 2]"
    result = 0.27
