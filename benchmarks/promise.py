# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
How often the promise of `choose_threshold` is broken, and how many samples it keeps beside an oracle who knows the
true accuracy above each threshold; and the same of the plain bound, which takes the lowest threshold that passes an
exact binomial test without minding how many it has looked at.

Confidences and the probability of being right are drawn for several kinds of models, and the true accuracy above each
threshold is that of a million samples, without the noise of labels. All is seeded.

    python benchmarks/promise.py --output benchmarks/results/promise.md
"""

import argparse
import os
import platform
import time
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, softmax

import hf_focal
from hf_focal.calibrators.fit import fit_calibrator
from hf_focal.calibrators.threshold import promise_after
from hf_focal.metrics import promise
from hf_focal.metrics.promise import promise_of
from hf_focal.metrics.scored import ScoredLogits


TARGETS, LEVEL = (0.8, 0.9, 0.95, 0.99), 0.9
SIZES = (50, 200, 500, 2000, 10_000)
SHOWN = 2000  # samples at which shares are compared
MANY = 1_000_000
Draw = Callable[[np.random.Generator, int], tuple[NDArray, NDArray]]  # confidences, and how likely each is right


def usual(rng: np.random.Generator, count: int) -> NDArray:
    """Confidences of two classes, most of them near 1."""
    return 0.5 + 0.5 * rng.beta(1.6, 0.5, count)


def bent(factor: float) -> Draw:
    """Confidences that are too high (a factor below 1) or too low (above 1)."""

    def draw(rng: np.random.Generator, count: int) -> tuple[NDArray, NDArray]:
        confidences = usual(rng, count)
        return confidences, expit(factor * logit(confidences.clip(1e-12, 1 - 1e-12)))

    return draw


def ten_classes(rng: np.random.Generator, count: int) -> tuple[NDArray, NDArray]:
    """A calibrated softmax of normal logits, 17% of whose answers are wrong."""
    confidences = softmax(6 * rng.standard_normal((count, 10), dtype=np.float32), axis=1).max(axis=1)
    return confidences.astype(float), confidences.astype(float)


def waves(rng: np.random.Generator, count: int) -> tuple[NDArray, NDArray]:
    confidences = rng.uniform(0.3, 1, count)
    return confidences, np.clip(confidences + 0.12 * np.sin(25 * confidences), 0, 1)


def rounded(decimals: int) -> Draw:
    def draw(rng: np.random.Generator, count: int) -> tuple[NDArray, NDArray]:
        true = usual(rng, count)
        return np.round(true, decimals), true

    return draw


def mistakes(rng: np.random.Generator, count: int) -> tuple[NDArray, NDArray]:
    """The most confident are right less often than the next."""
    confidences = 0.5 + 0.5 * rng.beta(2.5, 0.4, count)
    return confidences, np.where(confidences > 0.999, 0.93, np.minimum(confidences + 0.02, 0.985))


def smoothed(rng: np.random.Generator, count: int) -> tuple[NDArray, NDArray]:
    """Three quarters of all confidences within 0.01 of 0.9, as after label smoothing."""
    near = rng.normal(0.905, 0.004, count).clip(0, 1)
    confidences = np.where(rng.random(count) < 0.75, near, rng.uniform(0.3, 0.9, count))
    return confidences, np.where(confidences > 0.9, 0.985, np.where(confidences > 0.89, 0.96, confidences))


def comes_back(rng: np.random.Generator, count: int) -> tuple[NDArray, NDArray]:
    """The accuracy above a threshold falls below 0.9 and comes back, time and again."""
    confidences = rng.random(count)
    share = 1 - confidences
    phase = 40 * np.log(share + 0.02)
    above, slope = 0.9 + 0.01 * np.sin(phase), 0.4 * np.cos(phase) / (share + 0.02)
    return confidences, np.clip(above + share * slope, 0, 1)


def just_short(rng: np.random.Generator, count: int) -> tuple[NDArray, NDArray]:
    """An accuracy of 0.001 less than a target, whatever the confidence: every threshold breaks the promise."""
    return rng.random(count), np.full(count, 0.949)


def dumped() -> tuple[NDArray, NDArray] | None:
    """Logits and labels of DenseNet-40 on CIFAR-10, where they are."""
    path = Path(os.environ.get("HF_FOCAL_TEST_DATA", "."), "logits", "cifar10_densenet40.npz")
    if not path.is_file():
        return None
    with np.load(path) as file:
        logits, labels = (np.concatenate([file[f"{part}_{name}"] for part in ("val", "test")])
                          for name in ("logits", "labels"))  # fmt: skip
    return logits.astype(np.float64), labels


def of_a_dump(logits: NDArray, labels: NDArray) -> Draw:
    """All that there is, drawn with replacement."""
    probabilities = softmax(logits, axis=1)
    confidences, right = probabilities.max(axis=1), (probabilities.argmax(axis=1) == labels).astype(float)

    def draw(rng: np.random.Generator, count: int) -> tuple[NDArray, NDArray]:
        rows = np.arange(len(labels)) if count == MANY else rng.integers(len(labels), size=count)
        return confidences[rows], right[rows]

    return draw


class Truth:
    """The true accuracy above each threshold, and the share of samples that it keeps."""

    def __init__(self, draw: Draw) -> None:
        confidences, right = draw(np.random.default_rng(5), MANY)
        order = np.argsort(-confidences, kind="stable")
        ordered = confidences[order]
        ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
        self.thresholds, self.accuracies = ordered[ends], np.cumsum(right[order])[ends] / (ends + 1)
        self.shares = (ends + 1) / len(ordered)

    def oracle(self, accuracy: float) -> float:
        return float(self.shares[self.accuracies >= accuracy].max(initial=0.0))

    def of(self, threshold: float | None) -> tuple[float, float]:
        """Accuracy, and share kept; of none 1 and 0."""
        place = -1 if threshold is None else int(np.searchsorted(-self.thresholds, -threshold, side="right")) - 1
        return (1.0, 0.0) if place < 0 else (float(self.accuracies[place]), float(self.shares[place]))


@lru_cache(maxsize=100)
def allowed(size: int, accuracy: float) -> NDArray:
    """How many errors pass the exact test, among 1, 2, ..., so many samples; -1 for none."""
    smallest = promise._smallest(np.arange(int((1 - accuracy) * size) + 2), size, accuracy, 1 - LEVEL)
    return np.searchsorted(smallest, np.arange(1, size + 1), side="right") - 1


def plain_bound(confidences: NDArray, correct: NDArray, accuracy: float) -> float | None:
    """Of samples from the most confident down."""
    passes = np.cumsum(~correct) <= allowed(len(correct), accuracy)
    passes &= np.append(confidences[1:] != confidences[:-1], True)
    return float(confidences[np.flatnonzero(passes)[-1]]) if passes.any() else None


def column(draw: Draw, truth: Truth, size: int, draws: int) -> NDArray:
    """Of each target how often the promise is broken and the mean share kept, here and by the plain bound."""
    rng, found = np.random.default_rng(size), []
    for _ in range(draws):
        confidences, likely = draw(rng, size)
        correct = rng.random(size) < likely
        order = np.argsort(-confidences, kind="stable")
        confidences, correct = confidences[order], correct[order]
        for accuracy in TARGETS:
            ours = truth.of(promise_of(confidences, correct, accuracy, LEVEL).threshold)
            plain = truth.of(plain_bound(confidences, correct, accuracy))
            found.append((ours[0] < accuracy, ours[1], plain[0] < accuracy, plain[1]))
    return np.array(found, float).reshape(draws, len(TARGETS), 4).mean(axis=0)


def tables(models: dict[str, Draw], draws: int) -> list[str]:
    """How often the promise is broken in the worst cell, and what is kept."""
    broken: dict[int, list[tuple[float, float]]] = {size: [] for size in SIZES}
    rows, worst = [], []
    for name, draw in models.items():
        truth, cells = Truth(draw), []
        own: list[tuple[float, float]] = []
        for size in SIZES:
            for accuracy, (ours, kept, plain, plain_kept) in zip(
                TARGETS, column(draw, truth, size, draws), strict=True
            ):
                oracle = truth.oracle(accuracy)
                broken[size].append((ours, plain))
                own.append((ours, plain))
                if size == SHOWN:
                    part = f"{kept / oracle:.0%} of {oracle:.0%} ({plain_kept / oracle:.0%})" if oracle else "-"
                    cells.append(part)
        rows.append(f"| {name} | {' | '.join(cells)} |")
        high = np.max(own, axis=0)
        worst.append(f"| {name} | {high[0]:.1%} | {high[1]:.1%} |")
    lines = ["## Draws in which the promise is broken: at most 10% are allowed", "",
             "| N | mean of all cells | worst cell | plain bound, mean | plain bound, worst cell |",
             "|---|---|---|---|---|"]  # fmt: skip
    for size, values in broken.items():
        ours, plain = np.array(values).T
        lines.append(f"| {size} | {ours.mean():.1%} | {ours.max():.1%} | {plain.mean():.1%} | {plain.max():.1%} |")
    lines += ["", "| model | worst of all N and targets | plain bound |", "|---|---|---|", *worst, ""]
    lines += [f"## Share of the samples that is kept at N = {SHOWN}, of what the oracle keeps (plain bound)", "",
              f"| model | {' | '.join(f'target {one:g}' for one in TARGETS)} |", f"|---{'|---' * len(TARGETS)}|",
              *rows, ""]  # fmt: skip
    return lines


def after_a_fit(draws: int, size: int = 1000) -> list[str]:
    """The promise where a calibrator was fitted to the same samples, with and without regard to that."""
    lines = [f"## Chosen on the {size} samples that a calibrator was fitted to, target 0.8, 0.9, 0.95 and 0.99", "",
             f"{draws} data sets. Broken is how often at the target where that is most often; kept is the mean over "
             "the targets.", "",
             "| data | calibrator | broken | kept | broken, had the fit not been minded | kept |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for name, (logits, labels) in _sources().items():
        for method in ("temperature", "vector", "matrix"):
            rng, found = np.random.default_rng(size), []
            for _ in range(draws):
                rows = rng.integers(len(labels), size=size)
                fit = fit_calibrator(logits[rows], labels[rows], method, guard=False)
                confidences, correct = ScoredLogits(logits, labels, fit.calibrator).pairs
                seen = ScoredLogits(logits[rows], labels[rows], fit.calibrator).pairs
                for accuracy in TARGETS:
                    ours = promise_after(fit, logits[rows], labels[rows], accuracy, LEVEL).threshold
                    found.append([_above(confidences, correct, one, accuracy)
                                  for one in (ours, promise_of(*seen, accuracy, LEVEL).threshold)])  # fmt: skip
            broken, kept = np.array(found).reshape(draws, len(TARGETS), 2, 2).mean(axis=0).transpose(2, 1, 0)
            high, mean = broken.max(axis=1), kept.mean(axis=1)
            lines.append(f"| {name} | {method} | {high[0]:.0%} | {mean[0]:.0%} | {high[1]:.0%} | {mean[1]:.0%} |")
    return lines


def _above(confidences: NDArray, correct: NDArray, threshold: float | None, accuracy: float) -> tuple[float, float]:
    kept = confidences >= (np.inf if threshold is None else threshold)
    return float(kept.any() and correct[kept].mean() < accuracy), float(kept.mean())


def _sources() -> dict[str, tuple[NDArray, NDArray]]:
    rng = np.random.default_rng(0)
    logits = 2.5 * rng.normal(size=(30_000, 10))
    sources = {"simulated, error 39%": (1.8 * logits, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1))}
    dump = dumped()
    return sources if dump is None else {**sources, "DenseNet-40, CIFAR-10": dump}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000, help="Data sets in a cell.")
    parser.add_argument("--fits", type=int, default=40, help="Data sets that calibrators are fitted to.")
    parser.add_argument("--output", type=Path, default=None, help="Where to write the tables.")
    args = parser.parse_args()
    start = time.time()
    promise._steps = lru_cache(promise._steps)  # asked for again and again
    warnings.simplefilter("ignore", UserWarning)
    models: dict[str, Any] = {
        "calibrated": bent(1.0), "calibrated, ten classes": ten_classes, "over-confident": bent(0.6),
        "under-confident": bent(1.6), "reliability in waves": waves, "two decimals": rounded(2),
        "one decimal": rounded(1), "confident mistakes": mistakes, "label smoothing": smoothed,
        "accuracy that comes back": comes_back, "always 0.001 short of 0.95": just_short,
    }  # fmt: skip
    if (dump := dumped()) is not None:
        models["DenseNet-40, CIFAR-10"] = of_a_dump(*dump)
    lines = [
        "# The promise: thresholds above which a classifier is right often enough", "",
        f"Python {platform.python_version()}, NumPy {np.__version__}, hf_focal {hf_focal.__version__}.", "",
        "Command: `python benchmarks/promise.py --output benchmarks/results/promise.md`.", "",
        f"Certainty {LEVEL:.0%}; {args.draws} data sets in each cell, of {', '.join(map(str, SIZES))} samples, and "
        f"targets {', '.join(map(str, TARGETS))}.", "",
        *tables(models, args.draws), *after_a_fit(args.fits),
    ]  # fmt: skip
    text = "\n".join(lines) + "\n"
    print(f"{text}\n{time.time() - start:.0f} s")
    if args.output:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
