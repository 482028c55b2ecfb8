# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""No calibrator: the probabilities of the model as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import SIGMOID, Affine, Calibrator, register_calibrator


if TYPE_CHECKING:
    from torch import Tensor


@register_calibrator
@dataclass(frozen=True)
class NoCalibration(Calibrator):
    """The map that changes nothing, which `"auto"` may choose."""

    method: ClassVar[str] = "none"
    fitted: ClassVar[bool] = False

    @classmethod
    def fit(cls, logits: NDArray[Any], labels: NDArray[np.int64], *, criterion: str, n_bins: int) -> NoCalibration:
        return cls()

    @classmethod
    def neutral(cls, num_labels: int) -> NoCalibration:
        return cls()

    def calibrated_logits(self, logits: NDArray[Any]) -> NDArray[Any]:
        return logits

    def on_tensor(self, logits: Tensor) -> Tensor:
        return logits

    def affine(self, num_labels: int) -> Affine:
        return Affine()

    @property
    def named(self) -> str:
        return "absence of a calibrator"

    @property
    def words(self) -> str:
        return "Its probabilities are left alone."

    def by_hand(self, place: str) -> str:
        return ", which are left as they are."

    def __str__(self) -> str:
        return "none"


@register_calibrator
@dataclass(frozen=True)
class NoSigmoidCalibration(NoCalibration):
    """The same, for a head whose labels each have a probability of their own."""

    activation: ClassVar[str] = SIGMOID
