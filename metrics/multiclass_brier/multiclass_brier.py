# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Multiclass Brier Score as a metric of `evaluate`."""

import datasets
import evaluate

from hf_focal.metrics import brier_score


_DESCRIPTION = """
Brier score for any number of classes: the mean squared distance between the predicted probabilities and the one-hot
true class, summed over classes; 0 is perfect.
"""

_INPUTS = """
Args:
    predictions (`list` of `list` of `float`, or array of shape `(num_samples, num_labels)`):
        Probabilities; each row sums to 1.
    references (`list` of `int`, or array of shape `(num_samples,)`):
        Class indices in `[0, num_labels)`.

Returns:
    `dict` with the key `multiclass_brier` (`float`): in `[0, 2]`; lower is better.

Example:

    >>> import evaluate
    >>> multiclass_brier = evaluate.load("metrics/multiclass_brier")
    >>> probabilities = [[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]
    >>> labels = [0, 1, 1, 2]
    >>> results = multiclass_brier.compute(predictions=probabilities, references=labels)
    >>> print(round(results["multiclass_brier"], 4))
    0.27
"""

_CITATION = """
@article{brier1950verification,
  title={Verification of Forecasts Expressed in Terms of Probability},
  author={Brier, Glenn W.},
  journal={Monthly Weather Review},
  volume={78},
  number={1},
  pages={1--3},
  year={1950}
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
class MulticlassBrier(evaluate.Metric):
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
        return {"multiclass_brier": brier_score(predictions, references)}
