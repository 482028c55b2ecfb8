# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Weights of which several processes hold parts (FSDP2): gathered, and set in their places, by all of these."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def is_part(tensor: Any) -> bool:
    """Whether it is a tensor of which other processes hold the rest, that can be gathered."""
    return hasattr(tensor, "full_tensor")  # a DTensor, whose module takes long to import


def whole(tensor: Any) -> Tensor:
    """The tensor itself, or all of one that is in parts."""
    return tensor.full_tensor() if is_part(tensor) else tensor


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


def precisions(model: Any, modules: list[nn.Module]) -> set[torch.dtype]:
    """What the weights of modules are computed with, which may be less than FSDP2 keeps them in."""
    gathers = is_sharded(model)
    if gathers:
        model.unshard()
    found = {parameter.dtype for module in modules for parameter in module.parameters(recurse=False)}
    if gathers:
        reshard(model)
    return found


def reshard(model: nn.Module) -> None:
    """Let go of the weights that the last call gathered: what is written into these would be lost."""
    parts: list[Any] = [module for module in model.modules() if hasattr(module, "reshard")]
    for part in parts:
        part.reshard()
