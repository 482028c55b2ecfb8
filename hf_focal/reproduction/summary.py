# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The first page of a reproduction, and all others beside it: what was run and what not, and which claims hold."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..results.dynamics_file import read_dynamics
from ..results.plots.dynamics import nll_and_entropy_curves, weight_norm_curves
from ..results.tables import cell as number
from ..results.tables import markdown_table
from .claims import PLAIN, judged
from .figures import SURE, figures, left, ratio, sure_answers
from .grid import Table
from .measured import BEST, FAILS, HOLDS, MOMENTS, OPEN, Row, Run, difference, estimate, read_rows_of
from .pages import PAGES, Entry, Page, csv_page, markdown_page, tally
from .paper import SOURCE
from .place import seconds_of
from .progress import duration


if TYPE_CHECKING:
    from ..results.plots.picture import Picture

README, NOTES, CELLS = "README.md", "notes.md", "cells.csv"
FIGURES, RUNS = "figures", "runs"
CURVES = "curves"  # of trainings whose predictions were not kept: a folder each, in it one for each loss
SMOKE = "smoke"  # the grid whose numbers mean nothing
_EARLY = (
    "accelerate launch scripts/run_image.py --config configs/cifar10.yaml --loss flsd-53 --stopping_criteria ece nll "
    "accuracy"
)


def write_pages(results: Path, grids: Mapping[str, Sequence[Table]], pictures: bool = True) -> list[Path]:
    """
    Write all pages, from the runs that are kept in `results/runs` and nothing else.

    Args:
        results (`Path`):
            The folder of the pages. What is written by hand there, `notes.md`, becomes a part of the first page.
        grids (`Mapping[str, Sequence[Table]]`):
            By name, the tables of each grid.
        pictures (`bool`, *optional*, defaults to `True`):
            Draw the figures as well.

    Returns:
        `list[Path]`: The pages.
    """
    rows = [row for name, tables in grids.items() for row in read_rows_of(name, tables, results / RUNS / name)]
    done = [row for row in rows if row.runs]
    written, found = [], {}
    for page in PAGES:
        entries = found[page.name] = page.entries(done)
        written.append(_write(results / f"{page.name}.md", markdown_page(page, entries)))
        written.append(_write(results / f"{page.name}.csv", csv_page(entries)))
    written.append(_write(results / CELLS, _cells(done)))
    drawn = _draw(results / FIGURES, done) if pictures else {}
    written.append(_write(results / README, _readme(results, rows, found, drawn)))
    return written


def _write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = file.with_name(f".{file.name}.{os.getpid()}")
    whole.write_text(text, "utf-8")
    os.replace(whole, file)
    return file


def _draw(folder: Path, rows: Sequence[Row]) -> dict[str, list[str]]:
    """The pictures of each row, as lines of Markdown."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        own = folder / f"{row.preset}-{row.table.name}-{row.model}"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        for name, told, picture in figures(row):
            save_picture(picture, own / f"{name}.png")
            lines.setdefault(row.title, []).append(_shown(told, picture.alt_text, own / f"{name}.png", folder))
    for curves in sorted(folder.with_name(CURVES).glob("*/")):
        runs = read_dynamics(sorted(curves.glob("*/")))
        for name, draw in (("figure1", nll_and_entropy_curves), ("figure2", weight_norm_curves)):
            own = folder / curves.name
            own.mkdir(parents=True, exist_ok=True)
            picture = draw(runs)
            save_picture(picture, own / f"{name}.png")
            shown = _shown(f"Figure {name[-1]}", picture.alt_text, own / f"{name}.png", folder)
            lines.setdefault(f"Curves alone: {curves.name.replace('_', ' ')}", []).append(shown)
    folder.mkdir(parents=True, exist_ok=True)
    of_all = {"figure3a": ("Figure 3 (a): what focal loss does to the gradient", ratio())}
    if (remaining := left(rows)) is not None:
        of_all["which_loss"] = ("What is left of a loss's advantage", remaining)
    for name, (told, drawn) in of_all.items():
        save_picture(drawn, folder / f"{name}.png")
        lines.setdefault("Of all", []).append(_shown(told, drawn.alt_text, folder / f"{name}.png", folder))
    return lines


def save_picture(picture: Picture, file: Path) -> None:
    """In a palette of its own, which takes a third of the space: these files are kept under version control."""
    picture.savefig(file)
    told = PngInfo()
    with Image.open(file) as image:
        for key, text in image.info.items():
            if isinstance(key, str) and isinstance(text, str):
                told.add_itxt(key, text)
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, pnginfo=told, optimize=True)


def _shown(told: str, alt_text: str, file: Path, folder: Path) -> str:
    return f"{told}:\n\n![{alt_text}]({FIGURES}/{file.relative_to(folder).as_posix()})"


def _readme(
    results: Path, rows: Sequence[Row], found: Mapping[str, list[Entry]], drawn: Mapping[str, list[str]]
) -> str:
    done = [row for row in rows if row.runs]
    parts = [
        f"# {SOURCE}, run again",
        "Each number here is made from the predictions in [runs](runs), by "
        "`python scripts/reproduce.py --pages_only`; [cells.csv](cells.csv) has the command, the versions and the "
        "time of each run. A claim *holds*, *does not hold*, or is *undecided* where 90% intervals, or seeds, leave "
        "it open.",
        _pages(found),
        "## Which claims hold",
        *_claims(rows),
        (results / NOTES).read_text("utf-8").strip() if (results / NOTES).is_file() else "",
        "## What is left of a loss's advantage",
        "NLL in nats, before calibration, after the paper's temperature (of least validation ECE), and after the best "
        "map that the validation data choose (`--calibrator auto`, by NLL); in the last column less that of "
        "cross-entropy after its own, with a 90% interval. A model whose mean confidence exceeds its accuracy is "
        "over-confident.",
        *_left(done),
        "## What was run",
        _run(done),
        *_scaled(done),
        "## What was not run",
        *_not_run(rows),
        "## Appendix H: very confident answers",
        _sure(done),
        *_stopped(done),
    ]
    parts += ["## Figures"] * bool(drawn)
    for title, lines in drawn.items():
        parts += [f"### {title}", *lines]
    return "\n\n".join(filter(None, parts)) + "\n"


def _pages(found: Mapping[str, list[Entry]]) -> str:
    by_name: dict[str, Page] = {page.name: page for page in PAGES}
    lines = [
        [
            f"[{by_name[name].title}]({name}.md)",
            f"[{name}.csv]({name}.csv)",
            tally(entries).strip("*") or "no order yet",
        ]
        for name, entries in found.items()
    ]
    return markdown_table(("page", "numbers", "orders against cross-entropy"), lines)


def _claims(rows: Sequence[Row]) -> Iterable[str]:
    for index, (claim, findings) in enumerate(judged(rows), 1):
        counts = Counter(finding.verdict for finding in findings)
        told = ", ".join(f"*{verdict}*: {counts[verdict]}" for verdict in (HOLDS, FAILS, OPEN) if counts[verdict])
        yield f"**{index}. {claim.words}** {told or 'Not run.'}"
        if findings:
            lines = [(finding.row, finding.verdict, finding.numbers) for finding in findings]
            yield markdown_table(("of", "verdict", "numbers"), lines)


def _left(rows: Sequence[Row]) -> Iterable[str]:
    for row in rows:
        if PLAIN not in row.runs or not row.in_paper:
            continue
        lines = []
        for loss, runs in row.runs.items():
            values = [f"{estimate(runs, 'nll', moment).mean:.3f}" for moment in (*MOMENTS, BEST)]
            maps = ", ".join(dict.fromkeys("none" if run.best is None else run.best.method for run in runs))
            gaps = [run.scored("before").confidences.mean() - run.value("accuracy", "before") for run in runs]
            told = "-"
            if loss != PLAIN:
                found = difference(runs, row.runs[PLAIN], "nll", BEST)
                told = f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
            error = f"{100 * estimate(runs, 'accuracy', 'after').mean:.2f}"
            lines.append([loss, error, f"{100 * sum(gaps) / len(gaps):+.1f}", *values, maps, told])
        yield f"**{row.title}**"
        header = ["loss", "error", "confidence less accuracy, points", "NLL before", "after T", "after the best map"]
        yield markdown_table([*header, "which is", "less cross-entropy's"], lines)


def _run(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        runs = [run for of_loss in row.runs.values() for run in of_loss]
        # Of a run that outlived its grid the training alone is known.
        seconds = [seconds_of(run.folder) or float(run.results.get("train_runtime", 0)) for run in runs]
        taken = duration(sum(seconds)) if all(seconds) else "not noted"
        machines = "; ".join(dict.fromkeys(run.facts.get("machine", "not noted") for run in runs))
        lines.append([row.title, row.model, str(len(row.runs)), str(len(runs)), taken, machines, _versions(runs)])
    return markdown_table(("of", "network", "losses", "runs", "time", "on", "with"), lines)


def _versions(runs: Sequence[Run]) -> str:
    known = [run.facts.get("versions", {}) for run in runs]
    names = dict.fromkeys(name for one in known for name in one if name in ("python", "torch", "transformers"))
    return ", ".join(f"{name} {'/'.join(dict.fromkeys(one.get(name, '?') for one in known))}" for name in names) or "-"


def _scaled(rows: Sequence[Row]) -> Iterable[str]:
    for row in rows:
        yield f"- **{row.title}**, scaled down: {row.table.scaled or 'nothing.'}"


def _not_run(rows: Sequence[Row]) -> Iterable[str]:
    for row in rows:
        if not row.waiting or row.preset == SMOKE:
            continue
        cells: dict[int, list[str]] = {}
        for cell in row.waiting:
            cells.setdefault(cell.seed, []).append(cell.loss)
        told = "; ".join(f"seed {seed}: {', '.join(losses)}" for seed, losses in cells.items())
        told = told if row.runs else f"all {len(row.waiting)} cells"
        flags = f"--preset {row.preset} --data_root path/to/data --only {row.table.name}/{row.model}-"
        if row.table.name.endswith("-released"):
            flags = f"--released {flags}"
        yield f"- **Not run**: {row.title}, {row.model}; {told}. `python scripts/reproduce.py {flags}`"
    if not any(row.is_stopped for row in rows):
        yield f"- **Not run**: Appendix J, early stopping by three criteria. `{_EARLY}`"


def _sure(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        for run, moment, one in sure_answers(row):
            right = number(one.accuracy)
            lines.append(
                [row.title, run.cell.loss, str(run.cell.seed), moment, str(one.count), number(one.share), right]
            )
    header = ("of", "loss", "seed", "moment", f"answers of confidence {SURE:g} and more", "share", "of these right")
    return markdown_table(header, lines)


def _stopped(rows: Sequence[Row]) -> Iterable[str]:
    """Appendix J: the models that three criteria of the validation data would have stopped at."""
    lines = []
    for row in rows:
        for run in (run for of_loss in row.runs.values() for run in of_loss):
            for criterion, one in run.stopped.items():
                told = [f"{100 * (1 - one['test_before_accuracy']):.2f}"]
                told += [f"{100 * one[f'test_{moment}_ece']:.2f}" for moment in MOMENTS]
                place = [row.title, run.cell.loss, str(run.cell.seed), criterion, f"{one['epoch']:g}"]
                lines.append([*place, f"{one['temperature']:.1f}", *told])
    if lines:
        yield "## Appendix J: early stopping"
        yield "The best model by each metric of the validation data, and the last one; test data, in percent."
        header = ("of", "loss", "seed", "stopped by", "epoch", "T", "error", "ECE before", "ECE after")
        yield markdown_table(header, lines)


def _cells(rows: Sequence[Row]) -> str:
    """A line for each run: what was started, with what, for how long."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("cell", "command", "started", "seconds", "machine", "versions", "commit"))
    for row in rows:
        for run in (run for of_loss in row.runs.values() for run in of_loss):
            facts = run.facts
            starts = facts.get("starts", [])
            command = " && ".join(dict.fromkeys(_line(start["command"]) for start in starts))
            versions = " ".join(f"{name}={value}" for name, value in facts.get("versions", {}).items())
            first = starts[0]["started"] if starts else ""
            line = [f"{row.preset}/{run.cell.name}", command, first, round(seconds_of(run.folder), 1) or ""]
            writer.writerow([*line, facts.get("machine", ""), versions, facts.get("commit", "")])
    return text.getvalue()


def _line(command: Sequence[str]) -> str:
    return " ".join(word if word and not {*word} & {*" {}\"'"} else repr(word) for word in command)
