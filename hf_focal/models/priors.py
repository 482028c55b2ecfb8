# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""A model for other class frequencies than those of its data, and one that was trained under class weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor
from transformers import PreTrainedModel

from ..calibrators.base import Calibrator, Chain, calibrator_of, is_known
from ..calibrators.prior import ClassWeights, PriorShift, frequencies, listed_numbers, per_class
from ..networks.masking import masked_indices
from .fold import put_on_top
from .head import check_single_label
from .record import calibration_record


_SAME = 0.02  # relative difference of frequencies that rounding explains


def adjust_prior(
    model: PreTrainedModel, source: ArrayLike | Mapping[Any, float], target: ArrayLike | Mapping[Any, float], *,
    inputs: Mapping[str, Tensor] | None = None, fold: bool | None = None,
) -> PreTrainedModel:  # fmt: skip
    """
    Make a classifier give the probabilities for other class frequencies than those of its data.

    Where classes are more or less frequent than in the data that the model is calibrated on, and look the same, Bayes'
    rule multiplies each probability by `target / source` (Saerens et al., 2002): the logits get
    `log(target / source)`, which the bias of the head takes up. It comes on top of the calibrator that the model has.
    Calibrate first, best by a method with a shift: the rule holds for probabilities that are right where classes have
    the frequencies `source`, and calibrating later forgets the prior. [`estimate_prior`] estimates frequencies from
    unlabelled data.

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`): A classifier with one label per sample.
        source (`np.ndarray` of shape `(num_labels,)` or `Mapping[str | int, float]`):
            Class frequencies of the data that the model was trained on, or where a calibrator with a shift was fitted
            (`"bias"`, `"vector"`, `"matrix"`), of the data for that: positive shares that sum to 1, or counts, in the
            order of the classes, or by their names or indices, as a dict or what `value_counts` of pandas gives. For
            a model that was adjusted already, the frequencies it was adjusted to. Where training used class weights,
            the frequencies times the weights, unless [`undo_class_weights`] was called.
        target (`np.ndarray` of shape `(num_labels,)` or `Mapping[str | int, float]`):
            The same, of the data where the model is used.
        inputs (`Mapping[str, torch.Tensor]`, *optional*): A batch to try the head on, see [`fold_calibrator`].
        fold (`bool`, *optional*):
            Whether the head takes it up, by default as it has the calibrator. A head without a bias cannot; with
            `False` the prior stays in `config.calibration`, where `from_pretrained`, `pipeline` and `evaluate()` of
            `hf_focal` heed it.

    Returns:
        `transformers.PreTrainedModel`: The same model, changed in place; [`unfold_calibrator`] undoes it.

    Raises:
        ValueError: If frequencies are not a positive number for each class (those of masked classes do not matter),
            the model was adjusted to others than `source` before, or its head cannot take a shift; the weights are
            then as they were.
    """
    kind = check_single_label(model, "Priors"), _names(model), masked_indices(model.config)
    start, end = frequencies("source", source, *kind), frequencies("target", target, *kind)
    priors = [step for step in _steps(calibration_record(model)) if isinstance(step, PriorShift)]
    if priors and not np.allclose(start, priors[-1].target, rtol=_SAME):
        raise ValueError(
            "This model is adjusted to other class frequencies already, and source is not what it was adjusted to: "
            f"{listed_numbers(priors[-1].target)}, got {listed_numbers(start)}. Pass those as source, or take that "
            "off first: unfold_calibrator(model, only_last=True)."
        )
    prior = PriorShift(tuple(start.tolist()), tuple(end.tolist()))
    return put_on_top(model, prior, inputs=inputs, fold=fold)


def undo_class_weights(
    model: PreTrainedModel, weights: ArrayLike | Mapping[Any, float], *,
    inputs: Mapping[str, Tensor] | None = None, fold: bool | None = None,
) -> PreTrainedModel:  # fmt: skip
    """
    Make a classifier that was trained by a cross-entropy with class weights give the probabilities of its data.

    The minimiser of cross-entropy under weights `w` gives probabilities in proportion to `w * p`: the logits get
    `-log(w)`, which the bias of the head takes up. Rates at which samples of a class were drawn more often count as
    weights. It is exact as far as training found that minimiser. A network that was trained until its training data
    were fitted without a mistake is hardly moved by weights (Byrd and Lipton, 2019), and undoing them goes too far:
    compare the NLL of held-out data before and after.

    The record tells the loss of a model that was calibrated; else you are taken at your word that it was
    cross-entropy. Calibrating the model later starts from the head as it was trained and so forgets this. With
    labelled data at hand calibrate by `"vector"` or `"bias"` instead: these learn what weights did, whatever the loss,
    where a temperature does not.

    Args:
        model, inputs, fold: As for [`adjust_prior`], and so is what is returned.
        weights (`np.ndarray` of shape `(num_labels,)` or `Mapping[str | int, float]`):
            The weight of each class in training, positive, in their order or by name or index; a common factor of all
            does not matter.

    Raises:
        ValueError: If weights are not a positive number for each class, the model is calibrated (what was fitted to
            probabilities under weights is wrong for others) or its weights undone already, its record names another
            loss than cross-entropy, or its head cannot take a shift; the weights of the model are then as they were.
    """
    values = per_class(
        "weights", weights, check_single_label(model, "Priors"), _names(model), masked_indices(model.config)
    )
    record = calibration_record(model) or {}
    loss = record.get("loss", "custom")
    if loss not in ("cross_entropy", "custom"):  # custom: a function, of which the record tells nothing
        raise ValueError(
            "undo_class_weights is for models trained by cross-entropy, and config.calibration says that this one was "
            f"trained by {loss!r}: what class weights do to the probabilities is undone for cross-entropy alone. "
            "Calibrate the model by method='vector' or 'bias' on labelled data "
            "instead, which learn what the weights did."
        )
    steps = _steps(record)
    if any(isinstance(step, ClassWeights) for step in steps):
        raise ValueError(
            "The class weights of this model are undone already; unfold_calibrator(model, only_last=True) takes off "
            "what was put on last."
        )
    fitted = [step for step in steps if not isinstance(step, PriorShift) and not _is_neutral(step, len(values))]
    if fitted or record and not is_known(record):
        named = fitted[0].named if fitted else f"method {record['method']!r}"
        raise ValueError(
            f"This model is calibrated already: its {named} was fitted to the probabilities under class weights and "
            "is wrong for others. Take it off first by unfold_calibrator(model, only_last=True); or calibrate the "
            "model by method='vector' or 'bias' on labelled data instead, which learn what the weights did."
        )
    return put_on_top(model, ClassWeights(tuple(values.tolist())), inputs=inputs, fold=fold)


def _names(model: Any) -> list[str]:
    return [str(model.config.id2label[index]) for index in range(model.config.num_labels)]


def _steps(record: Mapping[str, Any] | None) -> tuple[Calibrator, ...]:
    """What a record holds, in order; nothing where it is not known here."""
    if not record or not is_known(record):
        return ()
    calibrator = calibrator_of(record)
    return calibrator.steps if isinstance(calibrator, Chain) else (calibrator,)


def _is_neutral(calibrator: Calibrator, num_labels: int) -> bool:
    """Whether it changes nothing, as where the guard kept a temperature of 1."""
    if not calibrator.is_affine:
        return False
    scale, shift = calibrator.affine(num_labels)
    return np.ndim(scale) == 0 and scale == 1 and (shift is None or not np.any(shift))
