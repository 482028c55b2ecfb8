# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Finished runs in one table: means and ranges worked out by hand, and what cannot be compared."""

import json
import runpy
import shutil
import sys
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from launching import blocks
from PIL import Image
from scipy.special import softmax

from hf_focal import METRICS, Predictions, calibration_metrics_from_logits, compare_runs, noise_floor
from hf_focal.predictions import save_predictions


def run(folder, name, temperature=1.5, accuracy=0.6, ece=(0.12, 0.02), nll=(1.2, 1.1), **settings):
    """The results of a run without its predictions; AdaECE is ECE + 0.01 and Classwise-ECE a tenth of ECE."""
    results = {"dataset": "cifar10", "model": "resnet", "loss": "focal", "loss_parameters": {"reduction": "mean"},
               "epoch": 40.0, "temperature": temperature, "temperature_criterion": "ece", "n_bins": 15,
               "test_after_accuracy": accuracy, **settings}  # fmt: skip
    for moment, error, value in zip(("before", "after"), ece, nll, strict=True):
        results |= {f"test_{moment}_ece": error, f"test_{moment}_adaptive_ece": error + 0.01}
        results |= {f"test_{moment}_classwise_ece": error / 10, f"test_{moment}_nll": value}
    (folder / name).mkdir()
    (folder / name / "all_results.json").write_text(json.dumps(results))
    return folder / name


def measured(folder, name, logits, labels, temperature=1.0, **settings):
    """The results of a run as they were measured, with its predictions."""
    results = {"dataset": "cifar10", "model": "resnet", "loss": "focal", "temperature": temperature, "n_bins": 15,
               **settings}  # fmt: skip
    results["by_chance"] = {}
    for moment, divisor in (("before", 1.0), ("after", temperature)):
        values = calibration_metrics_from_logits(logits, labels, temperature=divisor)
        results |= {f"test_{moment}_{key}": value for key, value in values.items()}
        floor = noise_floor("ece", softmax(logits / divisor, axis=1))
        results["by_chance"][moment] = {"ece": asdict(floor)}
    results["metrics"] = {key: METRICS[key].facts() for key in values}
    (folder / name).mkdir()
    save_predictions(folder / name / "predictions.safetensors", {"test": Predictions(logits, labels)})
    config = {"calibration": {"temperature": temperature, "folded": True}}
    (folder / name / "config.json").write_text(json.dumps(config))
    (folder / name / "all_results.json").write_text(json.dumps(results))
    return folder / name


def drawn(seed=0, size=2000):
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(size, 5))
    return logits.astype(np.float32), (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)


def bold(table):
    """Column to the rows that are marked."""
    return {
        title: [i for i, one in enumerate(cells) if one.startswith("**")] for title, cells in columns_of(table).items()
    }


def test_the_best_is_marked_where_it_is_best_beyond_noise(tmp_path):
    logits, labels = drawn()
    jitter = 0.02 * np.random.default_rng(5).normal(size=logits.shape).astype(np.float32)
    runs = [
        measured(tmp_path, "good", 1.3 * logits, labels, 1.3, loss="good"),
        measured(tmp_path, "as good", 1.3 * logits + jitter, labels, 1.3, loss="as good"),
        measured(tmp_path, "bad", 2.5 * logits, labels, 1.5, loss="bad"),
    ]
    marked = bold(compare_runs([runs[0], runs[2]]))
    assert marked["NLL before"] == marked["NLL after"] == marked["ECE before"] == marked["ECE after"] == [0]
    assert marked["error"] == []  # the same answers
    assert [*marked][3:7] == ["NLL before", "NLL after", "Brier before", "Brier after"]
    assert not any(bold(compare_runs(runs)).values())  # two are equally good
    table = columns_of(compare_runs(runs))
    assert [cell.endswith(" ~") for cell in table["ECE before"]] == [False, False, False]
    assert [cell.endswith(" ~") for cell in table["ECE after"]] == [True, True, False]


def test_errors_of_other_bins_are_not_compared(tmp_path):
    logits, labels = drawn()
    runs = [
        measured(tmp_path, f"{bins}", factor * logits, labels, n_bins=bins) for bins, factor in ((10, 1.0), (15, 2.0))
    ]
    marked = bold(compare_runs(runs))
    assert marked["NLL before"] == [0] and marked["ECE before"] == marked["MCE before"] == []


def test_each_seed_must_beat_each_of_the_others(tmp_path):
    logits, labels = drawn()
    runs = [
        measured(tmp_path, f"{name}-{seed}", factor * logits, labels, loss=name, seed=seed)
        for name, factors in (("good", (1.0, 1.02)), ("bad", (1.5, 1.6)), ("mixed", (1.05, 1.7)))
        for seed, factor in enumerate(factors)
    ]
    assert bold(compare_runs(runs[:4]))["NLL before"] == [0]
    assert bold(compare_runs(runs))["NLL before"] == []


def test_runs_of_other_test_data_or_without_predictions_are_not_compared(tmp_path, caplog):
    (logits, labels), (others, other_labels) = drawn(), drawn(1)
    good = measured(tmp_path, "good", logits, labels, loss="good")
    elsewhere = measured(tmp_path, "elsewhere", 2 * others, other_labels, loss="bad")
    bad = measured(tmp_path, "bad", 2 * logits, labels, loss="bad")
    assert not any(bold(compare_runs([good, elsewhere])).values())
    assert bold(compare_runs([good, bad]))["NLL before"] == [0]
    assert not caplog.records
    (bad / "predictions.safetensors").write_bytes(b"cut off")
    assert not any(bold(compare_runs([good, bad])).values())
    assert f"{bad} is not compared with others: {bad / 'predictions.safetensors'} is damaged" in caplog.text
    (bad / "predictions.safetensors").unlink()
    assert not any(bold(compare_runs([good, bad])).values())


def test_seeds_become_one_row_with_mean_and_half_range(tmp_path):
    runs = [
        run(tmp_path, "a", 1.5, 0.60, (0.12, 0.02), (1.20, 1.10), seed=1),
        run(tmp_path, "b", 2.0, 0.55, (0.30, 0.01), (2.00, 1.05), loss="cross_entropy", seed=1),
        run(tmp_path, "c", 1.6, 0.63, (0.16, 0.03), (1.30, 1.16), seed=2),
        run(tmp_path, "d", 1.4, 0.60, (0.14, 0.01), (1.10, 1.10), seed=3),
    ]
    assert compare_runs(runs).splitlines() == [
        "| loss | runs | T | error | NLL before | NLL after | ECE before | ECE after | AdaECE before | AdaECE after "
        "| Classwise-ECE before | Classwise-ECE after |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| focal (gamma 3) | 3 | 1.5 ± 0.1 | 39.00% ± 1.50% | 1.2000 ± 0.1000 | 1.1200 ± 0.0300 | 14.00% ± 2.00% "
        "| 2.00% ± 1.00% | 15.00% ± 2.00% | 3.00% ± 1.00% | 1.40% ± 0.20% | 0.20% ± 0.10% |",
        "| cross_entropy | 1 | 2 | 45.00% | 2.0000 | 1.0500 | 30.00% | 1.00% | 31.00% | 2.00% | 3.00% | 0.10% |",
    ]


def test_what_rows_differ_in_comes_first(tmp_path):
    focal = [run(tmp_path, f"gamma-{gamma}", loss_parameters={"gamma": gamma}) for gamma in (1.0, 2.0)]
    other = run(tmp_path, "sum", model="vit", loss_parameters={"reduction": "sum"}, temperature_criterion="nll")
    unnamed = run(tmp_path, "unnamed", loss=None, accuracy=0.59999)
    head, _, *rows = compare_runs([*focal, other, unnamed]).splitlines()
    assert head.startswith("| model | loss | T by | T | error |")
    assert [row.split(" | 1.5 | ")[0] for row in rows] == [
        "| resnet | focal (gamma 1) | ece", "| resnet | focal (gamma 2) | ece",
        "| vit | focal (gamma 3, reduction sum) | nll", "| resnet | - | ece",
    ]  # fmt: skip
    assert all("| 40.00% | 1.2000 |" in row for row in rows)
    for number, (title, setting) in enumerate((("dataset", "dataset"), ("epochs", "epoch"), ("bins", "n_bins"))):
        changed = [run(tmp_path, f"{number}-{value}", **{setting: value}) for value in (7, 9)]
        head, _, *rows = compare_runs(changed).splitlines()
        assert head.startswith(f"| {title} | T |") and [row[:5] for row in rows] == ["| 7 |", "| 9 |"]
    (row,) = compare_runs([other]).splitlines()[2:]
    assert row.startswith("| focal (gamma 3, reduction sum) | 1.5 | 40.00% | 1.2000 |")


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    first, again = run(tmp_path, "first", seed=1), run(tmp_path, "again", seed=1)
    with pytest.raises(ValueError, match="first and .*again would become one row, but are of the same seed, 1"):
        compare_runs([first, again])
    with pytest.raises(ValueError, match="given twice"):
        compare_runs([first, f"{first}/"])
    with pytest.raises(ValueError, match="holds no all_results.json: is its run finished"):
        compare_runs([first, tmp_path])
    with pytest.raises(ValueError, match="folders is empty"):
        compare_runs([])
    (again / "all_results.json").write_text(json.dumps({"temperature": 1.0, "test_after_accuracy": 0.5}))
    with pytest.raises(ValueError, match="lacks test_before_ece, .*test_after_nll: it is not of a finished run"):
        compare_runs([again])


@pytest.mark.filterwarnings("ignore:The (best )?temperature")
def test_commands_of_the_readme_compare_seeds(tmp_path, monkeypatch, capsys):
    (block,) = [block for block in blocks("bash") if "compare_runs" in block]
    train, compare, draw = block.splitlines()
    quick = " --model_name_or_path cifar_resnet8 --train_from_scratch --num_train_epochs 1 --max_train_samples 32"

    def start(command, program):
        assert command.startswith(program)
        words = command.removeprefix(program).replace("outputs", str(tmp_path)).replace("figures", str(tmp_path / "f"))
        monkeypatch.setattr(sys, "argv", words.split())
        runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")

    start(f"{train}{quick} --max_eval_samples 50 --use_cpu true --disable_tqdm true", "accelerate launch ")
    seed = json.loads((tmp_path / "focal-43" / "all_results.json").read_text())
    assert seed["seed"] == 43 and seed["loss_parameters"] == {"gamma": 3.0}
    for name, loss in (("focal", "focal"), ("cross_entropy", "cross_entropy")):
        shutil.copytree(tmp_path / "focal-43", tmp_path / name)
        results = {**seed, "seed": 42, "loss": loss, "test_before_ece": 0.5, "test_after_ece": 0.5}
        results["loss_parameters"] = {"gamma": 3.0} if loss == "focal" else {}
        (tmp_path / name / "all_results.json").write_text(json.dumps(results))
        table = pq.read_table(tmp_path / name / "training_dynamics.parquet")
        rows = [{**row, "loss": loss} for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / name / "training_dynamics.parquet")
    for command in (compare, draw):
        start(command, "python ")
    printed = capsys.readouterr().out
    mean, half = (seed["test_before_ece"] + 0.5) / 2, abs(seed["test_before_ece"] - 0.5) / 2
    assert "| cross_entropy | 1 |" in printed and f"{mean:.2%} ± {half:.2%}" in printed
    with Image.open(tmp_path / "f" / "nll_and_entropy.png") as picture:
        assert picture.width > 700


def test_runs_of_unknown_seeds_stay_apart(tmp_path):
    folders = [run(tmp_path, name) for name in ("a", "b")] + [run(tmp_path, "c", seed=1)]
    assert len(compare_runs(folders).splitlines()) == 2 + 3


def columns_of(table):
    """Title to the cells of a column."""
    header, _, *rows = [line[2:-2].split(" | ") for line in table.splitlines()]
    return {title: list(cells) for title, *cells in zip(header, *rows, strict=True)}


def test_the_largest_gap_has_its_columns_where_it_was_measured(tmp_path):
    runs = [
        run(tmp_path, "a", seed=1, test_before_mce=0.5, test_after_mce=0.2),
        run(tmp_path, "b", seed=2, test_before_mce=0.3, test_after_mce=0.3),
        run(tmp_path, "c", loss="brier", test_before_mce=0.4, test_after_mce=0.1),
    ]
    table = columns_of(compare_runs(runs))
    assert table["MCE before"] == ["40.00% ± 10.00%", "40.00%"]
    assert table["MCE after"] == ["25.00% ± 5.00%", "10.00%"]
    without = columns_of(compare_runs([*runs, run(tmp_path, "d", loss="mmce")]))  # an older file
    assert without["MCE after"] == ["25.00% ± 5.00%", "10.00%", "-"]


def test_the_best_is_marked_within_one_data_set_alone(tmp_path):
    logits, labels = drawn()
    places = [("cifar10", "focal", 1), ("cifar10", "brier", 2), ("sst", "focal", 3), ("sst", "brier", 1)]
    runs = [
        measured(tmp_path, f"{data}-{loss}", factor * logits, labels, dataset=data, loss=loss)
        for data, loss, factor in places
    ]
    assert bold(compare_runs(runs))["NLL before"] == [0, 3]
    assert bold(compare_runs(runs[:3]))["NLL before"] == [0]
    assert "**" not in compare_runs([runs[0], runs[2]])
    unknown = [measured(tmp_path, str(f), f * logits, labels, dataset=None, loss=str(f)) for f in (1, 3)]
    assert "**" not in compare_runs(unknown)  # of one or of two?


def test_runs_are_told_by_the_whole_loss(tmp_path):
    loss = "label_smoothing"
    runs = [
        run(tmp_path, f"{smoothing}-{seed}", loss=loss, seed=seed, loss_parameters={"smoothing": smoothing})
        for smoothing in (0.05, 0.5)
        for seed in (1, 2)
    ]
    table = columns_of(compare_runs(runs))
    assert table["loss"] == ["label_smoothing", "label_smoothing (smoothing 0.5)"]
    assert table["runs"] == ["2", "2"]
    usual = ({}, {"reduction": "mean"}, {"reduction": "mean", "ignore_index": -100, "smoothing": 0.05})
    plain = [run(tmp_path, f"usual-{seed}", loss=loss, seed=seed, loss_parameters=usual[seed]) for seed in range(3)]
    assert columns_of(compare_runs(plain))["loss"] == ["label_smoothing"]
    unknown = run(tmp_path, "unknown", loss="of_a_plugin", loss_parameters={"epsilon": 2})
    assert columns_of(compare_runs([unknown]))["loss"] == ["of_a_plugin (epsilon 2)"]


def test_metrics_of_a_plugin_are_shown_as_the_results_say(tmp_path):
    entry = {
        "accuracy": {"title": "Accuracy", "style": ".2%", "lower_is_better": False},
        "nll": {"title": "NLL", "style": ".4f", "lower_is_better": True},
        "likes": {"title": "Likes", "style": ",.1f", "lower_is_better": False},
        "rmsce": {"title": "RMSCE", "style": ".1%", "lower_is_better": True},
    }
    losses = {"focal": (1200.04, 0.25), "brier": (1300.0, 0.3), "mmce": (float("nan"), 0.2)}
    runs = [
        run(tmp_path, loss, loss=loss, metrics=entry, test_before_accuracy=0.6, test_before_likes=likes,
            test_after_likes=likes + 1, test_before_rmsce=error, test_after_rmsce=0.0)
        for loss, (likes, error) in losses.items()
    ]  # fmt: skip
    older = run(tmp_path, "older", loss="cross_entropy")
    table = columns_of(compare_runs([*runs, older]))
    assert list(table) == ["loss", "T", "error", *(
        f"{title} {moment}" for title in ("NLL", "RMSCE", "ECE", "AdaECE", "Classwise-ECE", "Likes")
        for moment in ("before", "after")
    )]  # fmt: skip
    assert table["Likes before"] == ["1,200.0", "1,300.0", "nan", "-"]
    assert table["RMSCE before"] == ["25.0%", "30.0%", "20.0%", "-"]
    assert table["RMSCE after"] == ["0.0%"] * 3 + ["-"]
    results = json.loads((runs[0] / "all_results.json").read_text())
    del results["test_after_rmsce"]
    (runs[0] / "all_results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match="lacks test_after_rmsce: it is not of a finished run"):
        compare_runs(runs)
