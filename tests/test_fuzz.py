# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Ten thousand random cases: numbers are those of a plain loop, and what is odd or broken is a `ValueError`, never an
error of another kind nor a quiet wrong number. Each case is drawn from its own number, which a failure tells.
"""

import json
import math
import re
from collections import Counter

import numpy as np
import pytest
import references
import torch
import yaml
from safetensors.torch import save_file
from scipy.special import log_softmax

from hf_focal import (
    Predictions,
    calibration_metrics,
    calibrator_of,
    fit_calibrator,
    load_logits,
    load_predictions,
    load_word_vectors,
    parse_tree,
    read_dynamics,
    save_predictions,
)
from hf_focal.cli.config_file import read_config
from hf_focal.models.record import check_record, refuse_unusable
from hf_focal.results.dynamics_file import DYNAMICS, NUMBERS, write_rows


pytestmark = pytest.mark.slow
LOOPS = {
    "accuracy": references.accuracy, "nll": references.nll, "brier": references.brier_score,
    "ece": references.ece, "mce": references.mce, "adaptive_ece": references.adaptive_ece,
    "classwise_ece": references.classwise_ece,
}  # fmt: skip
ODD = [
    None, True, 0, -1, 1, 2.5, -0.0, 1e-320, 1e308, 10**400, math.nan, math.inf, "", "1.0", "nll", [], [[]], {}, [1.0],
    [1.0, 2.0, 3.0], [0.2, 0.3, 0.5], [[1.0, 0.0], [0.0, 1.0]], {"method": "temperature"}, b"1",
]  # fmt: skip


def cases(kind, count):
    """Generators of `count` cases, with their numbers."""
    for number in range(count):
        yield number, np.random.default_rng([sum(kind.encode()), number])


def pick(generator, values):
    return values[generator.integers(len(values))]


# ---- Metrics: 3,000 -------------------------------------------------------------------------------------------------


def drawn_probabilities(generator):
    """Sharp, flat, tied, at the edges of bins, exactly 0 and 1."""
    n, k = generator.integers(1, 41), generator.integers(2, 7)
    logits = generator.normal(size=(n, k)) * 10.0 ** generator.uniform(-2, 2)
    probabilities = np.exp(log_softmax(logits, axis=1))
    kind = generator.integers(4)
    if kind == 1:  # one of the edges of n bins, for many n
        parts = generator.multinomial(pick(generator, [4, 10, 15, 20, 30]), probabilities)
        probabilities = parts / parts.sum(axis=1, keepdims=True)
    elif kind == 2:
        probabilities = np.eye(k)[probabilities.argmax(axis=1)]
    elif kind == 3:
        probabilities = probabilities[generator.integers(0, n, n)]
    labels = generator.integers(0, k, n)
    if generator.random() < 0.7:  # a label of probability 0 makes the NLL infinite
        labels = np.where(probabilities[np.arange(n), labels] > 0, labels, probabilities.argmax(axis=1))
    return probabilities, labels


def test_metrics_are_those_of_a_plain_loop():
    for number, generator in cases("metrics", 3000):
        probabilities, labels = drawn_probabilities(generator)
        n_bins = int(pick(generator, [1, 2, 3, 4, 5, 10, 15, 20, 30]))
        found = calibration_metrics(probabilities, labels, n_bins=n_bins)
        for key, loop in LOOPS.items():
            binned = key in ("ece", "mce", "adaptive_ece", "classwise_ece")
            expected = loop(probabilities, labels, n_bins) if binned else loop(probabilities, labels)
            assert found[key] == pytest.approx(expected, rel=1e-9, abs=1e-12), (number, key, n_bins)


# ---- Fits: 1,000 ----------------------------------------------------------------------------------------------------


def again(calibrator):
    return calibrator_of({"method": calibrator.method, **calibrator.to_record()})


def mean_nll(logits, labels):
    return -log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_fit_is_finite_and_no_worse_on_its_data_than_what_a_search_finds():
    for number, generator in cases("fits", 1000):
        n, k = generator.integers(2, 60), generator.integers(2, 6)
        truth = generator.normal(size=(n, k)) * 10.0 ** generator.uniform(-1, 1)
        labels = (truth + generator.gumbel(size=truth.shape)).argmax(axis=1)
        logits = truth * 10.0 ** generator.uniform(-1.5, 1.5) + 10.0 ** generator.uniform(-2, 3)
        method = pick(generator, ["temperature"] * 3 + ["bias", "vector"])
        guard = bool(generator.integers(2))
        try:
            fit = fit_calibrator(logits, labels, method, guard=guard)
        except ValueError as error:
            assert method != "temperature" and "needs at least" in str(error), number
            continue
        probabilities = fit.probabilities(logits)
        assert np.isfinite(probabilities).all() and np.allclose(probabilities.sum(axis=1), 1), number
        assert again(fit.calibrator) == fit.calibrator, number
        if guard:
            assert fit.after["nll"] <= fit.before["nll"] + 1e-9, (number, method)
        elif method == "temperature":
            low, high = 0.01, 100.0
            grid = np.geomspace(low, high, 400)
            best = min(mean_nll(logits / t, labels) for t in grid)
            assert mean_nll(logits / fit.temperature, labels) <= best + 1e-6 * max(1, best), (number, fit.temperature)


# ---- Records: 2,000 -------------------------------------------------------------------------------------------------

RECORDS = [
    {"method": "temperature", "temperature": 1.5},
    {"temperature": 2.0, "folded": False},
    {"method": "vector", "temperature": 1.5, "scale": [1.0, 2.0, 0.5], "shift": [0.0, 0.1, -0.1]},
    {"method": "matrix", "temperature": 1.5, "matrix": np.eye(3).tolist(), "shift": [0.0] * 3},
    {"method": "bias", "shift": [0.5, 0.0, -0.5]},
    {"method": "prior", "source": [0.2, 0.3, 0.5], "target": [0.5, 0.3, 0.2]},
    {"method": "focal", "temperature": 1.2, "gamma": 3.0},
]
RECORDS = [{"folded": True, "criterion": "nll", **record} for record in RECORDS]
KEYS = ["temperature", "gamma", "shift", "then", "method", "folded", "x", "scale"]


def spoiled(generator, value):
    """A record of which some entries, however deep, are other values."""
    if isinstance(value, dict):
        changed = {key: spoiled(generator, one) for key, one in value.items() if generator.random() > 0.05}
        if generator.random() < 0.2:
            changed[pick(generator, KEYS)] = pick(generator, ODD)
        return changed
    if generator.random() < 0.15:
        return pick(generator, ODD)
    return [spoiled(generator, one) for one in value] if isinstance(value, list) else value


def test_a_record_is_refused_or_is_a_calibrator_that_gives_probabilities():
    logits, usable = np.random.default_rng(0).normal(size=(4, 3)), Counter()
    for number, generator in cases("records", 2000):
        record = spoiled(generator, pick(generator, RECORDS))
        try:
            known = check_record(record)
            refuse_unusable(known, 3)
            calibrator = calibrator_of(known)
            with np.errstate(all="ignore"):
                found = calibrator.probabilities(logits)  # refuses what is for another number of classes
        except ValueError as error:
            assert len(str(error)) < 2000, number
            continue
        assert np.isfinite(found).all() and np.allclose(found.sum(axis=1), 1), (number, record)
        assert again(calibrator) == calibrator, number
        usable[calibrator.method] += 1
    assert 200 < sum(usable.values()) < 1800 and len(usable) == 5 and min(usable.values()) > 3, usable


# ---- Configs: 1,500 -------------------------------------------------------------------------------------------------

CONFIG = {
    "model_name_or_path": "resnet10t", "learning_rate": 1e-3, "loss_kwargs": {"gamma": 2.0}, "use_cpu": True,
    "label_names": ["labels"], "seed": 3, "hub_model_id": None, "run_name": "a: b # c", "dates": "2024-01-01",
}  # fmt: skip
PIECES = ["{", "}", "[", "]", ":", "- ", "\t", "\n", "&a ", "*a", "!!python/object:os.system ", "<<: ", "'", '"', "\0"]
PIECES += ["? ", "seed: 4\n", "\ufeff", "\ud7ff", "!!binary ", "1e999", ".nan", "%YAML 9\n", "---\n", "0o9", "=: 1\n"]


def test_a_config_is_a_mapping_or_refused_by_the_name_of_its_file(tmp_path):
    read = 0
    for number, generator in cases("configs", 1500):
        is_json = bool(generator.integers(2))
        text = json.dumps(CONFIG, indent=1) if is_json else yaml.safe_dump(CONFIG)
        data = bytearray(broken_text(generator, text).encode("utf-8", "surrogatepass"))
        if generator.random() < 0.2:
            data[generator.integers(len(data))] = generator.integers(256)
        path = tmp_path / ("config.json" if is_json else "config.yaml")
        path.write_bytes(data)
        try:
            values = read_config(path)
        except ValueError as error:
            assert str(path) in str(error), number
            continue
        read += 1
        assert isinstance(values, dict) and not any(isinstance(one, (float, bool)) for one in values.values()), number
    assert 100 < read < 1400


def broken_text(generator, text):
    """A text with pieces put in, taken out, doubled or cut off."""
    for _ in range(generator.integers(0, 4)):
        start, stop = sorted(generator.integers(0, len(text) + 1, 2))
        stop = min(stop, start + 8)
        kind = generator.integers(4)
        put = pick(generator, PIECES) if kind == 0 else text[start:stop] * 2 if kind == 1 else ""
        text = text[:start] if kind == 3 and generator.random() < 0.3 else text[:start] + put + text[stop:]
        text = text or " "
    return text


# ---- Trees: 1,500 ---------------------------------------------------------------------------------------------------


def drawn_tree(generator, leaves):
    label = generator.integers(5)
    if leaves == 1:
        return f"({label} {pick(generator, ['good', 'a', '-LRB-', '8½', 'x.y', ','])})"
    left = generator.integers(1, leaves)
    return f"({label} {drawn_tree(generator, left)} {drawn_tree(generator, leaves - left)})"


def tree_by_descent(text):
    """`(label, word)` or `(label, left, right)`, or None for what is no tree, by recursive descent."""
    pieces = re.findall(r"[()]|[^ \t\r\n()]+", text)

    def node(at):
        if pieces[at] != "(" or pieces[at + 1] in "()":
            raise IndexError
        if pieces[at + 2] == "(":
            left, after = node(at + 2)
            right, after = node(after)
            found = (pieces[at + 1], left, right)
        elif pieces[at + 2] != ")":
            found, after = (pieces[at + 1], pieces[at + 2]), at + 3
        else:
            raise IndexError
        if pieces[after] != ")":
            raise IndexError
        return found, after + 1

    try:
        found, after = node(0)
    except IndexError:
        return None
    return found if after == len(pieces) else None


def rebuilt(tree, node):
    if tree.words[node] is not None:
        return tree.labels[node], tree.words[node]
    return tree.labels[node], *(rebuilt(tree, child) for child in tree.children[node])


def test_a_tree_is_read_as_by_recursive_descent_or_refused():
    refused = 0
    for number, generator in cases("trees", 1500):
        text = drawn_tree(generator, int(generator.integers(1, 12)))
        for _ in range(generator.integers(0, 3)):
            at = generator.integers(len(text))
            text = text[:at] + pick(generator, ["(", ")", " ", "", "((", "\xa0", "\n", "(2 w)"]) + text[at + 1 :]
            text = text or " "
        expected = tree_by_descent(text)
        try:
            tree = parse_tree(text, row=7)
        except ValueError as error:
            refused += 1
            assert expected is None and "Row 7, character" in str(error), (number, text)
            continue
        found = rebuilt(tree, len(tree.labels) - 1)
        assert str(found).replace("'('", "'-LRB-'") == str(expected), (number, text)
    assert 200 < refused < 1300


# ---- Files: 1,000 ---------------------------------------------------------------------------------------------------


def written(folder):
    """A file of each kind, by what reads it."""
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(12, 3)).astype(np.float32), generator.integers(0, 3, 12)
    parts = {name: Predictions(logits, labels, split=name) for name in ("validation", "test")}
    save_predictions(folder / "predictions.safetensors", parts)
    np.savez(folder / "logits.npz", val_logits=logits, val_labels=labels, test_logits=logits, test_labels=labels)
    save_file({"weight": torch.ones(3, 2)}, folder / "vectors.safetensors")
    (folder / "vocab.txt").write_text("a\nb\nc\n")
    (folder / "run").mkdir()
    row = {"epoch": 1.0, "step": 4, "split": "validation", "loss": "focal", "n_samples": 12, "gradient_norms": [1.0]}
    write_rows(folder / "run" / DYNAMICS, [row | dict.fromkeys(NUMBERS, 0.5)])
    return {
        "predictions.safetensors": lambda: load_predictions(folder / "predictions.safetensors"),
        "logits.npz": lambda: load_logits(folder / "logits.npz"),
        "vectors.safetensors": lambda: load_word_vectors(folder),
        "vocab.txt": lambda: load_word_vectors(folder),
        f"run/{DYNAMICS}": lambda: read_dynamics([folder / "run"]),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")  # of NumPy and zipfile, of what a broken archive says
def test_a_broken_file_is_read_or_refused(tmp_path):
    readers = written(tmp_path)
    whole = {name: (tmp_path / name).read_bytes() for name in readers}
    refused = 0
    for number, generator in cases("files", 1000):
        name = pick(generator, [*readers])
        data = bytearray(whole[name])
        for _ in range(generator.integers(1, 5)):
            head = generator.random() < 0.5  # where a file says what it holds
            data[generator.integers(min(len(data), 200) if head else len(data))] = generator.integers(256)
        if generator.random() < 0.3:
            data = data[: generator.integers(len(data))]
        (tmp_path / name).write_bytes(data)
        try:
            readers[name]()
        except ValueError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"case {number}, {name}: {type(error).__name__}: {error}") from error
        (tmp_path / name).write_bytes(whole[name])
    assert 300 < refused < 1000
    assert all(reader() for reader in readers.values())
