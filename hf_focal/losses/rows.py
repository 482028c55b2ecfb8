# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""From what a model returned to the losses of its rows, with gradients in closed form, and what remains of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import MASK


HALF = (torch.float16, torch.bfloat16)

# Measured, in numbers of logits: up to here the softmax is kept from the forward pass and turned into the gradient in
# place; above, memory is slower than computing the softmax again. Half precision is then in single from end to end.
KEPT_UP_TO = 2**22
HALF_KEPT_UP_TO = 2**20


def extract_logits(outputs: Any) -> Tensor:
    """The logits in what a model returned: a tensor, an object or a mapping with `logits`, or a tuple led by them."""
    logits = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if logits is None and isinstance(outputs, Mapping):
        logits = outputs.get("logits")
    elif logits is None and isinstance(outputs, (tuple, list)) and outputs:
        logits = outputs[0]
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"No logits found in a model output of type {type(outputs).__name__}. Needed: a tensor, an object or a "
            "mapping with `logits`, or a tuple whose first entry is the logits."
        )
    return logits


def replace_logits(outputs: Any, logits: Tensor) -> Any:
    """What a model returned, as far as [`extract_logits`] reads it, with other logits; it stays as it is itself."""
    if isinstance(outputs, Tensor):
        return logits
    if is_dataclass(outputs) and not isinstance(outputs, type):  # every output of transformers is one
        return replace(outputs, logits=logits)
    if isinstance(outputs, Mapping):
        return {**outputs, "logits": logits}
    if hasattr(outputs, "_replace") and hasattr(outputs, "logits"):  # a named tuple
        return outputs._replace(logits=logits)
    if isinstance(outputs, (tuple, list)):
        return (logits, *outputs[1:])
    changed = copy(outputs)
    changed.logits = logits
    return changed


@dataclass(eq=False)  # torch 2.6 compiles no properties of a named tuple
class Rows:
    """
    Logits `(M, K)` and labels `(M,)` of a batch, checked; what a loss gives where a label is ignored is dropped.

    Of a sigmoid head each output is a row of its own, of two classes with the logits 0 and z: its softmax is
    `sigmoid(z)`, and so every loss is there what it is for two classes.
    """

    scores: Tensor  # the logits; of a sigmoid head z alone, `(M, 1)`
    labels: Tensor
    ignore_index: int
    all_count: bool  # whether no label is known to be ignored
    outputs: int = 0  # of a sigmoid head, how many; 0 of a softmax

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, ignore_index: int) -> Rows:
        if not isinstance(logits, Tensor) or not isinstance(labels, Tensor):
            raise ValueError(
                f"logits and labels must be tensors, got {type(logits).__name__} and {type(labels).__name__}."
            )
        if logits.ndim not in (2, 3):
            raise ValueError(f"logits must have shape (N, K) or (N, T, K), got {tuple(logits.shape)}.")
        if not logits.is_floating_point():
            raise ValueError(f"logits must be floating point, got {logits.dtype}. Pass the raw scores of the model.")
        if logits.ndim == 2 and (labels.shape == logits.shape or logits.shape[1] == 1):
            return cls._of_sigmoid(logits, labels, ignore_index)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(
                f"labels must be class indices of an integer dtype, got {labels.dtype}. Of several labels a sample "
                f"they have the shape of the logits, {tuple(logits.shape)}, and hold 0 and 1."
            )
        if labels.shape != logits.shape[:-1]:
            raise ValueError(
                f"labels must have shape {tuple(logits.shape[:-1])} to go with logits of shape {tuple(logits.shape)}, "
                f"got {tuple(labels.shape)}."
            )
        num_labels = logits.shape[-1]
        if num_labels < 2:
            raise ValueError(f"logits must have at least 2 classes in their last dimension, got {num_labels}.")
        flat = logits.ndim == 2  # a view costs as much as a small softmax
        flat_labels = (labels if flat else labels.reshape(-1)).long()
        # Reading values would synchronise an accelerator and cannot be traced, so only eager CPU labels are looked at.
        looked_at = labels.device.type == "cpu" and not is_traced()
        all_count = looked_at and _check_range(flat_labels, num_labels, ignore_index)
        return cls(logits if flat else logits.reshape(-1, num_labels), flat_labels, ignore_index, all_count)

    @classmethod
    def _of_sigmoid(cls, logits: Tensor, labels: Tensor, ignore_index: int) -> Rows:
        """Logits `(N, L)`, and of each whether it is right: 0 or 1, `ignore_index` or NaN where that is not known."""
        if labels.shape not in (logits.shape, logits.shape[:1]):
            raise ValueError(
                f"labels must hold 0 or 1 for each of the {logits.shape[1]} outputs, shape {tuple(logits.shape)}, got "
                f"{tuple(labels.shape)}."
            )
        if labels.is_complex():
            raise ValueError(f"labels must be 0 or 1, or equal ignore_index={ignore_index}, got {labels.dtype}.")
        looked_at = labels.device.type == "cpu" and not is_traced()
        if labels.is_floating_point():
            if looked_at and bool((soft := labels.frac().abs() > 0).any()):  # of NaN it is not
                raise ValueError(
                    f"labels must be 0 or 1, or equal ignore_index={ignore_index}, got {labels[soft][0].item():g}. "
                    "Soft labels have no loss here."
                )
            if not looked_at or bool(labels.isnan().any()):
                labels = torch.where(labels.isnan(), ignore_index, labels)
        elif labels.dtype == torch.bool:
            labels = labels.to(torch.int8)
        flat_labels = labels.reshape(-1)
        all_count = looked_at and _check_range(flat_labels, 2, ignore_index)
        flat_labels = flat_labels.to(torch.int8 if -128 <= ignore_index < 128 else torch.long)
        return cls(logits.reshape(-1, 1), flat_labels, ignore_index, all_count, logits.shape[1])

    @property
    def logits(self) -> Tensor:
        """`(M, K)`."""
        return in_pairs(self.scores) if self.outputs else self.scores

    @property
    def ignored(self) -> Tensor:
        return self.labels == self.ignore_index

    @property
    def targets(self) -> Tensor:
        """The labels, with 0 where they are ignored, `(M,)`."""
        labels = self.labels.long()
        return labels if self.all_count else torch.where(self.ignored, 0, labels)

    def log_probabilities(self) -> Tensor:
        """The log-softmax, `(M, K)`, by differentiable operations."""
        return F.log_softmax(widen(self.logits), dim=-1)

    def nll(self) -> Tensor:
        """Cross-entropy, `(M,)`, with its gradient in closed form."""
        return row_losses(CROSS_ENTROPY, self)

    def reduced(self, losses: Tensor, reduction: str, shape: torch.Size, weights: Tensor | None = None) -> Tensor:
        """The losses of the rows, 0 where the label is ignored, weighed and reduced, or in the shape of the labels."""
        if losses.shape != self.labels.shape:
            raise ValueError(
                f"of_rows must give {len(self.labels)} losses, one a row, got shape {tuple(losses.shape)}."
            )
        if not self.all_count:
            losses = torch.where(self.ignored, 0.0, losses)
        if weights is not None:
            number, what = (self.outputs, "labels") if self.outputs else (self.scores.shape[-1], "classes")
            if weights.shape != (number,):
                raise ValueError(
                    f"class_weights must hold one number for each of the {number} {what}, "
                    f"got shape {tuple(weights.shape)}."
                )
            # Not blocking: numbers this few are staged at once, and the device need not be waited for.
            weights = weights.to(losses.device, losses.dtype, non_blocking=True)
            if self.outputs:
                losses = (losses.reshape(-1, number) * weights).reshape(-1)
            else:
                losses = losses * weights[self.targets]
        if reduction == "none":
            return losses.reshape(shape)
        if reduction == "mean" and self.all_count:
            return losses.mean()
        total = losses.sum()
        return total if reduction == "sum" else total / (self.labels != self.ignore_index).sum()


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


class RowLoss(Protocol):
    """A loss of each row by itself, which knows its slopes."""

    def plain(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        """The losses by differentiable operations: what torch traces, and what a second derivative is taken of."""

    def value(self, logits: Tensor, p: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Losses `(M, 1)` of a block given its softmax, and what the slopes need of it, each `(M, 1)`."""

    def slopes(self, logits: Tensor, p: Tensor, index: Tensor, scale: Tensor, carried: Sequence[Tensor]) -> None:
        """Turn the softmax into `scale` times the gradient, in place."""


def row_losses(loss: RowLoss, rows: Rows) -> Tensor:
    """The loss of each row; 0 where the label is ignored."""
    if is_traced():
        return loss.plain(widen(rows.logits), rows.labels.long(), rows.ignore_index)
    if rows.outputs and isinstance(loss, NLL):
        return _OfOutputs.apply(rows.scores, rows.labels, rows.ignore_index, rows.all_count, loss)
    logits = rows.logits
    differentiated = torch.is_grad_enabled() and logits.requires_grad
    most = min(KEPT_UP_TO, HALF_KEPT_UP_TO) if logits.dtype in HALF else KEPT_UP_TO
    keep = differentiated and logits.numel() <= most
    return _ClosedForm.apply(logits, rows.labels.long(), rows.ignore_index, rows.all_count, loss, keep)


def in_pairs(scores: Tensor) -> Tensor:
    """The logits 0 and z of two classes, `(M, 2)`, whose softmax is that of one sigmoid; z comes as `(M, 1)`."""
    return torch.cat([torch.zeros_like(scores), scores], dim=1)


def is_traced() -> bool:
    """Whether torch.compile or a torch.func transform is looking on."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None  # noqa: SLF001


def ruled_out(logits: Tensor) -> Tensor:
    """Which classes a mask takes out: those at -inf, or at the lowest number of a dtype, which models use for it."""
    return logits <= highest_mask(logits.dtype)


def highest_mask(dtype: torch.dtype) -> float:
    """Logits of a dtype from here on down rule a class out."""
    return max(MASK, torch.finfo(dtype).min)


def widen(logits: Tensor) -> Tensor:
    """Half precision as single, and anything else as it is."""
    return logits.float() if logits.dtype in HALF else logits


class _ClosedForm(torch.autograd.Function):
    """With `keep` the softmax stays and becomes the gradient; without, both passes compute it in blocks of rows."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, ignore_index: int, all_count: bool, loss: RowLoss, keep: bool
    ) -> Tensor:
        ctx.save_for_backward(logits, labels)
        ctx.loss, ctx.ignore_index, ctx.keep = loss, ignore_index, keep
        ctx.ignored = None if all_count else (labels == ignore_index).unsqueeze(-1)
        ctx.index = labels.unsqueeze(-1) if ctx.ignored is None else torch.where(ctx.ignored, 0, labels.unsqueeze(-1))
        size = _block_size(logits)
        if keep:
            wide = widen(logits)
            ctx.softmax = _softmax(wide)
            whole = (wide, ctx.softmax, ctx.index)
            blocks: Iterable[Any] = (
                [whole] if len(wide) <= size else zip(*(part.split(size) for part in whole), strict=True)
            )
        else:
            blocks = _with_softmax(logits, ctx.index, size)
        parts = [loss.value(*block) for block in blocks]
        losses, ctx.carried = parts[0]
        if len(parts) > 1:
            losses = torch.cat([losses for losses, _ in parts])
            ctx.carried = tuple(torch.cat(values) for values in zip(*(carried for _, carried in parts), strict=True))
        if ctx.ignored is not None:  # what a row that does not count carries may be infinite, and 0 times that is NaN
            losses = torch.where(ctx.ignored, 0.0, losses)
            ctx.carried = tuple(torch.where(ctx.ignored, 0, values) for values in ctx.carried)
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
            result, ctx.softmax = _softmax(widen(logits)) if ctx.softmax is None else ctx.softmax, None
            ctx.loss.slopes(logits, result, ctx.index, scale, ctx.carried)
            return result.to(logits.dtype), *unused
        half = logits.dtype in HALF
        result = logits.new_empty(logits.shape)
        size = _block_size(logits)
        scratch = _scratch(logits, size)
        vectors = (logits, result, ctx.index, scale, *ctx.carried)
        for block, target, index, scales, *carried in zip(*(v.split(size) for v in vectors), strict=True):
            p = _softmax(widen(block), scratch[: len(block)] if half else target)
            ctx.loss.slopes(block, p, index, scales, carried)
            if half:
                target.copy_(p)
        return result, *unused


class _OfOutputs(torch.autograd.Function):
    """A function of -log p_y of the outputs of a sigmoid head, in blocks; its slope is kept and no more."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, labels: Tensor, ignore_index: int, all_count: bool, loss: NLL) -> Tensor:
        ctx.save_for_backward(scores, labels)
        ctx.loss, ctx.ignore_index, ctx.all_count = loss, ignore_index, all_count
        losses = widen(scores.new_empty(0)).new_empty(len(scores))
        ctx.slope = None if loss.shape is None else torch.empty_like(losses)
        vectors = (scores, labels, losses, losses if ctx.slope is None else ctx.slope)
        for block, right, into, slope in zip(*(v.split(_block_rows(scores)) for v in vectors), strict=True):
            nll = F.logsigmoid(_margins(block, right)).neg_()
            if loss.shape is not None:
                nll, of_block = loss.shape(nll)
                slope.copy_(of_block)
            into.copy_(nll if all_count else torch.where(right == ignore_index, 0.0, nll))
        return losses

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> tuple[Tensor | None, ...]:
        scores, labels = ctx.saved_tensors
        unused = (None,) * 4
        if torch.is_grad_enabled():  # create_graph=True: as in _ClosedForm
            losses = ctx.loss.plain(in_pairs(widen(scores)), labels.long(), ctx.ignore_index)
            return *torch.autograd.grad(losses, scores, incoming, create_graph=True), *unused
        result = torch.empty_like(scores)
        vectors = (scores, labels, result, incoming[0], incoming[0] if ctx.slope is None else ctx.slope)
        for block, right, into, scale, slope in zip(*(v.split(_block_rows(scores)) for v in vectors), strict=True):
            slopes = _margins(block, right).neg_().sigmoid_()  # 1 - p_y
            slopes = torch.where(right == 1, slopes.neg(), slopes).mul_(scale)
            if ctx.slope is not None:
                slopes.mul_(slope)
            slopes = slopes if ctx.all_count else torch.where(right == ctx.ignore_index, 0.0, slopes)
            into.copy_(slopes.unsqueeze(-1))
        return result, *unused


def _margins(scores: Tensor, labels: Tensor) -> Tensor:
    """The logit of p_y; NaN of a logit of +inf, which nothing rules out."""
    wide = widen(scores).squeeze(-1)
    return torch.where(labels == 1, torch.where(wide == torch.inf, torch.nan, wide), -wide)


def _softmax(logits: Tensor, out: Tensor | None = None) -> Tensor:
    if logits.shape[1] < 16 and logits.device.type == "cpu":
        # PyTorch takes rows this short number by number, and columns by vectors: 3 to 10 times faster.
        columns = torch.softmax(logits.mT.contiguous(), dim=0).mT
        return columns if out is None else out.copy_(columns)
    return torch.softmax(logits, dim=-1, out=out)


def _with_softmax(logits: Tensor, index: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Blocks of `size` rows, each in single precision with its softmax, which the next one overwrites."""
    scratch = _scratch(logits, size)
    for block, of_block in zip(logits.split(size), index.split(size), strict=True):
        wide = widen(block)
        yield wide, _softmax(wide, scratch[: len(block)]), of_block


def _block_rows(logits: Tensor) -> int:
    # Few enough for the caches of a CPU and enough to keep threads or an accelerator busy.
    threads = torch.get_num_threads()
    numbers = 2**26 if logits.device.type != "cpu" else 2**17 if threads == 1 else threads * 2**18
    return max(1, numbers // logits.shape[1])


def _block_size(logits: Tensor) -> int:
    return max(1, min(_block_rows(logits), len(logits)))


def _scratch(logits: Tensor, size: int) -> Tensor:
    """A buffer for the softmax of a block."""
    return widen(logits.new_empty(0)).new_empty(size, logits.shape[1])


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

    def slopes(self, logits: Tensor, p: Tensor, index: Tensor, scale: Tensor, carried: Sequence[Tensor]) -> None:
        # Proposition 1: the gradient of cross-entropy, p - onehot, times the slope.
        for slope in carried:
            scale = scale * slope
        p.mul_(scale).scatter_add_(-1, index, -scale)


class Probability(NLL):
    """p_y, read off the softmax."""

    def value(self, logits: Tensor, p: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        true = p.gather(-1, index)
        return true, (-true,)


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

    def slopes(self, logits: Tensor, p: Tensor, index: Tensor, scale: Tensor, carried: Sequence[Tensor]) -> None:
        # With errors e = p - onehot, the slope of e.e is 2 p_k (e_k - p.e), and p.e = p.p - p_y.
        true, product = carried
        scale = 2 * scale
        p.mul_(torch.mul(p, scale).sub_(scale * product)).scatter_add_(-1, index, -(scale * true))


def _brier_of_two(nll: Tensor) -> tuple[Tensor, Tensor]:
    q = -torch.expm1(-nll)
    return 2 * q.square(), 4 * q * (1 - q)


CROSS_ENTROPY, BRIER = NLL(), Brier()
BRIER_OF_TWO = NLL(_brier_of_two)  # classes, of which each is the other's complement
PROBABILITY = Probability(lambda nll: (torch.exp(-nll), -torch.exp(-nll)))


def focal_shape(nll: Tensor, gamma: float | Tensor, smallest_gamma: float) -> tuple[Tensor, Tensor]:
    """(1 - p)^gamma * nll and its slope g(p, gamma); 1 - p is told from nll, where it keeps its digits near 1."""
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


def focal_rows(gamma: float) -> NLL:
    """Focal loss with one gamma."""
    return NLL(lambda nll: focal_shape(nll, gamma, gamma)) if gamma else CROSS_ENTROPY
