# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What chance alone would show of a calibrated model, and whether a model shows more."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from ..arrays import leave_out_masked, to_numpy
from ..checks import check_n_bins
from ..progress import progress
from .base import Metric, metrics_of
from .bins import BinStatistics
from .chance import CLASS_DRAWS, Law, NoiseFloor, group_numbers, wholly_dependent
from .gaps import Floats, GapError, TopCells, mean_size
from .intervals import check_level, interval_of
from .lookup import AnyMetric, metric_of
from .outputs import ScoredOutputs, scored_probabilities
from .scored import Scored, of_probabilities


_MANY = 1 << 28  # probabilities: above, reports do without what goes through them many times


def noise_floor(
    metric: AnyMetric,
    probabilities: ArrayLike,
    *,
    n_bins: int = 15,
    level: float = 0.9,
    groups: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    seed: int = 0,
) -> NoiseFloor:
    """
    What chance alone would show: the metric of a perfectly calibrated model with these probabilities, on as many
    samples, whose labels are drawn from the probabilities (consistency resampling; Bröcker and Smith, 2007;
    Vaicenavicius et al., 2019).

    Args:
        metric (`str` or `Callable`):
            As for [`confidence_interval`].
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)`):
            Softmax outputs; each row sums to 1.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.
        level (`float`, *optional*, defaults to `0.9`):
            Share of the draws between `low` and `high`, in (0, 1).
        groups (`np.ndarray` of shape `(num_samples,)`, *optional*):
            As for [`confidence_interval`]. How much the samples of a group depend on each other is told by `labels`;
            without them it is taken to be as much as can be.
        labels (`np.ndarray` of shape `(num_samples,)`, *optional*):
            Class indices in `[0, num_labels)`. Only with groups are they looked at, or where they have the shape of
            the probabilities, as of [`calibration_metrics`]: then chance is what it is where the labels of a sample
            depend on one another as these do.
        seed (`int`, *optional*, defaults to `0`):
            Of what is drawn.

    Returns:
        [`NoiseFloor`]: With `median`, `low` and `high`.

    Raises:
        ValueError: As [`confidence_interval`].

    Example:
    >>> floor = noise_floor("ece", [[0.9, 0.1]] * 100)  # the ECE is the gap of one bin, whose standard error is 3%
    >>> 0.01 < floor.median < 0.03 < floor.high < 0.08
    True
    """
    check_level(level)
    entry, n_bins = metric_of(metric), check_n_bins(n_bins)
    probabilities, labels, groups = leave_out_masked(probabilities=probabilities, labels=labels, groups=groups)
    rows = to_numpy("probabilities", probabilities)
    scored = Scored(rows, np.zeros(len(rows), np.int64)) if labels is None else scored_probabilities(rows, labels)
    return floor_of(entry, scored, n_bins, level, groups, labels is not None, seed)


def floor_of(
    metric: Metric,
    scored: Scored,
    n_bins: int,
    level: float,
    groups: ArrayLike | None = None,
    labelled: bool = True,
    seed: int = 0,
) -> NoiseFloor:
    """[`noise_floor`] of what was checked already."""
    groups = scored.groups_of_rows(groups)
    numbers = group_numbers(groups, len(scored), least=2 if groups is not None and labelled else 1)
    error = metric.gap_error(scored, n_bins)
    if error is None:
        return NoiseFloor.of(_redrawn(metric, scored, n_bins, numbers, seed), level)
    cells = error.cells(scored, n_bins)
    if numbers is not None and not labelled:
        return NoiseFloor.of(wholly_dependent(cells, numbers, seed, error), level)
    return NoiseFloor.of(Law(error, cells, numbers, seed).calibrated, level)


def _redrawn(metric: Metric, scored: Scored, n_bins: int, numbers: NDArray[np.int64] | None, seed: int) -> Floats:
    """A metric of labels that are drawn from the probabilities; a group has one random number for all its labels."""
    if isinstance(scored, ScoredOutputs):
        raise ValueError(f"{metric.title} is no calibration error, of which a sigmoid head has a noise floor.")
    generator, values = np.random.default_rng(seed), []
    ends = np.cumsum(scored.probabilities, axis=1, dtype=np.float64)
    ends /= ends[:, -1:]
    for _ in progress(range(CLASS_DRAWS), "noise floor"):
        levels = generator.random(len(scored) if numbers is None else int(numbers.max()) + 1)
        levels = levels if numbers is None else levels[numbers]
        labels = np.minimum((ends <= levels[:, None]).sum(axis=1), scored.num_labels - 1)
        values.append(metric.value(Scored(scored.probabilities, labels), n_bins))
    return np.array(values)


@of_probabilities
def calibration_p_value(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    metric: AnyMetric = "ece",
    n_bins: int = 15,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> float:
    """
    How often a perfectly calibrated model with these probabilities would show as large an error, by chance alone
    (Vaicenavicius et al., 2019).

    A small one speaks against calibration; a large one does not prove it, least of all on few samples. As large an
    error counts half (mid-p), for that of few samples takes few values.

    Args:
        metric (`str` or `Callable`, *optional*, defaults to `"ece"`):
            A calibration error: its key, or a function of this package.
        groups, seed (*optional*):
            As for [`confidence_interval`].

    Returns:
        `float`: In (0, 1].

    Raises:
        ValueError: If the metric is no calibration error, or as [`confidence_interval`].

    Example:
    >>> calibration_p_value([[0.9, 0.1]] * 100, [0] * 60 + [1] * 40) < 0.01
    True
    """
    entry, n_bins = metric_of(metric), check_n_bins(n_bins)
    probabilities, labels, groups = leave_out_masked(probabilities=probabilities, labels=labels, groups=groups)
    scored = scored_probabilities(probabilities, labels)
    error, groups = entry.gap_error(scored, n_bins), scored.groups_of_rows(groups)
    if error is None:
        known = [key for key, one in metrics_of(scored.head).items() if one.gap_error(scored, n_bins) is not None]
        raise ValueError(f"metric must be a calibration error, such as {', '.join(known)}, got {metric!r}.")
    numbers = group_numbers(groups, len(scored), least=2 if groups is not None else 1)
    law = Law(error, error.cells(scored, n_bins), numbers, seed)
    drawn, shown = law.calibrated, error.value(law.came - law.said, law.shape)
    larger, equal = np.count_nonzero(drawn > shown + 1e-12), np.count_nonzero(np.abs(drawn - shown) <= 1e-12)
    return float((1 + larger + equal / 2) / (1 + len(drawn)))


def appraise(
    scored: Scored, n_bins: int = 15, groups: ArrayLike | None = None, level: float = 0.9, seed: int = 0,
    metrics: Iterable[Metric] | None = None,
) -> tuple[dict[str, tuple[float, float]], dict[str, NoiseFloor]]:  # fmt: skip
    """
    [`confidence_interval`] of every metric (or of those given) and [`noise_floor`] of every calibration error, by key,
    but for those that would take minutes. Of one sample or one group nothing can be said.
    """
    intervals: dict[str, tuple[float, float]] = {}
    floors: dict[str, NoiseFloor] = {}
    belongs = scored.groups_of_rows(groups)
    if (len(scored) if belongs is None else len(np.unique(belongs))) < 2:
        return intervals, floors
    numbers = group_numbers(belongs, len(scored), least=2)
    found = metrics_of(scored.head).values() if metrics is None else metrics
    for metric in progress(list(found), "intervals and noise"):
        if metric.whole_rows and len(scored) * scored.num_labels > _MANY:
            continue
        error = metric.gap_error(scored, n_bins)
        if error is None:
            intervals[metric.key] = interval_of(metric, scored, n_bins, level, groups, seed)
        else:
            law = Law(error, error.cells(scored, n_bins), numbers, seed)
            intervals[metric.key] = law.interval(level)
            floors[metric.key] = NoiseFloor.of(law.calibrated, level)
    return intervals, floors


def calibrated_band(
    scored: Scored, n_bins: int = 15, groups: ArrayLike | None = None, level: float = 0.9
) -> NDArray[np.float64]:
    """The range that holds the accuracy of each bin were the model calibrated, `(2, n_bins)`; NaN in empty bins."""
    bins, groups = scored.bins(n_bins), scored.groups_of_rows(groups)
    if groups is None or len(np.unique(groups)) < 2:
        return binomial_band(bins, level)
    law = Law(GapError(TopCells, mean_size), TopCells(scored, n_bins), group_numbers(groups, len(scored)))
    ends = np.quantile(law.drawn(law.mean), ((1 - level) / 2, (1 + level) / 2), axis=0)
    band = np.full((2, n_bins), np.nan)
    band[:, law.cells.filled] = np.clip(law.mean + ends / law.counts, 0, 1)
    return band


def pooled_floor(scored: Scored, n_bins: int = 15, groups: ArrayLike | None = None, level: float = 0.9) -> NoiseFloor:
    """The noise floor of the ECE of a reliability diagram, which has all labels of a sigmoid head in the same bins."""
    numbers = group_numbers(scored.groups_of_rows(groups), len(scored))
    law = Law(GapError(TopCells, mean_size), TopCells(scored, n_bins), numbers)
    return NoiseFloor.of(law.calibrated, level)


def binomial_band(bins: BinStatistics, level: float = 0.9) -> NDArray[np.float64]:
    """The same of samples that do not depend on each other."""
    filled = bins.counts > 0
    band = np.full((2, len(bins.counts)), np.nan)
    counts, confidence = bins.counts[filled], np.clip(bins.confidence[filled], 0, 1)
    for end, share in enumerate(((1 - level) / 2, (1 + level) / 2)):
        band[end, filled] = binom.ppf(share, counts, confidence) / counts
    return band
