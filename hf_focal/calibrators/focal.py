# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Focal temperature scaling (Komisarenko and Kull, 2024): a temperature, and then the bias of focal loss undone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from ..checks import LARGE_BLOCK, check_gamma, parts_of
from ..gamma import focal_log_probabilities
from ..metrics.bins import equal_width
from ..metrics.scored import ScoredLogits
from .base import Calibrator, register_calibrator
from .temperature import GRID, NLL_BOUNDS, check_temperature, effect_of, end_of_range, smallest_best


GAMMA_GRID = np.arange(11.0)  # where the fit looks first


@register_calibrator
@dataclass(frozen=True)
class FocalRecalibration(Calibrator):
    """[`focal_recalibration`] at a temperature; its fit is told by [`fit_temperature`]."""

    method: ClassVar[str] = "focal"
    noun: ClassVar[str] = "temperature"
    stays: ClassVar[str] = "T stays 1 and gamma 0"
    gamma: float = field(metadata={"check": check_gamma})
    temperature: float = field(metadata={"check": check_temperature})

    @classmethod
    def fit(
        cls, logits: NDArray[Any], labels: NDArray[np.int64], *, criterion: str, n_bins: int, gamma: Any = None
    ) -> FocalRecalibration:
        gamma = None if gamma is None else check_gamma(gamma)
        if gamma is None or criterion == "nll":
            temperature, gamma = _fit_nll(logits, labels, gamma)
        if criterion == "ece":
            temperature = _fit_ece(logits, labels, gamma, n_bins)
        return cls(gamma, temperature)

    @classmethod
    def neutral(cls, num_labels: int) -> FocalRecalibration:
        return cls(0.0, 1.0)

    def numbers(self, **options: Any) -> int:
        return 1 if options.get("gamma") is not None else 2

    def end_of_range(self, logits: NDArray[Any], labels: NDArray[np.int64], criterion: str, **options: Any) -> str:
        known = None if options.get("gamma") is None else self.gamma
        found = end_of_range(self.temperature, criterion, lambda: _fit_nll(logits, labels, known)[0])
        if not found and known is None and math.isclose(self.gamma, GAMMA_GRID[-1], rel_tol=1e-4):
            found = f"the best gamma, {self.gamma:g}, is at the end of the range searched, [0, {GAMMA_GRID[-1]:g}]."
        return found

    def calibrated_logits(self, logits: NDArray[Any]) -> NDArray[Any]:
        return focal_log_probabilities(logits / self.temperature, self.gamma)

    @property
    def softens(self) -> bool | None:
        return None if self.temperature == 1 or self.gamma else self.temperature > 1

    @property
    def named(self) -> str:
        return f"temperature {self.temperature:.4g}"

    @property
    def words(self) -> str:
        if self.gamma == 0:
            return f"The {self.named} {effect_of(self.temperature)}."
        undone = f"the bias of focal loss with gamma {self.gamma:.4g} is undone"
        return f"The logits are divided by the {self.named}, and then {undone}."

    def by_hand(self, place: str) -> str:
        call = f"`hf_focal.focal_recalibration(logits, {self.gamma}, {self.temperature:.4g})`"
        return f", and {call} turns them into these probabilities."

    def __str__(self) -> str:
        return f"T = {self.temperature:.4g}, gamma = {self.gamma:.4g}"


def _log_probabilities(
    logits: NDArray[Any], temperature: float, gamma: float
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """After both, some rows at a time."""
    start = 0
    for part in parts_of(logits, LARGE_BLOCK):
        rows = slice(start, start + len(part))
        start = rows.stop
        yield rows, focal_log_probabilities(part.astype(np.float64) / temperature, gamma)


def _fit_ece(logits: NDArray[Any], labels: NDArray[np.int64], gamma: float, n_bins: int) -> float:
    confidences, correct = np.empty(len(labels)), ScoredLogits(logits, labels).correct

    def error(temperature: float) -> float:
        for rows, values in _log_probabilities(logits, temperature, gamma):
            confidences[rows] = np.exp(values.max(axis=1))
        return equal_width(confidences, correct, n_bins).expected_error()

    return smallest_best(np.array([error(temperature) for temperature in GRID]))


def _fit_nll(logits: NDArray[Any], labels: NDArray[np.int64], gamma: float | None) -> tuple[float, float]:
    true = np.empty(len(labels))
    bounds = tuple(map(math.log, NLL_BOUNDS))

    def nll(log_temperature: float, gamma: float) -> float:
        for rows, values in _log_probabilities(logits, math.exp(log_temperature), gamma):
            true[rows] = values[np.arange(len(values)), labels[rows]]
        return -float(true.mean())

    def best(gamma: float) -> tuple[float, float, float]:
        fit = minimize_scalar(nll, bounds=bounds, args=(gamma,), method="bounded", options={"xatol": 1e-7})
        return float(fit.fun), float(fit.x), gamma

    if gamma is None:
        _, start, gamma = min(best(float(g)) for g in GAMMA_GRID)
        limits = [bounds, (GAMMA_GRID[0], GAMMA_GRID[-1])]
        options = {"xatol": 1e-7, "fatol": 1e-12}
        fit = minimize(lambda x: nll(*x), [start, gamma], bounds=limits, method="Nelder-Mead", options=options)
        return float(math.exp(fit.x[0])), float(fit.x[1])
    return float(math.exp(best(gamma)[1])), gamma
