# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Which of two models is better, on the same samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import leave_out_masked
from ..checks import check_n_bins
from .base import Metric
from .chance import CLASS_DRAWS, Law, group_numbers
from .gaps import Cells, ClassCells, Floats, GapError, TopCells
from .intervals import check_options, interval_ends, resamples_of
from .lookup import AnyMetric, metric_of
from .outputs import ScoredOutputs, scored_probabilities
from .scored import Scored


_DRAWS, _GRID = 400, 16  # of the law of a difference: draws, and true errors tried of each model
_PLAUSIBLE = 0.99  # level of the intervals within which those lie
_TAILS = 0.75  # of those that the level leaves: the law is estimated, and measured verdicts were wrong too often


@dataclass(frozen=True)
class PairedComparison:
    """
    Two models on the same samples.

    Attributes:
        difference (`float`): The metric of A less that of B, on all samples.
        low, high (`float`): Ends of the interval of the true difference.
        share_a_lower (`float`): Share of resamples in which the metric of A is below that of B; a tie counts half. Of
            calibration errors, of draws about the true difference that is most likely.
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

    Calibration errors are not resampled. What chance adds to them differs from model to model, so that a bootstrap of
    their difference finds one where there is none: a sharp and a blunt model may both be calibrated. As in
    [`confidence_interval`] the law of both observed errors, drawn together, is inverted: the interval holds the true
    differences of all pairs of true errors, each plausible by itself at 99%, under which the observed difference lies
    in neither tail. Decide between models by a proper score first, `"nll"` or `"brier"`: a small calibration error
    says nothing of how much a model knows.

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
    entry, n_bins = metric_of(metric), check_n_bins(n_bins)
    probabilities_a, probabilities_b, labels, groups = leave_out_masked(
        probabilities_a=probabilities_a, probabilities_b=probabilities_b, labels=labels, groups=groups
    )
    scored_a, scored_b = (scored_probabilities(one, labels) for one in (probabilities_a, probabilities_b))
    return compare_scored(entry, scored_a, scored_b, n_bins, level, groups, seed, n_resamples)


def compare_scored(
    metric: Metric,
    scored_a: Scored,
    scored_b: Scored,
    n_bins: int = 15,
    level: float = 0.9,
    groups: ArrayLike | None = None,
    seed: int = 0,
    n_resamples: int = 1000,
) -> PairedComparison:
    """[`paired_bootstrap`] of what was checked already."""
    groups = scored_a.groups_of_rows(groups)
    numbers = group_numbers(groups, len(scored_a), least=2)
    error = metric.gap_error(scored_a, n_bins)
    if error is not None:
        difference = metric.of(scored_a, n_bins) - metric.of(scored_b, n_bins)
        cells = [error.cells(scored, n_bins) for scored in (scored_a, scored_b)]

        def together(pair: Sequence[Cells]) -> list[Law]:
            return _drawn_together(error, pair, len(scored_a), numbers, seed)

        low, high, share_a_lower = inverted(cells, level, together)
    else:
        both, sums = (scored_a, scored_b), metric.sums
        outputs = [one for one in both if isinstance(one, ScoredOutputs)]
        if sums is not None and len(outputs) == 2:
            values_a, values_b = (sums.resampled(one, numbers, n_resamples, seed, metric.title) for one in outputs)
        else:
            statistic_a, statistic_b = (metric.statistic(scored, n_bins) for scored in both)
            resamples = resamples_of(len(scored_a), n_resamples, seed, groups, metric)
            values_a, values_b = np.array([(statistic_a(rows), statistic_b(rows)) for rows in resamples]).T
        with np.errstate(invalid="ignore"):  # NaN where both are infinite
            low, high = interval_ends(values_a - values_b, level)
        everything = np.arange(len(scored_a))
        of_a, of_b = (metric.statistic(scored, n_bins)(everything) for scored in both)
        difference = of_a - of_b
        share_a_lower = float(np.mean((values_a < values_b) + 0.5 * (values_a == values_b)))
    better = "a_is_better" if (high < 0) == metric.lower_is_better else "b_is_better"
    return PairedComparison(difference, low, high, share_a_lower, better if low > 0 or high < 0 else "undecided")


def inverted(
    cells: Sequence[Cells], level: float, together: Callable[[Sequence[Cells]], list[Law]]
) -> tuple[float, float, float]:
    """
    Ends of the interval of the true difference of two calibration errors, and the share of draws below 0; `together`
    draws the laws of both, in the order in which it is given their cells.
    """
    first, second = cells
    if all(np.array_equal(getattr(first, name), getattr(second, name)) for name in ("counts", "said", "came")):
        return 0.0, 0.0, 0.5
    laws = together(cells)
    if laws[0].observed > laws[1].observed:  # the same draws, whichever is called A
        low, high, share = inverted((second, first), level, together)
        return -high, -low, 1 - share
    (true_a, drawn_a), (true_b, drawn_b) = map(_plausible, laws)
    observed = laws[0].observed - laws[1].observed
    tail = _TAILS * (1 - level) / 2
    low, high = np.inf, -np.inf
    for true, drawn in zip(true_a, drawn_a, strict=True):
        # The larger the error of B, the smaller the difference: those of B lie between two crossings.
        lower, upper = np.quantile(drawn - drawn_b, (tail, 1 - tail), axis=1)
        if lower[-1] > observed or upper[0] < observed:
            continue
        least, most = _crossing(lower, true_b, observed), _crossing(upper, true_b, observed)
        low, high = min(low, true - most), max(high, true - least)
    best_a, best_b = (
        int(np.abs(np.median(one, axis=1) - law.observed).argmin())
        for one, law in zip((drawn_a, drawn_b), laws, strict=True)
    )
    noise = drawn_a[best_a] - drawn_b[best_b] - observed
    likely = true_a[best_a] - true_b[best_b]
    share = float(np.mean((likely - noise < 0) + 0.5 * (likely - noise == 0)))
    return (float(low), float(high), share) if low <= high else (-1.0, 1.0, 0.5)


def _drawn_together(
    error: GapError, cells: Sequence[Cells], size: int, numbers: NDArray[np.int64] | None, seed: int
) -> list[Law]:
    """The laws of both, whose noise is correlated as what the two models get right and wrong."""
    generator = np.random.default_rng(seed)
    if numbers is None and not all(isinstance(one, TopCells) and one.parts.weights is None for one in cells):
        # The classes of a row depend on each other, and so do bins that share samples: a sample is a group.
        numbers = np.arange(size)
    if numbers is not None:
        draws = CLASS_DRAWS if isinstance(cells[0], ClassCells) else _DRAWS
        laws = [Law(error, one, numbers) for one in cells]
        Law.draw_together(laws, generator, draws)
        return laws
    first, second = (Law(error, one, np.arange(size)).residuals for one in cells)
    scale = [np.sqrt(np.maximum(np.asarray(one.power(2).sum(axis=0)).ravel(), 1e-300)) for one in (first, second)]
    return correlated(error, cells, np.asarray((first.T @ second).todense()) / np.outer(*scale), generator)


def correlated(error: GapError, cells: Sequence[Cells], cross: Floats, generator: np.random.Generator) -> list[Law]:
    """The laws of both, whose cells that are not empty have this correlation, `(n_filled_a, n_filled_b)`."""
    correlation = np.block([[np.eye(len(cross)), cross], [cross.T, np.eye(cross.shape[1])]])
    sizes, axes = np.linalg.eigh(correlation)
    draws = generator.normal(size=(_DRAWS, len(sizes))) @ (axes * np.sqrt(np.maximum(sizes, 0.0))).T
    return [
        Law(error, one, standard=part) for one, part in zip(cells, np.split(draws, [len(cross)], axis=1), strict=True)
    ]


def _plausible(law: Law) -> tuple[Floats, Floats]:
    """True errors under which what was observed is not absurd, and what is observed under each, `(errors, draws)`."""
    gaps, tail = law.along(law.error.high), (1 - _PLAUSIBLE) / 2

    def at(factor: float) -> tuple[Floats, Floats]:
        shares = np.clip(law.mean + factor * gaps, 0.0, 1.0)
        true = law.error.true(law.counts * (shares - law.mean), law.shape)
        return true, law.error.observed(law.drawn(shares), law.shape)

    most = 1.0
    while most < 2**12 and np.quantile(at(most)[1], tail) <= law.observed:
        most *= 1.5
    true, drawn = map(np.array, zip(*map(at, np.linspace(0.0, most, _GRID)), strict=True))
    lower, upper = np.quantile(drawn, (tail, 1 - tail), axis=1)
    kept = (lower <= law.observed) & (law.observed <= upper)
    # Their neighbours as well, between which ends are interpolated.
    kept = kept | np.append(kept[1:], False) | np.append(False, kept[:-1])
    if not kept.any():
        kept[np.abs(np.median(drawn, axis=1) - law.observed).argmin()] = True
    return true[kept], drawn[kept]


def _crossing(falling: Floats, places: Floats, value: float) -> float:
    """Where falling values come down to one, between places; an end where they do not."""
    return float(np.interp(-value, -np.maximum.accumulate(falling[::-1])[::-1], places))
