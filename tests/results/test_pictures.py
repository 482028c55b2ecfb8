# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""One style for all pictures: what they look like to whom, what their titles claim, and what their alt texts tell."""

import pickle
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from conftest import ROOT
from launching import PAGES
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.legend import Legend
from matplotlib.text import Text
from PIL import Image
from scipy.special import softmax

import hf_focal
from hf_focal import Predictions, fit_calibrator, make_report
from hf_focal.metrics import METRICS, Scored
from hf_focal.metrics.bins import equal_width
from hf_focal.metrics.chance import NoiseFloor
from hf_focal.metrics.comparison import PairedComparison
from hf_focal.metrics.noise import floor_of
from hf_focal.metrics.risk_coverage import risk_coverage_curve
from hf_focal.results.plots.calibrators import draw_calibrators
from hf_focal.results.plots.curves import Curve, comparison, rise
from hf_focal.results.plots.reliability import class_noise
from hf_focal.results.plots.style import COLOURS, drawing, looks, markup_free
from hf_focal.results.plots.words import Shown, class_finding, finding
from hf_focal.robustness.words import auroc_error


LONG = "outputs/a-run-of-a-name-that-goes-on/and-on/cifar10-resnet110-flsd-53-seed-42"
ODD = ["_hidden", "$x_1$ [a](b) <b>|`*\\", LONG]


def logits_and_labels(count=2000, classes=4, scale=1.0, seed=0):
    """Of a calibrated model, times `scale`."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(count, classes))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    return scale * logits, labels


def dynamics(epochs=12, seed=0, level=1.0, gradients=True, ranges=False):
    generator = np.random.default_rng(seed)
    rows = []
    for epoch in range(epochs + 1):
        values = {f"{name}{part}": level * (1 + np.exp(-epoch)) + generator.normal(0, 0.01)
                  for name in ("nll", "entropy") for part in ("", "_correct", "_incorrect")}  # fmt: skip
        for split in ("train", "test"):
            norms = (
                list(generator.exponential(size=50)) if gradients and split == "train" and epoch in (1, 5) else None
            )
            row = {
                "epoch": epoch,
                "split": split,
                "n_samples": 100,
                "error": 0.5,
                **values,
                "weight_norm": level * epoch,
                "gradient_norms": norms,
            }
            if ranges:
                row["ranges"] = {key: (value - 0.5, value + 0.5) for key, value in values.items()}
                row["ranges"]["weight_norm"] = None
            rows.append(row)
    return rows


def severities(*errors, half=0.01):
    def row(error):
        intervals = {"ece": (error - half, error + half), "nll": (error, 2 * error), "accuracy": (0.5, 0.7)}
        return {"ece": error, "nll": error, "accuracy": 0.6, "intervals": intervals, "by_chance": {"high": 0.02}}

    return {severity: {"before": row(2 * error), "after": row(error)} for severity, error in enumerate(errors)}


def scores(*gaps, count=400, seed=0):
    generator = np.random.default_rng(seed)
    moments = ("before", "after")
    return {
        f"model {index}": {one: (generator.normal(size=count), generator.normal(gap, size=count)) for one in moments}
        for index, gap in enumerate(gaps)
    }


@pytest.fixture(scope="module")
def pictures():
    """All that the library draws, of ordinary and of odd data."""
    logits, labels = logits_and_labels(scale=2)
    sharp, plain = softmax(logits, axis=1), softmax(logits / 2, axis=1)
    names = [*hf_focal.LOSSES][:9] + ODD
    runs = {name: dynamics(seed=index) for index, name in enumerate(names)}
    broken = dynamics(level=np.nan, gradients=False)
    floor, gain = NoiseFloor(0.01, 0.005, 0.02), PairedComparison(0.002, 0.001, 0.003, 0.0, "b_is_better")
    lost = PairedComparison(-0.9, -1.0, -0.8, 1.0, "a_is_better")
    calibrators = {"temperature": None, "vector": gain, LONG: gain, "none": lost}
    found = {
        "few": hf_focal.reliability_diagram(plain[:3], labels[:3]),
        "two": hf_focal.reliability_diagram({"before": sharp, f"after ({LONG})": plain}, labels),
        "three": hf_focal.reliability_diagram(dict.fromkeys(ODD, plain), labels),
        "report": make_report(Predictions(logits, labels), fit_calibrator(logits, labels)).diagram(),
        "classes": hf_focal.classwise_reliability_diagram(plain, labels, label_names=["a", *ODD]),
        "histogram": hf_focal.confidence_histogram({"before": sharp, "after": plain, LONG: plain}, labels),
        "curves": hf_focal.nll_and_entropy_curves(runs),
        "one epoch": hf_focal.nll_and_entropy_curves({"focal": dynamics(0)}),
        "diverged": hf_focal.nll_and_entropy_curves({"focal": broken, "brier": dynamics()}),
        "weights": hf_focal.weight_norm_curves(runs),
        "ratio": hf_focal.gradient_ratio_curves([0.5, 1, 2, 3, 5, 7, 9]),
        "gradients": hf_focal.gradient_norm_histograms(runs),
        "severity": hf_focal.severity_diagram({name: severities(0.01, 0.1, 0.2) for name in names}),
        "roc": hf_focal.roc_diagram({"svhn": scores(1, 2), "cifar100": scores(0, 0.1), LONG: scores(1)}),
        "risk": hf_focal.risk_coverage_diagram({LONG: {"after": risk_coverage_curve(plain, labels)}}),
        "calibrators": draw_calibrators({key: (one, 0.03, (0, 0.05), floor) for key, one in calibrators.items()}, 0.9),
    }  # fmt: skip
    for figure in found.values():
        figure.draw_without_rendering()
    return found


def texts(figure):
    return [one for one in figure.findobj(Text) if one.get_visible() and one.get_text().strip()]


def shown(figure):
    """All texts within a canvas: ticks beyond the ends of an axis are there, but not drawn."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    hidden = set()
    for axes in figure.axes:
        if not axes.axison:
            hidden |= set(axes.findobj(Text))
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                    hidden |= {tick.label1, tick.label2}
    return [(one, one.get_window_extent(renderer)) for one in texts(figure) if one not in hidden]


# ---- Looks ----------------------------------------------------------------------------------------------------------


def test_every_text_is_legible_at_400_pixels_and_inside_the_picture(pictures):
    for name, figure in pictures.items():
        width, height = figure.get_size_inches()
        for one, box in shown(figure):
            assert one.get_fontsize() / 72 * 400 / width >= 8, (name, one.get_text())
            assert box.x0 >= -1 and box.y0 >= -1, (name, one.get_text())
            assert box.x1 <= width * figure.dpi + 1 and box.y1 <= height * figure.dpi + 1, (name, one.get_text())


def test_no_legend_covers_data(pictures):
    for name, figure in pictures.items():
        legends = figure.findobj(Legend)
        assert legends, name
        for legend in legends:
            box = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer())
            for axes in figure.axes:
                assert not axes.axison or not box.overlaps(axes.get_window_extent()), name


def test_titles_do_not_run_into_each_other(pictures):
    for name, figure in pictures.items():
        renderer = FigureCanvasAgg(figure).get_renderer()
        boxes = [axes.title.get_window_extent(renderer) for axes in figure.axes if axes.get_title()]
        boxes.append(figure._suptitle.get_window_extent(renderer))
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2)), name


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
SEEN = {
    "everybody": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour, matrix):
    """CIE L*a*b* (D65) of a colour as somebody sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.clip(np.array(matrix) @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    x, y, z = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("matrix", SEEN.values(), ids=SEEN)
def test_colours_are_told_apart_by_the_colour_blind(matrix):
    seen = [lab(colour, matrix) for colour in COLOURS]
    assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 10
    assert np.linalg.norm(seen[0] - seen[1]) > 50  # right and wrong, accuracy and gap
    red_and_green = [lab(colour, matrix) for colour in ("#d62728", "#2ca02c")]
    if matrix is SEEN["deuteranopia"]:  # the simulation sees what it should
        assert np.linalg.norm(red_and_green[0] - red_and_green[1]) < 40


def test_what_is_drawn_differs_by_more_than_colour(pictures):
    for name in ("report", "histogram"):
        (legend,) = pictures[name].legends
        faces = [
            (
                type(one).__name__,
                getattr(one, "get_linestyle", str)(),
                getattr(one, "get_hatch", str)(),
                one.get_alpha(),
            )
            for one in legend.legend_handles
        ]
        assert len(set(map(str, faces))) == len(faces), name
    for name in ("severity", "roc"):
        before, after, *_ = [line for line in pictures[name].axes[0].lines if line.get_marker() != "None"]
        assert before.get_linestyle() == "--" and after.get_linestyle() == "-"
    for axis in pictures["curves"].axes:
        assert len({(line.get_color(), line.get_linestyle()) for line in axis.lines}) == 12
        assert all(a.get_linestyle() != b.get_linestyle() for a, b in combinations(axis.lines, 2)
                   if a.get_color() == b.get_color())  # fmt: skip


def test_a_loss_looks_the_same_in_every_picture():
    alone = {name: looks([name])[name] for name in hf_focal.LOSSES}
    assert looks([*hf_focal.LOSSES, "mine"]).items() >= alone.items()
    assert len(set(looks([*hf_focal.LOSSES, *map(str, range(16))]).values())) == 28
    assert list(looks(["z", "focal", "a"])) == ["z", "focal", "a"]
    both = looks(["focal (gamma 1)", "focal (gamma 3)", "Cross-Entropy", "FLSD-53"])
    assert both["focal (gamma 1)"] == alone["focal"] and both["FLSD-53"] == alone["flsd-53"]
    assert both["Cross-Entropy"] == alone["cross_entropy"]
    other = both["focal (gamma 3)"]
    assert other != alone["focal"] and other.colour == alone["focal"].colour and other.dash != alone["focal"].dash
    assert looks(map(str, range(40))).keys() == set(map(str, range(40)))


def test_settings_of_the_user_are_neither_changed_nor_heeded():
    logits, labels = logits_and_labels(300)

    def draw():
        figure, file = hf_focal.reliability_diagram(softmax(logits, axis=1), labels), BytesIO()
        figure.savefig(file)
        return np.asarray(Image.open(file))

    plain, before = draw(), dict(mpl.rcParams)
    mine = {"font.size": 30, "savefig.bbox": "tight", "savefig.facecolor": "black", "axes.facecolor": "black"}
    with mpl.rc_context(mine | {"lines.linewidth": 9, "xtick.labelsize": 40, "savefig.dpi": 30}):
        held = dict(mpl.rcParams)
        np.testing.assert_array_equal(draw(), plain)
        assert dict(mpl.rcParams) == held
    assert dict(mpl.rcParams) == before


def test_pictures_are_drawn_in_several_threads():
    before = dict(mpl.rcParams)

    def draw(width):
        with drawing(width, 2.0) as figure:
            size = mpl.rcParams["font.size"]
            figure.suptitle("x")
            time.sleep(0.02)
        return size, figure

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(draw, [6.0, 8.0, 10.0, 12.0] * 2))
    assert [size for size, _ in found] == [9.0, 12.0, 15.0, 18.0] * 2
    assert dict(mpl.rcParams) == before


# ---- Files ----------------------------------------------------------------------------------------------------------


def test_files_hold_what_the_picture_shows(pictures, tmp_path):
    for figure in pictures.values():
        assert figure.finding and figure.alt_text and figure._suptitle.get_text()
    figure = pictures["risk"]
    figure.savefig(tmp_path / "a.png", metadata={"Author": "me"})
    with Image.open(tmp_path / "a.png") as image:
        held = {key: image.text[key] for key in ("Title", "Description", "Author")}
    assert held == {"Title": figure.finding, "Description": figure.alt_text, "Author": "me"}
    figure.savefig(str(tmp_path / "a.svg"))
    written = (tmp_path / "a.svg").read_text()
    assert figure.finding in written and figure.alt_text.replace("'", "&apos;") in written.replace("&#x27;", "&apos;")
    for ending in ("pdf", "jpg"):
        figure.savefig(tmp_path / f"a.{ending}")
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert pickle.loads(pickle.dumps(figure)).alt_text == figure.alt_text


def test_alt_texts_hold_no_markup(pictures):
    for name, figure in pictures.items():
        assert not set('[]<>|`*\\"$~{}&\n') & set(figure.alt_text), name
        assert 40 < len(figure.alt_text) and figure.alt_text.endswith(".") and "  " not in figure.alt_text, name
    assert markup_free('a [b](c) <d> "e" & f|g\n`h`') == "a b (c) d 'e' and f g h"


def test_the_alt_text_of_a_report_tells_its_numbers():
    logits, labels = logits_and_labels(scale=2)
    report = make_report(Predictions(logits, labels), fit_calibrator(logits, labels))
    assert report.alt_text == report.diagram().alt_text
    before, after = softmax(logits, axis=1), report.fit.probabilities(logits)
    for probabilities, moment in ((before, "before"), (after, "after")):
        floor = report.floors[moment]["ece"]
        assert f"mean confidence {probabilities.max(1).mean():.1%}" in report.alt_text
        assert f"accuracy {(probabilities.argmax(1) == labels).mean():.1%} of 2,000 samples" in report.alt_text
        error = hf_focal.expected_calibration_error(probabilities, labels)
        assert f"ECE {error:.2%}, by chance {floor.low:.2%} to {floor.high:.2%}" in report.alt_text
    confidence, right = before.max(1), before.argmax(1) == labels
    below = filled = 0
    for index in range(15):
        rows = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        filled += rows.any()
        below += rows.any() and right[rows].mean() < report.bands["before"][0, index] - 1e-9
    assert below > 3 and f"of {filled} bins with samples {below} lie below the band" in report.alt_text


def test_pictures_of_the_docs_are_small_and_told_of_as_they_tell():
    found = set()
    for page in PAGES:
        for alt, name in re.findall(r"!\[(.*?)\]\((.*?\.png)\)", page.read_text(encoding="utf-8")):
            path = page.parent / name
            with Image.open(path) as image:
                assert image.text["Description"] == alt and image.text["Title"].rstrip(".") in alt, name
                assert image.width >= 400
            assert path.stat().st_size < 60_000
            found.add(path.name)
    assert found == {path.name for path in (ROOT / "docs" / "images").iterdir()} - {"reliability.png"}


# ---- Titles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "verdict"), [(2.0, "Over-confident"), (0.5, "Under-confident")])
def test_titles_say_which_way_a_model_is_off(scale, verdict):
    logits, labels = logits_and_labels(scale=scale)
    probabilities = softmax(logits, axis=1)
    error = hf_focal.expected_calibration_error(probabilities, labels)
    figure = hf_focal.reliability_diagram(probabilities, labels)
    assert figure.finding.startswith(f"{verdict}: ECE {error:.2%}, by chance up to ")
    assert figure._suptitle.get_text().replace("\n", " ") == figure.finding
    calibrated = softmax(logits / scale, axis=1)
    two = hf_focal.reliability_diagram({"before": probabilities, "after": calibrated}, labels)
    rest = hf_focal.expected_calibration_error(calibrated, labels)
    assert two.finding == f"{verdict} before: ECE {error:.2%}; after: {rest:.2%}, within noise"
    back = hf_focal.reliability_diagram({"before": calibrated, "after": probabilities}, labels)
    assert back.finding == f"Within noise before: ECE {rest:.2%}; after: {error:.2%}, {verdict.lower()}"
    between = softmax(logits / scale**0.5, axis=1)
    half = hf_focal.reliability_diagram({"before": probabilities, "after": between}, labels)
    left = hf_focal.expected_calibration_error(between, labels)
    assert half.finding == f"{verdict} before: ECE {error:.2%}; still so after, but less: {left:.2%}"
    same = hf_focal.reliability_diagram({"before": probabilities, "after": probabilities}, labels)
    assert same.finding.startswith(f"{verdict} and left as it was: ECE {error:.2%}")


def test_of_one_sample_nothing_is_claimed():
    with pytest.warns(UserWarning, match="1 sample"):
        fit = fit_calibrator([[1.0, 0.0]], [0])
    report = make_report(Predictions(np.array([[1.0, 0.0]]), np.array([0])), fit)
    error = 1 - softmax([1.0, 0.0]).max()
    assert report.diagram().finding == f"Left as it was: ECE {error:.2%}"
    assert "of 1 bin with samples 0 lie below" in report.alt_text and report.alt_text.endswith("): the same.")


def test_titles_claim_of_calibrated_models_no_more_than_chance_does():
    said = {"model": 0, "class": 0}
    for seed in range(100):
        logits, labels = logits_and_labels(400, seed=seed)
        one = Scored(softmax(logits, axis=1), labels)
        shown = Shown(one.bins(15), floor_of(METRICS["ece"], one, 15, 0.9))
        said["model"] += not finding({"": shown}).startswith("Within noise")
        classes = [equal_width(one.probabilities[:, index], labels == index, 15) for index in range(4)]
        said["class"] += "off by more" in class_finding(*class_noise(classes))
    assert said["model"] <= 12 and said["class"] <= 12  # a twentieth, and of four classes at most that, would be 5
    assert class_finding(3, 10, 2) == "3 of 10 classes are off by more than noise"
    assert class_finding(2, 10, 2).startswith("Of 10 classes no more are off than chance")


def test_mistakes_of_great_confidence_are_counted():
    logits, labels = logits_and_labels(scale=2)
    probabilities = softmax(logits, axis=1)
    wrong = probabilities.argmax(1) != labels
    sure = (wrong & (probabilities.max(1) > 14 / 15)).sum()
    assert sure > 20 and hf_focal.confidence_histogram(probabilities, labels).finding == (
        f"{sure} of {wrong.sum()} wrong answers have a confidence above 93.3%"
    )
    assert hf_focal.confidence_histogram([[0.9, 0.1]] * 4, [0] * 4).finding == "no answer of 4 is wrong"


def test_what_several_panels_show_is_gathered():
    logits, labels = logits_and_labels(scale=2)
    sharp, plain = softmax(logits, axis=1), softmax(logits / 2, axis=1)
    figure = hf_focal.reliability_diagram({"a": sharp, "b": plain, "c": sharp, "d": plain}, labels)
    assert figure.finding == "Over-confident: a and c; within noise: b and d"
    assert len([axis for axis in figure.axes if axis.axison]) == 8


def test_curves_are_compared_where_they_end_apart_for_good():
    def curve(values, spread=0.0):
        values = np.asarray(values, float)
        return Curve.of(np.arange(len(values)), values, values - spread, values + spread)

    apart = {"a": curve([5, 4, 3, 3, 3, 3]), "b": curve([5, 4, 2, 1, 1, 1])}
    assert comparison(apart, "X", " nats") == "X ends highest with a (3 nats) and lowest with b (1 nats)"
    assert not comparison({"a": curve([5, 4, 3, 3, 3, 3], 2), "b": apart["b"]}, "X")  # the ranges of seeds touch
    assert not comparison({"a": apart["a"], "b": curve([5, 4, 2, 1, 4, 1])}, "X")  # it comes and goes
    assert not comparison({"a": curve([5]), "b": curve([1])}, "X") and not comparison({"a": apart["a"]}, "X")
    assert not comparison({"a": apart["a"], "b": curve([np.nan] * 6)}, "X")
    assert rise("a", curve([5, 3, 2, 3.0, 2.2, 3.1, 2.4, 3.2, 2.6]), "NLL", " nats") == ""  # no more than its jumps
    late = curve([3, 2, 1, 0.99, 1.0, 1.05, 1.3, 1.35, 1.4, 1.5])
    assert rise("a", late, "NLL") == "NLL rises again with a, from 0.99 after epoch 3 to 1.5"
    few = {key: replace(one, counts=np.full(6, 2.0)) for key, one in apart.items()}
    assert not comparison(few, "X") and not rise("a", replace(late, counts=np.full(10, 20.0)), "NLL")
    assert rise("a", replace(late, counts=np.full(10, 2000.0)), "NLL")
    generator = np.random.default_rng(0)
    said = sum(bool(comparison({key: curve(generator.normal(size=20)) for key in "ab"}, "X")) for _ in range(500))
    assert said <= 15


def test_the_error_of_an_auroc_is_that_of_its_bootstrap():
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(size=300), np.round(generator.normal(1, 1, size=500), 1)
    low, high = hf_focal.auroc_interval(inside, outside, n_resamples=2000)
    assert 2 * 1.645 * auroc_error(inside, outside) == pytest.approx(high - low, rel=0.08)
    assert auroc_error([0.0, 0.1], [1.0, 2.0, 3.0]) == 0.25  # all are told apart, of few
    assert auroc_error([0.0], [1.0]) > 0.25


def test_models_are_ranked_only_beyond_their_intervals():
    clear, unclear, chance = scores(0.2, 2), scores(1, 1.05), scores(0)
    figure = hf_focal.roc_diagram({"x": clear, "y": unclear, "z": chance})
    first, second, third = figure.finding.split("; ")
    assert first == f"x: model 1 tells it apart best (AUROC {hf_focal.auroc(*clear['model 1']['after']):.1%})"
    assert second.startswith("y: no model is clearly best (AUROC ") and third.startswith("z: no better than chance")
    figure = hf_focal.roc_diagram({"x": scores(-1), "y": scores(0, -1)})
    assert re.fullmatch("x: taken for more familiar .*; y: no model is better than chance .*", figure.finding)
    grown = hf_focal.severity_diagram({"m": severities(0.01, 0.1)})
    assert grown.finding == "ECE after calibration grows from 1.0% to 10.0% at severity 1"
    still = hf_focal.severity_diagram({"m": severities(0.05, 0.06)})
    assert "grows" not in still.finding and "within noise" in still.finding
    pair = {"a": severities(0.01, 0.1), "b": severities(0.01, 0.3)}
    assert hf_focal.severity_diagram(pair).finding == (
        "After calibration every ECE grows; at severity 1 it is lowest with a (10.0%), highest with b (30.0%)"
    )
    near = {"a": severities(0.01, 0.1), "b": severities(0.01, 0.11)}
    assert (
        "at severity 1 no model is clearly better calibrated (10.0% to 11.0%)"
        in hf_focal.severity_diagram(near).finding
    )
    assert re.search("surest half of the answers: m 0.00% .of all 25.00%", hf_focal.risk_coverage_diagram(
        {"m": {"after": (np.array([0.25, 0.5, 0.75, 1]), np.array([0, 0, 0, 0.25]))}}
    ).finding)  # fmt: skip
