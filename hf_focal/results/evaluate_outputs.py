# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Saved predictions of sigmoid heads measured in memory: labels of the shape of the logits or probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from scipy.special import logit

from ..calibrators.base import SIGMOID, calibrator_class
from ..checks import IGNORED
from ..metrics import ScoredOutputs, measure, metrics_of
from ..metrics.comparison import compare_scored
from ..metrics.noise import appraise, pooled_floor
from ..metrics.outputs import are_one_hot
from .evaluation import LEVEL, Compared, Evaluation, Measured
from .headline import standing_of
from .labels import label_reports, names_of
from .plots.words import POOLED, SINGLE
from .prediction_files import Rows, SavedPredictions


_MOST = 1 << 27  # numbers: more do not go into memory
_BLOCK = 1 << 21  # numbers at a time
_RANGE = 16.0  # temperatures, and one by it, as those of a softmax


def evaluate_outputs(
    saved: Mapping[str, SavedPredictions], n_bins: int, temperature: bool
) -> tuple[list[Measured], list[Compared]]:
    """[`evaluate_saved`] of sigmoid heads."""
    if other := [one.name for one in saved.values() if not one.of_outputs]:
        raise ValueError(
            f"{other[0]} holds predictions of a softmax and others are of sigmoid heads, of which no two can be "
            "compared: measure them by themselves."
        )
    measured, scored = [], {}
    for name, one in saved.items():
        rows, left_out = _rows(one)
        found = {"plain": _scored(one, rows)}
        best = _temperature(one, rows) if temperature else None
        if best is not None:
            found["scaled"] = _scored(one, rows, best)
        evaluations = {moment: _evaluation(every, n_bins) for moment, every in found.items()}
        both = {"before": found["plain"], "after": found.get("scaled", found["plain"])}
        labels = label_reports(both, names_of(one.width, None), n_bins)
        measured.append(
            Measured(name, one.kind, evaluations["plain"], best, evaluations.get("scaled"), left_out, labels)
        )
        scored[name] = found
    return measured, [_compared(a, b, scored[a], scored[b], n_bins) for a, b in combinations(saved, 2)]


def _rows(saved: SavedPredictions) -> tuple[Rows, int]:
    """All rows of which something is known, and how many there are beside them."""
    if saved.num_rows * saved.width > _MOST:
        raise ValueError(
            f"{saved.name} holds {saved.num_rows:,} rows of {saved.width:,} labels each. Those of sigmoid heads are "
            f"measured in memory, {_MOST:,} numbers at most: give a part of the rows."
        )
    blocks = [rows for _, rows in saved.blocks(max(1, _BLOCK // saved.width))]
    rows = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    if saved.width > 1 and saved.kind == "logits" and are_one_hot(rows["label"]):
        raise ValueError(
            f"{saved.name}: `label` must hold one number in every row, the class, of a softmax. Here all rows hold a "
            "single 1 and else 0; of a sigmoid head, whose labels may be so by chance, save `probabilities`."
        )
    labels = rows["label"]
    kept = ((labels != IGNORED) & (labels == labels)).any(axis=1)
    if not kept.any():
        raise ValueError(f"{saved.name} holds no rows with a label.")
    return {name: values[kept] for name, values in rows.items()}, int(len(kept) - kept.sum())


def _scored(saved: SavedPredictions, rows: Rows, temperature: float | None = None) -> ScoredOutputs:
    try:
        if temperature is not None:
            return ScoredOutputs.of_logits(_logits(saved, rows) / temperature, rows["label"])
        if saved.kind == "logits":
            return ScoredOutputs.of_logits(rows["logits"], rows["label"])
        return ScoredOutputs.of_probabilities(rows["probabilities"], rows["label"])
    except ValueError as error:
        raise ValueError(f"{saved.name}: {error}") from error


def _logits(saved: SavedPredictions, rows: Rows) -> np.ndarray:
    if saved.kind == "logits":
        return rows["logits"].astype(np.float64)
    return logit(np.clip(rows["probabilities"].astype(np.float64), 1e-300, 1 - 1e-16))


def _temperature(saved: SavedPredictions, rows: Rows) -> float | None:
    """That of smallest NLL, where one is within the range."""
    scored = _scored(saved, rows)
    labels = np.full((scored.num_samples, scored.num_outputs), IGNORED)
    labels[scored.samples, scored.columns] = scored.labels
    fitted = calibrator_class("temperature", SIGMOID).fit(_logits(saved, rows), labels, criterion="nll", n_bins=15)
    best = float(getattr(fitted, "temperature", np.inf))
    return best if 1 / _RANGE < best < _RANGE else None


def _evaluation(scored: ScoredOutputs, n_bins: int) -> Evaluation:
    metrics, (intervals, floors) = measure(scored, n_bins), appraise(scored, n_bins, level=LEVEL)
    return Evaluation(
        metrics=metrics,
        intervals=intervals,
        floors=floors,
        bins=scored.bins(n_bins),
        standing=standing_of(scored, intervals, floors, metrics["ece"], None, LEVEL),
        pooled=pooled_floor(scored, n_bins, level=LEVEL),
        terms=POOLED if scored.num_outputs > 1 else SINGLE,
        samples=scored.num_samples,
    )


def _compared(
    a: str, b: str, scored_a: Mapping[str, ScoredOutputs], scored_b: Mapping[str, ScoredOutputs], n_bins: int
) -> Compared:
    """Two models, where labels tell that their samples are the same; else nothing is said of them."""
    one, other = scored_a["plain"], scored_b["plain"]
    same = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("labels", "columns", "samples"))
    if not same or one.num_samples < 2:
        return Compared(a, b, same, {}, {})
    found = [
        {
            key: compare_scored(metric, scored_a[moment], scored_b[moment], n_bins, LEVEL)
            for key, metric in metrics_of(SIGMOID).items()
        }
        for moment in ("plain", "scaled")
        if moment in scored_a and moment in scored_b
    ]
    return Compared(a, b, same, found[0], *found[1:])
