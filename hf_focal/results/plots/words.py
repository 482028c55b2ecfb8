# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
What a reliability diagram shows, in words, from what it draws: no more than chance allows.

An error that chance alone would show is called within noise. A model is called over- or under-confident where mean
confidence and accuracy differ by more than chance alone would make of the ECE, which is never less than that gap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...metrics.bins import BinStatistics
from ...metrics.chance import NoiseFloor
from ...metrics.noise import binomial_band
from .style import listed, one_line


WITHIN, BEYOND = "within noise", "not calibrated everywhere"


@dataclass(frozen=True)
class Shown:
    """
    One panel: what was counted, what chance alone would show, if that is known, and the verdict, where it was given
    by more than is drawn.
    """

    bins: BinStatistics
    floor: NoiseFloor | None = None
    known: str = ""

    @property
    def error(self) -> float:
        """The ECE."""
        return self.bins.expected_error()

    @property
    def mean(self) -> float:
        """The mean confidence."""
        return float(self.bins.confidence_sums.sum() / self.bins.counts.sum())

    @property
    def share(self) -> float:
        """How many are right."""
        return float(self.bins.correct_sums.sum() / self.bins.counts.sum())

    @property
    def verdict(self) -> str:
        """What may be said of it; nothing where chance is not known."""
        if self.known or self.floor is None:
            return self.known
        if self.error <= self.floor.high:
            return WITHIN
        if abs(self.mean - self.share) <= self.floor.high:
            return BEYOND
        return "over-confident" if self.mean > self.share else "under-confident"

    def after(self, before: Shown) -> str:
        """What is to be said of it as of what came after `before`."""
        error, verdict = f"{self.error:.2%}", self.verdict
        off = verdict == BEYOND or verdict.endswith("confident")
        if verdict != before.verdict or not off or self.floor is None or before.floor is None:
            return f"after: {error}, {verdict}".removesuffix(", ")
        change, noise = self.error - before.error, math.hypot(self.floor.high, before.floor.high)
        less = ", but less" if change < -noise else ", and more" if change > noise else ""
        return f"still so after{less}: {error}"


def finding(panels: Mapping[str, Shown]) -> str:
    """One sentence on what the panels of a reliability diagram show."""
    titles, shown = list(panels), list(panels.values())
    if len(shown) == 1:
        (one,) = shown
        return _capital(f"{one.verdict or 'reliability'}: ECE {one.error:.2%}") + _most(one)
    if len(shown) == 2 and titles[0] == "before" and titles[1].startswith("after"):
        return _pair(*shown)
    if len(shown) < 4:
        clauses = (
            f"{title}: ECE {one.error:.2%}{', ' * bool(one.verdict)}{one.verdict}" for title, one in panels.items()
        )
        return "; ".join(map(one_line, clauses))
    found: dict[str, list[str]] = {}
    for title, one in panels.items():
        found.setdefault(one.verdict or "reliability", []).append(title)
    return _capital("; ".join(f"{verdict}: {one_line(listed(names))}" for verdict, names in found.items()))


def _pair(before: Shown, after: Shown) -> str:
    if _same(before, after):
        left = f"{before.verdict} and left as it was".removeprefix(" and ")
        return _capital(f"{left}: ECE {before.error:.2%}") + _most(before)
    head = f"{before.verdict} before" if before.verdict else "before"
    return _capital(f"{head}: ECE {before.error:.2%}; {after.after(before)}")


def _same(one: Shown, other: Shown) -> bool:
    """Whether two panels show the same."""
    keys = ("counts", "confidence_sums", "correct_sums")
    return all(np.array_equal(getattr(one.bins, key), getattr(other.bins, key)) for key in keys)


def _most(one: Shown) -> str:
    return "" if one.floor is None else f", by chance up to {one.floor.high:.2%}"


def _chance(one: Shown) -> str:
    return "" if one.floor is None else f", by chance {one.floor.low:.2%} to {one.floor.high:.2%}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def alt_text(
    panels: Mapping[str, Shown], level: float, bands: Mapping[str, NDArray[np.float64]], unit: str = "samples"
) -> str:
    """What the panels of a reliability diagram show, for somebody who does not see them."""
    first = next(iter(panels.values()))
    head = (
        f"Reliability diagram: accuracy against confidence in {len(first.bins.counts)} bins, with the "
        f"{level:.0%} band where the bins of a calibrated model would lie."
    )
    if len(panels) > 3:
        return f"{head} {len(panels)} panels. {finding(panels)}."
    sentences: list[str] = []
    for title, one in panels.items():
        if sentences and _same(first, one):
            sentences.append(f"{title}: the same.")
            continue
        filled = one.bins.counts > 0
        band = bands[title] if title in bands else binomial_band(one.bins, level)
        accuracy, (least, most) = one.bins.accuracy[filled], band[:, filled]
        below, above = int((accuracy < least - 1e-12).sum()), int((accuracy > most + 1e-12).sum())
        told = (
            f"mean confidence {one.mean:.1%}, accuracy {one.share:.1%} of {one.bins.counts.sum():,} {unit}, "
            f"ECE {one.error:.2%}{_chance(one)}{', ' * bool(one.verdict)}{one.verdict}; of {filled.sum()} "
            f"{'bin' if filled.sum() == 1 else 'bins'} with {unit} {below} lie below the band and {above} above it."
        )
        sentences.append(f"{title}: {told}".removeprefix(": "))
    return " ".join([head, *map(_capital, sentences)])


def class_finding(beyond: int, total: int, by_chance: int) -> str:
    """One sentence on how many classes have a larger error than chance allows; a twentieth has it by chance."""
    if total == 1:
        return "This class is off by more than noise" if beyond else "This class is within noise"
    if beyond > by_chance:
        return f"{beyond} of {total} classes are off by more than noise"
    return f"Of {total} classes no more are off than chance would have it"
