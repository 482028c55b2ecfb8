# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Negative Log-Likelihood (NLL) as a metric of `evaluate`."""

from hf_focal.cli import evaluate_metric
from hf_focal.metrics import negative_log_likelihood


class Nll(evaluate_metric.CalibrationMetric):
    function = staticmethod(negative_log_likelihood)
    about = """
Negative log-likelihood (NLL): the mean of minus the natural logarithm of the probability given to the true class, in
nats; 0 is perfect.
"""
    cite = """
@article{gneiting2007strictly,
  title={Strictly Proper Scoring Rules, Prediction, and Estimation},
  author={Gneiting, Tilmann and Raftery, Adrian E.},
  journal={Journal of the American Statistical Association},
  volume={102},
  number={477},
  pages={359--378},
  year={2007}
}
"""
    bounds = "[0, inf]"
    result = 0.4723
