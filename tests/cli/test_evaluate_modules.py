# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Every folder of `metrics/` through `evaluate`: values, ways of use, bad input, files and examples."""

import doctest
import inspect
import multiprocessing
import os
import re
import runpy
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import evaluate
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT

import hf_focal
from hf_focal import metrics


FUNCTIONS = {
    "ece": metrics.expected_calibration_error,
    "mce": metrics.maximum_calibration_error,
    "adaptive_ece": metrics.adaptive_calibration_error,
    "classwise_ece": metrics.classwise_calibration_error,
    "nll": metrics.negative_log_likelihood,
    "multiclass_brier": metrics.brier_score,
}
BINNED = ["adaptive_ece", "classwise_ece", "ece", "mce"]
FOLDERS = sorted(path.name for path in (ROOT / "metrics").iterdir() if path.is_dir() and path.name != "__pycache__")
every_folder = pytest.mark.parametrize("name", FOLDERS)


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory):
    """Folders of our own for what `evaluate` writes, and a clean slate for the scripts that it imports."""
    home = tmp_path_factory.mktemp("huggingface")

    def forget_scripts():
        for module in [module for module in sys.modules if module.split(".")[0] == "evaluate_modules"]:
            del sys.modules[module]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(home))  # for processes that start from here
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", home / "modules")
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", home / "metrics")
        # Whoever called `evaluate.load` before has put the usual folder of its scripts there.
        patch.setattr(sys, "path", [one for one in sys.path if not Path(one, "evaluate_modules").is_dir()])
        patch.chdir(ROOT)
        forget_scripts()
        yield home
        forget_scripts()


@pytest.fixture
def load(tmp_path):
    return lambda name, **options: evaluate.load(f"metrics/{name}", cache_dir=str(tmp_path), **options)


def make_data(num_samples=120, num_labels=5, seed=0):
    """Probabilities that float32 would not hold, values on edges of bins, ties, tiny ones, and labels."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(num_labels, 0.4), num_samples)
    labels = rng.integers(0, num_labels, num_samples)
    probabilities[:4] = np.eye(num_labels)[labels[:4]]
    probabilities[4:8] = 1 / num_labels
    probabilities[8] = [1e-300, 0.4, 0.6, *[0] * (num_labels - 3)]
    labels[8] = 0
    return probabilities, labels


def close(value):
    return pytest.approx(value, rel=0, abs=1e-12)


def test_the_folders_are_the_six_metrics():
    assert set(FOLDERS) == set(FUNCTIONS)


# ---- Values ---------------------------------------------------------------------------------------------------------


@every_folder
@pytest.mark.parametrize("num_labels", [3, 5, 20])
def test_compute_is_the_function_of_the_library(name, num_labels, load):
    probabilities, labels = make_data(num_labels=num_labels, seed=num_labels)
    results = load(name).compute(predictions=probabilities, references=labels)
    assert results == {name: close(FUNCTIONS[name](probabilities, labels))}
    assert type(results[name]) is float and np.isfinite(results[name])


@pytest.mark.parametrize("name", BINNED)
@pytest.mark.parametrize("n_bins", [1, 10, 15, 200])
def test_n_bins_is_passed_on(name, n_bins, load):
    probabilities, labels = make_data()
    results = load(name).compute(predictions=probabilities, references=labels, n_bins=n_bins)
    assert results == {name: close(FUNCTIONS[name](probabilities, labels, n_bins))}


@every_folder
def test_lists_tensors_and_float32_give_the_same_value_as_the_function(name, load):
    probabilities, labels = make_data()
    single = probabilities.astype(np.float32)
    single[8] = [0.1, 0.3, 0.6, 0, 0]
    for predictions, references in [
        (probabilities.tolist(), labels.tolist()),
        (torch.from_numpy(probabilities), torch.from_numpy(labels)),
        (single, labels.astype(np.uint8)),
        (torch.from_numpy(single), labels.tolist()),
    ]:
        results = load(name).compute(predictions=predictions, references=references)
        assert results == {name: close(FUNCTIONS[name](predictions, references))}


def test_nll_is_infinite_where_a_true_class_has_probability_zero(load):
    assert load("nll").compute(predictions=[[1.0, 0.0], [0.5, 0.5]], references=[1, 0]) == {"nll": np.inf}


# ---- Ways of use ----------------------------------------------------------------------------------------------------


@every_folder
def test_add_and_add_batch_equal_compute_of_all(name, load):
    probabilities, labels = make_data()
    expected = {name: close(FUNCTIONS[name](probabilities, labels))}
    metric = load(name)
    for start in range(0, len(labels), 50):  # the last batch is smaller
        metric.add_batch(predictions=probabilities[start : start + 50], references=labels[start : start + 50])
    assert metric.compute() == expected
    for row, label in zip(probabilities, labels, strict=True):  # the same object again, emptied by compute
        metric.add(prediction=row, reference=label)
    assert metric.compute() == expected


@every_folder
def test_keep_in_memory(name, load):
    probabilities, labels = make_data()
    results = load(name, keep_in_memory=True).compute(predictions=probabilities, references=labels)
    assert results == {name: close(FUNCTIONS[name](probabilities, labels))}


def test_combine_of_all_folders():
    probabilities, labels = make_data()
    expected = {name: close(FUNCTIONS[name](probabilities, labels)) for name in FOLDERS}
    combined = evaluate.combine([f"metrics/{name}" for name in FOLDERS])
    assert combined.compute(predictions=probabilities, references=labels) == expected
    combined.add_batch(predictions=probabilities[:70], references=labels[:70])
    combined.add_batch(predictions=probabilities[70:], references=labels[70:])
    assert combined.compute() == expected
    for row, label in zip(probabilities, labels, strict=True):
        combined.add(prediction=row, reference=label)
    assert combined.compute() == expected


def test_combine_passes_n_bins_to_metrics_with_bins():
    probabilities, labels = make_data()
    combined = evaluate.combine([f"metrics/{name}" for name in BINNED])
    expected = {name: close(FUNCTIONS[name](probabilities, labels, 7)) for name in BINNED}
    assert combined.compute(predictions=probabilities, references=labels, n_bins=7) == expected


def _evaluate_share(process_id, cache_dir):
    """What one of two processes does: every metric on its share of the samples, 70 and 50 of them."""
    probabilities, labels = make_data()
    share = slice(0, 70) if process_id == 0 else slice(70, None)
    results = {}
    for name in FOLDERS:
        metric = evaluate.load(
            str(ROOT / "metrics" / name),
            num_process=2,
            process_id=process_id,
            experiment_id="two_processes",
            cache_dir=cache_dir,
        )
        metric.add_batch(predictions=probabilities[share][:30], references=labels[share][:30])
        metric.add_batch(predictions=probabilities[share][30:], references=labels[share][30:])
        results[name] = metric.compute()
    return results, multiprocessing.current_process().pid


@pytest.fixture(scope="module")
def two_processes(caches):
    shares = [(process_id, str(caches / "shared")) for process_id in range(2)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return pool.starmap_async(_evaluate_share, shares, chunksize=1).get(timeout=80)


@every_folder
def test_two_processes_give_the_value_of_all_samples_on_the_first(name, two_processes):
    (first, first_pid), (second, second_pid) = two_processes
    assert first_pid != second_pid
    assert first[name] == {name: close(FUNCTIONS[name](*make_data()))}
    assert second[name] is None


# ---- Bad input ------------------------------------------------------------------------------------------------------


@every_folder
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([[2.0, -1.0], [0.3, 0.1]], [0, 1], "apply a softmax"),
        ([[0.5, 0.4], [0.5, 0.5]], [0, 1], "each row must sum to 1"),
        ([[0.5, 0.5], [np.nan, 0.5]], [0, 1], "must be finite"),
        ([[0.5, 0.5], [1.0]], [0, 1], "rows of unequal length"),
        ([[1.0], [1.0]], [0, 0], "at least 2 classes"),
        ([], [], "probabilities must"),
        ([[0.5, 0.5], [0.5, 0.5]], [0, 2], r"labels must lie in \[0, 1\]"),
        ([[0.5, 0.5], [0.5, 0.5]], [-100, 1], "Remove ignored samples"),
        ([[0.5, 0.5], [0.5, 0.5]], [0, 0.5], "labels must be whole numbers"),
        ([[0.5, 0.5], [0.5, 0.5]], [0, np.nan], "labels must be whole numbers"),
        # These evaluate refuses itself.
        ([[0.5, 0.5], [0.5, 0.5]], [0, 1, 1], r"number of predictions \(2\) and references \(3\)"),
        ([[0.5, 0.5], [0.5, 0.5]], [[1, 0], [0, 1]], "don't match the expected format"),
        ([0.5, 0.5], [0, 1], "don't match the expected format"),
    ],
)
def test_bad_input_is_a_value_error_that_says_what_is_wrong(name, predictions, references, message, load):
    with pytest.raises(ValueError, match=message):
        load(name).compute(predictions=predictions, references=references)


@pytest.mark.parametrize("name", BINNED)
@pytest.mark.parametrize(("n_bins", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError)])
def test_bad_n_bins(name, n_bins, error, load):
    with pytest.raises(error, match="n_bins must be"):
        load(name).compute(predictions=[[0.5, 0.5]], references=[0], n_bins=n_bins)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - set(BINNED)))
def test_metrics_without_bins_take_no_n_bins(name, load):
    with pytest.raises(TypeError, match="n_bins"):
        load(name).compute(predictions=[[0.5, 0.5]], references=[0], n_bins=15)


# ---- Files and examples ---------------------------------------------------------------------------------------------


def read_card(name):
    """Front matter and text of a README."""
    text = (ROOT / "metrics" / name / "README.md").read_text(encoding="utf-8")
    _, front_matter, body = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(front_matter), body


def run_examples(test):
    results = doctest.DocTestRunner().run(test)
    assert results.attempted >= 3
    assert results.failed == 0, "what failed is in the captured output"


@every_folder
def test_folder_holds_the_files_of_a_space(name):
    folder = ROOT / "metrics" / name
    files = {path.name for path in folder.iterdir() if path.name != "__pycache__"}
    assert files == {f"{name}.py", "README.md", "app.py", "requirements.txt"}
    assert (folder / "requirements.txt").read_text(encoding="utf-8").split() == ["evaluate", "hf_focal"]


@every_folder
def test_readme_has_front_matter_and_sections(name):
    front_matter, body = read_card(name)
    expected = {"sdk": "gradio", "app_file": "app.py", "pinned": False, "tags": ["evaluate", "metric"]}
    assert {key: front_matter[key] for key in expected} == expected
    for key in ["title", "colorFrom", "colorTo", "sdk_version", "description"]:
        assert isinstance(front_matter[key], str) and front_matter[key].strip(), key
    headings = ["Metric Description", "How to Use", "Inputs", "Output Values", "Limitations and Bias"]
    for heading in [*headings, "When to Prefer It", "Citation", "Further References"]:
        assert re.search(rf"^##+ {heading}$", body, flags=re.MULTILINE), heading


@every_folder
def test_readme_and_script_agree(name, load):
    front_matter, body = read_card(name)
    metric = load(name)
    assert metric.name == name
    assert metric.module_type == "metric"
    assert front_matter["description"].strip() == " ".join(metric.description.split())
    assert re.search(r"```bibtex\n(.*?)```", body, flags=re.DOTALL)[1].strip() == metric.citation.strip()


@every_folder
def test_readme_examples_print_what_is_shown(name):
    _, body = read_card(name)
    examples = "\n".join(re.findall(r"^```python\n(.*?)^```$", body, flags=re.MULTILINE | re.DOTALL))
    run_examples(doctest.DocTestParser().get_doctest(examples, {}, f"metrics/{name}/README.md", None, 0))


@every_folder
def test_docstring_example_prints_what_is_shown(name, load):
    run_examples(doctest.DocTestFinder().find(type(load(name)), name)[0])


@every_folder
def test_help_names_every_argument(name, load):
    metric = load(name)
    arguments = set(inspect.signature(metric._compute).parameters)
    assert arguments == {"predictions", "references"} | ({"n_bins"} if name in BINNED else set())
    assert arguments == set(re.findall(r"^ {4}(\w+) \(", metric.inputs_description, flags=re.MULTILINE))


@every_folder
def test_app_runs_in_a_space_where_the_folder_has_another_name(name, tmp_path, monkeypatch):
    shown, articles, launched = [], [], []
    gradio = SimpleNamespace(
        Blocks=lambda title: nullcontext(SimpleNamespace(launch=lambda **options: launched.append(title))),
        Interface=lambda **interface: shown.append(interface),
        Markdown=lambda article, latex_delimiters: articles.append(article),
        Textbox=lambda label, value: (label, value),
    )
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    monkeypatch.chdir(tmp_path)
    space = shutil.copytree(ROOT / "metrics" / name, tmp_path / "app")
    runpy.run_path(str(space / "app.py"), run_name="__main__")
    (interface,) = shown
    (first, predictions), (second, references) = interface["inputs"]
    assert (first, second) == ("predictions", "references")
    expected = FUNCTIONS[name](yaml.safe_load(predictions), yaml.safe_load(references))
    assert interface["fn"](predictions, references) == {name: close(expected)}
    assert articles[0].strip().startswith("# Metric Card") and launched == [f"Metric: {name}"]


# ---- Arrays ---------------------------------------------------------------------------------------------------------


@every_folder
def test_modules_take_what_the_functions_take(name, load):
    probabilities, labels = make_data()
    hidden = np.arange(len(labels)) % 3 == 0
    metric, function = load(name), FUNCTIONS[name]
    for predictions, references in (
        (pd.DataFrame(probabilities), pd.Series(labels, dtype="Int64")),
        (list(torch.tensor(probabilities, requires_grad=True)), list(torch.tensor(labels))),
        (probabilities, np.ma.masked_array(labels, hidden)),
        (probabilities.tolist(), list(np.ma.masked_array(labels, hidden))),
    ):
        expected = {name: close(function(predictions, references))}
        assert metric.compute(predictions=predictions, references=references) == expected
        metric.add_batch(predictions=predictions[:50], references=references[:50])
        metric.add_batch(predictions=predictions[50:], references=references[50:])
        assert metric.compute() == expected
    for row, label in zip(probabilities, np.ma.masked_array(labels, hidden), strict=True):
        metric.add(prediction=row, reference=label)
    assert metric.compute() == {name: close(function(probabilities[~hidden], labels[~hidden]))}


def test_modules_accept_what_rounding_explains(load):
    rows = torch.tensor(make_data()[0]).bfloat16()
    metric, labels = load("multiclass_brier"), make_data()[1]
    expected = metrics.brier_score((rows.double() / rows.double().sum(-1, keepdim=True)).numpy(), labels)
    for give in (metric.compute, metric.add_batch):
        with pytest.warns(UserWarning, match="as after rounding to half precision"):
            found = give(predictions=rows, references=labels) or metric.compute()
        assert found["multiclass_brier"] == pytest.approx(expected, abs=1e-7)


def test_arrays_go_straight_to_the_function(load, monkeypatch):
    probabilities, labels = make_data()
    metric = load("ece")
    monkeypatch.setattr(type(metric), "_init_writer", lambda self: pytest.fail("it was written as rows of Arrow"))
    metric.compute(predictions=probabilities, references=labels)


def test_one_of_the_two_alone_is_refused(load):
    metric = load("ece")
    for give in (metric.compute, metric.add_batch):
        with pytest.raises(ValueError, match="predictions and references belong together"):
            give(predictions=[[0.5, 0.5]])
        with pytest.raises(ValueError, match="references must hold real numbers"):
            give(predictions=[[0.5, 0.5]], references=["cat"])


# ---- Where they are -------------------------------------------------------------------------------------------------


@every_folder
def test_a_module_loads_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metric = evaluate.load(hf_focal.metric_path(name), cache_dir=str(tmp_path))
    probabilities, labels = make_data()
    assert metric.compute(predictions=probabilities, references=labels) == {
        name: close(FUNCTIONS[name](probabilities, labels))
    }


def test_a_name_that_no_module_has_is_refused_with_the_nearest():
    for name, nearest in (("eec", "ece"), ("brier", "multiclass_brier"), ("classwise-ece", "classwise_ece")):
        with pytest.raises(ValueError, match=rf"no module '{name}'.*ece, mce.*Did you mean '{nearest}'\?"):
            hf_focal.metric_path(name)
    with pytest.raises(ValueError, match="There is no module 'x' for evaluate, only adaptive_ece, .*, nll\\.$"):
        hf_focal.metric_path("x")


@pytest.mark.slow
def test_wheel_and_source_distribution_hold_the_modules(tmp_path):
    source = tmp_path / "source"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for file in filter(None, files.split("\0")):
        if (ROOT / file).is_file() and not file.startswith("tests"):
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, source / file)
    build = [sys.executable, "setup.py", "-q"]
    subprocess.run([*build, "sdist", "-d", "../dist"], cwd=source, check=True)
    (archive,) = (tmp_path / "dist").glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    subprocess.run([*build, "bdist_wheel", "-d", "../../dist"], cwd=unpacked, check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "site", "zip")
    code = """
import evaluate, hf_focal
for name in {names}:
    path = hf_focal.metric_path(name)
    assert path.startswith({site!r}), path
    assert evaluate.load(path).compute(predictions=[[0.75, 0.25]], references=[0])[name] >= 0
"""
    code = code.format(names=FOLDERS, site=str(tmp_path / "site"))
    options = {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path / "site")}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, **options}, check=True)
    for name in FOLDERS:
        copied = tmp_path / "site" / "hf_focal" / "evaluate_modules" / name
        assert {path.name for path in copied.iterdir()} >= {f"{name}.py", "README.md", "app.py", "requirements.txt"}
