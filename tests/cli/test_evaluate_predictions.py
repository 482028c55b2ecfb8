# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""`hf-focal evaluate-predictions` as a user calls it, alone, in two processes, and its sums in Ray Data and Spark."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from hub_server import File, HubServer, Repository
from launching import blocks, launch
from PIL import Image
from scipy.special import softmax

from hf_focal import calibration_metrics, fit_temperature
from hf_focal.cli.evaluate_predictions import names_of
from hf_focal.cli.main import main


def write(path, n=600, k=5, seed=0):
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(n, k))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    logits = 1.5 * logits + seed * np.random.default_rng(seed).normal(size=logits.shape)
    probabilities = softmax(logits, axis=1)
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"probabilities": list(probabilities), "label": labels}), path, row_group_size=250)
    return probabilities, labels


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["hf-focal", "evaluate-predictions", *map(str, words)])
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    return code


def test_it_writes_numbers_words_and_a_picture(tmp_path, monkeypatch, capsys):
    probabilities, labels = write(tmp_path / "a" / "test.parquet")
    write(tmp_path / "b" / "test.parquet", seed=1)
    folder = tmp_path / "new" / "folder"
    for _ in range(2):  # what it wrote before is replaced
        assert call(monkeypatch, *(tmp_path / name / "test.parquet" for name in "ab"), "--output_dir", folder) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "evaluation.json", "evaluation.png", "evaluation.txt",
    ]  # fmt: skip
    record = json.loads((folder / "evaluation.json").read_text())
    one, other = record["predictions"]
    expected = calibration_metrics(probabilities, labels)
    assert one["metrics"] == {key: pytest.approx(value, abs=1e-12) for key, value in expected.items()}
    best = fit_temperature(np.log(probabilities), labels)
    assert one["temperature"] == pytest.approx(best.temperature, rel=1e-9)
    assert one["at_temperature"]["metrics"]["nll"] == pytest.approx(best.after["nll"], abs=1e-9)
    assert (one["name"], other["name"]) == ("a/test.parquet", "b/test.parquet")
    (compared,) = record["comparisons"]
    assert compared["same_samples"] and compared["metrics"]["nll"]["verdict"] == "a_is_better"
    printed = capsys.readouterr().out
    text = (folder / "evaluation.txt").read_text()
    assert text.rstrip() in printed and printed.rstrip().endswith(f"Saved to {folder}")
    assert "== a/test.parquet ==" in text and "Over-confident" in text and max(map(len, text.splitlines())) <= 80
    with Image.open(folder / "evaluation.png") as image:
        assert "a/test.parquet" in image.info["Title"] and image.width > 500


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.parquet", "x.parquet"], "x.parquet is given twice"),
        (["none/x.parquet/y"], "There is no such folder: none/x.parquet/y"),
        (["x.parquet", "--label_column_name", "lable"], "has no column 'lable'.*Did you mean 'label'"),
        (["x.parquet", "--n_bins", "0"], "n_bins must be at least 1"),
        (["x.parquet", "--output_dir", "x.parquet"], "--output_dir x.parquet is a file, not a folder"),
        (["x.parquet", "--n_bin", "3"], "There is no flag --n_bin. Did you mean '--n_bins'"),
        ([], "required: PATH"),
    ],
)
def test_a_mistake_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.parquet", n=10)
    assert call(monkeypatch, *words) == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and said.count("\n") == 1


def test_names_are_the_shortest_that_tell_paths_apart():
    assert names_of(["runs/a", "runs/b/"]) == {"a": "runs/a", "b": "runs/b/"}
    assert names_of(["a/x.csv", "b/x.csv"]) == {"a/x.csv": "a/x.csv", "b/x.csv": "b/x.csv"}
    assert names_of(["a/x", "a/y", "b/x"]) == {"a/x": "a/x", "a/y": "a/y", "b/x": "b/x"}
    assert names_of(["user/data"]) == {"data": "user/data"}


def test_neither_torch_nor_transformers_is_loaded(tmp_path):
    write(tmp_path / "x.parquet", n=50)
    code = """
import sys
from hf_focal.cli.main import main
sys.argv[1:] = ["evaluate-predictions", "x.parquet"]
main()
print("loaded", [name for name in ("torch", "transformers", "datasets") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "loaded []" in done.stdout, done.stderr


HUB = """
import sys
from hf_focal.cli.main import main
for words in {calls!r}:
    sys.argv[1:] = ["evaluate-predictions", *words]
    try:
        main()
    except SystemExit as end:
        print("ENDED", end.code)
"""


@pytest.mark.slow
def test_a_data_set_on_the_hub_is_read_by_its_name(tmp_path, monkeypatch):
    for place, name in enumerate(("test", "validation", "first")):
        write(tmp_path / f"{name}.parquet", n=200, seed=place)
    whole = {
        name: File((tmp_path / f"{name}.parquet").read_bytes(), False) for name in ("test", "validation", "first")
    }
    shards = {f"data/{name}-00000-of-00001.parquet": whole[name] for name in ("test", "validation")}
    calls = [
        ["ann/predictions", "--split", "test", "--output_dir", "test"],
        ["ann/predictions", "--dataset_revision", "v1", "--output_dir", "first"],
        ["ann/predictions"],
        ["ann/predictions", "--split", "tset"],
        ["ann/nothing"],
    ]
    with HubServer({}) as hub:
        hub.repositories["ann/predictions"] = repository = Repository()
        old = repository.commit("main", "first", {"data/test-00000-of-00001.parquet": whole["first"]})
        repository.tags["v1"] = old.oid
        repository.commit("main", "second", shards)
        environment = {**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", HUB.format(calls=calls)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stdout.count("ENDED 2") == 3, done.stderr
    assert re.search("has the splits (test, validation|validation, test): choose by --split", done.stderr)
    assert "not 'tset'. Did you mean 'test'" in done.stderr
    assert "no such file or folder: ann/nothing; nor can such a data set be had from the Hub" in done.stderr
    for name in ("test", "first"):
        assert call(monkeypatch, tmp_path / f"{name}.parquet", "--output_dir", tmp_path / "local") == 0
        found, expected = (
            json.loads((tmp_path / folder / "evaluation.json").read_text())["predictions"][0]["metrics"]
            for folder in (name, "local")
        )
        assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("rows", [2000, 40_000])
def test_two_processes_write_what_one_writes(tmp_path, rows):
    write(tmp_path / "a" / "x.parquet", n=rows)
    write(tmp_path / "b" / "x.parquet", n=rows, seed=1)
    paths, records = [str(tmp_path / name / "x.parquet") for name in "ab"], []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        script = str(ROOT / "scripts" / "evaluate_predictions.py")
        done = launch(script, *paths, "--output_dir", str(folder), processes=processes)
        assert done.stdout.count("Saved to") == 1
        records.append((folder / "evaluation.json").read_text())
    assert json.loads(records[0]) == close(json.loads(records[1]))


def close(record):
    if isinstance(record, dict):
        return {key: close(value) for key, value in record.items()}
    if isinstance(record, list):
        return [close(value) for value in record]
    return pytest.approx(record, rel=1e-12, abs=1e-12) if isinstance(record, float) else record


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "pyspark"])
def test_engines_add_up_what_one_machine_does(engine, tmp_path):
    pytest.importorskip(
        engine, reason=f"{engine} is no requirement: pip install {'ray[data]' if engine == 'ray' else engine}"
    )
    if engine == "pyspark" and not shutil.which("java"):
        pytest.skip("Spark needs java, which is not installed")
    (code,) = (
        block
        for block in blocks("py", [ROOT / "docs" / "measure.md"])
        if f"import {engine}" in block or f"from {engine}" in block
    )
    assert code.count("\n") <= 22
    probabilities, labels = write(tmp_path / "predictions.parquet", n=2000)
    (tmp_path / "recipe.py").write_text(code + "\nprint(total.num_samples, total.compute(), total.temperature)\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
    }
    done = subprocess.run(
        [sys.executable, "recipe.py"], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.search(r"^2000 (\{.*\}) ([\d.]+)$", done.stdout, re.MULTILINE)
    metrics, expected = json.loads(found[1].replace("'", '"')), calibration_metrics(probabilities, labels)
    for key, value in expected.items():
        assert metrics[key] == pytest.approx(value, abs=2e-3 if key == "adaptive_ece" else 1e-12), key
    assert float(found[2]) == pytest.approx(fit_temperature(np.log(probabilities), labels).temperature, rel=1e-4)
    assert "Over-confident" in done.stdout and (tmp_path / "reliability.png").is_file()
