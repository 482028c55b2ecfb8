# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Reliability diagrams, model cards, and the folder that a run leaves."""

import re
from dataclasses import asdict, replace

import numpy as np
import pytest
from huggingface_hub import ModelCard
from scipy.special import softmax

from hf_focal import (
    About,
    Predictions,
    Report,
    calibration_metrics,
    classwise_reliability_diagram,
    confidence_histogram,
    confidence_interval,
    create_model_card,
    describe_confidence,
    fit_temperature,
    make_report,
    noise_floor,
    paired_bootstrap,
    reliability_diagram,
)
from hf_focal.calibrators import Fit, TemperatureScaling
from hf_focal.metrics import METRICS, Scored, measure
from hf_focal.metrics.noise import calibrated_band


def predictions(count=500, classes=4, seed=0):
    generator = np.random.default_rng(seed)
    return softmax(3 * generator.normal(size=(count, classes)), axis=1), generator.integers(0, classes, count)


# ---- Pictures -------------------------------------------------------------------------------------------------------


def test_diagram_shows_the_bins_of_the_metric():
    probabilities, labels = predictions()
    figure = reliability_diagram(
        {"before": probabilities, "after": probabilities**0.5 / (probabilities**0.5).sum(1, keepdims=True)}, labels, 10
    )  # noqa: E501
    tops, bottoms = figure.axes[:2], figure.axes[2:]
    assert len(tops) == len(bottoms) == 2
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    filled = [index for index in range(10) if np.any((confidence > index / 10) & (confidence <= (index + 1) / 10))]
    heights = [patch.get_height() for patch in tops[0].containers[0]]
    for height, index in zip(heights, filled, strict=True):
        inside = (confidence > index / 10) & (confidence <= (index + 1) / 10)
        assert height == pytest.approx(correct[inside].mean())
    counts = [patch.get_height() for patch in bottoms[0].containers[0]]
    assert counts == np.histogram(confidence, bins=np.arange(11) / 10)[0].tolist()
    ece = calibration_metrics(probabilities, labels, 10)["ece"]
    floor = noise_floor("ece", probabilities, n_bins=10)
    assert tops[0].get_title() == f"before\nECE {ece:.2%}\nby chance {floor.low:.2%} to {floor.high:.2%}"
    band = calibrated_band(Scored(probabilities, labels), 10)[:, filled]
    drawn = [(patch.get_y(), patch.get_y() + patch.get_height()) for patch in tops[0].containers[2]]
    np.testing.assert_allclose(drawn, band.T, atol=1e-12)


def test_diagram_is_a_png_of_card_width(tmp_path):
    probabilities, labels = predictions(20)
    reliability_diagram(probabilities, labels).savefig(tmp_path / "picture.png")
    header = (tmp_path / "picture.png").read_bytes()
    assert header.startswith(b"\x89PNG")
    assert int.from_bytes(header[16:20], "big") == 600


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(({}, [0]), "no panel"), (([[3.0, -1.0]], [0]), "softmax"), (([[0.5, 0.5]], [2]), "labels must lie")],
)
def test_diagram_refuses_what_is_no_probability(arguments, message):
    with pytest.raises(ValueError, match=message):
        reliability_diagram(*arguments)
    with pytest.raises(ValueError, match="level"):
        reliability_diagram([[0.5, 0.5]], [0], level=1)


def test_classwise_diagram_shows_the_worst_classes_first():
    probabilities, labels = predictions(2000, classes=15)
    probabilities[:, 3] += 0.5  # claimed far too often
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    figure = classwise_reliability_diagram(probabilities, labels, n_bins=10)
    drawn = [axis for axis in figure.axes if axis.axison]
    assert len(drawn) == 12
    assert drawn[0].get_title().startswith("3: ")
    values = [float(axis.get_title().split()[1].rstrip("%")) for axis in drawn]
    assert values == sorted(values, reverse=True)
    one = classwise_reliability_diagram(probabilities, labels, 10, classes=[3], label_names=list("abcdefghijklmno"))
    (axis,) = one.axes
    edges = np.arange(11) / 10
    claimed = probabilities[:, 3]
    inside = [(claimed > low) & (claimed <= high) for low, high in zip(edges, edges[1:], strict=False)]
    expected = [(labels[rows] == 3).mean() for rows in inside if rows.any()]
    assert [patch.get_height() for patch in axis.containers[0]] == pytest.approx(expected)
    gaps = [abs((labels[rows] == 3).sum() - probabilities[rows, 3].sum()) for rows in inside]
    assert axis.get_title() == f"d: {sum(gaps) / 2000:.2%}"
    with pytest.raises(ValueError, match="classes must be"):
        classwise_reliability_diagram(probabilities, labels, classes=[15])
    with pytest.raises(ValueError, match="label_names"):
        classwise_reliability_diagram(probabilities, labels, label_names=["a"])


def test_histogram_counts_right_and_wrong_apart():
    probabilities, labels = predictions()
    (axis,) = confidence_histogram(probabilities, labels, 8).axes
    right, wrong = ([patch.get_height() for patch in container] for container in axis.containers)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    edges = np.arange(9) / 8
    assert right == np.histogram(confidence[correct], edges)[0].tolist()
    assert wrong == np.histogram(confidence[~correct], edges)[0].tolist()


# ---- Cards ----------------------------------------------------------------------------------------------------------


RECORD = {"temperature": 1.7, "folded": True, "loss": "flsd-53", "split": "validation", "n_samples": 300}


def report(split="test", intervals=None, n_bins=15, after=None):
    probabilities, labels = predictions()
    before = calibration_metrics(probabilities, labels)
    after = {**before, **({"ece": 0.0123} if after is None else after)}
    fit = Fit(TemperatureScaling(1.7), "ece", 300, before, after)
    intervals = {"before": {}, "after": {}, **(intervals or {})}
    return Report(fit, before, after, "It was over-confident.", intervals, {}, 500, n_bins, split)


def card(split="test", intervals=None, n_bins=15, model_id=".", **about):
    defaults = {"model_name": "some-model", "task": "image-classification", "dataset": "user/images"}
    found = report(split, intervals, n_bins)
    made = create_model_card(About(**{**defaults, "calibration": RECORD, **about}), found, model_id=model_id)
    return made, found.before, found.after


def test_card_holds_every_metric_before_and_after_in_its_metadata():
    made, before, after = card()
    results = made.data.eval_results
    assert len(results) == 14
    values = {(result.metric_type, result.metric_name.split()[1]): result.metric_value for result in results}
    for key in before:
        assert values[key, "before"] == before[key] and values[key, "after"] == after[key]
    assert {result.dataset_split for result in results} == {"test"}
    assert made.data.tags[:2] == ["calibration", "focal-loss"]
    again = ModelCard(str(made))
    assert again.data.to_dict() == made.data.to_dict()
    assert "](reliability.png)" in made.text and "mukhoti2020calibrating" in made.text


def test_card_says_which_import_an_architecture_of_ours_needs():
    assert "import hf_focal" not in card(architecture="resnet18")[0].text
    assert "import hf_focal.networks  # registers cifar_resnet20" in card(architecture="cifar_resnet20")[0].text


def test_card_tells_how_to_use_a_model_whose_temperature_is_not_folded():
    record = {"temperature": 1.7, "folded": False, "criterion": "nll", "split": "test"}
    text = card(calibration=record, architecture="cifar_resnet20")[0].text
    assert "from hf_focal import pipeline" in text and "import hf_focal.networks" not in text
    assert "divide them by the temperature 1.7" in text
    assert "fitted on these very samples" in text and "by `nll` on an unknown number of samples" in text


def test_card_of_a_model_that_was_never_calibrated_claims_nothing():
    made = create_model_card(About("m", "text-classification"), model_id="user/m")
    assert "No temperature has been fitted" in made.text and "plain softmax" in made.text
    assert "80%" not in made.text and "reliability.png" not in made.text and made.data.eval_results is None


def test_intervals_are_in_the_table_and_in_the_metadata():
    intervals = {"before": {"accuracy": (0.2, 0.3)}, "after": {"ece": (0.01, 0.02)}}
    made, _, _ = card(intervals=intervals, dataset_config="plain", dataset_revision="main", n_bins=10)
    assert re.search(r"Error \| [\d.]+% \(70.00% to 80.00%\) \|", made.text)
    assert "| 1.23% (1.00% to 2.00%) |" in made.text and "In brackets: 90% intervals. " in made.text
    args = {result.metric_name: result.metric_args for result in made.data.eval_results}
    assert args["Accuracy before temperature"] == {"interval": [0.2, 0.3], "level": 0.9}
    assert args["ECE after temperature"] == {"n_bins": 10, "interval": [0.01, 0.02], "level": 0.9}
    assert args["ECE before temperature"] == {"n_bins": 10} and args["NLL after temperature"] is None
    (result,) = {(r.dataset_type, r.dataset_config, r.dataset_revision) for r in made.data.eval_results}
    assert result == ("user/images", "plain", "main")


def test_card_does_not_tell_where_a_local_data_set_lies(tmp_path):
    (tmp_path / "private").mkdir()
    made = card(dataset=str(tmp_path / "private"))[0]
    assert str(tmp_path) not in str(made) and "of private (500 samples)" in made.text and made.data.datasets is None


def test_names_cannot_break_out_of_the_metadata_or_the_table():
    evil = "x\ntags:\n- injected\n---\n# Heading | <script>`"
    record = {"temperature": 1.7, "folded": True} | dict.fromkeys(("loss", "split", "criterion", "n_samples"), evil)
    made, _, _ = card(dataset=evil, model_name=evil, split=evil, base_model=evil, calibration=record)
    assert "injected" not in (made.data.tags or [])
    assert len(re.findall(r"^---$", str(made), flags=re.MULTILINE)) == 2
    assert "<script>" not in made.text and "\n# Heading" not in made.text
    assert ModelCard(str(made)).data.tags == made.data.tags
    assert "\n```\n#" not in card(model_id='x"\n```\n# Heading')[0].text


def test_table_shows_errors_in_percent_and_scores_plain():
    values = {"accuracy": 0.9, "nll": 0.5, "brier": 0.25, "ece": 0.055, "mce": 1.0, "adaptive_ece": 0.0}
    found = report(intervals={"before": {"accuracy": (0.875, 0.95)}}, after={"ece": 0.0123456})
    found.before.update(values)
    table = {title: (old, new) for title, old, new in found.rows()}
    assert table["Error"][0] == "10.00% (5.00% to 12.50%)" and table["ECE"] == ("5.50%", "1.23%")
    assert table["NLL"][0] == "0.5000" and table["Brier"][0] == "0.2500"
    assert list(table) == ["Error", "NLL", "Brier", "ECE", "AdaECE", "Classwise-ECE", "MCE"]


# ---- Reports --------------------------------------------------------------------------------------------------------


MOMENTS = ("before", "after")


def overconfident(count=600, classes=4, seed=0):
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(count, classes))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    return (3 * logits).astype(np.float32), labels


@pytest.mark.parametrize("method", ["temperature", "focal"])
def test_a_report_is_what_the_functions_of_the_package_say(method):
    logits, labels = overconfident()
    fit = fit_temperature(logits, labels, criterion="nll", method=method)
    groups = np.arange(len(labels)) // 3
    made = make_report(Predictions(logits, labels, groups, "other"), fit, n_bins=10, unit="tokens", group="sentence")
    moments = {"before": softmax(logits.astype(float), axis=1), "after": fit.probabilities(logits)}
    for moment, probabilities in moments.items():
        assert getattr(made, moment) == pytest.approx(calibration_metrics(probabilities, labels, 10), rel=1e-12)
        assert made.bins[moment].expected_error() == pytest.approx(getattr(made, moment)["ece"])
        for key in METRICS:
            ends = confidence_interval(key, probabilities, labels, groups=groups, n_bins=10)
            assert made.intervals[moment][key] == pytest.approx(ends, rel=1e-6)
        floor = noise_floor("ece", probabilities, groups=groups, labels=labels, n_bins=10)
        assert made.floors[moment]["ece"].high == pytest.approx(floor.high, rel=1e-6)
        band = calibrated_band(Scored(probabilities, labels), 10, groups)
        np.testing.assert_allclose(made.bands[moment], band, rtol=1e-6)
    pair = moments["before"], moments["after"]
    for key, change in made.changes.items():
        assert change.verdict == paired_bootstrap(key, *pair, labels, groups=groups, n_bins=10).verdict
    assert made.changes["nll"].verdict == made.changes["ece"].verdict == "b_is_better"
    assert made.words == describe_confidence(logits, labels, fit.calibrator) and made.n_samples == 600
    head, *_ = str(made).splitlines()
    assert head.startswith("other tokens") and head.endswith(
        f"({fit.calibrator}; in brackets: 90% intervals, by sentence)"
    )
    titles = [axis.get_title() for axis in made.diagram().axes[:2]]
    assert titles == [
        f"{title}\nECE {getattr(made, moment)['ece']:.2%}\n"
        f"by chance {made.floors[moment]['ece'].low:.2%} to {made.floors[moment]['ece'].high:.2%}"
        for title, moment in (("before", "before"), (f"after ({fit.calibrator})", "after"))
    ]


def test_harm_beyond_noise_is_said_in_table_and_card():
    logits, labels = overconfident()
    logits = logits / 3  # calibrated
    fit = Fit(TemperatureScaling(0.4), "ece", 100, {}, {})
    made = make_report(Predictions(logits, labels), fit)
    values = made.before["nll"], made.after["nll"]
    sentence = f"NLL got worse by more than noise: {values[1]:.4f} after, {values[0]:.4f} before."
    assert made.worse and sentence in made.notes and sentence in str(made)
    text = create_model_card(About("m", calibration={"temperature": 0.4, "folded": True}), made).text
    assert sentence in text and "its probabilities are worse with it than without" in text
    assert "with calibrated probabilities" not in text
    helpful = make_report(Predictions(3 * logits, labels), replace(fit, calibrator=TemperatureScaling(3.0)))
    assert not helpful.worse and helpful.notes == ""
    assert (
        "with calibrated probabilities"
        in create_model_card(About("m", calibration={"temperature": 3.0}), helpful).text
    )


def test_a_temperature_that_stayed_one_is_said_with_the_reason():
    logits, labels = overconfident()
    right = logits.argmax(axis=1) == labels
    with pytest.warns(UserWarning, match="fewer than 200"):
        fit = fit_temperature(logits[right][:60], labels[right][:60])
    made = make_report(Predictions(logits, labels), fit)
    assert fit.temperature == 1 and not fit.helped and fit.why in made.words and made.notes == ""
    record = {"temperature": 1.0, "folded": True, "helped": False, "why": fit.why}
    text = create_model_card(About("m", "text-classification", calibration=record), made).text
    assert "No map was found" in text and text.count(fit.why) == 1 and "scores are those of the plain softmax" in text
    assert "calibrated probabilities" not in text.split("## Training")[0]
    unfolded = create_model_card(About("m", "text-classification", calibration={**record, "folded": False}), made).text
    assert "from transformers import pipeline" in unfolded


def test_a_calibration_error_is_told_with_its_true_value_and_what_chance_shows():
    logits, labels = overconfident()
    fit = fit_temperature(logits, labels)
    made = make_report(Predictions(logits, labels), fit)
    rows = made.rows()
    (index,) = (index for index, row in enumerate(rows) if row[0] == "ECE")
    error, true, chance = rows[index : index + 3]
    assert error[1] == f"{made.before['ece']:.2%}" and error[2] == f"{made.after['ece']:.2%} (within noise)"
    assert true == ("- true value", *(" to ".join(f"{end:.2%}" for end in made.intervals[m]["ece"]) for m in MOMENTS))
    floors = [made.floors[moment]["ece"] for moment in MOMENTS]
    assert chance == ("- by chance", *(f"{one.median:.2%} ({one.low:.2%} to {one.high:.2%})" for one in floors))
    assert (
        "by chance: what a perfectly calibrated" in str(made).replace("\n", " ")
        and max(map(len, str(made).split("\n")[1:-1])) <= 88
    )
    card = create_model_card(About("m", calibration={"temperature": fit.temperature}), made)
    (result,) = (r for r in card.data.eval_results if r.metric_name == "ECE after temperature")
    assert result.metric_args["by_chance"] == asdict(floors[1])


def test_samples_without_groups_are_not_said_to_be_drawn_by_any():
    logits, labels = overconfident(300)
    fit = fit_temperature(logits, labels)
    made = make_report(Predictions(logits, labels), fit, group="sentence")
    assert made.group is None and ", by" not in str(made).splitlines()[0] and str(made).startswith("test ")


def test_a_report_never_holds_the_probabilities():
    """Half of one matrix in float64, of which there would be one before and one after."""
    import tracemalloc

    logits, labels = overconfident(4000, 1000)
    fit = fit_temperature(logits[:300], labels[:300])
    tracemalloc.start()
    scored = [Scored.from_logits(logits, labels, one) for one in (None, fit.calibrator)]
    for one in scored:
        measure(one), one.bins(15)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < logits.size * 8 / 2
