# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Saved predictions whose labels are lists of 0 and 1: those of sigmoid heads."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit

from hf_focal import Predictions, calibration_metrics, paired_bootstrap, save_predictions
from hf_focal.cli import evaluate_predictions
from hf_focal.results import evaluate_outputs
from hf_focal.results.evaluate_files import evaluate_saved
from hf_focal.results.evaluation import diagram_of, text_of
from hf_focal.results.prediction_files import SavedPredictions
from hf_focal.results.table_files import open_tables


def draw(n=300, labels=3, seed=0, sharpness=1.7):
    generator = np.random.default_rng(seed)
    logits = np.linspace(-2, 0.5, labels) + 1.5 * generator.normal(size=(n, labels))
    truth = (generator.random(logits.shape) < expit(logits)).astype(int)
    truth[0, 0], truth[1] = -100, -100
    return sharpness * logits, truth


def write(path, kind="logits", values=None, truth=None):
    logits, labels = draw()
    values = (logits if kind == "logits" else expit(logits)) if values is None else values
    truth = labels if truth is None else truth
    pq.write_table(pa.table({kind: list(map(list, values)), "label": list(map(list, truth))}), path)
    return path


def evaluate(*paths, **options):
    saved = {path.stem: SavedPredictions(open_tables(str(path))) for path in paths}
    return evaluate_saved(saved, **options)


@pytest.mark.parametrize("kind", ["logits", "probabilities", "run", "columns"])
def test_every_form_gives_the_metrics_in_memory(kind, tmp_path):
    logits, truth = draw()
    if kind == "run":
        path = tmp_path / "predictions.safetensors"
        save_predictions(path, {"test": Predictions(logits, truth)})
    elif kind == "columns":
        path = tmp_path / "x.parquet"
        columns = {f"logits_{k}": logits[:, k] for k in range(3)} | {f"label_{k}": truth[:, k] for k in range(3)}
        pq.write_table(pa.table(columns), path)
    else:
        path = write(tmp_path / "x.parquet", kind)
    (found,), _ = evaluate(path, temperature=False)
    assert found.plain.metrics == pytest.approx(calibration_metrics(expit(logits), truth), abs=1e-6)
    assert (found.plain.n_samples, found.left_out, found.temperature) == (299, 1, None)
    assert [label.known for label in found.labels] == [298, 299, 299]


def test_the_temperature_is_that_of_smallest_nll(tmp_path):
    (found,), _ = evaluate(write(tmp_path / "x.parquet"))
    logits, truth = draw()
    nll = [calibration_metrics(expit(logits / t), truth)["nll"] for t in np.linspace(0.5, 4, 60)]
    assert found.scaled.metrics["nll"] <= min(nll) + 1e-9
    assert found.scaled.metrics == pytest.approx(calibration_metrics(expit(logits / found.temperature), truth))
    text = text_of([found], [])
    assert "897 labels of 299 samples" not in text and "896 labels of 299 samples" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80 and "all are in" not in text
    assert "ECE of all labels together" in diagram_of([found]).alt_text
    record = json.loads(json.dumps(found.to_record()))
    assert record["labels"][2]["before"]["f1"] == found.labels[2].metrics["before"]["f1"]


def test_models_are_compared_on_the_same_labels(tmp_path):
    logits, truth = draw()
    paths = write(tmp_path / "a.parquet"), write(tmp_path / "b.parquet", values=3 * logits)
    _, (found,) = evaluate(*paths, temperature=False)
    expected = paired_bootstrap("nll", *(expit(values)[2:] for values in (logits, 3 * logits)), truth[2:])
    assert found.same_samples and found.plain["nll"].verdict == expected.verdict == "a_is_better"
    assert "F1 (macro)" in found.text()
    _, (other,) = evaluate(paths[0], write(tmp_path / "c.parquet", truth=1 - truth.clip(0)), temperature=False)
    assert not other.same_samples and "not compared" in other.text()


def test_one_logit_is_a_list_of_one(tmp_path):
    logits, truth = draw(labels=1)
    (found,), _ = evaluate(write(tmp_path / "x.parquet", "probabilities", expit(logits), truth))
    assert "298 samples" in found.plain.headline and len(found.labels) == 1
    assert found.plain.metrics == pytest.approx(calibration_metrics(expit(logits), truth))


def softmax_beside(path):
    pq.write_table(pa.table({"logits": [[0.0, 1.0]] * 4, "label": [0, 1, 1, 0]}), path / "s.parquet")
    return evaluate(write(path / "x.parquet"), path / "s.parquet")


def one(path, kind="logits", **columns):
    return evaluate(write(path / "x.parquet", kind, **columns))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (softmax_beside, "s.parquet holds predictions of a softmax"),
        (lambda path: one(path, truth=np.eye(3, dtype=int)[[0] * 300]), "one number in every"),
        (lambda path: one(path, truth=np.full((300, 3), -100)), "no rows with a label"),
        (lambda path: one(path, truth=np.full((300, 3), 7)), "x.parquet.*must be 0 or 1"),
        (lambda path: one(path, "probabilities", values=np.full((300, 3), 1.5)), "apply the sigmoid"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)


def test_more_than_goes_into_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_outputs, "_MOST", 899)
    with pytest.raises(ValueError, match="300 rows of 3 labels each.*give a part"):
        evaluate(write(tmp_path / "x.parquet"))


def test_the_command_writes_what_it_found(tmp_path, monkeypatch, capsys):
    write(tmp_path / "x.parquet")
    monkeypatch.setattr("sys.argv", ["x", str(tmp_path / "x.parquet"), "--output_dir", str(tmp_path / "out")])
    evaluate_predictions.main()
    assert "a label is right" in " ".join(capsys.readouterr().out.split())
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (
        len(record["predictions"][0]["labels"]) == 3 and (tmp_path / "out" / "evaluation.png").stat().st_size > 10_000
    )
