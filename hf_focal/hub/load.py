# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Calibrated classifiers from the Hugging Face Hub, or from a folder, and pipelines of them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError
from huggingface_hub.utils.sha import git_hash, sha_fileobj
from safetensors.torch import load_file
from transformers import AutoConfig, Pipeline, PreTrainedModel
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    CONFIG_NAME,
    cached_file,
    find_adapter_config_file,
)

from .. import networks  # noqa: F401  (registers our architectures, so that their checkpoints load)
from ..models.apply import apply_temperature
from ..models.record import ADAPTER_RECORD, calibration_record, check_record, has_adapter
from ..tasks import TASKS, Task, get_task, supported_tasks, task_of


logger = logging.getLogger(__name__)

# What makes inputs of samples, by the name of the argument of a pipeline, and the file of a checkpoint that it is in.
_PROCESSORS: dict[str, tuple[Any, str]] = {
    "image_processor": (transformers.AutoImageProcessor, "preprocessor_config.json"),
    "tokenizer": (transformers.AutoTokenizer, "tokenizer_config.json"),
    "feature_extractor": (transformers.AutoFeatureExtractor, "preprocessor_config.json"),
}


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
    Load a classifier whose softmax is calibrated, whether its temperature is folded into the weights or not.

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
        `transformers.PreTrainedModel`: In evaluation mode. Its `logits` are to be fed to a softmax as they are.

    Raises:
        ValueError: If `config.json` holds a malformed `calibration` or names no classifier, `calibration.json` is
            malformed, weights are missing, or an unfolded temperature was fitted to another head than the one there.
        OSError: If there is no such model, it is private, it cannot be reached, or a download is damaged.
    """
    refuse_code(kwargs)
    if others := {"num_labels", "id2label", "label2id"} & kwargs.keys():
        raise ValueError(
            f"from_pretrained loads a classifier with the classes that it has: leave {', '.join(sorted(others))} "
            "unset. To begin another task from it, use create_image_classifier, create_text_classifier or the Auto "
            "class of transformers, which make a new head."
        )
    name = str(name_or_path)
    source: dict[str, Any] = {"revision": revision, "token": clean_token(token)}
    source |= {"local_files_only": local_files_only, "cache_dir": cache_dir}
    adapter = find_adapter_config_file(name, **source)
    found = cached_file(name, CONFIG_NAME, _raise_exceptions_for_missing_entries=adapter is None, **source)
    if (path := found or adapter) is None:
        raise OSError(f"{name} holds no model: there is neither {CONFIG_NAME} nor {ADAPTER_CONFIG_NAME} in it.")
    folder = Path(path).parent
    source = _pinned(folder, source)
    if found is None:
        model, missing = _load_adapter(name, folder, task, source, kwargs)
    else:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **source)
        if getattr(config, "calibration", None) is not None:
            with _refusing(CONFIG_NAME, name):
                check_record(config.calibration)
        known = get_task(task) if task else task_of(config)
        model, missing = _load_weights(name, folder, config, known, source, kwargs)
    if missing:
        names = ", ".join(sorted(missing))
        raise ValueError(f"{name} lacks weights of {type(model).__name__}, which would be random: {names}.")
    if getattr(model.config, "calibration", None) is None:
        logger.warning("%s was never calibrated: it holds no record of a temperature.", name)
    record = calibration_record(model)
    return model if record is None or record["folded"] else apply_temperature(model)


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
    is folded, `transformers.pipeline` gives the same.

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
        ValueError, OSError: As [`from_pretrained`]; the former also if there is no model.
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
        if known is not None and known.processor not in kwargs:
            kwargs[known.processor] = load_processor(name, known.name, model, **source)
    known = known or task_of(model)
    chosen: Any = known and known.name
    return transformers.pipeline(chosen, model=apply_temperature(model), **kwargs)


def _load_adapter(
    name: str, folder: Path, task: str | None, source: dict[str, Any], kwargs: dict[str, Any]
) -> tuple[PreTrainedModel, set[str]]:
    """An adapter in its base model, whose config does not hold its record, and the names of weights that it lacks."""
    with _refusing(ADAPTER_CONFIG_NAME, name):
        settings = json.loads((folder / ADAPTER_CONFIG_NAME).read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError(f"it must be a dict, got {settings!r}.")
        base = settings.get("base_model_name_or_path")
        if not isinstance(base, str) or not base:
            raise ValueError(f"'base_model_name_or_path' must name the model that the adapter is for, got {base!r}.")
        mapping = settings.get("auto_mapping")
        base_class = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    record, labels = _adapter_record(name, source)
    base_source = {**source, "revision": settings.get("revision")}
    found = cached_file(base, CONFIG_NAME, **base_source)
    if found is None:
        raise OSError(f"{base}, the base model of {name}, holds no {CONFIG_NAME}.")
    base_source = _pinned(Path(found).parent, base_source)
    config = AutoConfig.from_pretrained(base, trust_remote_code=False, **base_source, **labels)
    config.calibration = record  # what the base model says of itself does not hold for the adapted one
    if base_class:
        config.architectures = [str(base_class)]
    kinds = {known.adapter_type: known for known in TASKS.values() if known.adapter_type is not None}
    found_task = get_task(task) if task else kinds.get(str(settings.get("task_type"))) or task_of(config)
    kwargs = {**kwargs, "ignore_mismatched_sizes": True}  # the head, which the adapter replaces
    model, lacking = _load_weights(base, Path(found).parent, config, found_task, base_source, kwargs)
    model.config.architectures = [type(model).__name__]
    added = _add_adapter(model, name, folder, settings, source)
    replaced = tuple(f"{path}." for path, module in model.named_modules() if hasattr(module, "modules_to_save"))
    return model, {key for key in lacking if not key.startswith(replaced)} | added


def _add_adapter(model: Any, name: str, folder: Path, settings: dict[str, Any], source: dict[str, Any]) -> set[str]:
    """Add an adapter to its base model. The names of weights that it lacks; a kind that cannot be added is refused."""
    pruned = _pruned_weights(name, settings, source)
    try:
        if pruned is None:
            info = model.load_adapter(name, adapter_kwargs=source)
        else:
            from peft import PeftConfig

            config = PeftConfig.from_pretrained(name, **source)
            info = model.load_adapter(peft_config=config, adapter_state_dict=pruned)
    except (ValueError, RuntimeError, NotImplementedError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{_not_added(name, settings)}: {error} {_WAY_OUT}") from error
    finally:
        _refuse_damaged(folder)
    ranks = {key for key in info.missing_keys if settings.get("peft_type") == "ADALORA" and ".ranknum." in key}
    for key in ranks:  # not saved: it is the rank that training began with
        model.get_parameter(key).data.fill_(settings["init_r"])
    lacking = info.missing_and_mismatched() - ranks
    if of_kind := [key for key in lacking if not any(part in key for part in (".modules_to_save.", ".lora_A."))]:
        raise ValueError(f"{_not_added(name, settings)}: {', '.join(sorted(of_kind))} would be random. {_WAY_OUT}")
    return lacking


def _not_added(name: str, settings: dict[str, Any]) -> str:
    kind = "DoRA" if settings.get("use_dora") else settings.get("peft_type")
    return f"The adapter {name} is of the kind {kind}, which transformers cannot add to its base model"


_WAY_OUT = (
    "Load it by PEFT (peft.PeftModel.from_pretrained of the base model and the adapter) and use that model, or, if "
    "the kind can be merged, save it whole by merge_and_unload() and save_pretrained, with the tokenizer beside it; "
    f"what {ADAPTER_RECORD} says, but for its labels, is then config.calibration."
)


def _pruned_weights(name: str, settings: dict[str, Any], source: dict[str, Any]) -> dict[str, Any] | None:
    """
    The weights of an AdaLoRA adapter whose ranks were pruned in training, with zeros for what was, since transformers
    makes room for the ranks that training began with; `None` for other adapters.
    """
    pattern = settings.get("rank_pattern")
    if settings.get("peft_type") != "ADALORA" or not pattern:
        return None
    found = cached_file(name, ADAPTER_SAFE_WEIGHTS_NAME, **source)
    weights = load_file(str(found))
    with _refusing(ADAPTER_CONFIG_NAME, name):
        for layer, kept in pattern.items():
            for part, dim in (("lora_A", 0), ("lora_E", 0), ("lora_B", 1)):
                key = f"base_model.model.{layer.removesuffix('.lora_E')}.{part}"
                places = torch.tensor(kept, dtype=torch.bool).nonzero().flatten()
                if key not in weights or weights[key].shape[dim] != len(places):
                    raise ValueError(f"'rank_pattern' says that {key} has the rank {len(places)}, which it has not.")
                shape = list(weights[key].shape)
                shape[dim] = len(kept)
                weights[key] = torch.zeros(shape, dtype=weights[key].dtype).index_copy(dim, places, weights[key])
    return weights


def _adapter_record(name: str, source: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The checked record that lies beside an adapter, and what it says of the labels, as a config wants to be told."""
    try:
        path = Path(name, ADAPTER_RECORD) if Path(name).is_dir() else hf_hub_download(name, ADAPTER_RECORD, **source)
        text = Path(path).read_text(encoding="utf-8")
    except (RemoteEntryNotFoundError, FileNotFoundError) as error:
        if isinstance(error, LocalEntryNotFoundError):  # the Hub cannot be asked
            raise
        return None, {}
    with _refusing(ADAPTER_RECORD, name):
        record = check_record(json.loads(text), "calibration")
        labels = record.pop("labels", None)
        if labels is None:
            return record, {}
        if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(label, str) for label in labels):
            raise ValueError(f"calibration['labels'] must be a list of at least two names, got {labels!r}.")
    label2id = {label: index for index, label in enumerate(labels)}
    return record, {"num_labels": len(labels), "id2label": dict(enumerate(labels)), "label2id": label2id}


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
    try:
        model, info = task.auto_class.from_pretrained(name, config=config, **options)
    finally:  # damaged files explain whatever else goes wrong
        _refuse_damaged(folder)
    return model, {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}


def _pinned(folder: Path, source: dict[str, Any]) -> dict[str, Any]:
    """In the cache: the same commit for all files, whatever is pushed meanwhile."""
    return {**source, "revision": folder.name} if folder.parent.name == "snapshots" else source


@contextmanager
def _refusing(file: str, name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{file} of {name} is refused: {error}") from error


def load_processor(name_or_path: str | Path, task: str, model: PreTrainedModel, **kwargs: Any) -> Any:
    """What makes inputs of samples, of a checkpoint; where an adapter has none of its own, that of its base model."""
    auto_class, file = _PROCESSORS[get_task(task).processor]
    optional = {**kwargs, "_raise_exceptions_for_missing_entries": False}
    if has_adapter(model) and not cached_file(name_or_path, file, **optional):
        name_or_path, kwargs["revision"] = model.config._name_or_path, None
    return auto_class.from_pretrained(name_or_path, trust_remote_code=False, **kwargs)


def refuse_code(kwargs: dict[str, Any]) -> None:
    """Take out of keyword arguments what would let a repository run code; asking for it is an error."""
    kwargs.pop("weights_only", None)  # always true
    if kwargs.pop("trust_remote_code", None):
        raise ValueError("trust_remote_code is not supported: hf_focal runs no code of a repository.")


def clean_token(token: str | bool | None) -> str | bool | None:
    """A token without space around it. One that cannot be sent is refused: the client's own error would quote it."""
    if not isinstance(token, str):
        return token
    if not re.fullmatch("[!-~]+", token.strip()):
        raise ValueError("The token is empty or holds characters that no token has.")
    return token.strip()


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
