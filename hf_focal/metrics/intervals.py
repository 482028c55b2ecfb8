# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Bootstrap intervals of metrics: what each sample adds is worked out once, and only summed for each resample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from ..checks import check_count, check_n_bins
from .base import METRICS, Metric, Statistic
from .scored import Scored, of_probabilities


AnyMetric = str | Callable[[Any, Any], float]
_MANY = 1 << 24  # probabilities: above, going through them for every resample takes minutes


@of_probabilities
def bootstrap_interval(
    metric: AnyMetric,
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
        ValueError: If the metric or method is unknown, `level` is not in (0, 1), `n_resamples < 1`, or groups are no
            whole numbers.
        TypeError: If `n_resamples` is not a whole number.

    Example:
    >>> low, high = bootstrap_interval("accuracy", [[0.9, 0.1]] * 100, [0] * 75 + [1] * 25)
    >>> 0.65 < low < 0.75 < high < 0.85
    True
    """
    check_options(level, n_resamples)
    if method not in ("percentile", "basic"):
        raise ValueError(f"method must be one of percentile, basic, got {method!r}.")
    entry, n_bins, scored = _entry(metric), check_n_bins(n_bins), Scored(probabilities, labels)
    resamples = _resamples(len(scored), n_resamples, seed, groups, entry)
    return _interval(entry.statistic(scored, n_bins), len(scored), resamples, level, method)


def _interval(
    statistic: Statistic, num_samples: int, resamples: Iterable[NDArray[np.int64]], level: float, method: str
) -> tuple[float, float]:
    low, high = interval_ends(np.array([statistic(rows) for rows in resamples]), level)
    if method == "percentile":
        return low, high
    estimate = statistic(np.arange(num_samples))
    return 2 * estimate - high, 2 * estimate - low


def metric_intervals(
    scored: Scored,
    n_bins: int = 15,
    groups: ArrayLike | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
    keys: Iterable[str] | None = None,
) -> dict[str, tuple[float, float]]:
    """
    The intervals that reports print: 90% basic ones (percentile intervals of calibration errors lie too high) of the
    metrics of those keys, by default all, cut off at what each can be. Those that would take minutes are left out.
    """
    intervals = {}
    for key in METRICS if keys is None else keys:
        metric = METRICS[key]
        if metric.whole_rows and len(scored) * scored.num_labels > _MANY:
            continue
        resamples = _resamples(len(scored), n_resamples, seed, groups, metric)
        ends = _interval(metric.statistic(scored, n_bins), len(scored), resamples, 0.9, "basic")
        low, high = np.clip(ends, *metric.bounds).tolist()
        intervals[key] = low, high
    return intervals


@dataclass(frozen=True)
class PairedComparison:
    """
    Two models on the same samples.

    Attributes:
        difference (`float`): The metric of A less that of B, on all samples.
        low, high (`float`): Ends of the percentile interval of the difference.
        share_a_lower (`float`): Share of resamples in which the metric of A is below that of B; a tie counts half.
        verdict (`str`): `"a_is_better"` or `"b_is_better"` if the interval lies on one side of 0, else `"undecided"`.
    """

    difference: float
    low: float
    high: float
    share_a_lower: float
    verdict: str


def paired_bootstrap(
    metric: AnyMetric,
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

    Args:
        metric (`str` or `Callable`):
            As for [`bootstrap_interval`]; a function of your own must be lower where better.
        probabilities_a, probabilities_b (`np.ndarray` of shape `(num_samples, num_labels)`):
            Softmax outputs of the two models on the same samples.
        labels, level, n_resamples, seed, n_bins, groups:
            As for [`bootstrap_interval`].

    Returns:
        [`PairedComparison`]

    Raises:
        ValueError, TypeError: As [`bootstrap_interval`].
    """
    check_options(level, n_resamples)
    entry, n_bins = _entry(metric), check_n_bins(n_bins)
    scored_a, scored_b = Scored(probabilities_a, labels), Scored(probabilities_b, labels)
    statistic_a, statistic_b = (entry.statistic(scored, n_bins) for scored in (scored_a, scored_b))
    resamples = _resamples(len(scored_a), n_resamples, seed, groups, entry)
    values_a, values_b = np.array([(statistic_a(rows), statistic_b(rows)) for rows in resamples]).T
    with np.errstate(invalid="ignore"):  # NaN where both are infinite
        low, high = interval_ends(values_a - values_b, level)
    everything = np.arange(len(scored_a))
    difference = statistic_a(everything) - statistic_b(everything)
    share_a_lower = float(np.mean((values_a < values_b) + 0.5 * (values_a == values_b)))
    better = "a_is_better" if (high < 0) == entry.lower_is_better else "b_is_better"
    return PairedComparison(difference, low, high, share_a_lower, better if low > 0 or high < 0 else "undecided")


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
    num_samples: int, n_resamples: int, seed: int, groups: ArrayLike | None, metric: Metric
) -> Iterator[NDArray[np.int64]]:
    """The rows of each resample, of groups where there are any."""
    array = np.arange(num_samples) if groups is None else np.asarray(groups)
    if array.shape != (num_samples,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"groups must hold a whole number for each of the {num_samples} samples, got an array of shape "
            f"{array.shape} and dtype {array.dtype}."
        )
    _, numbers = np.unique(array, return_inverse=True)
    by_group, sizes = np.argsort(numbers, kind="stable"), np.bincount(numbers)
    starts = np.cumsum(sizes) - sizes
    generator = np.random.default_rng(seed)
    ours = metric.key in METRICS  # others may take long
    for _ in tqdm(range(n_resamples), desc="bootstrap", leave=False, disable=ours):
        drawn = generator.integers(0, len(sizes), len(sizes))
        if groups is None:
            yield drawn
            continue
        lengths = sizes.take(drawn)
        places = np.cumsum(lengths) - lengths
        yield by_group.take(np.repeat(starts.take(drawn) - places, lengths) + np.arange(lengths.sum()))


def _entry(metric: AnyMetric) -> Metric:
    """The entry of a metric given by its key or its function, or one for any other function."""
    if isinstance(metric, str) and metric in METRICS:
        return METRICS[metric]
    if not callable(metric):
        raise ValueError(f"metric must be a function or one of {', '.join(METRICS)}, got {metric!r}.")
    function: Callable[[Any, Any], float] = metric

    def resampled(scored: Scored, n_bins: int) -> Statistic:
        return lambda rows: float(function(scored.probabilities[rows], scored.labels[rows]))

    own = Metric("", "", function, resampled=resampled)
    return next((entry for entry in METRICS.values() if metric in (entry.function, entry.value)), own)
