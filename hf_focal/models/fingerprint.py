# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
The fingerprint of a classification head: a few numbers by which a record of a calibration knows the head that it was
fitted to, in whatever precision that is loaded.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..calibrators.base import short
from ..networks.zero_shot import has_scale
from .sharded import is_part, whole


_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)  # their square roots are phases that never repeat
_SAME = 1e-9  # of the norm: what sums in another order and the digits kept may differ by
_QUANTISED = 0.3  # of the norm: 4 bits are off by 0.1 to 0.15, and another head by 1.4
_COARSEST = 8  # bits of a significand, those of bfloat16


def fingerprint(model: nn.Module, heads: list[nn.Module] | None = None) -> dict[str, Any]:
    """
    What a record keeps of these modules of a model, as its entry `"head"`, or nothing where weights cannot be read.
    Where FSDP2 has parts of them in several processes, all of these must call it.

    Of each weight and bias it holds the shape, the bits of significand in use, the norm and eight projections. Of a
    model without given modules they are the likely head, and that of an adapter's layers which comes last.
    """
    if has_scale(model):  # which alone, a number that many models share, tells little
        heads = [model, *_towers(model)]
    prints = _prints(_likely_head(model) if heads is None else heads)
    if not prints or any(_is_part(one) and not is_part(one) for one in model.parameters()):
        return {}
    found: dict[str, Any] = {"kind": _kind(model), "modules": prints}
    if heads is None and (adapter := _prints(_adapter_part(model))):
        found["adapter"] = adapter
    return {"head": found}


def _prints(modules: list[nn.Module]) -> list[dict[str, Any]]:
    weights = [_weights(module, gather=True) for module in modules]
    if any(one is None or not one.isfinite().all() for of_module in weights for one in of_module.values()):
        return []
    return [{name: _print(one) for name, one in of_module.items() if one is not None} for of_module in weights]


def fingerprint_of(name: str, modules: list[dict[str, Tensor]]) -> dict[str, Any]:
    """As [`fingerprint`], of weights that are in no model, of one whose class has that name."""
    found = [{part: one.double() for part, one in tensors.items()} for tensors in modules]
    if not all(one.isfinite().all() for tensors in found for one in tensors.values()):
        return {}
    prints = [{part: _print(one) for part, one in tensors.items()} for tensors in found]
    return {"head": {"kind": _kind_of(name), "modules": prints}}


def why_not_of(name: str, modules: list[dict[str, Tensor]], found: Mapping[str, Any]) -> str:
    """As [`difference`], of weights that are in no model."""
    kind = _kind_of(name)
    if found["kind"] and kind and kind != found["kind"]:
        return f"that was one of a model *{found['kind']}, and this is {name}"
    for head in found["modules"]:
        if not any(
            head.keys() == one.keys() and all(_is_same(one[part].double(), head[part], False) for part in one)
            for one in modules
        ):
            return "its weights are others"
    return ""


def difference(model: nn.Module, found: Mapping[str, Any]) -> str:
    """
    Why no head of a model has that fingerprint, as the end of a sentence; `""` where one has, or that cannot be told.

    Names of modules do not matter, since adapters, wrappers and versions of transformers change them.
    """
    kind = _kind(model)
    if found["kind"] and kind and kind != found["kind"]:
        return f"that was one of a model *{found['kind']}, and this is {type(model).__name__}"
    if _is_sharded(model):
        return ""
    modules = [module for module in in_effect(model) if _shapes(module)]
    for head in found["modules"]:
        shapes = {name: tuple(one["shape"]) for name, one in head.items()}
        of_shape = [module for module in modules if _may_have(module, shapes)]
        if any(_matches(module, head) for module in of_shape):
            continue
        size = " and ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        return f"its weights are others ({size})" if of_shape else f"the model has none of that size ({size})"
    part = _adapter_part(model)  # none once the adapter is merged
    if part and any(not _matches(part[0], one) for one in found.get("adapter", ())):
        return "the adapter's weights are others"
    return ""


def check_fingerprint(found: Any, name: str) -> None:
    """Refuse what is none."""
    known = isinstance(found, Mapping) and isinstance(found.get("kind"), str | None)
    modules, adapter = (found.get("modules"), found.get("adapter", [])) if known else (None, None)
    if not isinstance(modules, list) or not modules or not isinstance(adapter, list) or not all(
        isinstance(module, Mapping) and all(map(_is_print, module.values())) for module in [*modules, *adapter]
    ):  # fmt: skip
        raise ValueError(
            f"{name} must be the fingerprint of a head, as hf_focal writes it, got {short(found)}. Without it the "
            "record is taken to be of the head that is there."
        )


def _is_print(one: Any) -> bool:
    if not isinstance(one, Mapping):
        return False
    bits, shape, numbers = one.get("bits"), one.get("shape"), one.get("numbers")
    if not isinstance(shape, list) or not isinstance(numbers, list) or len(numbers) != 1 + len(_PRIMES):
        return False
    return all(isinstance(number, int | float) for number in [bits, *shape, *numbers])


def _likely_head(model: Any) -> list[nn.Module]:
    """The last module with as many outputs as labels, or else with a matrix: no batch is needed to find it."""
    modules = [module for module in in_effect(model) if _shapes(module)]
    labels = model.config.num_labels
    heads = [one for one in modules if labels in (getattr(one, key, None) for key in ("out_features", "out_channels"))]
    matrices = [one for one in modules if _has_matrix(one)]
    return (heads or matrices or modules)[-1:]


def _towers(model: nn.Module) -> list[nn.Module]:
    """Of each part of an image-text model the last module with a matrix."""
    parts = [[one for one in part.modules() if _has_matrix(one)] for part in model.children()]
    return [found[-1] for found in parts if found]


def _has_matrix(module: Any) -> bool:
    return any(len(shape) > 1 for shape in _shapes(module).values())


def _adapter_part(model: nn.Module) -> list[nn.Module]:
    """The last module that an adapter adds to a layer."""
    layers = [module for module in in_effect(model) if _changed(module)]
    named = layers[-1].named_modules() if layers else ()
    parts = [part for name, part in named if not name.startswith("base_layer")]
    return [part for part in parts if not _changed(part) and _own(part)][-1:]


def in_effect(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that make the outputs: those of the active adapter in place of others, changed layers as a whole."""
    kept = getattr(module, "modules_to_save", None)
    if isinstance(kept, nn.ModuleDict) and isinstance(original := getattr(module, "original_module", None), nn.Module):
        for child in [kept[name] for name in getattr(module, "active_adapters", []) if name in kept] or [original]:
            yield from in_effect(child)
        return
    yield module
    if not _changed(module):
        for child in module.children():
            yield from in_effect(child)


def _changed(module: nn.Module) -> bool:
    """Whether it is a layer of PEFT, which changes one of the model."""
    return hasattr(module, "base_layer") and hasattr(module, "get_base_layer")


def _weights(module: Any, gather: bool = False) -> dict[str, Tensor | None]:
    """Its own parameters in float64; `None` for one that is not here, sharded, or packed in an unknown way."""
    if _changed(module):  # as they are once the adapter is merged
        layer = module
        if not getattr(module, "merged", False):
            try:
                layer = copy.deepcopy(module)
                layer.merge()
            except (RuntimeError, ValueError, NotImplementedError, AttributeError, TypeError):
                return dict.fromkeys(_shapes(module))
        return _weights(layer.get_base_layer())
    return {name: _values(whole(one.detach()) if gather else one) for name, one in _own(module).items()}


def _own(module: Any) -> dict[str, Tensor]:
    if hasattr(module, "_packed_params") and hasattr(module, "weight"):  # torch quantised it: methods
        return {name: one for name in ("weight", "bias") if (one := getattr(module, name)()) is not None}
    return dict(module.named_parameters(recurse=False))


def _values(tensor: Tensor) -> Tensor | None:
    values = tensor.detach()
    if values.device.type == "meta" or _is_part(tensor):
        return None
    if _is_quantised(tensor):
        values = values.dequantize()
    return values.cpu().double() if values.is_floating_point() and values.element_size() > 1 else None


def _is_quantised(tensor: Tensor) -> bool:
    return tensor.is_quantized or type(tensor).dequantize is not Tensor.dequantize


def _is_part(tensor: Tensor) -> bool:
    """Whether the rest of it may be with other processes, as DeepSpeed, DTensor and FSDP have it."""
    return any(hasattr(tensor, name) for name in ("ds_id", "placements", "_is_flat_param")) or tensor.shape == (0,)


def _is_sharded(model: nn.Module) -> bool:
    return any(map(_is_part, model.parameters()))


def _shapes(module: Any) -> dict[str, tuple[int, ...]]:
    if _changed(module):
        return _shapes(module.get_base_layer())
    return {name: tuple(one.shape) for name, one in _own(module).items()}


def _may_have(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether it has weights of these shapes; those that are packed have others, and its sizes then tell."""
    if _shapes(module) == dict(shapes):
        return True
    sizes = getattr(module, "out_features", None), getattr(module, "in_features", None)
    return sizes == shapes.get("weight") and any(one is None for one in _weights(module).values())


def _matches(module: nn.Module, head: Mapping[str, Any]) -> bool:
    """Whether the weights are those of a fingerprint, up to rounding, or cannot be read."""
    values = _weights(module)
    if any(one is None for one in values.values()):
        return True
    quantised = {name for name, one in _own(module).items() if _is_quantised(one)}
    return values.keys() == head.keys() and all(
        one is None or _is_same(one, head[name], name in quantised) for name, one in values.items()
    )


def _print(values: Tensor) -> dict[str, Any]:
    numbers = [float(f"{number:.12g}") for number in _numbers(values).tolist()]
    return {"shape": list(values.shape), "bits": _bits(values), "numbers": numbers}


def _numbers(values: Tensor) -> Tensor:
    """
    The norm, and projections on waves of rising frequency, `sqrt(2) cos(i^2 sqrt(p))`, of rows and of columns. They
    are like random signs, so that the mean square of eight is near the square of the norm, of any difference too.
    """
    rows = values.reshape(len(values), -1) if values.dim() > 1 else values.reshape(-1, 1)
    frequencies = torch.tensor(_PRIMES, dtype=torch.float64).sqrt()

    def waves(count: int, shift: float) -> Tensor:
        places = torch.arange(1, count + 1, dtype=torch.float64) + shift
        return 2**0.5 * torch.cos(places[:, None] ** 2 * frequencies)

    projections = (waves(len(rows), 0.0) * (rows @ waves(rows.shape[1], 0.5))).sum(0)
    return torch.cat([rows.norm()[None], projections])


def _bits(values: Tensor) -> int:
    """The bits of significand that the numbers make use of: 24 of float32, 8 of bfloat16, also after it is float32."""
    whole = (torch.frexp(values).mantissa * 2**53).long()
    lowest = (whole & -whole)[whole != 0]
    return _COARSEST if len(lowest) == 0 else max(_COARSEST, 53 - int(lowest.min().item()).bit_length() + 1)


def _is_same(values: Tensor, found: Mapping[str, Any], quantised: bool) -> bool:
    if list(values.shape) != found["shape"]:
        return False
    expected = torch.tensor(found["numbers"], dtype=torch.float64)
    off, norm = float((_numbers(values) - expected).square().mean().sqrt()), float(expected[0])
    if off <= _SAME * norm:
        return True
    # Rounding to b bits moves each weight by at most 2^-b of it, so all by 2^-b of the norm (0.4 of that in the mean;
    # eight projections find 1.5 of it with probability below 1e-12). float16 also rounds tiny ones, to 2^-24.
    bits = _bits(values)
    allowed = 2.0**-25 * values.numel() ** 0.5 if bits <= 11 else 0.0
    if bits < found["bits"]:
        allowed += 2.0**-bits * norm
    if quantised:
        allowed = max(allowed, _QUANTISED * norm / 1.5)
    return off <= 1.5 * max(allowed, _half_steps(values) if off < _QUANTISED * norm else 0.0)


def _half_steps(values: Tensor) -> float:
    """
    The norm of half a step a weight, where every stretch of them lies on a grid of at most 256 steps, as weights do
    that were quantised and put back; else 0.
    """
    if values.dim() < 2 or values.numel() < 16:
        return 0.0
    per_row = values[0].numel()
    length = 32 if per_row % 32 == 0 else per_row if per_row >= 16 else values.numel()
    stretches = values.reshape(-1, length)
    ordered = torch.cat([stretches, torch.zeros(len(stretches), 1, dtype=torch.float64)], dim=1).sort().values
    largest = stretches.abs().amax(1, keepdim=True)
    gaps = ordered.diff(dim=1)
    gap = torch.where(gaps > largest / 1000, gaps, torch.inf).amin(1, keepdim=True)
    steps, done = torch.zeros_like(gap), (largest == 0)
    for parts in range(1, 9):
        step = gap / parts
        on_grid = ((stretches / step).round() - stretches / step).abs().amax(1, keepdim=True) < 0.02
        fits = on_grid & (largest / step < 256) & ~done
        steps, done = torch.where(fits, step, steps), done | fits
    return float((steps.square().sum() * length).sqrt()) / 2 if done.all() else 0.0


def _kind(model: nn.Module) -> str | None:
    """What the class of the model in transformers ends in, such as `"ForTokenClassification"`."""
    for module in model.modules():  # of wrappers, too
        if isinstance(module, PreTrainedModel):
            names = [cls.__name__ for cls in reversed(type(module).__mro__)]  # anybody may subclass one
            for kind in filter(None, map(_kind_of, names)):
                return kind
    return None


def _kind_of(name: str) -> str | None:
    found = re.search("For[A-Z].*$", name)
    return found.group() if found else None
