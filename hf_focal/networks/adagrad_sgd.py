# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The optimizer of the Tree-LSTM: Adagrad, and plain SGD for the word vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class AdagradWithEmbeddingSGD(torch.optim.Optimizer):
    """
    Adagrad for all parameters but the embeddings, which plain SGD tunes (Tai et al., 2015; Mukhoti et al., 2020,
    Section 5). Schedulers scale both learning rates, and checkpoints hold the state of both.

    Args:
        model (`torch.nn.Module`):
            Its parameters are trained, frozen ones aside.
        lr (`float`, *optional*, defaults to `0.05`):
            Learning rate of Adagrad.
        embedding_lr (`float`, *optional*, defaults to `0.1`):
            Learning rate of SGD.
        weight_decay (`float`, *optional*, defaults to `1e-4`):
            Weight decay of Adagrad; the embeddings have none.

    A `Trainer` takes the class, and builds it once the model is where it is trained:

        Trainer(model, args, optimizer_cls_and_kwargs=(AdagradWithEmbeddingSGD, {"model": model}), ...)
    """

    def __init__(
        self, model: nn.Module, lr: float = 0.05, embedding_lr: float = 0.1, weight_decay: float = 1e-4
    ) -> None:
        embeddings = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        tuned = [parameter for parameter in trained if parameter in embeddings]
        others = [parameter for parameter in trained if parameter not in embeddings]
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.Adagrad(others, lr=lr, weight_decay=weight_decay)]
        if tuned:
            self.optimizers.append(torch.optim.SGD(tuned, lr=embedding_lr))
        super().__init__([group for optimizer in self.optimizers for group in optimizer.param_groups], {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
