# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Pipelines that give calibrated probabilities for checkpoints whose temperature is not folded as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from transformers import Pipeline, PreTrainedModel

from ..models.apply import apply_temperature
from ..tasks import get_task, task_of
from .load import clean_token, from_pretrained, load_processor, refuse_code


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
    As `transformers.pipeline`, for classifiers: an unfolded temperature is applied, see [`from_pretrained`].

    Checkpoints whose temperature is folded need nothing of this; `transformers.pipeline` gives the same.

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
    if not isinstance(model, transformers.PreTrainedModel):
        name = str(model)
        source: Any = {"revision": revision, "token": clean_token(token), "local_files_only": local_files_only}
        model = from_pretrained(name, task=task, **source, **(model_kwargs or {}))
        known = known or task_of(model)
        if known is not None and known.processor not in kwargs:
            kwargs[known.processor] = load_processor(name, known.name, model, **source)
    known = known or task_of(model)
    chosen: Any = known and known.name
    return transformers.pipeline(chosen, model=apply_temperature(model), **kwargs)
