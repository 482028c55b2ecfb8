# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Calibrated classifiers from the Hugging Face Hub, or from a folder, and pipelines of them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub.utils.sha import git_hash, sha_fileobj
from transformers import AutoConfig, Pipeline, PreTrainedModel
from transformers.image_utils import load_image
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, cached_file, find_adapter_config_file

from .. import networks  # noqa: F401  (registers our architectures, so that their checkpoints load)
from ..files import check_weights, explained
from ..models.apply import apply_temperature
from ..models.original import find_original, load_original
from ..models.record import calibration_record, check_record, has_adapter, refuse_unusable
from ..models.sigmoid import tell_of_sigmoids
from ..models.source import look_up
from ..networks.masking import mask_classes
from ..online import clean_token, online
from ..results.replace import mend_folder
from ..tasks import TASKS, ImageClassification, Task, get_task, supported_tasks, task_of
from ..tasks.base import PROCESSORS
from ..tasks.image import channels_of, prepare_image_processor
from .adapter import adapter_record, add_adapter, refusing


logger = logging.getLogger(__name__)


@online
def from_pretrained(
    name_or_path: str | Path,
    *,
    task: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
    **kwargs: Any,
) -> PreTrainedModel:
    """
    Load a classifier whose softmax, or sigmoids, are calibrated, whether that is folded into the weights or not.

    An unfolded temperature is applied in the forward pass, see [`apply_temperature`]. The config is checked before any
    weights are loaded, and no code of the repository is run: weights come from safetensors, or from pickles read with
    `weights_only=True`. An adapter of PEFT is loaded into its base model, with its record, `calibration.json`.

    Args:
        name_or_path (`str`):
            Id on the Hub, or a folder.
        task (`str`, *optional*):
            A pipeline task, see `hf_focal.TASKS`; by default what the config says.
        revision, token, local_files_only, cache_dir:
            As for `from_pretrained` of the Auto classes. Config and weights come from the same commit.
        kwargs:
            Likewise, such as `dtype` or `device_map`. `trust_remote_code` is refused, and so are other labels.

    Returns:
        `transformers.PreTrainedModel`: In evaluation mode. Its `logits` are to be fed to a softmax as they are, or to
        sigmoids where each label has a probability of its own; of an image-text model these are `logits_per_image`.

    Raises:
        ValueError: If `config.json` holds a malformed `calibration` or names no classifier or one of another task,
            `calibration.json` is malformed, weights are missing, a file is broken, the token cannot be one, or an
            unfolded temperature was fitted to another head than the one there.
        OSError: If there is no such model, it is private, it cannot be reached, or a download is damaged. No error
            holds a token.
    """
    refuse_code(kwargs)
    if others := {"num_labels", "id2label", "label2id"} & kwargs.keys():
        raise ValueError(
            f"from_pretrained loads a classifier with the classes that it has: leave {', '.join(sorted(others))} "
            "unset. To begin another task from it, use create_image_classifier, create_text_classifier or the Auto "
            "class of transformers, which make a new head."
        )
    name = str(name_or_path)
    mend_folder(name)
    source: dict[str, Any] = {"revision": revision, "token": clean_token(token)}
    source |= {"local_files_only": local_files_only, "cache_dir": cache_dir}
    adapter = look_up(name, lambda: find_adapter_config_file(name, **source))
    options = {"_raise_exceptions_for_missing_entries": adapter is None, **source}
    found = look_up(name, lambda: cached_file(name, CONFIG_NAME, **options))
    if (path := found or adapter) is None:
        raise OSError(f"{name} holds no model: there is neither {CONFIG_NAME} nor {ADAPTER_CONFIG_NAME} in it.")
    folder = Path(path).parent
    source = _pinned(folder, source)
    if found is None:
        model, missing = _load_adapter(name, folder, task, source, kwargs)
    else:
        with explained(folder):
            config = AutoConfig.from_pretrained(name, trust_remote_code=False, **source)
        if getattr(config, "calibration", None) is not None:
            with refusing(CONFIG_NAME, name):
                refuse_unusable(check_record(config.calibration), config.num_labels)
        known = get_task(task) if task else task_of(config)
        _refuse_other_head(name, task_of(config), known)
        model, missing = _load_weights(name, folder, config, known, source, kwargs)
    if missing:
        names = ", ".join(sorted(missing))
        raise ValueError(f"{name} lacks weights of {type(model).__name__}, which would be random: {names}.")
    mask_classes(model)
    if getattr(model.config, "calibration", None) is None:
        logger.warning("%s was never calibrated: it holds no record of a temperature.", name)
    record = calibration_record(model)
    if record is not None and not record["folded"]:
        return apply_temperature(model)
    if record is not None and (original := find_original(name, **source)) is not None:
        _refuse_damaged(folder)
        load_original(model, original)
    return model


@online
def pipeline(
    task: str | None = None,
    model: str | PreTrainedModel | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Pipeline:
    """
    As `transformers.pipeline`, for classifiers: an unfolded temperature is applied, see [`from_pretrained`]. Where it
    is folded, `transformers.pipeline` gives the same. A single logit goes through a sigmoid, as does each of several
    labels, of which a pipeline of texts gives the likeliest alone without `top_k=None`.

    Args:
        model (`str` or `transformers.PreTrainedModel`):
            Id on the Hub, a folder, or a loaded model, to which [`apply_temperature`] is applied.
        task, revision, token, local_files_only:
            As for [`from_pretrained`].
        model_kwargs (`Mapping[str, Any]`, *optional*):
            Passed on to [`from_pretrained`], such as `dtype`.
        kwargs:
            As for `transformers.pipeline`, such as `device`, `tokenizer` or `top_k`.

    Returns:
        `transformers.Pipeline`: Its scores are calibrated probabilities.

    Raises:
        ValueError, OSError: As [`from_pretrained`]; the former also if there is no model, or no tokenizer, image
            processor or feature extractor that can be the model's.
    """
    if model is None:
        raise ValueError("pipeline needs a model: an id on the Hub, a folder, or a loaded model.")
    refuse_code(kwargs)
    known = get_task(task) if task else None
    if not isinstance(model, PreTrainedModel):
        name = str(model)
        source: Any = {"revision": revision, "token": clean_token(token), "local_files_only": local_files_only}
        model = from_pretrained(name, task=task, **source, **(model_kwargs or {}))
        known = known or task_of(model)
        if known is not None and not {*known.parts} <= {*_parts_of(known, kwargs)}:
            kwargs = {**known.for_pipeline(load_processor(name, known.name, model, **source)), **kwargs}
    _refuse_other_head(type(model).__name__, task_of(model), known)
    known = known or task_of(model)
    if known is None:
        raise ValueError(f"{type(model).__name__} is no classifier of a known kind. {supported_tasks()}")
    kwargs = _parts_of(known, kwargs)
    if lacking := [part for part in known.parts if part not in kwargs and "processor" not in kwargs]:
        raise ValueError(f"pipeline needs {'=... and '.join(lacking)}=... beside a model that is loaded already.")
    if isinstance(known, ImageClassification) and known.processor in known.parts and channels_of(model) == 1:
        kwargs.setdefault("pipeline_class", _GreyPipeline)
    tell_of_sigmoids(model.config, model)  # some pipelines put a single logit through a softmax, which is 1
    chosen: Any = known.name
    made = transformers.pipeline(chosen, model=apply_temperature(mask_classes(model)), **kwargs)
    known.check_processor(made.model, getattr(made, known.processor, None), made.model.config._name_or_path)
    return made


def _parts_of(known: Task, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments with the parts of a processor in its place, where a pipeline asks for these."""
    if known.processor in known.parts or known.processor not in kwargs:
        return kwargs
    others = {name: one for name, one in kwargs.items() if name != known.processor}
    return {**known.for_pipeline(kwargs[known.processor]), **others}


def _refuse_other_head(name: str, own: Task | None, asked: Task | None) -> None:
    """Heads of two tasks may have the same names and shapes, so that one would pass for the other."""
    if own is not None and asked is not None and own.auto_class is not asked.auto_class:
        raise ValueError(f"{name} is a model for {own.name}, not for {asked.name}: leave task unset.")


class _GreyPipeline(transformers.ImageClassificationPipeline):
    """The stock pipeline makes every image RGB, which a model of one channel does not take."""

    def preprocess(self, *args: Any, **kwargs: Any) -> Any:
        processor: Any = self.image_processor
        prepare_image_processor(self.model, processor)
        (image,) = args
        if not isinstance(image, (np.ndarray, torch.Tensor)):
            image = load_image(image, **kwargs).convert("L")
        return processor(images=image, return_tensors="pt").to(self.dtype)


def _load_adapter(
    name: str, folder: Path, task: str | None, source: dict[str, Any], kwargs: dict[str, Any]
) -> tuple[PreTrainedModel, set[str]]:
    """An adapter in its base model, whose config does not hold its record, and the names of weights that it lacks."""
    with refusing(ADAPTER_CONFIG_NAME, name):
        settings = json.loads((folder / ADAPTER_CONFIG_NAME).read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError(f"it must be a dict, got {settings!r}.")
        base = settings.get("base_model_name_or_path")
        if not isinstance(base, str) or not base:
            raise ValueError(f"'base_model_name_or_path' must name the model that the adapter is for, got {base!r}.")
        mapping = settings.get("auto_mapping")
        base_class = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    record, labels = adapter_record(name, source)
    masked = None if record is None else record.pop("masked_classes", None)
    base_source = {**source, "revision": settings.get("revision")}
    found = cached_file(base, CONFIG_NAME, **base_source)
    if found is None:
        raise OSError(f"{base}, the base model of {name}, holds no {CONFIG_NAME}.")
    base_source = _pinned(Path(found).parent, base_source)
    config = AutoConfig.from_pretrained(base, trust_remote_code=False, **base_source, **labels)
    config.calibration = record  # what the base model says of itself does not hold for the adapted one
    config.masked_classes = masked
    if base_class:
        config.architectures = [str(base_class)]
    kinds = {known.adapter_type: known for known in TASKS.values() if known.adapter_type is not None}
    found_task, of_base = kinds.get(str(settings.get("task_type"))), task_of(config)
    if found_task is None or (of_base is not None and of_base.processor != found_task.processor):
        found_task = of_base  # PEFT calls a classifier of sounds one of sequences
    found_task = get_task(task) if task else found_task
    kwargs = {**kwargs, "ignore_mismatched_sizes": True}  # the head, which the adapter replaces
    model, lacking = _load_weights(base, Path(found).parent, config, found_task, base_source, kwargs)
    model.config.architectures = [type(model).__name__]
    check_weights(folder)
    try:
        added = add_adapter(model, name, settings, source)
    finally:
        _refuse_damaged(folder)
    replaced = tuple(f"{path}." for path, module in model.named_modules() if hasattr(module, "modules_to_save"))
    return model, {key for key in lacking if not key.startswith(replaced)} | added


def _load_weights(
    name: str, folder: Path, config: Any, task: Task | None, source: dict[str, Any], kwargs: dict[str, Any]
) -> tuple[Any, set[str]]:
    if task is None:
        raise ValueError(
            f"{CONFIG_NAME} of {name} has architectures {getattr(config, 'architectures', None)}. {supported_tasks()} "
            "Set task to one of these if the weights have such a head."
        )
    if source["local_files_only"]:  # the Auto classes forget it where they look for an adapter
        kwargs = {**kwargs, "adapter_kwargs": {"local_files_only": True, **kwargs.get("adapter_kwargs", {})}}
    options = {"output_loading_info": True, "weights_only": True, "trust_remote_code": False, **source, **kwargs}
    if not {"gguf_file", "subfolder", "variant"} & set(kwargs):  # which are for other files
        check_weights(folder)
    try:
        with explained(folder):
            model, info = task.auto_class.from_pretrained(name, config=config, **options)
    finally:  # damaged files explain whatever else goes wrong
        _refuse_damaged(folder)
    return model, {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}


def _pinned(folder: Path, source: dict[str, Any]) -> dict[str, Any]:
    """In the cache: the same commit for all files, whatever is pushed meanwhile."""
    return {**source, "revision": folder.name} if folder.parent.name == "snapshots" else source


@online
def load_processor(name_or_path: str | Path, task: str, model: PreTrainedModel, **kwargs: Any) -> Any:
    """
    What makes inputs of samples, of a checkpoint; where an adapter has none of its own, that of its base model. A
    ValueError says where there is none, or none that can be the model's.
    """
    known = get_task(task)
    file = PROCESSORS[known.processor][1][0]
    optional = {**kwargs, "_raise_exceptions_for_missing_entries": False}
    if has_adapter(model) and not cached_file(name_or_path, file, **optional):
        name_or_path, kwargs["revision"] = model.config._name_or_path, None
    processor = known.load_processor(name_or_path, model.config, **kwargs)
    known.check_processor(model, processor, name_or_path)
    return processor


def refuse_code(kwargs: dict[str, Any]) -> None:
    """Take out of keyword arguments what would let a repository run code; asking for it is an error."""
    kwargs.pop("weights_only", None)  # always true
    if kwargs.pop("trust_remote_code", None):
        raise ValueError("trust_remote_code is not supported: hf_focal runs no code of a repository.")


def _refuse_damaged(folder: Path) -> None:
    """Compare cached downloads with the Hub's hashes, their names in the cache; the client only compares sizes."""
    for pointer in folder.iterdir() if folder.parent.name == "snapshots" else ():
        blob = pointer.resolve()
        if pointer.suffix not in (".json", ".safetensors", ".bin") or not blob.is_file():
            continue
        if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name):  # no link into the cache
            continue
        with blob.open("rb") as file:  # small files have git's hash
            found = sha_fileobj(file).hex() if len(blob.name) == 64 else git_hash(file.read())
        if found != blob.name:
            blob.unlink()
            what = "its hash is not the one that the Hub gave. It is removed from the cache; load the model again."
            raise OSError(f"The download of {pointer.name} is damaged: {what}")
