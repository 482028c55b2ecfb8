# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Structured vector scaling (Berta et al., 2026): a temperature, and a factor and a shift of each class on top."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import Affine, Calibrator, check_vector, register_calibrator
from .structured import check_intercept, fit_vector, too_few
from .temperature import check_temperature, end_of_range


@register_calibrator
@dataclass(frozen=True)
class VectorScaling(Calibrator):
    """
    `softmax(scale * z / temperature + shift)`: the temperature is fitted first; scales and shifts are those of
    smallest NLL, held back towards 1 and 0 by a ridge of strength `k / n`, for k classes and n samples. Without an
    intercept, for heads without a bias, there is no shift.
    """

    method: ClassVar[str] = "vector"
    noun: ClassVar[str] = "scaling of the classes"
    criteria: ClassVar[tuple[str, ...]] = ("nll",)
    held_out: ClassVar[bool] = True
    temperature: float = field(metadata={"check": check_temperature})
    scale: tuple[float, ...] = field(metadata={"check": check_vector})
    shift: tuple[float, ...] = field(metadata={"check": check_vector})

    @classmethod
    def fit(
        cls, logits: NDArray[Any], labels: NDArray[np.int64], *, criterion: str, n_bins: int, intercept: bool = True
    ) -> VectorScaling:
        temperature, scale, shift = fit_vector(logits, labels, check_intercept(intercept))
        return cls(temperature, tuple(scale.tolist()), tuple(shift.tolist()))

    @classmethod
    def too_few(cls, num_labels: int, labels: NDArray[np.int64]) -> str:
        return too_few(cls.method, num_labels, labels)

    @classmethod
    def neutral(cls, num_labels: int) -> VectorScaling:
        return cls(1.0, (1.0,) * num_labels, ())

    def end_of_range(self, logits: NDArray[Any], labels: NDArray[np.int64], criterion: str, **options: Any) -> str:
        return end_of_range(self.temperature, criterion, lambda: self.temperature)

    def affine(self, num_labels: int) -> Affine:
        return Affine(np.array(self.scale) / self.temperature, np.array(self.shift) if self.shift else None)

    @property
    def named(self) -> str:
        return self.noun

    def __str__(self) -> str:
        return f"vector of {len(self.scale)} classes, T = {self.temperature:.4g}"
