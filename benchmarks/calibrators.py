# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Calibrators on real logits, beside those of other packages; and what `auto` does to the NLL of new data.

    python -P benchmarks/calibrators.py --logits path/to/cifar10_densenet40.npz cifar100.npz \
        --news twenty_newsgroups --output benchmarks/results/calibrators.md

Files of logits hold `val_logits`, `val_labels`, `test_logits` and `test_labels`. The folder of 20 Newsgroups has a
Parquet file for training and one for testing: TF-IDF and logistic regression, whose logits are multiplied by 4; 2,500
test texts are fitted to. Packages that are not installed are named and left out; `-P` keeps the `coverage.py` beside
this file from numba, which looks for the package.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

import hf_focal
from hf_focal import Calibrator, Scored, expected_calibration_error, fit_calibrator
from hf_focal.calibrators import MatrixScaling, VectorScaling


Arrays = tuple[NDArray, NDArray, NDArray, NDArray]  # logits and labels to fit to, and to measure on
OURS = ("none", "temperature", "bias", "vector", "matrix", "auto")
KINDS = (
    "calibrated",
    "temperature",
    "shifts",
    "scales",
    "mixed up",
    "masked",
    "one class missing",
    "nearly separable",
)


# ---- Data -----------------------------------------------------------------------------------------------------------


def of_file(path: Path) -> Arrays:
    with np.load(path) as arrays:
        return tuple(arrays[f"{part}_{what}"] for part in ("val", "test") for what in ("logits", "labels"))


def of_news(folder: Path) -> Arrays:
    import pyarrow.parquet as pq
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    train, test = (pq.read_table(next(folder.glob(f"{part}-*.parquet"))) for part in ("train", "test"))
    words = TfidfVectorizer()
    model = LogisticRegression(max_iter=1000).fit(words.fit_transform(train["text"].to_pylist()), train["label"])
    logits = 4 * model.decision_function(words.transform(test["text"].to_pylist()))
    order = np.random.default_rng(0).permutation(len(logits))
    logits, labels = logits[order].astype(np.float32), test["label"].to_numpy()[order]
    return logits[:2500], labels[:2500], logits[2500:], labels[2500:]


# ---- Methods: from logits and labels to a function from logits to probabilities -------------------------------------

Fit = Callable[[NDArray, NDArray], Callable[[NDArray], NDArray]]


def ours(method: str) -> Fit:
    def fit(logits: NDArray, labels: NDArray) -> Callable[[NDArray], NDArray]:
        found = fit_calibrator(logits, labels, method, guard=None if method in ("auto", "temperature") else False)
        return lambda new: found.probabilities(new)

    return fit


def probmetrics(name: str) -> Fit:
    def fit(logits: NDArray, labels: NDArray) -> Callable[[NDArray], NDArray]:
        from probmetrics.calibrators import get_calibrator

        calibrator = get_calibrator(name)
        calibrator.fit(softmax(logits.astype(np.float64), axis=1), labels)
        return lambda new: calibrator.predict_proba(softmax(new.astype(np.float64), axis=1))

    return fit


def netcal(name: str) -> Fit:
    def fit(logits: NDArray, labels: NDArray) -> Callable[[NDArray], NDArray]:
        import netcal.scaling

        calibrator = getattr(netcal.scaling, name)()
        calibrator.fit(softmax(logits.astype(np.float64), axis=1), labels)
        return lambda new: calibrator.transform(softmax(new.astype(np.float64), axis=1))

    return fit


def torch_uncertainty(name: str) -> Fit:
    def fit(logits: NDArray, labels: NDArray) -> Callable[[NDArray], NDArray]:
        import torch
        import torch_uncertainty.post_processing as peers

        of_classes = {} if name == "TemperatureScaler" else {"num_classes": logits.shape[1]}
        scaler = getattr(peers, name)(model=torch.nn.Identity(), **of_classes)
        scaler.fit([(torch.tensor(logits), torch.tensor(labels))], progress=False)
        return lambda new: scaler(torch.tensor(new)).double().softmax(-1).detach().numpy()

    return fit


def scikit_learn(logits: NDArray, labels: NDArray) -> Callable[[NDArray], NDArray]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=5000).fit(logits, labels)
    return lambda new: model.predict_proba(new)


METHODS: dict[str, Fit] = {
    **{method: ours(method) for method in OURS},
    **{
        f"probmetrics {words}": probmetrics(name) for words, name in (("ts", "ts-mix"), ("svs", "svs"), ("sms", "sms"))
    },
    "netcal temperature": netcal("TemperatureScaling"),
    **{
        f"torch-uncertainty {name[:-6].lower()}": torch_uncertainty(name)
        for name in ("TemperatureScaler", "VectorScaler", "MatrixScaler")
    },
    "scikit-learn logistic regression": scikit_learn,
}
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "probmetrics", "netcal", "torch-uncertainty")


def measured(data: Arrays) -> Iterator[tuple[str, Scored | str, float]]:
    """The name of each method, its test probabilities or why there are none, and the seconds of the fit."""
    logits, labels, new, new_labels = data
    labels, new_labels = labels.astype(np.int64), new_labels.astype(np.int64)
    for name, fit in METHODS.items():
        start = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = fit(logits, labels)
                taken = time.process_time() - start
                yield name, Scored(found(new), new_labels), taken
        except (ImportError, ValueError) as error:
            yield name, str(error).splitlines()[0][:80], 0.0


def table(data: Arrays) -> list[str]:
    rows, found = [], list(measured(data))
    scores = {name: scored for name, scored, _ in found if isinstance(scored, Scored)}
    base, best = scores["temperature"].nll, scores.get("probmetrics sms")
    best_gain = None if best is None else float((base - best.nll).mean())
    for name, scored, seconds in found:
        if not isinstance(scored, Scored):
            rows.append(f"| {name} | left out: {scored} |" + " |" * 6)
            continue
        gains = base - scored.nll
        gain, error = float(gains.mean()), float(gains.std() / np.sqrt(len(gains)))
        share = f"{gain / best_gain:.0%}" if best_gain and name in (*OURS[3:], "probmetrics sms") else ""
        values = [
            scored.nll.mean(),
            scored.brier.mean(),
            expected_calibration_error(scored.probabilities, scored.labels),
            1 - scored.correct.mean(),
        ]
        numbers = " | ".join(f"{value:.4f}" for value in values)
        rows.append(f"| {name} | {numbers} | {gain:+.4f} ± {error:.4f} | {share} | {seconds:.2f} s |")
    return [
        "| | NLL | Brier | ECE | error | NLL gain over temperature | of that of sms | fit |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
    ]


# ---- Simulated models -----------------------------------------------------------------------------------------------


def drawn(kind: str, k: int, n: int, seed: list[int]) -> tuple[NDArray, NDArray, NDArray]:
    """Logits of a model, the true ones, and labels drawn from these."""
    world, generator = np.random.default_rng(seed[:2]), np.random.default_rng(seed)
    shift, scale, matrix = 0.4 * world.normal(size=k), np.exp(0.2 * world.normal(size=k)), world.normal(size=(k, k))
    logits = (6 if kind == "nearly separable" else 2) * generator.normal(size=(n, k))
    if kind == "one class missing":
        logits[:, 0] -= 12
    true = logits * (scale if kind == "scales" else 1) + (shift if kind == "shifts" else 0)
    if kind == "mixed up":
        true = logits + 0.25 / np.sqrt(k) * logits @ matrix
    if kind == "masked":
        hidden = generator.random(true.shape) < 0.3
        hidden[np.arange(n), generator.integers(k, size=n)] = False
        logits, true = (np.where(hidden, -np.inf, one) for one in (logits, true))
    labels = (true + generator.gumbel(size=true.shape)).argmax(axis=1)
    return logits * (1 if kind == "calibrated" else world.choice([0.6, 1.5, 2.5])), true, labels


def simulated(kind: str, k: int, n: int, draw: int) -> dict[str, Any]:
    """The NLL of new data, in expectation over their labels, under a temperature, under `auto`, and under the best."""
    logits, _, labels = drawn(kind, k, n, [draw, k, n])
    new, true, _ = drawn(kind, k, 4000, [draw, k, 1])
    posterior = softmax(true, axis=1)

    def nll(calibrator: Calibrator) -> float:
        logs = log_softmax(calibrator.calibrated_logits(new), axis=1)
        return -float((posterior * np.where(posterior > 0, logs, 0)).sum(axis=1).mean())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fits = {method: fit_calibrator(logits, labels, method) for method in ("temperature", "auto")}
    values = {method: nll(fit.calibrator) for method, fit in fits.items()}
    others = [cls.with_ridge(logits, labels, ridge) for cls in (VectorScaling, MatrixScaling) for ridge in cls.ridges]
    return {"method": fits["auto"].method, **values, "best": min(*values.values(), *map(nll, others))}


def simulation(draws: int) -> list[str]:
    lines = [
        "| K | N | worse by 0.3% | by 1% | worst | mean change | possible gain kept | none, T, vector, matrix |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for k, sizes in (
        (2, (50, 200, 1000, 5000)),
        (3, (50, 200, 1000)),
        (10, (50, 200, 1000, 5000)),
        (100, (200, 1000)),
    ):
        for n in sizes:
            some = max(draws * min(1000, 20_000 // k) // max(n, 1000), 2) if n * k > 10_000 else draws
            rows = [simulated(kind, k, n, draw) for kind in KINDS for draw in range(some)]
            base, auto, best = (np.array([row[key] for row in rows]) for key in ("temperature", "auto", "best"))
            change = auto / base - 1
            kept = (base - auto).sum() / (base - best).sum()
            chosen = ", ".join(str(sum(row["method"] == one for row in rows)) for one in OURS if one in CHOICES)
            lines.append(
                f"| {k} | {n} | {(change > 0.003).mean():.1%} | {(change > 0.01).mean():.1%} | {change.max():+.2%} | "
                f"{change.mean():+.2%} | {kept:.0%} | {chosen} |"
            )
    return lines


CHOICES = ("none", "temperature", "vector", "matrix")


def versions() -> str:
    found = [f"Python {platform.python_version()}", f"hf_focal {hf_focal.__version__}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found) + "."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", type=Path, nargs="*", default=[], help="Files of logits and labels.")
    parser.add_argument("--news", type=Path, help="Folder of 20 Newsgroups.")
    parser.add_argument("--draws", type=int, default=20, help="Simulated models of a kind.")
    parser.add_argument("--output", type=Path, help="Where to write the tables.")
    args = parser.parse_args()
    lines = [
        "# Calibrators: what they do to the probabilities of new data", "", versions(), "",
        "Command: `python -P benchmarks/calibrators.py --logits FILES --news FOLDER --output FILE`.", "",
        "Fitted to validation logits, measured on test logits; bias, vector and matrix without the guard. Gains are "
        "paired, with their standard error; the time is that of one processor, for ours with all metrics before and "
        "after and, for bias, vector and matrix, the fits to folds that say whether it helps.", "",
    ]  # fmt: skip
    sources = [(path.stem, of_file(path)) for path in args.logits]
    sources += [("20 Newsgroups", of_news(args.news))] if args.news else []
    for name, data in sources:
        auto = fit_calibrator(data[0], data[1])
        lines += [f"## {name}: {len(data[0])} x {data[0].shape[1]} to fit to, {len(data[2])} to measure on", ""]
        lines += [*table(data), "", f"`auto` chose {auto.method}. {auto.why}".rstrip(), ""]
    lines += [
        "## `auto` on simulated models", "",
        f"Kinds: {', '.join(KINDS)}. The NLL of new data beside that of the guarded temperature; what is kept is that "
        "of the gain of the best of temperature, vector and matrices, which only new data tell.", "",
        *simulation(args.draws),
    ]  # fmt: skip
    text = "\n".join(lines) + "\n"
    print(text)
    if args.output:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
