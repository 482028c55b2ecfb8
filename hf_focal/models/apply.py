# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""A calibrator in the forward pass of a model that does not have it folded in."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from ..calibrators.base import Calibrator, calibrator_of
from ..networks.masking import with_logits
from ..networks.zero_shot import has_scale, with_scores
from .record import calibration_record, refuse_unusable, stated_record
from .scores import score_map


def apply_temperature(model: PreTrainedModel) -> PreTrainedModel:
    """
    Let a model apply the calibrator in its config, such as a temperature, to its own logits, if that is not folded in.

    A forward hook does it, which changes no weight and nothing that `save_pretrained` writes. It follows
    `config.calibration` at every call: after folding it does nothing, and calling this twice is calling it once. A
    loss that the model computes itself, from `labels`, is that of the undivided logits. With method `"focal"` the
    logits become logarithms of the probabilities, without a gradient.

    Args:
        model (`transformers.PreTrainedModel`): A classifier, which is returned; without `config.calibration` nothing
            is done to its logits.

    Raises:
        ValueError: If `config.calibration` is malformed, or unfolded and of an unknown method or of another head.
    """
    record = calibration_record(model)  # refuses what is malformed, or of another head
    if record is not None and not record["folded"]:
        refuse_unusable(record, getattr(model.config, "num_labels", None))
        if has_scale(model):
            score_map(model, calibrator_of(record))
    if not applies_temperature(model):
        model.register_forward_hook(_calibrate_logits)
    return model


def pending_calibrator(model: PreTrainedModel) -> Calibrator | None:
    """What the logits of this model still need: what is neither folded nor applied by its forward."""
    stated = stated_record(model)
    if stated is None or stated["folded"] or applies_temperature(model):
        return None
    record = calibration_record(model)
    return None if record is None else calibrator_of(record)


def applies_temperature(model: Any) -> bool:
    """Whether [`apply_temperature`] was called on this model."""
    return _calibrate_logits in getattr(model, "_forward_hooks", {}).values()


@contextmanager
def unapplied(model: Any) -> Iterator[None]:
    """As if [`apply_temperature`] had not been called."""
    applied = applies_temperature(model)
    stop_applying(model)
    try:
        yield
    finally:
        if applied:
            model.register_forward_hook(_calibrate_logits)


def stop_applying(model: Any) -> None:
    """Undo [`apply_temperature`]."""
    for key, hook in list(getattr(model, "_forward_hooks", {}).items()):
        if hook is _calibrate_logits:
            del model._forward_hooks[key]  # noqa: SLF001  (the handle would be lost in a copy of the model)


# Of each model the record that its logits were last calibrated by, and what it tells of.
_SEEN: weakref.WeakKeyDictionary[Any, tuple[Any, Calibrator | None]] = weakref.WeakKeyDictionary()


def _calibrate_logits(model: Any, inputs: Any, outputs: Any) -> Any:
    stated = getattr(model.config, "calibration", None)
    known = _SEEN.get(model)
    if known is None or known[0] != stated:
        record = stated_record(model)
        waiting = None if record is None or record["folded"] else calibrator_of(record)
        known = _SEEN[model] = (copy.deepcopy(stated), waiting)
    if known[1] is None:
        return outputs
    if not has_scale(model):
        return with_logits(outputs, known[1].on_tensor)
    apply: Any = with_logits if isinstance(outputs, ImageClassifierOutput) else with_scores  # of images and texts
    return apply(outputs, score_map(model, known[1]).on_tensor)
