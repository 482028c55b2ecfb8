# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The claims that the paper makes in words, and whether each holds for what was run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .measured import (
    FAILS,
    HOLDS,
    MOMENTS,
    OPEN,
    Difference,
    Row,
    Run,
    auroc_difference,
    auroc_estimate,
    difference,
    estimate,
)  # fmt: skip


PLAIN, FOCAL, SAMPLED = "cross_entropy", "focal-3", "flsd-53"
_COST = 3.4  # points of error: the largest cost over cross-entropy in the paper's Table 2
_NEAR_ONE = (0.9, 1.1)


@dataclass(frozen=True)
class Finding:
    """Whether a claim holds for one row, and the numbers that say so."""

    row: str
    verdict: str
    numbers: str


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and how it is judged for a row."""

    words: str
    judge: Callable[[Row], Iterator[Finding]]


def judged(rows: Sequence[Row]) -> list[tuple[Claim, list[Finding]]]:
    """Each claim with what was found of it in rows that the paper has, which may be nothing."""
    of_paper = [row for row in rows if row.in_paper]
    return [(claim, [finding for row in of_paper for finding in claim.judge(row)]) for claim in CLAIMS]


def _of_all(verdicts: Iterable[str]) -> str:
    """Of a claim of several parts: it holds if all do, and does not if one does not."""
    found = list(verdicts)
    return FAILS if FAILS in found else HOLDS if set(found) == {HOLDS} else OPEN


def _of_seeds(facts: Sequence[bool]) -> str:
    """Of what is true or not of each seed, without an interval."""
    return HOLDS if all(facts) else OPEN if any(facts) else FAILS


def _at(run: Run, key: str, epoch: float) -> float:
    (value,) = [row[key] for row in run.dynamics if row["split"] == "test" and row["epoch"] == epoch]
    return float("nan") if value is None else float(value)


def _epochs(run: Run) -> list[float]:
    return sorted(row["epoch"] for row in run.dynamics if row["split"] == "test" and row["epoch"] > 0)


def _late_training(row: Row) -> Iterator[Finding]:
    """From the epoch on in which cross-entropy's test NLL is least."""
    plain = [run for run in row.runs.get(PLAIN, []) if run.dynamics]
    for loss in (FOCAL, SAMPLED):
        focal = {run.cell.seed: run for run in row.runs.get(loss, []) if run.dynamics}
        facts, told = [], []
        for run in plain:
            if (other := focal.get(run.cell.seed)) is None:
                continue
            epochs = _epochs(run)
            start, end = min(epochs, key=lambda epoch: _at(run, "nll", epoch)), epochs[-1]
            if start == end:
                told.append(f"cross_entropy's NLL is least in the last epoch, {end:g}: it has not yet risen")
                facts += [True, False]  # the training is too short to tell
                continue

            def rise(one: Run, key: str, start: float = start, end: float = end) -> float:
                return _at(one, key, end) - _at(one, key, start)

            wrong, right, entropy, ece = (rise(run, key) for key in ("nll_incorrect", "nll_correct", "entropy", "ece"))
            milder = rise(other, "nll_incorrect")
            facts.append(wrong > 0 >= right and entropy < 0 < ece and milder < wrong)
            told.append(
                f"epochs {start:g} to {end:g}: NLL of wrong answers {wrong:+.2f}, of right ones {right:+.2f}, entropy "
                f"{entropy:+.2f}, ECE {100 * ece:+.1f} points; {loss}: NLL of wrong answers {milder:+.2f}"
            )
        if facts:
            yield Finding(row.title, _of_seeds(facts), "; ".join(told))


def _norms(row: Row) -> Iterator[Finding]:
    plain = {run.cell.seed: run for run in row.runs.get(PLAIN, []) if run.dynamics}
    for loss in (FOCAL, SAMPLED):
        facts, told = [], []
        for run in row.runs.get(loss, []):
            if not run.dynamics or (other := plain.get(run.cell.seed)) is None:
                continue
            first, last = _epochs(run)[0], _epochs(run)[-1]
            pairs = [(_at(run, "weight_norm", epoch), _at(other, "weight_norm", epoch)) for epoch in (first, last)]
            facts.append(pairs[0][0] > pairs[0][1] and pairs[1][0] < pairs[1][1])
            told.append(" then ".join(f"{ours:.2f} against {theirs:.2f}" for ours, theirs in pairs))
        if facts:
            yield Finding(row.title, _of_seeds(facts), f"{loss}: {'; '.join(told)}")


def _larger_gamma(row: Row) -> Iterator[Finding]:
    losses = [f"focal-{gamma}" for gamma in (1, 2, 3)]
    if not all(loss in row.runs for loss in losses):
        return
    steps = [difference(row.runs[b], row.runs[a], "ece", "before") for a, b in zip(losses, losses[1:], strict=False)]
    means = [estimate(row.runs[loss], "ece", "before").mean for loss in losses]
    told = ", ".join(f"gamma {gamma} {100 * mean:.2f}" for gamma, mean in zip((1, 2, 3), means, strict=True))
    verdicts = [step.verdict() for step in steps]
    yield Finding(
        row.title, _of_all(verdicts), f"ECE before scaling: {told}; 2 below 1: {verdicts[0]}, 3 below 2: {verdicts[1]}"
    )


def _temperatures(row: Row) -> Iterator[Finding]:
    if SAMPLED not in row.runs:
        return
    low, high = _NEAR_ONE
    near = [low <= (run.temperature or float("nan")) <= high for run in row.runs[SAMPLED]]
    told = [f"{loss} {_seeds(row, loss)}" for loss in (SAMPLED, FOCAL, PLAIN, "mmce") if loss in row.runs]
    yield Finding(row.title, _of_seeds(near), "T: " + ", ".join(told))


def _seeds(row: Row, loss: str) -> str:
    return " and ".join(f"{run.temperature:.1f}" for run in row.runs[loss] if run.temperature is not None)


def _accuracy(row: Row) -> Iterator[Finding]:
    if PLAIN not in row.runs:
        return
    verdicts, told = [], []
    for loss, runs in row.runs.items():
        if loss != PLAIN:
            found = difference(runs, row.runs[PLAIN], "accuracy", "after")
            verdicts.append(_within(found))
            told.append(f"{loss} {_points(found)}")
    if told:
        yield Finding(row.title, _of_all(verdicts), "error less that of cross_entropy, in points: " + ", ".join(told))


def _within(found: Difference) -> str:
    """Whether an error differs by no more than the largest cost of the paper."""
    if -_COST <= 100 * found.low and 100 * found.high <= _COST:
        return HOLDS
    return FAILS if 100 * found.low > _COST or 100 * found.high < -_COST else OPEN


def _points(found: Difference) -> str:
    return f"{100 * found.mean:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"


def _unfamiliar(row: Row) -> Iterator[Finding]:
    runs = {loss: found for loss, found in row.runs.items() if all(run.entropies for run in found)}
    focal = [loss for loss in (FOCAL, SAMPLED) if loss in runs]
    if PLAIN not in runs or not focal:
        return
    for title in unfamiliar_data(runs):
        for moment in MOMENTS:
            means = {loss: auroc_estimate(found, title, moment).mean for loss, found in runs.items()}
            better = max(focal, key=means.__getitem__)
            above = [auroc_difference(runs[loss], runs[PLAIN], title, moment).verdict(False) for loss in focal]
            best = [
                auroc_difference(runs[better], found, title, moment).verdict(False)
                for loss, found in runs.items()
                if loss not in focal
            ]
            told = ", ".join(f"{loss} {100 * mean:.1f}" for loss, mean in means.items())
            yield Finding(
                f"{row.title}, {title}, {moment}", _of_all([*above, *best]),
                f"{told}; focal above cross_entropy: {_of_all(above)}; {better} best of all: {_of_all(best)}",
            )  # fmt: skip


def unfamiliar_data(runs: dict[str, list[Run]]) -> list[str]:
    """The other data that all of some runs were measured on."""
    found: list[Any] = [run.entropies.get("before", {}) for of_loss in runs.values() for run in of_loss]
    return sorted(set.intersection(*map(set, found)) - {"familiar"}) if found else []


def _early_stopping(row: Row) -> Iterator[Finding]:
    """Before scaling, as the paper; of models that stopped their numbers alone are kept: there are no intervals."""
    plain = {run.cell.seed: run for run in row.runs.get(PLAIN, []) if run.stopped}
    for loss in (FOCAL, SAMPLED):
        runs = [run for run in row.runs.get(loss, []) if run.stopped and run.cell.seed in plain]
        for criterion in [key for key in runs[0].stopped if key != "last"] if runs else ():
            facts, told = [], []
            for run in runs:
                error, ece = _when_stopped(run, criterion)
                other_error, other_ece = _when_stopped(plain[run.cell.seed], criterion)
                facts.append(error < other_error and ece < other_ece)
                told.append(f"error {error:.2f} against {other_error:.2f}, ECE {ece:.2f} against {other_ece:.2f}")
            yield Finding(f"{row.title}, {loss}, best {criterion}", _of_seeds(facts), "; ".join(told))


def _when_stopped(run: Run, criterion: str) -> tuple[float, float]:
    """Error and ECE on the test data, in percent."""
    numbers = run.stopped[criterion]
    return 100 * (1 - numbers["test_before_accuracy"]), 100 * numbers["test_before_ece"]


CLAIMS = (
    Claim(
        "Late in training cross-entropy's test NLL rises through wrong answers alone, its entropy falls and its ECE "
        "rises; focal loss does so far less.", _late_training,
    ),
    Claim("The norm of the last layer starts higher with focal loss, and ends lower.", _norms),
    Claim("Focal loss of gamma 3 is better calibrated than that of 2, and that of 2 than that of 1.", _larger_gamma),
    Claim("The best temperature of FLSD-53 lies mostly between 0.9 and 1.1.", _temperatures),
    Claim(
        f"Errors are in the same range for all losses (the largest cost in the paper's Table 2 is {_COST} points).",
        _accuracy,
    ),
    Claim(
        "On unfamiliar data both focal losses have a higher AUROC than cross-entropy, and the better of them has the "
        "highest of all.", _unfamiliar,
    ),
    Claim("Whatever stops training early, focal loss beats cross-entropy in error and in ECE.", _early_stopping),
)  # fmt: skip
