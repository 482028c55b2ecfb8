# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Callbacks by which a plain `Trainer` keeps a loss informed; `CalibrationLoss.callback` makes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from .rows import extract_logits


class ProgressCallback(TrainerCallback):
    """Tells a loss how far training has come, from the trainer's own state (so resuming is exact)."""

    def __init__(self, loss: Any, evaluate: bool) -> None:
        self.loss, self.evaluate = loss, evaluate

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.loss.set_progress(fraction=state.global_step / max(state.max_steps, 1), epoch=state.epoch or 0.0)


class ValidationCallback(ProgressCallback, ExportableState):
    """Updates a loss after each evaluation, and keeps its state in the checkpoints, under the name of this class."""

    training = False

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {name: value.tolist() for name, value in self.loss.state_dict().items()}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.training = True
        if self.evaluate and args.world_size > 1:
            raise ValueError(
                f"In several processes {type(self.loss).__name__} needs CalibrationTrainer, which gathers the logits."
            )
        # Of a resumed run this is the state in the checkpoint, of a new one the present state.
        kept = state.stateful_callbacks.setdefault(type(self).__name__, self.state())["attributes"]
        self.loss.load_state_dict({name: torch.tensor(value) for name, value in kept.items()})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.training = False

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.evaluate and self.training:
            self.loss.update_from_validation(*_predict(kwargs["model"], kwargs["eval_dataloader"]))


@torch.no_grad()
def _predict(model: nn.Module, batches: Any) -> tuple[Tensor, Tensor]:
    """Logits and labels of all batches, flat where they are of token sequences, which may differ in length."""
    was_training = model.training
    model.eval()
    logits, labels = [], []
    for batch in batches:
        scores = extract_logits(model(**{name: value for name, value in batch.items() if name != "labels"}))
        logits.append(scores.float().reshape(-1, scores.shape[-1]).cpu())
        labels.append((batch["labels"] if scores.ndim == 2 else batch["labels"].reshape(-1)).cpu())
    model.train(was_training)
    return torch.cat(logits), torch.cat(labels)
