# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Structured matrix scaling (Berta et al., 2026): a temperature, and a matrix and a shift on top."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import Affine, Calibrator, check_matrix, check_vector, register_calibrator
from .structured import check_intercept, fit_matrix, too_few
from .temperature import check_temperature, end_of_range


MOST_CLASSES = 100


@register_calibrator
@dataclass(frozen=True)
class MatrixScaling(Calibrator):
    """
    `softmax(matrix @ z / temperature + shift)`: the temperature is fitted first; matrix and shift are those of
    smallest NLL, held back towards the unit matrix and 0 by a ridge, of strength `k / n` on diagonal and shift and
    `k (k - 1) / n` off the diagonal, for k classes and n samples. At most 100 classes.
    """

    method: ClassVar[str] = "matrix"
    noun: ClassVar[str] = "matrix scaling"
    criteria: ClassVar[tuple[str, ...]] = ("nll",)
    held_out: ClassVar[bool] = True
    temperature: float = field(metadata={"check": check_temperature})
    matrix: tuple[tuple[float, ...], ...] = field(metadata={"check": check_matrix})
    shift: tuple[float, ...] = field(metadata={"check": check_vector})

    @classmethod
    def fit(
        cls, logits: NDArray[Any], labels: NDArray[np.int64], *, criterion: str, n_bins: int, intercept: bool = True
    ) -> MatrixScaling:
        temperature, matrix, shift = fit_matrix(logits, labels, check_intercept(intercept))
        return cls(temperature, tuple(map(tuple, matrix.tolist())), tuple(shift.tolist()))

    @classmethod
    def too_few(cls, num_labels: int, labels: NDArray[np.int64]) -> str:
        if num_labels > MOST_CLASSES:
            return f"method='matrix' is for at most {MOST_CLASSES} classes, got {num_labels}: use method='vector'."
        return too_few(cls.method, num_labels, labels)

    @classmethod
    def neutral(cls, num_labels: int) -> MatrixScaling:
        return cls(1.0, tuple(map(tuple, np.eye(num_labels).tolist())), ())

    def end_of_range(self, logits: NDArray[Any], labels: NDArray[np.int64], criterion: str, **options: Any) -> str:
        return end_of_range(self.temperature, criterion, lambda: self.temperature)

    def affine(self, num_labels: int) -> Affine:
        return Affine(np.array(self.matrix) / self.temperature, np.array(self.shift) if self.shift else None)

    @property
    def named(self) -> str:
        return self.noun

    def __str__(self) -> str:
        return f"matrix of {len(self.matrix)} classes, T = {self.temperature:.4g}"
