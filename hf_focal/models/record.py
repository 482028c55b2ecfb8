# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
What a model says of its calibration, in `config.calibration`: probabilities are `softmax(logits)` where `folded` is
true, or `sigmoid(logits)` where `activation` is `"sigmoid"`; else the logits still need the calibrator that the record
tells of. Nothing else ever changes logits.

A record belongs to the head that it was fitted to, whose fingerprint it holds as `head`. Of another head, such as one
that was made anew or trained on, a folded record is forgotten, and an unfolded one refused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from ..calibrators.base import SIGMOID, Calibrator, Chain, UnfoldableError, calibrator_of, is_known, short
from ..networks.masking import masked_names
from ..networks.zero_shot import has_scale
from .fingerprint import check_fingerprint, difference
from .sigmoid import activation_of


logger = logging.getLogger(__name__)


# Beside an adapter of PEFT, which is saved without the config: `config.calibration`, and the names of the labels.
ADAPTER_RECORD = "calibration.json"
_LARGEST = 1e12  # of what a logit is multiplied by, or shifted: more is nothing that a fit gives


ROUNDED = "rounding_changed"  # how many validation answers a head of half precision gives otherwise than the map


def record_of(
    calibrator: Calibrator, facts: Mapping[str, Any], folded: bool, head: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """
    What a config holds as `calibration`; `facts` are further entries, such as `criterion` and `loss`, and `head` what
    `fingerprint` gives. Under `"then"` they may hold those of what was put on top.
    """
    numbers = calibrator.to_record()
    if "then" in numbers:
        told = facts.get("then", [])
        told = told if len(told) == len(numbers["then"]) else [{}] * len(numbers["then"])
        numbers["then"] = [{**step, **own} for step, own in zip(told, numbers["then"], strict=True)]
    facts = {key: value for key, value in facts.items() if key not in ("method", "head", "then")}
    return {"method": calibrator.method, **facts, **numbers, "folded": folded, **(head or {})}


def facts_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says beside its calibrator, as [`record_of`] takes it."""
    numbers = calibrator_of(record).to_record()
    facts = {key: value for key, value in record.items() if key not in (*numbers, "method", "folded", "head")}
    return {**facts, **({"then": record["then"]} if record.get("then") else {})}


def record_on_top(
    record: Mapping[str, Any] | None, calibrator: Calibrator, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """
    The record of a calibrator that is put on top of what another one tells of, with facts of its own. Thresholds are
    dropped: they were on other probabilities.
    """
    own = {"method": calibrator.method, **facts, **calibrator.to_record()}
    if record is None:
        return own
    record = {key: value for key, value in record.items() if key not in ("threshold", "thresholds")}
    return {**record, "then": [*(record.get("then") or []), own, *own.pop("then", [])]}


def record_without_last(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record without what was put on last; `None` where that is all."""
    *others, _ = record.get("then") or [None]
    rest = {key: value for key, value in record.items() if key != "then"}
    if record.get("then"):
        return {**rest, "then": others} if others else rest
    return None


def calibration_record(model: PreTrainedModel) -> dict[str, Any] | None:
    """
    A checked copy of `model.config.calibration`, or `None` for a model that was never calibrated. A folded record of
    another head is forgotten, with a warning.

    Raises:
        ValueError: If it is malformed, or is not folded and of another head.
    """
    record = stated_record(model)
    if record is None or not (reason := why_of_another_head(model, record)):
        return record
    if not record["folded"]:
        raise ValueError(
            f"config.calibration of this {type(model).__name__} is of another head, so its {_named(record)} is not "
            f"applied: {reason}. Fit one for this head: delete the entry 'calibration' (del model.config.calibration, "
            "or in config.json; for an adapter the file calibration.json) and calibrate the model, for example by "
            "CalibrationTrainer.calibrate or hf-focal calibrate."
        )
    forget_record(model, reason)
    return None


def stated_record(model: PreTrainedModel) -> dict[str, Any] | None:
    """A checked copy of `model.config.calibration`, whichever head it is of."""
    record = getattr(getattr(model, "config", None), "calibration", None)
    return None if record is None else check_record(record)


def write_adapter_record(model: Any, folder: Path) -> None:
    """
    Write the record of a calibrated model, with its labels, beside the adapter of PEFT that is saved in a folder: a
    `config.json` there would make it a whole model.
    """
    record = calibration_record(model)
    if record is not None:
        labels = [name for _, name in sorted(model.config.id2label.items())]
        masks = {"masked_classes": masked} if (masked := masked_names(model.config)) else {}
        text = json.dumps({**record, "labels": labels, **masks}, indent=2)
        (folder / ADAPTER_RECORD).write_text(text + "\n", encoding="utf-8")


def forget_record(model: PreTrainedModel, reason: str) -> None:
    """Clear a record that is of another head, with a warning."""
    logger.warning(
        "The calibration in the config, %s, is of another head than that of this %s, and is forgotten: %s. Its logits "
        "are as this head gives them: calibrate it again.",
        _named(model.config.calibration), type(model).__name__, reason,
    )  # fmt: skip
    del model.config.calibration


def why_of_another_head(model: PreTrainedModel, record: Mapping[str, Any]) -> str:
    """The end of a sentence on what shows that a checked record is of another head; `""` where nothing does."""
    num_labels = getattr(model.config, "num_labels", 0)
    calibrator = calibrator_of(record) if is_known(record) and isinstance(num_labels, int) else Chain(())
    if calibrator.is_sigmoid and activation_of(model) != SIGMOID:
        kind = getattr(model.config, "problem_type", None)
        return f"it is for labels with a probability each, and the model has one softmax (problem_type={kind!r})"
    steps = calibrator.steps if isinstance(calibrator, Chain) else (calibrator,)
    for step in () if has_scale(model) else steps:  # whose numbers are for however many labels
        try:
            affine = step.affine(num_labels)
        except UnfoldableError:
            continue
        for values in (np.asarray(affine.scale), np.asarray(affine.shift)):
            if values.ndim and len(values) != num_labels:
                return f"it is for {len(values)} classes, and the model has {num_labels}"
    return difference(model, record["head"]) if record.get("head") is not None else ""


def _named(record: Mapping[str, Any]) -> str:
    return calibrator_of(record).named if is_known(record) else f"method {short(record['method'])}"


def check_record(record: Any, name: str = "config.calibration") -> dict[str, Any]:
    """A checked copy of such a record. Unknown keys are kept, and an unknown method is, if it is folded."""
    if not isinstance(record, Mapping) or not isinstance(record.get("folded"), bool):
        raise ValueError(
            f"{name} must be a dict with 'temperature' (a number) and 'folded' (true or false), got {short(record)}."
        )
    if is_known(record) or not record["folded"]:
        calibrator = calibrator_of(record, name)
        if record["folded"] and not calibrator.is_affine:
            raise ValueError(f"{name} of method {calibrator.method!r} cannot be folded, got {short(record)}.")
    if record.get("head") is not None:
        check_fingerprint(record["head"], f"{name}['head']")
    return dict(record)


def refuse_unusable(record: Any, num_labels: Any, name: str = "config.calibration") -> None:
    """Refuse a checked record whose map is none to apply: one that cannot be undone, or of numbers without measure."""
    if not is_known(record) or not isinstance(num_labels, int):
        return
    try:
        affine = calibrator_of(record, name).affine(num_labels)
    except UnfoldableError:  # it is not affine
        return
    numbers = [np.abs(one).max(initial=0.0) for one in affine if one is not None]
    if not max(numbers) <= _LARGEST:
        raise ValueError(f"{name} must hold factors and shifts of at most {_LARGEST:g}, got {max(numbers):g}.")
    try:
        affine.inverse()
    except UnfoldableError as error:
        raise ValueError(f"{name} is refused: {error}") from error


def rounding_words(record: Mapping[str, Any] | None) -> str:
    """A sentence on the answers that a head in half precision changed; `""` where none were counted."""
    if record is None or not isinstance(changed := record.get(ROUNDED), int):
        return ""
    words = f"Rounding the head to half precision changed {changed} of {record.get('n_samples')} validation answers"
    way_out = "; kept in the config (--no_fold_temperature, fold=False) the calibrator is not rounded into the head"
    return f"{words}{way_out if changed else ''}."


def has_adapter(model: Any) -> bool:
    """Whether saving this model saves an adapter of PEFT alone."""
    return bool(getattr(model, "peft_config", None))
