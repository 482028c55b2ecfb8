# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Predictions of a file, read from it where they are many."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from hf_focal import METRICS, Predictions, compare_runs, load_predictions, predictions, save_predictions
from hf_focal.results.logit_files import load_logits


generator = np.random.default_rng(0)


def part(count=60, classes=4):
    logits = (2 * generator.normal(size=(count, classes))).astype(np.float32)
    return Predictions(logits, (logits / 2 + generator.gumbel(size=logits.shape)).argmax(axis=1))


def is_mapped(array):
    return isinstance(array, np.memmap) or (array is not None and is_mapped(getattr(array, "base", None)))


@pytest.fixture
def mapped(monkeypatch):
    return lambda: monkeypatch.setattr(predictions, "IN_MEMORY", 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_logits_of_a_file_are_the_same_where_they_stay_in_it(tmp_path, dtype, mapped):
    one, file = part(), tmp_path / "predictions.safetensors"
    arrays = {"a_labels": one.labels, "test_logits": one.logits.astype(dtype), "test_labels": one.labels}
    save_file(arrays, file, metadata={"splits": json.dumps({"test": "held out"})})
    before = load_predictions(file)[0]["test"]
    mapped()
    after = load_predictions(file)[0]["test"]
    assert is_mapped(after.logits) is (dtype != np.float16) and not is_mapped(before.logits)
    assert after.logits.dtype == before.logits.dtype and np.array_equal(after.logits, before.logits)
    assert np.array_equal(after.labels, one.labels) and after.split == before.split == "held out"
    if dtype != np.float16:
        with pytest.raises(ValueError, match="read-only"):
            after.logits[0] = 0


def test_predictions_are_written_over_the_file_that_they_lie_in(tmp_path, mapped):
    mapped()
    one, file, link = part(2000, 200), tmp_path / "predictions.safetensors", tmp_path / "link.safetensors"
    save_predictions(file, {"test": one})
    link.symlink_to(file)
    kept = load_predictions(link)[0]
    save_predictions(link, {"test": kept["test"], "validation": part(10)})
    again = load_predictions(file)[0]
    assert np.array_equal(again["test"].logits, one.logits) and len(again["validation"]) == 10
    assert np.array_equal(kept["test"].logits, one.logits) and link.is_symlink()


def test_runs_are_compared_and_halves_drawn_from_the_file_as_from_memory(tmp_path, mapped):
    for seed, folder in enumerate((tmp_path / "a", tmp_path / "b")):
        folder.mkdir()
        save_predictions(folder / "predictions.safetensors", {"validation": part(300), "test": part(200)})
        numbers = {f"test_{moment}_{key}": 0.5 for moment in ("before", "after") for key in METRICS}
        results = {**numbers, "temperature": 2.0, "dataset": "noise", "loss": folder.name, "seed": seed}
        (folder / "all_results.json").write_text(json.dumps(results))
        record = {"temperature": 2.0, "folded": True, "method": "temperature"}
        (folder / "config.json").write_text(json.dumps({"calibration": record}))
    save_predictions(tmp_path / "one.safetensors", {"test": part(100)})
    folders, one = [tmp_path / "a", tmp_path / "b"], tmp_path / "one.safetensors"
    table, halves = compare_runs(folders), load_logits(one)
    mapped()
    assert compare_runs(folders) == table and "NLL gain" in table
    for name, half in load_logits(one).items():
        assert np.array_equal(half.logits, halves[name].logits) and np.array_equal(half.labels, halves[name].labels)
