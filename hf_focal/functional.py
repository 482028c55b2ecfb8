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
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


REDUCTIONS = ("mean", "sum", "none")
MMCE_KERNEL_WIDTH = 0.4
HALF = (torch.float16, torch.bfloat16)

# Measured, in numbers of logits: up to here the softmax is kept from the forward pass and turned into the gradient in
# place; above, memory is slower than computing the softmax again.
KEPT_UP_TO = 2**22


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
    if labels.device.type == "cpu" and not _is_traced():
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


def _is_traced() -> bool:
    """Whether torch.compile or a torch.func transform is looking on."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None


def _widen(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in HALF else logits


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


# ---- Losses of single rows, plain and in closed form ----------------------------------------------------------------


class _ClosedForm(torch.autograd.Function):
    """
    A loss of each row with its gradient in closed form. With `keep`, the softmax stays from the forward pass and is
    turned into the gradient in place; without, both passes compute it in blocks of rows that fit into the caches, and
    the gradient that is returned is the only buffer of the size of the logits.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, loss: _RowLoss, ignore_index: int, all_count: bool, keep: bool
    ) -> Tensor:
        ctx.save_for_backward(logits, labels)
        ctx.loss, ctx.ignore_index, ctx.keep = loss, ignore_index, keep
        ctx.ignored = None if all_count else (labels == ignore_index).unsqueeze(-1)
        ctx.index = labels.unsqueeze(-1)
        if ctx.ignored is not None:
            ctx.index = torch.where(ctx.ignored, 0, ctx.index)
        if keep:
            ctx.softmax = _softmax(logits)
            losses, ctx.carried = loss.value(logits, ctx.softmax, ctx.index)
        else:
            scratch = _scratch(logits)
            parts = []
            for block, index in zip(logits.split(len(scratch)), ctx.index.split(len(scratch)), strict=True):
                wide = _widen(block)
                p = torch.softmax(wide, dim=-1, out=scratch[: len(block)])
                parts.append(loss.value(wide, p, index))
            losses = torch.cat([losses for losses, _ in parts])
            ctx.carried = tuple(torch.cat(values) for values in zip(*(carried for _, carried in parts), strict=True))
        if ctx.ignored is not None:  # what a row that does not count carries may be infinite, and 0 times that is NaN
            losses = torch.where(ctx.ignored, 0.0, losses)
            ctx.carried = tuple(torch.where(ctx.ignored, 0.0, values) for values in ctx.carried)
        return losses.squeeze(-1)

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels = ctx.saved_tensors
        unused = (None,) * 5
        if torch.is_grad_enabled():  # create_graph=True: the gradient itself has to be differentiable
            losses = ctx.loss.plain(_widen(logits), labels, ctx.ignore_index)
            return *torch.autograd.grad(losses, logits, incoming, create_graph=True), *unused
        scale = incoming[0].unsqueeze(-1)
        if ctx.ignored is not None:
            scale = torch.where(ctx.ignored, 0.0, scale)
        if ctx.keep:
            # Spent by the first pass: a second one (retain_graph=True) computes the softmax again.
            result, ctx.softmax = _softmax(logits) if ctx.softmax is None else ctx.softmax, None
            ctx.loss.slopes(result, ctx.index, scale, ctx.carried)
            return result, *unused
        half = logits.dtype in HALF
        result = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        scratch = _scratch(logits)
        size = len(scratch)
        rows = zip(*(vector.split(size) for vector in (logits, result, ctx.index, scale, *ctx.carried)), strict=True)
        for block, target, index, scales, *carried in rows:
            p = torch.softmax(_widen(block), dim=-1, out=scratch[: len(block)] if half else target)
            ctx.loss.slopes(p, index, scales, carried)
            if half:
                target.copy_(p)
        return result, *unused


def _softmax(logits: Tensor) -> Tensor:
    if logits.shape[1] < 16 and logits.device.type == "cpu":
        # PyTorch takes rows this short number by number, and columns by vectors: 3 to 10 times faster.
        return torch.softmax(logits.mT.contiguous(), dim=0).mT
    return torch.softmax(logits, dim=-1)


def _block_rows(logits: Tensor) -> int:
    """Rows in a block: few enough for the caches of a CPU and enough to keep threads or an accelerator busy."""
    threads = torch.get_num_threads()
    numbers = 2**26 if logits.device.type != "cpu" else 2**17 if threads == 1 else threads * 2**18
    return max(1, numbers // logits.shape[1])


def _scratch(logits: Tensor) -> Tensor:
    """A buffer for the softmax of a block."""
    dtype = torch.float32 if logits.dtype in HALF else logits.dtype
    rows = max(1, min(_block_rows(logits), len(logits)))
    return torch.empty(rows, logits.shape[1], dtype=dtype, device=logits.device)


class _RowLoss(Protocol):
    """A loss of each row of logits and its gradient in closed form."""

    def plain(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        """The losses by differentiable operations: what torch traces, and what a second derivative is taken of."""

    def value(self, logits: Tensor, p: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Losses `(M, 1)` of a block given its softmax, and what the slopes need of it, each `(M, 1)`."""

    def slopes(self, p: Tensor, index: Tensor, scale: Tensor, carried: Sequence[Tensor]) -> None:
        """Turn the softmax into `scale` times the gradient, in place."""


def _row_losses(loss: _RowLoss, logits: Tensor, labels: Tensor, ignore_index: int, all_count: bool) -> Tensor:
    """The loss of each row; 0 where the label is ignored."""
    if _is_traced():
        return loss.plain(_widen(logits), labels, ignore_index)
    differentiated = torch.is_grad_enabled() and logits.requires_grad
    keep = differentiated and logits.numel() <= KEPT_UP_TO and logits.dtype not in HALF
    return _ClosedForm.apply(logits, labels, loss, ignore_index, all_count, keep)


class _NLL:
    """A function of -log p_y; the identity, unless `shape(nll)` gives another one and its slope."""

    def __init__(self, shape: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None) -> None:
        self.shape = shape

    def plain(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        nll = F.cross_entropy(logits, labels, reduction="none", ignore_index=ignore_index)
        return nll if self.shape is None else self.shape(nll)[0]

    def value(self, logits: Tensor, p: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        true = p.gather(-1, index)
        # Looking costs nothing where there is no device to wait for.
        if true.device.type == "cpu" and len(true) and true.amin().item() > 1e-30:
            nll = true.log_().neg_()
        else:
            # Through the largest p, whose logarithm is accurate; that of p_y is infinite where p_y underflows.
            nll = logits.amax(-1, keepdim=True) - logits.gather(-1, index) - p.amax(-1, keepdim=True).log()
        if self.shape is None:
            return nll, ()
        losses, slope = self.shape(nll)
        return losses, (slope,)

    def slopes(self, p: Tensor, index: Tensor, scale: Tensor, carried: Sequence[Tensor]) -> None:
        # Proposition 1: the gradient of cross-entropy, p - onehot, times the slope.
        for slope in carried:
            scale = scale * slope
        p.mul_(scale).scatter_add_(-1, index, -scale)


class _Probability:
    """p_y, whose slopes are those of cross-entropy times -p_y."""

    def plain(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        return torch.exp(-_CROSS_ENTROPY.plain(logits, labels, ignore_index))

    def value(self, logits: Tensor, p: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        true = p.gather(-1, index)
        return true, (-true,)

    def slopes(self, p: Tensor, index: Tensor, scale: Tensor, carried: Sequence[Tensor]) -> None:
        _CROSS_ENTROPY.slopes(p, index, scale, carried)


class _Brier:
    """The sum over the classes of (p_k - [k = y])^2."""

    def plain(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        ignored = labels == ignore_index
        index = torch.where(ignored, 0, labels).unsqueeze(-1)
        errors = F.softmax(logits, dim=-1).scatter_add(-1, index, logits.new_full(index.shape, -1.0))
        return torch.where(ignored, 0.0, torch.linalg.vecdot(errors, errors))

    def value(self, logits: Tensor, p: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        true = p.gather(-1, index)
        p.scatter_(-1, index, 0.0)
        others = torch.linalg.vector_norm(p, dim=-1, keepdim=True).square_()
        p.scatter_(-1, index, true)
        return others + (1 - true).square_(), (true, others + true.square() - true)

    def slopes(self, p: Tensor, index: Tensor, scale: Tensor, carried: Sequence[Tensor]) -> None:
        # With errors e = p - onehot, the slope of e.e is 2 p_k (e_k - p.e), and p.e = p.p - p_y.
        true, product = carried
        scale = 2 * scale
        p.mul_(torch.mul(p, scale).sub_(scale * product)).scatter_add_(-1, index, -(scale * true))


_CROSS_ENTROPY, _PROBABILITY, _BRIER = _NLL(), _Probability(), _Brier()


def _focal_shape(nll: Tensor, gamma: float | Tensor, smallest_gamma: float) -> tuple[Tensor, Tensor]:
    """
    (1 - p)^gamma * nll, and its slope by nll, which is g(p, gamma) of Proposition 1, with 1 - p taken from nll, where
    it keeps its digits for p near 1.
    """
    # p = 1: all is 0 in the limit, but powers below 3 have slopes, up to the second, that are infinite there.
    saturated = nll <= 0 if smallest_gamma < 3 else None
    inner = nll if saturated is None else torch.where(saturated, 1.0, nll)
    q = -torch.expm1(-inner)
    power = q ** (gamma - 1)
    shrunk = q * inner
    losses, slope = power * shrunk, power * (q + gamma * (inner - shrunk))
    if saturated is None:
        return losses, slope
    return torch.where(saturated, 0.0, losses), torch.where(saturated, 0.0, slope)


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
    nll = _row_losses(_CROSS_ENTROPY, flat_logits, flat_labels, ignore_index, all_count)
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
    log_probabilities = F.log_softmax(_widen(flat_logits), dim=-1)
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
    per_sample = _row_losses(_BRIER, flat_logits, flat_labels, ignore_index, all_count)
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
    row_loss = _NLL(lambda nll: _focal_shape(nll, gamma, gamma)) if gamma else _CROSS_ENTROPY
    losses = _row_losses(row_loss, flat_logits, flat_labels, ignore_index, all_count)
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
        return _focal_shape(nll, gamma, min(gammas))

    losses = _row_losses(_NLL(shape), flat_logits, flat_labels, ignore_index, all_count)
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
    log_probabilities = F.log_softmax(_widen(flat_logits), dim=-1)
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
    nll = _row_losses(_CROSS_ENTROPY, flat_logits, flat_labels, ignore_index, all_count)
    gammas = gammas.to(nll.device, nll.dtype, non_blocking=True)
    edges = edges.to(nll.device, nll.dtype, non_blocking=True)
    gamma = gammas[torch.bucketize(torch.exp(-nll.detach()), edges, right=True)]
    inverse = gamma < 0
    # p = 1: as in _focal_shape. Inverse focal loss has no such trouble.
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
    nll = _row_losses(_CROSS_ENTROPY, flat_logits, flat_labels, ignore_index, all_count)
    kept = flat_labels != ignore_index
    calibration = _mmce(flat_logits, flat_labels, kept, weighted, normalization == "released")
    per_sample = nll + lam * torch.where(kept, calibration.to(nll.dtype), 0.0)
    return _reduce(per_sample, labels, reduction, ignore_index, all_count)


def _check_normalization(normalization: str) -> None:
    if normalization not in ("definition", "released"):
        raise ValueError(f"normalization must be 'definition' or 'released', got {normalization!r}.")


def _mmce(logits: Tensor, labels: Tensor, kept: Tensor, weighted: bool, released: bool) -> Tensor:
    wide = _widen(logits) if logits.device.type == "mps" else logits.double()
    predictions = wide.detach().max(dim=-1).indices  # argmax takes three times as long
    confidences = _row_losses(_PROBABILITY, wide, predictions, ignore_index=-1, all_count=True)
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
