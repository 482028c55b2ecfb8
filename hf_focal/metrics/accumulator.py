# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Metrics of more samples than fit into memory, added up over batches, and as `compute_metrics` of a `Trainer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import check_count, check_n_bins
from ..predictions import Predictions
from .base import BIN_SUMS, METRICS, Metric, Sums, measure, metrics_of, output_scaling_of, scaling_of, whole_rows_first
from .outputs import ScoredOutputs, scored_logits
from .scored import SIGMOID, LogitMap, Scored, ScoredLogits


MOST_CELLS = 256  # labels: of more, what is added up in many cells for each is left out
_ROWS = 1 << 18  # of outputs, that are waited for before they are added up


class CalibrationAccumulator(Sums):
    """
    Every metric of [`calibration_metrics`] over any number of batches; a registered metric that does not say how it is
    added up is left out. All but AdaECE are exact.

    Memory is that of `num_labels * n_bins` sums and of the cells of AdaECE, whatever the number of samples.

    Args:
        num_labels (`int`, *optional*):
            Number of classes; by default that of the first batch.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.

    Example:
    >>> first, second = CalibrationAccumulator(), CalibrationAccumulator()
    >>> first.update([[0.8, 0.2], [0.6, 0.4]], [0, 1])
    >>> second.update([[0.3, 0.7]], [1])
    >>> first.merge(second)
    >>> round(first.compute()["accuracy"], 4)
    0.6667
    """

    def __init__(self, num_labels: int | None = None, n_bins: int = 15) -> None:
        self.n_bins = check_n_bins(n_bins)
        self._fixed_num_labels = None if num_labels is None else check_count("num_labels", num_labels)
        self._metrics = self._added_up()
        self.reset()

    def _added_up(self) -> list[Metric]:
        """The metrics that say how."""
        return [metric for metric in METRICS.values() if metric.running is not None]

    def _no_samples(self, num_labels: int) -> Scored:
        return ScoredLogits(np.empty((0, num_labels)), np.empty(0, np.int64))

    def reset(self) -> None:
        """Forget every sample."""
        self.num_labels, self.arrays = self._fixed_num_labels, self._nothing(self._fixed_num_labels or 0)

    def _nothing(self, num_labels: int) -> dict[str, NDArray[Any]]:
        """The sums of no samples."""
        additions = self._additions(self._no_samples(num_labels))
        return {name: np.zeros_like(value) for name, value in additions.items()}

    def _additions(self, scored: Scored) -> dict[str, Any]:
        additions: dict[str, Any] = {}
        for metric in whole_rows_first(self._metrics):
            additions.update(metric.added(scored, self.n_bins))
        return {**additions, **{name: getattr(scored.bins(self.n_bins), name) for name in BIN_SUMS}}

    def update(self, probabilities: ArrayLike, labels: ArrayLike) -> None:
        """Add a batch of probabilities, as for [`Scored`]; if it has other classes than before, that is refused."""
        self.add(Scored(probabilities, labels))

    def update_logits(
        self,
        logits: ArrayLike,
        labels: ArrayLike,
        temperature: float = 1.0,
        gamma: float = 0.0,
        calibrator: LogitMap | None = None,
    ) -> None:
        """As for [`calibration_metrics_from_logits`], or with a calibrator, as for [`Scored.from_logits`]."""
        scaling = scaling_of(temperature, gamma)
        self.add(Scored.from_logits(logits, labels, scaling if calibrator is None else calibrator))

    def add(self, scored: Scored) -> None:
        """Add a batch that was checked already."""
        self._set_num_labels(scored.num_labels)
        self._add(self._additions(scored))

    def _add(self, additions: Mapping[str, Any]) -> None:
        self.arrays = {name: np.asarray(value + additions[name]) for name, value in self.arrays.items()}

    def _set_num_labels(self, num_labels: int) -> None:
        if self.num_labels is None:
            self.num_labels, self.arrays = num_labels, self._nothing(num_labels)
        elif num_labels != self.num_labels:
            raise ValueError(
                f"Every batch must have the same number of classes: {self.num_labels} so far, now {num_labels}."
            )

    def merge(self, other: CalibrationAccumulator) -> None:
        """Add what another accumulator of the same bins, classes and metrics has seen, which stays as it is."""
        if other.n_bins != self.n_bins:
            raise ValueError(f"Only equal bins can be merged: {self.n_bins} here, {other.n_bins} there.")
        if other.arrays.keys() != self.arrays.keys():
            raise ValueError(f"Only equal metrics can be merged: {[*self.arrays]} here, {[*other.arrays]} there.")
        if other.num_labels is not None:
            self._set_num_labels(other.num_labels)
            self._add(other.arrays)

    def compute(self, error_bound: bool = False) -> dict[str, float]:
        """
        The metrics of all samples so far.

        Args:
            error_bound (`bool`, *optional*, defaults to `False`):
                Add `adaptive_ece_error_bound`: the exact AdaECE of the same samples is within this much of
                `adaptive_ece`. It is small, unless the samples of a cell that a bin ends in are both many and mixed,
                some right and some wrong.
        """
        if not self.num_samples:
            raise ValueError("No samples to compute metrics of: call update first.")
        values = {metric.key: metric.running(self) for metric in self._metrics if metric.running}
        bounds = {f"{metric.key}_error_bound": metric.error_bound for metric in self._metrics if error_bound}
        return values | {name: bound(self) for name, bound in bounds.items() if bound}

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything as plain arrays, which `numpy.savez` or safetensors can store."""
        return {name: value.copy() for name, value in self.arrays.items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Go on from what [`~CalibrationAccumulator.state_dict`] gave, with the same bins, classes and metrics."""
        arrays = {name: np.array(value) for name, value in state.items()}
        shapes = {name: array.shape for name, array in arrays.items()}
        # What is empty without classes has as many rows as there are classes.
        lengths = [shapes[name][0] for name, value in self._nothing(0).items() if not value.size and shapes.get(name)]
        num_labels = self.num_labels or max(lengths, default=0)
        if shapes != {name: value.shape for name, value in self._nothing(num_labels).items()}:
            raise ValueError(
                f"The state is not one of an accumulator of {', '.join(metric.key for metric in self._metrics)} with "
                f"n_bins={self.n_bins} and num_labels={self.num_labels}."
            )
        self.arrays, self.num_labels = arrays, num_labels or None


class OutputAccumulator:
    """
    Every metric of a sigmoid head over any number of batches that says how it is added up; of more than 256 labels
    without AdaECE. All but AdaECE are exact.

    Args:
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.
    """

    def __init__(self, n_bins: int = 15) -> None:
        self.n_bins = check_n_bins(n_bins)
        self._waiting: list[ScoredOutputs] = []
        self._totals: dict[str, NDArray[np.float64]] = {}
        self._labels: dict[int, _OfLabel] = {}
        self._num_outputs: int | None = None

    def add(self, scored: ScoredOutputs) -> None:
        """Add a batch."""
        if self._num_outputs not in (None, scored.num_outputs):
            raise ValueError(
                f"Every batch must have the same number of labels: {self._num_outputs} so far, now "
                f"{scored.num_outputs}."
            )
        self._num_outputs = scored.num_outputs
        self._waiting.append(scored)
        if sum(map(len, self._waiting)) >= _ROWS:
            self._add_up()

    def _add_up(self) -> None:
        if not self._waiting:
            return
        whole, self._waiting = ScoredOutputs.together(self._waiting), []
        for key, metric in metrics_of(SIGMOID).items():
            if metric.sums is not None:
                self._totals[key] = self._totals.get(key, 0.0) + metric.sums.totals(whole)
        for column, (_, one) in whole.each.items():
            if column not in self._labels:
                self._labels[column] = _OfLabel(self.n_bins, whole.num_outputs <= MOST_CELLS)
            self._labels[column].add(one)

    def compute(self) -> dict[str, float]:
        """The metrics of all that was added."""
        self._add_up()
        if not self._labels:
            raise ValueError("No samples to compute metrics of.")
        ones = list(self._labels.values())
        known, sizes = [one.compute() for one in ones], [one.num_samples for one in ones]
        values: dict[str, float] = {}
        for key, metric in metrics_of(SIGMOID).items():
            if metric.sums is not None:
                values[key] = float(metric.sums.value(self._totals[key]))
            elif key in known[0]:
                values[key] = float(np.average([one[key] for one in known], weights=sizes))
        return values


class _OfLabel(CalibrationAccumulator):
    """What does not follow from sums over samples, of one label."""

    def __init__(self, n_bins: int, cells: bool) -> None:
        self._cells = cells
        super().__init__(2, n_bins)

    def _added_up(self) -> list[Metric]:
        metrics = [metric for metric in metrics_of(SIGMOID).values() if metric.running and metric.sums is None]
        return [metric for metric in metrics if self._cells or metric.error_bound is None]


class BatchMetrics:
    """
    A `compute_metrics` for `TrainingArguments(batch_eval_metrics=True)`, with which evaluating never holds the logits
    of all samples; `n_bins` (`int`, *optional*, defaults to `15`) is the number of bins.
    """

    def __init__(self, n_bins: int = 15) -> None:
        self.n_bins = check_n_bins(n_bins)
        self._start()

    def _start(self) -> None:
        """Forget every batch."""
        self.accumulator: CalibrationAccumulator | OutputAccumulator | None = None

    def __call__(self, eval_prediction: Any, compute_result: bool, **scaling: Any) -> dict[str, float]:
        """As [`compute_metrics`], with the scaling of [`CalibrationAccumulator.update_logits`]."""
        finished = True  # by an error as well
        try:
            seen = Predictions.flatten(eval_prediction)
            if self.accumulator is None:
                of_outputs = seen.is_sigmoid
                self.accumulator = (OutputAccumulator if of_outputs else CalibrationAccumulator)(n_bins=self.n_bins)
            if len(seen):  # none where every label of the batch is -100
                self._add(seen, **scaling)
            finished = compute_result
            return self.accumulator.compute() if compute_result else {}
        finally:
            if finished:
                self._start()

    def _add(self, seen: Predictions, **scaling: Any) -> None:
        if isinstance(self.accumulator, CalibrationAccumulator):
            self.accumulator.update_logits(seen.logits, seen.labels, **scaling)
        elif isinstance(self.accumulator, OutputAccumulator):
            scaling.setdefault("calibrator", None)
            calibrator = scaling.pop("calibrator") or output_scaling_of(**scaling)
            self.accumulator.add(ScoredOutputs.of_logits(seen.logits, seen.labels, calibrator))


class ComputeMetrics:
    """
    `Trainer(compute_metrics=compute_metrics)`: every metric of a sequence, image or token classifier, of several
    labels a sample or a single logit as well.

    With `TrainingArguments(batch_eval_metrics=True)` the logits of no more than one batch are held, and AdaECE is that
    of [`CalibrationAccumulator`]. The batches are then added up in `compute_metrics.batches` until the last one: after
    an evaluation that was broken off, or for two at a time, give a [`BatchMetrics`] of their own.

    Args:
        eval_prediction (`transformers.EvalPrediction`):
            `predictions` are logits of shape `(N, K)` or `(N, T, K)`, or a tuple led by them; `label_ids` of shape
            `(N,)` or `(N, T)`, or for a sigmoid head of the shape of the logits. Labels of -100 are left out.
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
        if compute_result is None:
            seen = Predictions.flatten(eval_prediction)
            return measure(scored_logits(seen.logits, seen.labels), check_n_bins(n_bins))
        n_bins = check_n_bins(n_bins)
        batches = self.batches.pop(n_bins, None) or BatchMetrics(n_bins)
        metrics = batches(eval_prediction, compute_result)
        if not compute_result:
            self.batches[n_bins] = batches
        return metrics


compute_metrics = ComputeMetrics()
