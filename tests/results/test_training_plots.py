# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Pictures of training dynamics: what is drawn is what was measured; the scripts that draw them."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT
from launching import blocks, launch
from PIL import Image
from small_models import arguments, build, data

from hf_focal import (
    CalibrationTrainer,
    TrainingDynamicsCallback,
    focal_gradient_ratio,
    gamma_for_threshold,
    gradient_norm_histograms,
    gradient_ratio_curves,
    nll_and_entropy_curves,
    prepare_output_dir,
    read_dynamics,
    weight_norm_curves,
)
from hf_focal.cli import linear_model
from hf_focal.results.folder import put_in_place
from hf_focal.results.plots.dynamics import equal_gradients


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folders = []
    for loss in ("cross_entropy", "focal"):
        folders.append(tmp_path_factory.mktemp(loss))
        args = arguments(folders[-1], loss=loss, num_train_epochs=3)
        trainer = CalibrationTrainer(model=build(), args=args, train_dataset=data("vit", 16))
        samples = {"train": data("vit", 16), "test": data("vit", 12, seed=1)}
        trainer.add_callback(TrainingDynamicsCallback(trainer, samples, gradient_epochs=[1, 3]))
        trainer.train()
    return folders


@pytest.fixture
def runs(folders):
    return read_dynamics(folders)


def test_runs_are_named_by_their_loss_or_by_their_folder(folders, runs, tmp_path):
    assert list(runs) == ["cross_entropy", "focal (gamma 3)"]
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "training_dynamics.parquet").write_bytes((folders[0] / "training_dynamics.parquet").read_bytes())
    assert list(read_dynamics([folders[0], copy])) == [str(folders[0]), str(copy)]
    with pytest.raises(ValueError, match="given twice"):
        read_dynamics([folders[0], folders[0]])
    with pytest.raises(ValueError, match="holds no training_dynamics.parquet. Train with --track_dynamics"):
        read_dynamics([tmp_path])


def test_curves_are_the_measured_numbers(runs):
    figure = nll_and_entropy_curves(runs)
    keys = [f"{name}{part}" for name in ("nll", "entropy") for part in ("", "_correct", "_incorrect")]
    for axis, key in zip(figure.axes, keys, strict=True):
        for line, rows in zip(axis.lines, runs.values(), strict=True):
            of_test = [row for row in rows if row["split"] == "test"]
            assert line.get_xdata().tolist() == [0, 1, 2, 3]
            expected = [np.nan if row[key] is None else row[key] for row in of_test]
            np.testing.assert_array_equal(line.get_ydata(), expected)
    assert [text.get_text() for text in figure.legends[0].texts] == list(runs)
    assert len({(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}) == 2
    axis = weight_norm_curves(runs).axes[0]
    for line, rows in zip(axis.lines, runs.values(), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), [row["weight_norm"] for row in rows if row["split"] == "test"])


def changed_copy(folder, target, change):
    """A run whose rows are changed."""
    target.mkdir()
    table = pq.read_table(folder / "training_dynamics.parquet")
    rows = [row for row in map(change, table.to_pylist()) if row]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), target / "training_dynamics.parquet")
    return target


def test_seeds_are_averaged_with_their_range(folders, tmp_path):
    def double(row):
        empty = row["epoch"] == 1
        return {**row, "nll": 2 * row["nll"], "nll_correct": None if empty else row["nll_correct"],
                "entropy_incorrect": None}  # fmt: skip

    def third(row):
        nothing = None if row["epoch"] in (1, 2) else row["nll_correct"]
        return {**row, "nll": 6 * row["nll"], "nll_correct": nothing, "entropy_incorrect": None}

    copies = [changed_copy(folders[0], tmp_path / str(index), one) for index, one in enumerate((double, third))]
    runs = read_dynamics([folders[0], folders[1], *copies], average=True)
    assert list(runs) == ["cross_entropy", "focal (gamma 3)"]
    single = {(row["split"], row["epoch"]): row for row in read_dynamics([folders[0]])["cross_entropy"]}
    assert len(runs["cross_entropy"]) == len(single) == 8
    for row in runs["cross_entropy"]:
        first = single[row["split"], row["epoch"]]
        assert row["nll"] == pytest.approx(3 * first["nll"])
        assert row["ranges"]["nll"] == pytest.approx((first["nll"], 6 * first["nll"]))
        for key in ("nll_correct", "entropy_incorrect", "ece"):  # the same where there is any
            assert row[key] == (None if first[key] is None else pytest.approx(first[key]))
        norms = first["gradient_norms"]
        assert row["gradient_norms"] == (None if norms is None else 3 * norms)
    axis = nll_and_entropy_curves(runs).axes[0]
    shaded = axis.collections[0].get_paths()[0].vertices
    expected = np.array([single["test", epoch]["nll"] for epoch in range(4)])
    for epoch in range(4):
        heights = shaded[shaded[:, 0] == epoch, 1]
        assert (heights.min(), heights.max()) == pytest.approx((expected[epoch], 6 * expected[epoch]))
    np.testing.assert_allclose(axis.lines[0].get_ydata(), 3 * expected)
    assert not nll_and_entropy_curves(read_dynamics(folders)).axes[0].collections
    shorter = changed_copy(folders[0], tmp_path / "shorter", lambda row: row if row["epoch"] < 3 else None)
    with pytest.raises(ValueError, match="2 runs of cross_entropy cannot be averaged"):
        read_dynamics([folders[0], shorter], average=True)


def test_the_same_loss_with_other_parameters_is_another_curve(folders, tmp_path):
    def labelled(smoothing, scale):
        return lambda row: {**row, "loss": f"label_smoothing (smoothing {smoothing})", "nll": scale * row["nll"]}

    wanted = [(0.05, 1), (0.5, 2), (0.5, 4), (0.05, 3)]
    copies = [changed_copy(folders[0], tmp_path / str(index), labelled(*one)) for index, one in enumerate(wanted)]
    runs = read_dynamics([*copies, folders[0]], average=True)
    assert list(runs) == ["label_smoothing (smoothing 0.05)", "label_smoothing (smoothing 0.5)", "cross_entropy"]
    low, high, single = (rows[0]["nll"] for rows in runs.values())
    assert (low, high) == pytest.approx((2 * single, 3 * single))
    assert list(read_dynamics([copies[0], copies[1]])) == list(runs)[:2]


def test_no_two_of_28_lines_look_alike(runs):
    many = {str(index): runs["cross_entropy"] for index in range(28)}
    lines = weight_norm_curves(many).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 28


def test_histograms_show_every_sample(runs):
    figure = gradient_norm_histograms(runs)
    assert [axis.get_title() for axis in figure.axes] == ["epoch 1", "epoch 3"]
    for axis in figure.axes:
        assert len(axis.patches) == 2  # one outline per run
    runs["cross_entropy"][2]["gradient_norms"][:4] = [0.0] * 4  # saturated samples have no gradient
    zero = gradient_norm_histograms({"cross_entropy": runs["cross_entropy"]}).axes[0].patches[0].get_xy()
    heights = zero[1::2, 1][: len(zero) // 2]
    assert heights[0] == pytest.approx(4 / 16) and heights.sum() == pytest.approx(1)


@pytest.mark.parametrize(("low", "high", "ends"), [(1.1, 4.8, ["2"]), (0.4, 7.0, ["0.5", "5"]), (1e-5, 9.0, ["1e-5"])])
def test_a_logarithmic_axis_always_has_numbers(low, high, ends):
    row = {"epoch": 1.0, "split": "train", "gradient_norms": list(np.geomspace(low, high, 50))}
    (axis,) = gradient_norm_histograms({"a": [row]}).axes
    axis.figure.canvas.draw()
    told = [tick.get_text() for tick in axis.xaxis.get_ticklabels(which="both") if tick.get_text()]
    shown = [text for text in told if low <= float(text.replace(",", "")) <= high]
    assert {*ends} <= {*shown} and len(shown) <= 7


def test_the_gradient_ratio_crosses_one_where_the_paper_says():
    known = {1: 0.3679, 2: 0.2976, 3: 0.2526, 4: 0.2207, 5: 0.1968, 7: 0.1629}
    figure = gradient_ratio_curves(list(known))
    _, *lines = figure.axes[0].lines
    for (gamma, p0), curve, mark in zip(known.items(), lines[::2], lines[1::2], strict=True):
        assert equal_gradients(gamma) == pytest.approx(p0, abs=5e-5)
        assert mark.get_xydata().tolist() == [[equal_gradients(gamma), 1]]
        np.testing.assert_array_equal(curve.get_ydata(), focal_gradient_ratio(curve.get_xdata(), gamma))
    for gamma in (0.01, 0.5, 14.92, 100.0):
        assert gamma_for_threshold(equal_gradients(gamma)) == pytest.approx(gamma, rel=1e-6)


def test_what_cannot_be_drawn_is_refused(runs):
    with pytest.raises(ValueError, match="runs is empty"):
        weight_norm_curves({})
    with pytest.raises(ValueError, match="'focal .gamma 3.' was not measured on 'dev', but on train, test"):
        nll_and_entropy_curves({"focal (gamma 3)": runs["focal (gamma 3)"]}, split="dev")
    without = [{**row, "gradient_norms": None} for row in runs["cross_entropy"]]
    with pytest.raises(ValueError, match="--dynamics_gradient_epochs"):
        gradient_norm_histograms({"cross_entropy": without})
    with pytest.raises(ValueError, match="gammas is empty"):
        gradient_ratio_curves([])
    with pytest.raises(ValueError, match="gamma must be a positive number"):
        gradient_ratio_curves([0.0])


def test_commands_of_the_readme_track_compare_and_draw(folders, tmp_path, monkeypatch):
    (block,) = [block for block in blocks("bash") if "linear_model" in block]
    train, draw, linear = block.splitlines()
    words = train.replace("1 5 20", "1 2").split()
    assert words[:2] == ["accelerate", "launch"]
    folder = tmp_path / "focal"
    words[words.index("outputs/focal")] = str(folder)
    quick = ["--num_train_epochs", "2", "--max_train_samples", "64", "--use_cpu", "true"]
    result = launch(str(ROOT / words[2]), *words[3:], *quick)
    results = json.loads((folder / "all_results.json").read_text())
    assert list(results["stopping_criteria"]) == ["last", "ece", "nll", "accuracy"]
    for key in ("test_before_ece", "test_after_ece", "test_before_nll", "temperature"):
        assert results["stopping_criteria"]["last"][key] == pytest.approx(results[key], abs=1e-6)
    assert "best by" in result.stdout
    figures = tmp_path / "figures"
    drawn = {"nll_and_entropy", "weight_norm", "gradient_ratio", "gradient_norms", "linear_model"}
    for command in (draw, linear):
        python, script, *rest = command.split()
        assert python == "python"
        swap = {"outputs/focal": str(folder), "outputs/cross_entropy": str(folders[0]), "figures": str(figures)}
        rest = [swap.get(word, word) for word in rest]
        monkeypatch.setattr(sys, "argv", [script, *rest])
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert {path.stem for path in figures.glob("*.png")} == drawn
    for path in figures.glob("*.png"):
        with Image.open(path) as picture:
            assert picture.width >= 700 and len(set(picture.convert("L").tobytes())) > 20

    # --overwrite takes all of it away, in the end: a later picture must not show an earlier run.
    args = arguments(folder)
    prepare_output_dir(args, overwrite=True)
    assert list(folder.glob("best-*")) and (folder / "training_dynamics.parquet").exists()
    Path(args.output_dir).mkdir()
    put_in_place(args)
    assert not list(folder.glob("best-*")) and not (folder / "training_dynamics.parquet").exists()


@pytest.mark.parametrize("epochs", ["0", "-3"])
def test_the_linear_model_is_trained_at_all(epochs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["linear_model.py", "--epochs", epochs, "--output", str(tmp_path)])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "scripts" / "linear_model.py"), run_name="__main__")
    assert f"--epochs must be at least 1, got {epochs}" in capsys.readouterr().err


def test_the_linear_model_reverses_its_norms_where_numpy_says(tmp_path, monkeypatch, capsys):
    """The same points; gradient descent in float64 with the gradient of Proposition 1."""
    script = str(ROOT / "scripts" / "linear_model.py")
    generator = torch.Generator().manual_seed(0)
    labels = np.arange(1000) % 10
    centres = torch.randn(10, 20, generator=generator)
    points = (centres[labels] + torch.randn(1000, 20, generator=generator)).double().numpy()
    norms = {}
    for gamma in (0.0, 3.0):
        weight, bias, norms[gamma] = np.zeros((10, 20)), np.zeros(10), [0.0]
        for _ in range(120):
            p = np.exp(points @ weight.T + bias)
            p /= p.sum(axis=1, keepdims=True)
            slopes = (p - np.eye(10)[labels]) * focal_gradient_ratio(p[np.arange(1000), labels], gamma)[:, None] / 1000
            weight, bias = weight - 0.02 * slopes.T @ points, bias - 0.02 * slopes.sum(axis=0)
            norms[gamma].append(np.sqrt((weight**2).sum()))
    for loss, gamma in (("cross_entropy", 0.0), ("focal", 3.0)):
        measured = [row["weight_norm"] for row in linear_model.train(loss, 120, 0)]
        np.testing.assert_allclose(measured, norms[gamma], rtol=1e-4)
    reversal = max(epoch for epoch in range(121) if norms[3.0][epoch] > norms[0.0][epoch])
    monkeypatch.setattr(sys, "argv", [script, "--epochs", "120", "--output", str(tmp_path)])
    runpy.run_path(script, run_name="__main__")
    assert f"up to epoch {reversal}, cross-entropy from epoch {reversal + 1} on" in capsys.readouterr().out
    assert 10 < reversal < 110
