# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Structured matrix scaling (Berta et al., 2026): a temperature, and a matrix and a shift on top."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import Affine, check_matrix, check_vector, register_calibrator
from .held_out import HeldBack, check_lengths
from .structured import CLOSE, ROUGH, MatrixFit, check_intercept
from .temperature import best_temperature, check_temperature


MOST_CLASSES = 100


@register_calibrator
@dataclass(frozen=True)
class MatrixScaling(HeldBack):
    """
    `softmax(matrix @ z / temperature + shift)`: the temperature is fitted first; matrix and shift are those of
    smallest NLL, held back towards the unit matrix and 0 by a ridge, of strength `k / n` on diagonal and shift and
    `k (k - 1) / n` off the diagonal, for k classes and n samples, or of a multiple of that, whichever of `ridges` has
    the smallest NLL on folds that the fit has not seen. At most 100 classes.
    """

    method: ClassVar[str] = "matrix"
    noun: ClassVar[str] = "matrix scaling"
    ridges: ClassVar[tuple[float, ...]] = (0.25, 1.0, 8.0)
    temperature: float = field(metadata={"check": check_temperature})
    matrix: tuple[tuple[float, ...], ...] = field(metadata={"check": check_matrix})
    shift: tuple[float, ...] = field(metadata={"check": check_vector})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lengths(self.matrix, self.shift)

    @classmethod
    def fit(
        cls, logits: NDArray[Any], labels: NDArray[np.int64], *, criterion: str, n_bins: int, intercept: bool = True
    ) -> MatrixScaling:
        return cls.with_rows(logits, labels, intercept=intercept)[0]

    @classmethod
    def by_ridge(
        cls, logits: NDArray[Any], labels: NDArray[np.int64], ridges: tuple[float, ...] | None = None, *,
        intercept: bool = True, temperature: float | None = None,
    ) -> dict[float, MatrixScaling]:  # fmt: skip
        check_intercept(intercept)
        temperature = best_temperature(logits, labels) if temperature is None else temperature
        fit, found = MatrixFit(logits, labels, intercept, temperature), {}
        for ridge in ridges or cls.ridges:
            matrix, shift = fit(ridge, CLOSE if ridges else ROUGH)
            found[ridge] = cls(temperature, tuple(map(tuple, matrix.tolist())), tuple(shift.tolist()))
        return found

    @classmethod
    def too_few(cls, num_labels: int, labels: NDArray[np.int64]) -> str:
        if num_labels > MOST_CLASSES:
            return f"method='matrix' is for at most {MOST_CLASSES} classes, got {num_labels}: use method='vector'."
        return super().too_few(num_labels, labels)

    @classmethod
    def neutral(cls, num_labels: int) -> MatrixScaling:
        return cls(1.0, tuple(map(tuple, np.eye(num_labels).tolist())), ())

    def affine(self, num_labels: int) -> Affine:
        return Affine(np.array(self.matrix) / self.temperature, np.array(self.shift) if self.shift else None)

    @property
    def words(self) -> str:
        k, shifted = len(self.matrix), ", and shifted" if self.shift else ""
        return f"Its {k} logits, divided by {self.temperature:.4g}, are multiplied by a matrix of {k} x {k}{shifted}."

    def __str__(self) -> str:
        return f"matrix of {len(self.matrix)} classes, T = {self.temperature:.4g}"
