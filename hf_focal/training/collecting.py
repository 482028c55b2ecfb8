# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a model says of a data set, kept batch by batch: the rows that count alone, in a file where they are many."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np

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
        # Each grows in one place: small arrays between those of batches would keep the memory of these from use.
        self._labels, self._groups, self._grouped = array("q"), array("q"), True
        self._shape: tuple[int, ...] = ()  # of a row's labels: of a sigmoid head those of all outputs

    def __len__(self) -> int:
        """How many samples came, of which some may have no row that counts."""
        return self._samples

    def __call__(self, eval_prediction: Any, compute_result: bool = False) -> dict[str, float]:
        seen = self._flatten(eval_prediction)
        self._rows.add(seen.logits)
        self._shape = seen.labels.shape[1:]
        self._labels.frombytes(seen.labels.astype(np.int64).tobytes())
        if seen.groups is not None:
            self._groups.frombytes((seen.groups + self._samples).astype(np.int64).tobytes())
        self._grouped = self._grouped and seen.groups is not None
        labels = eval_prediction.label_ids
        self._samples += len(labels[0] if isinstance(labels, tuple) else labels)
        return {}

    def predictions(self, split: str) -> Predictions:
        """
        All that came.

        Raises:
            ValueError: If nothing came: the data have no labels.
        """
        if not self._samples:
            raise ValueError("The data have no labels, so that nothing can be measured or fitted on them.")
        labels, groups = (np.frombuffer(values, np.int64) for values in (self._labels, self._groups))
        labels = labels.reshape(-1, *self._shape)
        return Predictions(self._rows.array(), labels, groups if self._grouped else None, split)
