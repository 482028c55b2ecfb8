# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Reports, cards, folders, pictures and comparisons of sigmoid heads."""

import csv
import json
import re
from dataclasses import asdict

import numpy as np
import pytest
from scipy.special import expit

from hf_focal import (
    About,
    Predictions,
    calibration_error_bars,
    calibration_metrics,
    classwise_reliability_diagram,
    compare_calibrators,
    compare_runs,
    confidence_histogram,
    create_model_card,
    load_logits,
    load_predictions,
    make_report,
    multilabel_calibration_metrics,
    reliability_diagram,
)
from hf_focal.calibrators.base import SIGMOID, calibrator_class
from hf_focal.calibrators.fit import Fit, fit_for_model
from hf_focal.metrics import measure, scored_logits
from hf_focal.results.folder import save_card, save_run
from hf_focal.results.gain import best_fit, temperature_refinement
from hf_focal.results.labels import worst_first
from hf_focal.results.replace import BY_LABEL, PREDICTIONS, RESULTS, of_a_run


NAMES = ["admiration", "joy", "grief", "neutral"]


def draw(n=300, labels=4, seed=0, sharpness=1.8):
    generator = np.random.default_rng(seed)
    logits = np.linspace(-3, 0.5, labels) + 1.5 * generator.normal(size=(n, labels))
    return sharpness * logits, (generator.random(logits.shape) < expit(logits)).astype(int)


def report_of(labels=4, n=300, names=NAMES, method="temperature", **options):
    fit = fit_for_model(*draw(n, labels, 1), method, "nll", 15, None)
    logits, truth = draw(n, labels, 2)
    return make_report(Predictions(logits, truth), fit, label_names=names, **options)


@pytest.fixture(scope="module")
def report():
    return report_of(best=best_fit(Predictions(*draw(seed=1))))


def test_the_means_of_the_report_are_those_of_its_labels(report):
    logits, truth = draw(seed=2)
    for moment, values in (("before", expit(logits)), ("after", report.fit.probabilities(logits))):
        found = getattr(report, moment)
        assert found == pytest.approx(calibration_metrics(values, truth), abs=1e-12)
        each = multilabel_calibration_metrics(values, truth, label_names=NAMES)
        assert [label.name for label in report.labels] == NAMES
        for label in report.labels:
            assert label.metrics[moment]["ece"] == pytest.approx(each[label.name]["ece"], abs=1e-12)
            assert label.metrics[moment]["f1"] == each[label.name]["f1"]
            assert (label.known, label.positives) == (300, each[label.name]["positives"])
            low, high = label.intervals[moment]
            assert 0 <= low <= high and 0 < label.floors[moment].low < label.floors[moment].high
        assert np.mean([label.metrics[moment]["ece"] for label in report.labels]) == pytest.approx(found["ece"])
        pooled = report.bins[moment]
        assert pooled.counts.sum() == 1200 and pooled.correct_sums.sum() == truth.sum()


def test_the_text_says_what_a_person_wants_to_know(report):
    text = report.text()
    head = r"Calibrated: where it says \d+% a label is right \d+% of the time \(\d+% to \d+%\);"
    assert re.match(head, text)
    assert "of 1,200 labels of 300 test samples" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert "90% intervals, by sample" in text and "the mean of those of 4 labels" in " ".join(text.split())
    assert "over-confident, too sure of its answers yes and no" in " ".join(text.split())
    assert re.search(r"^label +positives +ECE before +after +NLL before +after +F1 after$", text, re.MULTILINE)
    for label in report.labels:
        assert f"\n{label.name}" in text
    assert report.group == "sample" and "F1 (macro)" in str(report)


def test_labels_stand_in_the_order_of_what_chance_does_not_explain(report):
    first, *_, last = worst_first(report.labels)
    assert first.excess == max(label.excess for label in report.labels) > last.excess


def test_too_high_and_too_low_are_said_of_probabilities():
    logits, truth = draw(n=1000, sharpness=1.0)
    fit = fit_for_model(*draw(sharpness=1.0), "none", "nll", 15, None)
    words = {}
    for shift, word in ((1.0, "Too high"), (-1.0, "Too low")):
        shifted = make_report(Predictions(logits + shift, truth), fit)
        assert shifted.headline.startswith(f"Left alone: {word.lower()}; where it says") or word in shifted.headline
        assert f"The probabilities are {word.lower()}: they are" in shifted.words
        words[word] = shifted.alt_text
    assert ", too high;" in words["Too high"] and ", too low;" in words["Too low"]


def test_a_model_that_is_too_sure_of_yes_and_of_no_is_called_over_confident():
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(1500, 3))
    truth = (generator.random(logits.shape) < expit(logits)).astype(int)
    fit = fit_for_model(logits, truth, "none", "nll", 15, None)
    for factor, word in ((2.5, "over-confident"), (0.4, "under-confident")):
        found = make_report(Predictions(factor * logits, truth), fit)
        assert found.headline.startswith(f"Left alone: {word}; where it says")
        assert found.words.startswith(f"The model is {word}, ") and "of its answers yes and no" in found.words
        assert f"{word}; of 1" in found.alt_text


def test_many_labels_show_the_worst_and_tell_where_all_are():
    shown = report_of(labels=12, names=[f"label {number}" for number in range(12)], n=200).text()
    table = shown[shown.index("label  ") :]
    assert len(re.findall(r"^label \d+", table, re.MULTILINE)) == 10
    assert f"Shown are the 10 whose ECE is most above it; all are in {BY_LABEL}" in " ".join(shown.split())


def test_one_logit_has_no_table_of_labels():
    alone = report_of(labels=1, names=["relevant"])
    text = " ".join(alone.text().split())
    assert re.match(r"\w[\w -]*: where it says \d+% the answer is yes \d+% of the time", text)
    assert "F1 (macro)" not in text and "F1 (micro)" in text and "positives" not in text and alone.group is None
    assert "labels of" not in alone.headline and "share of" not in text
    assert alone.pooled == {} and alone.alt_text.count("300 samples") == 2


def test_what_is_not_known_is_left_out():
    logits, truth = draw(n=200)
    truth[:, 1], truth[::2, 0] = -100, -100
    fit = fit_for_model(*draw(), "temperature", "nll", 15, None)
    found = make_report(Predictions(logits, truth), fit, label_names=NAMES)
    assert [(label.name, label.known) for label in found.labels] == [
        ("admiration", 100),
        ("grief", 200),
        ("neutral", 200),
    ]
    tiny = make_report(Predictions(logits[:1], truth[:1] * 0), fit)
    assert tiny.intervals == {"before": {}, "after": {}} and "Too little data" in tiny.text()
    assert make_report(Predictions(logits[:2].tolist(), [[0, 1, 1, 0], [1, 1, 0, 0]]), fit).n_samples == 2


# ---- Pictures -------------------------------------------------------------------------------------------------------


def test_the_diagram_is_of_all_labels_or_of_one(report):
    whole, one = report.diagram(), report.diagram(label="joy")
    assert whole.alt_text == report.alt_text and "1,200 labels" in whole.alt_text
    assert whole.alt_text.startswith("Reliability diagram: share that is right against probability in 15 bins")
    assert one.alt_text.startswith("Reliability diagram of joy: ") and "300 samples" in one.alt_text
    assert one.finding.startswith("joy: ") and report.diagram(label=1).alt_text == one.alt_text
    assert one.axes[0].get_ylabel() == "share that is right" and "confidence" not in one.alt_text
    with pytest.raises(ValueError, match="no label 'sadness'.*admiration, joy"):
        report.diagram(label="sadness")


def test_pictures_of_probabilities_take_labels_of_their_shape():
    logits, truth = draw()
    drawn = reliability_diagram({"raw": expit(logits), "flat": expit(logits / 2)}, truth)
    assert "ECE of all labels together" in drawn.alt_text and drawn.alt_text.count("1,200 labels") == 2
    bins = scored_logits(logits, truth).bins(15)
    assert f"ECE of all labels together {bins.expected_error():.2%}" in drawn.alt_text
    each = classwise_reliability_diagram(expit(logits), truth, label_names=NAMES)
    assert "of 4 of 4 labels: how often a label is right" in each.alt_text and "classes" not in each.alt_text
    with pytest.raises(ValueError, match="reliability_diagram"):
        confidence_histogram(expit(logits), truth)


# ---- Folder and card ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    return folder, saved(folder, loss="cross_entropy")


def saved(folder, seed=2, sharpness=1.8, **results):
    folder.mkdir()
    validation, test = Predictions(*draw(seed=1, sharpness=sharpness)), Predictions(*draw(seed=2, sharpness=sharpness))
    fit = fit_for_model(validation.logits, validation.labels, "temperature", "nll", 15, None)
    report = make_report(test, fit, label_names=NAMES)
    facts = {"dataset": "emotions", "model": "bert", "seed": seed, **results}
    save_run(folder, report, {"validation": validation, "test": test}, dict(enumerate(NAMES)), facts, "me/model")
    record = {**fit.calibrator.to_record(), "method": "temperature", "activation": "sigmoid"}
    (folder / "config.json").write_text(json.dumps({"calibration": record}))
    about = About("model", task="text-classification", calibration={**record, "folded": True}, architecture="bert")
    save_card(folder, about, report, "me/model")
    return report


def test_the_folder_holds_all_of_all_labels(run):
    folder, report = run
    entries = json.loads((folder / RESULTS).read_text())
    assert entries["test_after_f1_macro"] == report.after["f1_macro"]
    assert entries["metrics"]["f1_micro"]["lower_is_better"] is False
    assert [one["label"] for one in entries["labels"]] == NAMES
    assert entries["labels"][1]["after"] == report.labels[1].metrics["after"]
    assert entries["labels"][1]["ece_by_chance"]["after"] == asdict(report.labels[1].floors["after"])
    rows = list(csv.DictReader((folder / BY_LABEL).open()))
    assert [row["label"] for row in rows] == NAMES and of_a_run(folder / BY_LABEL)
    assert float(rows[2]["ece_after"]) == report.labels[2].metrics["after"]["ece"]
    kept, _ = load_predictions(folder / PREDICTIONS)
    logits, truth = draw(seed=2)
    np.testing.assert_array_equal(kept["test"].labels, truth)
    assert kept["test"].is_sigmoid and kept["test"].logits == pytest.approx(logits, abs=1e-5)
    again = make_report(kept["test"], report.fit, label_names=NAMES)
    assert again.after == pytest.approx(report.after, abs=1e-6)


def test_the_card_speaks_of_labels_and_sigmoids(run, report):
    folder, _ = run
    card = (folder / "README.md").read_text()
    assert "softmax over several labels" in card and "the softmax of the logits" not in card
    assert "wherever the sigmoid of the logits is taken" in card and "top_k=None" in card
    assert "<summary>Each label</summary>" in card and "| neutral |" in card
    assert "name: F1 (macro) after temperature" in card and "- f1_micro" in card
    about = About("m", task="text-classification", calibration={"activation": "sigmoid", "temperature": 2.0})
    bare = str(create_model_card(about))
    assert "where it says 80%, it means a label to be right 80% of the time" in bare and "Each label" not in bare
    alone = str(create_model_card(about, report_of(labels=1, names=["relevant"])))
    assert "Each label" not in alone and "then `/predict`" in alone and "raw_scores" not in alone


def test_a_softmax_has_the_card_that_it_had():
    about = About("m", task="text-classification", calibration={"method": "temperature", "temperature": 2.0})
    card = str(create_model_card(about))
    assert "wherever the softmax of the logits is taken" in card and "sigmoid" not in card and "top_k" not in card


# ---- Comparisons ----------------------------------------------------------------------------------------------------


def test_runs_are_compared_by_their_labels(tmp_path, run):
    folders = [run[0], tmp_path / "b"]
    saved(folders[1], loss="focal", sharpness=5.0)
    table = compare_runs(folders)
    header, _, one, other = (list(map(str.strip, line.split("|")[1:-1])) for line in table.splitlines())
    assert {"F1 (micro) before", "F1 (macro) after", "ECE before", "NLL gain", "NLL left"} <= {*header}
    place = header.index("NLL before")
    assert one[place].startswith("**") and not other[place].startswith("**")
    assert "~" in one[header.index("ECE after")]
    assert calibration_error_bars(folders, ["ece", "adaptive_ece"]).alt_text


def test_calibrators_are_compared(tmp_path):
    parts = {name: Predictions(*draw(seed=seed)) for name, seed in (("validation", 1), ("test", 2))}
    found = compare_calibrators(**parts)
    assert [one.method for one in found.candidates] == ["none", "temperature", "platt", "auto"]
    logits, truth = draw(seed=2)
    assert found["none"].values == pytest.approx(calibration_metrics(expit(logits), truth))
    assert "temperature" in str(found)
    with pytest.raises(ValueError, match="the others of a softmax"):
        compare_calibrators(parts["validation"], Predictions(logits, truth.argmax(axis=1)))
    with pytest.raises(ValueError, match="vector"):
        compare_calibrators(**parts, methods=["vector"])
    np.savez(tmp_path / "x.npz", logits=logits, labels=truth)
    assert all(part.is_sigmoid for part in load_logits(tmp_path / "x.npz").values())


def test_the_refinement_is_the_nll_after_the_best_temperature():
    logits, truth = draw()
    best = calibrator_class("temperature", SIGMOID).fit(logits, truth, criterion="nll", n_bins=15)
    found = temperature_refinement(logits, truth)
    assert found == pytest.approx(measure(scored_logits(logits, truth, best))["nll"], abs=1e-12)
    others = [measure(scored_logits(logits / t, truth))["nll"] for t in np.linspace(0.5, 4, 40)]
    assert found <= min(others)


def test_a_fit_that_was_made_elsewhere_is_reported():
    class Halved:
        def calibrated_logits(self, logits):
            return logits / 2

    logits, truth = draw(n=100)
    assert measure(scored_logits(logits, truth, Halved()))["nll"] == measure(scored_logits(logits / 2, truth))["nll"]
    assert isinstance(report_of(method="platt").fit, Fit)
