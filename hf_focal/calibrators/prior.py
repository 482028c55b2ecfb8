# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Other class frequencies than those of training: a shift of each logit (Saerens et al., 2002)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import Affine, Calibrator, check_vector, register_calibrator


@register_calibrator
@dataclass(frozen=True)
class PriorShift(Calibrator):
    """`z + log(target) - log(source)`, of class frequencies, for logits `z` that are calibrated at `source`."""

    method: ClassVar[str] = "prior"
    noun: ClassVar[str] = "prior"
    fitted: ClassVar[bool] = False
    source: tuple[float, ...] = field(metadata={"check": check_vector})
    target: tuple[float, ...] = field(metadata={"check": check_vector})

    @classmethod
    def fit(cls, logits: NDArray[Any], labels: NDArray[np.int64], *, criterion: str, n_bins: int) -> PriorShift:
        raise ValueError("method='prior' is not fitted: hf_focal.adjust_prior puts it on a model.")

    def affine(self, num_labels: int) -> Affine:
        return Affine(1.0, np.log(self.target) - np.log(self.source))

    def __str__(self) -> str:
        return "prior"
