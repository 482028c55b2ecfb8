# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Out-of-distribution detection: scores from logits, and how well they tell unfamiliar samples from familiar ones
(Mukhoti et al., 2020, Section 5). Every score is higher the more out of distribution a sample looks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import check_gamma, check_logits, check_positive, check_scores, row_blocks
from ..gamma import focal_log_probabilities
from ..metrics.intervals import check_options, interval_ends
from ..progress import progress


Floats = NDArray[np.float64]

OOD_SCORES = ("entropy", "max_probability", "energy")
_LOWEST_MARGIN = -800.0  # its exponential is 0 in float64


def ood_scores(logits: ArrayLike, temperature: float = 1.0, gamma: float = 0.0) -> dict[str, Floats]:
    r"""
    Entropy, maximum probability and energy of each sample, in float64.

    - `entropy`: of the softmax, $-\sum_k p_k \log p_k$ in nats, the score of the paper. It keeps its relative
      precision where one logit dominates and the largest probability rounds to 1.
    - `max_probability`: $-\max_k p_k$ (Hendrycks and Gimpel, 2017). Samples tie where it rounds to -1, from a margin
      of 37 on.
    - `energy`: $-\log \sum_k e^{z_k}$ (Liu et al., 2020, without their factor T, which changes no ranking).

    Args:
        logits (`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`):
            Raw scores: finite, or -inf for a class that is masked.
        temperature (`float`, *optional*, defaults to `1.0`): What the logits are divided by first; positive.
        gamma (`float`, *optional*, defaults to `0.0`):
            Above 0: the softmax is that of [`focal_recalibration`]. The energy does not depend on it.

    Returns:
        `dict[str, np.ndarray]`: By name, arrays of shape `(num_samples,)`.

    Raises:
        ValueError: If logits are NaN, +inf or no matrix, the temperature is not positive, or gamma is negative.

    Example:
    >>> scores = ood_scores([[4.0, 0.0], [0.0, 0.0]])
    >>> {name: values.round(2).tolist() for name, values in scores.items()}
    {'entropy': [0.09, 0.69], 'max_probability': [-0.98, -0.5], 'energy': [-4.02, -0.69]}
    """
    array, _ = check_logits(logits)
    temperature, gamma = check_positive("temperature", temperature), check_gamma(gamma)
    scores = {name: np.empty(len(array)) for name in OOD_SCORES}
    for block, values, axis in row_blocks(array, np.float64):
        scaled = (values if axis else values.T) / temperature
        top, rest, entropy = _softmax_parts(scaled)
        scores["energy"][block] = -(top + np.log1p(rest))
        if gamma:
            _, rest, entropy = _softmax_parts(focal_log_probabilities(scaled, gamma))
        scores["entropy"][block] = entropy
        scores["max_probability"][block] = -1 / (1 + rest)
    return scores


def _softmax_parts(logits: Floats) -> tuple[Floats, Floats, Floats]:
    """Per row: the largest logit, the odds of all others against it, and the entropy."""
    rows, best = np.arange(len(logits)), logits.argmax(axis=1)
    top = logits[rows, best]
    margins = np.maximum(logits - top[:, None], _LOWEST_MARGIN)
    weights = np.exp(margins)
    weights[rows, best] = 0.0
    rest = weights.sum(axis=1)
    # A sum of positive terms, so that nothing cancels.
    return top, rest, np.log1p(rest) - (weights * margins).sum(axis=1) / (1 + rest)


def auroc(in_scores: ArrayLike, out_scores: ArrayLike) -> float:
    """
    Area under the ROC curve with the out-of-distribution samples as positives: the share of pairs in which the
    out-of-distribution sample has the higher score, a tie counting half (Hanley and McNeil, 1982).

    Args:
        in_scores, out_scores (`np.ndarray` of shapes `(num_in,)` and `(num_out,)`):
            Scores of in-distribution and of out-of-distribution samples, such as those of [`ood_scores`].

    Returns:
        `float`: In `[0, 1]`; 0.5 for scores that tell nothing.

    Raises:
        ValueError: If either is empty, not finite or no vector.

    Example:
    >>> auroc([0.1, 0.2, 0.3], [0.2, 0.9])
    0.75
    """
    statistic, num_in, num_out = auroc_of_rows(in_scores, out_scores)
    return statistic(np.arange(num_in), np.arange(num_out))


def auroc_interval(
    in_scores: ArrayLike, out_scores: ArrayLike, level: float = 0.9, n_resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """
    Percentile bootstrap interval of [`auroc`]; both sets of samples are resampled.

    Args:
        in_scores, out_scores: As for [`auroc`].
        level (`float`, *optional*, defaults to `0.9`): Share of resamples between the ends, in (0, 1).
        n_resamples (`int`, *optional*, defaults to `1000`): Number of resamples.
        seed (`int`, *optional*, defaults to `0`): Of `numpy.random.default_rng(seed)`, from which each resample draws
            the rows `generator.integers(0, num_in, num_in)`, then those of the other set.

    Returns:
        `tuple[float, float]`: The lower and the upper end.

    Raises:
        ValueError: As [`auroc`]; or if `level` is not in (0, 1) or `n_resamples < 1`.
        TypeError: If `n_resamples` is not a whole number.
    """
    check_options(level, n_resamples)
    statistic, num_in, num_out = auroc_of_rows(in_scores, out_scores)
    draw = np.random.default_rng(seed).integers
    resamples = progress(range(n_resamples), "bootstrap of the AUROC")
    values = [statistic(draw(0, num_in, num_in), draw(0, num_out, num_out)) for _ in resamples]
    return interval_ends(np.array(values), level)


def auroc_of_rows(in_scores: ArrayLike, out_scores: ArrayLike) -> tuple[Callable[..., float], int, int]:
    """AUROC as a function of the rows of either set, and their sizes. Scores are sorted once, then only counted."""
    inside, outside = check_scores("in_scores", in_scores), check_scores("out_scores", out_scores)
    num_in, num_out = len(inside), len(outside)
    levels, places = np.unique(np.concatenate([inside, outside]), return_inverse=True)
    in_places, out_places = places[:num_in], places[num_in:]

    def statistic(in_rows: NDArray[np.int64], out_rows: NDArray[np.int64]) -> float:
        in_counts = np.bincount(in_places.take(in_rows), minlength=len(levels))
        out_counts = np.bincount(out_places.take(out_rows), minlength=len(levels))
        twice_below = 2 * np.cumsum(in_counts) - in_counts
        return int(out_counts @ twice_below) / (2 * num_in * num_out)

    return statistic, num_in, num_out


def roc_points(in_scores: ArrayLike, out_scores: ArrayLike) -> tuple[Floats, Floats]:
    """
    The ROC curve behind [`auroc`], by `sklearn.metrics.roc_curve`; points on a straight line are left out.

    Args:
        in_scores, out_scores: As for [`auroc`].

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Shares of the in-distribution (false positive rate) and of the
        out-of-distribution samples (true positive rate) that score at least a threshold, from 0 to 1.

    Raises:
        ValueError: As [`auroc`].
    """
    from sklearn.metrics import roc_curve

    inside, outside = check_scores("in_scores", in_scores), check_scores("out_scores", out_scores)
    positive = np.repeat([0, 1], [len(inside), len(outside)])
    false_rate, true_rate, _ = roc_curve(positive, np.concatenate([inside, outside]))
    return false_rate, true_rate


@dataclass(frozen=True)
class DetectionResult:
    """
    How well one score finds out-of-distribution samples.

    Attributes:
        auroc (`float`): As by [`auroc`].
        low, high (`float`): Ends of its bootstrap interval.
    """

    auroc: float
    low: float
    high: float


def ood_detection(
    logits: ArrayLike, ood_logits: ArrayLike, temperature: float = 1.0, gamma: float = 0.0, level: float = 0.9,
    n_resamples: int = 1000, seed: int = 0,
) -> dict[str, dict[str, DetectionResult]]:  # fmt: skip
    """
    AUROC of every score with its interval, before and after calibration by a temperature (and a gamma).

    Args:
        logits, ood_logits (`np.ndarray` of shapes `(num_in, num_labels)` and `(num_out, num_labels)`):
            Of in-distribution and of out-of-distribution samples, by the same model, before scaling.
        temperature, gamma (`float`, *optional*): What the model was calibrated with; as for [`ood_scores`].
        level, n_resamples, seed (*optional*): As for [`auroc_interval`].

    Returns:
        `dict[str, dict[str, DetectionResult]]`: By score, then by `"before"` and `"after"`.

    Raises:
        ValueError: If either set is empty or not finite, they differ in their number of classes, or as
            [`auroc_interval`].
        TypeError: If `n_resamples` is not a whole number.
    """
    inside, outside = check_logits(logits)[0], check_logits(ood_logits, name="ood_logits")[0]
    if inside.shape[1] != outside.shape[1]:
        raise ValueError(
            f"logits and ood_logits must be of the same model, got {inside.shape[1]} and {outside.shape[1]} classes."
        )
    scalings = {"before": (1.0, 0.0), "after": (temperature, gamma)}
    pairs = score_pairs(*({key: ood_scores(one, *by) for key, by in scalings.items()} for one in (inside, outside)))
    return {name: detection(row, level=level, n_resamples=n_resamples, seed=seed) for name, row in pairs.items()}


def score_pairs(
    inside: dict[str, dict[str, Floats]], outside: dict[str, dict[str, Floats]]
) -> dict[str, dict[str, tuple[Floats, Floats]]]:
    """From [`ood_scores`] by moment: by score, then by moment, those of either set."""
    return {name: {key: (inside[key][name], outside[key][name]) for key in inside} for name in OOD_SCORES}


def detection(pairs: dict[str, tuple[Floats, Floats]], **options: Any) -> dict[str, DetectionResult]:
    """Of one score, by moment."""
    return {key: DetectionResult(auroc(*pair), *auroc_interval(*pair, **options)) for key, pair in pairs.items()}
