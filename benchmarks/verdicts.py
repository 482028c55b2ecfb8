# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
How often `paired_bootstrap` decides between models of equal true calibration error, and whether it tells others apart.

    python benchmarks/verdicts.py --draws 200

Pairs of equal true error: two exact posteriors of accuracy 50% and 99% (0 and 0); the class frequencies and a
posterior (0 and 0); a model as over-confident as the other is under-confident (ECE 6.0%); a model and itself with a
little noise. Pairs that differ: ECE 2% and 8%. Beside it the percentile bootstrap of the difference, 200 resamples.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.special import softmax

from hf_focal import METRICS, Scored, paired_bootstrap
from hf_focal.metrics.intervals import interval_ends


def drawn(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the posterior, and labels."""
    logits = rng.normal(size=(size, 10)) * 2
    return logits, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def posteriors(rng: np.random.Generator, size: int) -> tuple:
    labels = rng.integers(10, size=size)
    weak, strong = rng.normal(size=(2, size, 10))
    weak[np.arange(size), labels] += 1.5
    strong[np.arange(size), labels] += 4.0
    return softmax(1.5 * weak, axis=1), softmax(1.5 * weak + 4.0 * strong, axis=1), labels


def frequencies(rng: np.random.Generator, size: int) -> tuple:
    logits, labels = drawn(rng, size)
    return np.full((size, 10), 0.1) + np.linspace(1e-6, -1e-6, 10), softmax(logits, axis=1), labels


def scaled(first: float, second: float, noise: float = 0.0) -> object:
    def pair(rng: np.random.Generator, size: int) -> tuple:
        logits, labels = drawn(rng, size)
        other = second * logits + noise * rng.normal(size=logits.shape)
        return softmax(first * logits, axis=1), softmax(other, axis=1), labels

    return pair


PAIRS = {
    "posteriors, 0 and 0": posteriors,
    "frequencies, 0 and 0": frequencies,
    "over and under, 6.0% and 6.0%": scaled(1.2, 0.835),
    "nearly the same, 6%": scaled(1.2, 1.2, 1e-3),
    "2% and 8%": scaled(1.062, 1.28),
}


def old_verdict(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> str:
    """By the percentile bootstrap of the difference in ECE."""
    one, other = (METRICS["ece"].statistic(Scored(said, labels), 15) for said in (first, second))
    rng, size = np.random.default_rng(0), len(labels)
    low, high = interval_ends(np.array([one(rows) - other(rows) for rows in rng.integers(0, size, (200, size))]), 0.9)
    return "a_is_better" if high < 0 else "b_is_better" if low > 0 else "undecided"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200, help="Data sets of each cell.")
    args = parser.parse_args()
    keys = ("ece", "adaptive_ece", "mce", "classwise_ece")
    print("Share of decisions; of the last pair, of right ones.\n")
    print("| pair | N | " + " | ".join(keys) + " | ECE by bootstrap | ms of ECE |\n|" + " --- |" * 8)
    for title, pair in PAIRS.items():
        wanted = ("a_is_better",) if title == "2% and 8%" else ("a_is_better", "b_is_better")
        for size in (500, 2000):
            rng, found, seconds = np.random.default_rng(size), dict.fromkeys((*keys, "old"), 0.0), []
            draws = dict.fromkeys(found, args.draws) | {"classwise_ece": args.draws // 4}
            for number in range(args.draws):
                data = pair(rng, size)
                for key in keys:
                    if number < draws[key]:
                        start = time.perf_counter()
                        found[key] += paired_bootstrap(key, *data).verdict in wanted
                        seconds += [time.perf_counter() - start] if key == "ece" else []
                found["old"] += old_verdict(*data) in wanted
            shares = [f"{found[key] / draws[key]:.0%}" for key in found]
            print(f"| {title} | {size} | {' | '.join(shares)} | {1e3 * np.median(seconds):.0f} |", flush=True)


if __name__ == "__main__":
    main()
