# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
r"""
From logits to probabilities: the softmax at a temperature, and the inverse of focal loss's bias.

A network that minimises focal loss says v where the true posterior is $p_k \propto v_k / g(v_k, \gamma)$ with
$g(v, \gamma) = (1 - v)^\gamma - \gamma v (1 - v)^{\gamma - 1} \log v$ (Charoenphakdee et al., 2021). Focal temperature
scaling applies that map to the softmax at a temperature (Komisarenko and Kull, 2024).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from .inputs import check_gamma, check_logits, check_positive, row_blocks


def focal_recalibration(logits: ArrayLike, gamma: float, temperature: float = 1.0) -> NDArray[np.float64]:
    r"""
    Probabilities with the bias of focal loss undone: $p_k \propto v_k / g(v_k, \gamma)$ for
    $v = \mathrm{softmax}(z / T)$.

    The map keeps the order of the classes, takes one-hot to one-hot, and is the identity for gamma 0. It is worked out
    in logs, so that nothing overflows where v rounds to 1.

    Args:
        logits (`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`):
            Raw scores, finite.
        gamma (`float`):
            The gamma that the model was trained with, or a fitted one; at least 0.
        temperature (`float`, *optional*, defaults to `1.0`):
            What the logits are divided by first; positive.

    Returns:
        `np.ndarray` of shape `(num_samples, num_labels)`: float64; rows sum to 1.

    Raises:
        ValueError: If logits are not finite or no matrix, gamma is negative, or the temperature is not positive.

    Example:
    >>> focal_recalibration(np.log([[0.7, 0.3]]), gamma=3.0).round(3)  # focal loss leaves models under-confident
    array([[0.956, 0.044]])
    """
    array, _ = check_logits(logits)
    gamma, temperature = check_gamma(gamma), check_positive("temperature", temperature)
    return np.exp(focal_log_probabilities(array.astype(np.float64) / temperature, gamma))


def focal_log_probabilities(logits: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    """Logarithms of [`focal_recalibration`] at temperature 1; rows are samples."""
    rows, top = np.arange(len(logits)), logits.argmax(axis=1)
    margins = logits - logits[rows, top][:, None]
    others = margins.copy()
    others[rows, top] = -np.inf
    log_rest = logsumexp(others, axis=1)  # of the odds against the top class
    rest = np.exp(log_rest)
    log_v = margins - np.log1p(rest)[:, None]
    v = np.exp(log_v)
    # log g = gamma log(1 - v) + log(1 + gamma q) with q = -v log(v) / (1 - v); 1 - v of the top class is found from
    # the others, for v itself may have rounded to 1.
    v[rows, top] = 0.0
    log_complement = np.log1p(-v)
    q = -v * log_v / (1 - v)
    log_complement[rows, top] = log_rest - np.log1p(rest)
    q[rows, top] = np.divide(np.log1p(rest), rest, out=np.ones_like(rest), where=rest > 0)
    unnormalised = log_v - gamma * log_complement - np.log1p(gamma * q)
    unnormalised -= unnormalised.max(axis=1, keepdims=True)
    return unnormalised - np.log(np.exp(unnormalised).sum(axis=1, keepdims=True))


def softmax_and_nll(
    logits: NDArray[Any], labels: NDArray[np.int64], temperature: float = 1.0, gamma: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities at a temperature and gamma, and the NLL of each sample, in float64."""
    probabilities, nll = np.empty(logits.shape), np.empty(len(logits))
    for block, values, axis in row_blocks(logits, np.float64):
        if gamma:
            log_probabilities = focal_log_probabilities((values if axis else values.T) / temperature, gamma)
            probabilities[block] = np.exp(log_probabilities)
            nll[block] = -log_probabilities[np.arange(len(log_probabilities)), labels[block]]
            continue
        margins = values - values.max(axis=axis, keepdims=True)
        margins /= temperature
        weights = np.exp(margins)
        sums = weights.sum(axis=axis, keepdims=True)
        weights /= sums
        weights, margins = (weights, margins) if axis else (weights.T, margins.T)
        probabilities[block] = weights
        nll[block] = np.log(sums).ravel() - margins[np.arange(len(margins)), labels[block]]
    return probabilities, nll
