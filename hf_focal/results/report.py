# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a calibrator does on data that it was not fitted on: measured once, and told in words, tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import check_groups, leave_out_masked
from ..calibrators import Fit
from ..calibrators.confidence import describe
from ..checks import check_logits
from ..metrics import METRICS, BinStatistics, Metric, NoiseFloor, PairedComparison, Scored, measure
from ..metrics.comparison import compare_scored
from ..metrics.noise import appraise, calibrated_band
from ..metrics.promise import Kept, Promise
from ..metrics.scored import ScoredLogits
from ..predictions import Predictions
from .gain import Refinement, gain_cell, refinement_of, words_of_gain
from .headline import CALIBRATED, Standing, changed_answers, headline, standing_of
from .plots.reliability import draw_reliability
from .plots.style import markup_free
from .plots.words import Shown, alt_text
from .tables import cell, text_table, with_interval, with_noise


if TYPE_CHECKING:
    from .plots.picture import Picture


LEVEL = 0.9  # of the intervals
PROPER = ("nll", "brier")  # what decides between models
LEGEND = (
    "true value: what endless data would show, a 90% interval; by chance: what a perfectly calibrated model of the "
    "same confidences would show on as many {unit}, median and 90% range."
)
_MANY = 1 << 22  # probabilities: above, metrics that go through them are not compared


@dataclass(frozen=True)
class Report:
    """
    What a finished run found on its test split.

    Attributes:
        fit ([`Fit`]): The calibrator, fitted on validation data.
        before, after (`dict[str, float]`): Metrics of the plain softmax and of the calibrated one.
        words (`str`): Whether the model was over- or under-confident.
        intervals (`dict[str, dict[str, tuple[float, float]]]`): Under `"before"` and `"after"`, the 90% interval of
            the true value of each metric, see [`confidence_interval`].
        bins (`dict[str, BinStatistics]`): Under the same two, what the reliability diagram shows.
        n_samples, n_bins (`int`): Number of rows measured, and of bins.
        split (`str`): Name of the test split.
        unit (`str`): What was counted, such as `"samples"` or `"tokens"`.
        group (`str`, *optional*): What the intervals take whole, such as `"sentence"`.
        floors (`dict[str, dict[str, NoiseFloor]]`, *optional*): Under `"before"` and `"after"`, the [`noise_floor`] of
            each calibration error.
        changes (`dict[str, PairedComparison]`, *optional*): Of each metric, whether it is better before (A) or after
            (B) on the same rows.
        bands (`dict[str, np.ndarray]`, *optional*): Under `"before"` and `"after"`, the ends of the range of each
            bin's accuracy were the model calibrated, `(2, n_bins)`.
        refinement ([`Refinement`], *optional*): The NLL after the best map known, where that was looked for.
        promise ([`Promise`], *optional*): The threshold on the confidence that was chosen on validation data.
        kept ([`Kept`], *optional*): What that does to these.
        standings (`dict[str, Standing | None]`, *optional*): Under `"before"` and `"after"`, how the confidences stand
            to what comes true; `None` where there are too few samples to tell.
        changed (`float`, *optional*): Share of the samples whose answer is another one after calibration.
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
    floors: dict[str, dict[str, NoiseFloor]] = field(default_factory=dict)
    changes: dict[str, PairedComparison] = field(default_factory=dict)
    bands: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    refinement: Refinement | None = None
    promise: Promise | None = None
    kept: Kept | None = None
    standings: dict[str, Standing | None] = field(default_factory=dict)
    changed: float = 0.0

    @property
    def headline(self) -> str:
        """
        One sentence on what a person wants to know first: how often the model is right where it says so, and whether
        that is calibrated, beyond noise or not. See [`~results.headline.headline`].
        """
        if not self.standings:
            return ""
        data = f"{self.n_samples:,} {self.split} {self.unit if self.n_samples != 1 else self.unit.removesuffix('s')}"
        if self.fit.before == self.before and not self.fit.unchanged:
            data = f"the {data} that it was fitted on"
        about: dict[str, Any] = {"left_alone": self.fit.unchanged, "changed": self.changed, "worse": self.worse}
        return headline(self.standings["before"], self.standings["after"], **about, data=data)

    def rows(self) -> list[tuple[str, str, str]]:
        """
        Of each metric its title, and what it was before and after, with intervals; of accuracy the error. A
        calibration error has a line of its own for its true value, and one for what chance alone would show; the NLL
        one for what the map gained, and one for what the best map known leaves.
        """
        lines: list[tuple[str, str, str]] = []
        for metric in sorted((METRICS[key] for key in self.before), key=lambda metric: metric.rank):
            cells = zip(*(self._cells(metric, moment) for moment in ("before", "after")), strict=True)
            titles = (metric.shown, "- true value", "- by chance")
            lines += [(title, *pair) for title, pair in zip(titles, cells, strict=False) if any(pair)]
            if metric.key == "nll":
                lines += self._gains()
        return lines

    def _gains(self) -> Iterator[tuple[str, str, str]]:
        if (gain := self.nll_gain) is not None:
            yield "- gain", "", gain_cell(gain.difference, gain.low, gain.high)
        if self.refinement is not None:
            yield "- left", "", cell(self.refinement.value, METRICS["nll"].style)

    @property
    def nll_gain(self) -> PairedComparison | None:
        """Of the NLL before (A) and after (B): the difference is what the map gained. `None` of a single sample."""
        return self.changes.get("nll")

    @property
    def gain(self) -> str:
        """A sentence on what the map gained on the NLL, beyond noise or not, and on what is left of it."""
        return words_of_gain(self.fit, self.nll_gain, self.after["nll"], self.refinement) if self.changes else ""

    @property
    def told(self) -> str:
        """All that is to be said in words beside the numbers."""
        return " ".join(filter(None, (self.words, self.gain, self.notes)))

    def _cells(self, metric: Metric, moment: str) -> tuple[str, ...]:
        value = (self.before if moment == "before" else self.after)[metric.key]
        ends = self.intervals[moment].get(metric.key, ())
        floor = self.floors.get(moment, {}).get(metric.key)
        shown = sorted(map(metric.show, ends))
        if floor is None:
            return with_interval(metric.show(value), shown, metric.style), "", ""
        own = with_noise(value, floor.high, metric.style)
        chance = with_interval(floor.median, (floor.low, floor.high), metric.style)
        return own, " to ".join(cell(end, metric.style) for end in shown), chance

    @property
    def map_name(self) -> str:
        """What was fitted, such as `T = 1.7`; that there is none where the probabilities were left alone."""
        calibrator = self.fit.calibrator
        alone = self.fit.unchanged and calibrator.noun != "temperature"  # of which T = 1 says it
        return f"no {calibrator.noun}" if alone else str(calibrator)

    @property
    def notes(self) -> str:
        """One sentence for each metric that is worse after calibration by more than noise."""
        sentences = []
        for key, change in self.changes.items():
            # The largest gap is compared among well-filled bins alone: what is shown may say otherwise.
            if change.verdict == "a_is_better" and (change.difference < 0) == METRICS[key].lower_is_better:
                metric = METRICS[key]
                moments = (metric.show(values[key]) for values in (self.before, self.after))
                before, after = (cell(value, metric.style) for value in moments)
                sentences.append(f"{metric.shown} got worse by more than noise: {after} after, {before} before.")
        return " ".join(sentences)

    @property
    def worse(self) -> bool:
        """Whether a proper score, NLL or Brier, is worse after calibration by more than noise."""
        return any(self.changes[key].verdict == "a_is_better" for key in PROPER if key in self.changes)

    @property
    def promised(self) -> str:
        """One sentence on the threshold, where one was asked for."""
        return "" if self.promise is None else self.promise.words(self.kept, self.split)

    @property
    def legend(self) -> str:
        """What the lines of a calibration error mean; nothing where there are none."""
        return LEGEND.format(unit=self.unit) if any(self.floors.values()) else ""

    def __str__(self) -> str:
        title = self.split if self.unit == "samples" else f"{self.split} {self.unit}"
        head, *lines = text_table((title, "before", "after"), self.rows(), numbers=True).splitlines()
        drawn = f", by {self.group}" if self.group else ""
        head += f"   ({self.map_name}; in brackets: {LEVEL:.0%} intervals{drawn})"
        return "\n".join(filter(None, [head, *lines, fill(self.legend, 88), self.told, self.promised]))

    def diagram(self) -> Picture:
        """The reliability diagram before and after. Its `alt_text` is that of the report."""
        return draw_reliability(self._panels, LEVEL, self._bands, self.unit)

    @property
    def alt_text(self) -> str:
        """What [`Report.diagram`] shows, for somebody who does not see it; it holds no markup."""
        return markup_free(alt_text(self._panels, LEVEL, self._bands, self.unit))

    @property
    def _titles(self) -> dict[str, str]:
        """Of the panels, by the moment."""
        return {"before": "before", "after": f"after ({self.map_name})"}

    @property
    def _panels(self) -> dict[str, Shown]:
        shown = {}
        for moment, bins in self.bins.items():
            standing = self.standings.get(moment)
            verdict = "" if standing is None else standing.verdict()[0]
            known = "" if verdict == CALIBRATED else verdict  # of a picture: within noise
            shown[self._titles[moment]] = Shown(bins, self.floors.get(moment, {}).get("ece"), known)
        return shown

    @property
    def _bands(self) -> dict[str, NDArray[np.float64]]:
        return {self._titles[moment]: band for moment, band in self.bands.items()}


RunReport = Report  # its earlier name


def make_report(
    predictions: Predictions, fit: Fit, *, n_bins: int = 15, unit: str = "samples", group: str | None = None,
    best: Fit | None = None,
    promise: Promise | None = None,
) -> Report:  # fmt: skip
    """
    Measure a model before and after its calibrator: one softmax each, block by block.

    Args:
        predictions ([`Predictions`]):
            Before calibration, of data that neither the model nor the calibrator was fitted on. Where they have
            groups, the intervals draw whole groups.
        fit ([`Fit`]):
            The fitted calibrator.
        n_bins, unit, group, promise (*optional*):
            As of [`Report`].
        best ([`Fit`], *optional*):
            What `fit_calibrator(method="auto")` gives on the data that `fit` was fitted on, for the refinement.
    """
    logits, labels, groups = leave_out_masked(
        logits=predictions.logits, labels=predictions.labels, groups=predictions.groups
    )
    checked = check_logits(logits, labels)
    groups = None if groups is None else check_groups(groups, len(checked[1]))
    scored = {"before": ScoredLogits(*checked), "after": ScoredLogits(*checked, fit.calibrator)}
    values = {moment: measure(one, n_bins) for moment, one in scored.items()}
    found = {moment: appraise(one, n_bins, groups, LEVEL) for moment, one in scored.items()}
    changes = dict(_changes(scored["before"], scored["after"], n_bins, groups))
    standings = {
        moment: standing_of(one, *found[moment], values[moment]["ece"], groups, LEVEL)
        for moment, one in scored.items()
    }
    left = None
    if best is not None and changes:
        seen = Predictions(*checked)
        left = refinement_of(fit.calibrator, scored["after"], best.calibrator, seen, LEVEL, groups)
    return Report(
        fit=fit,
        before=values["before"],
        after=values["after"],
        words=describe(scored["before"], fit, groups),
        intervals={moment: intervals for moment, (intervals, _) in found.items()},
        bins={moment: one.bins(n_bins) for moment, one in scored.items()},
        n_samples=len(checked[1]),
        n_bins=n_bins,
        split=predictions.split,
        unit=unit,
        group=group if groups is not None else None,
        floors={moment: floors for moment, (_, floors) in found.items()},
        changes=changes,
        bands={moment: calibrated_band(one, n_bins, groups, LEVEL) for moment, one in scored.items()},
        refinement=left,
        promise=promise,
        kept=None if promise is None or promise.threshold is None else promise.on(scored["after"]),
        standings=standings,
        changed=changed_answers(checked[0], fit.calibrator),
    )


def _changes(before: Scored, after: Scored, n_bins: int, groups: Any) -> Iterator[tuple[str, PairedComparison]]:
    """Of each metric, which of the two is better; of one sample or one group nothing can be said."""
    if (len(before) if groups is None else len(np.unique(groups))) < 2:
        return
    for key, metric in METRICS.items():
        if not (metric.whole_rows and len(before) * before.num_labels > _MANY):
            yield key, compare_scored(metric, before, after, n_bins, LEVEL, groups)
