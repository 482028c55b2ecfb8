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
from .style import listed, one_line


WITHIN, BEYOND = "within noise", "not calibrated everywhere"


@dataclass(frozen=True)
class Shown:
    """
    One panel: what was counted, what chance alone would show, if that is known, and what is known from elsewhere of an
    error beyond that.
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
        if self.floor is None:
            return ""
        if self.error <= self.floor.high:
            return WITHIN
        if self.known or abs(self.mean - self.share) <= self.floor.high:
            return self.known or BEYOND
        return "over-confident" if self.mean > self.share else "under-confident"

    def after(self, before: Shown) -> str:
        """The verdict, of what comes after `before`."""
        if self.verdict != before.verdict or not self.verdict:
            turned = self.verdict.endswith("confident") and before.verdict.endswith("confident")
            return f"now {self.verdict}" if turned else self.verdict
        if self.verdict == WITHIN or self.floor is None or before.floor is None:
            return f"{self.verdict} too"
        change, noise = self.error - before.error, math.hypot(self.floor.high, before.floor.high)
        return f"still {self.verdict}" + (
            ", but less" if change < -noise else ", and more so" if change > noise else ""
        )


def finding(panels: Mapping[str, Shown]) -> str:
    """One sentence on what the panels of a reliability diagram show."""
    titles, shown = list(panels), list(panels.values())
    if len(shown) == 1:
        (one,) = shown
        return _capital(f"{one.verdict or 'reliability'}: ECE {one.error:.2%}") + _chance(one)
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
    same = np.array_equal(before.bins.counts, after.bins.counts) and before.error == after.error
    if same:
        return _capital(f"{before.verdict or 'reliability'} and left as it was: ECE {before.error:.2%}") + _chance(
            before
        )
    told = after.after(before)
    head = f"{before.verdict} before" if before.verdict else "before"
    return _capital(f"{head}: ECE {before.error:.2%}; after: {after.error:.2%}, {told}").removesuffix(", ")


def _chance(one: Shown) -> str:
    return "" if one.floor is None else f", by chance {one.floor.low:.2%} to {one.floor.high:.2%}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def alt_text(
    panels: Mapping[str, Shown], level: float, bands: Mapping[str, NDArray[np.float64]], unit: str = "samples"
) -> str:
    """What the panels of a reliability diagram show, for somebody who does not see them."""
    n_bins = len(next(iter(panels.values())).bins.counts)
    head = (
        f"Reliability diagram: accuracy against confidence in {n_bins} bins, with the {level:.0%} band where the bins "
        "of a calibrated model would lie."
    )
    if len(panels) > 3:
        return f"{head} {len(panels)} panels. {finding(panels)}."
    sentences = []
    for title, one in panels.items():
        filled = one.bins.counts > 0
        accuracy, (least, most) = one.bins.accuracy[filled], bands[title][:, filled]
        below, above = int((accuracy < least - 1e-12).sum()), int((accuracy > most + 1e-12).sum())
        sentences.append(
            f"{title}: mean confidence {one.mean:.1%}, accuracy {one.share:.1%} of {one.bins.counts.sum():,} {unit}, "
            f"ECE {one.error:.2%}{_chance(one)}{', ' * bool(one.verdict)}{one.verdict}; of {filled.sum()} bins with "
            f"{unit} {below} lie below the band and {above} above it.".removeprefix(": ")
        )
    return " ".join([head, *map(_capital, sentences)])


def class_finding(beyond: int, total: int, by_chance: int) -> str:
    """One sentence on how many classes have a larger error than chance allows; a twentieth has it by chance."""
    if total == 1:
        return "This class is off by more than noise" if beyond else "This class is within noise"
    if beyond > by_chance:
        return f"{beyond} of {total} classes are off by more than noise"
    return f"Of {total} classes no more are off than chance would have it"
