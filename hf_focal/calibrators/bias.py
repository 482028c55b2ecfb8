# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""A shift of each logit, which puts the mean probability of each class right."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import Affine, check_vector, register_calibrator
from .held_out import HeldBack
from .structured import CLOSE, ROUGH, fit_bias


@register_calibrator
@dataclass(frozen=True)
class BiasCorrection(HeldBack):
    """
    `softmax(z + shift)`: the shift of smallest NLL, held back by a ridge of strength `k / n`, for k classes and n
    samples.
    """

    method: ClassVar[str] = "bias"
    noun: ClassVar[str] = "shift of the classes"
    shift: tuple[float, ...] = field(metadata={"check": check_vector})

    @classmethod
    def fit(cls, logits: NDArray[Any], labels: NDArray[np.int64], *, criterion: str, n_bins: int) -> BiasCorrection:
        return cls.with_ridge(logits, labels, 1.0)

    @classmethod
    def by_ridge(
        cls, logits: NDArray[Any], labels: NDArray[np.int64], ridges: tuple[float, ...] | None = None, *,
        intercept: bool = True, temperature: float | None = None,
    ) -> dict[float, BiasCorrection]:  # fmt: skip
        until = CLOSE if ridges else ROUGH
        return {ridge: cls(tuple(fit_bias(logits, labels, ridge, until).tolist())) for ridge in ridges or cls.ridges}

    @classmethod
    def neutral(cls, num_labels: int) -> BiasCorrection:
        return cls((0.0,) * num_labels)

    def affine(self, num_labels: int) -> Affine:
        return Affine(1.0, np.array(self.shift))

    @property
    def words(self) -> str:
        low, high = min(self.shift), max(self.shift)
        return f"A shift of each of its {len(self.shift)} logits, from {low:+.3g} to {high:+.3g}, is added."

    def __str__(self) -> str:
        return f"bias of {len(self.shift)} classes"
