# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""All calibrators on one's own logits: the table against plain NumPy, the picture, and the files that are read."""

import runpy
import sys

import numpy as np
import pytest
import references
from conftest import ROOT
from scipy.special import log_softmax, softmax

from hf_focal import CALIBRATORS, Predictions, compare_calibrators, fit_calibrator, load_logits, noise_floor
from hf_focal.predictions import save_predictions


SCRIPT = str(ROOT / "scripts" / "compare_calibrators.py")


def drawn(count, seed, classes=4):
    generator = np.random.default_rng(seed)
    true = 2 * generator.normal(size=(count, classes))
    labels = (true + np.linspace(-1, 1, classes) + generator.gumbel(size=true.shape)).argmax(axis=1)
    return (2 * true).astype(np.float32), labels


VALIDATION, TEST = Predictions(*drawn(600, 0)), Predictions(*drawn(600, 1), np.arange(600) // 3)


@pytest.fixture(scope="module")
def compared():
    return compare_calibrators(VALIDATION, TEST, n_bins=10)


def rows_of(table):
    """Of each method the cells of its line."""
    lines = table.split("\n\n")[1].splitlines()
    assert lines[0].split("  ")[0] == "method"
    return {line.split()[0]: line.split() for line in lines[1:]}


def test_every_number_of_the_table_is_that_of_its_definition(compared):
    rows = rows_of(str(compared))
    likelihoods = {}
    assert list(rows) == ["none", *CALIBRATORS, "auto"]
    assert max(map(len, str(compared).splitlines())) <= 80
    assert str(compared).startswith("Fitted on 600 samples, measured on 600; gains with 90% intervals.\n\n")
    for method in sorted(rows, key="temperature".__ne__):  # which the gains are over
        _, nll, brier, ece, error, seconds, *gain = rows[method]
        mapped = compared[method].fit.calibrator.calibrated_logits(TEST.logits.astype(float))
        probabilities = softmax(mapped, axis=1)
        likelihoods[method] = log_softmax(mapped, axis=1)[np.arange(600), TEST.labels]
        assert nll == f"{-likelihoods[method].mean():.4f}"
        assert brier == f"{references.brier_score(probabilities, TEST.labels):.4f}"
        floor = noise_floor("ece", probabilities, n_bins=10, groups=TEST.groups, labels=TEST.labels)
        value = references.ece(probabilities, TEST.labels, 10)
        assert ece == f"{value:.2%}" + "~" * (value <= floor.high)
        assert error == f"{1 - references.accuracy(probabilities, TEST.labels):.2%}" and float(seconds) >= 0
        if method == "temperature":
            assert gain == []
            continue
        generator, differences, means = np.random.default_rng(0), likelihoods[method] - likelihoods["temperature"], []
        for _ in range(1000):
            tokens = [3 * group + np.arange(3) for group in generator.integers(0, 200, 200)]
            means.append(differences[np.concatenate(tokens)].mean())
        low, high = np.quantile(means, (0.05, 0.95))
        shown = [f"{number:.4f}".replace("-0.0000", "0.0000") for number in (differences.mean(), low, high)]
        assert " ".join(gain) == "{} ({} to {})".format(*shown)
        assert compared[method].gain.low == pytest.approx(low, abs=1e-12)


def test_what_the_table_does_not_say_is_said_below_it(compared):
    chosen = compared["auto"].fit.method
    for method in ("vector", "auto"):
        assert compared[method].fit == fit_calibrator(VALIDATION.logits, VALIDATION.labels, method, n_bins=10)
    assert f"auto: chose {chosen}." in str(compared)
    assert "~: no more than chance" in str(compared)
    few = compare_calibrators(Predictions(VALIDATION.logits[:40] / 2, VALIDATION.labels[:40]), TEST, ["temperature"])
    assert few["temperature"].fit.unchanged
    assert f"temperature: {few['temperature'].why}" in str(few).replace("\n  ", " ")


def test_the_picture_shows_the_gains_and_the_errors(compared):
    left, right = compared.diagram().axes
    assert [label.get_text() for label in left.get_yticklabels()] == [one.method for one in compared.candidates]
    dots = {int(line.get_ydata()[0]): line.get_xdata()[0] for line in left.lines if line.get_marker() == "o"}
    written = {round(text.get_position()[1]): text.get_text() for text in left.texts}
    for place, one in enumerate(compared.candidates):
        if one.gain is not None:
            size = one.gain.difference
            assert dots.get(place) == size or f"{size:.4f}" in written[place]
    errors = {int(line.get_ydata()[0]): line.get_xdata()[0] for line in right.lines if line.get_marker() == "o"}
    assert errors == {place: 100 * one.values["ece"] for place, one in enumerate(compared.candidates)}
    low, high = left.get_xlim()
    assert all(low <= value <= high for value in dots.values())


@pytest.mark.parametrize(
    ("validation", "test", "methods", "message"),
    [
        (VALIDATION, VALIDATION, None, "are the same, so that the map of most numbers would win"),
        (VALIDATION, Predictions(np.zeros((5, 3)), np.zeros(5, int)), None, "have 4 classes and the test data 3"),
        (VALIDATION, TEST, ["temprature"], "Did you mean 'temperature'"),
        (
            VALIDATION,
            Predictions(TEST.logits[:3], TEST.labels[:3], TEST.groups[:3]),
            None,
            "one sample or group alone",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(validation, test, methods, message):
    with pytest.raises(ValueError, match=message):
        compare_calibrators(validation, test, methods)


def test_a_method_that_cannot_be_fitted_leaves_the_others():
    generator = np.random.default_rng(0)
    parts = [Predictions(generator.normal(size=(300, 101)), generator.integers(0, 101, 300)) for _ in range(2)]
    compared = compare_calibrators(*parts, methods=["matrix", "none"])
    assert [one.method for one in compared.candidates] == ["temperature", "matrix", "none"]
    assert rows_of(str(compared))["matrix"][1:] == ["-"] * 6 and "at most 100 classes, got 101" in str(compared)
    assert len(compared.diagram().axes[0].get_yticks()) == 2


# ---- Files ----------------------------------------------------------------------------------------------------------


def same(found, expected):
    return np.array_equal(found.logits, expected.logits) and np.array_equal(found.labels, expected.labels)


def test_logits_are_read_from_runs_and_archives(tmp_path, caplog):
    save_predictions(tmp_path / "predictions.safetensors", {"validation": VALIDATION, "test": TEST})
    arrays = {"val_logits": VALIDATION.logits, "val_labels": VALIDATION.labels}
    arrays |= {"test_logits": TEST.logits, "test_labels": TEST.labels, "test_groups": TEST.groups}
    np.savez(tmp_path / "both.npz", **arrays)
    for source in (tmp_path, tmp_path / "predictions.safetensors", tmp_path / "both.npz"):
        parts = load_logits(source)
        assert same(parts["validation"], VALIDATION) and same(parts["test"], TEST)
        assert np.array_equal(parts["test"].groups, TEST.groups) and parts["validation"].groups is None
    for name, part in (("one", VALIDATION), ("other", TEST)):
        np.savez(tmp_path / f"{name}.npz", logits=part.logits, labels=part.labels)
    parts = load_logits(tmp_path / "one.npz", tmp_path / "other.npz")
    assert same(parts["validation"], VALIDATION) and same(parts["test"], TEST) and not caplog.records
    np.savez(tmp_path / "single.npz", logits=TEST.logits, labels=TEST.labels, groups=TEST.groups)
    halves = load_logits(tmp_path / "single.npz", seed=3)
    assert "is halved, 300 samples to fit on and 300 to measure on (seed 3)" in caplog.text
    groups = [set(half.groups.tolist()) for half in halves.values()]
    assert not groups[0] & groups[1] and groups[0] | groups[1] == set(range(200))
    rows = np.concatenate([half.logits for half in halves.values()])
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(TEST.logits, axis=0))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": [1.0]}, "has the arrays x. Needed are logits and labels, or val_logits"),
        ({"logits": [[1.0, 2.0]]}, "has logits without labels"),
        ({"logits": [[1.0, np.nan]], "labels": [0]}, "cannot be used: "),
        ({"logits": [[1.0, 2.0]], "labels": [2]}, "cannot be used: "),
        ({"logits": np.array([None, "x"], dtype=object), "labels": [0]}, "cannot be read: "),
        ({"logits": [[1.0, 2.0]], "labels": [0]}, "one sample or group alone, of which no half is left"),
    ],
)
def test_archives_that_are_of_no_use_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_logits(tmp_path / "x.npz")


def test_files_that_are_none_of_these_are_named(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ValueError, match="x.npz cannot be read"):
        load_logits(tmp_path / "x.npz")
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(ValueError, match="neither a folder of a run, nor .safetensors, nor .npz"):
        load_logits(tmp_path / "x.csv")
    with pytest.raises(FileNotFoundError, match="There is no such file: .*predictions.safetensors"):
        load_logits(tmp_path)
    save_predictions(tmp_path / "predictions.safetensors", {"train": TEST})
    with pytest.raises(ValueError, match="no predictions of validation or test data, but train"):
        load_logits(tmp_path)


def test_the_script_prints_the_table_and_draws_the_picture(tmp_path, monkeypatch, capsys):
    save_predictions(tmp_path / "predictions.safetensors", {"validation": VALIDATION, "test": TEST})
    flags = ["--methods", "none", "bias", "--n_bins", "10", "--output", str(tmp_path / "figures")]
    monkeypatch.setattr(sys, "argv", [SCRIPT, str(tmp_path), *flags])
    runpy.run_path(SCRIPT, run_name="__main__")
    *table, blank, picture = capsys.readouterr().out.splitlines()
    assert not blank and picture == str(tmp_path / "figures" / "calibrators.png")
    assert list(rows_of("\n".join(table))) == ["temperature", "none", "bias"]
    assert (tmp_path / "figures" / "calibrators.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["none.npz"], "There is no such file: none.npz"),
        (["x.npz", "--method", "bias"], "There is no flag --method. Did you mean '--methods'?"),
        (["x.npz", "--plugin", "none.py"], "--plugin none.py: there is no such file."),
        ([], "required: logits"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [SCRIPT, *flags])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(SCRIPT, run_name="__main__")
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("compare_calibrators.py: error: ") and message in said
    assert not list(tmp_path.iterdir())
