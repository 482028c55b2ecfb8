# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Losses of single rows of logits with gradients in closed form: cross-entropy and functions of it, the Brier score, and
the probability of a class. `functional` checks its input and makes losses of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


HALF = (torch.float16, torch.bfloat16)

# Measured, in numbers of logits: up to here the softmax is kept from the forward pass and turned into the gradient in
# place; above, memory is slower than computing the softmax again.
KEPT_UP_TO = 2**22


class RowLoss(Protocol):
    """A loss of each row of logits and its gradient in closed form."""

    def plain(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        """The losses by differentiable operations: what torch traces, and what a second derivative is taken of."""

    def value(self, logits: Tensor, p: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Losses `(M, 1)` of a block given its softmax, and what the slopes need of it, each `(M, 1)`."""

    def slopes(self, p: Tensor, index: Tensor, scale: Tensor, carried: Sequence[Tensor]) -> None:
        """Turn the softmax into `scale` times the gradient, in place."""


def row_losses(loss: RowLoss, logits: Tensor, labels: Tensor, ignore_index: int, all_count: bool) -> Tensor:
    """The loss of each row; 0 where the label is ignored."""
    if is_traced():
        return loss.plain(widen(logits), labels, ignore_index)
    differentiated = torch.is_grad_enabled() and logits.requires_grad
    keep = differentiated and logits.numel() <= KEPT_UP_TO and logits.dtype not in HALF
    return _ClosedForm.apply(logits, labels, loss, ignore_index, all_count, keep)


def is_traced() -> bool:
    """Whether torch.compile or a torch.func transform is looking on."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None  # noqa: SLF001


def widen(logits: Tensor) -> Tensor:
    """Half precision as single, and anything else as it is."""
    return logits.float() if logits.dtype in HALF else logits


class _ClosedForm(torch.autograd.Function):
    """
    A loss of each row with its gradient in closed form. With `keep`, the softmax stays from the forward pass and is
    turned into the gradient in place; without, both passes compute it in blocks of rows that fit into the caches, and
    the gradient that is returned is the only buffer of the size of the logits.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, loss: RowLoss, ignore_index: int, all_count: bool, keep: bool
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
                wide = widen(block)
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
            losses = ctx.loss.plain(widen(logits), labels, ctx.ignore_index)
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
            p = torch.softmax(widen(block), dim=-1, out=scratch[: len(block)] if half else target)
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


class NLL:
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


class Probability:
    """p_y, whose slopes are those of cross-entropy times -p_y."""

    def plain(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        return torch.exp(-CROSS_ENTROPY.plain(logits, labels, ignore_index))

    def value(self, logits: Tensor, p: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        true = p.gather(-1, index)
        return true, (-true,)

    def slopes(self, p: Tensor, index: Tensor, scale: Tensor, carried: Sequence[Tensor]) -> None:
        CROSS_ENTROPY.slopes(p, index, scale, carried)


class Brier:
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


CROSS_ENTROPY, PROBABILITY, BRIER = NLL(), Probability(), Brier()


def focal_shape(nll: Tensor, gamma: float | Tensor, smallest_gamma: float) -> tuple[Tensor, Tensor]:
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


def focal_rows(gamma: float) -> RowLoss:
    """Focal loss with one gamma."""
    return NLL(lambda nll: focal_shape(nll, gamma, gamma)) if gamma else CROSS_ENTROPY
