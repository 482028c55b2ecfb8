# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Calibration errors of finished runs in one picture."""

import json

import pytest

import hf_focal


def run(folder, name, loss="focal", ece=(0.2, 0.05), **changes):
    results = {
        "loss": loss,
        "loss_parameters": {"gamma": 2.0} if loss == "focal" else {},
        "temperature": 1.5,
        "test_after_accuracy": 0.5,
    }
    results |= {"metrics": {"ece": hf_focal.METRICS["ece"].facts()}, "intervals": {"before": {}, "after": {}}}
    for moment, value in zip(("before", "after"), ece, strict=True):
        for key in ("ece", "adaptive_ece", "classwise_ece"):
            results[f"test_{moment}_{key}"] = value
            results["intervals"][moment][key] = [value - 0.02, value + 0.01]
    (folder / name).mkdir()
    (folder / name / "all_results.json").write_text(json.dumps({**results, **changes}))
    return folder / name


def test_bars_are_the_errors_and_lines_their_intervals(tmp_path):
    folders = [run(tmp_path, "a"), run(tmp_path, "b", "cross_entropy", (0.3, 0.1))]
    figure = hf_focal.calibration_error_bars(folders)
    assert [axis.get_xlabel() for axis in figure.axes] == ["ECE in %", "AdaECE in %", "Classwise-ECE in %"]
    axis = figure.axes[0]
    before, after = (list(container) for container in axis.containers)
    assert [bar.get_width() for bar in before] == pytest.approx([20, 30])
    assert [bar.get_width() for bar in after] == pytest.approx([5, 10])
    ends = [segment[:, 0].tolist() for lines in axis.collections for segment in lines.get_segments()]
    assert ends == [pytest.approx(pair) for pair in ([18, 21], [28, 31], [3, 6], [8, 11])]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["focal (gamma 2)", "cross_entropy"]
    assert (
        "20.0% (focal (gamma 2)) to 30.0% (cross_entropy)" in figure.finding
        and "focal (gamma 2) 20.0%, 5.0%" in figure.alt_text
    )


def test_runs_of_one_loss_are_called_by_their_folders(tmp_path):
    folders = [run(tmp_path, "a"), run(tmp_path, "b")]
    (axis,) = hf_focal.calibration_error_bars(folders, ["ece"]).axes
    assert [label.get_text()[-2:] for label in axis.get_yticklabels()] == ["/a", "/b"]


def test_runs_without_intervals_are_refused_by_name(tmp_path):
    folder = run(tmp_path, "a", intervals={})
    with pytest.raises(ValueError, match="/a has no interval of 'ece'"):
        hf_focal.calibration_error_bars([folder])
    with pytest.raises(ValueError, match="metrics is empty"):
        hf_focal.calibration_error_bars([folder], [])
    with pytest.raises(ValueError, match="given twice"):
        hf_focal.calibration_error_bars([folder, folder])
