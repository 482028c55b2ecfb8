# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Gamma in focal loss: its gradient ratio, the gamma that a threshold asks for, and how to undo the bias it leaves."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import lambertw, logsumexp, xlogy

from .checks import check_gamma, check_logits, check_positive


def focal_gradient_ratio(p: Any, gamma: Any) -> Any:
    r"""
    Ratio of the gradient of focal loss to that of cross-entropy, with respect to the logits.

    $g(p, \gamma) = (1 - p)^\gamma - \gamma p (1 - p)^{\gamma - 1} \log p$ (Mukhoti et al., 2020, Proposition 1). It is
    computed as $(1-p)^\gamma \left(1 + \gamma \frac{-p \log p}{1 - p}\right)$, which stays finite at both ends: 1 at
    `p = 0`; at `p = 1`, 0 for `gamma > 0` and 1 for `gamma = 0`.

    Args:
        p (`float`, `np.ndarray` or `torch.Tensor`):
            Probability of the true class, in `[0, 1]`.
        gamma (`float`, `np.ndarray` or `torch.Tensor`):
            Focusing parameter, not negative. Broadcasts against `p`.

    Returns:
        `float`, `np.ndarray` or `torch.Tensor`: The ratio, of the kind and dtype of `p` (a float becomes a float).

    Raises:
        ValueError: If `p` leaves `[0, 1]`, or `gamma` is negative or not finite; tensors are not looked at.

    Example:
    >>> round(focal_gradient_ratio(0.2, 5.0), 4)
    0.9869
    >>> focal_gradient_ratio(1.0, 3.0)
    0.0
    """
    torch = sys.modules.get("torch")  # imported where there is a tensor, so that NumPy users never pay for it
    if torch is not None and (isinstance(p, torch.Tensor) or isinstance(gamma, torch.Tensor)):
        if not isinstance(p, torch.Tensor):
            dtype = gamma.dtype if gamma.is_floating_point() else torch.get_default_dtype()
            p = torch.as_tensor(p, dtype=dtype, device=gamma.device)
        saturated = p >= 1
        inner = torch.where(saturated, 0.5, p)
        ratio = torch.exp(gamma * torch.log1p(-inner)) * (1 - gamma * torch.special.xlogy(inner, inner) / (1 - inner))
        return torch.where(saturated, 0.0**gamma, ratio)
    p_array = np.asarray(p, dtype=None if isinstance(p, np.ndarray) else np.float64)
    gamma_array = gamma if isinstance(gamma, (int, float)) else np.asarray(gamma)
    if not np.all((p_array >= 0) & (p_array <= 1)):
        raise ValueError(f"p must hold probabilities in [0, 1], got {p!r}.")
    if not np.all((gamma_array >= 0) & np.isfinite(gamma_array)):
        raise ValueError(f"gamma must be finite and not negative, got {gamma!r}.")
    certain = p_array >= 1
    below = np.where(certain, 0.5, p_array)
    values = np.exp(gamma_array * np.log1p(-below)) * (1 - gamma_array * xlogy(below, below) / (1 - below))
    values = np.where(certain, 0.0**gamma_array, values)
    return float(values) if values.ndim == 0 else values


def gamma_for_threshold(p0: float) -> float:
    r"""
    The smallest gamma with which focal loss never has a larger gradient than cross-entropy above the threshold `p0`.

    With $a = 1 - p_0$ and $b = p_0 \log p_0$,
    $\gamma^* = \frac{a}{b} + \frac{1}{\log a} W_{-1}\!\left(-\frac{a^{1 - a/b}}{b} \log a\right)$
    (Mukhoti et al., 2020, Proposition 2), so that $g(p_0, \gamma^*) = 1$ and $g(p, \gamma) \le 1$ for every
    $p \ge p_0$ and $\gamma \ge \gamma^*$. From `p0 = 0.5`, the branch point of $W$, any gamma will do: it is 0.

    Args:
        p0 (`float`):
            Threshold on the probability of the true class, strictly between 0 and 1.

    Returns:
        `float`: gamma*, 0.0 for `0.5 <= p0 < 1`.

    Raises:
        ValueError: If `p0` is not strictly between 0 and 1.

    Example:
    >>> round(gamma_for_threshold(0.2), 3)
    4.851
    >>> gamma_for_threshold(0.5)
    0.0
    """
    if isinstance(p0, bool) or not 0 < p0 < 1:
        raise ValueError(f"p0 must lie strictly between 0 and 1, got {p0!r}.")
    p0 = float(p0)
    if p0 >= 0.5:
        return 0.0
    a, b = 1 - p0, p0 * math.log(p0)
    log_a = math.log1p(-p0)
    argument = -math.exp((1 - a / b) * log_a) / b * log_a
    # Rounding may push the argument past the branch point -1/e, where W turns complex.
    gamma = a / b + float(lambertw(max(argument, -math.exp(-1)), k=-1).real) / log_a
    if p0 < 0.01:  # far from the branch point; gamma* grows as 1 / p0, to infinity at the smallest floats
        return gamma if math.isfinite(gamma) else math.inf
    gamma = max(gamma, 1e-8) if math.isfinite(gamma) else 1e-8
    h = -b / a
    for _ in range(2):  # Newton steps on log a + log(1 + gamma h) / gamma = 0: W loses digits near its branch point
        x = gamma * h
        value = log_a + math.log1p(x) / gamma
        # The quotient cancels for small x; there its series does the work.
        slope = (h / (1 + x) - math.log1p(x) / gamma) / gamma if x > 1e-3 else h * h * (2 * x / 3 - 0.5)
        gamma = max(gamma - value / slope, sys.float_info.min)
    return gamma


def focal_recalibration(logits: ArrayLike, gamma: float, temperature: float = 1.0) -> NDArray[np.float64]:
    r"""
    Probabilities with the bias of focal loss undone: $p_k \propto v_k / g(v_k, \gamma)$ for
    $v = \mathrm{softmax}(z / T)$.

    A network that minimises focal loss says v where the true posterior is p (Charoenphakdee et al., 2021), g as in
    [`focal_gradient_ratio`]; focal temperature scaling applies the map at a temperature (Komisarenko and Kull, 2024).
    It keeps the order of the classes, takes one-hot to one-hot, and is the identity for gamma 0.

    Args:
        logits (`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`):
            Raw scores, finite, or -inf for a class that is masked.
        gamma (`float`):
            The gamma that the model was trained with, or a fitted one; at least 0.
        temperature (`float`, *optional*, defaults to `1.0`):
            What the logits are divided by first; positive.

    Returns:
        `np.ndarray` of shape `(num_samples, num_labels)`: float64; rows sum to 1.

    Raises:
        ValueError: If logits are NaN, +inf or no matrix, gamma is negative, or the temperature is not positive.

    Example:
    >>> focal_recalibration(np.log([[0.7, 0.3]]), gamma=3.0).round(3)  # focal loss leaves models under-confident
    array([[0.956, 0.044]])
    """
    array, _ = check_logits(logits)
    gamma, temperature = check_gamma(gamma), check_positive("temperature", temperature)
    with np.errstate(over="ignore"):  # margins, so that a tiny temperature makes nothing but the largest one count
        scaled = (array.astype(np.float64) - array.max(axis=1, keepdims=True)) / temperature
    return np.exp(focal_log_probabilities(scaled, gamma))


def focal_log_probabilities(logits: NDArray[Any], gamma: float) -> NDArray[np.float64]:
    """Logarithms of [`focal_recalibration`] at temperature 1; rows are samples, and -inf stays."""
    rows, top = np.arange(len(logits)), logits.argmax(axis=1)
    margins = np.asarray(logits, np.float64) - logits[rows, top][:, None]
    others = margins.copy()
    others[rows, top] = -np.inf
    # Of the odds against the top class; finite where no other is left, so that gamma 0 times it is 0.
    log_rest = np.maximum(logsumexp(others, axis=1), -1e300)
    rest = np.exp(log_rest)
    log_v = margins - np.log1p(rest)[:, None]
    v = np.exp(log_v)
    # log g = gamma log(1 - v) + log(1 + gamma q) with q = -v log(v) / (1 - v); 1 - v of the top class is found from
    # the others, for v itself may have rounded to 1.
    v[rows, top] = 0.0
    log_complement = np.log1p(-v)
    q = -v * np.maximum(log_v, -1e300) / (1 - v)
    log_complement[rows, top] = log_rest - np.log1p(rest)
    q[rows, top] = np.divide(np.log1p(rest), rest, out=np.ones_like(rest), where=rest > 0)
    unnormalised = log_v - gamma * log_complement - np.log1p(gamma * q)
    unnormalised -= unnormalised.max(axis=1, keepdims=True)
    return unnormalised - np.log(np.exp(unnormalised).sum(axis=1, keepdims=True))
