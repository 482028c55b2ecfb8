# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""How far apart the logits of a sample are, and where a softmax in float32 can no longer take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import row_blocks
from ..metrics.scored import LogitMap


LIMIT = 88.0  # exp(88.73) is more than float32 holds


@dataclass(frozen=True)
class Spread:
    """
    The largest logit of a sample less its smallest, masked classes aside.

    Attributes:
        largest (`float`): The largest of all samples.
        above (`int`): Of how many samples it is more than 88.
        count (`int`): Number of samples.
    """

    largest: float
    above: int
    count: int

    def words(self, what: str) -> str:
        """What servers make of it, in words; `""` where there is nothing to fear. `what` are the samples."""
        if not self.above:
            return ""
        return (
            f"The logits of {self.above} of {self.count} {what} spread by more than {LIMIT:.0f} (by up to "
            f"{self.largest:.1f}). text-embeddings-inference subtracts the one of largest absolute value in float32, "
            "not the largest, and gives NaN where that one is negative: ask it for raw_scores, and take their softmax."
        )


def spread_of(logits: NDArray[Any], calibrator: LogitMap | None = None) -> Spread:
    """Of checked logits, `(num_samples, num_labels)`, or of what a calibrator makes of them."""
    largest, above = 0.0, 0
    for _, values, axis in row_blocks(logits, np.float64):
        rows = values if axis else values.T
        rows = rows if calibrator is None else calibrator.calibrated_logits(rows)
        spreads = rows.max(axis=1) - np.where(rows == -np.inf, np.inf, rows).min(axis=1)
        largest, above = max(largest, float(spreads.max())), above + int(np.count_nonzero(spreads > LIMIT))
    return Spread(largest, above, len(logits))
