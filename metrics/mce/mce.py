# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Maximum Calibration Error (MCE) as a metric of `evaluate`."""

import datasets
import evaluate

from hf_focal.metrics import maximum_calibration_error


_DESCRIPTION = """
Maximum calibration error (MCE): the largest gap between confidence and accuracy over the non-empty bins of equal
width; 0 is perfect.
"""

_INPUTS = """
Args:
    predictions (`list` of `list` of `float`, or array of shape `(num_samples, num_labels)`):
        Probabilities; each row sums to 1.
    references (`list` of `int`, or array of shape `(num_samples,)`):
        Class indices in `[0, num_labels)`.
    n_bins (`int`, *optional*, defaults to `15`):
        Number of bins.

Returns:
    `dict` with the key `mce` (`float`): in `[0, 1]`; lower is better.

Example:

    >>> import evaluate
    >>> mce = evaluate.load("metrics/mce")
    >>> probabilities = [[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]
    >>> labels = [0, 1, 1, 2]
    >>> results = mce.compute(predictions=probabilities, references=labels)
    >>> print(round(results["mce"], 4))
    0.6
"""

_CITATION = """
@inproceedings{naeini2015obtaining,
  title={Obtaining Well Calibrated Probabilities Using {B}ayesian Binning},
  author={Naeini, Mahdi Pakdaman and Cooper, Gregory F. and Hauskrecht, Milos},
  booktitle={Proceedings of the AAAI Conference on Artificial Intelligence},
  volume={29},
  year={2015}
}

@inproceedings{mukhoti2020calibrating,
  title={Calibrating Deep Neural Networks using Focal Loss},
  author={Mukhoti, Jishnu and Kulharia, Viveka and Sanyal, Amartya and Golodetz, Stuart and Torr, Philip H. S. and
          Dokania, Puneet K.},
  booktitle={Advances in Neural Information Processing Systems},
  volume={33},
  year={2020}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class Mce(evaluate.Metric):
    def _info(self):
        # float64 keeps every digit; as float64 a label that is no whole number is reported, as int64 it would be cut.
        features = {
            "predictions": datasets.Sequence(datasets.Value("float64")),
            "references": datasets.Value("float64"),
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
            reference_urls=["https://arxiv.org/abs/2002.09437"],
        )

    def _compute(self, predictions, references, n_bins=15):
        return {"mce": maximum_calibration_error(predictions, references, n_bins)}
