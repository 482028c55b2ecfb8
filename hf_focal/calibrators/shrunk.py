# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
The fits of Platt's scale and shift (1999) for each label of a head, shrunk towards the ones that all labels share.

Each label has a slope, and a height: its calibrated logit at a centre, the mean of its logits where the label is in
doubt (weights p(1 - p)). There the two are determined independently of each other. Slopes and heights spread normally
around those of the shared map, and the variances of this spread are the ones that make the data most likely
(restricted maximum likelihood, of the working responses of the fit: penalised quasi-likelihood, Breslow and Clayton,
1993). Labels that differ no more than chance get the shared map; a label with few positives stays close to it; one
with many has a map of its own. Given the variances, the search is convex, and ends at machine precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from ..checks import IGNORED, row_blocks


Floats = NDArray[np.float64]
_CHUNK = 1 << 17  # logits handled at a time: scratch memory stays in the cache
_KEPT = 1 << 22  # logits of which float64 copies are kept from step to step
_ROUNDS, _SETTLED = 30, 1e-3  # of the variances: how often they are found anew at most, and when that is enough
_MOST = np.array([3.0, 10.0])  # the largest spread of slopes, relative to the shared one, and of heights
_LEAST = 1e-3  # relative to that, what is not told from 0


@dataclass(frozen=True)
class Shrunk:
    """
    Maps `scale * z + shift` of the logits of each label.

    Attributes:
        scale, shift (`np.ndarray` of shape `(num_labels,)`): Without an intercept all shifts are 0.
        shared (`np.ndarray` of shape `(2,)`): Scale and shift that all share.
        spread (`np.ndarray` of shape `(2,)`): Standard deviations of slopes and heights around the shared map.
        centres (`np.ndarray` of shape `(num_labels,)`): The logits at which heights are.
    """

    scale: Floats
    shift: Floats
    shared: Floats
    spread: Floats
    centres: Floats


def overlaps(logits: NDArray[Any], labels: NDArray[np.int64]) -> bool:
    """Whether some known output with the label has a lower logit than some without: else no slope is the best."""
    lowest, highest = np.inf, -np.inf
    for z, y, _ in _blocks(logits, labels):
        lowest = min(lowest, float(np.where(y == 1, z, np.inf).min()))
        highest = max(highest, float(np.where(y == 0, z, -np.inf).max()))
    return lowest < highest


def fit_shrunk(
    logits: NDArray[Any], labels: NDArray[np.int64], intercept: bool = True, start: Shrunk | None = None,
    spread: Floats | None = None,
) -> Shrunk:  # fmt: skip
    """
    The maps of smallest NLL under the spread that the data call for. `start` is a fit to similar data, from which the
    search goes on.

    Args:
        logits, labels (`np.ndarray` of shape `(num_samples, num_labels)`): Checked; they must [`overlap`][overlaps].
        intercept (`bool`, *optional*, defaults to `True`): Whether there may be shifts.
        spread (`np.ndarray` of shape `(2,)`, *optional*): The standard deviations, where they are not to be found.
    """
    search = _Search(logits, labels, intercept)
    fit = search.begin(start)
    if spread is None:
        fit = search.settle(fit, np.zeros(2) if start is None else start.spread)
    else:
        fit = search.minimum(search.centre(fit), np.asarray(spread))
    return search.result(fit)


def penalised_nll(fit: Shrunk, logits: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """What a fit makes smallest: the summed NLL of its data, and the price of deviations from what is shared."""
    total = 0.0
    for z, y, known in _blocks(logits, labels):
        scores = z * fit.scale[:, None] + fit.shift[:, None]
        total += float((known * (np.logaddexp(0.0, scores) - y * scores)).sum())
    heights = fit.scale * fit.centres + fit.shift
    off = np.stack([fit.scale - fit.shared[0], heights - fit.shared[0] * fit.centres - fit.shared[1]])
    used = fit.spread > 0
    return total + 0.5 * float(((off[used] / fit.spread[used, None]) ** 2).sum())


@dataclass(frozen=True)
class _Point:
    """Where a search is: what is shared, about the mean logit, and the deviations of each label, about its centre."""

    shared: Floats  # slope, height
    off: Floats  # (num_labels, 2)
    centres: Floats
    spread: Floats


def _blocks(logits: NDArray[Any], labels: NDArray[np.int64]) -> Iterator[tuple[Floats, Floats, Floats]]:
    """Logits, labels and whether these are known, of shape `(num_labels, rows)`, some rows at a time."""
    for block, values, axis in row_blocks(logits, np.float64, _CHUNK):
        z = values if axis == 0 else values.T
        given = np.ascontiguousarray(labels[block].T)
        known = given != IGNORED
        yield z, np.where(known, given, 0).astype(np.float64), known.astype(np.float64)


class _Search:
    def __init__(self, logits: NDArray[Any], labels: NDArray[np.int64], intercept: bool) -> None:
        self._logits, self._labels, self._size = logits, labels, 2 if intercept else 1
        self._kept = list(_blocks(logits, labels)) if logits.size <= _KEPT else None
        count = total = came = 0.0
        for z, y, known in self._all():
            count, total, came = count + known.sum(), total + (known * z).sum(), came + y.sum()
        self._mean = total / count if intercept else 0.0
        self._rate = float(came / count)

    def _all(self) -> Iterator[tuple[Floats, Floats, Floats]]:
        return iter(_blocks(self._logits, self._labels) if self._kept is None else self._kept)

    def begin(self, start: Shrunk | None) -> _Point:
        """A map that all labels share, by default that of smallest NLL."""
        labels = self._logits.shape[1]
        if start is None:
            height = np.log(self._rate / (1 - self._rate)) if self._size == 2 else 0.0
            shared, centres = np.array([0.0, height]), np.full(labels, self._mean)
            return self.minimum(_Point(shared, np.zeros((labels, 2)), centres, np.zeros(2)), np.zeros(2))
        shared = np.array([start.shared[0], start.shared[1] + start.shared[0] * self._mean])
        own = np.stack([start.scale, start.shift + start.scale * start.centres], axis=1)
        return _Point(shared, own - self._shared_at(shared, start.centres), start.centres, start.spread)

    def _shared_at(self, shared: Floats, centres: Floats) -> Floats:
        """Slope and height of the shared map at the centre of each label."""
        return np.stack([np.full(len(centres), shared[0]), shared[1] + shared[0] * (centres - self._mean)], axis=1)

    def _own(self, point: _Point) -> Floats:
        return self._shared_at(point.shared, point.centres) + point.off

    def result(self, point: _Point) -> Shrunk:
        own, slope = self._own(point), float(point.shared[0])
        shift = own[:, 1] - own[:, 0] * point.centres
        shared = np.array([slope, point.shared[1] - slope * self._mean])
        return Shrunk(own[:, 0], shift, shared, point.spread, point.centres)

    def _value(self, own: Floats, centres: Floats) -> float:
        total = 0.0
        for z, y, known in self._all():
            scores = (z - centres[:, None]) * own[:, :1] + own[:, 1:]
            total += float((known * (np.logaddexp(0.0, scores) - y * scores)).sum())
        return total

    def _derivatives(self, own: Floats, centres: Floats) -> tuple[float, Floats, Floats]:
        """The NLL, and of each label its slopes in slope and height, and its curvature."""
        labels = len(own)
        nll, slopes, curvature = 0.0, np.zeros((labels, 2)), np.zeros((labels, 2, 2))
        for z, y, known in self._all():
            z = z - centres[:, None]
            scores = z * own[:, :1] + own[:, 1:]
            small = np.exp(-np.abs(scores))
            nll += float((known * (np.log1p(small) + np.maximum(scores, 0) - y * scores)).sum())
            said = np.where(scores >= 0, 1.0, small) / (1 + small)
            errors, weights = known * (said - y), known * small / (1 + small) ** 2
            weighted = weights * z
            slopes += np.stack([(errors * z).sum(1), errors.sum(1)], axis=1)
            cross = weighted.sum(1)
            parts = [(weighted * z).sum(1), cross, cross, weights.sum(1)]
            curvature += np.stack(parts, axis=1).reshape(-1, 2, 2)
        return nll, slopes, curvature

    def minimum(self, point: _Point, spread: Floats, rounds: int = 100) -> _Point:
        """
        Newton's method for the shared map and all deviations at once, each of which is `spread` times a number that
        the ridge holds back.
        """
        k, centres = self._size, point.centres
        spread = spread * (np.arange(2) < k)
        used = np.where(spread > 0, spread, 1.0)
        numbers, shared = np.where(spread > 0, point.off / used, 0.0), point.shared
        to_own = np.zeros((len(centres), 2, 2))  # what a step of the shared map does to slope and height of each label
        to_own[:, 0, 0] = to_own[:, 1, 1] = 1.0
        to_own[:, 1, 0] = centres - self._mean

        def at(shared: Floats, numbers: Floats) -> Floats:
            return self._shared_at(shared, centres) + numbers * spread

        for _ in range(rounds):
            nll, slopes, curvature = self._derivatives(at(shared, numbers), centres)
            value = nll + 0.5 * float((numbers**2).sum())
            scaled = curvature * spread  # columns; rows below
            inner = scaled * spread[:, None] + np.eye(2)
            pull = slopes * spread + numbers
            cross = np.swapaxes(scaled, 1, 2) @ to_own  # (labels, numbers, shared)
            alone = np.linalg.solve(inner, np.concatenate([pull[..., None], cross], axis=2))
            slope = np.einsum("lij,li->j", to_own, slopes) - np.einsum("lij,li->j", cross, alone[..., 0])
            bend = np.einsum("lij,lik,lkm->jm", to_own, curvature, to_own)
            bend -= np.einsum("lij,lim->jm", cross, alone[..., 1:])
            step = np.zeros(2)
            step[:k] = -np.linalg.solve(bend[:k, :k], slope[:k])
            own_step = -alone[..., 0] - alone[..., 1:] @ step
            if k == 1:
                own_step[:, 1] = 0.0
            fall = -float((np.einsum("lij,li->j", to_own, slopes) * step).sum() + (pull * own_step).sum())
            if fall <= 1e-22 * max(1.0, abs(value)):
                break
            size = 1.0
            while size > 1e-10:
                new = shared + size * step, numbers + size * own_step
                reached = self._value(at(*new), centres) + 0.5 * float((new[1] ** 2).sum())
                if reached <= value - 1e-4 * size * fall + 1e-14 * abs(value):
                    break
                size /= 2
            shared, numbers = new
            if fall <= 1e-16 * max(1.0, abs(value)):  # what this step left is the square of that
                break
        return _Point(shared, numbers * spread, centres, spread)

    def centre(self, point: _Point) -> _Point:
        """Heights moved to where each label is in doubt."""
        if self._size == 1:
            return point
        own = self._own(point)
        _, _, curvature = self._derivatives(own, point.centres)
        moved = curvature[:, 0, 1] / np.maximum(curvature[:, 1, 1], 1e-300)
        centres = point.centres + np.where(curvature[:, 1, 1] > 1e-12, moved, 0.0)
        own = np.stack([own[:, 0], own[:, 1] + own[:, 0] * (centres - point.centres)], axis=1)
        return _Point(point.shared, own - self._shared_at(point.shared, centres), centres, point.spread)

    def settle(self, point: _Point, spread: Floats) -> _Point:
        """The variances and the maps, found in turn."""
        if self._logits.shape[1] == 1:
            return self.minimum(self.centre(point), np.zeros(2))
        for _ in range(_ROUNDS):
            point = self.centre(point)
            new = self._spread(point)
            settled = np.all(np.abs(new - spread) <= _SETTLED * np.maximum(new, spread))
            spread = new
            point = self.minimum(point, spread)
            if settled:
                break
        return point

    def _spread(self, point: _Point) -> Floats:
        """The standard deviations that make working responses most likely, what each label would be by itself."""
        own = self._own(point)
        _, slopes, curvature = self._derivatives(own, point.centres)
        found, scale = np.zeros(2), np.array([abs(point.shared[0]), 1.0])
        for part in range(self._size):
            info = curvature[:, part, part]
            told = info > 1e-9 / scale[part] ** 2
            if np.count_nonzero(told) < 2:
                continue
            responses = own[told, part] - slopes[told, part] / info[told]
            shared = self._shared_at(point.shared, point.centres)[told, part]
            most = float(_MOST[part] * scale[part])
            found[part] = _most_likely_spread(responses - shared, 1 / info[told], most)
        return found


def _most_likely_spread(off: Floats, variances: Floats, most: float) -> float:
    """Of deviations from a mean, each with a variance of its own beside the one looked for, up to a largest one."""

    def price(log_spread: float) -> float:
        return _restricted(off, variances + np.exp(2 * log_spread))

    logs = np.log(most) + np.linspace(np.log(_LEAST), 0.0, 40)
    prices = [price(one) for one in logs]
    best = int(np.argmin(prices))
    if prices[best] >= _restricted(off, variances):
        return 0.0
    ends = logs[max(best - 1, 0)], logs[min(best + 1, len(logs) - 1)]
    return float(np.exp(minimize_scalar(price, bounds=ends, method="bounded", options={"xatol": 1e-6}).x))


def _restricted(off: Floats, variances: Floats) -> float:
    """Twice the negative logarithm of the restricted likelihood, but for a constant."""
    weights = 1 / variances
    mean = (weights * off).sum() / weights.sum()
    return float(np.log(variances).sum() + np.log(weights.sum()) + (weights * (off - mean) ** 2).sum())
