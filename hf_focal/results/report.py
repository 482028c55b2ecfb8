# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a calibrator does on data that it was not fitted on: measured once, and told in words, tables and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..calibrators import Fit
from ..calibrators.base import describe
from ..metrics import METRICS, BinStatistics, Metric, Scored, measure
from ..metrics.intervals import metric_intervals
from ..predictions import Predictions
from .plots.reliability import draw_reliability
from .tables import text_table, with_interval


if TYPE_CHECKING:
    from matplotlib.figure import Figure


LEVEL = 0.9  # of the intervals


@dataclass(frozen=True)
class Report:
    """
    What a finished run found on its test split.

    Attributes:
        fit ([`Fit`]): The calibrator, fitted on validation data.
        before, after (`dict[str, float]`): Metrics of the plain softmax and of the calibrated one.
        words (`str`): Whether the model was over- or under-confident.
        intervals (`dict[str, dict[str, tuple[float, float]]]`): Under `"before"` and `"after"`, the 90% bootstrap
            interval of each metric.
        bins (`dict[str, BinStatistics]`): Under the same two, what the reliability diagram shows.
        n_samples, n_bins (`int`): Number of rows measured, and of bins.
        split (`str`): Name of the test split.
        unit (`str`): What was counted, such as `"samples"` or `"tokens"`.
        group (`str`, *optional*): What the intervals draw whole, such as `"sentence"`.
    """

    fit: Fit
    before: dict[str, float]
    after: dict[str, float]
    words: str
    intervals: dict[str, dict[str, tuple[float, float]]]
    bins: dict[str, BinStatistics]
    n_samples: int
    n_bins: int = 15
    split: str = "test"
    unit: str = "samples"
    group: str | None = None

    def rows(self) -> list[tuple[str, str, str]]:
        """Of each metric its title, and what it was before and after, with intervals; of accuracy the error."""
        metrics = sorted((METRICS[key] for key in self.before), key=lambda metric: metric.rank)
        return [(metric.shown, self._cell(metric, "before"), self._cell(metric, "after")) for metric in metrics]

    def _cell(self, metric: Metric, moment: str) -> str:
        value = (self.before if moment == "before" else self.after)[metric.key]
        ends = self.intervals[moment].get(metric.key, ())
        return with_interval(metric.show(value), sorted(map(metric.show, ends)), metric.style)

    def __str__(self) -> str:
        title = self.split if self.unit == "samples" else f"{self.split} {self.unit}"
        head, *lines = text_table((title, "before", "after"), self.rows(), numbers=True).splitlines()
        drawn = f", by {self.group}" if self.group else ""
        head += f"   ({self.fit.calibrator}; in brackets: {LEVEL:.0%} intervals{drawn})"
        return "\n".join([head, *lines, self.words])

    def diagram(self) -> Figure:
        """The reliability diagram before and after."""
        titles = ("before", f"after ({self.fit.calibrator})")
        return draw_reliability(dict(zip(titles, self.bins.values(), strict=True)))


RunReport = Report  # its earlier name


def make_report(
    predictions: Predictions, fit: Fit, *, n_bins: int = 15, unit: str = "samples", group: str | None = None
) -> Report:
    """
    Measure a model before and after its calibrator: one softmax each, block by block.

    Args:
        predictions ([`Predictions`]):
            Before calibration, of data that neither the model nor the calibrator was fitted on. Where they have
            groups, the intervals draw whole groups.
        fit ([`Fit`]):
            The fitted calibrator.
        n_bins, unit, group (*optional*):
            As of [`Report`].
    """
    logits, labels, groups = predictions.logits, predictions.labels, predictions.groups
    moments = {"before": None, "after": fit.calibrator}
    scored = {moment: Scored.from_logits(logits, labels, calibrator) for moment, calibrator in moments.items()}
    values = {moment: measure(one, n_bins) for moment, one in scored.items()}
    return Report(
        fit=fit,
        before=values["before"],
        after=values["after"],
        words=describe(scored["before"], fit.calibrator),
        intervals={moment: metric_intervals(one, n_bins, groups=groups) for moment, one in scored.items()},
        bins={moment: one.bins(n_bins) for moment, one in scored.items()},
        n_samples=len(predictions),
        n_bins=n_bins,
        split=predictions.split,
        unit=unit,
        group=group if groups is not None else None,
    )
