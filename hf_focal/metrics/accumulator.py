# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Metrics of more samples than fit into memory: batches are added up and can be merged.

All but AdaECE are exact; how far it can be from the exact value is told with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import check_count, check_n_bins
from .base import METRICS, Sums, scaling_of, whole_rows_first
from .scored import LogitMap, Scored


_BINS = ("counts", "confidence_sums", "correct_sums")


class CalibrationAccumulator:
    """
    Every metric of [`calibration_metrics`] over any number of batches; a registered metric that does not say how it is
    added up is left out.

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
        self.num_labels = None if num_labels is None else check_count("num_labels", num_labels)
        self._fixed_num_labels = self.num_labels
        self._running = {key: metric.running for key, metric in METRICS.items() if metric.running is not None}
        self._order = [metric.key for metric in whole_rows_first(METRICS.values()) if metric.key in self._running]
        self._shapes: dict[str, tuple[int | str, ...]] = dict.fromkeys(_BINS, ("n_bins",))
        for running in self._running.values():
            self._shapes.update(running.shapes)
        self.reset()

    def reset(self) -> None:
        """Forget every sample."""
        self._start(self._fixed_num_labels)

    def _start(self, num_labels: int | None) -> None:
        self.num_labels = num_labels
        shapes = self._shapes_for(num_labels or 0)
        self._sums: dict[str, NDArray[Any]] = {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}

    def _shapes_for(self, num_labels: int) -> dict[str, tuple[int, ...]]:
        sizes = {"n_bins": self.n_bins, "num_labels": num_labels}
        return {
            name: tuple(sizes[size] if isinstance(size, str) else size for size in shape)
            for name, shape in self._shapes.items()
        }

    @property
    def num_samples(self) -> int:
        """Number of samples seen."""
        return int(self._sums["counts"].sum())

    def update(self, probabilities: ArrayLike, labels: ArrayLike) -> None:
        """
        Add a batch of probabilities.

        Args:
            probabilities (`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`):
                Softmax outputs; each row sums to 1.
            labels (`np.ndarray` or `torch.Tensor` of shape `(num_samples,)`):
                Class indices in `[0, num_labels)`.

        Raises:
            ValueError: If shapes disagree, values are no probabilities, labels are out of range, or the number of
                columns is not that of the batches before. The batch is then not added.
        """
        self.add(Scored(probabilities, labels))

    def update_logits(
        self,
        logits: ArrayLike,
        labels: ArrayLike,
        temperature: float = 1.0,
        gamma: float = 0.0,
        calibrator: LogitMap | None = None,
    ) -> None:
        """
        Add a batch of logits: of `softmax(logits / temperature)` in float64, with the NLL from the logits.

        Args:
            logits (`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`):
                Raw scores, finite.
            labels (`np.ndarray` or `torch.Tensor` of shape `(num_samples,)`):
                Class indices in `[0, num_labels)`.
            temperature (`float`, *optional*, defaults to `1.0`):
                What the logits are divided by; positive.
            gamma (`float`, *optional*, defaults to `0.0`):
                Above 0: undo the bias of focal loss of this gamma, see [`focal_recalibration`].
            calibrator (*optional*):
                Any object with `calibrated_logits(logits)`, in place of temperature and gamma.

        Raises:
            ValueError: If shapes disagree, logits are not finite, labels are out of range, or the number of columns is
                not that of the batches before. The batch is then not added.
        """
        scaling = scaling_of(temperature, gamma)
        self.add(Scored.from_logits(logits, labels, scaling if calibrator is None else calibrator))

    def add(self, scored: Scored) -> None:
        """Add a batch that was checked already."""
        self._set_num_labels(scored.num_labels)
        additions: dict[str, Any] = {}
        for key in self._order:
            additions.update(self._running[key].add(scored, self.n_bins))
        bins = scored.bins(self.n_bins)
        self._add({**additions, **{name: getattr(bins, name) for name in _BINS}})

    def _add(self, additions: Mapping[str, Any]) -> None:
        for name, value in additions.items():
            self._sums[name] = np.asarray(self._sums[name] + value)

    def _set_num_labels(self, num_labels: int) -> None:
        if self.num_labels is None:
            self._start(num_labels)
        elif num_labels != self.num_labels:
            raise ValueError(
                f"Every batch must have the same number of classes: {self.num_labels} so far, now {num_labels}."
            )

    def merge(self, other: CalibrationAccumulator) -> None:
        """
        Add what another accumulator has seen, which stays as it is.

        Raises:
            ValueError: If it has another number of bins or classes, or other metrics.
        """
        if other.n_bins != self.n_bins:
            raise ValueError(f"Only equal bins can be merged: {self.n_bins} here, {other.n_bins} there.")
        state = other.state_dict()
        if state.keys() != self._sums.keys():
            raise ValueError(f"Only equal metrics can be merged: {list(self._sums)} here, {list(state)} there.")
        if other.num_labels is not None:
            self._set_num_labels(other.num_labels)
        if other.num_samples:
            self._add(state)

    def compute(self, error_bound: bool = False) -> dict[str, float]:
        """
        The metrics of all samples so far.

        Args:
            error_bound (`bool`, *optional*, defaults to `False`):
                Add `adaptive_ece_error_bound`: the exact AdaECE of the same samples, however they lie inside the
                cells, is within this much of `adaptive_ece`. It is small, unless the samples of a cell that a bin ends
                in are both many and mixed, some right and some wrong.

        Returns:
            `dict[str, float]`: `accuracy`, `nll`, `brier`, `ece`, `mce`, `adaptive_ece`, `classwise_ece`, and what
            else was registered with a way to add it up.

        Raises:
            ValueError: If there were no samples.
        """
        if not self.num_samples or self.num_labels is None:
            raise ValueError("No samples to compute metrics of: call update first.")
        sums = Sums(self._sums, self.n_bins, self.num_labels)
        values = {key: running.compute(sums) for key, running in self._running.items()}
        for key, running in self._running.items() if error_bound else ():
            if running.error_bound is not None:
                values[f"{key}_error_bound"] = running.error_bound(sums)
        return values

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything as plain arrays, which `numpy.savez` or safetensors can store."""
        return {name: value.copy() for name, value in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """
        Go on from what [`~CalibrationAccumulator.state_dict`] gave.

        Raises:
            ValueError: If the arrays do not belong to an accumulator of these metrics, this number of bins and of
                classes.
        """
        arrays = {name: np.array(value) for name, value in state.items()}
        num_labels = self.num_labels or self._num_labels_of(arrays)
        if {name: value.shape for name, value in arrays.items()} != self._shapes_for(num_labels):
            raise ValueError(
                f"The state is not one of an accumulator of {', '.join(self._running)} with n_bins={self.n_bins} and "
                f"num_labels={self.num_labels}."
            )
        self._sums = arrays
        self.num_labels = num_labels or None

    def _num_labels_of(self, arrays: Mapping[str, NDArray[Any]]) -> int:
        """The number of classes that the shapes of a state tell of."""
        for name, shape in self._shapes.items():
            if "num_labels" in shape and name in arrays and arrays[name].ndim == len(shape):
                return arrays[name].shape[shape.index("num_labels")]
        return 0
