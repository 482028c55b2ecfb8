# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Calibration losses as pure functions of logits and labels.

What all of them share: logits of shape `(N, K)` or `(N, T, K)`; half precision is computed and returned in float32;
labels equal to `ignore_index` count for nothing; NaN or +inf among the logits gives a loss that is not finite (a
gradient scaler relies on it), while -inf rules a class out; a mean over no label at all is NaN, as in
`torch.nn.functional.cross_entropy`. Class weights multiply the losses of the samples and never enter their
probabilities; a mean is over the labels that count, where `torch.nn.functional.cross_entropy` would divide by the sum
of their weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .rows import BRIER, CROSS_ENTROPY, NLL, PROBABILITY, focal_shape, is_traced, row_losses, widen


REDUCTIONS = ("mean", "sum", "none")
MMCE_KERNEL_WIDTH = 0.4


# ---- What every loss needs ------------------------------------------------------------------------------------------


def _flatten(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, bool]:
    """Check the two; return them as `(M, K)`, and `(M,)` in int64, and whether all labels are known to count."""
    if not isinstance(logits, Tensor) or not isinstance(labels, Tensor):
        raise ValueError(
            f"logits and labels must be tensors, got {type(logits).__name__} and {type(labels).__name__}."
        )
    if logits.ndim not in (2, 3):
        raise ValueError(f"logits must have shape (N, K) or (N, T, K), got {tuple(logits.shape)}.")
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating point, got {logits.dtype}. Pass the raw scores of the model.")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be class indices of an integer dtype, got {labels.dtype}.")
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels must have shape {tuple(logits.shape[:-1])} to go with logits of shape {tuple(logits.shape)}, "
            f"got {tuple(labels.shape)}."
        )
    num_labels = logits.shape[-1]
    if num_labels < 2:
        raise ValueError(f"logits must have at least 2 classes in their last dimension, got {num_labels}.")
    flat_labels = labels.reshape(-1).long()
    # Reading values would synchronise an accelerator and cannot be traced, so only eager CPU labels are looked at.
    if labels.device.type == "cpu" and not is_traced():
        all_count = _check_range(flat_labels, num_labels, ignore_index)
    else:
        all_count = False
    return logits.reshape(-1, num_labels), flat_labels, all_count


def _check_range(labels: Tensor, num_labels: int, ignore_index: int) -> bool:
    """Refuse labels out of range; return whether none of them is ignored, as far as a glance tells."""
    if len(labels) == 0:
        return False
    low, high = labels.aminmax()
    if low.item() >= 0 and high.item() < num_labels:
        return not 0 <= ignore_index < num_labels
    out_of_range = (labels != ignore_index) & ((labels < 0) | (labels >= num_labels))
    if out_of_range.any():
        raise ValueError(
            f"labels must lie in [0, {num_labels - 1}] or equal ignore_index={ignore_index}, "
            f"got {labels[out_of_range][0].item()}."
        )
    return False


def _reduce(per_sample: Tensor, labels: Tensor, reduction: str, ignore_index: int, all_count: bool) -> Tensor:
    """Reduce losses that are already 0 where the label is ignored."""
    if reduction == "none":
        return per_sample.reshape(labels.shape)
    if reduction == "mean" and all_count:
        return per_sample.mean()
    total = per_sample.sum()
    return total if reduction == "sum" else total / (labels != ignore_index).sum()


def _weigh(
    per_sample: Tensor,
    logits: Tensor,
    labels: Tensor,
    class_weights: Sequence[float] | Tensor | None,
    ignore_index: int,
) -> Tensor:
    """Multiply each loss by the weight of its class."""
    if class_weights is None:
        return per_sample
    weights = class_weights if isinstance(class_weights, Tensor) else _check_class_weights(class_weights)
    if weights.shape != logits.shape[-1:]:
        raise ValueError(
            f"class_weights must hold one number for each of the {logits.shape[-1]} classes, "
            f"got shape {tuple(weights.shape)}."
        )
    # Not blocking: numbers this few are staged at once, and the device need not be waited for.
    weights = weights.to(per_sample.device, per_sample.dtype, non_blocking=True)
    return per_sample * weights[torch.where(labels == ignore_index, 0, labels)]


def _check_class_weights(class_weights: Sequence[float] | Tensor) -> Tensor:
    values = class_weights.tolist() if isinstance(class_weights, Tensor) else list(class_weights)
    if not all(isinstance(value, Real) and 0 <= float(value) < float("inf") for value in values):
        raise ValueError(f"class_weights must be finite numbers, not negative, one per class, got {class_weights!r}.")
    return torch.tensor(values, dtype=torch.float32)


def _check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}.")


def _check_number(name: str, value: Any, low: float = 0.0, below: float = float("inf")) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) < below:
        raise ValueError(f"{name} must be a number in [{low:g}, {below:g}), got {value!r}.")
    return float(value)


# ---- The pure functions ---------------------------------------------------------------------------------------------


def cross_entropy_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Sequence[float] | Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    r"""
    Cross-entropy, $-\log p_y$.

    Args:
        logits (`torch.Tensor` of shape `(N, K)` or `(N, T, K)`):
            Raw scores.
        labels (`torch.Tensor` of shape `(N,)` or `(N, T)`):
            Class indices in `[0, K)`, or `ignore_index`.
        class_weights (`Sequence[float]` or `torch.Tensor` of shape `(K,)`, *optional*):
            Factor of the loss of each class's samples, not negative. A mean still divides by the number of labels
            that count (PyTorch would divide by the sum of their weights), so that micro-batches add up.
        reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"` over the labels that count, `"sum"`, or `"none"` (shape of `labels`, 0 where ignored).
        ignore_index (`int`, *optional*, defaults to `-100`):
            Label that counts for nothing.

    Returns:
        `torch.Tensor`: The loss in nats, not negative.

    Raises:
        ValueError: If ranks, lengths, dtypes or (for CPU tensors) the range of the labels are wrong.
    """
    _check_reduction(reduction)
    flat_logits, flat_labels, all_count = _flatten(logits, labels, ignore_index)
    nll = row_losses(CROSS_ENTROPY, flat_logits, flat_labels, ignore_index, all_count)
    per_sample = _weigh(nll, flat_logits, flat_labels, class_weights, ignore_index)
    return _reduce(per_sample, labels, reduction, ignore_index, all_count)


def label_smoothing_loss(
    logits: Tensor, labels: Tensor, *, smoothing: float = 0.05, reduction: str = "mean", ignore_index: int = -100
) -> Tensor:
    r"""
    Cross-entropy against a smoothed target: $1 - \alpha$ for the true class and $\alpha / (K - 1)$ for each other one
    (Mukhoti et al., 2020, Section 5). PyTorch's `label_smoothing` spreads its mass over all K classes instead; the
    same target needs `label_smoothing = smoothing * K / (K - 1)` there.

    Args:
        logits, labels, reduction, ignore_index: As in [`cross_entropy_loss`].
        smoothing (`float`, *optional*, defaults to `0.05`):
            $\alpha$, in `[0, 1)`.

    Returns:
        `torch.Tensor`: The loss in nats.

    Raises:
        ValueError: If an argument is out of range or shapes disagree.
    """
    _check_reduction(reduction)
    smoothing = _check_number("smoothing", smoothing, below=1.0)
    flat_logits, flat_labels, all_count = _flatten(logits, labels, ignore_index)
    ignored = flat_labels == ignore_index
    log_probabilities = F.log_softmax(widen(flat_logits), dim=-1)
    true = log_probabilities.gather(-1, torch.where(ignored, 0, flat_labels).unsqueeze(-1)).squeeze(-1)
    if smoothing:
        others = (log_probabilities.sum(-1) - true) / (flat_logits.shape[-1] - 1)
        per_sample = -(1 - smoothing) * true - smoothing * others
    else:
        per_sample = -true
    return _reduce(torch.where(ignored, 0.0, per_sample), labels, reduction, ignore_index, all_count)


def brier_loss(logits: Tensor, labels: Tensor, *, reduction: str = "mean", ignore_index: int = -100) -> Tensor:
    r"""
    Brier score, $\sum_k (p_k - [k = y])^2$ (Brier, 1950): summed over classes and never divided by K.

    Args:
        logits, labels, reduction, ignore_index: As in [`cross_entropy_loss`].

    Returns:
        `torch.Tensor`: The loss; each sample's lies in `[0, 2]`.

    Raises:
        ValueError: If shapes, dtypes or labels are wrong.
    """
    _check_reduction(reduction)
    flat_logits, flat_labels, all_count = _flatten(logits, labels, ignore_index)
    per_sample = row_losses(BRIER, flat_logits, flat_labels, ignore_index, all_count)
    return _reduce(per_sample, labels, reduction, ignore_index, all_count)


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 3.0,
    class_weights: Sequence[float] | Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    r"""
    Focal loss, $-(1 - p_y)^\gamma \log p_y$ (Lin et al., 2017; Mukhoti et al., 2020, Section 3).

    Args:
        logits, labels, class_weights, reduction, ignore_index: As in [`cross_entropy_loss`].
        gamma (`float`, *optional*, defaults to `3.0`):
            Focusing parameter, not negative; 0 is cross-entropy.

    Returns:
        `torch.Tensor`: The loss, not negative.

    Raises:
        ValueError: If `gamma < 0`, or shapes, dtypes or labels are wrong.
    """
    _check_reduction(reduction)
    gamma = _check_number("gamma", gamma)
    flat_logits, flat_labels, all_count = _flatten(logits, labels, ignore_index)
    row_loss = NLL(lambda nll: focal_shape(nll, gamma, gamma)) if gamma else CROSS_ENTROPY
    losses = row_losses(row_loss, flat_logits, flat_labels, ignore_index, all_count)
    per_sample = _weigh(losses, flat_logits, flat_labels, class_weights, ignore_index)
    return _reduce(per_sample, labels, reduction, ignore_index, all_count)


def _check_steps(gammas: Sequence[float], steps: Sequence[float], steps_name: str) -> tuple[float, ...]:
    values = tuple(_check_number("each of gammas", gamma) for gamma in gammas)
    if len(values) != len(steps) + 1:
        raise ValueError(f"gammas must hold one value more than {steps_name}, got {len(values)} and {len(steps)}.")
    if any(later <= earlier for earlier, later in zip(steps, steps[1:], strict=False)):
        raise ValueError(f"{steps_name} must increase strictly, got {tuple(steps)}.")
    return values


def sample_dependent_focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gammas: Sequence[float] = (5.0, 3.0),
    thresholds: Sequence[float] = (0.2,),
    class_weights: Sequence[float] | Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    r"""
    Focal loss whose gamma depends on each sample's probability of the true class: `gammas[i]` holds up to, and not
    including, `thresholds[i]`, the last gamma from there on. The default is FLSD-53: 5 for $p_y < 0.2$, else 3
    (Mukhoti et al., 2020, Section 4). gamma is a constant in the gradient.

    Args:
        logits, labels, class_weights, reduction, ignore_index: As in [`cross_entropy_loss`].
        gammas (`Sequence[float]`, *optional*, defaults to `(5.0, 3.0)`):
            One gamma per interval of $p_y$, from low to high probability.
        thresholds (`Sequence[float]`, *optional*, defaults to `(0.2,)`):
            Where one interval ends and the next begins: strictly increasing, in `(0, 1)`.

    Returns:
        `torch.Tensor`: The loss, not negative.

    Raises:
        ValueError: If gammas and thresholds do not fit, or shapes, dtypes or labels are wrong.
    """
    _check_reduction(reduction)
    gammas = _check_sample_dependent(gammas, thresholds)
    flat_logits, flat_labels, all_count = _flatten(logits, labels, ignore_index)

    def shape(nll: Tensor) -> tuple[Tensor, Tensor]:
        # p < threshold, told from nll; a margin of rounding, for p = 0.2 of five equal logits is not below 0.2.
        margin = 1 + 2 * torch.finfo(nll.dtype).eps
        gamma: float | Tensor = gammas[-1]
        for threshold, value in zip(reversed(thresholds), reversed(gammas[:-1]), strict=True):
            gamma = torch.where(nll > margin * math.log(1 / threshold), value, gamma)
        return focal_shape(nll, gamma, min(gammas))

    losses = row_losses(NLL(shape), flat_logits, flat_labels, ignore_index, all_count)
    per_sample = _weigh(losses, flat_logits, flat_labels, class_weights, ignore_index)
    return _reduce(per_sample, labels, reduction, ignore_index, all_count)


def _check_sample_dependent(gammas: Sequence[float], thresholds: Sequence[float]) -> tuple[float, ...]:
    if any(not 0 < threshold < 1 for threshold in thresholds):
        raise ValueError(f"thresholds must lie strictly between 0 and 1, got {tuple(thresholds)}.")
    return _check_steps(gammas, thresholds, "thresholds")


def dual_focal_loss(
    logits: Tensor, labels: Tensor, *, gamma: float = 5.0, reduction: str = "mean", ignore_index: int = -100
) -> Tensor:
    r"""
    Dual focal loss, $-(1 - p_y + p_j)^\gamma \log p_y$, where $p_j$ is the largest probability strictly below $p_y$,
    and 0 where there is none (Tao et al., 2023). The gradient flows through $p_j$ too.

    Args:
        logits, labels, reduction, ignore_index: As in [`cross_entropy_loss`].
        gamma (`float`, *optional*, defaults to `5.0`):
            Focusing parameter, not negative; 0 is cross-entropy. The default is that of the authors' code; they tune
            it for each network.

    Returns:
        `torch.Tensor`: The loss, not negative.

    Raises:
        ValueError: If `gamma < 0`, or shapes, dtypes or labels are wrong.
    """
    _check_reduction(reduction)
    gamma = _check_number("gamma", gamma)
    flat_logits, flat_labels, all_count = _flatten(logits, labels, ignore_index)
    log_probabilities = F.log_softmax(widen(flat_logits), dim=-1)
    ignored = flat_labels == ignore_index
    index = torch.where(ignored, 0, flat_labels).unsqueeze(-1)
    true = log_probabilities.gather(-1, index)
    # The order of the logits, for equal logits may differ by a rounding once they are probabilities.
    below = flat_logits.detach() < flat_logits.detach().gather(-1, index)
    runner_up = torch.where(below, log_probabilities, -torch.inf).max(dim=-1).values
    nll = -true.squeeze(-1)
    factor = torch.exp(runner_up) - torch.expm1(-nll)
    # p_y = 1: all is 0 in the limit, but the slope of factor^gamma would be infinite for gamma < 1.
    saturated = factor <= 0
    losses = torch.where(saturated, 0.0, torch.where(saturated, 1.0, factor) ** gamma * nll) if gamma else nll
    return _reduce(torch.where(ignored, 0.0, losses), labels, reduction, ignore_index, all_count)


def adafocal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gammas: Tensor,
    edges: Tensor,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    r"""
    Focal loss with a gamma for each bin of $p_y$ (Ghosh et al., 2022): $-(1 - p_y)^\gamma \log p_y$ where the gamma of
    the bin is positive, inverse focal loss $-(1 + p_y)^{|\gamma|} \log p_y$ where it is negative. gamma is a constant
    in the gradient. [`AdaFocalLoss`] holds the bins and updates them from validation data.

    Args:
        logits, labels, reduction, ignore_index: As in [`cross_entropy_loss`].
        gammas (`torch.Tensor` of shape `(B,)`):
            One finite gamma per bin, from low to high $p_y$.
        edges (`torch.Tensor` of shape `(B - 1,)`):
            Where one bin ends and the next, which includes the edge, begins; not decreasing.

    Returns:
        `torch.Tensor`: The loss, not negative.

    Raises:
        ValueError: If gammas and edges do not fit, or shapes, dtypes or labels are wrong.
    """
    _check_reduction(reduction)
    if gammas.ndim != 1 or edges.shape != (len(gammas) - 1,):
        raise ValueError(
            f"gammas must be one-dimensional and edges one shorter, got shapes {tuple(gammas.shape)} and "
            f"{tuple(edges.shape)}."
        )
    flat_logits, flat_labels, all_count = _flatten(logits, labels, ignore_index)
    nll = row_losses(CROSS_ENTROPY, flat_logits, flat_labels, ignore_index, all_count)
    gammas = gammas.to(nll.device, nll.dtype, non_blocking=True)
    edges = edges.to(nll.device, nll.dtype, non_blocking=True)
    gamma = gammas[torch.bucketize(torch.exp(-nll.detach()), edges, right=True)]
    inverse = gamma < 0
    # p = 1: as in focal_shape. Inverse focal loss has no such trouble.
    saturated = (nll <= 0) & ~inverse
    inner = torch.where(saturated, 1.0, nll)
    factor = torch.where(inverse, 1 + torch.exp(-inner), -torch.expm1(-inner))
    losses = torch.where(saturated, 0.0, factor ** gamma.abs() * inner)
    return _reduce(losses, labels, reduction, ignore_index, all_count)


def mmce_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    lam: float = 2.0,
    weighted: bool = True,
    normalization: str = "definition",
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    r"""
    Mean cross-entropy plus `lam` times the Maximum Mean Calibration Error of the batch (Kumar et al., 2018).

    With $r$ the confidence, $k(r, r') = e^{-|r - r'| / 0.4}$, m samples right and n wrong, the weighted form is
    $\mathrm{MMCE}_w^2 = \sum_{cc} \frac{(1-r_i)(1-r_j) k}{m^2} + \sum_{ww} \frac{r_i r_j k}{n^2}
    - 2 \sum_{cw} \frac{(1-r_i) r_j k}{mn}$, and 0 where m or n is 0; the unweighted one is
    $\sum_{ij} (c_i - r_i)(c_j - r_j) k / N^2$. The root is taken of both.

    The term pairs samples, so it depends on how a batch is cut: under gradient accumulation samples are paired within
    each micro-batch, and `"sum"` is the number of samples times the mean. It is computed in float64 where the device
    has it.

    Where one confidence r is that of all samples, right and wrong, the weighted form is |1 - 2r|: least at one half,
    whatever the accuracy. With two classes every model starts there, and cross-entropy, whose slope in r is at most 2,
    cannot pull it away against the 2 `lam` of this term: for `lam` of 1 or more a binary model may never train.

    Args:
        logits, labels, ignore_index: As in [`cross_entropy_loss`].
        lam (`float`, *optional*, defaults to `2.0`):
            Weight of the calibration term, not negative.
        weighted (`bool`, *optional*, defaults to `True`):
            The weighted form, which the paper trains.
        normalization (`str`, *optional*, defaults to `"definition"`):
            `"definition"`, or `"released"`: what the paper's published code computes and Table 1 was made with. Its
            weighted form divides the means once more by m^2, n^2 and mn (each plus 1e-5) and adds 1e-10 under the
            root; its unweighted form takes no root.
        reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"`, `"sum"`, or `"none"`: each sample's cross-entropy plus the batch's calibration term.

    Returns:
        `torch.Tensor`: The loss, not negative.

    Raises:
        ValueError: If `lam < 0`, the normalization is unknown, or shapes, dtypes or labels are wrong.
    """
    _check_reduction(reduction)
    lam = _check_number("lam", lam)
    _check_normalization(normalization)
    flat_logits, flat_labels, all_count = _flatten(logits, labels, ignore_index)
    nll = row_losses(CROSS_ENTROPY, flat_logits, flat_labels, ignore_index, all_count)
    kept = flat_labels != ignore_index
    calibration = _mmce(flat_logits, flat_labels, kept, weighted, normalization == "released")
    per_sample = nll + lam * torch.where(kept, calibration.to(nll.dtype), 0.0)
    return _reduce(per_sample, labels, reduction, ignore_index, all_count)


def _check_normalization(normalization: str) -> None:
    if normalization not in ("definition", "released"):
        raise ValueError(f"normalization must be 'definition' or 'released', got {normalization!r}.")


def _mmce(logits: Tensor, labels: Tensor, kept: Tensor, weighted: bool, released: bool) -> Tensor:
    wide = widen(logits) if logits.device.type == "mps" else logits.double()
    predictions = wide.detach().max(dim=-1).indices  # argmax takes three times as long
    confidences = row_losses(PROBABILITY, wide, predictions, ignore_index=-1, all_count=True)
    correct = (predictions == labels) & kept
    if not weighted:
        residuals = torch.where(kept, correct.to(wide.dtype) - confidences, 0.0)
        squared = _kernel_forms(confidences, residuals.unsqueeze(0))[0, 0] / kept.sum().clamp(min=1) ** 2
        return squared if released else _safe_root(squared)
    m, n = correct.sum().to(wide.dtype), (kept & ~correct).sum().to(wide.dtype)
    both = (m > 0) & (n > 0)
    right = torch.where(correct, 1 - confidences, 0.0) / m.clamp(min=1)
    wrong = torch.where(kept & ~correct, confidences, 0.0) / n.clamp(min=1)
    if released:
        forms = _kernel_forms(confidences, torch.stack([right, wrong]))
        squared = forms[0, 0] / (m * m + 1e-5) + forms[1, 1] / (n * n + 1e-5)
        squared = squared - 2 * forms[0, 1] / (m * n + 1e-5) + 1e-10
    else:
        squared = _kernel_forms(confidences, (right - wrong).unsqueeze(0))[0, 0]
    return _safe_root(torch.where(both, squared, 0.0))


def _kernel_forms(confidences: Tensor, weights: Tensor) -> Tensor:
    r"""
    $w K w^\top$ of the rows of `weights` `(m, B)`, with $K_{ij} = e^{-|r_i - r_j| / 0.4}$, in the time of sorting.

    Below the diagonal of the sorted kernel $K_{ij} = e^{-r_i / 0.4} e^{r_j / 0.4}$, a product, so a running sum over j
    serves all i. Tied confidences are summed apart, as groups in which K is 1: there the slope of |r_i - r_j| is 0.
    """
    scaled, order = (confidences / MMCE_KERNEL_WIDTH).sort()
    weights = torch.gather(weights, -1, order.expand_as(weights))
    growth = torch.exp(scaled)
    before = F.pad(torch.cumsum(torch.cat([weights * growth, weights]), dim=-1), (1, -1))
    starts = F.pad(scaled[1:] != scaled[:-1], (1, 0), value=True)
    first = torch.where(starts, torch.arange(len(scaled), device=scaled.device), 0).cummax(-1).values
    lower, tied = torch.gather(before, -1, first.expand_as(before)).chunk(2)
    half = (weights / growth) @ lower.mT + weights @ (before.chunk(2)[1] - tied).mT
    return half + half.mT + weights @ weights.mT


def _safe_root(squared: Tensor) -> Tensor:
    """Square root with value and gradient 0 at 0 (and where rounding went below it)."""
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)
