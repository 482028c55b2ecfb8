# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Bootstrap intervals of metrics, and the question whether one model is better than another on the same samples.

A resample draws as many samples as there are, with replacement; samples that depend on one another, such as the words
of a sentence, are drawn together, by the group. The metrics of this package are not computed anew on the rows of each
resample: what each sample adds is worked out once and then only summed, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from ..checks import check_count, check_n_bins, check_probabilities_and_maxima
from . import base as metrics
from .bins import bin_indices, confidence_and_correct, equal_mass


Metric = Callable[[Any, Any], float]
METHODS = ("percentile", "basic")
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "accuracy": metrics.accuracy,
    "nll": metrics.negative_log_likelihood,
    "brier": metrics.brier_score,
    "ece": metrics.expected_calibration_error,
    "mce": metrics.maximum_calibration_error,
    "adaptive_ece": metrics.adaptive_calibration_error,
    "classwise_ece": metrics.classwise_calibration_error,
}
_SPARSE_LIMIT = 1 << 24  # probabilities: up to here Classwise-ECE is resampled as a sparse matrix


def bootstrap_interval(
    metric: str | Metric,
    probabilities: ArrayLike,
    labels: ArrayLike,
    level: float = 0.9,
    n_resamples: int = 1000,
    method: str = "percentile",
    seed: int = 0,
    n_bins: int = 15,
    groups: ArrayLike | None = None,
) -> tuple[float, float]:
    r"""
    Bootstrap interval of a metric (Efron, 1979).

    ECE and its kin are biased upwards on small samples, and more so on resamples, which repeat some of their samples:
    the percentile interval then lies high and may even leave the estimate out. The basic interval mirrors it,
    $[2e - q_{hi}, 2e - q_{lo}]$ for the estimate e, as in the experiments of Kumar et al. (2019) and Mukhoti et al.
    (2020); it may reach below 0.

    Args:
        metric (`str` or `Callable`):
            A key of [`calibration_metrics`], such as `"ece"`, a function of this package, or any
            `metric(probabilities, labels) -> float`, which is called once per resample and may take long.
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)`):
            Softmax outputs; each row sums to 1.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        level (`float`, *optional*, defaults to `0.9`):
            Share of resamples between the ends, in (0, 1).
        n_resamples (`int`, *optional*, defaults to `1000`):
            Number of resamples.
        method (`str`, *optional*, defaults to `"percentile"`):
            `"percentile"` or `"basic"`.
        seed (`int`, *optional*, defaults to `0`):
            Resample i takes the rows (or the groups, in the order of their numbers) `generator.integers(0, N, N)`,
            drawn in turn from `numpy.random.default_rng(seed)`.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins, where `metric` is a key or function of this package that has bins.
        groups (`np.ndarray` of shape `(num_samples,)`, *optional*):
            Whole number of the group of each sample, such as that of the sentence of a token. A resample then draws as
            many groups as there are, and all samples of each: the cluster bootstrap (Davison and Hinkley, 1997,
            Section 3.8; Cameron, Gelbach and Miller, 2008). Samples of a group mostly resemble one another, and the
            interval of samples drawn singly is then too narrow.

    Returns:
        `tuple[float, float]`: The lower and the upper end.

    Raises:
        ValueError: If the metric or method is unknown, `level` is not in (0, 1), `n_resamples < 1`, shapes disagree,
            values are no probabilities, labels are out of range, or groups are no whole numbers.
        TypeError: If `n_bins` or `n_resamples` is not a whole number.

    Example:
    >>> generator = np.random.default_rng(0)
    >>> p = generator.uniform(0.5, 1, 1000)
    >>> labels = (generator.uniform(size=1000) > p).astype(int)
    >>> low, high = bootstrap_interval("accuracy", np.stack([p, 1 - p], axis=1), labels)
    >>> 0.7 < low < 0.75 < high < 0.8
    True
    """
    check_options(level, n_resamples)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    statistic, num_samples = _statistic(metric, probabilities, labels, n_bins)
    resamples = _resamples(num_samples, n_resamples, seed, metric, groups)
    values = np.array([statistic(rows) for rows in resamples])
    low, high = interval_ends(values, level)
    if method == "percentile":
        return low, high
    estimate = statistic(np.arange(num_samples))
    return 2 * estimate - high, 2 * estimate - low


def metric_intervals(
    keys: Sequence[str],
    probabilities: ArrayLike,
    labels: ArrayLike,
    n_resamples: int = 1000,
    seed: int = 0,
    n_bins: int = 15,
    groups: ArrayLike | None = None,
) -> dict[str, tuple[float, float]]:
    """
    The intervals that reports print: 90% basic ones (percentile intervals of calibration errors lie too high), cut off
    at what a metric can be. Arguments as for [`bootstrap_interval`], `keys` some of [`calibration_metrics`].
    """
    intervals = {}
    for key in keys:
        options: dict[str, Any] = {"n_resamples": n_resamples, "seed": seed, "n_bins": n_bins, "groups": groups}
        low, high = bootstrap_interval(key, probabilities, labels, method="basic", **options)
        most = np.inf if key in ("nll", "brier") else 1.0
        intervals[key] = min(max(low, 0.0), most), min(max(high, 0.0), most)
    return intervals


@dataclass(frozen=True)
class PairedComparison:
    """
    Two models on the same samples.

    Attributes:
        difference (`float`):
            The metric of A less that of B, on all samples.
        low, high (`float`):
            Ends of the percentile interval of the difference.
        share_a_lower (`float`):
            Share of the resamples in which the metric of A is below that of B; a tie counts half.
        verdict (`str`):
            `"a_is_better"` or `"b_is_better"` if the interval lies on one side of 0, else `"undecided"`.
    """

    difference: float
    low: float
    high: float
    share_a_lower: float
    verdict: str


def paired_bootstrap(
    metric: str | Metric,
    probabilities_a: ArrayLike,
    probabilities_b: ArrayLike,
    labels: ArrayLike,
    level: float = 0.9,
    n_resamples: int = 1000,
    seed: int = 0,
    n_bins: int = 15,
    groups: ArrayLike | None = None,
) -> PairedComparison:
    """
    Whether model A has a better metric than model B: both are computed on the same resamples, so that what makes a
    resample hard for both cancels.

    Lower is better, except for `"accuracy"`.

    Args:
        metric (`str` or `Callable`):
            As for [`bootstrap_interval`]; a function of your own must be lower where better.
        probabilities_a, probabilities_b (`np.ndarray` of shape `(num_samples, num_labels)`):
            Softmax outputs of the two models on the same samples.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        level, n_resamples, seed, n_bins, groups (*optional*):
            As for [`bootstrap_interval`].

    Returns:
        [`PairedComparison`]

    Raises:
        ValueError: As [`bootstrap_interval`].
        TypeError: If `n_bins` or `n_resamples` is not a whole number.
    """
    check_options(level, n_resamples)
    statistic_a, num_samples = _statistic(metric, probabilities_a, labels, n_bins)
    statistic_b, _ = _statistic(metric, probabilities_b, labels, n_bins)
    resamples = _resamples(num_samples, n_resamples, seed, metric, groups)
    pairs = [(statistic_a(rows), statistic_b(rows)) for rows in resamples]
    values_a, values_b = np.array(pairs).T
    with np.errstate(invalid="ignore"):  # NaN where both are infinite
        low, high = interval_ends(values_a - values_b, level)
    everything = np.arange(num_samples)
    sign = -1 if _key(metric) == "accuracy" else 1
    undecided = not (low > 0 or high < 0)
    return PairedComparison(
        difference=statistic_a(everything) - statistic_b(everything),
        low=low,
        high=high,
        share_a_lower=float(np.mean((values_a < values_b) + 0.5 * (values_a == values_b))),
        verdict="undecided" if undecided else "a_is_better" if sign * low < 0 else "b_is_better",
    )


# ---- Resamples ------------------------------------------------------------------------------------------------------


def check_options(level: float, n_resamples: int) -> None:
    """Refuse a level outside (0, 1), and less than one resample."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level!r}.")
    check_count("n_resamples", n_resamples)


def interval_ends(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Ends of a percentile interval, interpolated as by numpy.quantile, which has NaN for values that are infinite."""
    ordered = np.sort(values)

    def quantile(share: float) -> float:
        below, rest = divmod(share * (len(ordered) - 1), 1)
        lower, upper = ordered[int(below)], ordered[min(int(below) + 1, len(ordered) - 1)]
        return float(lower if rest == 0 or lower == upper else lower + rest * (upper - lower))

    return quantile((1 - level) / 2), quantile((1 + level) / 2)


def _resamples(
    num_samples: int, n_resamples: int, seed: int, metric: str | Metric, groups: ArrayLike | None
) -> Iterator[NDArray[np.int64]]:
    rows_of, count = (None, num_samples) if groups is None else _rows_of_groups(groups, num_samples)
    generator = np.random.default_rng(seed)
    steps: Any = range(n_resamples)
    if _key(metric) is None:
        from tqdm.auto import tqdm

        steps = tqdm(steps, desc="bootstrap", leave=False)
    for _ in steps:
        drawn = generator.integers(0, count, count)
        yield drawn if rows_of is None else rows_of(drawn)


def _rows_of_groups(
    groups: ArrayLike, num_samples: int
) -> tuple[Callable[[NDArray[np.int64]], NDArray[np.int64]], int]:
    """The rows of a draw of groups, one group after the other, as a function, and the number of groups there are."""
    array = np.asarray(groups)
    if array.shape != (num_samples,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"groups must hold a whole number for each of the {num_samples} samples, got an array of shape "
            f"{array.shape} and dtype {array.dtype}."
        )
    _, numbers = np.unique(array, return_inverse=True)
    by_group, sizes = np.argsort(numbers, kind="stable"), np.bincount(numbers)
    starts = np.cumsum(sizes) - sizes

    def rows_of(drawn: NDArray[np.int64]) -> NDArray[np.int64]:
        lengths = sizes.take(drawn)
        places = np.cumsum(lengths) - lengths
        return by_group.take(np.repeat(starts.take(drawn) - places, lengths) + np.arange(lengths.sum()))

    return rows_of, len(sizes)


def _key(metric: str | Metric) -> str | None:
    """The key of one of our own metrics, `None` for any other function."""
    if isinstance(metric, str):
        if metric not in _FUNCTIONS:
            raise ValueError(f"metric must be a function or one of {', '.join(_FUNCTIONS)}, got {metric!r}.")
        return metric
    if not callable(metric):
        raise ValueError(f"metric must be a function or one of {', '.join(_FUNCTIONS)}, got {metric!r}.")
    return next((key for key, function in _FUNCTIONS.items() if function is metric), None)


# ---- Metrics of a resample ------------------------------------------------------------------------------------------


def _statistic(
    metric: str | Metric, probabilities: ArrayLike, labels: ArrayLike, n_bins: int
) -> tuple[Callable[[NDArray[np.int64]], float], int]:
    """The metric as a function of the rows of a resample, and the number of rows there are."""
    key, n_bins = _key(metric), check_n_bins(n_bins)
    array, indices, maxima = check_probabilities_and_maxima(probabilities, labels)
    num_samples = len(array)
    confidences, correct = confidence_and_correct(array, indices, maxima)

    if key in ("accuracy", "nll", "brier"):
        contributions = {
            "accuracy": lambda: correct.astype(np.float64),
            "nll": lambda: metrics.nll_of_samples(array, indices),
            "brier": lambda: metrics.brier_of_samples(array, indices),
        }[key]()
        return lambda rows: float(contributions.take(rows).mean() + 0.0), num_samples

    if key in ("ece", "mce"):
        wide = confidences.astype(np.float64)
        bins, gaps = bin_indices(wide, n_bins), wide - correct

        def equal_width_error(rows: NDArray[np.int64]) -> float:
            drawn = bins.take(rows)
            sums = np.abs(np.bincount(drawn, gaps.take(rows)))
            if key == "ece":
                return float(sums.sum() / len(rows))
            return float((sums / np.maximum(np.bincount(drawn), 1)).max())

        return equal_width_error, num_samples

    if key == "adaptive_ece":
        return lambda rows: equal_mass(confidences[rows], correct[rows], n_bins).expected_error(), num_samples

    if key == "classwise_ece":
        if array.size > _SPARSE_LIMIT:
            return lambda rows: metrics.classwise_error(array[rows], indices[rows], n_bins), num_samples
        matrix = _classwise_matrix(array, indices, n_bins)

        def classwise_error(rows: NDArray[np.int64]) -> float:
            repeats = np.bincount(rows, minlength=num_samples).astype(np.float64)
            return float(np.abs(matrix @ repeats).sum() / (len(rows) * array.shape[1]))

        return classwise_error, num_samples

    assert callable(metric)
    return lambda rows: float(metric(array[rows], indices[rows])), num_samples


def _classwise_matrix(probabilities: NDArray[Any], labels: NDArray[np.int64], n_bins: int) -> csr_array:
    """What each sample adds to the gap of each class and bin, `(num_labels * n_bins, num_samples)`."""
    num_samples, num_labels = probabilities.shape
    gaps = probabilities.astype(np.float64)
    places = bin_indices(gaps, n_bins) + np.arange(num_labels) * n_bins
    gaps[np.arange(num_samples), labels] -= 1
    starts = np.arange(0, gaps.size + 1, num_labels)
    shape = (num_samples, num_labels * n_bins)
    return csr_array((gaps.ravel(), places.ravel(), starts), shape=shape).T.tocsr()
