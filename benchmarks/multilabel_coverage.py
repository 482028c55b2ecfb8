# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
How often intervals of calibration errors of sigmoid heads hold the true error, and how often a calibrated head is
within its noise floor. The labels of a sample depend on one another.

  python benchmarks/multilabel_coverage.py --simulations 60
"""

import argparse
import platform

import numpy as np
from scipy.special import expit, ndtr

from hf_focal.metrics import ALL_METRICS, scored_logits
from hf_focal.metrics.chance import Law, group_numbers
from hf_focal.results.tables import cell, markdown_table


LEVEL, N_BINS, KEYS, LABELS = 0.9, 15, ("ece", "adaptive_ece"), 8
BASE = np.random.default_rng(1).normal(-2.5, 1, LABELS)
HEADS = {
    "calibrated": lambda logits: logits,
    "a little too sure": lambda logits: 1.15 * logits,
    "too sure": lambda logits: 1.6 * logits,
    "labels shifted": lambda logits: logits + np.linspace(-0.8, 0.8, LABELS),
    "waves": lambda logits: logits + 0.6 * np.sin(3 * logits),
}


def drawn(generator, count):
    return BASE + 1.5 * generator.normal(size=(count, LABELS)) + 0.5 * generator.normal(size=(count, 1))


def outcomes(generator, logits, common=0.4):
    own, shared = generator.normal(size=logits.shape), generator.normal(size=(len(logits), 1))
    return (ndtr(np.sqrt(common) * shared + np.sqrt(1 - common) * own) < expit(logits)).astype(int)


def true_error(head, key):
    logits = drawn(np.random.default_rng(999), 200_000)
    said, total = expit(head(logits)), 0.0
    for p, q in zip(said.T, expit(logits).T, strict=True):
        place = np.argsort(np.argsort(p)) / len(p) if key == "adaptive_ece" else np.nextafter(p, 0)
        total += np.abs(np.bincount((place * N_BINS).astype(int), p - q)).sum()
    return total / said.size


def simulated(head, key, count, simulations):
    true, found = true_error(head, key), []
    for seed in range(simulations):
        generator = np.random.default_rng(seed)
        logits = drawn(generator, count)
        scored = scored_logits(head(logits), outcomes(generator, logits))
        error = ALL_METRICS[key].gap_error(scored, N_BINS)
        numbers = group_numbers(scored.groups_of_rows(None), len(scored))
        law = Law(error, error.cells(scored, N_BINS), numbers)
        low, high = law.interval(LEVEL)
        within = ALL_METRICS[key].of(scored, N_BINS) <= np.quantile(law.calibrated, 0.95)
        found.append((low - 1e-9 <= true <= high + 1e-9, true < low - 1e-9, true > high + 1e-9, high - low, within))
    return true, *np.mean(found, axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=60)
    parser.add_argument("--samples", type=int, default=1000)
    options = parser.parse_args()
    rows = []
    for name, head in HEADS.items():
        for key in KEYS:
            true, *shares, width, within = simulated(head, key, options.samples, options.simulations)
            cells = [cell(true), *(cell(share, ".0%") for share in shares), cell(width), cell(within, ".0%")]
            rows.append([name, ALL_METRICS[key].title, *cells])
    header = ["head", "error", "true", "covered", "true below", "true above", "width", "within noise"]
    print("# Coverage of sigmoid heads\n")
    print(
        f"{LEVEL:.0%} intervals of the mean error of {LABELS} labels with 3% to 30% positives, on {options.samples} "
        f"samples whose labels depend on one another; {options.simulations} simulations each (a coverage of 90% is "
        f"then seen within {1.645 * np.sqrt(0.09 / options.simulations):.0%} of it). `python "
        f"benchmarks/multilabel_coverage.py --simulations {options.simulations}`, NumPy {np.__version__}, Python "
        f"{platform.python_version()}.\n"
    )
    print(markdown_table(header, rows))
    print(
        "\nWithin noise: at most the 95% quantile of what a calibrated head with these probabilities shows; of the "
        "calibrated head that is to be 95%."
    )


if __name__ == "__main__":
    main()
