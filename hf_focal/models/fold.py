# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Folding a calibrator into the head of a model, so that its plain softmax is calibrated, and undoing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..calibrators.base import Affine, Calibrator, UnfoldableError, calibrator_of, is_known
from ..calibrators.temperature import check_temperature
from ..networks.masking import masked_indices
from .apply import stop_applying
from .fingerprint import fingerprint
from .head import MASKED, check_single_label, evaluating, find_head, map_outputs, probe_logits, probe_of, try_heads
from .record import calibration_record, record_of, stated_record, why_of_another_head


def fold_calibrator(
    model: PreTrainedModel, calibrator: Calibrator, *, inputs: Mapping[str, Tensor] | None = None,
    record: Mapping[str, Any] | None = None,
) -> PreTrainedModel:  # fmt: skip
    """
    Let the classification head do what a calibrator does, so that the model's plain softmax is calibrated.

    The head is found and tried on a probe batch with random weights in it (and restored), and changed in place. A
    common scale, such as a temperature, suits any head that scales the logits; a factor or a shift of each class, or a
    matrix, asks for one last linear layer whose outputs are the logits. Half precision heads are rounded to their own
    precision. With an adapter of PEFT it is the head in its `modules_to_save` that is changed.

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`):
            A classifier with one label per sample (or token), of at least two classes.
        calibrator ([`Calibrator`]): As fitted by [`fit_calibrator`].
        inputs (`Mapping[str, torch.Tensor]`, *optional*): A batch for the probe; by default one is made from the
            config, for images and text. A model of other inputs needs it.
        record (`Mapping[str, Any]`, *optional*):
            What else to write into `config.calibration`: `criterion`, `loss`, `split`, `n_samples`.

    Returns:
        `transformers.PreTrainedModel`: The same model, with `config.calibration` set and `folded` true.

    Raises:
        ValueError: If the model is folded already or cannot take the probe batch; an [`UnfoldableError`] if the
            calibrator cannot be folded, or not into this model. The weights are then as they were.
    """
    known = calibration_record(model)
    if known is not None and known["folded"]:
        raise ValueError(
            "This model is calibrated already: its head has the "
            f"{calibrator_of(known).named if is_known(known) else known['method']} folded in. "
            "Call unfold_temperature(model) before folding another one."
        )
    num_labels = check_single_label(model)
    affine = calibrator.affine(num_labels)
    if known is not None:
        waiting = calibrator_of(known)
        waiting.affine(num_labels)  # what no head can do is not dropped for something else
        if record is None and record_of(waiting, {}, False) == record_of(calibrator, {}, False):
            record = known
    heads = _map_head(model, affine, inputs, calibrator.noun)
    model.config.calibration = record_of(calibrator, record or {}, folded=True, head=fingerprint(model, heads))
    return model


def fold_temperature(
    model: PreTrainedModel, temperature: float, *, inputs: Mapping[str, Tensor] | None = None,
    record: Mapping[str, Any] | None = None,
) -> PreTrainedModel:  # fmt: skip
    """
    Divide the classification head by the temperature, so that the model's plain softmax is calibrated.

    It is [`fold_calibrator`] for a temperature, any head that scales the logits being fit for it. The head of an
    adapter of PEFT is saved with the adapter, and stays in the model after `merge_and_unload()`.

    Args:
        temperature (`float`): What to divide by, as fitted by [`fit_temperature`].
        model, inputs, record: As for [`fold_calibrator`], and so is what is returned.

    Raises:
        ValueError: As [`fold_calibrator`], or if the temperature is not a positive number.
    """
    temperature = check_temperature(temperature)
    calibrator = calibrator_of({**(record or {}), "temperature": temperature}, "record")
    return fold_calibrator(model, calibrator, inputs=inputs, record=record)


def unfold_temperature(model: PreTrainedModel, *, inputs: Mapping[str, Tensor] | None = None) -> PreTrainedModel:
    """
    Undo [`fold_temperature`], or [`fold_calibrator`], by the record in the config, and set `folded` to false. Where
    [`apply_temperature`] was called, that is undone too.

    Args:
        model, inputs: As for [`fold_calibrator`]; the model is a folded one.

    Returns:
        `transformers.PreTrainedModel`: The same model; its logits are those before scaling, up to rounding.

    Raises:
        ValueError: If the model is not folded, or another head than this one was, or by a method that is not
            registered.
    """
    record = stated_record(model)
    if record is None or not record["folded"]:
        raise ValueError("This model has no folded temperature: config.calibration['folded'] is not true.")
    calibrator = calibrator_of(record)
    if reason := why_of_another_head(model, record):
        raise ValueError(
            f"The {calibrator.named} of config.calibration was folded into another head than that of this "
            f"{type(model).__name__}, so there is nothing to undo: {reason}. Clear the record "
            "(del model.config.calibration) and calibrate the model again."
        )
    heads = _map_head(model, calibrator.affine(check_single_label(model)).inverse(), inputs, calibrator.noun)
    stop_applying(model)
    model.config.calibration = record_of(calibrator, record, folded=False, head=fingerprint(model, heads))
    return model


@torch.no_grad()
def _map_head(
    model: PreTrainedModel, affine: Affine, inputs: Mapping[str, Tensor] | None, noun: str
) -> list[nn.Module]:
    """Change the head in place, proved on the probe batch, or leave it as it was. The modules changed."""
    num_labels = check_single_label(model)
    shift = np.zeros(num_labels) if affine.shift is None else affine.shift
    if np.shape(affine.scale) not in ((), (num_labels,), (num_labels, num_labels)) or shift.shape != (num_labels,):
        raise UnfoldableError(
            f"The {noun} is for other classes than the {num_labels} of this {type(model).__name__}: it has a scale of "
            f"shape {np.shape(affine.scale)} and a shift of shape {shift.shape}."
        )
    if not (np.isfinite(affine.scale).all() and np.isfinite(shift).all()):
        raise UnfoldableError(f"The {noun} must be finite, got {affine}.")
    affine.inverse()  # what cannot be undone is refused
    with evaluating(model):
        probe = probe_of(model, inputs)
        heads = find_head(model, probe, affine, noun)
        biases = [bias for head in heads if (bias := getattr(head, "bias", None)) is not None]
        if np.ndim(affine.scale) == 2 and (masked_indices(model.config) or any((b < MASKED).any() for b in biases)):
            raise UnfoldableError(
                f"Cannot fold a {noun} that mixes classes into {type(model).__name__}, some of whose classes are "
                "masked: what the head has for these would tell on the others. Keep it in the config (fold=False)."
            )
        held, off = try_heads(model, probe, heads, affine, probe_logits(model, probe))
        if not held:
            raise UnfoldableError(
                f"Cannot fold a {noun} into {type(model).__name__}: its weights cannot hold the numbers, so that the "
                f"logits would be off by up to {off:g}."
            )
        map_outputs(heads, affine)
    return heads
