# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What predictions show, measured from sums and, where they fit into memory, from their rows; in words and numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics import ALL_METRICS, METRICS, BinStatistics, Metric, NoiseFloor, PairedComparison, Scored
from ..metrics.accuracy import wilson_ends
from ..metrics.base import BIN_SUMS, whole_rows_first
from ..metrics.evaluation_sums import EvaluationSums, metrics_of_pairs
from ..metrics.noise import appraise
from ..metrics.scored import ScoredPairs
from .headline import CALIBRATED, FEW, LEAST, ROUND, Near, Standing, near_window, standing_of, verdict_on
from .labels import LabelReport, label_lines
from .plots.reliability import draw_reliability
from .plots.words import ANSWERS, POOLED, Shown, Terms
from .tables import WIDTH, cell, fill, text_table, with_interval, with_noise, wrap_titles


if TYPE_CHECKING:
    from .plots.picture import Picture

LEVEL = 0.9
_CHI_SQUARE = 1.353  # half of what twice the gain of one fitted number exceeds by chance in a tenth of all data


@dataclass(frozen=True)
class Evaluation:
    """
    What predictions show.

    Attributes:
        metrics (`dict[str, float]`): By key.
        intervals (`dict[str, tuple[float, float]]`): The 90% interval of the true value of each metric.
        floors (`dict[str, NoiseFloor]`): What chance alone would show of each calibration error.
        bins ([`BinStatistics`]): What the reliability diagram shows.
        standing ([`Standing`], *optional*): How the confidences stand to what comes true; `None` of too few.
        bounds (`dict[str, float]`): How far from exact a metric may be, by key; all others are exact.
        pooled ([`NoiseFloor`], *optional*): Of a sigmoid head what chance alone would show of the ECE of these bins.
        terms ([`Terms`], *optional*): What the diagram is about.
        samples (`int`, *optional*): Number of samples, where it is not that of what is counted in the bins.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    floors: dict[str, NoiseFloor]
    bins: BinStatistics
    standing: Standing | None
    bounds: dict[str, float] = field(default_factory=dict)
    pooled: NoiseFloor | None = None
    terms: Terms = ANSWERS
    samples: int = 0

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return self.samples or int(self.bins.counts.sum())

    @property
    def headline(self) -> str:
        """One sentence on whether it is calibrated."""
        data = f"{self.n_samples:,} {'samples' if self.n_samples > 1 else 'sample'}"
        if self.terms is POOLED:
            data = f"{self.bins.counts.sum():,} labels of {data}"
        return verdict_on(self.standing, data)

    @property
    def shown(self) -> Shown:
        """Its panel of a reliability diagram."""
        verdict = "" if self.standing is None else self.standing.verdict()[0]
        if self.pooled is not None:
            return Shown(self.bins, self.pooled, terms=self.terms)
        return Shown(self.bins, self.floors.get("ece"), "" if verdict == CALIBRATED else verdict)

    def cells(self, metric: Metric) -> tuple[str, str, str]:
        """The value of a metric as a table shows it, and of a calibration error its true value, and that by chance."""
        value, ends = self.metrics[metric.key], self.intervals.get(metric.key, ())
        shown, floor = sorted(map(metric.show, ends)), self.floors.get(metric.key)
        if floor is None:
            return with_interval(metric.show(value), shown, metric.style), "", ""
        true = " to ".join(cell(end, metric.style) for end in shown)
        chance = with_interval(floor.median, (floor.low, floor.high), metric.style)
        return with_noise(value, floor.high, metric.style), true, chance

    def to_record(self) -> dict[str, Any]:
        """What JSON has to hold of it."""
        bins = {name: getattr(self.bins, name).tolist() for name in ("edges", *BIN_SUMS)}
        floors = {key: asdict(floor) for key, floor in self.floors.items()}
        return {
            "headline": self.headline, "n_samples": self.n_samples, "metrics": self.metrics,
            "error_bounds": self.bounds, "intervals": self.intervals, "by_chance": floors, "bins": bins,
        }  # fmt: skip


def evaluation_of(sums: EvaluationSums, pairs: ScoredPairs | None = None, scored: Scored | None = None) -> Evaluation:
    """
    Of sums alone; with the confidences and outcomes of all samples as well, which make AdaECE exact; or with all
    probabilities too, from which the intervals of means are drawn and those of Classwise-ECE follow.
    """
    n_bins = sums.n_bins
    metrics, bounds = sums.compute(), {}
    if scored is not None:
        metrics = {metric.key: metric.value(scored, n_bins) for metric in whole_rows_first(METRICS.values())}
        metrics = {key: metrics[key] for key in METRICS}
        intervals, floors = appraise(scored, n_bins, level=LEVEL)
    else:
        intervals, floors = sums.appraise(LEVEL)
        if pairs is not None:
            known = metrics_of_pairs()
            metrics |= {metric.key: metric.value(pairs, n_bins) for metric in known}
            exact = appraise(pairs, n_bins, level=LEVEL, metrics=known)
            intervals, floors = intervals | exact[0], floors | exact[1]
        else:
            wide = sums.compute(error_bound=True)
            bounds = {key: wide[f"{key}_error_bound"] for key in metrics if f"{key}_error_bound" in wide}
    rows = scored if scored is not None else pairs
    if rows is not None:
        standing = standing_of(rows, intervals, floors, metrics["ece"], None, LEVEL) if "ece" in metrics else None
        return Evaluation(metrics, intervals, floors, rows.bins(n_bins), standing, bounds)
    return Evaluation(metrics, intervals, floors, sums.bins, _standing(sums, metrics, intervals, floors), bounds)


def _standing(
    sums: EvaluationSums, metrics: dict[str, float], intervals: dict[str, tuple[float, float]],
    floors: dict[str, NoiseFloor],
) -> Standing | None:  # fmt: skip
    """That of [`standing_of`], with the samples of a cell of AdaECE, at most 0.012% wide, taken as alike."""
    if "ece" not in floors or "cell_counts" not in sums.arrays:
        return None
    filled = np.flatnonzero(sums.arrays["cell_counts"])[::-1]
    counts, said, right = (sums.arrays[f"cell_{name}"][filled] for name in ("counts", "confidence_sums", "correct"))
    before = [np.concatenate([[0], np.cumsum(values)]) for values in (counts, said, right)]

    def near(first: int, last: int, said: float | None = None) -> Near:
        count, total, hits = (values[last] - values[first] for values in before)
        mean, share = float(total / count), float(hits / count)
        return Near(mean if said is None else said, mean, int(count), share, *wilson_ends(share, float(count), LEVEL))

    found = []
    for round_one in ROUND:
        place = near_window(said / counts, before[1], before[0], round_one)
        if before[0][place.stop] - before[0][place.start] >= FEW:
            found.append(near(place.start, place.stop, round_one))
    whole, hits = near(0, len(counts)), int(right.sum())
    return Standing(
        whole=whole, near=found, error=metrics["ece"], most=intervals["ece"][1], floor=floors["ece"],
        leaning=sums.leaning, telling=min(hits, whole.count - hits) >= LEAST,
    )  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """
    A model: what its predictions show as they are and, where their logits or probabilities are known, after the
    temperature of smallest NLL on these very predictions.

    Attributes:
        name (`str`): What it is called.
        kind (`str`): What was saved of it.
        plain ([`Evaluation`]): As it is.
        temperature (`float`, *optional*): That temperature; `None` where there is none, or none was looked for.
        scaled ([`Evaluation`], *optional*): After it.
        left_out (`int`): Number of rows whose label is -100.
        labels (`Sequence[LabelReport]`, *optional*): Of a sigmoid head each of its labels, before that temperature and
            after it.
    """

    name: str
    kind: str
    plain: Evaluation
    temperature: float | None = None
    scaled: Evaluation | None = None
    left_out: int = 0
    labels: Sequence[LabelReport] = ()

    @property
    def panels(self) -> dict[str, Evaluation]:
        """What is measured, by the title of its column."""
        after = {} if self.scaled is None else {f"T = {self.temperature:.4g}": self.scaled}
        return {"as they are": self.plain} | after

    def text(self, width: int = WIDTH) -> str:
        """The first sentence, the table, and what is to be said of it."""
        titles = list(self.panels)
        lines = [(f"{self.plain.n_samples:,} samples", *titles)]
        keys = sorted((ALL_METRICS[key] for key in self.plain.metrics), key=lambda metric: metric.rank)
        for metric in keys:
            cells = zip(*(one.cells(metric) for one in self.panels.values()), strict=True)
            for title, row in zip((metric.shown, "- true value", "- by chance"), cells, strict=True):
                if any(row):
                    lines.append((title, *row))
        header, *rows = wrap_titles(lines, width)
        table = text_table(header, rows, numbers=True)
        parts = [fill(self.plain.headline, width), table, fill(" ".join(self.notes()), width)]
        if len(self.labels) > 1:
            by_label, sentence = label_lines(self.labels, width, where="evaluation.json")
            parts += [by_label, fill(sentence, width)]
        return "\n\n".join(parts)

    def notes(self) -> Iterator[str]:
        """What is to be said of the table."""
        if self.temperature is not None and self.scaled is None:
            yield f"The temperature of smallest NLL on these very predictions is {self.temperature:.4g}."
        elif self.scaled is not None:
            before, after = (one.metrics["nll"] for one in (self.plain, self.scaled))
            gained = (before - after) * self.plain.n_samples > _CHI_SQUARE
            what = f"lowers the NLL from {before:.4f} to {after:.4f}" if gained else "gains no more than chance does"
            yield f"The temperature of smallest NLL on these very predictions {what}."
        elif self.kind in ("logits", "probabilities"):
            yield "No temperature between 1/16 and 16 was fitted."
        else:
            yield "NLL, Brier score and temperature need logits or probabilities of all classes."
        bounds = [f"{ALL_METRICS[key].title} to within {100 * bound:.2g}%" for key, bound in self.plain.bounds.items()]
        yield f"{', '.join(bounds)}; all other metrics are exact." if bounds else "All metrics are exact."
        yield f"In brackets: {LEVEL:.0%} intervals; by chance: what a calibrated model would show."
        if self.left_out:
            yield f"{self.left_out:,} rows with the label -100 are left out."

    def diagram(self) -> Picture:
        """The reliability diagram."""
        return diagram_of([self])

    def to_record(self) -> dict[str, Any]:
        """What JSON has to hold of it."""
        scaled = self.scaled and self.scaled.to_record()
        return {
            "name": self.name, "kind": self.kind, **self.plain.to_record(), "left_out": self.left_out,
            "temperature": self.temperature, "at_temperature": scaled,
            **({"labels": [label.to_record() for label in self.labels]} if self.labels else {}),
        }  # fmt: skip


def report_of_sums(sums: EvaluationSums, name: str = "predictions") -> Measured:
    """
    The report of what was added up, on many machines perhaps: `text()`, `diagram()` and `to_record()`.

    Args:
        sums ([`EvaluationSums`]):
            All of it, merged.
        name (`str`, *optional*, defaults to `"predictions"`):
            What the model is called.

    Raises:
        ValueError: If there are no samples.

    Example:
    >>> sums = EvaluationSums(pairs=True)
    >>> sums.update_pairs([0.9] * 1000, [True] * 800 + [False] * 200)
    >>> report_of_sums(sums).plain.headline.partition(";")[0]
    'Over-confident: where it says 90% it is right 80% of the time (78% to 82%)'
    """
    kind = "pairs" if sums.pairs else "probabilities"
    return Measured(name, kind, evaluation_of(sums), sums.temperature)


@dataclass(frozen=True)
class Compared:
    """
    Two models.

    Attributes:
        a, b (`str`): Their names.
        same_samples (`bool`): Whether equal labels, row by row, tell that these are the same samples.
        plain, scaled (`dict[str, PairedComparison]`): Of each metric, as they are and after their temperatures.
    """

    a: str
    b: str
    same_samples: bool
    plain: dict[str, PairedComparison]
    scaled: dict[str, PairedComparison] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Of each metric its title, the difference with its interval, and which is better."""
        words = {"a_is_better": self.a, "b_is_better": self.b, "undecided": "undecided"}
        for found, after in ((self.plain, ""), (self.scaled, ", at their T")):
            for key, change in found.items():
                metric, ends = ALL_METRICS[key], (change.low, change.high)
                yield (
                    f"{metric.title}{after}",
                    with_interval(change.difference, ends, metric.style),
                    words[change.verdict],
                )

    def text(self, width: int = WIDTH) -> str:
        """A table of these."""
        lines = [(f"{self.a} less {self.b}", "difference", "better"), *self.rows()]
        header, *rows = wrap_titles(lines, width)
        if not self.plain and not self.same_samples:
            return fill(
                f"{self.a} and {self.b} are not compared: no labels tell that these are the same samples.", width
            )
        note = "On the same samples, by their labels."
        if not self.same_samples:
            note = "No labels tell that these are the same samples: compared as if they were different ones."
        return f"{text_table(header, rows, numbers=True)}\n\n{fill(note, width)}"

    def to_record(self) -> dict[str, Any]:
        """What JSON has to hold of it."""
        moments = {"metrics": self.plain, "at_temperature": self.scaled}
        found = {moment: {key: asdict(one) for key, one in of.items()} for moment, of in moments.items()}
        return {"a": self.a, "b": self.b, "same_samples": self.same_samples, **found}


def text_of(models: Sequence[Measured], compared: Sequence[Compared], width: int = WIDTH) -> str:
    """All of them, one after another."""
    parts = [f"== {one.name} ==\n\n{one.text(width)}" if len(models) > 1 else one.text(width) for one in models]
    return "\n\n".join([*parts, *(one.text(width) for one in compared)])


def diagram_of(models: Sequence[Measured], level: float = LEVEL) -> Picture:
    """The reliability diagrams of all, two a row."""
    several = len(models) > 1
    shown = {
        f"{f'{one.name}, ' if several else ''}{title}": found.shown
        for one in models
        for title, found in one.panels.items()
    }
    return draw_reliability(shown, level)
