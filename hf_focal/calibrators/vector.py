# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Structured vector scaling (Berta et al., 2026): a temperature, and a factor and a shift of each class on top."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import Affine, check_vector, register_calibrator
from .held_out import HeldBack, check_lengths
from .structured import CLOSE, ROUGH, check_intercept, fit_vector
from .temperature import best_temperature, check_temperature


@register_calibrator
@dataclass(frozen=True)
class VectorScaling(HeldBack):
    """
    `softmax(scale * z / temperature + shift)`: the temperature is fitted first; scales and shifts are those of
    smallest NLL, held back towards 1 and 0 by a ridge of strength `k / n`, for k classes and n samples. Without an
    intercept, for heads without a bias, there is no shift.
    """

    method: ClassVar[str] = "vector"
    noun: ClassVar[str] = "scaling of the classes"
    temperature: float = field(metadata={"check": check_temperature})
    scale: tuple[float, ...] = field(metadata={"check": check_vector})
    shift: tuple[float, ...] = field(metadata={"check": check_vector})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lengths(self.scale, self.shift)

    @classmethod
    def fit(
        cls, logits: NDArray[Any], labels: NDArray[np.int64], *, criterion: str, n_bins: int, intercept: bool = True
    ) -> VectorScaling:
        return cls.with_ridge(logits, labels, 1.0, intercept=intercept)

    @classmethod
    def by_ridge(
        cls, logits: NDArray[Any], labels: NDArray[np.int64], ridges: tuple[float, ...] | None = None, *,
        intercept: bool = True, temperature: float | None = None,
    ) -> dict[float, VectorScaling]:  # fmt: skip
        check_intercept(intercept)
        temperature = best_temperature(logits, labels) if temperature is None else temperature
        found = {}
        for ridge in ridges or cls.ridges:
            until = CLOSE if ridges else ROUGH
            scale, shift = fit_vector(logits, labels, intercept, temperature, ridge, until)
            found[ridge] = cls(temperature, tuple(scale.tolist()), tuple(shift.tolist()))
        return found

    @classmethod
    def neutral(cls, num_labels: int) -> VectorScaling:
        return cls(1.0, (1.0,) * num_labels, ())

    def affine(self, num_labels: int) -> Affine:
        return Affine(np.array(self.scale) / self.temperature, np.array(self.shift) if self.shift else None)

    @property
    def words(self) -> str:
        logits, shifted = (
            f"{len(self.scale)} logits, divided by {self.temperature:.4g}",
            ", and shifted" * bool(self.shift),
        )
        factors = f"a factor of its own, from {min(self.scale):.3g} to {max(self.scale):.3g}"
        return f"Each of its {logits}, is multiplied by {factors}{shifted}."

    def __str__(self) -> str:
        return f"vector of {len(self.scale)} classes, T = {self.temperature:.4g}"
