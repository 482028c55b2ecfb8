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


_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)  # their square roots are phases that never repeat
_SAME = 1e-9  # of the norm: what sums in another order and the digits kept may differ by
_QUANTISED = 0.3  # of the norm: 4 bits are off by 0.1 to 0.15, and another head by 1.4
_COARSEST = 8  # bits of a significand, those of bfloat16


def fingerprint(model: nn.Module, heads: list[nn.Module] | None = None) -> dict[str, Any]:
    """
    What a record keeps of these modules of a model, as its entry `"head"`, or nothing where weights cannot be read.

    Of each weight and bias it holds the shape, the bits of significand in use, the norm and eight projections. Of a
    model without given modules they are the likely head, and that of an adapter's layers which comes last.
    """
    prints = _prints(_likely_head(model) if heads is None else heads)
    if not prints or _sharded(model):
        return {}
    found: dict[str, Any] = {"kind": _kind(model), "modules": prints}
    if heads is None and (adapter := _prints(_adapter_part(model))):
        found["adapter"] = adapter
    return {"head": found}


def _prints(modules: list[nn.Module]) -> list[dict[str, Any]]:
    found = [{name: one if one is None else _print(one) for name, one in _weights(head).items()} for head in modules]
    return found if all(one and None not in one.values() for one in found) else []


def difference(model: nn.Module, found: Mapping[str, Any]) -> str:
    """
    Why no head of a model has that fingerprint, as the end of a sentence; `""` where one has, or that cannot be told.

    Names of modules do not matter, since adapters, wrappers and versions of transformers change them.
    """
    kind = _kind(model)
    if found["kind"] and kind and kind != found["kind"]:
        return f"that was one of a model *{found['kind']}, and this is {type(model).__name__}"
    modules = [module for module in _in_effect(model) if _shapes(module)]
    for head in () if _sharded(model) else found["modules"]:
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
    given = found if isinstance(found, Mapping) else {}
    kind, modules, adapter = given.get("kind"), given.get("modules"), given.get("adapter", [])
    lists = isinstance(modules, list) and isinstance(adapter, list) and modules
    if not (lists and isinstance(kind, str | None) and all(map(_is_print, [*modules, *adapter]))):
        raise ValueError(
            f"{name} must be the fingerprint of a head, as hf_focal writes it, got {str(found)[:200]}. Without it the "
            "record is taken to be of the head that is there."
        )


def _is_print(module: Any) -> bool:
    def is_number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    def is_one(value: Any) -> bool:
        return (
            isinstance(value, Mapping)
            and all(
                isinstance(value.get(key), list) and all(map(is_number, value[key])) for key in ("shape", "numbers")
            )
            and is_number(value.get("bits"))
            and len(value["numbers"]) == 1 + len(_PRIMES)
        )

    return isinstance(module, Mapping) and bool(module) and all(map(is_one, module.values()))


def _likely_head(model: Any) -> list[nn.Module]:
    """The last module with as many outputs as labels, or else with weights: no batch is needed to find it."""
    modules = [module for module in _in_effect(model) if _shapes(module)]
    labels = model.config.num_labels
    heads = [one for one in modules if labels in (getattr(one, key, None) for key in ("out_features", "out_channels"))]
    return (heads or modules)[-1:]


def _adapter_part(model: nn.Module) -> list[nn.Module]:
    """The last module that an adapter adds to a layer."""
    layers = [module for module in _in_effect(model) if _changed(module)]
    parts = [part for name, part in layers[-1].named_modules() if not name.startswith("base_layer")] if layers else []
    return [part for part in parts if not _changed(part) and _own(part)][-1:]


def _in_effect(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that make the outputs: those of the active adapter in place of others, changed layers as a whole."""
    kept = getattr(module, "modules_to_save", None)
    if isinstance(kept, nn.ModuleDict) and hasattr(module, "original_module"):
        active = [kept[name] for name in getattr(module, "active_adapters", []) if name in kept]
        for child in active or [module.original_module]:
            yield from _in_effect(child)
        return
    yield module
    if not _changed(module):
        for child in module.children():
            yield from _in_effect(child)


def _changed(module: nn.Module) -> bool:
    """Whether it is a layer of PEFT, which changes one of the model."""
    return hasattr(module, "base_layer") and hasattr(module, "get_base_layer")


def _weights(module: Any) -> dict[str, Tensor | None]:
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
    return {name: _values(one) for name, one in _own(module).items()}


def _own(module: Any) -> dict[str, Tensor]:
    if found := dict(module.named_parameters(recurse=False)):
        return found
    both = {
        name: getattr(module, name, None) for name in ("weight", "bias")
    }  # methods, of layers that torch quantised
    called = {name: one() for name, one in both.items() if callable(one)}
    return {name: one for name, one in called.items() if isinstance(one, Tensor)}


def _values(tensor: Tensor) -> Tensor | None:
    if tensor.device.type == "meta" or _is_sharded(tensor):
        return None
    plain = tensor.detach()
    if _is_quantised(plain):
        try:
            plain = plain.dequantize()
        except (RuntimeError, NotImplementedError, TypeError):
            return None
    return plain.cpu().double() if plain.is_floating_point() else None


def _is_quantised(tensor: Tensor) -> bool:
    return tensor.is_quantized or type(tensor) not in (Tensor, nn.Parameter) or not tensor.is_floating_point()


def _is_sharded(tensor: Tensor) -> bool:
    return any(hasattr(tensor, name) for name in ("ds_id", "placements", "_is_flat_param")) or tensor.numel() == 0


def _sharded(model: nn.Module) -> bool:
    """Whether parts of the model are with other processes."""
    return any(map(_is_sharded, model.parameters()))


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
    per_row = values[0].numel()
    length = 32 if per_row % 32 == 0 else per_row if per_row >= 16 else values.numel()
    stretches = values.reshape(-1, length)
    if values.dim() < 2 or length < 16:
        return 0.0
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
    """What the class of the model ends in, such as `"ForTokenClassification"`."""
    for module in model.modules():  # of wrappers, too
        for cls in type(module).__mro__:
            if (match := re.search("For[A-Z].*$", cls.__name__)) and hasattr(module, "config"):
                return match.group()
    return None
