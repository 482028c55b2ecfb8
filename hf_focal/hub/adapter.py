# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Adapters of PEFT: their weights on a base model, and the record that lies beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError
from safetensors.torch import load_file
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, cached_file

from ..calibrators.base import SIGMOID
from ..models.record import ADAPTER_RECORD, check_record, refuse_unusable
from ..models.sigmoid import MULTI_LABEL


@contextmanager
def refusing(file: str, name: str) -> Iterator[None]:
    """Say of what is wrong in a file of a checkpoint where it is."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep." if isinstance(error, RecursionError) else error
        raise ValueError(f"{file} of {name} is refused: {reason}") from error


def add_adapter(model: Any, name: str, settings: dict[str, Any], source: dict[str, Any]) -> set[str]:
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
    with refusing(ADAPTER_CONFIG_NAME, name):
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


def adapter_record(name: str, source: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The checked record that lies beside an adapter, and what it says of the labels, as a config wants to be told."""
    try:
        path = Path(name, ADAPTER_RECORD) if Path(name).is_dir() else hf_hub_download(name, ADAPTER_RECORD, **source)
        text = Path(path).read_text(encoding="utf-8")
    except (RemoteEntryNotFoundError, FileNotFoundError) as error:
        if isinstance(error, LocalEntryNotFoundError):  # the Hub cannot be asked
            raise
        return None, {}
    with refusing(ADAPTER_RECORD, name):
        record = check_record(json.loads(text), "calibration")
        labels = record.pop("labels", None)
        fewest = 1 if record.get("activation") == SIGMOID else 2
        refuse_unusable(record, len(labels) if isinstance(labels, list) else 0, "calibration")
        if labels is None:
            return record, {}
        if not isinstance(labels, list) or len(labels) < fewest or not all(isinstance(label, str) for label in labels):
            least = "two names" if fewest == 2 else "one name"
            raise ValueError(f"calibration['labels'] must be a list of at least {least}, got {labels!r}.")
    label2id = {label: index for index, label in enumerate(labels)}
    kind = {"problem_type": MULTI_LABEL} if fewest == 1 else {}  # which the base model does not know
    return record, {"num_labels": len(labels), "id2label": dict(enumerate(labels)), "label2id": label2id, **kind}
