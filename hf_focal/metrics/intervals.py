# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Intervals: of calibration errors by the law that chance gives them, of other metrics by formula or by bootstrap, for
which what each sample adds is worked out once and only summed for each resample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import leave_out_masked
from ..checks import check_count, check_n_bins
from ..progress import progress
from .base import Metric, Statistic
from .chance import Law, group_numbers
from .lookup import AnyMetric, metric_of
from .outputs import ScoredOutputs, scored_probabilities
from .scored import Scored, of_probabilities


@of_probabilities
def confidence_interval(
    metric: AnyMetric,
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    n_bins: int = 15,
    level: float = 0.9,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    r"""
    Interval that holds the true value of a metric, that of endless data, in about `level` of all data sets.

    Calibration errors are biased upwards: even a perfectly calibrated model shows one above 0, and a bootstrap adds
    the bias once more. Theirs is an inverted test. The true gaps of the bins are taken to be those observed, their
    sizes shrunk towards each other by what is chance, times some factor; for each factor the law of the observed error
    follows from the binomial law of every bin, and the interval holds the errors under which the observed one lies in
    neither tail. It may lie below the observed error: see [`noise_floor`]. That of MCE is of the bins that hold at
    least 1% of the samples. Accuracy has Wilson's interval; NLL, Brier score and other means have the percentile
    bootstrap.

    Args:
        metric (`str` or `Callable`):
            A key of [`calibration_metrics`], such as `"ece"`, a function of this package, or any
            `metric(probabilities, labels) -> float`, which is bootstrapped.
        level (`float`, *optional*, defaults to `0.9`):
            In (0, 1).
        groups (`np.ndarray` of shape `(num_samples,)`, *optional*):
            Number or name of the group of each sample, such as that of the sentence of a token: samples of a group may
            depend on each other, and enter by how the sums of groups scatter.
        seed (`int`, *optional*, defaults to `0`):
            Of what is drawn.

    Returns:
        `tuple[float, float]`: The lower and the upper end.

    Raises:
        ValueError: If the metric is unknown, `level` is not in (0, 1), groups are missing or fractions, or there is
            but one sample or group.

    Example:
    >>> probabilities, labels = [[0.9, 0.1]] * 100, [0] * 90 + [1] * 10
    >>> low, high = confidence_interval("ece", probabilities, labels)
    >>> low == 0 and 0.03 < high < 0.1
    True
    """
    check_level(level)
    entry, n_bins = metric_of(metric), check_n_bins(n_bins)
    probabilities, labels, groups = leave_out_masked(probabilities=probabilities, labels=labels, groups=groups)
    scored = scored_probabilities(probabilities, labels)
    return interval_of(entry, scored, n_bins, level, groups, seed)


def interval_of(
    metric: Metric, scored: Scored, n_bins: int, level: float, groups: ArrayLike | None = None, seed: int = 0
) -> tuple[float, float]:
    """[`confidence_interval`] of what was checked already."""
    groups = scored.groups_of_rows(groups)
    numbers = group_numbers(groups, len(scored), least=2)
    if metric.interval is not None:
        return metric.interval(scored, level, numbers)
    error = metric.gap_error(scored, n_bins)
    if error is not None:
        return Law(error, error.cells(scored, n_bins), numbers, seed).interval(level)
    if metric.sums is not None and isinstance(scored, ScoredOutputs):
        return interval_ends(metric.sums.resampled(scored, numbers, 1000, seed, metric.title), level)
    statistic = metric.statistic(scored, n_bins)
    values = np.array([statistic(rows) for rows in resamples_of(len(scored), 1000, seed, groups, metric)])
    return interval_ends(values, level)


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
    Bootstrap interval of a metric (Efron, 1979), for what is a mean over samples: accuracy, NLL, Brier score, and
    functions of yours that are nearly so.

    Not for calibration errors, of which [`confidence_interval`] gives one that covers. ECE and its kin are biased
    upwards, and more so on resamples, which repeat some of their samples: the percentile interval of the ECE of a
    calibrated model never holds the true value, 0. The basic interval mirrors it, $[2e - q_{hi}, 2e - q_{lo}]$ for the
    estimate e, as in the experiments of Kumar et al. (2019) and Mukhoti et al. (2020); it may reach below 0, and holds
    the truth less often than it says.

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
            Resample i takes the rows (or the groups, in their order) `generator.integers(0, N, N)`,
            drawn in turn from `numpy.random.default_rng(seed)`.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins, where `metric` is a key or function of this package that has bins.
        groups (`np.ndarray` of shape `(num_samples,)`, *optional*):
            Number or name of the group of each sample, such as that of the sentence of a token. A resample then draws
            as many groups as there are, and all samples of each: the cluster bootstrap (Davison and Hinkley, 1997,
            Section 3.8; Cameron, Gelbach and Miller, 2008). Samples of a group mostly resemble one another, and the
            interval of samples drawn singly is then too narrow.

    Returns:
        `tuple[float, float]`: The lower and the upper end.

    Raises:
        ValueError: If the metric or method is unknown, `level` is not in (0, 1), `n_resamples < 1`, groups are
            missing or fractions, or there is but one sample or group.
        TypeError: If `n_resamples` is not a whole number.

    Example:
    >>> low, high = bootstrap_interval("accuracy", [[0.9, 0.1]] * 100, [0] * 75 + [1] * 25)
    >>> 0.65 < low < 0.75 < high < 0.85
    True
    """
    check_options(level, n_resamples)
    if method not in ("percentile", "basic"):
        raise ValueError(f"method must be one of percentile, basic, got {method!r}.")
    entry, n_bins = metric_of(metric), check_n_bins(n_bins)
    probabilities, labels, groups = leave_out_masked(probabilities=probabilities, labels=labels, groups=groups)
    scored = scored_probabilities(probabilities, labels)
    groups = group_numbers(scored.groups_of_rows(groups), len(scored), least=2)
    resamples = resamples_of(len(scored), n_resamples, seed, groups, entry)
    return _interval(entry.statistic(scored, n_bins), len(scored), resamples, level, method)


def _interval(
    statistic: Statistic, num_samples: int, resamples: Iterable[NDArray[np.int64]], level: float, method: str
) -> tuple[float, float]:
    low, high = interval_ends(np.array([statistic(rows) for rows in resamples]), level)
    if method == "percentile":
        return low, high
    estimate = statistic(np.arange(num_samples))
    if np.isinf(estimate):  # mirrored it would be NaN
        return low, high
    return 2 * estimate - high, 2 * estimate - low


def check_level(level: float) -> None:
    """Refuse a level outside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level!r}.")


def check_options(level: float, n_resamples: int) -> None:
    """Refuse a level outside (0, 1), and less than one resample."""
    check_level(level)
    check_count("n_resamples", n_resamples)


def interval_ends(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Ends of a percentile interval, interpolated as by numpy.quantile, which has NaN for values that are infinite."""
    ordered = np.sort(values)

    def quantile(share: float) -> float:
        below, rest = divmod(share * (len(ordered) - 1), 1)
        lower, upper = ordered[int(below)], ordered[min(int(below) + 1, len(ordered) - 1)]
        return float(lower if rest == 0 or lower == upper else lower + rest * (upper - lower))

    return quantile((1 - level) / 2), quantile((1 + level) / 2)


def resamples_of(
    num_samples: int, n_resamples: int, seed: int, groups: ArrayLike | None, metric: Metric
) -> Iterator[NDArray[np.int64]]:
    """The rows of each resample, of groups where there are any."""
    numbers = group_numbers(groups, num_samples)
    numbers = np.arange(num_samples) if numbers is None else numbers
    by_group, sizes = np.argsort(numbers, kind="stable"), np.bincount(numbers)
    starts = np.cumsum(sizes) - sizes
    generator = np.random.default_rng(seed)
    for _ in progress(range(n_resamples), f"bootstrap of {metric.title}"):
        drawn = generator.integers(0, len(sizes), len(sizes))
        if groups is None:
            yield drawn
            continue
        lengths = sizes.take(drawn)
        places = np.cumsum(lengths) - lengths
        yield by_group.take(np.repeat(starts.take(drawn) - places, lengths) + np.arange(lengths.sum()))
