# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a calibrator does on data that it was not fitted on: measured once, and told in words, tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import check_groups, leave_out_masked
from ..calibrators import Fit
from ..calibrators.confidence import describe
from ..checks import check_logits, check_outputs
from ..metrics import (
    ALL_METRICS,
    BinStatistics,
    Metric,
    NoiseFloor,
    PairedComparison,
    Scored,
    ScoredOutputs,
    measure,
    metrics_of,
)
from ..metrics.comparison import compare_scored
from ..metrics.noise import appraise, calibrated_band, pooled_floor
from ..metrics.promise import Kept, Promise
from ..metrics.scored import ScoredLogits
from ..predictions import Predictions
from ..progress import progress
from .gain import Refinement, gain_cell, refinement_of, words_of_gain
from .headline import CALIBRATED, Standing, changed_answers, headline, standing_of
from .labels import LabelReport, find_label, label_lines, label_reports, names_of
from .plots.reliability import draw_reliability
from .plots.style import markup_free
from .plots.words import ANSWERS, POOLED, SINGLE, Shown, Terms, alt_text
from .spread import Spread, spread_of
from .tables import WIDTH, cell, fill, text_table, with_interval, with_noise, wrap_titles


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
        spreads (`dict[str, Spread]`, *optional*): Under `"before"` and `"after"`, how far apart the logits of a sample
            are.
        standings (`dict[str, Standing | None]`, *optional*): Under `"before"` and `"after"`, how the confidences stand
            to what comes true; `None` where there are too few samples to tell.
        changed (`float`, *optional*): Share of the samples whose answer is another one after calibration; of a sigmoid
            head of the labels whose answer yes or no is.
        labels (`Sequence[LabelReport]`, *optional*): What was measured of each label of a sigmoid head; `before` and
            `after` hold the means over labels, `bins` all of them in the same bins.
        pooled (`dict[str, NoiseFloor]`, *optional*): Under `"before"` and `"after"`, what chance alone would show of
            the ECE of these bins.
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
    spreads: dict[str, Spread] = field(default_factory=dict)
    standings: dict[str, Standing | None] = field(default_factory=dict)
    changed: float = 0.0
    labels: Sequence[LabelReport] = ()
    pooled: dict[str, NoiseFloor] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """
        One sentence on what a person wants to know first: how often the model is right where it says so, and whether
        that is calibrated, beyond noise or not. See [`~results.headline.headline`].
        """
        if not self.standings:
            return ""
        data = f"{self.n_samples:,} {self.split} {self.unit if self.n_samples != 1 else self.unit.removesuffix('s')}"
        if len(self.labels) > 1:
            data = f"{sum(label.known for label in self.labels):,} labels of {data}"
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
        return [(title, before, after) for title, before, after, _ in self._lines()]

    def _lines(self, narrow: bool = False) -> Iterator[tuple[str, str, str, str]]:
        """These rows, each with whether it is better or worse after; narrow ones have intervals on their own line."""
        words = {"a_is_better": "worse", "b_is_better": "better"}
        for metric in sorted((ALL_METRICS[key] for key in self.before), key=lambda metric: metric.rank):
            cells = zip(*(self._cells(metric, moment, narrow) for moment in ("before", "after")), strict=True)
            if len(self.labels) == 1 and metric.key == "f1_macro":  # which is that of all labels together
                continue
            titles = (metric.shown, "- true value" if metric.key in self.floors.get("after", {}) else "- interval")
            change = self.changes.get(metric.key)
            verdict = words.get(change.verdict, "") if change else ""
            for title, (before, after) in zip((*titles, "- by chance"), cells, strict=False):
                if before or after:
                    yield title, before, after, verdict
                verdict = ""
            if metric.key == "nll":
                yield from self._gains(narrow)

    def _gains(self, narrow: bool) -> Iterator[tuple[str, str, str, str]]:
        if (gain := self.nll_gain) is not None:
            shown = gain_cell(gain.difference, gain.low, gain.high)
            yield "- gain", "", shown.partition(" (")[0] if narrow else shown, ""
        if self.refinement is not None:
            yield "- left", "", cell(self.refinement.value, ALL_METRICS["nll"].style), ""

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

    def _cells(self, metric: Metric, moment: str, narrow: bool = False) -> tuple[str, ...]:
        value = (self.before if moment == "before" else self.after)[metric.key]
        ends = self.intervals[moment].get(metric.key, ())
        floor = self.floors.get(moment, {}).get(metric.key)
        shown = sorted(map(metric.show, ends))
        interval = " to ".join(cell(end, metric.style) for end in shown)
        if floor is None:
            whole = with_interval(metric.show(value), shown, metric.style)
            return (cell(metric.show(value), metric.style), interval, "") if narrow else (whole, "", "")
        own, ends = with_noise(value, floor.high, metric.style), (floor.low, floor.high)
        if narrow:
            return own, interval, " to ".join(cell(end, metric.style) for end in ends)
        return own, interval, with_interval(floor.median, ends, metric.style)

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
            if change.verdict == "a_is_better" and (change.difference < 0) == ALL_METRICS[key].lower_is_better:
                metric = ALL_METRICS[key]
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

    def text(self, width: int = WIDTH) -> str:
        """
        What the end of a run prints: the first sentence, the promise where one was asked for, the table, and what is
        to be said of it, in lines of at most so many columns.
        """
        first = "\n".join(fill(sentence, width) for sentence in (self.headline, self.promised) if sentence)
        table, narrow = self._table(width)
        below = [fill(self._caption(narrow), width), fill(self.told, width)]
        if len(self.labels) > 1:
            by_label, sentence = label_lines(self.labels, width)
            below += [by_label, fill(sentence, width)]
        return "\n\n".join(filter(None, [first, table, *below]))

    def _table(self, width: int) -> tuple[str, bool]:
        """Before and after, and which is better; and whether that was too wide, so that nothing is in brackets."""
        for narrow in (False, True):
            lines = [(self._counted, "before", "after", ""), *self._lines(narrow)]
            if not any(verdict for *_, verdict in lines):
                lines = [line[:3] for line in lines]  # type: ignore[misc]
            header, *rows = wrap_titles(lines, width, least=12 if narrow else 15)
            table = text_table(header, rows, numbers=True)
            if max(map(len, table.splitlines())) <= width:
                break
        return table, narrow

    @property
    def _counted(self) -> str:
        return self.split if self.unit == "samples" else f"{self.split} {self.unit}"

    def _caption(self, narrow: bool) -> str:
        parts = [f"After: {self.map_name}"]
        if any(self.intervals.values()):
            parts.append(f"{'' if narrow else 'in brackets: '}{self._intervals}")
        sentences = [f"{'; '.join(parts)}."]
        if len(self.labels) > 1:
            sentences.append(f"Calibration errors are the mean of those of {len(self.labels)} labels.")
        if self.labels:
            sentences.append("F1: of answers that are yes above 50%.")
        if {change.verdict for change in self.changes.values()} - {"undecided"}:
            sentences.append("Better, worse: by more than noise.")
        if self.legend:
            sentences.append(f"{self.legend[0].upper()}{self.legend[1:]}")
        return " ".join(sentences)

    @property
    def _intervals(self) -> str:
        return f"{LEVEL:.0%} intervals" + (f", by {self.group}" if self.group else "")

    def __str__(self) -> str:
        """The table, and each sentence as one line, whatever its length; [`~Report.text`] is for terminals."""
        head, *lines = text_table((self._counted, "before", "after"), self.rows(), numbers=True).splitlines()
        head += f"   ({self.map_name}; in brackets: {self._intervals})"
        return "\n".join(filter(None, [head, *lines, fill(self.legend, 88), self.told, self.promised]))

    def diagram(self, label: str | int | None = None) -> Picture:
        """
        The reliability diagram before and after. Its `alt_text` is that of the report.

        Args:
            label (`str` or `int`, *optional*):
                Of a sigmoid head: the name or number of a label, to show that one alone. By default all labels are
                counted in the same bins, of how likely a label was said to be.
        """
        if label is None:
            return draw_reliability(self._panels, LEVEL, self._bands, self._counted_in_bins)
        one = find_label(self.labels, label)
        shown = {
            self._titles[moment]: Shown(bins, one.floors.get(moment), terms=SINGLE, of=one.name)
            for moment, bins in one.bins.items()
        }
        return draw_reliability(shown, LEVEL, unit=self.unit)

    @property
    def alt_text(self) -> str:
        """What [`Report.diagram`] shows, for somebody who does not see it; it holds no markup."""
        return markup_free(alt_text(self._panels, LEVEL, self._bands, self._counted_in_bins))

    @property
    def _counted_in_bins(self) -> str:
        return "labels" if len(self.labels) > 1 else self.unit

    @property
    def _terms(self) -> Terms:
        """What its diagram is about."""
        return POOLED if len(self.labels) > 1 else SINGLE if self.labels else ANSWERS

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
            floor = self.pooled.get(moment, self.floors.get(moment, {}).get("ece"))
            shown[self._titles[moment]] = Shown(bins, floor, "" if moment in self.pooled else known, self._terms)
        return shown

    @property
    def _bands(self) -> dict[str, NDArray[np.float64]]:
        return {self._titles[moment]: band for moment, band in self.bands.items()}


RunReport = Report  # its earlier name


def make_report(
    predictions: Predictions, fit: Fit, *, n_bins: int = 15, unit: str = "samples", group: str | None = None,
    best: Fit | None = None,
    promise: Promise | None = None,
    label_names: Sequence[str] | None = None,
) -> Report:  # fmt: skip
    """
    Measure a model before and after its calibrator: one softmax each, block by block, or the sigmoids of its outputs.

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
        label_names (`Sequence[str]`, *optional*):
            Of a sigmoid head, whose predictions have labels of the shape of the logits, what its labels are called; by
            default their numbers.
    """
    logits, labels, groups = leave_out_masked(
        logits=predictions.logits, labels=predictions.labels, groups=predictions.groups
    )
    of_outputs = predictions.is_sigmoid
    checked = check_outputs(logits, labels) if of_outputs else check_logits(logits, labels)
    groups = None if groups is None else check_groups(groups, len(checked[1]))
    kind: type[ScoredOutputs | ScoredLogits] = ScoredOutputs if of_outputs else ScoredLogits
    scored: dict[str, Scored] = {"before": kind(*checked), "after": kind(*checked, fit.calibrator)}
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
    by_label: dict[str, Any] = {}
    outputs = {moment: one for moment, one in scored.items() if isinstance(one, ScoredOutputs)}
    if outputs:
        by_label["labels"] = label_reports(outputs, names_of(checked[0].shape[1], label_names), n_bins)
        if len(by_label["labels"]) > 1:
            by_label["pooled"] = {moment: pooled_floor(one, n_bins, groups, LEVEL) for moment, one in outputs.items()}
            group = group if groups is not None else "sample"
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
        group=group if scored["before"].groups_of_rows(groups) is not None else None,
        floors={moment: floors for moment, (_, floors) in found.items()},
        changes=changes,
        bands={moment: calibrated_band(one, n_bins, groups, LEVEL) for moment, one in scored.items()},
        refinement=left,
        promise=promise,
        kept=None if promise is None or promise.threshold is None else promise.on(scored["after"]),
        spreads={} if of_outputs else {
            "before": spread_of(checked[0]), "after": spread_of(checked[0], fit.calibrator)
        },
        standings=standings,
        changed=changed_answers(checked[0], fit.calibrator, of_outputs),
        **by_label,
    )  # fmt: skip


def _changes(before: Scored, after: Scored, n_bins: int, groups: Any) -> Iterator[tuple[str, PairedComparison]]:
    """Of each metric, which of the two is better; of one sample or one group nothing can be said."""
    belongs = before.groups_of_rows(groups)
    if (len(before) if belongs is None else len(np.unique(belongs))) < 2:
        return
    for key, metric in progress(list(metrics_of(before.head).items()), "before against after"):
        if not (metric.whole_rows and len(before) * before.num_labels > _MANY):
            yield key, compare_scored(metric, before, after, n_bins, LEVEL, groups)
