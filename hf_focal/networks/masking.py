# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Classes that never count at evaluation: `config.masked_classes`, and the hook by which a model gives them -inf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..losses import extract_logits, replace_logits


Model = TypeVar("Model", bound=Any)


def mask_classes(model: Model, classes: Sequence[str | int] | None = None) -> Model:
    """
    Let a model give some classes the logit -inf, that is probability 0, whenever it is in evaluation mode.

    A forward hook does it, which follows `config.masked_classes` at every call; training sees all classes as ever, and
    no weight is changed. A loss that the model itself computes, from `labels`, is that of all classes. The config is
    saved with the model: [`from_pretrained`] and [`pipeline`] mask as well, and so do the networks of `hf_focal` under
    plain `transformers`, which knows nothing of it for other models.

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`): A classifier, which is returned.
        classes (`Sequence[str | int]`, *optional*):
            Names or indices of classes, all but two of them at most, for `config.masked_classes`, which keeps their
            names; an empty sequence masks none. By default what the config says.

    Raises:
        ValueError: If a class is none of the model's, or fewer than two would be left.
    """
    if classes is not None:
        names = _names(model.config)
        model.config.masked_classes = [names[index] for index in _indices(classes, names)] or None
    masked_indices(model.config)  # refuses what is malformed
    heed_masks(model)
    return model


def heed_masks(model: Any) -> None:
    """The hook alone, where the config asks for it."""
    if getattr(model.config, "masked_classes", None) and _mask not in getattr(model, "_forward_hooks", {}).values():
        model.register_forward_hook(_mask, prepend=True)  # before a calibrator that is applied


def masked_indices(config: Any) -> list[int]:
    """The classes that `config.masked_classes` takes out at evaluation, if any; or a `ValueError`."""
    masked = getattr(config, "masked_classes", None)
    return _indices(masked, _names(config)) if masked else []


def masked_names(config: Any) -> list[str]:
    """What they are called."""
    names = _names(config) if getattr(config, "masked_classes", None) else []
    return [names[index] for index in masked_indices(config)]


def refuse_masked(labels: NDArray[Any], indices: Sequence[int], names: Sequence[str], split: str) -> None:
    """Refuse labels of masked classes, whose probability is 0."""
    for index in indices:
        if count := int(np.count_nonzero(labels == index)):
            raise ValueError(
                f"{count} of {len(labels)} labels of the {split} data are {names[index]!r}, a class that is masked at "
                f"evaluation (masked_classes): its probability is 0 there. Leave these samples out, or do not mask it."
            )


def _names(config: Any) -> list[str]:
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def _indices(classes: Any, names: Sequence[str]) -> list[int]:
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise ValueError(f"masked_classes must be a list of names or indices of classes, got {classes!r}.")
    found = set()
    for one in classes:
        if isinstance(one, str) and one in names:
            found.add(names.index(one))
        elif str(one).isdecimal() and not isinstance(one, bool) and int(one) < len(names):
            found.add(int(one))
        else:
            listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise ValueError(
                f"masked_classes names {one!r}, which is no class of the model; those are {listed}. Name some of "
                "these, or their indices, or set config.masked_classes to None."
            )
    if len(names) - len(found) < 2:
        raise ValueError(f"masked_classes={list(classes)} leaves fewer than two of the {len(names)} classes.")
    return sorted(found)


def mask_logits(logits: Tensor, indices: Sequence[int]) -> Tensor:
    """The logits, of any shape `(..., num_labels)`, with -inf for these classes."""
    if not indices:
        return logits
    return logits.index_fill(-1, torch.tensor(indices, device=logits.device), -torch.inf)


def _mask(model: Any, inputs: Any, outputs: Any) -> Any:
    if model.training:
        return outputs
    indices = masked_indices(model.config)
    return with_logits(outputs, lambda logits: mask_logits(logits, indices)) if indices else outputs


def with_logits(outputs: Any, change: Any) -> Any:
    """What a model gives, with its logits changed."""
    if isinstance(outputs, tuple):  # return_dict=False: the logits come first, or after the loss, which is a scalar
        index = 0 if outputs[0].dim() else 1
        return (*outputs[:index], change(outputs[index]), *outputs[index + 1 :])
    return replace_logits(outputs, change(extract_logits(outputs)))
