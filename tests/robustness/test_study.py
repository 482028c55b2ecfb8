# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The study of models on unfamiliar data: its figures worked out by hand, what it shows, and what it saves."""

import json
import weakref
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import softmax

from hf_focal import (
    ImageCorruption,
    auroc_interval,
    choose_threshold,
    confidence_interval,
    focal_recalibration,
    noise_floor,
    ood_scores,
)
from hf_focal.calibrators import FocalRecalibration, TemperatureScaling
from hf_focal.calibrators.bias import BiasCorrection
from hf_focal.robustness.study import Study, measure, pictures, save, tables, titles_of


LOGITS, LABELS = np.array([[2.0, 0], [0, 1], [1, 0], [0, 3]]), np.array([0, 1, 1, 1])
OTHER = np.array([[0.5, 0], [0, 2.5]])
DARKER = np.array([[1.0, 0], [1, 0], [1, 0], [0, 2]])
CONTRAST = ImageCorruption("contrast", 3)
HALF = TemperatureScaling(2.0)


def log_loss(margin):
    return np.log1p(np.exp(-margin))


def sigmoid(margin):
    return 1 / (1 + np.exp(-margin))


def found(calibrator=HALF, others=(("noise", OTHER), (CONTRAST, DARKER)), logits=LOGITS, labels=LABELS, **options):
    options = {"corruptions": ["contrast"], "threshold": 0.9, "n_bins": 2, "n_resamples": 20, "seed": 3, **options}
    return measure(logits, labels, others, calibrator, **options)


def test_figures_are_those_worked_out_by_hand():
    study = found()
    right, margins = {"clean": 3 / 4, "contrast": 2 / 4}, {"clean": [2, 1, -1, 3], "contrast": [1, -1, -1, 2]}
    for severity, name in ((0, "clean"), (3, "contrast")):
        for moment, temperature in (("before", 1), ("after", 2)):
            row, scaled = study.shift["contrast"][severity][moment], np.array(margins[name]) / temperature
            assert row["accuracy"] == right[name]
            assert row["nll"] == pytest.approx(log_loss(scaled).mean(), rel=1e-14)
            gap = abs(sigmoid(np.abs(scaled)).mean() - right[name])  # all are in the upper bin
            assert row["ece"] == pytest.approx(gap) and row["mce"] == pytest.approx(gap)
    for moment, confident in (("before", (1, 0.25, 1.0)), ("after", (0, 0.0, None))):
        values = study.selective[moment]
        assert (values["count"], values["share"], values["accuracy"]) == confident and values["threshold"] == 0.9
        assert values["aurc"] == pytest.approx((0 + 0 + 1 / 6 + 1 / 4) / 4)  # a tie of one right and one wrong
        assert study.curves[moment][1].tolist() == pytest.approx([0, 0, 1 / 6, 1 / 4])
    # The margin 0.5 is less than all four, 2.5 less than one of them; the energy orders these logits alike.
    assert {one.auroc for row in study.ood["noise"].values() for one in row.values()} == {5 / 8}
    assert list(study.ood) == ["noise", "contrast 3"] == list(study.entropies)


def test_intervals_and_scores_are_those_of_the_functions_of_the_package():
    study = found(FocalRecalibration(gamma=3.0, temperature=2.0))
    probabilities = focal_recalibration(LOGITS, 3.0, 2.0)
    ends = confidence_interval("ece", probabilities, LABELS, seed=3, n_bins=2)
    intervals = study.shift["contrast"][0]["after"]["intervals"]
    assert list(intervals) == ["accuracy", "nll", "ece"] and intervals["ece"] == pytest.approx(ends)
    chance = study.shift["contrast"][0]["after"]["by_chance"]
    assert chance == pytest.approx(asdict(noise_floor("ece", probabilities, n_bins=2, seed=3)))
    for moment, scaling in (("before", (1.0, 0.0)), ("after", (2.0, 3.0))):
        pairs = {
            name: (values, ood_scores(OTHER, *scaling)[name]) for name, values in ood_scores(LOGITS, *scaling).items()
        }
        for name, pair in pairs.items():
            one = study.ood["noise"][name][moment]
            assert (one.low, one.high) == auroc_interval(*pair, n_resamples=20, seed=3)
        assert all(map(np.array_equal, study.entropies["noise"][moment], pairs["entropy"]))


def test_logits_of_other_data_are_not_kept():
    seen = []

    def others():
        for key in ("noise", CONTRAST, "again"):
            logits = np.tile(OTHER, (2, 1))
            seen.append(weakref.ref(logits))
            yield key, logits
            del logits
            assert seen[-1]() is None

    study = found(others=others())
    assert len(seen) == 3 and list(study.ood) == ["noise", "contrast 3", "again"]


def test_only_what_was_asked_for_is_measured_shown_and_saved(tmp_path):
    only_noise = found(others=[("noise", OTHER)], corruptions=(), threshold=None)
    assert not only_noise.shift and not only_noise.selective and not only_noise.curves
    study = Study("digits", 4, 3, ["noise"], {"focal": only_noise})
    assert list(pictures(study)) == ["roc.png"]
    heading, blank, header, *lines = tables(study).splitlines()
    assert heading == "== focal: digits, 4 images, T = 2" and not blank
    assert header.split() == ["AUROC", "(90%", "interval)", "score", "before", "after"]
    assert [line.split()[:3] for line in lines] == [
        ["noise", name, "62.50%"] for name in ("entropy", "max_probability", "energy")
    ]
    assert save(study, tmp_path / "new" / "folder") == [
        "ood_results.json", "ood_results.txt", "ood_entropies.safetensors", "roc.png",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="finite"):
        found(others=[("noise", OTHER * np.nan)])


def test_the_selective_table_says_from_which_confidence_on_answers_are_right_often_enough():
    generator = np.random.default_rng(0)
    true = 3 * generator.normal(size=(1000, 5))
    labels = (true + generator.gumbel(size=true.shape)).argmax(axis=1)
    study = found(TemperatureScaling(2.0), (), logits=2 * true, labels=labels, corruptions=(), target_accuracy=0.9)
    text = tables(Study("digits", 1000, 3, [], {"one": study}))
    assert "right at least 0.9 (certainty 0.9)" in text
    for moment, temperature in (("before", 1), ("after", 2)):
        probabilities = softmax(2 * true / temperature, axis=1)
        promise, threshold = study.selective[moment]["promise"], choose_threshold(probabilities, labels, accuracy=0.9)
        assert promise["confidence"] == pytest.approx(threshold, rel=1e-12) and 0 < promise["kept"] < 1
        (line,) = [line for line in text.splitlines() if line.startswith(moment)]
        shown = float(line.partition("confidence >= ")[2].partition(" ")[0])
        assert threshold <= shown + 1e-12 and shown - threshold < 1e-4 and f"({promise['kept']:.2%})" in line
    none = tables(Study("digits", 4, 3, [], {"one": found(others=(), corruptions=(), target_accuracy=0.9)}))
    assert none.count("none can be promised") == 2
    assert "promise" not in found(others=(), corruptions=()).selective["after"]


def test_the_file_holds_all_figures_and_the_pictures_show_some(tmp_path):
    models = {
        "plain": found(TemperatureScaling(1.0), model="a/plain"),
        "focal": found(FocalRecalibration(gamma=3.0, temperature=2.0), model="b", loss="focal"),
    }
    study = Study("digits", 4, 3, ["contrast 3"], models)
    names = ["ood_results.json", "ood_results.txt", "ood_entropies.safetensors", "severity_contrast.png", "roc.png",
             "risk_coverage.png"]  # fmt: skip
    assert save(study, tmp_path) == names and {path.name for path in tmp_path.iterdir()} == set(names)
    results = json.loads((tmp_path / names[0]).read_text())
    assert {key: value for key, value in results.items() if key != "models"} == {
        "dataset": "digits", "num_samples": 4, "seed": 3,
    }  # fmt: skip
    plain, focal = results["models"].values()
    assert list(plain) == ["model", "loss", "temperature", "gamma", "ood", "shift", "selective"]
    assert [plain[key] for key in list(plain)[:4]] == ["a/plain", None, 1.0, 0.0]
    assert [focal[key] for key in list(plain)[:4]] == ["b", "focal", 2.0, 3.0]
    assert focal["ood"]["noise"]["energy"]["after"]["auroc"] == 5 / 8
    assert list(focal["shift"]["contrast"]) == ["0", "3"]
    assert plain["selective"]["before"]["accuracy"] == 1.0 and focal["selective"]["after"]["threshold"] == 0.9
    text = (tmp_path / names[1]).read_text()
    assert "== focal: digits, 4 images, T = 2, gamma = 3\n" in text and "contrast 3" in text and "\nnoise" not in text


def test_a_map_that_changes_answers_has_its_errors_before_and_after(tmp_path):
    shifted = found(BiasCorrection((0.0, 1.5)), model="m")  # of both: 3 of 4 right on clean data, and then 4
    study = Study("digits", 4, 3, [], {"m": shifted})
    header, clean, *_ = tables(study).split("\n\n")[1].splitlines()
    assert header.split("  ")[0] == "contrast" and "error before  error after  ECE before" in header
    assert clean.split()[2:4] == ["25.00%", "0.00%"]
    figure = pictures(study)["severity_contrast.png"]
    assert [line.get_label() for line in figure.axes[2].lines] == ["m, before", "m, after"]
    assert [figure.axes[2].lines[i].get_ydata()[0] for i in range(2)] == [25.0, 0.0]
    save(study, tmp_path)
    (saved,) = json.loads((tmp_path / "ood_results.json").read_text())["models"].values()
    assert saved["calibrator"] == {"method": "bias", "shift": [0.0, 1.5]} and "temperature" not in saved
    assert set(saved["shift"]) == {"contrast"}
    same = tables(Study("digits", 4, 3, [], {"m": found()}))
    assert "error before" not in same and "contrast" in same


def test_models_are_called_by_what_tells_them_apart():
    def titles(*models):
        return titles_of([SimpleNamespace(name=name, loss=loss) for name, loss in models])

    assert titles(("x/a", "focal"), ("y/a", "brier")) == ["focal", "brier"]
    assert titles(("x/a", "focal"), ("x/b", "focal")) == ["a", "b"] == titles(("x/a", None), ("x/b", "focal"))
    assert titles(("x/a", None), ("y/a", None)) == ["x/a", "y/a"]
