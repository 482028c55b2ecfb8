# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
The fits of structured scaling (Berta et al., 2026): the NLL with a ridge towards the temperature fit.

A map has a row of `coefficients` for each class: factors of the logits, and a shift. A fit is a convex search for rows
`x @ features` that are added to those of the start, and the ridge holds back the `x`. Berta et al. fit maps of
log-probabilities, which are not affine in the logits. Here these are centred instead, by what is the same for each
sample; it is in the features. A class that is masked in all samples is not counted, and tells on none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.optimize import minimize

from ..checks import ends_of, row_blocks


Floats = NDArray[np.float64]
_CHUNK = 1 << 17  # logits handled at a time: scratch memory stays in the cache
_KEPT = 1 << 22  # logits of which float64 copies are kept from step to step
_CURVED = 4096  # samples from which the curvature of a matrix is taken
CLOSE, ROUGH = 1e-4, 1e-2  # the slopes at which a search may end, where 1 is that of a standard error


def check_intercept(intercept: Any) -> bool:
    """Whether there is to be a shift, or a `ValueError`."""
    if not isinstance(intercept, bool):
        raise ValueError(f"intercept must be True, or False for a head without a bias, got {intercept!r}.")
    return intercept


def fit_bias(logits: NDArray[Any], labels: NDArray[np.int64], ridge: float, until: float) -> Floats:
    """The shift of each class, which add up to 0."""
    k = logits.shape[1]
    features = np.broadcast_to([[0.0, 1.0]], (k, 1, 2))
    start = np.stack([np.ones(k), np.zeros(k)], axis=1)
    search = _Search(logits, labels, _Own, until)
    used = search.used()
    shift = search.minimum(start, features, np.full((k, 1), ridge * np.count_nonzero(used)), until)[:, 1]
    return np.where(used, shift - shift[used].mean(), 0.0)


def fit_vector(
    logits: NDArray[Any], labels: NDArray[np.int64], intercept: bool, temperature: float, ridge: float,
    until: float,
) -> tuple[Floats, Floats]:  # fmt: skip
    """
    The factor of each class, and the shifts, of which there are none without an intercept.

    With one, the logits of each class are centred, so that its factor does not move their mean.
    """
    k = logits.shape[1]
    search = _Search(logits, labels, _Own, until)
    features = np.broadcast_to(np.diag([1 / temperature, 1.0]), (k, 2, 2)).copy()
    features[:, 0, 1] = -search.means() / temperature
    start = np.stack([np.full(k, 1 / temperature), np.zeros(k)], axis=1)
    if not intercept:
        features = features[:, :1] * [1.0, 0.0]
    strength = ridge * np.count_nonzero(search.used())
    found = search.minimum(start, features, np.full((k, features.shape[1]), strength), until)
    return found[:, 0] * temperature, found[:, 1] if intercept else np.empty(0)


class MatrixFit:
    """
    Matrices for one set of data, by the strength of the ridge, of which the rest is shared.

    What is multiplied by the matrix, less the unit matrix, are the logits less their mean in each sample, to which
    softmax is blind. With an intercept they are also less the mean of the largest of each sample, and so as close to
    log-probabilities as an affine map comes.
    """

    def __init__(self, logits: NDArray[Any], labels: NDArray[np.int64], intercept: bool, temperature: float) -> None:
        k, self._temperature = logits.shape[1], temperature
        self._search, self._intercept = _Search(logits, labels, _All), intercept
        used = self._search.used()
        count = int(np.count_nonzero(used))
        features = np.zeros((k + 1, k + 1))
        features[:k, :k] = np.diag(used * 1.0) - np.outer(used, used) / count
        features[:k, k] = -self._search.mean_of_largest(used) * used
        features[:k] /= temperature
        features[k, k] = 1.0
        strength = np.where(np.eye(k, k + 1, dtype=bool), count, float(max(count * (count - 1), 1)))
        strength[:, k] = count
        if not intercept:
            features, strength = features[:k] * (np.arange(k + 1) < k), strength[:, :k]
        self._features, self._strength = features, strength

    def __call__(self, ridge: float, until: float) -> tuple[Floats, Floats]:
        """The matrix, and the shifts, of which there are none without an intercept."""
        k = len(self._strength)
        start = np.eye(k, k + 1) / self._temperature
        found = self._search.minimum(start, self._features, ridge * self._strength, until)
        return found[:, :k] * self._temperature, found[:, k] if self._intercept else np.empty(0)


# Of a block of logits, of shape (num_labels, num_samples), under coefficients: the mapped logits; and, of weights of
# that shape, the sums over samples of weight times what the coefficients multiply, or the squares of that.
class _Own:
    """Each class has a factor of its own logit, and a shift: coefficients of shape `(num_labels, 2)`."""

    @staticmethod
    def mapped(coefficients: Floats, z: Floats) -> Floats:
        mapped = z * coefficients[:, :1]
        mapped += coefficients[:, 1:]
        return mapped

    @staticmethod
    def slopes(weights: Floats, inverse: Floats, z: Floats) -> Floats:
        totals = weights @ inverse
        weights *= z
        return np.stack([weights @ inverse, totals], axis=1)

    @staticmethod
    def of_labels(labels: NDArray[np.int64], z: Floats) -> Floats:
        true = z[labels, np.arange(len(labels))]
        sums = [np.bincount(labels, weights, len(z)) for weights in (true, np.ones(len(labels)))]
        return np.stack(sums, axis=1)

    @staticmethod
    def curvature(weights: Floats, z: Floats) -> Floats:
        zero = weights.sum(1)
        weights *= z
        one = weights.sum(1)
        weights *= z
        return np.stack([weights.sum(1), one, one, zero], axis=1).reshape(-1, 2, 2)


class _All:
    """Each class has a factor of each logit, and a shift: coefficients of shape `(num_labels, num_labels + 1)`."""

    @staticmethod
    def mapped(coefficients: Floats, z: Floats) -> Floats:
        mapped = coefficients[:, :-1] @ z
        mapped += coefficients[:, -1:]
        return mapped

    @staticmethod
    def slopes(weights: Floats, inverse: Floats, z: Floats) -> Floats:
        weights *= inverse
        return np.concatenate([weights @ z.T, weights.sum(1, keepdims=True)], axis=1)

    @staticmethod
    def of_labels(labels: NDArray[np.int64], z: Floats) -> Floats:
        true = np.zeros(z.shape)
        true[labels, np.arange(len(labels))] = 1
        return _All.slopes(true, np.ones(len(labels)), z)

    @staticmethod
    def curvature(weights: Floats, z: Floats) -> Floats:
        z = np.concatenate([z, np.ones((1, z.shape[1]))])
        return np.stack([(z * one) @ z.T for one in weights])


class _Search:
    """Logits in blocks of shape `(num_labels, num_samples)`, 0 where masked, with where that is."""

    def __init__(
        self, logits: NDArray[Any], labels: NDArray[np.int64], kind: type[_Own] | type[_All], until: float = CLOSE
    ) -> None:
        self.logits, self.labels, self.kind, self.count = logits, labels, kind, logits.shape[1]
        half = until == ROUGH and logits.dtype.itemsize <= 4 and logits.size > _KEPT
        self.dtype = np.float32 if half else np.float64
        self.masked = ends_of(logits)[0] == -np.inf
        self._kept = list(self._blocks(logits)) if logits.size <= _KEPT else None
        self._curvature: Floats | None = None

    def blocks(self) -> Iterator[tuple[slice, Floats, NDArray[np.bool_] | None]]:
        return iter(self._blocks(self.logits) if self._kept is None else self._kept)

    def _blocks(self, logits: NDArray[Any]) -> Iterator[tuple[slice, Floats, NDArray[np.bool_] | None]]:
        for block, values, axis in row_blocks(logits, self.dtype, _CHUNK):
            z = values if axis == 0 else values.T
            where = z == -np.inf if self.masked else None
            yield block, z if where is None else np.where(where, 0.0, z), where

    def means(self) -> Floats:
        """The mean logit of each class where it is not masked, or 0."""
        sums, counts = np.zeros(self.count), np.zeros(self.count)
        for _, z, where in self.blocks():
            sums += z.sum(1)
            counts += z.shape[1] if where is None else np.count_nonzero(~where, axis=1)
        return sums / np.maximum(counts, 1)

    def used(self) -> NDArray[np.bool_]:
        """Whether each class is in any sample not masked."""
        return np.any([np.ones(self.count, bool) if m is None else ~m.all(1) for _, _, m in self.blocks()], axis=0)

    def mean_of_largest(self, used: NDArray[np.bool_]) -> float:
        """Of the largest logit of each sample less the mean of those of classes that are used."""
        total = 0.0
        for _, z, where in self.blocks():
            total += float((z if where is None else np.where(where, -np.inf, z)).max(0).sum() - z[used].mean(0).sum())
        return total / len(self.labels)

    def weights(
        self, coefficients: Floats, z: Floats, where: NDArray[np.bool_] | None
    ) -> tuple[Floats, Floats, Floats]:
        """What is in proportion to the probabilities, with the sum and the largest mapped logit of each sample."""
        weights = self.kind.mapped(coefficients.astype(self.dtype), z)
        if where is not None:
            weights[where] = -np.inf
        largest = weights.max(0)
        weights -= largest
        np.exp(weights, out=weights)
        return weights, weights.sum(0), largest

    def nll(self, coefficients: Floats, of_labels: Floats) -> tuple[float, Floats]:
        """The NLL of all samples and its slope in the coefficients."""
        total, slopes = -float((coefficients * of_labels).sum()), -of_labels
        for _, z, where in self.blocks():
            weights, sums, largest = self.weights(coefficients, z, where)
            total += float((np.log(sums) + largest).sum(dtype=np.float64))
            slopes += self.kind.slopes(weights, 1 / sums, z)
        return total, slopes

    def of_labels(self) -> Floats:
        """What the coefficients multiply, summed over the samples of each class."""
        found: Any = 0.0
        for block, z, _ in self.blocks():
            found = found + self.kind.of_labels(self.labels[block], z)
        return found

    def curvature(self, coefficients: Floats) -> Floats:
        """The second derivatives in the coefficients of each class, of some samples times how many there are more."""
        step = 1 if self.kind is _Own else -(-len(self.labels) // _CURVED)
        found: Any = 0.0
        for _, z, where in self._blocks(self.logits[::step]):
            weights, sums, _ = self.weights(coefficients, z, where)
            weights /= sums
            found = found + self.kind.curvature(weights * (1 - weights), z)
        return found * (len(self.labels) / len(self.logits[::step]))

    def minimum(self, start: Floats, features: Floats, strength: Floats, until: float = CLOSE) -> Floats:
        """
        The coefficients `start + x @ features` of smallest summed NLL plus `strength * x**2`, class by class.

        L-BFGS in numbers that are made alike by the curvature that the `x` of each class have at the start.
        """
        ridge = np.eye(strength.shape[1]) * (2 * strength)[:, None]
        if self._curvature is None:
            self._curvature = features @ self.curvature(start) @ np.swapaxes(features, -1, -2)
            self._of_labels = self.of_labels()
        lower = np.linalg.cholesky(self._curvature + ridge)
        alike = np.stack([solve_triangular(one, np.eye(len(one)), lower=True) for one in lower])

        def place(numbers: Floats) -> tuple[Floats, Floats]:
            x = (numbers.reshape(len(start), 1, -1) @ alike)[:, 0]
            return x, start + (x[:, None] @ features)[:, 0]

        def value(numbers: Floats) -> tuple[float, Floats]:
            x, coefficients = place(numbers)
            nll, slopes = self.nll(coefficients, self._of_labels)
            slopes = (features @ slopes[..., None])[..., 0] + 2 * strength * x
            return nll + float((strength * x**2).sum()), (alike @ slopes[..., None]).ravel()

        options = {"maxiter": 500, "maxcor": 20, "ftol": 1e-15, "gtol": until}
        return place(minimize(value, np.zeros(strength.size), jac=True, method="L-BFGS-B", options=options).x)[1]
