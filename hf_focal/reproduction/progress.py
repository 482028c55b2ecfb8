# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What is shown of a grid while it runs: its events, a bar over all of it, and the time that is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tqdm import tqdm

from .grid import Cell
from .place import Place
from .runner import Job


class Progress:
    """
    One line for each event, and below them, in a terminal, a bar over the whole grid.

    Args:
        cells (`Sequence[Cell]`): All of the grid.
        place ([`Place`]): Where they are.
        expected (`Mapping[str, float | None]`): By name, the seconds that each takes, as far as they are known.
        jobs (`int`): So many run at a time.
    """

    def __init__(self, cells: Sequence[Cell], place: Place, expected: Mapping[str, float | None], jobs: int) -> None:
        self._cells, self._place, self._jobs = cells, place, jobs
        known = [one for one in expected.values() if one]
        usual = sum(known) / len(known) if known else 60.0
        self._expected = {name: one or usual for name, one in expected.items()}
        self._guessed = len(known) < len(expected)
        total, shape = max(1.0, sum(self._expected.values())), "{desc} {percentage:3.0f}%|{bar}|"
        self._bar = tqdm(desc=f"{len(cells)} cells", total=total, bar_format=shape, disable=None)

    def __call__(self, running: Sequence[Job], event: Job | None) -> None:
        """Show what runs, and a job that has begun or ended."""
        waiting = [cell for cell in self._cells if not self._place.is_finished(cell)]
        left = sum(self._expected[cell.name] for cell in waiting)
        for job in running:
            left -= min(job.seconds, 0.95 * self._expected[job.cell.name])
        done = len(self._cells) - len(waiting)
        if event is not None:
            tqdm.write(f"{self._told(event)} {self._tally(done, left)}")
        self._bar.set_description_str(f"{done} of {len(self._cells)} cells, {self._time(left)} left", refresh=False)
        self._bar.n = self._bar.total - left
        self._bar.refresh()

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.close()

    def _told(self, job: Job) -> str:
        if job.code is None:
            return f"{job.cell.name} {'goes on from its checkpoint' if job.resumes else 'begins'}."
        if job.code == 0:
            return f"{job.cell.name} is finished, after {duration(job.seconds)}."
        return f"{job.cell.name} FAILED: {job.last_line} (all of it: {job.log})"

    def _tally(self, done: int, left: float) -> str:
        of_all = f"{done} of {len(self._cells)} cells finished"
        return f"({of_all}, {self._time(left)} left)" if done < len(self._cells) else f"({of_all})"

    def _time(self, left: float) -> str:
        return f"{'perhaps' if self._guessed else 'about'} {duration(left / self._jobs)}"


def duration(seconds: float) -> str:
    """Seconds as people say them: `40 s`, `3 min`, `1 h 20 min`."""
    if seconds < 59.5:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{minutes} min"
