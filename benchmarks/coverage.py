# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
How often the 90% intervals of calibration errors hold the true error, how wide they are and how long they take.

    python benchmarks/coverage.py --draws 1000 --output coverage.jsonl

Logits are N(0, 2^2), labels are drawn from their softmax, and the logits are then multiplied by a factor: 1 is
calibrated, above 1 over-confident. Two truths that no temperature makes: accuracies 8 points above and below the
confidence in alternating bins, and one class whose logit is 1.5 too large. In clusters of five every sample is with
probability 1/2 a copy of the first one of its cluster. True errors are those of 400,000 samples, without the noise of
labels. What was measured already is read from the output, so that a run can be stopped and go on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scipy.special import softmax

from hf_focal import METRICS, bootstrap_interval, confidence_interval
from hf_focal.metrics.bins import bin_indices


BINS = 15
KEYS = ("ece", "adaptive_ece", "debiased_ece", "mce", "classwise_ece")
TRUTHS = ("1", "1.05", "1.2", "1.5", "0.8", "alternating", "bad class")
CELLS = [(size, 10, truth, 1) for size in (500, 2000, 10_000) for truth in TRUTHS]
CELLS += [(size, 10, truth, 5) for size in (500, 2000) for truth in ("1", "1.2", "alternating", "bad class")]
CELLS += [(size, 100, truth, 1) for size in (500, 2000) for truth in ("1", "1.2", "1.5", "bad class")]
CELLS += [(2000, classes, truth, 1) for classes in (2, 3) for truth in ("1", "1.2")]
FEWER = 2000  # samples from which on Classwise-ECE, which takes long, is measured on a quarter of the draws


def draw(rng: np.random.Generator, size: int, classes: int, truth: str) -> tuple[np.ndarray, np.ndarray]:
    """What a model says, and the true posterior."""
    logits = rng.normal(size=(size, classes)) * 2
    posterior = softmax(logits, axis=1)
    if truth == "bad class":
        logits[:, 0] += 1.5
        return softmax(logits, axis=1), posterior
    if truth != "alternating":
        return softmax(logits * float(truth), axis=1), posterior
    top, confidence = posterior.argmax(axis=1), posterior.max(axis=1)
    sign = np.where(bin_indices(confidence, BINS) % 2, -1, 1)
    right = np.clip(confidence + 0.08 * sign, 0, 1)
    true = posterior * ((1 - right) / np.maximum(1 - confidence, 1e-12))[:, None]
    true[np.arange(size), top] = right
    return posterior, true / true.sum(axis=1, keepdims=True)


def sample(rng: np.random.Generator, size: int, classes: int, truth: str, cluster: int) -> tuple:
    """Probabilities, labels and groups."""
    said, posterior = draw(rng, size, classes, truth)
    labels = (posterior.cumsum(axis=1) < rng.random(size)[:, None]).sum(axis=1).clip(max=classes - 1)
    if cluster == 1:
        return said, labels, None
    groups = np.arange(size) // cluster
    rows = np.where(rng.random(size) < 0.5, groups * cluster, np.arange(size))
    return said[rows], labels[rows], groups


def true_errors(classes: int, truth: str) -> dict[str, float]:
    """Of endless data."""
    if truth == "1":
        return dict.fromkeys(KEYS, 0.0)
    rng, size = np.random.default_rng(99), 400_000 if classes <= 10 else 100_000
    said, posterior = draw(rng, size, classes, truth)
    confidence, share = said.max(axis=1), posterior[np.arange(size), said.argmax(axis=1)]
    order = np.argsort(confidence)
    width = bin_indices(confidence, BINS)
    mass = np.empty(size, int)
    mass[order] = np.arange(size) * BINS // size

    def gaps(bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        counts = np.bincount(bins, minlength=BINS)
        return np.abs(np.bincount(bins, share - confidence, BINS)) / np.maximum(counts, 1), counts / size

    (by_width, parts), (by_mass, even) = gaps(width), gaps(mass)
    classwise = np.mean(
        [
            np.abs(np.bincount(bin_indices(one, BINS), true - one, BINS)).sum() / size
            for one, true in zip(said.T, posterior.T, strict=True)
        ]
    )
    return {
        "ece": float(parts @ by_width),
        "adaptive_ece": float(even @ by_mass),
        "debiased_ece": float(np.sqrt(even @ by_mass**2)),
        "mce": float(by_width[parts >= 0.01].max()),
        "classwise_ece": float(classwise),
    }


def measure(cell: tuple[int, int, str, int], draws: int, old: int) -> dict:
    """Coverage, mean width and time of one cell."""
    size, classes, truth, cluster = cell
    true = true_errors(classes, truth)
    rng = np.random.default_rng([size, classes, TRUTHS.index(truth), cluster])
    found: dict[str, list] = {}
    for number in range(draws):
        said, labels, groups = sample(rng, size, classes, truth, cluster)
        for key in KEYS:
            if key == "classwise_ece" and number >= (draws // 4 if size >= FEWER or classes > 10 else draws):
                continue
            start = time.perf_counter()
            ends = confidence_interval(key, said, labels, n_bins=BINS, groups=groups)
            found.setdefault(key, []).append((*ends, time.perf_counter() - start))
            if number >= old or key not in METRICS:
                continue
            for method in ("percentile", "basic"):
                start = time.perf_counter()
                ends = bootstrap_interval(key, said, labels, method=method, groups=groups, n_resamples=200)
                found.setdefault(f"{key} {method}", []).append((*ends, time.perf_counter() - start))
    row = {"size": size, "classes": classes, "truth": truth, "cluster": cluster, "true": true}
    for name, values in found.items():
        low, high, seconds = np.array(values).T
        target = true[name.split()[0]]
        inside = (low <= target + 1e-12) & (target <= high + 1e-12)
        row[name] = [inside.mean(), (high - low).mean(), np.median(seconds), len(values)]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000, help="Data sets of each cell.")
    parser.add_argument("--old", type=int, default=100, help="Data sets of which the bootstrap is tried as well.")
    parser.add_argument("--output", type=Path, default=Path("coverage.jsonl"), help="Where results are kept.")
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.output.read_text().splitlines()] if args.output.exists() else []
    done = {(row["size"], row["classes"], row["truth"], row["cluster"]) for row in rows}
    for cell in sorted(CELLS, key=lambda cell: cell[0] * cell[1]):
        if cell not in done:
            rows.append(measure(cell, args.draws, args.old))
            with args.output.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            short = {key: f"{rows[-1][key][0]:.0%}" for key in KEYS}
            print(cell, short, flush=True)
    names = [*KEYS, *(f"{key} {method}" for key in ("ece", "classwise_ece") for method in ("percentile", "basic"))]
    print("| N | K | truth | cluster | " + " | ".join(names) + " |")
    print("|" + " --- |" * (4 + len(names)))
    for row in rows:
        cells = [f"{row[name][0]:.0%}, {row[name][1]:.4f}" if name in row else "-" for name in names]
        print("| " + " | ".join(map(str, [row["size"], row["classes"], row["truth"], row["cluster"], *cells])) + " |")
    print("Coverage, mean width. Mean coverage, worst cell, and median milliseconds by size:")
    for name in names:
        values = [row[name] for row in rows if name in row]
        times = {row["size"]: round(1e3 * row[name][2], 1) for row in rows if name in row and row["classes"] == 10}
        shares = [value[0] for value in values]
        print(f"{name}: {np.mean(shares):.1%}, {min(shares):.1%}, {times}")


if __name__ == "__main__":
    main()
