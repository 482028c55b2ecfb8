# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The fits of structured scaling (Berta et al., 2026): the NLL with a ridge towards the temperature fit, convex."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp

from .temperature import TemperatureScaling


Floats = NDArray[np.float64]


def fit_bias(logits: NDArray[Any], labels: NDArray[np.int64]) -> Floats:
    """The shift of each class, which add up to 0."""
    k = logits.shape[1]
    zero = np.zeros(k)
    shift = _minimise(logits, labels, 1.0, lambda x: (np.ones(k), x), lambda z, errors: errors.sum(0), zero, zero + k)
    return shift - shift.mean()


def fit_vector(logits: NDArray[Any], labels: NDArray[np.int64], intercept: bool) -> tuple[float, Floats, Floats]:
    """Temperature, the factor of each class, and the shifts, of which there are none without an intercept."""
    k = logits.shape[1]
    temperature = TemperatureScaling.fit(logits, labels, criterion="nll", n_bins=15).temperature
    size = 2 * k if intercept else k

    def slopes(z: Floats, errors: Floats) -> Floats:
        return np.concatenate([(errors * z).sum(0), errors.sum(0)])[:size]

    def parts(x: Floats) -> tuple[Floats, Any]:
        return 1 + x[:k], x[k:] if intercept else 0.0

    x = _minimise(logits, labels, temperature, parts, slopes, np.zeros(size), np.full(size, float(k)))
    return temperature, 1 + x[:k], x[k:]


def fit_matrix(logits: NDArray[Any], labels: NDArray[np.int64], intercept: bool) -> tuple[float, Floats, Floats]:
    """Temperature, matrix, and the shifts, of which there are none without an intercept."""
    k = logits.shape[1]
    temperature = TemperatureScaling.fit(logits, labels, criterion="nll", n_bins=15).temperature
    size = k * (k + 1) if intercept else k * k

    def slopes(z: Floats, errors: Floats) -> Floats:
        return np.concatenate([(errors.T @ z).ravel(), errors.sum(0)])[:size]

    def parts(x: Floats) -> tuple[Floats, Any]:
        return np.eye(k) + x[: k * k].reshape(k, k), x[k * k :] if intercept else 0.0

    strength = np.concatenate([np.where(np.eye(k, dtype=bool), k, k * (k - 1)).ravel(), np.full(k, k)])[:size]
    x = _minimise(logits, labels, temperature, parts, slopes, np.zeros(size), strength.astype(np.float64))
    return temperature, np.eye(k) + x[: k * k].reshape(k, k), x[k * k :]


def _minimise(
    logits: NDArray[Any], labels: NDArray[np.int64], temperature: float, parts: Callable[[Floats], tuple[Floats, Any]],
    slopes: Callable[[Floats, Floats], Floats], start: Floats, strength: Floats,
) -> Floats:  # fmt: skip
    """Numbers of smallest summed NLL plus `strength` times their squares."""
    rows = np.arange(len(labels))
    masked = logits == -np.inf
    z = np.where(masked, 0.0, logits) / temperature

    def value(x: Floats) -> tuple[float, Floats]:
        scale, shift = parts(x)
        mapped = (z @ scale.T if scale.ndim == 2 else z * scale) + shift
        mapped[masked] = -np.inf
        mapped -= logsumexp(mapped, axis=1, keepdims=True)
        errors = np.exp(mapped)
        errors[rows, labels] -= 1
        slope = slopes(z, errors) + 2 * strength * x
        return -float(mapped[rows, labels].sum()) + float((strength * x**2).sum()), slope

    return minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": 500, "ftol": 1e-12}).x
