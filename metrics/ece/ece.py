# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Expected Calibration Error (ECE) as a metric of `evaluate`."""

from hf_focal.cli import evaluate_metric
from hf_focal.metrics import expected_calibration_error


class Ece(evaluate_metric.BinnedMetric):
    function = staticmethod(expected_calibration_error)
    about = """
Expected calibration error (ECE): the mean gap between confidence and accuracy over bins of equal width, each
weighted by its share of the samples; 0 is perfect.
"""
    cite = """
@inproceedings{naeini2015obtaining,
  title={Obtaining Well Calibrated Probabilities Using {B}ayesian Binning},
  author={Naeini, Mahdi Pakdaman and Cooper, Gregory F. and Hauskrecht, Milos},
  booktitle={Proceedings of the AAAI Conference on Artificial Intelligence},
  volume={29},
  year={2015}
}
"""
    result = 0.3
