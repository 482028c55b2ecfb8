# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Negative Log-Likelihood (NLL) as a metric of `evaluate`."""

import datasets
import evaluate

from hf_focal.metrics import negative_log_likelihood


_DESCRIPTION = """
Negative log-likelihood (NLL): the mean of minus the natural logarithm of the probability given to the true class, in
nats; 0 is perfect.
"""

_INPUTS = """
Args:
    predictions (`list` of `list` of `float`, or array of shape `(num_samples, num_labels)`):
        Probabilities; each row sums to 1.
    references (`list` of `int`, or array of shape `(num_samples,)`):
        Class indices in `[0, num_labels)`.

Returns:
    `dict` with the key `nll` (`float`): in `[0, inf]`; lower is better.

Example:

    >>> import evaluate
    >>> nll = evaluate.load("metrics/nll")
    >>> probabilities = [[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]
    >>> labels = [0, 1, 1, 2]
    >>> results = nll.compute(predictions=probabilities, references=labels)
    >>> print(round(results["nll"], 4))
    0.4723
"""

_CITATION = """
@article{gneiting2007strictly,
  title={Strictly Proper Scoring Rules, Prediction, and Estimation},
  author={Gneiting, Tilmann and Raftery, Adrian E.},
  journal={Journal of the American Statistical Association},
  volume={102},
  number={477},
  pages={359--378},
  year={2007}
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
class Nll(evaluate.Metric):
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

    def _compute(self, predictions, references):
        return {"nll": negative_log_likelihood(predictions, references)}
