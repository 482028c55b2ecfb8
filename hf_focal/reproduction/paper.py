# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The paper's own figures, read from `paper.json`."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any


_MOMENTS = ("before", "after")
SOURCE = "Mukhoti et al. (2020)"


@lru_cache(maxsize=1)
def _facts() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("paper.json").read_text("utf-8"))


def paper_value(row: str, loss: str, key: str, moment: str = "after") -> float | None:
    """
    What the paper has for a loss in one of its rows (data set, model): `temperature`, or in percent `ece` before or
    after scaling, or the error under `accuracy`; `None` for what it does not say.
    """
    if key == "temperature":
        return _facts()["temperature"].get(row, {}).get(loss)
    if key == "accuracy":
        return _facts()["error"].get(row, {}).get(loss)
    pair = _facts()["ece"].get(row, {}).get(loss) if key == "ece" else None
    return None if pair is None else pair[_MOMENTS.index(moment)]


def paper_auroc(row: str, data: str, loss: str, moment: str) -> float | None:
    """The AUROC in percent against other data, `SVHN` or `CIFAR-10-C`."""
    pair = _facts()["auroc"].get(row, {}).get(data, {}).get(loss)
    return None if pair is None else pair[_MOMENTS.index(moment)]
