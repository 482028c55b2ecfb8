# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Weights of which several processes hold parts (FSDP2): gathered, and set in their places, by all of these."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def is_part(tensor: Any) -> bool:
    """Whether it is a tensor of which other processes hold the rest, that can be gathered."""
    return hasattr(tensor, "full_tensor")  # a DTensor, whose module takes long to import


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or all of one that is in parts."""
    return tensor.full_tensor() if is_part(tensor) else tensor  # type: ignore[operator]


def put(parameter: Tensor, values: Tensor) -> None:
    """Copy whole values into a parameter, or into this process's part of it."""
    if not is_part(parameter):
        parameter.copy_(values)
        return
    from torch.distributed.tensor import distribute_tensor

    there: Any = parameter
    values = values.to(parameter.device, parameter.dtype)
    parameter.copy_(distribute_tensor(values, there.device_mesh, there.placements))


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 gathers the weights of a model while it is called."""
    return any(hasattr(module, "reshard") for module in model.modules())


def reshard(model: nn.Module) -> None:
    """Let go of the weights that the last call gathered: what is written into these would be lost."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()
