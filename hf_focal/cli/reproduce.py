# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Train the grid of runs behind the paper's tables and figures, and write the pages that set ours beside the paper's.

    python scripts/reproduce.py --preset smoke
    python scripts/reproduce.py --preset cpu --data_root path/to/data --jobs 2
"""

import argparse
import time
from pathlib import Path

from ..reproduction.grid import read_grid
from ..reproduction.runner import is_finished, take
from .script import Parser


PRESETS = ("smoke", "cpu", "gpu")


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="smoke")
    parser.add_argument("--data_root", type=Path)
    parser.add_argument("--output_dir", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    folder = options.output_dir or Path("outputs/grid", options.preset)
    tables = read_grid(Path("configs/grid", f"{options.preset}.yaml"), options.data_root)
    todo = [cell for table in tables for cell in table.cells]
    running = []
    while todo or running:
        for job in [job for job in running if job.poll()]:
            running.remove(job)
            print(f"{time.strftime('%H:%M:%S')} {job.cell.name}: {job.code} {job.last_line if job.code else ''}", flush=True)
        todo = [cell for cell in todo if not is_finished(cell, folder)]
        for cell in list(todo):
            if len(running) < options.jobs:
                todo.remove(cell)
                if (job := take(cell, folder, 1)) is not None:
                    print(f"{time.strftime('%H:%M:%S')} {cell.name} started", flush=True)
                    running.append(job)
        time.sleep(1)
