# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Losses that train calibrated classifiers: each a pure function and a module, and `LOSSES`, name -> factory.

A module is called as `loss(logits, labels)` or handed to a `Trainer` as `compute_loss_func`. With
`num_items_in_batch` (the labels that count in the whole accumulated batch) a mean becomes `sum / num_items_in_batch`,
so that splitting a batch into micro-batches changes nothing.

What all of them share: logits of shape `(N, K)` or `(N, T, K)`; half precision is computed and returned in float32;
labels equal to `ignore_index` count for nothing; NaN or +inf among the logits gives a loss that is not finite (a
gradient scaler relies on it), while -inf rules a class out; a mean over no label at all is NaN, as in
`torch.nn.functional.cross_entropy`.
"""

from __future__ import annotations

import inspect
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


if TYPE_CHECKING:
    from transformers import TrainerCallback


REDUCTIONS = ("mean", "sum", "none")
MMCE_KERNEL_WIDTH = 0.4


# ---- What every loss needs ------------------------------------------------------------------------------------------


def extract_logits(outputs: Any) -> Tensor:
    """The logits in what a model returned: a tensor, an object or a mapping with `logits`, or a tuple led by them."""
    logits = outputs
    if not isinstance(outputs, Tensor):
        if getattr(outputs, "logits", None) is not None:
            logits = outputs.logits
        elif isinstance(outputs, Mapping):
            logits = outputs.get("logits")
        elif isinstance(outputs, (tuple, list)) and outputs:
            logits = outputs[0]
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"No logits found in a model output of type {type(outputs).__name__}. Needed: a tensor, an object or a "
            "mapping with `logits`, or a tuple whose first entry is the logits."
        )
    return logits


def _flatten(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Check the two and return them as `(M, K)` in single precision or better, and `(M,)` in int64."""
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
    if labels.device.type == "cpu" and not torch.compiler.is_compiling() and not _in_functorch():
        out_of_range = (flat_labels != ignore_index) & ((flat_labels < 0) | (flat_labels >= num_labels))
        if out_of_range.any():
            raise ValueError(
                f"labels must lie in [0, {num_labels - 1}] or equal ignore_index={ignore_index}, "
                f"got {flat_labels[out_of_range][0].item()}."
            )
    flat_logits = logits.reshape(-1, num_labels)
    return flat_logits.float() if flat_logits.dtype in (torch.float16, torch.bfloat16) else flat_logits, flat_labels


def _in_functorch() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None


def _reduce(per_sample: Tensor, labels: Tensor, reduction: str, ignore_index: int) -> Tensor:
    """Reduce losses that are already 0 where the label is ignored."""
    if reduction == "none":
        return per_sample.reshape(labels.shape)
    total = per_sample.sum()
    return total if reduction == "sum" else total / (labels != ignore_index).sum()


def _check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}.")


def _check_number(name: str, value: Any, low: float = 0.0, below: float = float("inf")) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) < below:
        raise ValueError(f"{name} must be a number in [{low:g}, {below:g}), got {value!r}.")
    return float(value)


def _true_class_nll(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """-log p_y of each row; 0 where the label is ignored."""
    return F.cross_entropy(logits, labels, reduction="none", ignore_index=ignore_index)


def _focal_from_nll(nll: Tensor, gamma: float | Tensor) -> Tensor:
    """(1 - p)^gamma * nll with 1 - p taken from nll, where it keeps its digits for p near 1."""
    if isinstance(gamma, (int, float)) and gamma == 0:
        return nll
    # p = 1: value and gradient are 0 in the limit, but (1 - p)^(gamma - 1) is infinite for gamma < 1.
    saturated = nll <= 0
    inner = torch.where(saturated, 1.0, nll)
    return torch.where(saturated, 0.0, (-torch.expm1(-inner)) ** gamma * inner)


# ---- The pure functions ---------------------------------------------------------------------------------------------


def cross_entropy_loss(logits: Tensor, labels: Tensor, *, reduction: str = "mean", ignore_index: int = -100) -> Tensor:
    r"""
    Cross-entropy, $-\log p_y$.

    Args:
        logits (`torch.Tensor` of shape `(N, K)` or `(N, T, K)`):
            Raw scores.
        labels (`torch.Tensor` of shape `(N,)` or `(N, T)`):
            Class indices in `[0, K)`, or `ignore_index`.
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
    flat_logits, flat_labels = _flatten(logits, labels, ignore_index)
    return _reduce(_true_class_nll(flat_logits, flat_labels, ignore_index), labels, reduction, ignore_index)


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
    flat_logits, flat_labels = _flatten(logits, labels, ignore_index)
    ignored = flat_labels == ignore_index
    log_probabilities = F.log_softmax(flat_logits, dim=-1)
    true = log_probabilities.gather(-1, torch.where(ignored, 0, flat_labels).unsqueeze(-1)).squeeze(-1)
    if smoothing:
        others = (log_probabilities.sum(-1) - true) / (flat_logits.shape[-1] - 1)
        per_sample = -(1 - smoothing) * true - smoothing * others
    else:
        per_sample = -true
    return _reduce(torch.where(ignored, 0.0, per_sample), labels, reduction, ignore_index)


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
    flat_logits, flat_labels = _flatten(logits, labels, ignore_index)
    ignored = flat_labels == ignore_index
    index = torch.where(ignored, 0, flat_labels).unsqueeze(-1)
    errors = F.softmax(flat_logits, dim=-1).scatter_add(-1, index, flat_logits.new_full(index.shape, -1.0))
    return _reduce(torch.where(ignored, 0.0, errors.square().sum(-1)), labels, reduction, ignore_index)


def focal_loss(
    logits: Tensor, labels: Tensor, *, gamma: float = 3.0, reduction: str = "mean", ignore_index: int = -100
) -> Tensor:
    r"""
    Focal loss, $-(1 - p_y)^\gamma \log p_y$ (Lin et al., 2017; Mukhoti et al., 2020, Section 3).

    Args:
        logits, labels, reduction, ignore_index: As in [`cross_entropy_loss`].
        gamma (`float`, *optional*, defaults to `3.0`):
            Focusing parameter, not negative; 0 is cross-entropy.

    Returns:
        `torch.Tensor`: The loss, not negative.

    Raises:
        ValueError: If `gamma < 0`, or shapes, dtypes or labels are wrong.
    """
    _check_reduction(reduction)
    gamma = _check_number("gamma", gamma)
    flat_logits, flat_labels = _flatten(logits, labels, ignore_index)
    nll = _true_class_nll(flat_logits, flat_labels, ignore_index)
    return _reduce(_focal_from_nll(nll, gamma), labels, reduction, ignore_index)


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
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    r"""
    Focal loss whose gamma depends on each sample's probability of the true class: `gammas[i]` holds up to, and not
    including, `thresholds[i]`, the last gamma from there on. The default is FLSD-53: 5 for $p_y < 0.2$, else 3
    (Mukhoti et al., 2020, Section 4). gamma is a constant in the gradient.

    Args:
        logits, labels, reduction, ignore_index: As in [`cross_entropy_loss`].
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
    flat_logits, flat_labels = _flatten(logits, labels, ignore_index)
    nll = _true_class_nll(flat_logits, flat_labels, ignore_index)
    # Not exp(-nll): that rounds p = 0.2 of five equal logits to just below the threshold 0.2.
    index = torch.where(flat_labels == ignore_index, 0, flat_labels).unsqueeze(-1)
    p = F.softmax(flat_logits.detach(), dim=-1).gather(-1, index).squeeze(-1)
    gamma = torch.full_like(p, gammas[-1])
    for threshold, value in zip(reversed(thresholds), reversed(gammas[:-1]), strict=True):
        gamma = torch.where(p < threshold, value, gamma)
    return _reduce(_focal_from_nll(nll, gamma), labels, reduction, ignore_index)


def _check_sample_dependent(gammas: Sequence[float], thresholds: Sequence[float]) -> tuple[float, ...]:
    if any(not 0 < threshold < 1 for threshold in thresholds):
        raise ValueError(f"thresholds must lie strictly between 0 and 1, got {tuple(thresholds)}.")
    return _check_steps(gammas, thresholds, "thresholds")


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
    flat_logits, flat_labels = _flatten(logits, labels, ignore_index)
    nll = _true_class_nll(flat_logits, flat_labels, ignore_index)
    kept = flat_labels != ignore_index
    calibration = _mmce(flat_logits, flat_labels, kept, weighted, normalization == "released")
    per_sample = nll + lam * torch.where(kept, calibration.to(nll.dtype), 0.0)
    return _reduce(per_sample, labels, reduction, ignore_index)


def _check_normalization(normalization: str) -> None:
    if normalization not in ("definition", "released"):
        raise ValueError(f"normalization must be 'definition' or 'released', got {normalization!r}.")


def _mmce(logits: Tensor, labels: Tensor, kept: Tensor, weighted: bool, released: bool) -> Tensor:
    wide = logits if logits.device.type == "mps" else logits.double()
    predictions = wide.argmax(-1)
    confidences = F.softmax(wide, dim=-1).gather(-1, predictions.unsqueeze(-1)).squeeze(-1)
    correct = (predictions == labels) & kept
    if not weighted:
        residuals = torch.where(kept, correct.to(wide.dtype) - confidences, 0.0)
        squared = _kernel_form(confidences, residuals, residuals) / kept.sum().clamp(min=1) ** 2
        return squared if released else _safe_root(squared)
    m, n = correct.sum().to(wide.dtype), (kept & ~correct).sum().to(wide.dtype)
    both = (m > 0) & (n > 0)
    right = torch.where(correct, 1 - confidences, 0.0) / m.clamp(min=1)
    wrong = torch.where(kept & ~correct, confidences, 0.0) / n.clamp(min=1)
    if released:
        squared = _kernel_form(confidences, right, right) / (m * m + 1e-5)
        squared = squared + _kernel_form(confidences, wrong, wrong) / (n * n + 1e-5)
        squared = squared - 2 * _kernel_form(confidences, right, wrong) / (m * n + 1e-5) + 1e-10
    else:
        squared = _kernel_form(confidences, right - wrong, right - wrong)
    return _safe_root(torch.where(both, squared, 0.0))


def _kernel_form(confidences: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """sum_ij left_i right_j exp(-|r_i - r_j| / 0.4)."""
    kernel = torch.exp(-(confidences.unsqueeze(0) - confidences.unsqueeze(1)).abs() / MMCE_KERNEL_WIDTH)
    return left @ kernel @ right


def _safe_root(squared: Tensor) -> Tensor:
    """Square root with value and gradient 0 at 0 (and where rounding went below it)."""
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)


# ---- The modules ----------------------------------------------------------------------------------------------------


class CalibrationLoss(nn.Module):
    """
    Base of the loss modules: reduction, `ignore_index`, and the call that a `Trainer` makes.

    Args:
        reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"`, `"sum"` or `"none"`.
        ignore_index (`int`, *optional*, defaults to `-100`):
            Label that counts for nothing. (A `Trainer` counts every label but -100.)
    """

    def __init__(self, *, reduction: str = "mean", ignore_index: int = -100) -> None:
        super().__init__()
        _check_reduction(reduction)
        self.reduction = reduction
        self.ignore_index = ignore_index

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        """The pure function with this module's parameters."""
        raise NotImplementedError(f"{type(self).__name__} must define compute(logits, labels, reduction).")

    def forward(self, outputs: Any, labels: Tensor | None, num_items_in_batch: int | Tensor | None = None) -> Tensor:
        """
        Args:
            outputs (`torch.Tensor`, `ModelOutput`, `Mapping` or `tuple`):
                The logits, or what holds them.
            labels (`torch.Tensor` of shape `(N,)` or `(N, T)`):
                Class indices, or `ignore_index`.
            num_items_in_batch (`int` or 0-d `torch.Tensor`, *optional*):
                How many labels count in the whole accumulated batch. A mean becomes `sum / num_items_in_batch`; a sum
                stays the plain sum.

        Returns:
            `torch.Tensor`: A scalar, or one value per label for `reduction="none"`.
        """
        logits = extract_logits(outputs)
        if labels is None:
            raise ValueError(
                "The loss got no labels. The batches must hold class indices under the key 'labels' (the Trainer's "
                "default collator renames a 'label' column)."
            )
        if num_items_in_batch is None:
            return self.compute(logits, labels, self.reduction)
        if self.reduction == "none":
            raise ValueError("reduction='none' gives no scalar to train on: use 'mean' or 'sum' with a Trainer.")
        if isinstance(num_items_in_batch, Tensor):
            if num_items_in_batch.numel() != 1:
                raise ValueError(
                    f"num_items_in_batch must be one number, got shape {tuple(num_items_in_batch.shape)}. "
                    "torch.nn.DataParallel is not supported: start one process per device with `accelerate launch`."
                )
            num_items_in_batch = num_items_in_batch.reshape(()).to(logits.device)
        total = self.compute(logits, labels, "sum")
        return total if self.reduction == "sum" else total / num_items_in_batch

    def extra_repr(self) -> str:
        shown = inspect.signature(type(self)).parameters
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in shown if hasattr(self, name))


class CrossEntropyLoss(CalibrationLoss):
    """[`cross_entropy_loss`] as a module."""

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return cross_entropy_loss(logits, labels, reduction=reduction, ignore_index=self.ignore_index)


class LabelSmoothingLoss(CalibrationLoss):
    """[`label_smoothing_loss`] as a module."""

    def __init__(self, *, smoothing: float = 0.05, reduction: str = "mean", ignore_index: int = -100) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        self.smoothing = _check_number("smoothing", smoothing, below=1.0)

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return label_smoothing_loss(
            logits, labels, smoothing=self.smoothing, reduction=reduction, ignore_index=self.ignore_index
        )


class BrierLoss(CalibrationLoss):
    """[`brier_loss`] as a module."""

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return brier_loss(logits, labels, reduction=reduction, ignore_index=self.ignore_index)


class FocalLoss(CalibrationLoss):
    """[`focal_loss`] as a module."""

    def __init__(self, *, gamma: float = 3.0, reduction: str = "mean", ignore_index: int = -100) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        self.gamma = _check_number("gamma", gamma)

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return focal_loss(logits, labels, gamma=self.gamma, reduction=reduction, ignore_index=self.ignore_index)


class SampleDependentFocalLoss(CalibrationLoss):
    """[`sample_dependent_focal_loss`] (FLSD) as a module."""

    def __init__(
        self,
        *,
        gammas: Sequence[float] = (5.0, 3.0),
        thresholds: Sequence[float] = (0.2,),
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        self.gammas = _check_sample_dependent(gammas, thresholds)
        self.thresholds = tuple(thresholds)

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return sample_dependent_focal_loss(
            logits,
            labels,
            gammas=self.gammas,
            thresholds=self.thresholds,
            reduction=reduction,
            ignore_index=self.ignore_index,
        )


class ScheduledFocalLoss(CalibrationLoss):
    """
    Focal loss whose gamma falls as training goes on (FLSc; Mukhoti et al., 2020, Appendix F).

    It has to be told how far training has come: `CalibrationTrainer` does so by itself, a plain `Trainer` needs
    `callbacks=[loss.callback()]`, a loop of your own calls [`~ScheduledFocalLoss.set_progress`]. Until then a call
    that could train (gradients enabled) raises. Evaluation uses the gamma of the moment, and before any training the
    last one.

    Args:
        gammas (`Sequence[float]`, *optional*, defaults to `(5.0, 3.0, 1.0)`):
            One gamma per stage.
        milestones (`Sequence[float]` or `Sequence[int]`, *optional*, defaults to `(0.286, 0.714)`):
            Where one stage ends and the next begins: all fractions of training in `(0, 1)`, or all whole epochs
            counted from 0 (`(100, 250)` in the paper's 350 epochs on CIFAR).
    """

    def __init__(
        self,
        *,
        gammas: Sequence[float] = (5.0, 3.0, 1.0),
        milestones: Sequence[float] = (0.286, 0.714),
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        self.in_epochs = all(isinstance(step, int) and step >= 1 for step in milestones)
        if not self.in_epochs and not all(isinstance(step, float) and 0 < step < 1 for step in milestones):
            raise ValueError(
                "milestones must be all fractions of training in (0, 1) or all whole epochs (int, from 1), "
                f"got {tuple(milestones)}."
            )
        self.gammas = _check_steps(gammas, milestones, "milestones")
        self.milestones = tuple(milestones)
        self._gamma: float | None = None

    @property
    def gamma(self) -> float | None:
        """The gamma of the moment; `None` before the loss was told of any progress."""
        return self._gamma

    def set_progress(self, *, fraction: float | None = None, epoch: float | None = None) -> None:
        """
        Tell the loss how far training has come.

        Args:
            fraction (`float`, *optional*):
                Share of the training steps already done; needed for milestones that are fractions.
            epoch (`float`, *optional*):
                Epochs already done, from 0; needed for milestones that are epochs.
        """
        position = epoch if self.in_epochs else fraction
        if position is None:
            raise ValueError(f"milestones {self.milestones} need {'epoch' if self.in_epochs else 'fraction'}=....")
        self._gamma = self.gammas[bisect_right(self.milestones, position)]

    def callback(self) -> TrainerCallback:
        """A `TrainerCallback` that keeps this loss informed, from the trainer's own state (so resuming is exact)."""
        from transformers import TrainerCallback

        class ScheduleCallback(TrainerCallback):
            def on_step_begin(callback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: B902
                self.set_progress(fraction=state.global_step / max(state.max_steps, 1), epoch=state.epoch or 0.0)

        return ScheduleCallback()

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        # A Trainer never switches this module to evaluation, so gradients tell training from evaluation.
        if self._gamma is None and torch.is_grad_enabled():
            raise RuntimeError(
                "ScheduledFocalLoss does not know how far training has come. Use CalibrationTrainer, give a plain "
                "Trainer callbacks=[loss.callback()], or call loss.set_progress(...) before each epoch."
            )
        gamma = self.gammas[-1] if self._gamma is None else self._gamma
        return focal_loss(logits, labels, gamma=gamma, reduction=reduction, ignore_index=self.ignore_index)


class MMCELoss(CalibrationLoss):
    """[`mmce_loss`] as a module. Under gradient accumulation samples are paired within each micro-batch."""

    def __init__(
        self,
        *,
        lam: float = 2.0,
        weighted: bool = True,
        normalization: str = "definition",
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        self.lam = _check_number("lam", lam)
        _check_normalization(normalization)
        self.weighted = weighted
        self.normalization = normalization

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return mmce_loss(
            logits,
            labels,
            lam=self.lam,
            weighted=self.weighted,
            normalization=self.normalization,
            reduction=reduction,
            ignore_index=self.ignore_index,
        )


LOSSES: dict[str, Callable[..., CalibrationLoss]] = {
    "cross_entropy": CrossEntropyLoss,
    "label_smoothing": LabelSmoothingLoss,
    "brier": BrierLoss,
    "mmce": MMCELoss,
    "mmce-unweighted": partial(MMCELoss, weighted=False),
    "focal": FocalLoss,
    "flsd-53": SampleDependentFocalLoss,
    "flsd-532": partial(SampleDependentFocalLoss, gammas=(5.0, 3.0, 2.0), thresholds=(0.2, 0.5)),
    "flsc-531": ScheduledFocalLoss,
    "flsc-532": partial(ScheduledFocalLoss, gammas=(5.0, 3.0, 2.0)),
}


def create_loss(name: str, **parameters: Any) -> CalibrationLoss:
    """
    Build the loss of that name.

    Args:
        name (`str`):
            A key of `LOSSES`.
        parameters:
            What the loss takes: `gamma`, `lam`, `smoothing`, `reduction`, ...

    Returns:
        [`CalibrationLoss`]: The module.

    Raises:
        ValueError: If the name is unknown or the loss does not take a parameter.

    Example:
    >>> create_loss("focal", gamma=2.0)
    FocalLoss(gamma=2.0, reduction='mean', ignore_index=-100)
    """
    if name not in LOSSES:
        raise ValueError(f"Unknown loss {name!r}. Valid names: {', '.join(LOSSES)}.")
    accepted = list(inspect.signature(LOSSES[name]).parameters)
    for parameter in parameters:
        if parameter not in accepted:
            raise ValueError(f"The loss {name!r} takes no {parameter!r}; it takes {', '.join(accepted)}.")
    return LOSSES[name](**parameters)
