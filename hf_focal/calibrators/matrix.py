# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Structured matrix scaling (Berta et al., 2026): a temperature, and a matrix and a shift on top."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import Affine, Calibrator, check_matrix, check_vector, register_calibrator
from .held_out import held_out
from .structured import MatrixFit, check_intercept, too_few
from .temperature import check_temperature, end_of_range


MOST_CLASSES = 100
RIDGES = (0.25, 1.0, 4.0, 16.0)


@register_calibrator
@dataclass(frozen=True)
class MatrixScaling(Calibrator):
    """
    `softmax(matrix @ z / temperature + shift)`: the temperature is fitted first; matrix and shift are those of
    smallest NLL, held back towards the unit matrix and 0 by a ridge, of strength `k / n` on diagonal and shift and
    `k (k - 1) / n` off the diagonal, for k classes and n samples, or of a multiple of that, whichever of `RIDGES` has
    the smallest NLL on folds that the fit has not seen. At most 100 classes.
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
        cls,
        logits: NDArray[Any],
        labels: NDArray[np.int64],
        *,
        criterion: str,
        n_bins: int,
        intercept: bool = True,
        ridge: float | None = None,
    ) -> MatrixScaling:
        check_intercept(intercept)
        if ridge is None:
            rows = held_out(lambda z, y: cls.by_ridge(z, y, intercept), logits, labels)
            ridge = min(RIDGES, key=lambda one: rows[one].nll.mean())
        return cls.by_ridge(logits, labels, intercept, ridges=(ridge,))[ridge]

    @classmethod
    def by_ridge(
        cls, logits: NDArray[Any], labels: NDArray[np.int64], intercept: bool, temperature: float | None = None,
        ridges: tuple[float, ...] = RIDGES,
    ) -> dict[float, MatrixScaling]:  # fmt: skip
        """One for each ridge."""
        fit, found = MatrixFit(logits, labels, intercept, temperature), {}
        for ridge in ridges:
            matrix, shift = fit(ridge)
            found[ridge] = cls(fit.temperature, tuple(map(tuple, matrix.tolist())), tuple(shift.tolist()))
        return found

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
