# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Metrics of more samples than fit into memory: batches are added up and can be merged.

All but AdaECE are exact. AdaECE needs the confidences in order; here they are counted in some 14,000 fixed cells, and
how far that can be from the exact value is worked out from the counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import (
    check_count,
    check_gamma,
    check_logits,
    check_n_bins,
    check_positive,
    check_probabilities_and_maxima,
    row_maxima,
)
from ..predictions import Predictions
from .base import brier_of_samples, classwise_gaps, nll_of_samples, softmax_and_nll
from .bins import BinStatistics, confidence_and_correct, equal_mass_counts, equal_width


# Cells of u = 1 - confidence. Below 2^-7 their width is 1/128 of a power of two, for the confidences of accurate
# networks crowd at 1; above, it is 2^-13. The cell of u = 0 comes first. All edges are exact in float64.
_SHIFT = 52 - 7
_LOWEST = (1023 - 53) << 7
_N_FINE = ((1023 - 7) << 7) - _LOWEST + 1
_N_CELLS = _N_FINE + (1 << 13) - (1 << 6)


def _cell_indices(confidences: NDArray[np.float64]) -> NDArray[np.int64]:
    u = np.maximum(1 - confidences, 0.0)
    fine = np.maximum((u.view(np.int64) >> _SHIFT) - _LOWEST + 1, 0)
    coarse = (u * (1 << 13)).astype(np.int64) - (1 << 6) + _N_FINE
    return np.where(u < 2.0**-7, fine, np.minimum(coarse, _N_CELLS - 1))


def _cell_widths() -> NDArray[np.float64]:
    fine = (np.arange(_LOWEST, _LOWEST + _N_FINE) << _SHIFT).view(np.float64)
    coarse = np.full(_N_CELLS - _N_FINE, 2.0**-13)
    return np.concatenate([fine[:1], np.diff(fine), coarse])


class CalibrationAccumulator:
    """
    Every metric of [`calibration_metrics`] over any number of batches.

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
        self.reset()

    def reset(self) -> None:
        """Forget every sample."""
        self.num_labels = self._fixed_num_labels
        n_bins, num_labels = self.n_bins, self.num_labels or 0
        self._sums: dict[str, NDArray[Any]] = {
            "nll": np.zeros(()),
            "brier": np.zeros(()),
            "counts": np.zeros(n_bins, np.int64),
            "confidence_sums": np.zeros(n_bins),
            "correct_sums": np.zeros(n_bins),
            "classwise_gaps": np.zeros((num_labels, n_bins)),
            "cell_counts": np.zeros(_N_CELLS, np.int64),
            "cell_confidence_sums": np.zeros(_N_CELLS),
            "cell_correct": np.zeros(_N_CELLS, np.int64),
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
        array, indices, maxima = check_probabilities_and_maxima(probabilities, labels)
        self._add(array, indices, maxima, float(nll_of_samples(array, indices).sum()))

    def update_logits(
        self, logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0, gamma: float = 0.0
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

        Raises:
            ValueError: If shapes disagree, logits are not finite, labels are out of range, or the number of columns is
                not that of the batches before. The batch is then not added.
        """
        array, indices = check_logits(logits, labels)
        temperature, gamma = check_positive("temperature", temperature), check_gamma(gamma)
        probabilities, nll = softmax_and_nll(array, indices, temperature, gamma)
        self._add(probabilities, indices, row_maxima(probabilities), float(nll.sum()))

    def _add(self, probabilities: NDArray[Any], labels: NDArray[np.int64], maxima: NDArray[Any], nll: float) -> None:
        self._set_num_labels(probabilities.shape[1])
        confidences, correct = confidence_and_correct(probabilities, labels, maxima)
        bins = equal_width(confidences, correct, self.n_bins)
        wide = confidences.astype(np.float64)
        cells = _cell_indices(wide)
        additions = {
            "nll": nll,
            "brier": brier_of_samples(probabilities, labels).sum(),
            "counts": bins.counts,
            "confidence_sums": bins.confidence_sums,
            "correct_sums": bins.correct_sums,
            "classwise_gaps": classwise_gaps(probabilities, labels, self.n_bins),
            "cell_counts": np.bincount(cells, minlength=_N_CELLS),
            "cell_confidence_sums": np.bincount(cells, wide, _N_CELLS),
            "cell_correct": np.bincount(cells[correct], minlength=_N_CELLS),
        }
        for name, value in additions.items():
            self._sums[name] += value

    def _set_num_labels(self, num_labels: int) -> None:
        if self.num_labels is None:
            self.num_labels = num_labels
            self._sums["classwise_gaps"] = np.zeros((num_labels, self.n_bins))
        elif num_labels != self.num_labels:
            raise ValueError(
                f"Every batch must have the same number of classes: {self.num_labels} so far, now {num_labels}."
            )

    def merge(self, other: CalibrationAccumulator) -> None:
        """
        Add what another accumulator has seen, which stays as it is.

        Raises:
            ValueError: If it has another number of bins or classes.
        """
        if other.n_bins != self.n_bins:
            raise ValueError(f"Only equal bins can be merged: {self.n_bins} here, {other.n_bins} there.")
        if other.num_labels is not None:
            self._set_num_labels(other.num_labels)
        if other.num_samples:
            for name, value in other._sums.items():
                self._sums[name] = self._sums[name] + value

    def compute(self, error_bound: bool = False) -> dict[str, float]:
        """
        The metrics of all samples so far.

        Args:
            error_bound (`bool`, *optional*, defaults to `False`):
                Add `adaptive_ece_error_bound`: the exact AdaECE of the same samples, however they lie inside the
                cells, is within this much of `adaptive_ece`. It is small, unless the samples of a cell that a bin ends
                in are both many and mixed, some right and some wrong.

        Returns:
            `dict[str, float]`: `accuracy`, `nll`, `brier`, `ece`, `mce`, `adaptive_ece`, `classwise_ece`.

        Raises:
            ValueError: If there were no samples.
        """
        n, sums = self.num_samples, self._sums
        if n == 0 or self.num_labels is None:
            raise ValueError("No samples to compute metrics of: call update first.")
        edges = np.arange(self.n_bins + 1) / self.n_bins
        bins = BinStatistics(edges, sums["counts"], sums["confidence_sums"], sums["correct_sums"])
        adaptive, bound = self._adaptive_error()
        values = {
            "accuracy": float(sums["correct_sums"].sum() / n),
            "nll": float(sums["nll"] / n),
            "brier": float(sums["brier"] / n),
            "ece": bins.expected_error(),
            "mce": bins.maximum_error(),
            "adaptive_ece": adaptive,
            "classwise_ece": float(np.abs(sums["classwise_gaps"]).sum() / (n * self.num_labels)),
        }
        return {**values, "adaptive_ece_error_bound": bound} if error_bound else values

    def _adaptive_error(self) -> tuple[float, float]:
        r"""
        AdaECE with the samples of a cell taken as alike, and a bound of the error.

        Of a cell with c samples, h of them right, and a width w, a part of s samples is said to have s h / c right.
        It has at least max(0, h - c + s) and at most min(h, s); over all parts the differences add up to at most
        2 h (c - h) / c. Its sum of confidences is off by at most min(s, c - s) w. Gaps of bins change by no more than
        what is in them, and so does AdaECE.
        """
        n = self.num_samples
        # Ascending confidence, empty cells left out.
        filled = np.flatnonzero(self._sums["cell_counts"])[::-1]
        counts, right = self._sums["cell_counts"][filled], self._sums["cell_correct"][filled].astype(np.float64)
        gaps = right - self._sums["cell_confidence_sums"][filled]
        ends = np.cumsum(counts)
        bin_ends = np.cumsum(equal_mass_counts(n, self.n_bins))
        # Cells and bins together cut the samples into parts, each within one cell and one bin.
        part_ends = np.union1d(ends, bin_ends)
        sizes = np.diff(part_ends, prepend=0)
        cells, bins = np.searchsorted(ends, part_ends), np.searchsorted(bin_ends, part_ends)
        c, h = counts[cells], right[cells]
        shares = sizes / c
        error = float(np.abs(np.bincount(bins, shares * gaps[cells])).sum() / n)

        expected = shares * h
        off = np.maximum(np.minimum(h, sizes) - expected, expected - np.maximum(0, h - c + sizes))
        off_right = np.minimum(np.bincount(cells, off), 2 * right * (counts - right) / counts)
        # Rounded rows may be a little above 1: the first cell is as wide as its samples need.
        off_confidence = np.bincount(cells, np.minimum(sizes, c - sizes)) * self._widths()[filled]
        bound = float((off_right + off_confidence).sum() / n)
        return error, min(bound, max(error, 1 - error))

    def _widths(self) -> NDArray[np.float64]:
        widths = _cell_widths()
        excess = self._sums["cell_confidence_sums"][0] - self._sums["cell_counts"][0]
        if excess > 0:
            widths[0] += 1e-2  # what the sum of a row may be off by
        return widths

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything as plain arrays, which `numpy.savez` or safetensors can store."""
        return {name: value.copy() for name, value in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """
        Go on from what [`~CalibrationAccumulator.state_dict`] gave.

        Raises:
            ValueError: If the arrays do not belong to an accumulator with this number of bins and classes.
        """
        arrays = {name: np.array(value) for name, value in state.items()}
        shapes = {name: value.shape for name, value in self._sums.items()}
        num_labels = arrays["classwise_gaps"].shape[0] if "classwise_gaps" in arrays else 0
        shapes["classwise_gaps"] = (self.num_labels or num_labels, self.n_bins)
        if {name: value.shape for name, value in arrays.items()} != shapes:
            raise ValueError(
                f"The state is not one of an accumulator with n_bins={self.n_bins} and num_labels={self.num_labels}."
            )
        self._sums = arrays
        self.num_labels = num_labels or None


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
        self, eval_prediction: Any, compute_result: bool, temperature: float = 1.0, gamma: float = 0.0
    ) -> dict[str, float]:
        """Add a batch; with the last one, give the metrics of all and start anew."""
        try:
            predictions = Predictions.of_output(eval_prediction)
            if len(predictions):  # none where every label of the batch is -100
                self.accumulator.update_logits(predictions.logits, predictions.labels, temperature, gamma)
            metrics = self.accumulator.compute() if compute_result else {}
        except ValueError:
            self.accumulator.reset()
            raise
        if compute_result:
            self.accumulator.reset()
        return metrics
