# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The metrics as `compute_metrics` of a `Trainer`, of all predictions at once or batch by batch."""

from __future__ import annotations

from typing import Any

from ..checks import check_n_bins
from ..predictions import Predictions
from .accumulator import CalibrationAccumulator
from .base import calibration_metrics_from_logits
from .scored import LogitMap


class BatchMetrics:
    """
    A `compute_metrics` for `TrainingArguments(batch_eval_metrics=True)`, with which evaluating never holds the logits
    of all samples.

    Args:
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.
    """

    def __init__(self, n_bins: int = 15) -> None:
        self.accumulator = CalibrationAccumulator(n_bins=n_bins)

    def __call__(
        self,
        eval_prediction: Any,
        compute_result: bool,
        temperature: float = 1.0,
        gamma: float = 0.0,
        calibrator: LogitMap | None = None,
    ) -> dict[str, float]:
        """
        Add a batch; with the last one, give the metrics of all and start anew.

        Arguments as for [`compute_metrics`] and [`CalibrationAccumulator.update_logits`].
        """
        try:
            predictions = Predictions.flatten(eval_prediction)
            if len(predictions):  # none where every label of the batch is -100
                logits, labels = predictions.logits, predictions.labels
                self.accumulator.update_logits(logits, labels, temperature, gamma, calibrator)
            metrics = self.accumulator.compute() if compute_result else {}
        except ValueError:
            self.accumulator.reset()
            raise
        if compute_result:
            self.accumulator.reset()
        return metrics


class ComputeMetrics:
    """
    `Trainer(compute_metrics=compute_metrics)`: every metric of a sequence, image or token classifier.

    With `TrainingArguments(batch_eval_metrics=True)` the logits of no more than one batch are held, and AdaECE is that
    of [`CalibrationAccumulator`]. The batches are then added up in `compute_metrics.batches` until the last one: after
    an evaluation that was broken off, or for two at a time, give a [`BatchMetrics`] of their own.

    Args:
        eval_prediction (`transformers.EvalPrediction`):
            `predictions` are logits of shape `(N, K)` or `(N, T, K)`, or a tuple led by them; `label_ids` of shape
            `(N,)` or `(N, T)`. Labels of -100 are left out.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins; `functools.partial` sets another.
        compute_result (`bool`, *optional*):
            Set by the `Trainer` under `batch_eval_metrics`: whether this batch is the last.

    Returns:
        `dict[str, float]`: As [`calibration_metrics`]; of a batch that is not the last, nothing.
    """

    def __init__(self) -> None:
        self.batches: dict[int, BatchMetrics] = {}  # by number of bins, what was seen of an evaluation

    def __call__(self, eval_prediction: Any, n_bins: int = 15, compute_result: bool | None = None) -> dict[str, float]:
        """The metrics: see the class."""
        if compute_result is None:
            predictions = Predictions.flatten(eval_prediction)
            return calibration_metrics_from_logits(predictions.logits, predictions.labels, n_bins=n_bins)
        n_bins = check_n_bins(n_bins)
        seen = self.batches.pop(n_bins, None) or BatchMetrics(n_bins)
        metrics = seen(eval_prediction, compute_result)
        if not compute_result:
            self.batches[n_bins] = seen
        return metrics


compute_metrics = ComputeMetrics()
