# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What fits to some of the data do to the rest of them, and the methods that are judged by that."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..checks import IGNORED
from ..metrics.outputs import ScoredOutputs
from ..metrics.scored import Scored, ScoredLogits
from ..progress import progress
from ..spill import taken
from .base import Calibrator
from .temperature import end_of_range


if TYPE_CHECKING:
    from typing_extensions import Self


def scored_of(logits: NDArray[Any], labels: NDArray[np.int64], calibrator: Calibrator | None = None) -> Scored:
    """Checked logits with their labels, which have the shape of the logits where each has a probability of its own."""
    return (ScoredOutputs if labels.ndim == 2 else ScoredLogits)(logits, labels, calibrator)


Key = TypeVar("Key")
FEWEST = 10  # samples, or one a class where that is more
_MANY = 1 << 18, 1 << 24  # logits from which on there are fewer folds


class HeldOut(NamedTuple):
    """
    What each sample has under a map that was fitted without it; the mean of several, where it was left out repeatedly.

    Attributes:
        nll (`np.ndarray` of shape `(num_samples,)`): Its NLL.
        right (`np.ndarray` of shape `(num_samples,)`): 1 where it is right, else 0.

    Of a sigmoid head the NLL is summed over the outputs of a sample, which depend on each other, and so scaled that
    the mean over samples is that over outputs. No sample is right or wrong: which labels are said is up to thresholds.
    """

    nll: NDArray[np.float64]
    right: NDArray[np.float64]

    @classmethod
    def of(cls, scored: Scored, num_samples: int, share: float | None = None) -> HeldOut:
        """What so many samples have under one map; of some of them, `share` is that of all: samples per output."""
        if not isinstance(scored, ScoredOutputs):
            return cls(scored.nll, scored.correct.astype(float))
        share = num_samples / len(scored) if share is None else share
        sums = np.bincount(scored.samples, scored.nll, num_samples).astype(np.float64)
        return cls(sums * share, np.zeros(num_samples))

    def gain(self, other: HeldOut) -> float:
        """By how much the mean NLL is below that of another map."""
        return float(np.mean(other.nll - self.nll))

    def standard_error(self, other: HeldOut) -> float:
        """Of the gain."""
        return float(np.std(other.nll - self.nll) / np.sqrt(len(self.nll)))

    def costs_accuracy(self, other: HeldOut) -> bool:
        """Whether it is right less often than another map, beyond noise."""
        lost = other.right - self.right
        return bool(lost.sum() > 1.645 * np.sqrt((lost**2).sum()))


def held_out(
    fits: Callable[[NDArray[Any], NDArray[np.int64]], Mapping[Key, Calibrator]],
    logits: NDArray[Any], labels: NDArray[np.int64], repeats: int = 1,
) -> dict[Key, HeldOut]:  # fmt: skip
    """
    For each of the calibrators that `fits` makes of logits and labels, by its key.

    There are ten folds, drawn `repeats` times, but three of many logits and two of very many, drawn once.
    """
    folds, repeats = folds_of(logits), repeats if logits.size < _MANY[0] else 1
    rows: dict[Key, HeldOut] = {}
    share = len(labels) / np.count_nonzero(labels != IGNORED) if labels.ndim == 2 else None
    drawn = draw_folds(len(labels), folds, repeats)
    for seen, unseen in progress(drawn, "cross-validation", min(folds, len(labels)) * repeats):
        others, true = taken(logits, unseen), labels[unseen]
        for key, calibrator in fits(taken(logits, seen), labels[seen]).items():
            found = HeldOut.of(scored_of(others, true, calibrator), len(unseen), share)
            into = rows.setdefault(key, HeldOut(np.zeros(len(labels)), np.zeros(len(labels))))
            into.nll[unseen] += found.nll / repeats
            into.right[unseen] += found.right / repeats
    return rows


def folds_of(logits: NDArray[Any]) -> int:
    """How many folds there are."""
    return 10 if logits.size < _MANY[0] else 3 if logits.size < _MANY[1] else 2


def draw_folds(count: int, folds: int, repeats: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """
    Rows to fit to, and the others, at random: were there as many of each class in all folds, these would share what
    chance did to the class frequencies, and a shift that follows it would seem to help.
    """
    generator = np.random.default_rng(0)
    for _ in range(repeats):
        order = generator.permutation(count)
        for fold in range(min(folds, count)):
            seen = np.ones(count, bool)
            seen[order[fold::folds]] = False
            yield np.flatnonzero(seen), np.flatnonzero(~seen)


def check_lengths(scale: Sequence[Any], shift: Sequence[float]) -> None:
    """Refuse a shift of other classes than the scale; there may be none."""
    if len(shift) not in (0, len(scale)):
        raise ValueError(f"shift must hold {len(scale)} numbers, one for each class, or none, got {len(shift)}.")


class HeldBack(Calibrator):
    """
    A method of numbers for each class, which a ridge holds back, and which is judged by what held-out data show.

    Attributes:
        ridges (`tuple[float, ...]`, *optional*, defaults to `(1.0,)`):
            Multiples of the strength of the ridge. That of smallest NLL on held-out data is taken.
    """

    criteria: ClassVar[tuple[str, ...]] = ("nll",)
    ridges: ClassVar[tuple[float, ...]] = (1.0,)

    @classmethod
    @abstractmethod
    def by_ridge(
        cls, logits: NDArray[Any], labels: NDArray[np.int64], ridges: tuple[float, ...] | None = None, *,
        intercept: bool = True, temperature: float | None = None,
    ) -> dict[float, Self]:  # fmt: skip
        """
        Those of given ridges; or one for each of `ridges` of the class, roughly, to compare them.

        Args:
            intercept (`bool`, *optional*, defaults to `True`): Whether there may be a shift.
            temperature (`float`, *optional*): The one that is fitted first, if it is known already.
        """

    @classmethod
    def with_ridge(cls, logits: NDArray[Any], labels: NDArray[np.int64], ridge: float, **options: Any) -> Self:
        """The one of that ridge."""
        return cls.by_ridge(logits, labels, (ridge,), **options)[ridge]

    @classmethod
    def with_rows(cls, logits: NDArray[Any], labels: NDArray[np.int64], **options: Any) -> tuple[Self, HeldOut]:
        """The one of the best ridge, and what it does to held-out data."""
        rows = held_out(lambda z, y: cls.by_ridge(z, y, **options), logits, labels)
        ridge = min(rows, key=lambda one: float(rows[one].nll.mean()))
        return cls.with_ridge(logits, labels, ridge, **options), rows[ridge]

    @classmethod
    def too_few(cls, num_labels: int, labels: NDArray[np.int64]) -> str:
        fewest = max(num_labels, FEWEST)
        if len(labels) < fewest:
            return (
                f"method={cls.method!r} needs at least {fewest} samples for {num_labels} classes, got {len(labels)}: "
                "use method='temperature', or more validation data."
            )
        if labels.min() == labels.max():
            return (
                f"method={cls.method!r} needs samples of at least two classes, got {len(labels)} of the class "
                f"{labels[0]} alone: use validation data of all classes."
            )
        return ""

    def end_of_range(self, logits: NDArray[Any], labels: NDArray[np.int64], criterion: str, **options: Any) -> str:
        temperature = getattr(self, "temperature", 1.0)
        return end_of_range(temperature, criterion, lambda: temperature)

    @property
    def named(self) -> str:
        return self.noun
