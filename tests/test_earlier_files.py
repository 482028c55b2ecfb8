# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Files of the first version still load: records, predictions, results and dynamics, as it wrote them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file
from small_models import build, samples
from transformers import ViTForImageClassification

from hf_focal import calibrator_of, compare_runs, from_pretrained, load_predictions, read_dynamics, unfold_temperature
from hf_focal.models.record import check_record


RECORDS = {
    "plain": {"temperature": 2.0, "folded": True},
    "whole": {
        "method": "temperature", "criterion": "ece", "loss": "flsd-53", "split": "validation", "n_samples": 359,
        "temperature": 2.0, "folded": True,
    },
    "waiting": {"method": "temperature", "temperature": 2.0, "folded": False},
    "focal": {"method": "focal", "criterion": "nll", "gamma": 3.0, "temperature": 2.0, "folded": False},
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_a_checkpoint_says_the_same(name, tmp_path):
    record, model = RECORDS[name], build().eval()
    pixels = torch.stack([row["pixel_values"] for row in samples("vit", 4)])
    with torch.no_grad():
        raw = model(pixels).logits.double()
        if record["folded"]:
            model.classifier.weight /= 2
            model.classifier.bias /= 2
        model.config.calibration = record
        model.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["calibration"] == record
        assert check_record(record) == record
        found = from_pretrained(tmp_path)(pixels).logits.double().softmax(-1).numpy()
        assert found == pytest.approx(calibrator_of(record).probabilities(raw.numpy()), abs=1e-6)
        if record["folded"]:
            undone = unfold_temperature(ViTForImageClassification.from_pretrained(tmp_path))
            assert torch.allclose(undone(pixels).logits.double(), raw, atol=1e-6)


def test_predictions_have_the_names_of_their_parts(tmp_path):
    arrays = {
        "validation_logits": np.ones((3, 2), np.float32), "validation_labels": np.array([0, 1, 1]),
        "test_logits": np.zeros((2, 2), np.float32), "test_labels": np.array([1, 0]),
        "test_sentences": np.array([0, 0]),
    }  # fmt: skip
    metadata = {"scaled": "false", "temperature": "1.7", "id2label": '{"0": "a", "1": "b"}'}
    save_file(arrays, tmp_path / "predictions.safetensors", metadata=metadata)
    parts, found = load_predictions(tmp_path / "predictions.safetensors")
    assert found == metadata and list(parts) == ["test", "validation"]
    assert parts["validation"].groups is None and parts["validation"].split == "validation"
    assert parts["test"].groups.tolist() == [0, 0] and parts["test"].labels.tolist() == [1, 0]


def test_results_and_dynamics_are_read(tmp_path):
    values = dict.fromkeys(("accuracy", "nll", "brier", "ece", "mce", "adaptive_ece", "classwise_ece"), 0.25)
    results = {f"test_{moment}_{key}": value for moment in ("before", "after") for key, value in values.items()}
    results |= {"dataset": "digits", "model": "resnet10t", "loss": "flsd-53", "loss_parameters": {"reduction": "mean"}}
    results |= {"seed": 42, "epoch": 20.0, "temperature": 0.2, "temperature_criterion": "ece", "n_bins": 15}
    (tmp_path / "all_results.json").write_text(json.dumps(results))
    head, _, row = compare_runs([tmp_path]).splitlines()
    assert row.startswith("| flsd-53 | 0.2 | 75.00% | 0.2500 |") and "MCE before" in head
    numbers = ["nll", "nll_correct", "nll_incorrect", "entropy", "entropy_correct", "entropy_incorrect"]
    numbers += ["error", "ece", "weight_norm"]
    row = {"epoch": 1.0, "step": 5, "split": "test", "loss": "focal (gamma 3)", "n_samples": 4}
    row |= {**dict.fromkeys(numbers, 0.5), "gradient_norms": None}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "training_dynamics.parquet")
    assert read_dynamics([tmp_path])["focal (gamma 3)"][0]["nll_correct"] == 0.5
