# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a model returned, and where its logits are in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def extract_logits(outputs: Any) -> Tensor:
    """The logits in what a model returned: a tensor, an object or a mapping with `logits`, or a tuple led by them."""
    logits = outputs
    if not isinstance(outputs, Tensor):
        if getattr(outputs, "logits", None) is not None:
            logits = outputs.logits
        elif isinstance(outputs, Mapping):
            logits = outputs.get("logits")
        elif isinstance(outputs, (tuple, list)) and outputs:
            logits = outputs[0]
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"No logits found in a model output of type {type(outputs).__name__}. Needed: a tensor, an object or a "
            "mapping with `logits`, or a tuple whose first entry is the logits."
        )
    return logits
