# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Metrics, temperature fits and bootstrap against the packages that one would take instead.

    python benchmarks/metrics.py --threads 1 --output benchmarks/results/metrics.md

Each row first compares values, on float32 probabilities and with all checks of the input on our side, then times the
two in turn; medians. A peer of another definition is timed for scale, and the row says what differs. Of torchmetrics
(which probmetrics calls for its ECE), netcal, uncertainty-calibration and relplot, what is not installed is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import itertools
import os
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="small shapes only, few repeats")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch and of the BLAS")
    parser.add_argument("--output", type=Path, help="where to write the Markdown table")
    return parser.parse_args()


arguments = parse_arguments()
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = str(arguments.threads)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy.special import softmax  # noqa: E402

import hf_focal  # noqa: E402
from hf_focal import calibrators  # noqa: E402
from hf_focal.checks import check_logits  # noqa: E402


N_BINS = 15
PACKAGES = ["numpy", "scipy", "torch", "torchmetrics", "netcal", "uncertainty-calibration", "relplot", "probmetrics"]
SHAPES = [(10_000, 10), (10_000, 100), (50_000, 1000), (1_000_000, 10)]


def draw(n, k):
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((n, k), dtype=np.float32) * 2
    noise = generator.standard_exponential((n, k), dtype=np.float32)
    probabilities = softmax(logits, axis=1)
    labels = (logits / 1.5 - np.log(noise)).argmax(axis=1)  # over-confident: drawn at temperature 1.5
    return logits, probabilities, labels


# ---- Peers ----------------------------------------------------------------------------------------------------------


def peers_of(metric, probabilities, labels):
    """Name, function and largest difference of values, or the reason why the values may differ."""
    n, k = probabilities.shape
    found = []

    def add(package, make, agrees):
        try:
            found.append((package, make(), agrees))
        except ImportError as error:
            print(f"{package} is left out: {error}", file=sys.stderr)

    def torchmetrics():
        from torchmetrics.functional.classification import multiclass_calibration_error

        p, y = torch.from_numpy(probabilities), torch.from_numpy(labels)
        return lambda: float(multiclass_calibration_error(p, y, k, N_BINS))

    def netcal(**options):
        from netcal.metrics import ECE

        return lambda: float(ECE(N_BINS, **options).measure(probabilities, labels))

    def relplot():
        from relplot.metrics import binnedECE

        return lambda: binnedECE(probabilities.max(axis=1), (probabilities.argmax(axis=1) == labels) * 1, N_BINS)

    def uncertainty_calibration(name, **options):
        import calibration as package

        function = getattr(package, name)
        return lambda: float(function(probabilities, labels, num_bins=N_BINS, **options))

    def released(function):
        p, y = torch.from_numpy(probabilities), torch.from_numpy(labels)
        return lambda: function(p, y)

    if metric == "ece":
        add("torchmetrics", torchmetrics, 1e-3)  # sums in float32, bins closed on the left
        add("netcal", netcal, 1e-6)
        add("relplot binnedECE", relplot, 1e-6)
        if n <= 10_000:
            add("uncertainty-calibration", lambda: uncertainty_calibration("get_ece"), 1e-6)
    if metric == "adaptive_ece":
        add("netcal, equal mass", lambda: netcal(equal_intervals=False), 1e-6)
        if n <= 50_000:
            add("uncertainty-calibration", lambda: uncertainty_calibration("get_ece_em"), 1e-6)
        add("released approach", lambda: released(released_adaptive), "drops the lowest sample, merges ties")
    if metric == "classwise_ece":
        if n * k <= 1_000_000:
            options = {"p": 1, "debias": False, "mode": "marginal"}
            name = "get_calibration_error"
            add(
                "uncertainty-calibration",
                lambda: uncertainty_calibration_marginal(probabilities, labels, name, options),
                "bins of equal mass",
            )
        add("released approach", lambda: released(released_classwise), 1e-5)
    return found


def uncertainty_calibration_marginal(probabilities, labels, name, options):
    import calibration as package

    return lambda: float(getattr(package, name)(probabilities, labels, **options))


def released_classwise(probabilities, labels):
    """The published approach, in our words: a mask for each class and each bin. Columns are counted as ours are."""
    edges = torch.linspace(0, 1, N_BINS + 1)
    total = 0.0
    for label in range(probabilities.shape[1]):
        column, members = probabilities[:, label], labels == label
        for lower, upper in zip(edges[:-1], edges[1:], strict=True):
            inside = column.gt(lower.item()) & column.le(upper.item())
            share = inside.float().mean()
            if share > 0:
                total += float((column[inside].mean() - members[inside].float().mean()).abs() * share)
    return total / probabilities.shape[1]


def released_adaptive(probabilities, labels):
    """The published approach, in our words: interpolated edges, then a mask for each bin."""
    confidences, predictions = probabilities.max(dim=1)
    correct = predictions.eq(labels)
    n = len(labels)
    edges = np.interp(np.linspace(0, n, N_BINS + 1), np.arange(n), np.sort(confidences.numpy()))
    total = 0.0
    for lower, upper in zip(edges[:-1], edges[1:], strict=True):
        inside = confidences.gt(lower) & confidences.le(upper)
        share = inside.float().mean()
        if share > 0:
            total += float((confidences[inside].mean() - correct[inside].float().mean()).abs() * share)
    return total


# ---- Timing ---------------------------------------------------------------------------------------------------------


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def pairs(ours, peer):
    """Medians of turns, as many as fit into a few seconds."""
    ours()
    first = seconds(peer)
    limit = 0.5 if arguments.quick else 3.0
    repeats = int(min(max(limit / max(first, 1e-6), 1), 5 if arguments.quick else 15))
    turns = [(seconds(ours), seconds(peer)) for _ in range(repeats)]
    return statistics.median(a for a, _ in turns), statistics.median(b for _, b in turns)


def row(what, shape, peer_name, ours, peer, agrees):
    """Compare the values, then time the two."""
    mine, theirs = np.atleast_1d(ours()), np.atleast_1d(peer())
    difference = float(np.abs(mine - theirs).max())
    if isinstance(agrees, str):
        remark = f"{difference:.1e}: {agrees}"
    else:
        assert difference <= agrees, f"{what} {shape} {peer_name}: {mine} against {theirs}"
        remark = f"{difference:.1e}"
    a, b = pairs(ours, peer)
    cells = [what, shape, peer_name, f"{a * 1e3:.2f}", f"{b * 1e3:.2f}", f"{b / a:.1f}x", remark]
    line = "| " + " | ".join(cells) + " |"
    print(line, flush=True)
    return line


def metric_rows():
    functions = {
        "ece": hf_focal.expected_calibration_error,
        "adaptive_ece": hf_focal.adaptive_calibration_error,
        "classwise_ece": hf_focal.classwise_calibration_error,
    }
    for n, k in SHAPES[:2] if arguments.quick else SHAPES:
        _, probabilities, labels = draw(n, k)
        for name, function in functions.items():
            for peer_name, peer, agrees in peers_of(name, probabilities, labels):
                ours = lambda function=function: function(probabilities, labels)  # noqa: B023, E731
                yield row(name, f"({n}, {k})", peer_name, ours, peer, agrees)


def temperature_rows():
    logits, _, labels = draw(10_000, 10)

    def naive():
        wide = logits.astype(np.float64)
        grid = np.arange(1, 101) / 10
        errors = [
            hf_focal.expected_calibration_error(softmax(wide / temperature, axis=1), labels) for temperature in grid
        ]
        return grid[np.argmin(errors)]

    fit = lambda criterion: hf_focal.fit_temperature(logits, labels, criterion).temperature  # noqa: E731
    shape = "(10000, 10)"
    yield row("grid of 100 temperatures", shape, "scipy softmax, our ECE, in a loop", lambda: fit("ece"), naive, 0.0)
    try:
        from netcal.scaling import TemperatureScaling
    except ImportError as error:
        print(f"netcal is left out: {error}", file=sys.stderr)
        return
    probabilities = softmax(logits.astype(np.float64), axis=1)

    def peer():
        scaling = TemperatureScaling()
        scaling.fit(probabilities, labels)
        return 1 / float(np.ravel(scaling.temperature)[0])  # its temperature multiplies

    def alone():
        return calibrators.TemperatureScaling.fit(
            *check_logits(logits, labels), criterion="nll", n_bins=N_BINS
        ).temperature

    yield row("NLL fit, all metrics before and after", shape, "netcal, float64", lambda: fit("nll"), peer, 1e-4)
    yield row("NLL fit alone", shape, "netcal, float64", alone, peer, 1e-4)


def bin_by_bin(probabilities, labels):
    """ECE as it is defined, a mask for each bin."""
    confidences, right = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    total = 0.0
    for low, high in itertools.pairwise(np.linspace(0, 1, N_BINS + 1)):
        inside = (confidences > low) & (confidences <= high)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidences[inside].mean())
    return total


def bootstrap_rows():
    functions = {
        "ece": hf_focal.expected_calibration_error,
        "adaptive_ece": hf_focal.adaptive_calibration_error,
        "classwise_ece": hf_focal.classwise_calibration_error,
        "nll": hf_focal.negative_log_likelihood,
        "brier": hf_focal.brier_score,
    }
    n_resamples = 100 if arguments.quick else 1000
    for k in (10, 100):
        _, probabilities, labels = draw(10_000, k)
        for name, function in functions.items():
            if k == 100 and name != "ece":
                continue

            def ours(name=name, probabilities=probabilities, labels=labels):
                return hf_focal.bootstrap_interval(name, probabilities, labels, n_resamples=n_resamples)

            def naive(function, probabilities=probabilities, labels=labels):
                generator = np.random.default_rng(0)
                values = []
                for _ in range(n_resamples):
                    rows = generator.integers(0, len(labels), len(labels))
                    values.append(function(probabilities[rows], labels[rows]))
                return np.quantile(values, [0.05, 0.95])

            peers = {"our metric": function}
            if name == "ece":
                peers["bin by bin"] = bin_by_bin
                with contextlib.suppress(ImportError):
                    from netcal.metrics import ECE

                    peers["netcal"] = lambda p, y: float(ECE(N_BINS).measure(p, y))
            for peer, function in peers.items():
                what, against = f"{name}, {n_resamples} resamples", f"rows resampled, {peer}"
                yield row(what, f"(10000, {k})", against, ours, functools.partial(naive, function), 1e-9)


def main():
    torch.set_num_threads(arguments.threads)
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    command = "python benchmarks/metrics.py " + " ".join(sys.argv[1:])
    head = [
        f"`{command.strip()}`: {', '.join(versions)}; {platform.machine()}, {os.cpu_count()} cores.",
        "",
        "| what | shape | against | ours, ms | theirs, ms | faster | largest difference |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(head))
    lines = [*head, *metric_rows(), *temperature_rows(), *bootstrap_rows()]
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
