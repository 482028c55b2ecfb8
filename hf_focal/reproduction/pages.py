# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Pages on a grid: each of the paper's tables with our numbers beside it, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..metrics import METRICS
from ..results.tables import markdown_table
from .claims import PLAIN, unfamiliar_data
from .measured import (
    FAILS,
    HOLDS,
    MOMENTS,
    OPEN,
    Difference,
    Estimate,
    Row,
    auroc_difference,
    auroc_estimate,
    difference,
    estimate,
)  # fmt: skip
from .paper import SOURCE, paper_auroc, paper_value


PROPER = ("nll", "brier")
AUROC = "auroc"
LEGEND = (
    "Ours is the mean over seeds; in square brackets the least and the most of them, where there are several; in "
    "round ones a 90% interval of the test data, for several seeds from the lowest end of theirs to the highest. An "
    "order *holds* if in every pair of seeds the 90% interval of the difference, on the same test samples, lies on "
    "the paper's side of 0; it *does not hold* if all lie on the other side, and else is *undecided*."
)
# What tables of the paper are called that have other data than ours.
_PAPERS_NAMES = {"svhn_cropped": "SVHN", "gaussian_noise 5": "CIFAR-10-C"}


@dataclass(frozen=True)
class Entry:
    """One number of a table: ours and the paper's, and how it stands to that of cross-entropy."""

    row: Row
    loss: str
    key: str
    moment: str
    ours: Estimate
    paper: float | None = None
    data: str = ""  # unfamiliar ones
    claim: str = ""  # "lower" or "higher" than cross-entropy, as the paper has it
    against: Difference | None = None

    @property
    def verdict(self) -> str:
        """Whether the paper's order holds; nothing where it has none."""
        if self.against is None or not self.claim:
            return ""
        return self.against.verdict(self.claim == "lower")


@dataclass(frozen=True)
class Page:
    """A table of the paper: its file, title and columns."""

    name: str
    title: str
    words: str
    columns: tuple[tuple[str, str], ...]
    # Whether focal losses are claimed to be lower than cross-entropy; else the paper's own figures say.
    lower: bool = False

    def entries(self, rows: Sequence[Row]) -> list[Entry]:
        """All numbers."""
        return [entry for row in rows for entry in self._of_row(row)]

    def _of_row(self, row: Row) -> Iterator[Entry]:
        for loss, runs in row.runs.items():
            for key, moment in self.columns:
                paper = paper_value(row.name, loss, key, moment)
                against, claim = None, ""
                if key != "temperature" and loss != PLAIN and PLAIN in row.runs:
                    against = difference(runs, row.runs[PLAIN], key, moment)
                    claim = _order(paper, paper_value(row.name, PLAIN, key, moment))
                    text = self.lower or (key == "ece" and not row.in_paper)
                    claim = claim or ("lower" if text and _is_focal(loss) else "")
                yield Entry(row, loss, key, moment, estimate(runs, key, moment), paper, "", claim, against)


@dataclass(frozen=True)
class OodPage(Page):
    """Table 3."""

    def _of_row(self, row: Row) -> Iterator[Entry]:
        runs = {loss: found for loss, found in row.runs.items() if all(run.entropies for run in found)}
        for title in unfamiliar_data(runs):
            for loss, found in runs.items():
                for moment in MOMENTS:
                    paper, plain = (
                        paper_auroc(row.name, _PAPERS_NAMES.get(title, ""), one, moment) for one in (loss, PLAIN)
                    )
                    against, claim = None, ""
                    if loss != PLAIN and PLAIN in runs:
                        against = auroc_difference(found, runs[PLAIN], title, moment)
                        claim = _order(paper, plain) or ("higher" if _is_focal(loss) else "")
                    ours = auroc_estimate(found, title, moment)
                    yield Entry(row, loss, AUROC, moment, ours, paper, title, claim, against)


def _is_focal(loss: str) -> bool:
    return loss.startswith(("focal", "fls"))


def _order(ours: float | None, plain: float | None) -> str:
    if ours is None or plain is None or ours == plain:
        return ""
    return "lower" if ours < plain else "higher"


_BOTH = ("before", "after")
PAGES = (
    Page(
        "table1", "Table 1: temperature and ECE",
        "ECE in percent, 15 bins, and the temperature of least validation ECE.",
        (("temperature", "after"), ("ece", "before"), ("ece", "after")),
    ),
    Page("table2", "Table 2: error", "Test error in percent.", (("accuracy", "after"),)),
    OodPage(
        "table3", "Table 3: unfamiliar data",
        "AUROC in percent of the entropy of the softmax, unfamiliar samples as positives. Where the paper has no such "
        "data, the order is that of its text: focal losses above cross-entropy.", (),
    ),
    *(
        Page(
            f"table_f_{key}", f"Appendix F: {METRICS[key].title}",
            f"{METRICS[key].title}, {'in nats' if key == 'nll' else 'in percent'}. The order that is judged is that "
            "of the paper's text: focal losses below cross-entropy.",
            ((key, "before"), (key, "after")), True,
        )
        for key in ("adaptive_ece", "classwise_ece", "mce", "nll")
    ),
)  # fmt: skip


def markdown_page(page: Page, entries: Sequence[Entry]) -> str:
    """A page, row by row of the paper."""
    parts = [f"# {page.title}", f"{page.words} The paper is {SOURCE}. {LEGEND}", tally(entries)]
    rows = list(dict.fromkeys(entry.row.title for entry in entries))
    for title in rows:
        own = [entry for entry in entries if entry.row.title == title]
        parts += [f"## {title}", own[0].row.table.scaled]
        for data in dict.fromkeys(entry.data for entry in own):
            chosen = [entry for entry in own if entry.data == data]
            parts += [f"### {data}"] * bool(data) + [_numbers(chosen)]
            parts += [_orders(chosen)] * any(entry.against is not None for entry in chosen)
    if not rows:
        parts.append("Nothing of it was run yet; [README.md](README.md) has the commands.")
    return "\n\n".join(filter(None, parts)) + "\n"


def tally(entries: Sequence[Entry]) -> str:
    """How many of the orders hold, in rows that the paper has."""
    found = Counter(entry.verdict for entry in entries if entry.verdict and entry.row.in_paper)
    if not found:
        return ""
    told = f"{found[HOLDS]} hold, {found[FAILS]} do not, {found[OPEN]} are undecided"
    return f"**Of {found.total()} orders against cross-entropy {told}.**"


def _numbers(entries: Sequence[Entry]) -> str:
    columns = list(dict.fromkeys((entry.key, entry.moment) for entry in entries))
    with_paper = any(entry.paper is not None for entry in entries)
    header = ["loss", "seeds"]
    for key, moment in columns:
        header += [_title(key, moment)] + ["paper"] * with_paper
    cells = {(entry.loss, entry.key, entry.moment): entry for entry in entries}
    lines = []
    for loss in dict.fromkeys(entry.loss for entry in entries):
        found = [cells[loss, key, moment] for key, moment in columns]
        line = [loss, str(found[0].ours.seeds)]
        for entry in found:
            line += [_cell(entry)] + ["-" if entry.paper is None else f"{entry.paper:g}"] * with_paper
        lines.append(line)
    return markdown_table(header, lines)


def _title(key: str, moment: str) -> str:
    if key == "temperature":
        return "T"
    if key == "accuracy":
        return "error"
    return f"{'AUROC' if key == AUROC else METRICS[key].title} {moment}"


def _cell(entry: Entry) -> str:
    ours, scale, digits = entry.ours, *_unit(entry.key)
    told = f"{scale * ours.mean:.{digits}f}"
    if ours.seeds > 1:
        told += f" [{scale * ours.lowest:.{digits}f} to {scale * ours.highest:.{digits}f}]"
    if ours.low is not None and ours.high is not None:
        told += f" ({scale * ours.low:.{digits}f} to {scale * ours.high:.{digits}f})"
    return told


def _unit(key: str) -> tuple[float, int]:
    """What a fraction is multiplied with, and the decimals that are shown."""
    return {"temperature": (1.0, 1), "nll": (1.0, 3)}.get(key, (100.0, 2))


def _orders(entries: Sequence[Entry]) -> str:
    """Each loss against cross-entropy: the difference, and the verdict on the paper's order, also by proper scores."""
    proper = entries[0].key not in ("accuracy", AUROC, "nll")
    header = ["against cross-entropy", "", "paper", "difference", "verdict"]
    for key in PROPER if proper else ():
        header += [f"{METRICS[key].title} difference", f"by {METRICS[key].title}"]
    lines = []
    for entry in entries:
        if entry.against is None:
            continue
        moment = "" if entry.key == "accuracy" else entry.moment
        line = [entry.loss, moment, entry.claim or "-", _change(entry.against, entry.key), entry.verdict or "-"]
        for key in PROPER if proper else ():
            found = difference(entry.row.runs[entry.loss], entry.row.runs[PLAIN], key, entry.moment)
            line += [_change(found, "nll"), found.verdict(entry.claim == "lower") if entry.claim else "-"]
        lines.append(line)
    return markdown_table(header, lines)


def _change(found: Difference, key: str) -> str:
    scale, digits = _unit(key)
    mean, low, high = (f"{scale * one:+.{digits}f}" for one in (found.mean, found.low, found.high))
    return f"{mean} ({low} to {high})"


_FIELDS = (
    *("preset", "dataset", "model", "loss", "seeds", "unfamiliar_data", "metric", "moment", "unit", "ours"),
    *("lowest_seed", "highest_seed", "interval_low", "interval_high", "paper", "paper_against_cross_entropy"),
    *("difference", "difference_low", "difference_high", "verdict"),
)


def csv_page(entries: Sequence[Entry]) -> str:
    """The same numbers, one a line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _FIELDS, lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        scale, _ = _unit(entry.key)
        unit = {"temperature": "", "nll": "nats"}.get(entry.key, "percent")
        dataset, _, model = entry.row.name.partition(", ")
        line: dict[str, Any] = {"preset": entry.row.preset, "dataset": dataset, "model": entry.row.model or model}
        line |= {"loss": entry.loss, "seeds": entry.ours.seeds, "unfamiliar_data": entry.data, "unit": unit}
        line |= {"metric": "error" if entry.key == "accuracy" else entry.key, "moment": entry.moment}
        numbers = {
            "ours": entry.ours.mean, "lowest_seed": entry.ours.lowest, "highest_seed": entry.ours.highest,
            "interval_low": entry.ours.low, "interval_high": entry.ours.high,
        }  # fmt: skip
        if (found := entry.against) is not None:
            numbers |= {"difference": found.mean, "difference_low": found.low, "difference_high": found.high}
        line |= {key: "" if value is None else round(scale * value, 6) for key, value in numbers.items()}
        line |= {"paper": "" if entry.paper is None else entry.paper, "verdict": entry.verdict}
        writer.writerow({**line, "paper_against_cross_entropy": entry.claim})
    return text.getvalue()
