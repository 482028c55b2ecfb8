# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Heads whose labels each have a probability of their own, and what their config tells those that serve them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..calibrators.base import SIGMOID, SOFTMAX
from ..networks.zero_shot import has_sigmoids
from ..tasks import TextClassification, task_of


MULTI_LABEL = "multi_label_classification"
CROSS_ENCODER = "config_sentence_transformers.json"  # which sentence-transformers reads before the config
_FUNCTION = "torch.nn.modules.activation.Sigmoid"  # as sentence-transformers' CrossEncoder names it


def is_sigmoid(config: Any) -> bool:
    """Whether each logit has a probability of its own: of several labels a sample, or of a single logit."""
    kind = getattr(config, "problem_type", None)
    return kind == MULTI_LABEL or (config.num_labels == 1 and kind != "regression")


def activation_of(model: Any) -> str:
    """What makes probabilities of the logits of a model; a SigLIP need not be told of its labels."""
    return SIGMOID if is_sigmoid(model.config) or has_sigmoids(model) else SOFTMAX


def tell_of_sigmoids(config: Any, model: Any = None) -> dict[str, Any]:
    """
    Write into the config of a sigmoid head, or of a model with that config, that it is one: a single logit is taken
    for a regression by stock training, and put through a softmax by some pipelines, where its problem type does not
    say so. With texts, sentence-transformers' CrossEncoder is told to apply the sigmoid. What was written is returned.
    """
    if not (is_sigmoid(config) if model is None else activation_of(model) == SIGMOID):
        return {}
    told: dict[str, Any] = {"problem_type": MULTI_LABEL}
    task = task_of(config if model is None else model)
    if task is not None and task.name == TextClassification.name:
        known = getattr(config, "sentence_transformers", None)
        told["sentence_transformers"] = {**(known if isinstance(known, dict) else {}), "activation_fn": _FUNCTION}
        if getattr(config, _EARLIER, None) is not None:
            told[_EARLIER] = _FUNCTION
    for name, value in told.items():
        setattr(config, name, value)
    return told


_EARLIER = "sbert_ce_default_activation_function"  # where it was before version 4


def cross_encoder_settings(folder: Path) -> str | None:
    """The file of a CrossEncoder that was saved in a folder, with the sigmoid in it; `None` where there is none."""
    path = folder / CROSS_ENCODER
    if not path.is_file():
        return None
    settings = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or "activation_fn" not in settings:
        return None
    return json.dumps({**settings, "activation_fn": _FUNCTION}, indent=2) + "\n"
