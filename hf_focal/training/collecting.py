# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a model says of a data set, kept batch by batch: the rows that count alone, in a file where they are many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..predictions import Predictions
from ..spill import Rows


class Collector:
    """
    A `compute_metrics` of an evaluation under `batch_eval_metrics`, which measures nothing and keeps all rows.

    Args:
        flatten (`Callable`): Makes [`Predictions`] of a batch, as [`Predictions.flatten`] does.
    """

    def __init__(self, flatten: Callable[[Any], Predictions]) -> None:
        self._flatten, self._rows, self._samples = flatten, Rows(), 0
        self._labels: list[NDArray[np.int64]] = []
        self._groups: list[NDArray[np.int64] | None] = []

    def __call__(self, eval_prediction: Any, compute_result: bool = False) -> dict[str, float]:
        seen = self._flatten(eval_prediction)
        self._rows.add(seen.logits)
        self._labels.append(seen.labels)
        self._groups.append(None if seen.groups is None else seen.groups + self._samples)
        labels = eval_prediction.label_ids
        self._samples += len(labels[0] if isinstance(labels, tuple) else labels)
        return {}

    def predictions(self, split: str) -> Predictions:
        """
        All that came.

        Raises:
            ValueError: If nothing came: the data have no labels.
        """
        if not self._labels:
            raise ValueError("The data have no labels, so that nothing can be measured or fitted on them.")
        groups = [one for one in self._groups if one is not None]
        together = np.concatenate(groups) if len(groups) == len(self._groups) else None
        return Predictions(self._rows.array(), np.concatenate(self._labels), together, split)
