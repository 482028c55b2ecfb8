# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""That training diverged, and at which step, found without waiting for an accelerator at every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


# A gradient scaler (fp16) skips steps until its scale fits; after so many in a row it is not the scale.
SKIPPED_STEPS = 50


def divergence(step: int, found: str, args: Any) -> ValueError:
    """The error of a training that diverged, with what was found at that step and what to try."""
    clipping = "" if args.max_grad_norm else ", max_grad_norm=1.0 to clip gradients"
    half = ", bf16 or float32 instead of fp16" if args.fp16 else ""
    return ValueError(
        f"The training diverged at step {step}: {found}. Try a lower learning_rate (now {args.learning_rate:g}), "
        f"warmup_steps{clipping}{half}; checkpoints of earlier steps are as they were."
    )


def are_scores(logits: Tensor) -> Tensor:
    """Of each row whether it has a softmax: no NaN, no +inf, and not nothing but -inf, which rules a class out."""
    return logits.detach().amax(-1).isfinite()  # the maximum is NaN where any value is


class DivergenceWatch:
    """
    Sees every loss of a training.

    Args:
        model (`torch.nn.Module`):
            What is trained.
        args (`TrainingArguments`):
            Those of the trainer.
        scaled (`bool`):
            Whether a gradient scaler skips steps whose gradients are not finite.
    """

    def __init__(self, model: nn.Module, args: Any, scaled: bool) -> None:
        self.model, self.args, self.scaled = model, args, scaled
        # The step from which on no loss was finite, or 0. It stays on the device until it is asked for.
        self._since = torch.zeros((), dtype=torch.long, device=args.device)
        self._scores = torch.ones((), dtype=torch.bool, device=args.device)
        # The Trainer waits for every loss by itself where it filters those that are not finite out of its log.
        self._at_once = args.logging_nan_inf_filter or args.device.type == "cpu"

    def see(self, loss: Tensor, step: int) -> None:
        """Take note of the loss of a micro-batch of that step; refuse to go on where that costs no waiting."""
        first = torch.where(self._since > 0, self._since, step)
        self._since = torch.where(loss.detach().isfinite().all(), 0, first)
        if self._at_once:
            self.check(step)

    def check(self, step: int) -> None:
        """Refuse to go on after losses that were not finite, if weights or gradients are not finite either."""
        since = int(self._since)
        if since and (step - since >= SKIPPED_STEPS if self.scaled else not self._finite(gradients=True)):
            raise divergence(since, "the loss is not finite", self.args)

    def check_weights(self, step: int) -> None:
        """Refuse weights that are not finite, before they are saved or measured."""
        self.check(step)
        if not self._finite():
            raise divergence(int(self._since) or step, "weights are not finite", self.args)

    def end(self, step: int) -> None:
        """[`check_weights`], and refuse a training whose last steps a gradient scaler skipped all."""
        self.check_weights(step)
        if self.scaled and (since := int(self._since)):
            raise divergence(since, "the loss is not finite", self.args)

    def see_logits(self, logits: Tensor, labels: Tensor) -> None:
        """Take note of the logits of a batch of an evaluation during training, where a label counts."""
        sigmoid = labels.shape == logits.shape
        fine = logits.detach().isfinite() if sigmoid else are_scores(logits)
        if labels.shape == fine.shape:
            fine = fine | (labels == -100)
        self._scores = self._scores & fine.all()

    def check_logits(self, step: int) -> None:
        """Refuse to measure logits that no softmax can be taken of."""
        if not bool(self._scores):
            raise divergence(step, "the logits of the evaluation are not finite", self.args)

    def _finite(self, gradients: bool = False) -> bool:
        weights = [one for one in self.model.parameters() if one.requires_grad and one.device.type != "meta"]
        tensors = [*weights, *(one.grad for one in weights if gradients and one.grad is not None)]
        floating = [one.detach() for one in tensors if one.is_floating_point()]
        return all(bool(one.isfinite().all()) for one in floating)
