# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Train the grid of runs behind the paper's tables and figures, and write pages that set ours beside the paper's, with
intervals and a verdict for each claim. Started in the checkout (or as scripts/reproduce.py):

  hf-focal reproduce --preset smoke
  hf-focal reproduce --preset cpu --data_root path/to/data --dry_run
  hf-focal reproduce --preset cpu --data_root path/to/data --jobs 2
  hf-focal reproduce --preset gpu --data_root path/to/data --only sst

Each cell of a grid (data set, model, loss, seed; configs/grid/*.yaml) is one run of run_image.py or run_text.py in a
process of its own. Finished ones are skipped, and those that were stopped go on from their last checkpoint: whatever
ends this command, start it again; several of them may work on one grid. `results` holds the pages and the small files
of finished cells, and what is there is not trained anew.
"""

if __name__ == "__main__":  # before the imports: they take seconds, and --help needs none of them
    from hf_focal.cli.commands import start

    start("reproduce")


import argparse
import os
import signal
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..checks import check_count
from ..names import suggestion
from ..reproduction.grid import Cell, Table, missing_places, read_grid
from ..reproduction.place import Place, check_cell, expected_seconds, how_to_go_on
from ..reproduction.progress import Progress, duration
from ..reproduction.runner import run_cells
from ..reproduction.summary import write_pages
from ..results.folder import check_folder
from ..results.tables import text_table
from .run import start_logging
from .script import Parser


PRESETS = Path("configs", "grid")
SCRIPT = Path("scripts", "reproduce.py")


def main() -> None:
    """What the command does."""
    options = _options()
    start_logging()
    check_count("jobs", options.jobs)
    if options.data_root is not None:
        options.data_root = options.data_root.expanduser().absolute()
    tables = _tables(options)
    output = options.output_dir or Path("outputs", "grid", options.grid.stem if options.grid else options.preset)
    kept = options.results_dir / "runs" / (options.grid.stem if options.grid else options.preset)
    for folder, flag in ((output, "--output_dir"), (options.results_dir, "--results_dir")):
        check_folder(folder, flag)
    place = Place(output, kept, options.data_root)
    cells = [cell for table in tables for cell in table.cells]
    for cell in cells:
        check_cell(cell, place.kept / cell.name)
        check_cell(cell, place.home(cell))
    if options.dry_run:
        print(_plan(cells, place, options.jobs))
        return
    failed = 0
    if not options.pages_only:
        failed = _run(cells, place, options.jobs)
    _write_pages(options)
    sys.exit(1 if failed else 0)


def _options() -> Any:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--preset", choices=("smoke", "cpu", "gpu"), default="smoke", help="Which grid. Unset: smoke.")
    which.add_argument("--grid", type=Path, help="A grid of yours: a YAML file like those of the presets.")
    parser.add_argument("--data_root", type=Path, help="The folder that holds the data sets. Unset: from the Hub.")
    parser.add_argument("--only", nargs="+", help="Parts of names of cells, such as sst or cifar10/*flsd-53*.")
    parser.add_argument("--jobs", type=int, default=1, help="So many cells at a time.")
    parser.add_argument("--released", action="store_true", help="Seeds and schedules of the published code (gpu).")
    parser.add_argument("--dry_run", action="store_true", help="Say what would be run, and how long it would take.")
    parser.add_argument("--pages_only", action="store_true", help="Write the pages from what is there; train nothing.")
    parser.add_argument("--output_dir", type=Path, help="Where cells are run. Unset: outputs/grid/<preset>.")
    parser.add_argument("--results_dir", type=Path, default=Path("results"), help="Where pages go, and small files.")
    return parser.parse_args()


def _tables(options: Any) -> list[Table]:
    """The tables of the grid, with the cells that are asked for."""
    if not SCRIPT.is_file():
        raise ValueError(f"{SCRIPT} is not here: start this in the checkout, whose scripts it runs.")
    tables = read_grid(options.grid or PRESETS / f"{options.preset}.yaml", options.data_root, options.released)
    if not tables:
        raise ValueError("--released: no table of this grid says what the published code has otherwise.")
    if options.only is None:
        return tables
    names = [cell.name for table in tables for cell in table.cells]
    for part in options.only:
        if not any(_matches(name, part) for name in names):
            near = suggestion(part, {*names, *(table.name for table in tables)})
            raise ValueError(f"--only {part}: no cell of the grid has a name like this.{near}")
    return [
        Table(table.name, [cell for cell in table.cells if any(_matches(cell.name, part) for part in options.only)])
        for table in tables
    ]


def _matches(name: str, part: str) -> bool:
    return fnmatchcase(name, f"*{part}*")


def _plan(cells: Sequence[Cell], place: Place, jobs: int) -> str:
    """All cells, what is left to be done for each, and how long that takes."""
    expected, rows, left = expected_seconds(cells, place), [], list[float | None]()
    for cell in cells:
        if place.is_finished(cell) or place.is_run(cell):
            rows.append([cell.name, "finished", ""])
            continue
        seconds = expected[cell.name]
        left.append(seconds)
        state = "goes on" if "--resume_from_checkpoint" in how_to_go_on(place.home(cell)) else "to be run"
        rows.append([cell.name, state, "unknown" if seconds is None else duration(seconds)])
    known = [one for one in left if one is not None]
    told = f"{len(cells)} cells, {len(left)} of them to be run"
    if known:
        told += f": about {duration(sum(known) / jobs)}"
        told += f" with --jobs {jobs}, of which each has its share of the cores" if jobs > 1 else ""
    if unknown := len(left) - len(known):
        told += f"{', and' if known else ':'} {unknown} of which no step was measured"
    missing = missing_places([cell for cell in cells if not place.is_finished(cell)])
    told += f".\nNot there: {', '.join(missing)}." if missing else "."
    return f"{text_table(('cell', 'state', 'takes'), rows)}\n\n{told}"


def _run(cells: Sequence[Cell], place: Place, jobs: int) -> int:
    """Run what is left; how many failed."""
    left = [cell for cell in cells if not place.is_finished(cell)]
    if not left:
        print(f"All {len(cells)} cells are finished.")
        return 0
    if missing := missing_places(left):
        ways = "Give --data_root with the folder that holds them, or --only with the tables whose data you have"
        raise ValueError(f"These data are not there: {', '.join(missing)}. {ways}.")
    threads = max(1, (os.cpu_count() or 1) // jobs)
    progress = Progress(cells, place, expected_seconds(cells, place), jobs)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as the keyboard does
    try:
        failed = run_cells(left, place, jobs, threads, progress)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("The same command goes on where this one stopped.") from stop
    finally:
        progress.close()
    if failed:
        print(f"{len(failed)} cells failed: {', '.join(job.cell.name for job in failed)}.")
    return len(failed)


def _write_pages(options: Any) -> None:
    """Of all presets, and a grid of the user's, whose runs are there."""
    files = {file.stem: file for file in sorted(PRESETS.glob("*.yaml"))}
    if options.grid is not None:
        files[options.grid.stem] = options.grid
    grids = {
        name: [*read_grid(file, "path/to/data"), *read_grid(file, "path/to/data", True)]
        for name, file in files.items()
    }
    pages = write_pages(options.results_dir, grids)
    print(f"\nPages: {', '.join(str(page) for page in pages if page.suffix == '.md')}")
