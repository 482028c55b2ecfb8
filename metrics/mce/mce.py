# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Maximum Calibration Error (MCE) as a metric of `evaluate`."""

from hf_focal.cli import evaluate_metric
from hf_focal.metrics import maximum_calibration_error


class Mce(evaluate_metric.BinnedMetric):
    function = staticmethod(maximum_calibration_error)
    about = """
Maximum calibration error (MCE): the largest gap between confidence and accuracy over the non-empty bins of equal
width; 0 is perfect.
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
    result = 0.6
