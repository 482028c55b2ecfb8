# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The ways through saved predictions, alone or shared among processes, from which a report follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibrators import TemperatureScaling
from ..checks import check_n_bins
from ..metrics import METRICS, PairedComparison, Scored
from ..metrics.comparison import compare_scored
from ..metrics.comparison_sums import ComparisonSums, compare_all
from ..metrics.evaluation_sums import EvaluationSums, metrics_of_pairs, scored_pairs
from ..metrics.scored import ScoredPairs
from ..metrics.slopes import newton_step, slope_at
from ..predictions import IGNORED
from .evaluate_outputs import evaluate_outputs
from .evaluation import LEVEL, Compared, Evaluation, Measured, evaluation_of
from .prediction_files import Rows, SavedPredictions


_BLOCK = 1 << 21  # numbers at a time
_MOST_ROWS = 1 << 20  # and rows
_PAIRS = 1 << 22  # confidences that are kept, of all models together
_NUMBERS, _FEW_ROWS = 1 << 21, 1 << 15  # and probabilities, of so many rows at most: intervals are drawn from them
_STEPS = 4  # of Newton's method, where that is cheap


@dataclass(frozen=True)
class Share:
    """The part of one of several processes; `gathered` gives all of them what each has."""

    rank: int = 0
    world: int = 1
    gathered: Callable[[Any], list[Any]] = lambda value: [value]

    def of(self, saved: SavedPredictions, size: int) -> tuple[int, int | None]:
        """Its rows, in whole blocks of `size`."""
        if self.world == 1:
            return 0, None
        blocks = -(-saved.num_rows // size)
        return blocks * self.rank // self.world * size, blocks * (self.rank + 1) // self.world * size


def evaluate_saved(
    saved: Mapping[str, SavedPredictions], n_bins: int = 15, temperature: bool = True, share: Share = Share()
) -> tuple[list[Measured], list[Compared]]:
    """
    Measure saved predictions of models by their names, and compare each two. Those of sigmoid heads, whose labels have
    the shape of the logits or probabilities, are measured in memory by the first process.

    Args:
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.
        temperature (`bool`, *optional*, defaults to `True`):
            Look for the temperature of smallest NLL, and measure what it does: two further ways through the rows.
        share ([`Share`], *optional*):
            Where several processes share the rows.

    Returns:
        `tuple`: Of each model what was measured, and of each two how they compare; nothing in other processes than the
            first.

    Raises:
        ValueError: If rows are not what they should be; the file and the rows are named.
    """
    if any(one.of_outputs for one in saved.values()):
        return ([], []) if share.rank else evaluate_outputs(saved, check_n_bins(n_bins), temperature)
    sources = [_Source(name, one) for name, one in saved.items()]
    none: list[float | None] = [None] * len(sources)
    first = _go_through(sources, check_n_bins(n_bins), none, temperature, share)
    if first.rows is not None:  # all there is
        sources = [_Source(one.name, one.saved, rows) for one, rows in zip(sources, first.rows, strict=True)]
        if share.rank:
            return [], []
        share = Share()
    temperatures = _temperatures(sources, first, share) if temperature else none
    second = _go_through(sources, n_bins, temperatures, False, share) if any(temperatures) else None
    if share.rank:
        return [], []
    plain, compared = first.evaluations(sources, none), first.compared(sources, none)
    scaled: list[Any] = none if second is None else second.evaluations(sources, temperatures)
    later = compared if second is None else second.compared(sources, temperatures)
    measured = []
    for index, source in enumerate(sources):
        after = scaled[index] if temperatures[index] else None
        left_out = int(first.left_out[index])
        measured.append(Measured(source.name, source.saved.kind, plain[index], temperatures[index], after, left_out))
    pairs = []
    for place, (a, b) in enumerate(combinations(range(len(sources)), 2)):
        changed = later[place][1] if temperatures[a] and temperatures[b] else {}
        pairs.append(Compared(sources[a].name, sources[b].name, *compared[place], changed))
    return measured, pairs


@dataclass(frozen=True)
class _Source:
    """Predictions in files, or all of them in memory."""

    name: str
    saved: SavedPredictions
    rows: Rows | None = None

    def blocks(self, size: int, share: Share) -> Iterator[tuple[int, Rows]]:
        if self.rows is None:
            yield from self.saved.blocks(size, *share.of(self.saved, size))
        else:
            yield 0, self.rows

    def scored(self, first: int, rows: Rows, temperature: float | None) -> Scored | None:
        """Rows, without those that are ignored; `None` where none is left."""
        try:
            return _scored(self.saved.kind, rows, temperature)
        except ValueError as error:
            last = first + len(next(iter(rows.values()))) - 1
            raise ValueError(f"{self.saved.name}, rows {first:,} to {last:,}: {error}") from error


@dataclass
class _Found:
    """What one way through all rows found."""

    sums: list[EvaluationSums]
    together: dict[tuple[int, int], ComparisonSums]
    pairs: list[list[tuple[NDArray[Any], NDArray[Any]]]] | None
    raw: list[list[Rows]] | None
    left_out: NDArray[np.int64]
    rows: list[Rows] | None = None
    _scored: dict[int, Scored] = field(default_factory=dict)

    def evaluations(self, sources: Sequence[_Source], temperatures: Sequence[float | None]) -> list[Evaluation]:
        """Of each model."""
        return [
            evaluation_of(sums, self.confidences(index), self.scored(sources[index], index, temperatures[index]))
            for index, sums in enumerate(self.sums)
        ]

    def confidences(self, index: int) -> ScoredPairs | None:
        """How sure a model was and whether it was right, if that was kept."""
        if self.pairs is None:
            return None
        confidences, correct = (np.concatenate(part) for part in zip(*self.pairs[index], strict=True))
        return ScoredPairs(confidences, correct)

    def scored(self, source: _Source, index: int, temperature: float | None) -> Scored | None:
        """All rows of a model, if those were kept and hold probabilities of all classes."""
        if self.rows is None or self.sums[index].pairs:
            return None
        if index not in self._scored and (found := source.scored(0, self.rows[index], temperature)) is not None:
            self._scored[index] = found
        return self._scored.get(index)

    def compared(
        self, sources: Sequence[_Source], temperatures: Sequence[float | None]
    ) -> list[tuple[bool, dict[str, PairedComparison]]]:
        """Of each two models whether they saw the same samples, and of each metric which is better."""
        found = []
        for a, b in combinations(range(len(self.sums)), 2):
            together = self.together.get((a, b))
            together = together if together is not None and together.same_samples else None
            changes = compare_all(self.sums[a], self.sums[b], together, LEVEL)
            rows = [self.scored(sources[index], index, temperatures[index]) for index in (a, b)]
            if together is not None and self.sums[a].num_samples <= _FEW_ROWS:
                metrics = list(METRICS.values())
                if None in rows:
                    rows, metrics = [self.confidences(a), self.confidences(b)], metrics_of_pairs()
                n_bins = self.sums[a].n_bins
                one, other = rows
                if one is not None and other is not None and len(one) > 1:
                    changes = {m.key: compare_scored(m, one, other, n_bins, LEVEL) for m in metrics}
            found.append((together is not None, changes))
        return found


def _temperatures(sources: Sequence[_Source], first: _Found, share: Share) -> list[float | None]:
    """That of smallest NLL of each model, made exact by Newton's method."""
    found = [sums.temperature for sums in first.sums]
    for _ in range(_STEPS if first.rows is not None else 1):
        slopes = np.zeros((len(sources), 2))
        for index, source in enumerate(sources):
            if (guess := found[index]) is None:
                continue
            for place, rows in source.blocks(_size([source]), share):
                if (scored := source.scored(place, rows, None)) is not None:
                    slopes[index] += slope_at(scored, guess)
        slopes = np.sum(share.gathered(slopes), axis=0)
        found = [guess and newton_step(guess, *two) for guess, two in zip(found, slopes.tolist(), strict=True)]
    return found


def _size(sources: Sequence[_Source]) -> int:
    """How many rows at a time."""
    return max(1, min(_MOST_ROWS, _BLOCK // max(one.saved.width for one in sources)))


def _go_through(
    sources: Sequence[_Source], n_bins: int, temperatures: Sequence[float | None], slopes: bool, share: Share
) -> _Found:
    """All rows once: this process its share, then what all have found, or the first error of any."""
    one = _Way(sources, n_bins, temperatures, slopes)
    error: Exception | None = None
    try:
        one.go(share)
    except (ValueError, OSError) as found:
        error = found
    states = share.gathered(error or one.state())
    for state in states:
        if isinstance(state, Exception):
            raise error if state is error or error is not None else state
    return one.found(states)


class _Way:
    """One way of one process through its rows."""

    def __init__(
        self, sources: Sequence[_Source], n_bins: int, temperatures: Sequence[float | None], slopes: bool
    ) -> None:
        self.sources, self.n_bins, self.temperatures = sources, n_bins, temperatures
        pairs = [one.saved.kind in ("topk", "pairs") for one in sources]
        self.sums = [EvaluationSums(n_bins=n_bins, pairs=one, temperatures=slopes) for one in pairs]
        several = len(sources) > 1 and len({one.saved.num_rows for one in sources}) == 1
        self.groups = [[*range(len(sources))]] if several else [[index] for index in range(len(sources))]
        self.together = {two: ComparisonSums(n_bins) for group in self.groups for two in combinations(group, 2)}
        self.pairs: list[list[Any]] | None = [[] for _ in sources]
        self.raw: list[list[Rows]] | None = [[] for _ in sources]
        self.left_out = np.zeros(len(sources), np.int64)
        self._kept = np.zeros(2, np.int64)

    def go(self, share: Share) -> None:
        for group in self.groups:
            size = _size([self.sources[index] for index in group])
            for blocks in zip(*(self.sources[index].blocks(size, share) for index in group), strict=True):
                scored = {}
                for index, (place, rows) in zip(group, blocks, strict=True):
                    scored[index] = self._add(index, place, rows)
                for two in combinations(group, 2):
                    one, other = (scored[index] for index in two)
                    if one is not None and other is not None:
                        self.together[two].add(one, other)
                    elif one is not other:  # ignored by one of the two
                        self.together[two].arrays["other_labels"] += 1

    def _add(self, index: int, place: int, rows: Rows) -> Scored | None:
        scored = self.sources[index].scored(place, rows, self.temperatures[index])
        count = len(next(iter(rows.values())))
        self.left_out[index] += count - (0 if scored is None else len(scored))
        self._kept += count, sum(values.size for values in rows.values())
        if self.raw is not None:
            self.raw[index].append(rows)
        if scored is not None:
            self.sums[index].add(scored)
            if self.pairs is not None:
                self.pairs[index].append((scored.confidences, scored.correct))
        self._forget(*self._kept.tolist())
        return scored

    def _forget(self, rows: int, numbers: int) -> None:
        """Keep no more than fits."""
        if rows > _PAIRS:
            self.pairs = None
        if numbers > _NUMBERS or rows > _FEW_ROWS * len(self.sources):
            self.raw = None

    def state(self) -> dict[str, Any]:
        """Plain arrays of all this, for other processes."""
        return {
            "sums": [one.state_dict() if one.num_samples else None for one in self.sums],
            "together": {two: one.arrays for two, one in self.together.items()},
            "pairs": self.pairs, "raw": self.raw, "left_out": self.left_out, "kept": self._kept,
        }  # fmt: skip

    def _no_sums(self, like: EvaluationSums) -> EvaluationSums:
        return EvaluationSums(n_bins=self.n_bins, pairs=like.pairs, temperatures=like.temperatures)

    def found(self, states: Sequence[dict[str, Any]]) -> _Found:
        """What all processes have found, in their order."""
        sums = [self._no_sums(one) for one in self.sums]
        together = {two: ComparisonSums(self.n_bins) for two in self.together}
        for state in states:
            for one, arrays in zip(sums, state["sums"], strict=True):
                if arrays is not None:
                    other = self._no_sums(one)
                    other.load_state_dict(arrays)
                    one.merge(other)
            for two, arrays in state["together"].items():
                together[two].merge(arrays)
        for one, source in zip(sums, self.sources, strict=True):
            if not one.num_samples:
                raise ValueError(f"{source.saved.name} holds no rows with a label.")
        self._forget(*np.sum([state["kept"] for state in states], axis=0).tolist())
        whole: dict[str, Any] = {}
        for name in ("pairs", "raw"):
            parts = [state[name] for state in states]
            kept = getattr(self, name) is not None and None not in parts
            whole[name] = [sum(one, []) for one in zip(*parts, strict=True)] if kept else None
        left_out = np.sum([state["left_out"] for state in states], axis=0)
        rows = None
        if whole["raw"] is not None:
            rows = [{key: np.concatenate([part[key] for part in parts]) for key in parts[0]} for parts in whole["raw"]]
        return _Found(sums, together, whole["pairs"], whole["raw"], left_out, rows)


def _scored(kind: str, rows: Rows, temperature: float | None) -> Scored | None:
    if kind == "pairs":
        return scored_pairs(rows["confidence"], rows["correct"])
    labels = rows["label"]
    if labels.ndim != 1:
        raise ValueError(f"`label` must hold one number in every row, got {labels.shape[1]}.")
    kept = labels != IGNORED
    if not kept.any():
        return None
    if not kept.all():
        rows = {name: values[kept] for name, values in rows.items()}
    if kind == "topk":
        return _of_topk(rows)
    scaling = None if temperature is None else TemperatureScaling(temperature)
    if kind == "logits":
        return Scored.from_logits(rows["logits"], rows["label"], scaling)
    scored = Scored(rows["probabilities"], rows["label"])
    if scaling is None:
        return scored
    with np.errstate(divide="ignore"):
        return Scored.from_logits(np.log(scored.probabilities), rows["label"], scaling)


def _of_topk(rows: Rows) -> ScoredPairs:
    probabilities, classes, labels = rows["topk_probabilities"], rows["topk_classes"], rows["label"]
    if probabilities.shape != classes.shape:
        raise ValueError(
            "`topk_probabilities` and `topk_classes` must hold equally many numbers in every row, got shapes "
            f"{probabilities.shape} and {classes.shape}."
        )
    probabilities = probabilities.reshape(len(labels), -1)
    classes = classes.reshape(len(labels), -1)
    for name, values in (("topk_classes", classes), ("label", labels)):
        if not np.all((values >= 0) & (values == np.floor(values))):  # NaN is neither
            raise ValueError(f"`{name}` must hold whole numbers of at least 0.")
    total = probabilities.sum(axis=1, dtype=np.float64).max()
    if not (probabilities.min() >= 0 and total <= 1.01):
        raise ValueError(f"`topk_probabilities` must lie in [0, 1] and add up to at most 1, got a sum of {total:g}.")
    places = probabilities.argmax(axis=1)[:, None]
    confidences = np.minimum(np.take_along_axis(probabilities, places, 1)[:, 0], 1)
    answers = np.take_along_axis(classes, places, 1)[:, 0]
    pairs = scored_pairs(confidences, answers == labels)
    return ScoredPairs(pairs.confidences, pairs.correct, labels.astype(np.int64))
