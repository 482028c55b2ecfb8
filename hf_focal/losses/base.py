# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
The functions of `functional` as modules, and `LOSSES`, name -> factory.

A module is called as `loss(logits, labels)` or handed to a `Trainer` as `compute_loss_func`. With
`num_items_in_batch` (the labels that count in the whole accumulated batch) a mean becomes `sum / num_items_in_batch`,
so that splitting a batch into micro-batches changes nothing.
"""

from __future__ import annotations

import inspect
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .functional import (
    _check_class_weights,
    _check_normalization,
    _check_number,
    _check_reduction,
    _check_sample_dependent,
    _check_steps,
    adafocal_loss,
    brier_loss,
    cross_entropy_loss,
    dual_focal_loss,
    focal_loss,
    label_smoothing_loss,
    mmce_loss,
    sample_dependent_focal_loss,
)


if TYPE_CHECKING:
    from transformers import TrainerCallback


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
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in shown if getattr(self, name, None) is not None)


class _ClassWeightedLoss(CalibrationLoss):
    """Adds `class_weights`: a buffer, so that it follows the module, but a parameter and no state of training."""

    def __init__(
        self,
        *,
        class_weights: Sequence[float] | Tensor | None = None,
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        weights = None if class_weights is None else _check_class_weights(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self.class_weights: Tensor | None


class CrossEntropyLoss(_ClassWeightedLoss):
    """[`cross_entropy_loss`] as a module."""

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return cross_entropy_loss(
            logits, labels, class_weights=self.class_weights, reduction=reduction, ignore_index=self.ignore_index
        )


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


class FocalLoss(_ClassWeightedLoss):
    """[`focal_loss`] as a module."""

    def __init__(
        self,
        *,
        gamma: float = 3.0,
        class_weights: Sequence[float] | Tensor | None = None,
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(class_weights=class_weights, reduction=reduction, ignore_index=ignore_index)
        self.gamma = _check_number("gamma", gamma)

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return focal_loss(
            logits,
            labels,
            gamma=self.gamma,
            class_weights=self.class_weights,
            reduction=reduction,
            ignore_index=self.ignore_index,
        )


class SampleDependentFocalLoss(_ClassWeightedLoss):
    """[`sample_dependent_focal_loss`] (FLSD) as a module."""

    def __init__(
        self,
        *,
        gammas: Sequence[float] = (5.0, 3.0),
        thresholds: Sequence[float] = (0.2,),
        class_weights: Sequence[float] | Tensor | None = None,
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(class_weights=class_weights, reduction=reduction, ignore_index=ignore_index)
        self.gammas = _check_sample_dependent(gammas, thresholds)
        self.thresholds = tuple(thresholds)

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return sample_dependent_focal_loss(
            logits,
            labels,
            gammas=self.gammas,
            thresholds=self.thresholds,
            class_weights=self.class_weights,
            reduction=reduction,
            ignore_index=self.ignore_index,
        )


class DualFocalLoss(CalibrationLoss):
    """[`dual_focal_loss`] as a module."""

    def __init__(self, *, gamma: float = 5.0, reduction: str = "mean", ignore_index: int = -100) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        self.gamma = _check_number("gamma", gamma)

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return dual_focal_loss(logits, labels, gamma=self.gamma, reduction=reduction, ignore_index=self.ignore_index)


class AdaFocalLoss(CalibrationLoss):
    r"""
    Focal loss that adapts a gamma for each bin of probability to validation data (AdaFocal; Ghosh et al., 2022).

    The validation samples are cut into bins of equal mass by their confidence. After each evaluation the gamma of a
    bin becomes $\gamma e^{\lambda (C - A)}$, C the mean confidence and A the accuracy in the bin (the exponent changes
    its sign for a negative gamma): it grows where the model is over-confident. Where $|\gamma|$ falls below 0.2 it
    jumps to 0.2 of the other sign, between focal and inverse focal loss, and it stays in [-2, 20]. A training sample
    takes the gamma of the bin that its $p_y$ lies in; see [`adafocal_loss`]. A bin that ties in confidence leave
    without samples keeps its gamma.

    `CalibrationTrainer` updates the loss by itself, a plain `Trainer` needs `callbacks=[loss.callback()]`, and both
    keep the state in checkpoints; a loop of your own calls [`~AdaFocalLoss.update_from_validation`] after each epoch
    and saves `state_dict()`. A loss that is never updated is focal loss with the gamma of the start.

    Args:
        lam (`float`, *optional*, defaults to `1.0`):
            $\lambda$, how fast the gammas move; not negative.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.
        start (`float`, *optional*, defaults to `1.0`):
            The gamma of every bin before the first update, from 0.2 to 20.
    """

    gammas: Tensor
    edges: Tensor

    SWITCH, LOWEST, HIGHEST = 0.2, -2.0, 20.0

    def __init__(
        self,
        *,
        lam: float = 1.0,
        n_bins: int = 15,
        start: float = 1.0,
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        self.lam = _check_number("lam", lam)
        if isinstance(n_bins, bool) or not isinstance(n_bins, int) or n_bins < 1:
            raise ValueError(f"n_bins must be an int, at least 1, got {n_bins!r}.")
        self.n_bins = n_bins
        self.start = _check_number("start", start, self.SWITCH)
        if self.start > self.HIGHEST:
            raise ValueError(f"start must be at most {self.HIGHEST:g}, got {start!r}.")
        self.register_buffer("gammas", torch.full((n_bins,), self.start))
        self.register_buffer("edges", torch.arange(1, n_bins) / n_bins)

    @torch.no_grad()
    def update_from_validation(self, logits: Any, labels: Any) -> None:
        """
        Move the gammas by how far confidence is from accuracy on validation data.

        Args:
            logits (`torch.Tensor` or `np.ndarray` of shape `(N, K)` or `(N, T, K)`):
                Raw scores, not probabilities.
            labels (`torch.Tensor` or `np.ndarray` of shape `(N,)` or `(N, T)`):
                Class indices, or `ignore_index`.

        Raises:
            ValueError: If no label counts, a logit is NaN or infinite, or shapes disagree.
        """
        logits, labels = torch.as_tensor(logits), torch.as_tensor(labels)
        if logits.ndim not in (2, 3) or labels.shape != logits.shape[:-1]:
            raise ValueError(
                "logits must have shape (N, K) or (N, T, K), and labels that without K, got "
                f"{tuple(logits.shape)} and {tuple(labels.shape)}."
            )
        kept = labels != self.ignore_index
        logits, labels = logits[kept].float(), labels[kept]
        if len(labels) == 0:
            raise ValueError("AdaFocal needs validation labels to be updated from, got none that counts.")
        log_confidences, predictions = torch.log_softmax(logits, dim=-1).max(dim=-1)
        if not bool(torch.isfinite(log_confidences).all()):
            raise ValueError("The validation logits must be finite, got NaN or infinity: has training diverged?")
        confidences = log_confidences.exp().to(self.edges.device)
        correct = (predictions == labels).to(self.edges.device)
        starts = torch.arange(1, self.n_bins, device=self.edges.device) * len(labels) // self.n_bins
        self.edges.copy_(confidences.sort().values[starts])
        bins = torch.bucketize(confidences, self.edges, right=True)
        gaps = (confidences.double() - correct.double()).cpu()
        sums = torch.zeros(self.n_bins, dtype=torch.float64).index_add_(0, bins.cpu(), gaps)
        gap = sums / torch.bincount(bins.cpu(), minlength=self.n_bins).clamp(min=1)
        gammas = self.gammas.cpu().double()
        gammas = gammas * torch.exp(self.lam * gap * gammas.sign())
        gammas = torch.where(gammas.abs() < self.SWITCH, -self.SWITCH * gammas.sign(), gammas)
        self.gammas.copy_(gammas.clamp(self.LOWEST, self.HIGHEST))

    def callback(self, evaluate: bool = True) -> TrainerCallback:
        """
        A `TrainerCallback` that updates this loss after each evaluation during training and keeps its state in the
        checkpoints of the trainer.

        Args:
            evaluate (`bool`, *optional*, defaults to `True`):
                Run the model over the evaluation data once more to update the loss. With `False` the callback keeps
                the state alone: `CalibrationTrainer` has the logits at hand.
        """
        from transformers import TrainerCallback
        from transformers.trainer_callback import ExportableState

        loss = self

        class AdaFocalCallback(TrainerCallback, ExportableState):
            training = False

            def state(self) -> dict[str, Any]:
                return {"args": {}, "attributes": {name: value.tolist() for name, value in loss.state_dict().items()}}

            def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                self.training = True
                if evaluate and args.world_size > 1:
                    raise ValueError(
                        "In several processes AdaFocal needs CalibrationTrainer, which gathers the logits."
                    )
                # Of a resumed run this is the state in the checkpoint, of a new one the present state.
                kept = state.stateful_callbacks.setdefault(type(self).__name__, self.state())["attributes"]
                loss.load_state_dict({name: torch.tensor(value) for name, value in kept.items()})

            def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                self.training = False

            def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if evaluate and self.training:
                    loss.update_from_validation(*_predict(kwargs["model"], kwargs["eval_dataloader"]))

        return AdaFocalCallback()

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return adafocal_loss(
            logits,
            labels,
            gammas=self.gammas,
            edges=self.edges,
            reduction=reduction,
            ignore_index=self.ignore_index,
        )


@torch.no_grad()
def _predict(model: nn.Module, batches: Any) -> tuple[Tensor, Tensor]:
    """Flat logits and labels of all batches, whose token sequences may differ in length."""
    was_training = model.training
    model.eval()
    logits, labels = [], []
    for batch in batches:
        scores = extract_logits(model(**{name: value for name, value in batch.items() if name != "labels"}))
        logits.append(scores.float().reshape(-1, scores.shape[-1]).cpu())
        labels.append(batch["labels"].reshape(-1).cpu())
    model.train(was_training)
    return torch.cat(logits), torch.cat(labels)


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
            def on_step_begin(callback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: N805
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
    "dual-focal": DualFocalLoss,
    "adafocal": AdaFocalLoss,
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
