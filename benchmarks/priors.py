# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
What `adjust_prior` and `undo_class_weights` do to the NLL, beside refitting on labelled data of the place of use.

Shifts: logits of real data are split into three parts. A calibrator is fitted to the first, whose classes are about
equally frequent. Of the second, rows are drawn by other class frequencies: labelled for the refit of a temperature and
a shift of each class, without labels for the estimate by EM. The third, each row weighted by what its class is more or
less frequent, tells the NLL.

Weights: models are trained with and without class weights on data of unequal classes.

    python benchmarks/priors.py --data DIR --output benchmarks/results/priors.md

DIR holds `logits/cifar10_densenet40.npz` (DenseNet-40, Kull et al., 2019) and `twenty_newsgroups`.
"""

import argparse
import platform
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import scipy
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import hf_focal
from hf_focal.calibrators.prior import ClassWeights, PriorShift, frequencies


class Logits(NamedTuple):
    """Logits and labels, and how many rows the calibrator is fitted to."""

    values: NDArray
    labels: NDArray
    fitted: int


def cifar10(data: Path) -> Logits:
    file = np.load(data / "logits" / "cifar10_densenet40.npz")
    values = np.concatenate([file["val_logits"], file["test_logits"]]).astype(np.float64)
    return Logits(values, np.concatenate([file["val_labels"], file["test_labels"]]), 5000)


def newsgroups(data: Path) -> tuple[list[str], NDArray, list[str], NDArray]:
    """Texts and labels for training and test."""
    parts = (pq.read_table(next((data / "twenty_newsgroups").glob(f"{split}-*"))) for split in ("train", "test"))
    (texts, labels), (test_texts, test_labels) = (
        (part["text"].to_pylist(), part["label"].to_numpy()) for part in parts
    )
    return texts, labels, test_texts, test_labels


def newsgroups_logits(data: Path) -> Logits:
    texts, labels, test_texts, test_labels = newsgroups(data)
    tfidf = TfidfVectorizer(sublinear_tf=True, min_df=2, max_features=30_000)
    model = LogisticRegression(max_iter=200).fit(tfidf.fit_transform(texts), labels)
    return Logits(4 * model.decision_function(tfidf.transform(test_texts)), test_labels, 2500)


def nll(logits: NDArray, labels: NDArray, weights: NDArray | None = None) -> float:
    rows = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    return float(np.average(rows, weights=weights))


def refit(logits: NDArray, labels: NDArray) -> tuple[float, NDArray]:
    """Factor and shifts of smallest NLL, of a ridge that only keeps classes without samples in bounds."""
    count, num_labels = logits.shape
    targets = np.eye(num_labels)[labels]

    def value(x: NDArray) -> tuple[float, NDArray]:
        mapped = log_softmax(x[0] * logits + x[1:], axis=1)
        errors = np.exp(mapped) - targets
        slopes = np.concatenate([[(errors * logits).sum()], errors.sum(0) + 2e-2 * x[1:]])
        return -mapped[np.arange(count), labels].sum() + 1e-2 * (x[1:] ** 2).sum(), slopes

    x = minimize(value, np.r_[1.0, np.zeros(num_labels)], jac=True, method="L-BFGS-B").x
    return float(x[0]), x[1:]


def shifts(num_labels: int, generator: np.random.Generator) -> dict[str, NDArray]:
    """Class frequencies of use; which class is rare and the order of the tail are drawn."""
    order, rare = generator.permutation(num_labels), np.ones(num_labels)
    rare[generator.integers(num_labels)] = 0.1
    tail = 0.01 ** (np.arange(num_labels) / (num_labels - 1))
    found = {
        "Dirichlet(10)": generator.dirichlet(np.full(num_labels, 10.0)),
        "Dirichlet(1)": generator.dirichlet(np.ones(num_labels)) + 1e-4,
        "one class 10 times rarer": rare,
        "long tail, 100 to 1": tail[order],
    }
    return {name: one / one.sum() for name, one in found.items()}


def one_split(data: Logits, method: str, seed: int) -> dict[str, list[float]]:
    """For each shift the NLL unadjusted, with given frequencies, with estimated ones, and refitted."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(data.labels))
    first, second, third = np.split(order, [data.fitted, (data.fitted + len(order)) // 2])
    num_labels = data.values.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fit = hf_focal.fit_calibrator(data.values[first], data.labels[first], method)
    source = frequencies("source", np.bincount(data.labels[first], minlength=num_labels), num_labels)
    logits = fit.calibrator.calibrated_logits(data.values)
    found = {}
    for name, target in shifts(num_labels, generator).items():
        wanted = target[data.labels] / (np.bincount(data.labels[second]) / len(second))[data.labels[:, None]][:, 0]
        drawn = generator.choice(second, 20_000, p=wanted[second] / wanted[second].sum())
        unlabelled = generator.choice(second, 5_000, p=wanted[second] / wanted[second].sum())
        weights = (target / np.bincount(data.labels[third]))[data.labels[third]]
        estimated = hf_focal.estimate_prior(softmax(logits[unlabelled], axis=1), source)
        factor, shift = refit(data.values[drawn], data.labels[drawn])
        ways = [
            logits,
            PriorShift(tuple(source), tuple(target)).calibrated_logits(logits),
            PriorShift(tuple(source), tuple(estimated)).calibrated_logits(logits),
            factor * data.values + shift,
        ]
        found[name] = [nll(way[third], data.labels[third], weights) for way in ways]
    return found


def shift_table(data: Logits, method: str, splits: int) -> list[str]:
    runs = [one_split(data, method, seed) for seed in range(splits)]
    lines = [
        "| frequencies of use | refitted | unadjusted | given | within 1% | estimated by EM | within 1% |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in runs[0]:
        values = np.array([run[name] for run in runs])
        changes = values[:, :3] / values[:, 3:] - 1
        mean, error = changes.mean(0), changes.std(0, ddof=1) / splits**0.5
        cells = [f"{mean[i]:+.1%} ± {error[i]:.1%}" for i in range(3)]
        within = [f"{(changes[:, i] <= 0.01).mean():.0%}" for i in (1, 2)]
        row = [name, f"{values[:, 3].mean():.4f}", *cells[:2], within[0], cells[2], within[1]]
        lines.append(f"| {' | '.join(row)} |")
    return lines


# Class weights.


def undone(logits: NDArray, weights: NDArray) -> NDArray:
    return ClassWeights(tuple(weights)).calibrated_logits(logits)


def weights_row(name: str, with_weights: NDArray, without: NDArray, labels: NDArray, weights: NDArray) -> str:
    """NLL on the second half of the rows; the refit is on the first."""
    half = len(labels) // 2
    factor, shift = refit(with_weights[:half], labels[:half])
    fit_after = hf_focal.fit_temperature(undone(with_weights, weights)[:half], labels[:half], guard=False)
    ways = [
        with_weights, undone(with_weights, weights), undone(with_weights, weights) / fit_after.temperature, without,
        factor * with_weights + shift,
    ]  # fmt: skip
    return f"| {name} | " + " | ".join(f"{nll(way[half:], labels[half:]):.4f}" for way in ways) + " |"


def newsgroups_rows(data: Path) -> list[str]:
    """
    Logistic regression on classes of which the last has a tenth of the texts of the first, weights "balanced": on some
    30,000 words, by which the training data can be told apart, and on 50 directions of them, by which they cannot.
    """
    generator = np.random.default_rng(0)
    texts, labels, test_texts, test_labels = newsgroups(data)
    share = 0.1 ** (np.arange(20) / 19)
    rows = np.flatnonzero(generator.random(len(labels)) < share[labels])
    test = generator.permutation(np.flatnonzero(generator.random(len(test_labels)) < share[test_labels]))
    tfidf = TfidfVectorizer(sublinear_tf=True, min_df=2, max_features=30_000)
    inputs = tfidf.fit_transform([texts[row] for row in rows])
    new = tfidf.transform([test_texts[row] for row in test])
    directions = make_pipeline(TruncatedSVD(50, random_state=0), StandardScaler())
    kinds = {
        "words, C = 1": (1.0, inputs, new),
        "words, C = 30": (30.0, inputs, new),
        "50 directions, C = 1": (1.0, directions.fit_transform(inputs), directions.transform(new)),
    }
    found = []
    for name, (strength, known, unknown) in kinds.items():
        models = [LogisticRegression(max_iter=500, C=strength, class_weight=one) for one in ("balanced", None)]
        logits = [model.fit(known, labels[rows]).decision_function(unknown) for model in models]
        weights = len(rows) / (20 * np.bincount(labels[rows]))
        found.append(weights_row(f"20 Newsgroups, logistic regression, {name}", *logits, test_labels[test], weights))
    return found


def simulated(generator: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Five normal classes in the plane, the rarest of which has a share of 3%."""
    shares = 0.5 ** np.arange(5)
    labels = generator.choice(5, count, p=shares / shares.sum())
    angles = 2 * np.pi * labels / 5
    inputs = np.stack([np.cos(angles), np.sin(angles)], axis=1) + 0.7 * generator.normal(size=(count, 2))
    return torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels)


def network(loss: hf_focal.CalibrationLoss, inputs, labels, weights, new, seed: int) -> NDArray:
    """A network of one hidden layer, trained by a loss times the weight of each sample; its logits of new samples."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.ReLU(), torch.nn.Linear(64, 5))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    epochs, batch = 12, 512
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (len(labels) // batch))
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(batch)[: len(labels) // batch]:
            optimizer.zero_grad()
            (loss(model(inputs[rows]), labels[rows]) * weights[labels[rows]]).mean().backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return model(new).double().numpy()


def network_rows() -> list[str]:
    generator = np.random.default_rng(0)
    inputs, labels = simulated(generator, 50_000)
    new, new_labels = simulated(generator, 50_000)
    weights = len(labels) / (5 * torch.bincount(labels))
    losses = {
        "cross-entropy": hf_focal.CrossEntropyLoss(reduction="none"),
        "focal, gamma 3": hf_focal.FocalLoss(gamma=3.0, reduction="none"),
        "Brier": hf_focal.BrierLoss(reduction="none"),
        "label smoothing 0.1": hf_focal.LabelSmoothingLoss(smoothing=0.1, reduction="none"),
    }
    rows = []
    for name, loss in losses.items():
        one = network(loss, inputs, labels, weights, new, 0)
        plain = network(loss, inputs, labels, torch.ones(5), new, 0)
        rows.append(weights_row(f"simulated, network, {name}", one, plain, new_labels.numpy(), weights.numpy()))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder with logits and texts.")
    parser.add_argument("--splits", type=int, default=20, help="Splits of the logits, each with shifts of its own.")
    parser.add_argument("--output", type=Path, default=None, help="Where to write the tables.")
    args = parser.parse_args()
    start = time.time()
    torch.set_num_threads(1)
    lines = [
        "# Priors: the NLL under other class frequencies, and after training with class weights", "",
        f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}, torch "
        f"{torch.__version__}, hf_focal {hf_focal.__version__}.", "",
        "Command: `python benchmarks/priors.py --data DIR --output benchmarks/results/priors.md`.", "",
        "## Other class frequencies", "",
        f"{args.splits} splits, with frequencies of use drawn anew in each. NLL of the refit of a temperature and a "
        "shift of each class on 20,000 labelled rows drawn by the frequencies of use, and how much higher that of "
        "others is (mean and its standard error): the calibrator as it is, with the prior by the given frequencies, "
        "and by those that EM estimates from 5,000 rows without labels. Within 1%: share of the splits. Aim: 1%.", "",
    ]  # fmt: skip
    for name, data in (("CIFAR-10, DenseNet-40", cifar10(args.data)), ("20 Newsgroups, TF-IDF and logistic "
            "regression, logits times 4", newsgroups_logits(args.data))):  # fmt: skip
        for method in ("temperature", "vector"):
            lines += [f"### {name}; `{method}` on {data.fitted} rows", ""]
            lines += [*shift_table(data, method, args.splits), ""]
    lines += [
        "## Class weights of training undone", "",
        "NLL of new data of the frequencies of training: under weights of inverse frequency, these undone, a "
        "temperature fitted after that, training without weights, and a temperature and shifts fitted to the model "
        "under weights; fits are on half of the new data, which the other half judges. Undoing is exact where the "
        "model found the minimiser of cross-entropy (simulated data), and all but a temperature where it overfits a "
        "little (50 directions); where words tell all training texts apart, weights did little and undoing them does "
        "too much. After focal loss or label smoothing it is "
        "wrong, and refused. That Brier comes out right is no accident: it is a proper score as cross-entropy is.",
        "",
        "| data, model, loss | with weights | undone | undone, then a temperature | trained without | refitted |",
        "|---|---|---|---|---|---|",
        *newsgroups_rows(args.data), *network_rows(), "",
    ]  # fmt: skip
    text = "\n".join(lines)
    print(f"{text}\n{time.time() - start:.0f} s")
    if args.output:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
