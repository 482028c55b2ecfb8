# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Time and memory of a report with its card and picture, beside one softmax of all logits by SciPy.

    python benchmarks/report.py --num_samples 20000 --num_labels 1000
"""

import argparse
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
from scipy.special import softmax

from hf_focal import About, Predictions, create_model_card, fit_temperature, make_report


def megabytes() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and by how many megabytes the peak rose."""
    before, start = megabytes(), time.perf_counter()
    work()
    return time.perf_counter() - start, megabytes() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_samples", type=int, default=20_000)
    parser.add_argument("--num_labels", type=int, default=1_000)
    args = parser.parse_args()
    generator = np.random.default_rng(0)
    logits = np.empty((args.num_samples, args.num_labels), np.float32)
    labels = np.empty(args.num_samples, np.int64)
    for start in range(0, args.num_samples, 500):  # the peak is to be that of the report
        rows = logits[start : start + 500]
        rows[:] = generator.normal(0, 2, rows.shape)
        labels[start : start + 500] = (rows / 2 + generator.gumbel(size=rows.shape)).argmax(axis=1)
    fit = fit_temperature(logits[:2_000], labels[:2_000], criterion="nll")
    predictions = Predictions(logits, labels)
    make_report(Predictions(logits[:200], labels[:200]), fit).diagram()  # what is imported on the way

    def report() -> None:
        found = make_report(predictions, fit)
        about = About("model", "image-classification", {**fit.calibrator.to_record(), "folded": True})
        with tempfile.TemporaryDirectory() as folder:
            found.diagram().savefig(Path(folder, "reliability.png"))
            create_model_card(about, found).save(Path(folder, "README.md"))

    measured = {
        "report, card and picture": timed(report),
        "one softmax (scipy)": timed(lambda: softmax(logits, axis=1)),
    }
    print(f"{args.num_samples} x {args.num_labels} float32 logits, {logits.nbytes / 2**20:.0f} MB")
    print(f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}\n")
    print("| what | s | peak, MB |\n| --- | --- | --- |")
    for name, (seconds, rise) in measured.items():
        print(f"| {name} | {seconds:.2f} | +{rise:.0f} |")


if __name__ == "__main__":
    main()
