# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Other class frequencies than those of training, and class weights undone: shifts of each logit, by Bayes' rule."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from ..arrays import to_numpy
from ..checks import check_positive, check_probabilities
from ..names import suggestion
from .base import Affine, Calibrator, check_vector, register_calibrator


_BLOCK = 1 << 18  # probabilities read at a time
_ROUNDS = 1_000  # of EM: some ten are enough


def check_positive_vector(value: Any, name: str) -> tuple[float, ...]:
    """Positive finite numbers, or a `ValueError`."""
    values = check_vector(value, name)
    if min(values, default=1.0) <= 0:
        raise ValueError(f"{name} must hold positive numbers, got {min(values):g}.")
    return values


class _Shift(Calibrator):
    """What adds a known number to each logit, and so is not fitted."""

    fitted: ClassVar[bool] = False

    @classmethod
    def fit(cls, logits: NDArray[Any], labels: NDArray[np.int64], *, criterion: str, n_bins: int) -> Calibrator:
        raise ValueError(
            f"method={cls.method!r} is not fitted: it is put on a model by hf_focal.adjust_prior or "
            "hf_focal.undo_class_weights."
        )


@register_calibrator
@dataclass(frozen=True)
class PriorShift(_Shift):
    """
    `z + log(target) - log(source)`: the logits of Bayes' rule where classes have the frequencies `target`, of logits
    `z` that are calibrated where they have the frequencies `source` (Saerens et al., 2002, Eq. 4).
    """

    method: ClassVar[str] = "prior"
    noun: ClassVar[str] = "prior"
    source: tuple[float, ...] = field(metadata={"check": check_positive_vector})
    target: tuple[float, ...] = field(metadata={"check": check_positive_vector})

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.source) != len(self.target):
            raise ValueError(
                f"A prior needs source and target for the same classes, got {len(self.source)} and {len(self.target)}."
            )

    def affine(self, num_labels: int) -> Affine:
        return Affine(1.0, np.log(self.target) - np.log(self.source))

    @property
    def named(self) -> str:
        return str(self)

    @property
    def words(self) -> str:
        source, target = listed_numbers(self.source), listed_numbers(self.target)
        return f"The prior turns probabilities for the class frequencies {source} into those for {target}."

    def by_hand(self, place: str) -> str:
        return f": without `hf_focal`, add log(target) - log(source) of the prior of {place} to them first."

    def __str__(self) -> str:
        return "prior of other class frequencies"


@register_calibrator
@dataclass(frozen=True)
class ClassWeights(_Shift):
    """`z - log(weights)`: the logits without what class weights in the cross-entropy of training did to them."""

    method: ClassVar[str] = "class_weights"
    noun: ClassVar[str] = "correction of class weights"
    weights: tuple[float, ...] = field(metadata={"check": check_positive_vector})

    def affine(self, num_labels: int) -> Affine:
        return Affine(1.0, -np.log(self.weights))

    @property
    def named(self) -> str:
        return self.noun

    @property
    def words(self) -> str:
        return f"What the class weights {listed_numbers(self.weights)} of its training did to them is undone."

    def by_hand(self, place: str) -> str:
        return f": without `hf_focal`, subtract log(weights) of {place} from them first."

    def __str__(self) -> str:
        return "class weights undone"


def frequencies(
    name: str, value: Any, num_labels: int, names: Sequence[str] | None = None, masked: Sequence[int] = ()
) -> NDArray[np.float64]:
    """
    Class frequencies, which sum to 1, of shares or counts in the order of the classes or by class: see
    [`estimate_prior`] and [`adjust_prior`]. Those of masked classes are no matter, and become `1 / num_labels`.
    """
    array, masked = per_class(name, value, num_labels, names, masked), list(masked)
    kept = np.delete(array, masked)
    if (kept <= 1).all() and (kept % 1).any() and abs(kept.sum() - 1) > 0.05:
        raise ValueError(f"{name} must hold counts, or shares that sum to 1, got shares that sum to {kept.sum():.4g}.")
    array /= kept.sum()
    array[masked] = 1 / num_labels
    return np.asarray(array / array.sum())


def per_class(
    name: str, value: Any, num_labels: int, names: Sequence[str] | None = None, masked: Sequence[int] = ()
) -> NDArray[np.float64]:
    """A positive number for each class, in their order, or a `ValueError`. What masked classes have is no matter."""
    masked = list(masked)
    if hasattr(value, "keys") and hasattr(value, "items"):  # pandas counts values in an order of its own
        value = _in_order(name, dict(value.items()), num_labels, names, masked)
    array = to_numpy(name, value)
    if array.shape != (num_labels,):
        hint = ""
        if array.ndim == 1 and len(array) > num_labels and array.dtype.kind in "iu":
            hint = f" If these are labels, count them first: np.bincount(labels, minlength={num_labels})."
        raise ValueError(
            f"{name} must hold one number for each of the {num_labels} classes, got shape {array.shape}.{hint}"
        )
    array = array.astype(np.float64)
    array[masked] = 1.0
    wrong = ~(np.isfinite(array) & (array > 0))
    if wrong.any():
        index = int(wrong.argmax())
        hint = ""
        if array[index] == 0:
            hint = (
                " No head can hold the logarithm of 0: give a class that is rare, or was not seen, a small number, "
                "such as half a sample, and mask one that cannot occur (hf_focal.mask_classes)."
            )
        called = f" ({names[index]!r})" if names is not None else ""
        raise ValueError(f"{name} must be positive for every class, got {array[index]:g} for {index}{called}.{hint}")
    return array


def _in_order(
    name: str, by_class: dict[Any, Any], num_labels: int, names: Sequence[str] | None, masked: Sequence[int]
) -> list[Any]:
    """The values of a dict by name or index of the classes, in their order."""
    names = [str(one) for one in (range(num_labels) if names is None else names)]
    values: dict[int, Any] = {}
    for key, one in by_class.items():
        index = names.index(key) if isinstance(key, str) and key in names else None
        with suppress(TypeError):
            if index is None:
                index = operator.index(int(key) if isinstance(key, str) and key.isdecimal() else key)
        if index is None or not 0 <= index < num_labels:
            raise ValueError(
                f"{name} names {key!r}, which is none of the {num_labels} classes: {_listed(names)}."
                f"{suggestion(key, names)}"
            )
        if index in values:
            raise ValueError(f"{name} names the class {index} ({names[index]!r}) twice.")
        values[index] = one
    missing = [names[index] for index in range(num_labels) if index not in values and index not in masked]
    if missing:
        raise ValueError(
            f"{name} must name all of the {num_labels} classes, got none for {_listed(missing)}. Give one that was "
            "not seen a small number, such as half a sample."
        )
    return [values.get(index, 1.0) for index in range(num_labels)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")


def listed_numbers(values: Sequence[float] | NDArray[np.float64]) -> str:
    """The first numbers, as words."""
    return _listed([f"{one:.3g}" for one in values])


def estimate_prior(probabilities: ArrayLike, source: ArrayLike, *, tolerance: float = 1e-6) -> NDArray[np.float64]:
    r"""
    Estimate the class frequencies of unlabelled data from the probabilities that a model gives, by EM.

    Where nothing but the frequencies differs from the data that the model is calibrated on, the likelihood of new
    samples under frequencies $\pi$ is $\prod_i \sum_k \pi_k p_{ik} / \mathrm{source}_k$, and EM finds its maximum
    (Saerens, Latinne and Decaestecker, 2002): adjust the probabilities to the frequencies, take their means for the
    frequencies, and again (here in larger steps). Half a sample for each class, shared out like `source`, is added to
    the data, so that no class is ruled out and few samples do not tell of many classes.

    The probabilities have to be calibrated: those of a model that is over-confident give wrong frequencies. Fit a
    calibrator first (best one with a shift, such as `"bias"` or `"vector"`: see [`fit_calibrator`]).

    Args:
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)`):
            Calibrated softmax outputs of the unlabelled data; each row sums to 1.
        source (`np.ndarray` of shape `(num_labels,)`):
            Class frequencies at which they are calibrated: shares or counts, all positive, or a dict by class index.
        tolerance (`float`, *optional*, defaults to `1e-6`):
            The log-likelihood of all samples is closer to its maximum than this, in nats.

    Returns:
        `np.ndarray` of shape `(num_labels,)`: Frequencies, all positive, which sum to 1; for [`adjust_prior`].

    Raises:
        ValueError: If rows do not sum to 1, or the frequencies are not a positive number for each class.

    Example:
    >>> probabilities = np.repeat([[0.9, 0.1], [0.1, 0.9]], [300, 700], axis=0)  # balanced: source is half and half
    >>> estimate_prior(probabilities, [0.5, 0.5]).round(2)  # 300 = 1000 * (0.9 * 0.25 + 0.1 * 0.75)
    array([0.25, 0.75])
    """
    array = to_numpy("probabilities", probabilities)
    array, _, _ = check_probabilities(array, np.zeros(array.shape[:1], np.int64), with_maxima=False)
    tolerance = check_positive("tolerance", tolerance)
    count, num_labels = array.shape
    start = frequencies("source", source, num_labels)
    added, size = start * num_labels / 2, count + num_labels / 2

    def step(prior: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """What EM makes of frequencies, and the log-likelihood of these."""
        ratios, value = _ratios(array, prior / start)
        return (prior / start * ratios + added) / size, value + float(added @ np.log(prior))

    prior = start
    again, value = step(prior)
    for _ in range(_ROUNDS):
        # The log-likelihood is concave, so that its slopes bound how far it is from its maximum.
        if float((again / prior).max()) - 1 <= max(tolerance / size, 1e-12):
            break
        # Two steps tell how to go on, which is taken where it is no worse (SQUAREM; Varadhan and Roland, 2008).
        twice, _ = step(again)
        once = np.log(again / prior)
        bend = np.log(twice / again) - once
        length = max(1.0, float(np.linalg.norm(once)) / max(float(np.linalg.norm(bend)), 1e-150))
        ahead = softmax(np.log(prior) + 2 * length * once + length**2 * bend)
        ahead = np.maximum(ahead, 1e-12 * prior)
        reached = step(ahead)
        if reached[1] >= value - 1e-12 * size:  # what is less is rounding
            prior, (again, value) = ahead, reached
        else:
            prior, (again, value) = twice, step(twice)
    return np.asarray(again / again.sum())


def _ratios(array: NDArray[Any], weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Sums over samples: of the probabilities, each row divided by its weighted sum, and of the log of these."""
    total, value = np.zeros(len(weights)), 0.0
    rows = max(1, _BLOCK // len(weights))
    for start in range(0, len(array), rows):
        block = array[start : start + rows].astype(np.float64, copy=False)
        sums = block @ weights
        total += (1 / sums) @ block
        value += float(np.log(sums).sum())
    return total, value
