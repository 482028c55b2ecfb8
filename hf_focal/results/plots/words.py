# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
What a reliability diagram shows, in words, from what it draws: no more than chance allows.

An error that chance alone would show is called within noise. A model is called over- or under-confident where mean
confidence and accuracy differ by more than chance alone would make of the ECE, which is never less than that gap.
Probabilities of labels are called too high or too low in the same way where that is half of the ECE or more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...metrics.bins import BinStatistics
from ...metrics.chance import NoiseFloor
from ...metrics.noise import binomial_band
from .style import listed, one_line


WITHIN, BEYOND = "within noise", "not calibrated everywhere"


@dataclass(frozen=True)
class Terms:
    """
    What a reliability diagram is about.

    Attributes:
        said, share (`str`): What is along its axes: what was said, and how often that came true.
        mean, overall (`str`): Their means.
        error (`str`): Its calibration error.
    """

    said: str = "confidence"
    share: str = "accuracy"
    mean: str = "mean confidence"
    overall: str = "overall accuracy"
    whole: str = "accuracy"
    error: str = "ECE"


CLASSES, LABELS = ("class", "classes"), ("label", "labels")
ANSWERS = Terms()
SINGLE = Terms("probability", "share that is right", "mean probability", "overall share", "share")
POOLED = replace(SINGLE, error="ECE of all labels together")


@dataclass(frozen=True)
class Shown:
    """
    One panel: what was counted, what chance alone would show, if that is known, and the verdict, where it was given
    by more than is drawn.
    """

    bins: BinStatistics
    floor: NoiseFloor | None = None
    known: str = ""
    terms: Terms = ANSWERS
    of: str = ""  # what alone is shown

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
        gap = self.mean - self.share
        if self.terms is not ANSWERS:
            return self._of_labels(gap, self.floor.high)
        if abs(gap) <= self.floor.high:
            return BEYOND
        return "over-confident" if gap > 0 else "under-confident"

    def _of_labels(self, gap: float, noise: float) -> str:
        """Of probabilities of labels: whether they are too high or too low, or else too sure of yes and no."""
        gaps = self.bins.confidence_sums - self.bins.correct_sums
        sure = float(np.where(self.bins.confidence_sums > self.bins.counts / 2, gaps, -gaps).sum())
        sure /= float(self.bins.counts.sum())
        least = max(noise, self.error / 2)
        if abs(gap) > least:
            return "too high" if gap > 0 else "too low"
        if abs(sure) > least:
            return "over-confident" if sure > 0 else "under-confident"
        return BEYOND

    def after(self, before: Shown) -> str:
        """What is to be said of it as of what came after `before`."""
        error, verdict = f"{self.error:.2%}", self.verdict
        off = verdict == BEYOND or verdict.startswith("too ") or verdict.endswith("confident")
        if verdict != before.verdict or not off or self.floor is None or before.floor is None:
            return f"after: {error}, {verdict}".removesuffix(", ")
        change, noise = self.error - before.error, math.hypot(self.floor.high, before.floor.high)
        less = ", but less" if change < -noise else ", and more" if change > noise else ""
        return f"still so after{less}: {error}"


def finding(panels: Mapping[str, Shown]) -> str:
    """One sentence on what the panels of a reliability diagram show."""
    titles, shown = list(panels), list(panels.values())
    if alone := shown[0].of:
        return f"{alone}: {finding({title: replace(one, of='') for title, one in panels.items()})}"
    if len(shown) == 1:
        (one,) = shown
        return _capital(f"{one.verdict or 'reliability'}: {one.terms.error} {one.error:.2%}") + _most(one)
    if len(shown) == 2 and titles[0] == "before" and titles[1].startswith("after"):
        return _pair(*shown)
    if len(shown) < 4:
        clauses = (
            f"{title}: {one.terms.error} {one.error:.2%}{', ' * bool(one.verdict)}{one.verdict}"
            for title, one in panels.items()
        )
        return "; ".join(map(one_line, clauses))
    found: dict[str, list[str]] = {}
    for title, one in panels.items():
        found.setdefault(one.verdict or "reliability", []).append(title)
    return _capital("; ".join(f"{verdict}: {one_line(listed(names))}" for verdict, names in found.items()))


def _pair(before: Shown, after: Shown) -> str:
    if _same(before, after):
        left = f"{before.verdict} and left as it was".removeprefix(" and ")
        return _capital(f"{left}: {before.terms.error} {before.error:.2%}") + _most(before)
    head = f"{before.verdict} before" if before.verdict else "before"
    return _capital(f"{head}: {before.terms.error} {before.error:.2%}; {after.after(before)}")


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
    terms, alone = first.terms, f" of {first.of}" if first.of else ""
    head = (
        f"Reliability diagram{alone}: {terms.share} against {terms.said} in {len(first.bins.counts)} bins, with the "
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
            f"{terms.mean} {one.mean:.1%}, {terms.whole} {one.share:.1%} of {one.bins.counts.sum():,} {unit}, "
            f"{terms.error} {one.error:.2%}{_chance(one)}{', ' * bool(one.verdict)}{one.verdict}; of {filled.sum()} "
            f"{'bin' if filled.sum() == 1 else 'bins'} with {unit} {below} lie below the band and {above} above it."
        )
        sentences.append(f"{title}: {told}".removeprefix(": "))
    return " ".join([head, *map(_capital, sentences)])


def class_finding(beyond: int, total: int, by_chance: int, nouns: tuple[str, str] = CLASSES) -> str:
    """One sentence on how many classes have a larger error than chance allows; a twentieth has it by chance."""
    one, many = nouns
    if total == 1:
        return f"This {one} is off by more than noise" if beyond else f"This {one} is within noise"
    if beyond > by_chance:
        return f"{beyond} of {total} {many} are off by more than noise"
    return f"Of {total} {many} no more are off than chance would have it"
