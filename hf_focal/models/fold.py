# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Folding a calibrator into the head of a model, so that its plain softmax is calibrated, and undoing it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..calibrators import Fit
from ..calibrators.base import Affine, Calibrator, UnfoldableError, calibrator_of, for_activation, is_known
from ..calibrators.temperature import check_temperature
from ..networks.masking import masked_indices
from ..networks.zero_shot import has_scale
from .apply import applies_temperature, apply_temperature, stop_applying
from .fingerprint import fingerprint
from .head import (
    MASKED,
    Head,
    check_classifier,
    evaluating,
    find_head,
    is_common_scale,
    likely_heads,
    probe_logits,
    probe_of,
    try_head,
)
from .original import (
    attach_original,
    forget_original,
    hook_save,
    keep_original,
    kept_original,
    original_head,
    where_original,
)
from .record import (
    calibration_record,
    facts_of,
    has_adapter,
    record_of,
    record_on_top,
    record_without_last,
    stated_record,
    why_of_another_head,
)
from .scores import for_scores, rounding_of, score_map
from .sharded import reshard
from .sigmoid import activation_of, tell_of_sigmoids


logger = logging.getLogger(__name__)


def fold_calibrator(
    model: PreTrainedModel, fitted: Calibrator | Fit, *, inputs: Mapping[str, Tensor] | None = None,
    record: Mapping[str, Any] | None = None,
) -> PreTrainedModel:  # fmt: skip
    """
    Let the classification head do what a calibrator does, so that the model's plain softmax is calibrated; or its
    sigmoids, where each label has a probability of its own.

    The head is found and tried on a probe batch with random weights in it (and restored), and changed in place. A
    common scale, such as a temperature, suits any head that scales the logits; a factor or a shift of each class, or a
    matrix, asks for linear layers whose output, mean or sum is the logits, and a shift for a bias. Half precision
    heads are rounded to their own precision. With an adapter of PEFT it is the head in its `modules_to_save` that is
    changed. What the head was stays with the model, which saves it beside the weights: [`unfold_calibrator`] puts it
    back.

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`):
            A classifier, with one label per sample (or token) or several.
        fitted ([`Calibrator`] or [`Fit`]): As fitted by [`fit_calibrator`]; a [`Fit`] tells the record of its data.
        inputs (`Mapping[str, torch.Tensor]`, *optional*): A batch for the probe; by default one is made from the
            config, for images and text. A model of other inputs needs it.
        record (`Mapping[str, Any]`, *optional*):
            What else to write into `config.calibration`: `criterion`, `loss`, `split`, `n_samples`.

    Returns:
        `transformers.PreTrainedModel`: The same model, with `config.calibration` set and `folded` true.

    Raises:
        ValueError: If the model is folded already or cannot take the probe batch, or the fit is at an end of the range
            searched; an [`UnfoldableError`] if the calibrator cannot be folded, or not into this model. The weights
            are then as they were.
    """
    calibrator, record = _given(fitted, record)
    known = calibration_record(model)
    if known is not None and known["folded"]:
        raise ValueError(
            "This model is calibrated already: its head has the "
            f"{calibrator_of(known).named if is_known(known) else known['method']} folded in. "
            "Call unfold_temperature(model) before folding another one."
        )
    num_labels = check_classifier(model)
    calibrator = for_activation(calibrator, activation_of(model))
    affine = calibrator.affine(num_labels)
    if known is not None:
        waiting = calibrator_of(known)
        waiting.affine(num_labels)  # what no head can do is not dropped for something else
        if record is None and waiting == calibrator:
            record = facts_of(known)
    head = _map_head(model, affine, inputs, calibrator.noun)
    model.config.calibration = record_of(calibrator, record or {}, folded=True, head=fingerprint(model, head.modules))
    tell_of_sigmoids(model.config, model)
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


def put_on_top(
    model: PreTrainedModel, calibrator: Calibrator, *, inputs: Mapping[str, Tensor] | None = None,
    fold: bool | None = None, facts: Mapping[str, Any] | None = None,
) -> PreTrainedModel:  # fmt: skip
    """
    Put a calibrator on top of whatever a model has: its record becomes the chain of both.

    Args:
        model, inputs: As for [`fold_calibrator`].
        calibrator ([`Calibrator`]): For logits as the model's record makes them.
        fold (`bool`, *optional*):
            Whether the head does the chain, or it is kept in the config alone. By default as what is there, and true
            for a model that was never calibrated.
        facts (`Mapping[str, Any]`, *optional*): What else its own record holds.

    Returns:
        `transformers.PreTrainedModel`: The same model.

    Raises:
        ValueError: If what is folded in cannot be undone, or the calibrator is for other classes; an
            [`UnfoldableError`] if the head cannot do the chain. The model is then as it was.
    """
    known = calibration_record(model)
    check_classifier(model)
    calibrator = for_activation(calibrator, activation_of(model))
    record = record_on_top(known, calibrator, facts or {})
    with rolled_back(model):
        if known is not None and known["folded"]:
            unfold_calibrator(model, inputs=inputs)
        _put(model, record, (known is None or known["folded"]) if fold is None else fold, inputs)
    return model


def unfold_calibrator(
    model: PreTrainedModel, *, inputs: Mapping[str, Tensor] | None = None, only_last: bool = False
) -> PreTrainedModel:
    """
    Undo [`fold_calibrator`] by the record in the config, and set `folded` to false: the calibrator then waits in the
    config. Where [`apply_temperature`] was called, that is undone too.

    The head becomes what it was, bit for bit. It was kept with the model and saved beside its weights; where it is
    not to be found, a temperature is undone by rounded numbers, and nothing else is.

    Args:
        model, inputs: As for [`fold_calibrator`]; the model is a folded one.
        only_last (`bool`, *optional*, defaults to `False`):
            Take off what was put on last, such as a prior, and forget it; what is under it stays, folded or not.

    Returns:
        `transformers.PreTrainedModel`: The same model; its logits are those before the calibrator.

    Raises:
        ValueError: If the model is not folded, or another head than this one was, or by a method that is not
            registered, or what the head was is needed and not to be found. The weights are then as they were.
    """
    if only_last:
        return _take_off(model, inputs)
    reshard(model)
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
    modules = _undo(model, calibrator, inputs)
    forget_original(model)
    stop_applying(model)
    model.config.calibration = record_of(calibrator, facts_of(record), folded=False, head=fingerprint(model, modules))
    return model


def _undo(model: Any, calibrator: Calibrator, inputs: Mapping[str, Tensor] | None) -> list[nn.Module] | None:
    """Make the head what it was. Its modules; `None` where it is that already."""
    affine = calibrator.affine(check_classifier(model))
    if affine.is_identity:
        return None
    if found := original_head(model, affine):
        head = Head([module for module, _ in found])
        with torch.no_grad():
            head.set([original.weights for _, original in found])
        return head.modules
    if is_common_scale(affine) or has_scale(model):
        return _map_head(model, affine.inverse(), inputs, calibrator.noun).modules
    raise ValueError(
        f"The {calibrator.named} is undone by the weights that the head of {type(model).__name__} had before, and "
        f"they are not here: they belong {where_original(model)}. Fetch that file, or take the head as it is for one "
        "that was never calibrated (del model.config.calibration)."
    )


def unfold_temperature(model: PreTrainedModel, *, inputs: Mapping[str, Tensor] | None = None) -> PreTrainedModel:
    """[`unfold_calibrator`] by its earlier name."""
    return unfold_calibrator(model, inputs=inputs)


def lacks_bias(model: PreTrainedModel, inputs: Mapping[str, Tensor] | None = None) -> bool:
    """Whether the head can do a factor of each class, but no shift."""
    ones = np.ones(check_classifier(model))
    takes = []
    for affine in (Affine(ones), Affine(ones, ones)):
        try:
            takes.append(bool(find_head(model, inputs, affine)))
        except UnfoldableError:
            takes.append(False)
    return takes == [True, False]


def is_half(model: PreTrainedModel) -> bool:
    """Whether a calibrator is folded into a head of half precision, which rounds it to 8 or 11 bits."""
    return any(one.element_size() < 4 for module, _ in kept_original(model) for one in module.parameters())


def _given(fitted: Calibrator | Fit, record: Mapping[str, Any] | None) -> tuple[Calibrator, Mapping[str, Any] | None]:
    """The calibrator, and the facts of its record."""
    if isinstance(fitted, Calibrator):
        return fitted, record
    if not isinstance(fitted, Fit):
        raise ValueError(f"fold_calibrator takes a Fit or a Calibrator, got {fitted!r:.100}.")
    if fitted.at_end:
        raise ValueError(f"This fit is none to fold: {fitted.why} (Its calibrator can be folded all the same.)")
    facts: dict[str, Any] = {"criterion": fitted.criterion, "n_samples": fitted.n_samples}
    facts |= {"helped": False, "why": fitted.why} if fitted.unchanged else {}
    return fitted.calibrator, {**facts, **(record or {})}


def _take_off(model: PreTrainedModel, inputs: Mapping[str, Tensor] | None) -> PreTrainedModel:
    known = calibration_record(model)
    if known is None:
        raise ValueError("This model was never calibrated, so there is nothing to take off.")
    rest = record_without_last(known)
    with rolled_back(model):
        if known["folded"]:
            unfold_calibrator(model, inputs=inputs)
        if rest is None:
            del model.config.calibration
        else:
            _put(model, rest, known["folded"], inputs)
    return model


def _put(model: PreTrainedModel, record: Mapping[str, Any], fold: bool, inputs: Mapping[str, Tensor] | None) -> None:
    """Set a record of a model that nothing is folded into, and fold what it tells of, if asked."""
    calibrator, modules = calibrator_of(record), None
    if fold:
        modules = _map_head(model, calibrator.affine(check_classifier(model)), inputs, calibrator.noun).modules
    elif has_scale(model):
        score_map(model, calibrator)
    elif reason := why_of_another_head(model, {**record, "head": None}):
        raise ValueError(f"The {calibrator.named} is not for this {type(model).__name__}: {reason}.")
    model.config.calibration = record_of(calibrator, facts_of(record), fold, fingerprint(model, modules))
    tell_of_sigmoids(model.config, model)
    if has_adapter(model):  # whose record is not in a config that is saved
        hook_save(model)


@contextmanager
def rolled_back(model: Any) -> Iterator[None]:
    """After an error, head and record as they were. What [`apply_temperature`] did stays done."""
    reshard(model)
    config, applied, kept, head = model.config, applies_temperature(model), kept_original(model), likely_heads(model)
    known, weights = dict(config.__dict__), Head(head).weights()
    try:
        yield
    except BaseException:
        reshard(model)
        with torch.no_grad():
            Head(head).set(weights)
        forget_original(model)
        attach_original(model, kept)
        config.__dict__.clear()
        config.__dict__.update(known)
        raise
    finally:
        if applied:
            apply_temperature(model)


@torch.no_grad()
def _map_head(model: PreTrainedModel, affine: Affine, inputs: Mapping[str, Tensor] | None, noun: str) -> Head:
    """Change the head in place, proved on the probe batch, or leave it as it was."""
    if has_scale(model):  # of however many labels
        affine = for_scores(model, affine, noun)
    else:
        check_map(affine, check_classifier(model), noun, type(model).__name__)
    with evaluating(model):
        probe = probe_of(model, inputs)
        head = find_head(model, probe, affine, noun)
        biases = [bias for one in head.modules if (bias := getattr(one, "bias", None)) is not None]
        check_mixing(affine, model.config, biases, noun, type(model).__name__)
        held, off = try_head(model, probe, head, affine, probe_logits(model, probe))
        if not held:
            raise UnfoldableError(
                f"Cannot fold a {noun} into {type(model).__name__}: its weights cannot hold the numbers, so that the "
                f"logits would be off by up to {off:g}."
            )
        weights, mapped = head.weights(), head.mapped(affine)
        head.set(mapped)
        if has_scale(model) and (words := rounding_of(weights[0], mapped[0], affine)):
            logger.warning("%s", words)
        forget_original(model)  # of a head before this one
        if not affine.is_identity:
            keep_original(model, head, weights)
    return head


def check_map(affine: Affine, num_labels: int, noun: str, name: str) -> None:
    """Refuse a map that is not for the classes of a model of that class, or cannot be undone."""
    shift = np.zeros(num_labels) if affine.shift is None else affine.shift
    if np.shape(affine.scale) not in ((), (num_labels,), (num_labels, num_labels)) or shift.shape != (num_labels,):
        raise UnfoldableError(
            f"The {noun} is for other classes than the {num_labels} of this {name}: it has a scale of shape "
            f"{np.shape(affine.scale)} and a shift of shape {shift.shape}."
        )
    if not (np.isfinite(affine.scale).all() and np.isfinite(shift).all()):
        raise UnfoldableError(f"The {noun} must be finite, got {affine}.")
    affine.inverse()  # what cannot be undone is refused


def check_mixing(affine: Affine, config: Any, biases: list[Tensor], noun: str, name: str) -> None:
    """Refuse a matrix for a head of these biases some of whose classes are masked."""
    if np.ndim(affine.scale) == 2 and (masked_indices(config) or any((b < MASKED).any() for b in biases)):
        raise UnfoldableError(
            f"Cannot fold a {noun} that mixes classes into {name}, some of whose classes are masked: what the head "
            "has for these would tell on the others. Keep it in the config (fold=False)."
        )
