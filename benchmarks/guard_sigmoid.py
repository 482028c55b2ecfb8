# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
What scales and shifts of each label do to the NLL of new data: shrunk and guarded, and without either.

The logits of 20 labels, of 0.2% to 30% of the samples, are normal; labels are drawn from their sigmoids, and the
logits then made wrong in one of several ways. What a fit does is the NLL under the known probabilities of fresh
samples, so that no label noise is in it. All is seeded.

    python benchmarks/guard_sigmoid.py --output benchmarks/results/guard_sigmoid.md
"""

import argparse
import platform
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtr

import hf_focal
from hf_focal.calibrators.platt import PlattScaling
from hf_focal.calibrators.shrunk import fit_shrunk


RATES, RARE = np.geomspace(0.002, 0.3, 20), 5
SIZES = (100, 300, 1000)
KINDS = {
    "calibrated": "the logits are right",
    "too sure": "all are 1.6 times too large",
    "alike": "the same, and half of what decides a label is common to all labels of a sample",
    "one shift": "1.5 is added to all, as by weights of the positives",
    "own shifts": "something is added to each label, normal with deviation 0.7",
    "own scales": "each label is multiplied, by the exponential of a normal number with deviation 0.4",
    "one label off": "2 is added to the most frequent label alone",
}


class Cell(NamedTuple):
    """What many fits of one kind did; changes are relative to the NLL before."""

    change: float  # mean
    error: float  # its standard error
    rare: float  # mean of the rarest labels, relative to the NLL of these
    harmed: float  # share worse by over 1%
    kept: float  # share of the gain that the true map would bring


def draw(generator: np.random.Generator, count: int, alike: float = 0.0) -> tuple[NDArray, NDArray]:
    """Logits, and labels drawn from their sigmoids by numbers that are alike within a sample."""
    means = logit(RATES) * np.sqrt(1 + np.pi * 2**2 / 8)  # of the sigmoid of a normal logit, roughly
    logits = means + 2 * generator.normal(size=(count, len(RATES)))
    common, own = generator.normal(size=(count, 1)), generator.normal(size=logits.shape)
    return logits, (ndtr(np.sqrt(alike) * common + np.sqrt(1 - alike) * own) < expit(logits)).astype(np.int64)


def damage(kind: str, generator: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Factor and shift by which the logits of each label are wrong."""
    factor, shift = np.ones(len(RATES)), np.zeros(len(RATES))
    if kind in ("too sure", "alike"):
        factor[:] = 1.6
    elif kind == "one shift":
        shift[:] = 1.5
    elif kind == "own shifts":
        shift = 0.7 * generator.normal(size=len(RATES))
    elif kind == "own scales":
        factor = np.exp(0.4 * generator.normal(size=len(RATES)))
    elif kind == "one label off":
        shift[-1] = 2.0
    return factor, shift


def nll(scores: NDArray, truth: NDArray) -> NDArray:
    """Of each label, under the known probabilities."""
    return (np.logaddexp(0.0, scores) - truth * scores).mean(axis=0)


def each_alone(logits: NDArray, labels: NDArray) -> PlattScaling:
    """Plain logistic regression of each label; one that no sample has, or all, or where none is best, stays."""
    scale, shift = np.ones(len(RATES)), np.zeros(len(RATES))
    for label in range(len(RATES)):
        z, y = logits[:, label : label + 1], labels[:, label : label + 1]
        if 0 < y.sum() < len(y) and z[y == 1].min() < z[y == 0].max():
            found = fit_shrunk(z, y)
            scale[label], shift[label] = found.scale[0], found.shift[0]
    return PlattScaling(tuple(scale), tuple(shift))


WAYS = {
    '`"auto"` (the default)': lambda z, y: hf_focal.fit_calibrator(z, y).calibrator,
    '`"platt"`': lambda z, y: hf_focal.fit_calibrator(z, y, "platt").calibrator,
    '`"platt"`, shrunk, without a guard': lambda z, y: PlattScaling.fit(z, y, criterion="nll", n_bins=15),
    '`"temperature"`': lambda z, y: hf_focal.fit_calibrator(z, y, "temperature").calibrator,
    "each label by itself": each_alone,
}


def run(kind: str, size: int, fits: int) -> dict[str, Cell]:
    """What each way does."""
    generator = np.random.default_rng([list(KINDS).index(kind), size])
    changes: dict[str, list] = {name: [] for name in WAYS}
    all_before, gains = [], []
    for _ in range(fits):
        factor, shift = damage(kind, generator)
        logits, labels = draw(generator, size, 0.5 if kind == "alike" else 0.0)
        fresh, _ = draw(generator, 4000)
        truth = expit(fresh)
        before = nll(factor * fresh + shift, truth)
        all_before.append(before)
        gains.append(before.sum() - nll(fresh, truth).sum())
        for name, way in WAYS.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                calibrator = way(factor * logits + shift, labels)
            changes[name].append(nll(calibrator.calibrated_logits(factor * fresh + shift), truth) - before)
    mean = np.mean(all_before, axis=0)
    found = {}
    for name, rows in changes.items():
        table = np.array(rows)
        whole = table.sum(axis=1) / mean.sum()
        kept = -table.sum(axis=1).mean() / np.mean(gains) if kind != "calibrated" else np.nan
        rare = table[:, :RARE].sum(axis=1).mean() / mean[:RARE].sum()
        found[name] = Cell(whole.mean(), whole.std() / np.sqrt(fits), rare, (whole > 0.01).mean(), kept)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=int, default=20, help="Validation sets in a cell.")
    parser.add_argument("--output", type=Path, default=None, help="Where to write the tables.")
    args = parser.parse_args()
    start = time.process_time()
    lines = [
        "# Scales and shifts of each label: what they do to the NLL of new data", "",
        f"Python {platform.python_version()}, NumPy {np.__version__}, hf_focal {hf_focal.__version__}.", "",
        "Command: `python benchmarks/guard_sigmoid.py --output benchmarks/results/guard_sigmoid.md`.", "",
        f"{args.fits} validation sets of N samples in a cell. In it: the mean change of the NLL of all {len(RATES)} "
        "labels and its standard error; that of the five rarest labels, of 0.2% to 0.6% of the samples; how many fits "
        "are worse by over 1%; and how much of the gain is kept that the true map would bring.", "",
    ]  # fmt: skip
    for kind, words in KINDS.items():
        heads = "".join(f" N = {size} |" for size in SIZES)
        lines += [f"## {kind}: {words}", "", f"| |{heads}", "|---" * (1 + len(SIZES)) + "|"]
        cells = {size: run(kind, size, args.fits) for size in SIZES}
        for name in WAYS:
            row = []
            for size in SIZES:
                cell = cells[size][name]
                kept = "" if np.isnan(cell.kept) else f", kept {cell.kept:.0%}"
                whole = f"{cell.change + 0.0:+.2%} ± {cell.error:.2%}"
                row.append(f"{whole}, rare {cell.rare + 0.0:+.2%}, harmed {cell.harmed:.0%}{kept}")
            lines.append(f"| {name} | {' | '.join(row)} |")
        lines.append("")
    text = "\n".join(lines)
    print(f"{text}\n{time.process_time() - start:.0f} s of CPU time")
    if args.output:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
