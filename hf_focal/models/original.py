# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a classification head was before a calibrator was folded in: kept with it, saved beside it, found again."""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.utils import cached_file

from ..calibrators.base import Affine, Calibrator, calibrator_of, is_known, short
from .fingerprint import in_effect
from .head import Head, map_weights
from .record import has_adapter, stated_record, write_adapter_record
from .sharded import is_part


logger = logging.getLogger(__name__)


# Servers such as vLLM take every `*.safetensors` beside the weights for weights: the dot keeps it out of their globs,
# and the prefix its tensors out of the model.
ORIGINAL_HEAD = ".head_before_calibration.safetensors"
_PREFIX, _ABOUT = "before_calibration.", "hf_focal"
_KEPT = "_before_calibration"  # the attribute of a module: no parameter, no buffer
_DTYPES = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Original:
    """What a module of the head was: its weights, on the CPU, and `Head.share`."""

    weights: dict[str, Tensor]
    share: float = 1.0


def keep_original(model: Any, head: Head, weights: list[dict[str, Tensor]]) -> None:
    """Keep what the modules of a head were, for whatever saves the model to write."""
    attach_original(
        model, [(one, Original(kept, head.share)) for one, kept in zip(head.modules, weights, strict=True)]
    )


def attach_original(model: Any, found: list[tuple[nn.Module, Original]]) -> None:
    """Keep it with these modules of the model."""
    for module, original in found:
        setattr(module, _KEPT, original)
    hook_save(model)


def forget_original(model: nn.Module) -> None:
    """Keep it no longer."""
    for module in model.modules():
        module.__dict__.pop(_KEPT, None)


def original_head(model: Any, affine: Affine) -> list[tuple[nn.Module, Original]]:
    """
    The modules that `affine` was folded into, and what they were: as kept, or else as saved beside the model. None
    where there is nothing of the kind, or it is not what this head was.
    """
    kept = kept_original(model)
    if not kept and (path := _beside(model)) is not None:
        load_original(model, path)
        kept = kept_original(model)
    if kept and (reason := _why_of_another(kept, affine)):
        logger.warning("The head before calibration that is kept with this %s is not used: %s.", _name(model), reason)
        return []
    return kept


def load_original(model: Any, path: Path) -> None:
    """
    Keep what a file says that the head of a model was, if its names and shapes are those of the head, and the map of
    the record makes the head of it. A warning says why it is not used.
    """
    record = stated_record(model)
    if record is None or not record["folded"] or not is_known(record):
        return
    try:
        found = _read(path, model)
        affine = calibrator_of(record).affine(model.config.num_labels)
        if reason := _why_of_another(found, affine):
            raise ValueError(reason)
    except (ValueError, OSError, SafetensorError, RecursionError) as error:
        logger.warning("%s is not used, so that the calibration of %s can be undone by rounded numbers, or not at "
                       "all: %s", path, _name(model), error)  # fmt: skip
        return
    attach_original(model, found)


def save_original(model: Any, folder: str | Path) -> None:
    """Write it into the folder that a model is saved in, in the precision of the model; else remove one of another."""
    path, record = Path(folder, ORIGINAL_HEAD), stated_record(model)
    kept = kept_original(model) if record is not None and record["folded"] and is_known(record) else []
    if not kept or _why_of_another(kept, calibrator_of(record or {}).affine(model.config.num_labels)):
        path.unlink(missing_ok=True)
        return
    paths = {id(module): _path(name) for name, module in model.named_modules()}
    modules = {
        paths[id(module)]: {name: one.to(getattr(module, name).dtype) for name, one in original.weights.items()}
        for module, original in kept
    }
    write_original(path, modules, _name(model), calibrator_of(record or {}), kept[0][1].share)


def write_original(
    path: Path, modules: Mapping[str, Mapping[str, Tensor]], head_of: str, before: Calibrator, share: float = 1.0
) -> None:
    """Write what the modules of a head of a class of models were before a calibrator."""
    tensors = {
        f"{_PREFIX}{place}.{name}": tensor.contiguous()
        for place, weights in modules.items()
        for name, tensor in weights.items()
    }
    about = {"head_of": head_of, "before": str(before), "share": share}
    save_file(tensors, path, metadata={_ABOUT: json.dumps(about)})  # several entries would be in any order


def where_original(model: Any) -> str:
    """Where its file is looked for, in words."""
    name = getattr(model.config, "_name_or_path", None)
    return f"as {ORIGINAL_HEAD} in {'the folder that it is loaded from' if has_adapter(model) or not name else name}"


def kept_original(model: Any) -> list[tuple[nn.Module, Original]]:
    """The modules of the head and what they were, as far as that is kept."""
    return [(one, kept) for one in in_effect(model) if isinstance(kept := one.__dict__.get(_KEPT), Original)]


def _why_of_another(found: list[tuple[nn.Module, Original]], affine: Affine) -> str:
    """The end of a sentence on what shows that the head is not `affine` of these; `""` where nothing does."""
    for module, original in found:
        wide = {name: tensor.double() for name, tensor in original.weights.items()}
        for name, expected in map_weights(wide, affine, original.share).items():
            if is_part(getattr(module, name)):  # what one process holds tells nothing, and others may not be asked
                continue
            actual, before = getattr(module, name).detach().cpu(), original.weights[name]
            if actual.shape != before.shape:
                return "the head is of another size"
            eps = max(torch.finfo(one.dtype).eps for one in (actual, before))
            size = max(float(one.where(one.isfinite(), 0).abs().max()) for one in (expected, wide[name]))
            if not torch.allclose(actual.double(), expected, rtol=0, atol=2 * eps * size):
                return "the map of the record does not make this head of it"
    return ""


def _read(path: Path, model: Any) -> list[tuple[nn.Module, Original]]:
    """What a file holds for the modules of a model; only what is of their names and shapes is read."""
    used = {id(module) for module in in_effect(model)}
    modules = {_path(name): module for name, module in model.named_modules() if id(module) in used}
    with safe_open(path, "pt") as file:
        share = _share_of(file.metadata() or {})
        names: dict[str, list[str]] = {}
        for key in file.keys():  # noqa: SIM118  (no mapping)
            place, _, name = key.removeprefix(_PREFIX).rpartition(".")
            names.setdefault(place, []).append(name)
            module = modules.get(place)
            own = {} if module is None else dict(module.named_parameters(recurse=False))
            if not key.startswith(_PREFIX) or name not in own:
                raise ValueError(f"it holds {key!r}, which the head has not.")
            slices = file.get_slice(key)
            if not own[name].is_floating_point():
                raise ValueError("the head is quantised.")
            if tuple(slices.get_shape()) != tuple(own[name].shape) or slices.get_dtype() not in _DTYPES:
                shape = "x".join(map(str, slices.get_shape()))
                raise ValueError(
                    f"its {key!r} is {slices.get_dtype()} {shape}, and the head's {tuple(own[name].shape)}."
                )
        for place, found in names.items():
            if len(found) != len(list(modules[place].named_parameters(recurse=False))):
                raise ValueError(f"it lacks weights of {place!r}.")
        return [
            (modules[place], Original({name: file.get_tensor(f"{_PREFIX}{place}.{name}") for name in found}, share))
            for place, found in names.items()
        ]


def _share_of(metadata: Mapping[str, str]) -> float:
    about = json.loads(metadata.get(_ABOUT, "{}"))
    share = about.get("share") if isinstance(about, dict) else None
    if not isinstance(share, float) or not 0 < share <= 1e3:
        raise ValueError(f"its share of a shift is {short(share)}.")
    return share


def _path(name: str) -> str:
    """What a module is called, whatever adapters are around it."""
    return re.sub(r"\.(modules_to_save\.[^.]+|original_module)(?=\.|$)", "", name.removeprefix("base_model.model."))


def find_original(name: str, **source: Any) -> Path | None:
    """The file beside a checkpoint, in a folder or on the Hub; none is missed where there is none."""
    if Path(name).is_dir():
        path = Path(name, ORIGINAL_HEAD)
        return path if path.is_file() else None
    quiet = dict.fromkeys(("missing_entries", "gated_repo", "connection_errors"), False)
    options: Any = {f"_raise_exceptions_for_{what}": value for what, value in quiet.items()}
    try:
        found = cached_file(name, ORIGINAL_HEAD, **source, **options)
    except (OSError, ValueError):
        return None
    return None if found is None else Path(found)


def _beside(model: Any) -> Path | None:
    """The file beside what a model was loaded from."""
    name = getattr(model.config, "_name_or_path", None)
    if not name or has_adapter(model):  # it is then that of the base model
        return None
    return find_original(name, revision=getattr(model.config, "_commit_hash", None))


def _name(model: Any) -> str:
    return type(model).__name__


def hook_save(model: Any) -> None:
    """Let `save_pretrained` of this model, and of the one that an adapter is around, write these files, too."""
    around = [model, *([model.get_base_model()] if hasattr(model, "get_base_model") else [])]
    for one in around:
        if hasattr(one, "save_pretrained") and "save_pretrained" not in one.__dict__:
            one.save_pretrained = functools.partial(_save_pretrained, one)


def _save_pretrained(model: Any, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
    of_peft = hasattr(model, "get_base_model")  # whose `save_pretrained` pushes nothing
    folder, push = Path(save_directory), not of_peft and kwargs.pop("push_to_hub", False)
    files = folder.iterdir() if folder.is_dir() else ()
    before = {path.name: path.stat().st_mtime_ns for path in files}
    hub = {name: kwargs.pop(name) for name in _HUB if name in kwargs} if push else {}
    result = type(model).save_pretrained(model, save_directory, *args, **kwargs)
    adapter = model.active_adapter if of_peft else "default"
    place = folder if adapter == "default" else folder / adapter
    if kwargs.get("is_main_process", True) and place.is_dir():
        save_original(model, place)
        if has_adapter(model):
            write_adapter_record(model, place)
        if push:
            new = [path.name for path in folder.iterdir() if before.get(path.name) != path.stat().st_mtime_ns]
            _push(folder, new, **hub)
    return result


_HUB = ("repo_id", "commit_message", "create_pr", "private", "token")


def _push(
    folder: Path, names: list[str], repo_id: str | None = None, private: bool | None = None, **what: Any
) -> None:
    """As `save_pretrained(push_to_hub=True)`, which would miss a file that is written after it."""
    api, token = HfApi(), what.get("token")
    repo_id = api.create_repo(repo_id or folder.name, token=token, private=private, exist_ok=True).repo_id
    what["commit_message"] = what.get("commit_message") or "Upload model"
    api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=names, **what)
