# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""A saved checkpoint whose calibrator is folded into the weights on disk, without building the model."""

from __future__ import annotations

import json
import logging
import re
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .. import networks
from ..calibrators import UnfoldableError, calibrator_of
from ..calibrators.base import Calibrator
from ..files import check_weights, explained
from ..models.fingerprint import fingerprint_of, why_not_of
from ..models.fold import check_map, check_mixing
from ..models.head import check_labels, is_common_scale, map_weights
from ..models.original import ORIGINAL_HEAD, write_original
from ..models.record import check_record, facts_of, record_of, refuse_unusable
from ..models.sigmoid import CROSS_ENCODER, cross_encoder_settings, is_sigmoid, tell_of_sigmoids
from ..results.replace import mend_folder, replacing
from ..tasks import supported_tasks, task_of


logger = logging.getLogger(__name__)

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# What the modules that give the logits are called in the classifiers of transformers, and those of two heads, whose
# outputs are averaged.
_HEADS = re.compile(
    r"(classifier|score|head|fc|classification_head|logits_proj)(\.(1|linear|out_proj|linear_out))?"
    r"|sequence_summary\.summary|perceiver\.decoder\.decoder\.final_layer"
)
_PAIRS = (
    ("head", "dist_head"),
    ("cls_classifier", "distillation_classifier"),
    ("classifier.linear", "classifier_distill.linear"),
)
_OTHER_WEIGHTS = ("pytorch_model*.bin", "model.*.safetensors", "tf_model.h5", "flax_model.msgpack", "*.onnx", "*.gguf")


def fold_checkpoint(folder: str | Path) -> Path:
    """
    Fold the calibrator that a saved model keeps in its config into the weights on disk, so that whoever loads it gets
    calibrated probabilities.

    It is what [`from_pretrained`] and [`fold_calibrator`] make of it, bit for bit, without building the model: only
    the head is read, so that a model of any size wants no more memory than that. Weights in one file or in several
    with an index are taken; files that hold none of the head stay as they are. The new files replace the old ones once
    all of them are written; that wants as much free disk as the file that the head is in. A checkpoint that is folded
    already stays as it is. What the head was is kept beside it, as after every fold. The model card is not rewritten.

    Args:
        folder (`str` or `Path`):
            Where `save_pretrained` or a trainer left the model, such as one that was sharded over processes while it
            was calibrated.

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If there is no such folder, it was never calibrated, it holds an adapter, a download in the cache,
            no safetensors, quantised weights, or a class of model whose head is not known by name; or if the record is
            malformed, or of another head; an [`UnfoldableError`] if the head cannot do what the calibrator does. The
            folder is then as it was.
    """
    folder = Path(folder)
    _check_folder(folder)
    mend_folder(folder)
    with explained(folder):
        stated = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if getattr(config, "calibration", None) is None:
        raise ValueError(f"{folder} was never calibrated: {CONFIG_NAME} holds no record of a calibrator to fold.")
    record = check_record(config.calibration, f"calibration of {folder / CONFIG_NAME}")
    if record["folded"]:
        return folder
    check_labels(config, str(folder))
    refuse_unusable(record, config.num_labels)
    calibrator, kind = calibrator_of(record), _class_name(config, folder)
    check_weights(folder)
    files = _files(folder)
    names = _head_names(config, files, folder)
    modules = _read(files, names)
    found = record.get("head")
    if found is not None and (reason := why_not_of(kind, list(modules.values()), found)):
        raise ValueError(
            f"The {calibrator.named} of {folder / CONFIG_NAME} is of another head than the one there: {reason}. "
            "Calibrate the model again."
        )
    mapped = _mapped(modules, calibrator, config, kind)
    head = fingerprint_of(kind, list(mapped.values()))
    stated["calibration"] = record_of(calibrator, facts_of(record), folded=True, head=head)
    stated |= tell_of_sigmoids(config)
    settings = cross_encoder_settings(folder) if is_sigmoid(config) else None
    with replacing(folder, "files") as staged:
        if not calibrator.affine(config.num_labels).is_identity:
            _write_weights(files, mapped, staged)
            write_original(staged / ORIGINAL_HEAD, modules, kind, calibrator)
        (staged / CONFIG_NAME).write_text(json.dumps(stated, indent=2) + "\n", encoding="utf-8")
        if settings is not None:
            (staged / CROSS_ENCODER).write_text(settings, encoding="utf-8")
    _warn_of_others(folder)
    return folder


def _check_folder(folder: Path) -> None:
    """Refuse what holds no whole model that may be changed."""
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is no folder. fold_checkpoint changes a model that is saved on this machine; one of the Hub is "
            "fetched by huggingface_hub.snapshot_download(id, local_dir=folder)."
        )
    if folder.resolve().parent.name == "snapshots":
        raise ValueError(
            f"{folder} is a download in the cache, which must stay what the Hub gave. Fetch a copy to change: "
            "huggingface_hub.snapshot_download(id, local_dir=folder)."
        )
    if (folder / ADAPTER_CONFIG_NAME).is_file():
        raise ValueError(
            f"{folder} holds an adapter, whose base model is elsewhere. Load it by hf_focal.from_pretrained, fold it "
            "by fold_calibrator, and save it."
        )
    if not (folder / CONFIG_NAME).is_file():
        raise ValueError(f"{folder} holds no model: there is no {CONFIG_NAME} in it.")


def _class_name(config: Any, folder: Path) -> str:
    """The class of the model, if it is one of transformers or of ours, whose heads are linear."""
    name = str((config.architectures or ["none"])[0])
    if task_of(config) is None or not (hasattr(transformers, name) or hasattr(networks, name)):
        raise ValueError(
            f"{CONFIG_NAME} of {folder} names {name}, no classifier of transformers that is known. "
            f"{supported_tasks()} {_IN_MEMORY}"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"The weights of {folder} are quantised. {_IN_MEMORY}")
    return name


_IN_MEMORY = "Load it by hf_focal.from_pretrained, fold it by fold_calibrator, which tries the head, and save it."


def _files(folder: Path) -> dict[str, Path]:
    """The file that each weight is in, as from_pretrained finds it."""
    whole, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    if whole.is_file():
        with safe_open(whole, "pt") as file:
            return dict.fromkeys(file.keys(), whole)
    if not index.is_file():
        raise ValueError(
            f"{folder} holds no weights in safetensors: there is neither {SAFE_WEIGHTS_NAME} nor "
            f"{SAFE_WEIGHTS_INDEX_NAME}. {_IN_MEMORY}"
        )
    placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    for name in {*placed.values()}:
        if Path(name).name != name:
            raise ValueError(f"{index} names {name!r}, which is no file of that folder.")
    return {key: folder / name for key, name in placed.items()}


def _head_names(config: Any, files: Mapping[str, Path], folder: Path) -> list[str]:
    """The modules that make the logits, by their names."""
    of_timm = config.model_type == "timm_wrapper"
    prefix, known = ("timm_model.", _timm_heads(config)) if of_timm else ("", [])
    wide = [key for key in files if key.endswith(".weight") and _shape(files[key], key)[:1] == (config.num_labels,)]
    found = [key.removesuffix(".weight") for key in wide if key.startswith(prefix)]
    if not known:
        pairs = [list(pair) for pair in _PAIRS if {prefix + name for name in pair} <= {*found}]
        single = [name for one in found if _HEADS.fullmatch(name := one.removeprefix(prefix))]
        known = pairs[0] if pairs else single if len(single) == 1 else []
    names = [prefix + name for name in known]
    if not names or not {*names} <= {*found}:
        shown = ", ".join(found[:5]) or "none"
        raise UnfoldableError(
            f"The head of {folder} is not known by its name. Modules with {config.num_labels} outputs, as many as "
            f"labels: {shown}. {_IN_MEMORY}"
        )
    return names


def _timm_heads(config: Any) -> list[str]:
    """As timm names them for the network; none where it does not."""
    cfg = timm.get_pretrained_cfg(config.architecture, allow_unregistered=True)
    named = (getattr(config, "pretrained_cfg", None) or {}).get("classifier") or getattr(cfg, "classifier", None)
    return [named] if isinstance(named, str) else list(named or ())


def _shape(path: Path, key: str) -> tuple[int, ...]:
    with safe_open(path, "pt") as file:
        return tuple(file.get_slice(key).get_shape())


def _read(files: Mapping[str, Path], names: list[str]) -> dict[str, dict[str, Tensor]]:
    """Weight and bias of these modules."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name in names:
        modules[name] = {}
        for part in ("weight", "bias"):
            if (path := files.get(key := f"{name}.{part}")) is not None:
                with safe_open(path, "pt") as file:
                    modules[name][part] = file.get_tensor(key)
    for name, tensors in modules.items():
        for part, tensor in tensors.items():
            if tensor.dtype not in _DTYPES:
                raise UnfoldableError(f"{name}.{part} is of {tensor.dtype}: the weights are quantised. {_IN_MEMORY}")
    return modules


def _mapped(
    modules: Mapping[str, Mapping[str, Tensor]], calibrator: Calibrator, config: Any, kind: str
) -> dict[str, dict[str, Tensor]]:
    """The weights by which the logits are calibrated, if these can hold the numbers."""
    affine = calibrator.affine(config.num_labels)
    biases = [tensors["bias"] for tensors in modules.values() if "bias" in tensors]
    check_map(affine, config.num_labels, calibrator.noun, kind)
    check_mixing(affine, config, biases, calibrator.noun, kind)
    if len(modules) > 1 and not is_common_scale(affine):
        raise UnfoldableError(
            f"The logits of {kind} come of {len(modules)} heads, {', '.join(modules)}, and a {calibrator.noun} is "
            f"more than a common factor of them. {_IN_MEMORY}"
        )
    if affine.shift is not None and not biases:
        raise UnfoldableError(
            f"Cannot fold a {calibrator.noun} into {kind}: its last linear layer has no bias, which a shift needs. "
            "Vectors and matrices can do without one: fit_calibrator(..., intercept=False)."
        )
    mapped = {name: map_weights(tensors, affine, 1.0) for name, tensors in modules.items()}
    for name, tensors in modules.items():
        exact = map_weights({part: one.double() for part, one in tensors.items()}, affine, 1.0)
        for part, tensor in mapped[name].items():
            off = float((tensor.double() - exact[part]).abs().max())
            size = max(float(exact[part].abs().max()), float(tensors[part].abs().max()) * np.abs(affine.scale).max())
            if not off <= max(1e-4, 8 * torch.finfo(tensor.dtype).eps) * size:
                raise UnfoldableError(
                    f"Cannot fold a {calibrator.noun} into {kind}: its weights cannot hold the numbers, so that those "
                    f"of {name} would be off by up to {off:g}."
                )
    return mapped


def _write_weights(files: Mapping[str, Path], mapped: Mapping[str, Mapping[str, Tensor]], staged: Path) -> None:
    """Copies of the files that the head is in, with its new weights in the places of the old ones."""
    tensors = {f"{name}.{part}": one for name, parts in mapped.items() for part, one in parts.items()}
    for source in {files[key] for key in tensors}:
        copy = staged / source.name
        shutil.copyfile(source, copy)
        with copy.open("r+b") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            for key in (key for key in tensors if files[key] == source):
                begin, end = header[key]["data_offsets"]
                data = tensors[key].contiguous().view(torch.uint8).numpy().tobytes()
                if len(data) != end - begin:
                    raise ValueError(f"{source} holds {end - begin} bytes of {key}, and {len(data)} are needed.")
                file.seek(8 + length + begin)
                file.write(data)


def _warn_of_others(folder: Path) -> None:
    others = sorted(path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern))
    if others:
        logger.warning(
            "The calibrator is folded into the safetensors of %s alone. Remove these, which hold the head that was, "
            "or make them anew: %s.", folder, ", ".join(others)
        )  # fmt: skip
