# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Focal temperature scaling (Komisarenko and Kull, 2024): a temperature, and then the bias of focal loss undone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from ..checks import check_gamma
from ..gamma import focal_log_probabilities
from ..metrics.bins import equal_width
from .base import Calibrator, register_calibrator
from .temperature import GRID, NLL_BOUNDS, check_temperature, effect_of, smallest_best, warn_at_ends


GAMMA_GRID = np.arange(11.0)  # where the fit looks first


@register_calibrator
@dataclass(frozen=True)
class FocalRecalibration(Calibrator):
    """
    [`focal_recalibration`] at a temperature. It serves models trained with focal loss, and may overfit small sets
    where gamma is fitted too, which is done by the NLL; the criterion `"ece"` then chooses the temperature anew.

    Attributes:
        gamma (`float`):
            The gamma to undo, of at least 0.
        temperature (`float`):
            What the logits are divided by first.
    """

    method: ClassVar[str] = "focal"
    noun: ClassVar[str] = "temperature"
    gamma: float
    temperature: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", check_gamma(self.gamma))
        object.__setattr__(self, "temperature", check_temperature(self.temperature))

    @classmethod
    def fit(
        cls,
        logits: NDArray[Any],
        labels: NDArray[np.int64],
        *,
        criterion: str,
        n_bins: int,
        gamma: float | None = None,
    ) -> FocalRecalibration:
        gamma, wide = None if gamma is None else check_gamma(gamma), logits.astype(np.float64)
        if criterion == "ece":
            temperature, gamma = _fit_focal_ece(wide, labels, gamma, n_bins)
        else:
            temperature, gamma = _fit_focal_nll(wide, labels, gamma)
        warn_at_ends(temperature, criterion)
        return cls(gamma, temperature)

    def calibrated_logits(self, logits: NDArray[Any]) -> NDArray[Any]:
        return focal_log_probabilities(logits / self.temperature, self.gamma)

    @classmethod
    def from_record(cls, record: Mapping[str, Any], name: str = "config.calibration") -> FocalRecalibration:
        temperature = check_temperature(record.get("temperature"), f"{name}['temperature']")
        return cls(check_gamma(record.get("gamma"), f"{name}['gamma']"), temperature)

    @property
    def named(self) -> str:
        return f"temperature {self.temperature:.4g}"

    @property
    def words(self) -> str:
        effect = effect_of(self.temperature)
        return f"The {self.named} {effect}, and the bias of focal loss with gamma {self.gamma:.4g} is undone."

    def by_hand(self, place: str) -> str:
        return (
            f", and `hf_focal.focal_recalibration(logits, {self.gamma}, {self.temperature:.4g})` turns them into "
            "these probabilities."
        )

    def __str__(self) -> str:
        return f"T = {self.temperature:.4g}, gamma = {self.gamma:.4g}"


def _fit_focal_ece(
    logits: NDArray[np.float64], labels: NDArray[np.int64], gamma: float | None, n_bins: int
) -> tuple[float, float]:
    correct = logits.argmax(axis=1) == labels
    gamma = _fit_focal_nll(logits, labels, None)[1] if gamma is None else gamma

    def error(temperature: float) -> float:
        confidences = np.exp(focal_log_probabilities(logits / temperature, gamma).max(axis=1))
        return equal_width(confidences, correct, n_bins).expected_error()

    return smallest_best(np.array([error(temperature) for temperature in GRID])), gamma


def _fit_focal_nll(logits: NDArray[np.float64], labels: NDArray[np.int64], gamma: float | None) -> tuple[float, float]:
    rows = np.arange(len(labels))
    bounds = (math.log(NLL_BOUNDS[0]), math.log(NLL_BOUNDS[1]))

    def nll(log_temperature: float, gamma: float) -> float:
        return -float(focal_log_probabilities(logits / math.exp(log_temperature), gamma)[rows, labels].mean())

    def best(gamma: float) -> tuple[float, float, float]:
        fit = minimize_scalar(nll, bounds=bounds, args=(gamma,), method="bounded", options={"xatol": 1e-7})
        return float(fit.fun), float(fit.x), gamma

    if gamma is None:
        _, start, gamma = min(best(float(g)) for g in GAMMA_GRID)
        limits = [bounds, (float(GAMMA_GRID[0]), float(GAMMA_GRID[-1]))]
        fit = minimize(
            lambda x: nll(*x),
            [start, gamma],
            bounds=limits,
            method="Nelder-Mead",
            options={"xatol": 1e-7, "fatol": 1e-12},
        )
        return float(math.exp(fit.x[0])), float(fit.x[1])
    return float(math.exp(best(gamma)[1])), gamma
