# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Files of runs that are broken or odd are refused by name."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from hf_focal import Predictions, gradient_norm_histograms, load_predictions, read_dynamics, save_predictions
from hf_focal.results.dynamics_file import NUMBERS, write_rows


ROW = {"epoch": 1.0, "step": 5, "split": "train", "loss": "focal", "n_samples": 4, **dict.fromkeys(NUMBERS, 0.5)}
ROWS = [{**ROW, "epoch": float(epoch), "gradient_norms": [0.5, 2.0]} for epoch in range(3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [{"loss": "a", "epoch": 1}], "lacks the columns split, nll, "),
        (lambda rows: [], "is empty: it holds no epochs"),
        (lambda rows: [*rows, rows[1]], "row 3 is a second one of 'train' after epoch 1"),
        (
            lambda rows: [*rows[:2], {**rows[2], "epoch": math.nan}],
            "'epoch' in row 2 must be a finite number, got nan",
        ),
        (
            lambda rows: [{**row, "nll": "0.5"} for row in rows],
            "'nll' in row 0 must be a number, or nothing, got '0.5'",
        ),
        (lambda rows: [{**row, "loss": 3} for row in rows], "'loss' in row 0 must be text, got 3"),
        (lambda rows: [{**row, "gradient_norms": 1.0} for row in rows], "'gradient_norms' in row 0 must be a list"),
    ],
)
def test_odd_dynamics_are_refused_by_file_and_row(tmp_path, change, message):
    file = tmp_path / "training_dynamics.parquet"
    rows = change(ROWS)
    pq.write_table(pa.Table.from_pylist(rows), file) if rows else write_rows(file, rows)
    for average in (False, True):
        with pytest.raises(ValueError, match=f"training_dynamics.parquet.*{message}"):
            read_dynamics([tmp_path], average)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="training_dynamics.parquet is damaged"):
        read_dynamics([tmp_path])


def test_gradient_norms_that_are_no_numbers_are_counted_and_not_drawn(caplog):
    runs = {"a": [ROWS[0], {**ROWS[1], "gradient_norms": [1.0, math.nan, math.inf, 3.0]}]}
    figure = gradient_norm_histograms(runs)
    assert len(figure.axes) == 2
    assert caplog.messages == ["a: 2 of 4 gradient norms after epoch 1 are infinite or NaN and not drawn."]
    with pytest.raises(ValueError, match="No gradient norm is finite"):
        gradient_norm_histograms({"a": [{**ROWS[0], "gradient_norms": [math.nan]}]})


LOGITS, LABELS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32), np.arange(6) % 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"test_logits": np.where(np.arange(3) == 1, np.nan, LOGITS)}, "test_logits .*NaN"),
        ({"test_logits": LOGITS[0]}, r"must have shape \(num_samples, num_labels\), got \(3,\)"),
        ({"test_labels": LABELS[:5]}, "same length, got 6 and 5"),
        ({"test_labels": LABELS + 1}, r"must lie in \[0, 2\]"),
        ({"test_labels": LABELS + 0.5}, "whole numbers"),
        ({"test_sentences": LABELS[:5]}, "a whole number for each of 6 labels"),
    ],
)
def test_odd_predictions_are_refused_by_file(tmp_path, arrays, message):
    save_file({"test_logits": LOGITS, "test_labels": LABELS, **arrays}, tmp_path / "predictions.safetensors")
    with pytest.raises(ValueError, match=rf"predictions.safetensors cannot be used: .*{message}"):
        load_predictions(tmp_path / "predictions.safetensors")


def test_broken_predictions_are_named_and_whole_ones_are_read(tmp_path):
    file = tmp_path / "predictions.safetensors"
    save_predictions(file, {"test": Predictions(LOGITS, LABELS, LABELS)}, about="x")
    parts, metadata = load_predictions(file)
    np.testing.assert_array_equal(parts["test"].logits, LOGITS)
    np.testing.assert_array_equal(parts["test"].groups, LABELS)
    assert metadata["about"] == "x"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="predictions.safetensors is damaged"):
        load_predictions(file)
    save_file({"test_logits": LOGITS}, file)
    with pytest.raises(ValueError, match="has logits of 'test' without labels"):
        load_predictions(file)
    save_file({"test_logits": LOGITS, "test_labels": LABELS}, file, metadata={"splits": "[1"})
    with pytest.raises(ValueError, match="predictions.safetensors cannot be used"):
        load_predictions(file)
    with pytest.raises(FileNotFoundError, match="no such file: .*gone.safetensors"):
        load_predictions(tmp_path / "gone.safetensors")
