# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Plain float64 definitions, written from the formulas alone, that the tests compare the library with.

Loops are preferred to clever array code: slow and obvious is the point. Nothing here imports hf_focal.
"""

import math

import numpy as np


# ---- Softmax --------------------------------------------------------------------------------------------------------


def log_softmax(logits):
    rows = []
    for row in np.asarray(logits, dtype=np.float64):
        top = row.max()
        others = np.exp(np.delete(row, row.argmax()) - top)
        rows.append((row - top) - np.log1p(others.sum()))
    return np.array(rows)


def softmax(logits):
    rows = []
    for row in np.asarray(logits, dtype=np.float64):
        weights = np.exp(row - row.max())
        rows.append(weights / math.fsum(weights))
    return np.array(rows)


def one_hot(labels, num_labels):
    target = np.zeros((len(labels), num_labels))
    for i, label in enumerate(labels):
        target[i, label] = 1.0
    return target


# ---- Focal gradient ratio -------------------------------------------------------------------------------------------


def gradient_ratio(p, gamma):
    """g(p, gamma) = (1 - p)^gamma - gamma p (1 - p)^(gamma - 1) log p, with its limits at both ends."""
    if p == 0:
        return 1.0
    if p == 1:
        return 1.0 if gamma == 0 else 0.0
    return (1 - p) ** gamma - gamma * p * (1 - p) ** (gamma - 1) * math.log(p)


# ---- Losses: one value per sample, and the gradient of their sum ----------------------------------------------------


def cross_entropy(logits, labels):
    log_p = log_softmax(logits)
    return np.array([-log_p[i, y] for i, y in enumerate(labels)])


def cross_entropy_gradient(logits, labels):
    return softmax(logits) - one_hot(labels, np.shape(logits)[1])


def label_smoothing(logits, labels, smoothing):
    log_p = log_softmax(logits)
    num_labels = log_p.shape[1]
    losses = []
    for i, y in enumerate(labels):
        target = [1 - smoothing if k == y else smoothing / (num_labels - 1) for k in range(num_labels)]
        losses.append(-math.fsum(t * log_p[i, k] for k, t in enumerate(target) if t > 0))
    return np.array(losses)


def label_smoothing_gradient(logits, labels, smoothing):
    hot = one_hot(labels, np.shape(logits)[1])
    return softmax(logits) - ((1 - smoothing) * hot + smoothing * (1 - hot) / (hot.shape[1] - 1))


def brier(logits, labels):
    errors = softmax(logits) - one_hot(labels, np.shape(logits)[1])
    return np.array([math.fsum(e * e for e in row) for row in errors])


def brier_gradient(logits, labels):
    p = softmax(logits)
    errors = p - one_hot(labels, p.shape[1])
    gradient = np.zeros_like(p)
    for i in range(len(p)):
        inner = math.fsum(p[i] * errors[i])
        for k in range(p.shape[1]):
            gradient[i, k] = 2 * p[i, k] * (errors[i, k] - inner)
    return gradient


def _true_probability(logits, labels):
    """p_y and 1 - p_y, the latter as the sum of the other probabilities."""
    p = softmax(logits)
    return [(p[i, y], math.fsum(np.delete(p[i], y))) for i, y in enumerate(labels)]


def sample_dependent_gammas(logits, labels, gammas, thresholds):
    chosen = []
    for p, _ in _true_probability(logits, labels):
        index = sum(1 for threshold in thresholds if p >= threshold)
        chosen.append(gammas[index])
    return chosen


def focal(logits, labels, gamma):
    """gamma is one number, or one per sample."""
    gammas = np.broadcast_to(gamma, len(labels))
    nll = cross_entropy(logits, labels)
    complements = [q for _, q in _true_probability(logits, labels)]
    return np.array([q**g * loss if loss > 0 else 0.0 for q, g, loss in zip(complements, gammas, nll, strict=True)])


def focal_gradient(logits, labels, gamma):
    gammas = np.broadcast_to(gamma, len(labels))
    gradient = cross_entropy_gradient(logits, labels)
    nll = cross_entropy(logits, labels)
    for i, (p, q) in enumerate(_true_probability(logits, labels)):
        g = gammas[i]
        if q == 0:
            ratio = 1.0 if g == 0 else 0.0
        else:
            ratio = q**g + g * p * q ** (g - 1) * nll[i]
        gradient[i] *= ratio
    return gradient


# ---- MMCE -----------------------------------------------------------------------------------------------------------


def _mmce_parts(logits, labels, weighted, released):
    """Confidence r, weight w and its slope dw/dr of each sample, and the factor of each pair."""
    p = softmax(logits)
    predictions = [int(np.argmax(row)) for row in np.asarray(logits, dtype=np.float64)]
    n = len(labels)
    r = [p[i, predictions[i]] for i in range(n)]
    right = [predictions[i] == labels[i] for i in range(n)]
    n_right, n_wrong = sum(right), n - sum(right)
    factor = np.ones((n, n))
    if not weighted:
        weights = [((1.0 if right[i] else 0.0) - r[i]) / n for i in range(n)]
        slopes = [-1.0 / n] * n
    elif n_right == 0 or n_wrong == 0:
        weights, slopes = [0.0] * n, [0.0] * n
    else:
        weights = [(1 - r[i]) / n_right if right[i] else -r[i] / n_wrong for i in range(n)]
        slopes = [-1 / n_right if right[i] else -1 / n_wrong for i in range(n)]
        if released:
            for i in range(n):
                for j in range(n):
                    size_i = n_right if right[i] else n_wrong
                    size_j = n_right if right[j] else n_wrong
                    factor[i, j] = 1 / (size_i * size_j + 1e-5)
    return p, predictions, r, weights, slopes, factor


def mmce(logits, labels, weighted=True, released=False):
    """The calibration term alone, by a double loop over pairs."""
    _, _, r, w, _, factor = _mmce_parts(logits, labels, weighted, released)
    n = len(labels)
    squared = math.fsum(
        factor[i, j] * w[i] * w[j] * math.exp(-abs(r[i] - r[j]) / 0.4) for i in range(n) for j in range(n)
    )
    if released and not weighted:
        return squared
    if released and any(w):
        squared += 1e-10
    return math.sqrt(squared) if squared > 0 else 0.0


def mmce_gradient(logits, labels, weighted=True, released=False):
    p, predictions, r, w, slopes, factor = _mmce_parts(logits, labels, weighted, released)
    value = mmce(logits, labels, weighted, released)
    gradient = np.zeros_like(p)
    if value == 0:
        return gradient
    scale = 1.0 if released and not weighted else 1 / (2 * value)
    for i in range(len(p)):
        slope = 0.0
        for j in range(len(p)):
            kernel = math.exp(-abs(r[i] - r[j]) / 0.4)
            slope += 2 * factor[i, j] * slopes[i] * w[j] * kernel
            slope -= 2 * factor[i, j] * w[i] * w[j] * kernel * float(np.sign(r[i] - r[j])) / 0.4
        for k in range(p.shape[1]):
            gradient[i, k] = scale * slope * r[i] * ((k == predictions[i]) - p[i, k])
    return gradient


def central_difference(function, x, step=1e-5):
    """Numerical gradient of a scalar function of an array."""
    x = np.array(x, dtype=np.float64)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient


# ---- Metrics --------------------------------------------------------------------------------------------------------


def bin_of(value, n_bins):
    """The bin (i / n_bins, (i + 1) / n_bins] of a value; 0 belongs to the first."""
    for i in range(n_bins):
        if (i / n_bins < value or i == 0) and value <= (i + 1) / n_bins:
            return i
    raise AssertionError(f"{value} lies in no bin")


def confidence_and_correct(probabilities, labels):
    pairs = []
    for row, label in zip(probabilities, labels, strict=True):
        row = [float(value) for value in row]
        best = 0
        for k in range(1, len(row)):
            if row[k] > row[best]:  # a tie leaves the lower class
                best = k
        pairs.append((row[best], best == int(label)))
    return pairs


def _group_gap(group):
    """Number of members, and |accuracy - confidence| of a group of (confidence, correct)."""
    n = len(group)
    return n, abs(sum(c for _, c in group) / n - math.fsum(v for v, _ in group) / n)


def _binned(pairs, n_bins):
    groups = [[] for _ in range(n_bins)]
    for value, hit in pairs:
        groups[bin_of(value, n_bins)].append((value, hit))
    return [group for group in groups if group]


def accuracy(probabilities, labels):
    pairs = confidence_and_correct(probabilities, labels)
    return sum(hit for _, hit in pairs) / len(pairs)


def nll(probabilities, labels):
    terms = [float(row[int(y)]) for row, y in zip(probabilities, labels, strict=True)]
    return math.inf if min(terms) == 0 else math.fsum(-math.log(p) for p in terms) / len(terms)


def brier_score(probabilities, labels):
    total = []
    for row, label in zip(probabilities, labels, strict=True):
        total += [(float(p) - (k == int(label))) ** 2 for k, p in enumerate(row)]
    return math.fsum(total) / len(probabilities)


def ece(probabilities, labels, n_bins=15):
    gaps = [_group_gap(group) for group in _binned(confidence_and_correct(probabilities, labels), n_bins)]
    return math.fsum(n * gap for n, gap in gaps) / len(probabilities)


def mce(probabilities, labels, n_bins=15):
    groups = _binned(confidence_and_correct(probabilities, labels), n_bins)
    return max(gap for _, gap in map(_group_gap, groups))


def adaptive_ece(probabilities, labels, n_bins=15):
    hits = {}
    for confidence, correct in confidence_and_correct(probabilities, labels):
        hits.setdefault(confidence, []).append(correct)
    # Where several tie, each is as much in the right as all of them are on average.
    pairs = [(confidence, math.fsum(tied) / len(tied)) for confidence, tied in sorted(hits.items()) for _ in tied]
    groups = np.array_split(np.arange(len(pairs)), n_bins)
    gaps = [_group_gap([pairs[i] for i in group]) for group in groups if len(group)]
    return math.fsum(n * gap for n, gap in gaps) / len(pairs)


def column_error(column, members, n_bins=15):
    """One class's part of Classwise-ECE: its probabilities against who belongs to it."""
    gaps = [_group_gap(group) for group in _binned(list(zip(map(float, column), members, strict=True)), n_bins)]
    return math.fsum(n * gap for n, gap in gaps) / len(column)


def classwise_ece(probabilities, labels, n_bins=15):
    probabilities = np.asarray(probabilities)
    num_labels = probabilities.shape[1]
    parts = [
        column_error(probabilities[:, k], [int(label) == k for label in labels], n_bins) for k in range(num_labels)
    ]
    return math.fsum(parts) / num_labels


METRICS = {
    "accuracy": accuracy,
    "nll": nll,
    "brier": brier_score,
    "ece": ece,
    "mce": mce,
    "adaptive_ece": adaptive_ece,
    "classwise_ece": classwise_ece,
}


# ---- Temperature ----------------------------------------------------------------------------------------------------


def mean_nll_at(logits, labels, temperature):
    return math.fsum(cross_entropy(np.asarray(logits, dtype=np.float64) / temperature, labels)) / len(labels)


def ece_at(logits, labels, temperature, n_bins=15):
    return ece(softmax(np.asarray(logits, dtype=np.float64) / temperature), labels, n_bins)


def best_grid_temperature(logits, labels, n_bins=15):
    """The naive loop: T = 0.1, 0.2, ..., 10, and only a strict improvement replaces the best so far."""
    best, best_error = None, math.inf
    for i in range(1, 101):
        error = ece_at(logits, labels, i / 10, n_bins)
        if error < best_error:
            best, best_error = i / 10, error
    return best
