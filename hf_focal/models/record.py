# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
What a model says of its calibration, in `config.calibration`: probabilities are `softmax(logits)` where `folded` is
true; else the logits still need the calibrator that the record tells of. Nothing else ever changes logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from ..calibrators.base import Calibrator, calibrator_of, is_known


# Beside an adapter of PEFT, which is saved without the config: `config.calibration`, and the names of the labels.
ADAPTER_RECORD = "calibration.json"


def record_of(calibrator: Calibrator, facts: Mapping[str, Any], folded: bool) -> dict[str, Any]:
    """What a config holds as `calibration`; `facts` are further entries, such as `criterion` and `loss`."""
    facts = {key: value for key, value in facts.items() if key != "method"}
    return {"method": calibrator.method, **facts, **calibrator.to_record(), "folded": folded}


def calibration_record(model: PreTrainedModel) -> dict[str, Any] | None:
    """A checked copy of `model.config.calibration`, or `None` for a model that was never calibrated."""
    record = getattr(getattr(model, "config", None), "calibration", None)
    return None if record is None else check_record(record)


def check_record(record: Any, name: str = "config.calibration") -> dict[str, Any]:
    """A checked copy of such a record. Unknown keys are kept, and an unknown method is, if it is folded."""
    if not isinstance(record, Mapping) or not isinstance(record.get("folded"), bool):
        raise ValueError(
            f"{name} must be a dict with 'temperature' (a number) and 'folded' (true or false), got {record!r}."
        )
    if is_known(record) or not record["folded"]:
        calibrator = calibrator_of(record, name)
        if record["folded"] and not calibrator.foldable():
            raise ValueError(f"{name} of method {calibrator.method!r} cannot be folded, got {record!r}.")
    return dict(record)


def has_adapter(model: Any) -> bool:
    """Whether saving this model saves an adapter of PEFT alone."""
    return bool(getattr(model, "peft_config", None))
