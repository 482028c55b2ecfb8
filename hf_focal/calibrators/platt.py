# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Platt scaling (1999) for heads whose labels each have a probability of their own: a scale and a shift of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..checks import IGNORED
from ..metrics.outputs import ScoredOutputs
from ..spill import taken
from .base import SIGMOID, Affine, check_vector, register_calibrator
from .held_out import HeldBack, HeldOut, check_lengths, draw_folds, folds_of
from .shrunk import Shrunk, fit_shrunk, overlaps
from .structured import check_intercept
from .temperature import best_temperature


_FEWEST = 1  # outputs with a label, and without it, for a map of its own
_FLATTEST = 1e-3  # of the shared scale: a label with less of its own would tell nothing any more
_Picks = NDArray[np.int64]  # of each label: its own map, the shared one, or none
_OWN, _SHARED, _NONE = range(3)
_NO_SPREAD = np.zeros(2)  # of labels that are to be alike


def _check_shared(value: Any, name: str) -> tuple[float, ...]:
    values = () if value is None else check_vector(value, name)
    if len(values) not in (0, 2):
        raise ValueError(f"{name} must hold a scale and a shift, or nothing, got {len(values)} numbers.")
    return values


@register_calibrator
@dataclass(frozen=True)
class PlattScaling(HeldBack):
    """
    `sigmoid(scale * z + shift)`, with a scale and a shift of each label: those of smallest NLL, shrunk towards the
    ones that all labels share as far as the labels are alike, see `shrunk.py`. Without an intercept, for heads without
    a bias, there is no shift. A label has a map of its own only where folds that the fits have not seen show that it
    is better than the shared one; else it has that one, or none where these show that it does without. With `shared`
    all labels have the one scale and shift of smallest NLL, for heads that have no more, such as SigLIP's.

    Attributes:
        scale, shift (`tuple[float, ...]`): Of each label.
        shared (`tuple[float, float]`, *optional*): The scale and shift that all share.
    """

    method: ClassVar[str] = "platt"
    noun: ClassVar[str] = "scaling of the labels"
    activation: ClassVar[str] = SIGMOID
    scale: tuple[float, ...] = field(metadata={"check": check_vector})
    shift: tuple[float, ...] = field(metadata={"check": check_vector})
    shared: tuple[float, ...] = field(default=(), metadata={"check": _check_shared})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lengths(self.scale, self.shift)

    @classmethod
    def fit(
        cls, logits: NDArray[Any], labels: NDArray[np.int64], *, criterion: str, n_bins: int, intercept: bool = True,
        shared: bool = False,
    ) -> PlattScaling:  # fmt: skip
        return cls.with_ridge(logits, labels, 1.0, intercept=intercept, shared=shared)

    @classmethod
    def by_ridge(
        cls, logits: NDArray[Any], labels: NDArray[np.int64], ridges: tuple[float, ...] | None = None, *,
        intercept: bool = True, temperature: float | None = None, shared: bool = False,
    ) -> dict[float, PlattScaling]:  # fmt: skip
        check_intercept(intercept)
        found = _shrunk(logits, labels, intercept, _check_alike(shared))
        picks = _alike(found) if shared else _allowed(found, labels)
        return dict.fromkeys(ridges or cls.ridges, cls._picked(found, picks, intercept))

    @classmethod
    def with_rows(
        cls, logits: NDArray[Any], labels: NDArray[np.int64], **options: Any
    ) -> tuple[PlattScaling, HeldOut]:  # fmt: skip
        intercept = check_intercept(options.get("intercept", True))
        shared = _check_alike(options.get("shared", False))
        whole = _shrunk(logits, labels, intercept, shared)
        folds = list(_held_out_fits(logits, labels, intercept, whole, shared))
        picks = _alike(whole) if shared else _picks(logits, labels, folds, whole)
        share = len(labels) / np.count_nonzero(labels != IGNORED)
        rows = HeldOut(np.zeros(len(labels)), np.zeros(len(labels)))
        for unseen, found in folds:
            calibrator = cls._picked(found, picks, intercept)
            scored = ScoredOutputs(taken(logits, unseen), labels[unseen], calibrator)
            rows.nll[unseen], rows.right[unseen] = HeldOut.of(scored, len(unseen), share)
        return cls._picked(whole, picks, intercept), rows

    @classmethod
    def _picked(cls, found: Shrunk, picks: _Picks, intercept: bool) -> PlattScaling:
        """Of each label the map that was picked."""
        scale = np.choose(picks, [found.scale, np.full_like(found.scale, found.shared[0]), np.ones_like(found.scale)])
        shift = np.choose(picks, [found.shift, np.full_like(found.shift, found.shared[1]), np.zeros_like(found.shift)])
        return cls(tuple(scale.tolist()), tuple(shift.tolist()) if intercept else (), tuple(found.shared.tolist()))

    @classmethod
    def too_few(cls, num_labels: int, labels: NDArray[np.int64]) -> str:
        known = labels[labels != IGNORED]
        if not known.size or known.min() == known.max():
            what = f"{known.size} known labels are all {known[0]}" if known.size else "no label is known"
            return f"method={cls.method!r} needs outputs with a label and outputs without it, and {what}."
        return ""

    @classmethod
    def neutral(cls, num_labels: int) -> PlattScaling:
        return cls((1.0,) * num_labels, (), ())

    def end_of_range(self, logits: NDArray[Any], labels: NDArray[np.int64], criterion: str, **options: Any) -> str:
        if not overlaps(logits, labels):
            return (
                "no scale is the best, as all logits of outputs with their label are above those of all others: more "
                "validation data, or a model that makes some mistakes on it, would tell."
            )
        if min(self.scale) <= 0:
            return (
                f"the best scale that all labels share, {self.shared[0]:.3g}, is not above 0: the logits do not rise "
                "with the labels. Check that labels and logits are of the same samples, and 1 is for yes."
            )
        return ""

    def affine(self, num_labels: int) -> Affine:
        return Affine(np.array(self.scale), np.array(self.shift) if self.shift else None)

    @property
    def kept(self) -> dict[str, tuple[int, ...]]:
        """The labels, by number, that have the map that all share (`"shared"`), and that have none (`"none"`)."""
        own = list(zip(self.scale, self.shift or (0.0,) * len(self.scale), strict=True))
        found = {"shared": self.shared, "none": (1.0, 0.0)}
        return {name: tuple(i for i, one in enumerate(own) if one == value) for name, value in found.items()}

    @property
    def words(self) -> str:
        if len(self.scale) == 1:
            shift = f", and {self.shift[0]:+.3g} is added" if self.shift else ""
            return f"Its logit is multiplied by {self.scale[0]:.4g}{shift}."
        logits, shifted = f"{len(self.scale)} logits", ", and shifted" * bool(self.shift)
        factors = f"a factor of its own, from {min(self.scale):.3g} to {max(self.scale):.3g}"
        sentences = [f"Each of its {logits} is multiplied by {factors}{shifted}."]
        kept, ends = self.kept, {"shared": "the scale and shift that all share", "none": "what it had"}
        if len(kept["shared"]) == len(self.scale):
            added = f", and {self.shift[0]:+.3g} is added to each" if self.shift else ""
            return f"All of its {logits} are multiplied by {self.scale[0]:.4g}{added}."
        sentences += [f"{_listed(kept[name])} {ends[name]}." for name in ends if kept[name]]
        return " ".join(sentences)

    def by_hand(self, place: str) -> str:
        shift = " and add its shift" if self.shift else ""
        return f": without `hf_focal`, multiply each by its scale of {place}{shift} first."

    def __str__(self) -> str:
        return f"scaling of {len(self.scale)} label{'s' * (len(self.scale) != 1)}"


def _listed(labels: tuple[int, ...]) -> str:
    """The subject and verb of a sentence on labels by their number."""
    if len(labels) == 1:
        return f"Label {labels[0]} has"
    shown = ", ".join(map(str, labels[:10]))
    return f"{len(labels)} labels ({shown}{', ...' if len(labels) > 10 else ''}) have"


def _check_alike(shared: Any) -> bool:
    """Whether all labels are to have one map, or a `ValueError`."""
    if not isinstance(shared, bool):
        raise ValueError(f"shared must be False, or True for one scale and one shift for all labels, got {shared!r}.")
    return shared


def _shrunk(logits: NDArray[Any], labels: NDArray[np.int64], intercept: bool, shared: bool) -> Shrunk:
    """The fit; where no scale is the best, a temperature."""
    if overlaps(logits, labels):
        return fit_shrunk(logits, labels, intercept, spread=_NO_SPREAD if shared else None)
    known, count = labels != IGNORED, logits.shape[1]
    scores = logits[known]
    scale = 1 / best_temperature(np.stack([np.zeros_like(scores), scores], axis=1), labels[known])
    zeros = np.zeros(count)
    return Shrunk(np.full(count, scale), zeros, np.array([scale, 0.0]), np.zeros(2), zeros)


def _alike(found: Shrunk) -> _Picks:
    """The shared map for each label."""
    return np.full(len(found.scale), _SHARED)


def _allowed(found: Shrunk, labels: NDArray[np.int64]) -> _Picks:
    """Its own map for each label with outputs of either kind, whose logits rise with it; else the shared one."""
    falling = found.scale <= _FLATTEST * found.shared[0]
    return np.where(((_rarer(labels) < _FEWEST) | falling) & (len(found.scale) > 1), _SHARED, _OWN)


def _rarer(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each label the number of outputs with it, or without it, whichever are fewer."""
    return np.minimum((labels == 1).sum(axis=0), (labels == 0).sum(axis=0))


def _held_out_fits(
    logits: NDArray[Any], labels: NDArray[np.int64], intercept: bool, whole: Shrunk, shared: bool
) -> Iterator[tuple[NDArray[np.int64], Shrunk]]:
    """Rows with fits that have not seen them; where a fit would tell nothing, it changes nothing."""
    count = len(whole.scale)
    neutral = Shrunk(np.ones(count), np.zeros(count), np.array([1.0, 0.0]), np.zeros(2), np.zeros(count))
    spread = _NO_SPREAD if shared else None
    for seen, unseen in draw_folds(len(labels), folds_of(logits), 1):
        given, true = taken(logits, seen), labels[seen]
        told = not PlattScaling.too_few(count, true) and overlaps(given, true)
        yield unseen, fit_shrunk(given, true, intercept, whole, spread) if told else neutral


def _picks(
    logits: NDArray[Any], labels: NDArray[np.int64], folds: list[tuple[NDArray[np.int64], Shrunk]], whole: Shrunk
) -> _Picks:
    """
    Which map each label is to have, by what the folds have not seen. It does without only where that is better by what
    a fitted number has to gain ([`least_gain`]): of a label that is hardly seen, any map looks worse that allows it.
    """
    allowed, rarer = _allowed(whole, labels), _rarer(labels)
    if len(allowed) == 1:
        return allowed
    gains = _Gains(logits.shape[1]), _Gains(logits.shape[1]), _Gains(logits.shape[1])
    for unseen, found in folds:
        z, y = taken(logits, unseen).astype(np.float64), labels[unseen]
        known = y != IGNORED
        own, shared, none = (
            np.where(known, np.logaddexp(0.0, scores) - (y == 1) * scores, 0.0)
            for scores in (z * found.scale + found.shift, z * found.shared[0] + found.shared[1], z)
        )
        for gain, change in zip(gains, (shared - none, none - own, shared - own), strict=True):
            gain.add(change, known)
    without, own_over_none, own_over_shared = gains
    enough = without.sums > np.clip(0.4 + 60 / np.maximum(rarer, 1), 1, 10)
    base = np.where(without.clear() & enough & (rarer >= _FEWEST), _NONE, _SHARED)
    better = np.where(base == _NONE, own_over_none.clear(), own_over_shared.clear())
    return np.where(better & (allowed == _OWN), _OWN, base)


class _Gains:
    """Of each label by how much one map has a lower NLL than another, summed, and how sure that is."""

    def __init__(self, num_labels: int) -> None:
        self._counts, self.sums, self._squares = np.zeros((3, num_labels))

    def add(self, changes: NDArray[np.float64], known: NDArray[np.bool_]) -> None:
        self._counts += known.sum(axis=0)
        self.sums += changes.sum(axis=0)
        self._squares += (changes**2).sum(axis=0)

    def clear(self) -> NDArray[np.bool_]:
        """As [`is_clear`]: whether it is more than half a standard error."""
        variances = self._squares - self.sums**2 / np.maximum(self._counts, 1)
        return self.sums > 0.5 * np.sqrt(np.maximum(variances, 0))
