# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Scores, AUROC and their intervals; corruptions of images; confident and selective prediction; their pictures."""

import colorsys
import hashlib
import io
from itertools import permutations

import mpmath
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage
from scipy.special import softmax
from sklearn.metrics import roc_auc_score, roc_curve

from hf_focal import (
    ImageCorruption,
    area_under_risk_coverage,
    auroc,
    auroc_interval,
    bootstrap_interval,
    confident_predictions,
    focal_recalibration,
    load_images,
    ood_detection,
    ood_scores,
    risk_coverage_curve,
    risk_coverage_diagram,
    roc_diagram,
    roc_points,
    severity_diagram,
)
from hf_focal.robustness.corruptions import CORRUPTIONS


# ---- Scores ---------------------------------------------------------------------------------------------------------


def exact_scores(row, temperature):
    with mpmath.workdps(60):
        weights = [mpmath.exp(mpmath.mpf(float(value)) / mpmath.mpf(temperature)) for value in row]
        total = sum(weights)
        shares = [weight / total for weight in weights]
        entropy = -sum(share * mpmath.log(share) for share in shares)
        return {"entropy": entropy, "max_probability": -max(shares), "energy": -mpmath.log(total)}


@pytest.mark.parametrize("num_labels", [2, 10, 200])  # few and many classes are laid out differently
@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.5])
def test_scores_are_those_of_sixty_digits(num_labels, temperature):
    logits = 5 * np.random.default_rng(0).normal(size=(12, num_labels))
    logits[0, 1] = logits[0].max() + 30
    logits[1, 0] = logits[1].max() + 80  # the largest probability rounds to 1
    logits[2] = 0.0
    logits[3] = 1000 + logits[4]
    scores = ood_scores(logits, temperature)
    for index, row in enumerate(logits):
        for name, value in exact_scores(row, temperature).items():
            assert scores[name][index] == pytest.approx(float(value), rel=1e-12), (index, name)


def test_scores_of_extreme_logits_are_finite_and_in_order():
    scores = ood_scores([[0.0, -50.0], [0.0, -100.0], [0.0, -700.0], [1e300, -1e300], [0.0, 0.0]])
    entropy = scores["entropy"]
    assert entropy[4] > entropy[0] > entropy[1] > entropy[2] > entropy[3] == 0
    assert entropy[4] == pytest.approx(np.log(2), rel=1e-15)
    assert scores["max_probability"].tolist() == [-1, -1, -1, -1, -0.5]
    assert scores["energy"][3] == -1e300


def test_scores_with_gamma_are_those_of_the_recalibrated_softmax():
    logits = 3 * np.random.default_rng(1).normal(size=(50, 6))
    probabilities = focal_recalibration(logits, 3.0, 1.7)
    scores, plain = ood_scores(logits, 1.7, 3.0), ood_scores(logits, 1.7)
    assert scores["entropy"] == pytest.approx(-(probabilities * np.log(probabilities)).sum(axis=1), rel=1e-9)
    assert scores["max_probability"] == pytest.approx(-probabilities.max(axis=1), rel=1e-12)
    assert np.array_equal(scores["energy"], plain["energy"])


def test_scores_of_half_precision_tensors_are_in_float64():
    logits = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16)
    assert ood_scores(logits)["entropy"].tolist() == ood_scores([[1, 2, 3]])["entropy"].tolist()


# ---- AUROC ----------------------------------------------------------------------------------------------------------


def draw(digits=None, num_in=70, num_out=45):
    generator = np.random.default_rng(3)
    scores = generator.normal(size=num_in), generator.normal(0.5, size=num_out)
    return scores if digits is None else tuple(values.round(digits) for values in scores)


@pytest.mark.parametrize("digits", [None, 1, 0])  # the fewer the more ties
def test_auroc_is_that_of_all_pairs_and_of_scikit_learn(digits):
    inside, outside = draw(digits)
    pairs = [(b > a) + 0.5 * (b == a) for a in inside for b in outside]
    assert auroc(inside, outside) == pytest.approx(np.mean(pairs), abs=1e-15)
    positive = np.repeat([0, 1], [len(inside), len(outside)])
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(positive, np.concatenate([inside, outside])))
    assert auroc(outside, inside) == pytest.approx(1 - auroc(inside, outside))


def test_auroc_of_sets_that_are_apart_or_all_alike():
    assert auroc([0, 1], [2, 3]) == 1 and auroc([2, 3], [0, 1]) == 0 and auroc([1] * 5, [1] * 3) == 0.5


def test_one_sample_out_of_distribution_will_do():
    inside = np.arange(10.0)
    assert auroc(inside, [6.5]) == 0.7 and auroc(inside, [6.0]) == 0.65
    low, high = auroc_interval(inside, [6.5])
    assert 0.4 <= low <= 0.5 and 0.9 <= high <= 1  # a binomial share of 10: its 5% and 95% points are 0.5 and 0.9
    results = ood_detection(np.eye(3)[[0, 1, 2, 0]] * 4, [[0.1, 0.2, 0.0]])
    assert {(row["before"].auroc, row["after"].low) for name, row in results.items() if name != "energy"} == {(1, 1)}


def test_interval_is_that_of_the_plain_loop_over_both_sets():
    inside, outside = draw(digits=1)
    generator, values = np.random.default_rng(8), []
    for _ in range(60):
        rows, others = generator.integers(0, 70, 70), generator.integers(0, 45, 45)
        values.append(roc_auc_score([0] * 70 + [1] * 45, np.concatenate([inside[rows], outside[others]])))
    expected = np.quantile(values, [0.1, 0.9])
    assert auroc_interval(inside, outside, 0.8, 60, seed=8) == pytest.approx(expected, abs=1e-12)


def test_interval_has_the_width_that_theory_gives():
    """Of DeLong et al. (1988): variances of the share of the other set that a sample beats."""
    inside, outside = draw(num_in=600, num_out=400)
    above = outside[None, :] > inside[:, None]
    variance = above.mean(axis=1).var(ddof=1) / 600 + above.mean(axis=0).var(ddof=1) / 400
    low, high = auroc_interval(inside, outside)
    assert high - low == pytest.approx(2 * 1.6449 * np.sqrt(variance), rel=0.1)


def test_roc_points_are_those_of_scikit_learn_and_enclose_the_area():
    inside, outside = draw(digits=1)
    false_rate, true_rate = roc_points(inside, outside)
    expected = roc_curve([0] * 70 + [1] * 45, np.concatenate([inside, outside]))
    assert np.array_equal(false_rate, expected[0]) and np.array_equal(true_rate, expected[1])
    assert np.trapezoid(true_rate, false_rate) == pytest.approx(auroc(inside, outside), abs=1e-12)


def test_detection_is_made_of_scores_before_and_after():
    generator = np.random.default_rng(2)
    logits, others = 4 * generator.normal(size=(80, 5)), generator.normal(size=(60, 5))
    found = ood_detection(logits, others, 2.0, 3.0, n_resamples=20, seed=4)
    assert list(found) == ["entropy", "max_probability", "energy"]
    assert found["entropy"]["after"] != ood_detection(logits, others, 2.0, n_resamples=20, seed=4)["entropy"]["after"]
    for moment, scaling in (("before", (1.0, 0.0)), ("after", (2.0, 3.0))):
        for name, row in found.items():
            pair = ood_scores(logits, *scaling)[name], ood_scores(others, *scaling)[name]
            assert row[moment].auroc == auroc(*pair)
            assert (row[moment].low, row[moment].high) == auroc_interval(*pair, n_resamples=20, seed=4)


@pytest.mark.parametrize(
    ("logits", "others", "options", "message"),
    [
        ([[0.0, 1.0]], np.empty((0, 2)), {}, "ood_logits must hold at least one sample"),
        (np.empty((0, 2)), [[0.0, 1.0]], {}, "logits must hold at least one sample"),
        ([[0.0, 1.0]], [[0.0, np.nan]], {}, "ood_logits must be finite"),
        ([[0.0, np.inf]], [[0.0, 1.0]], {}, "logits must be finite"),
        ([[0.0, 1.0]], [[0.0, 1.0, 2.0]], {}, "got 2 and 3 classes"),
        ([[0.0, 1.0]], [[0.0, 1.0]], {"temperature": 0.0}, "temperature must be"),
        ([[0.0, 1.0]], [[0.0, 1.0]], {"level": 1.0}, "level"),
        ([[0.0, 1.0]], [[0.0, 1.0]], {"n_resamples": 0}, "n_resamples"),
    ],
)
def test_detection_refuses_what_it_cannot_measure(logits, others, options, message):
    with pytest.raises(ValueError, match=message):
        ood_detection(logits, others, **options)


@pytest.mark.parametrize("function", [auroc, auroc_interval, roc_points])
def test_scores_must_be_there_and_finite(function):
    with pytest.raises(ValueError, match="out_scores must hold one score"):
        function([0.5], [])
    with pytest.raises(ValueError, match="in_scores must be finite"):
        function([np.nan], [0.5])


# ---- Corruptions ----------------------------------------------------------------------------------------------------


def picture(seed=0, size=(32, 32), low=0, high=256):
    pixels = np.random.default_rng(seed).integers(low, high, (*size, 3)).astype(np.uint8)
    return PILImage.fromarray(pixels)


def pixels_of(image):
    return np.asarray(image).astype(np.float64)


def test_severities_have_the_published_parameters():
    """`make_cifar_c.py` of Hendrycks and Dietterich."""
    assert {name: list(parameters) for name, (_, parameters) in CORRUPTIONS.items()} == {
        "gaussian_noise": [0.04, 0.06, 0.08, 0.09, 0.10],
        "shot_noise": [500, 250, 100, 75, 50],
        "gaussian_blur": [0.4, 0.6, 0.7, 0.8, 1],
        "brightness": [0.05, 0.1, 0.15, 0.2, 0.3],
        "contrast": [0.75, 0.5, 0.4, 0.3, 0.15],
        "jpeg_compression": [80, 65, 58, 50, 40],
    }


@pytest.mark.parametrize(("severity", "deviation"), enumerate([0.04, 0.06, 0.08, 0.09, 0.10], start=1))
def test_noise_has_the_published_deviation(severity, deviation):
    grey = PILImage.new("RGB", (200, 200), (128, 128, 128))  # 4 deviations or more from either end: nothing is clipped
    noise = pixels_of(ImageCorruption("gaussian_noise", severity).corrupt(grey)) / 255 - 128 / 255
    # Cutting down to whole numbers takes off half a step, and adds the variance of a uniform step.
    count, expected = noise.size, np.sqrt(deviation**2 + 1 / 12 / 255**2)
    assert abs(noise.std() - expected) < 4 * expected / np.sqrt(2 * count)
    assert abs(noise.mean() + 0.5 / 255) < 4 * expected / np.sqrt(count)
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 4 / np.sqrt(count)


def test_noise_is_clipped_and_cut_down_as_published():
    image = picture()
    digest = hashlib.sha256(np.asarray(image).tobytes()).digest()
    generator = np.random.default_rng([7, 5, int.from_bytes(digest, "big")])
    values = np.clip(np.asarray(image) / 255.0 + generator.normal(size=(32, 32, 3), scale=0.10), 0, 1) * 255
    expected = np.uint8(values)
    assert np.array_equal(ImageCorruption("gaussian_noise", 5, seed=7).corrupt(image), expected)
    assert expected.min() == 0 and expected.max() == 255 and not np.array_equal(expected, np.uint8(values.round()))


def test_an_image_is_corrupted_alike_in_any_order_and_otherwise_with_another_seed():
    features = Features({"image": Image()})
    data = Dataset.from_dict({"image": [picture(seed) for seed in range(6)]}, features=features)

    def corrupted(data, severity=3, seed=0):
        rows = data.with_transform(ImageCorruption("gaussian_noise", severity, seed))["image"]
        return [np.asarray(image) for image in rows]

    first, again, turned = corrupted(data), corrupted(data), corrupted(data.select([5, 2]))
    assert np.array_equal(first, again) and np.array_equal(turned, [first[5], first[2]])
    for other in (corrupted(data, seed=1), corrupted(data, severity=4)):
        assert all((a != b).mean() > 0.5 for a, b in zip(first, other, strict=True))
    noise = [a - pixels_of(b) for a, b in zip(first, data["image"], strict=True)]
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1  # drawn anew for each image


def test_other_corruptions_are_their_plain_definitions():
    image = picture(size=(12, 10))
    plain = pixels_of(image) / 255

    def corrupt(name, severity):
        return pixels_of(ImageCorruption(name, severity).corrupt(image))

    means = plain.mean(axis=(0, 1))
    assert np.array_equal(corrupt("contrast", 5), np.floor(((plain - means) * 0.15 + means) * 255))
    rows = [colorsys.rgb_to_hsv(*pixel) for pixel in plain.reshape(-1, 3)]
    bright = [colorsys.hsv_to_rgb(hue, grey, min(value + 0.2, 1)) for hue, grey, value in rows]
    assert np.abs(corrupt("brightness", 4) - np.reshape(bright, plain.shape) * 255).max() < 1 + 1e-9
    file = io.BytesIO()
    image.save(file, "JPEG", quality=58)
    assert np.array_equal(corrupt("jpeg_compression", 3), pixels_of(PILImage.open(file)))
    steps = np.arange(-4, 5)
    weights = np.exp(-(steps**2) / 2)
    weights /= weights.sum()
    padded = np.pad(plain, ((4, 4), (4, 4), (0, 0)), mode="edge")
    blurred = sum(
        wy * wx * padded[4 + y : 16 + y, 4 + x : 14 + x]
        for y, wy in zip(steps, weights, strict=True)
        for x, wx in zip(steps, weights, strict=True)
    )
    assert np.abs(corrupt("gaussian_blur", 5) - np.floor(blurred * 255)).max() <= 1  # a value on a step may fall below
    assert (corrupt("gaussian_blur", 5) == np.floor(blurred * 255)).mean() > 0.99


def test_shot_noise_is_that_of_photons():
    grey = PILImage.new("RGB", (200, 200), (102, 102, 102))
    values = pixels_of(ImageCorruption("shot_noise", 5).corrupt(grey)) / 255
    assert values.mean() == pytest.approx(0.4 - 0.5 / 255, abs=2e-3)
    assert values.std() == pytest.approx(np.sqrt(0.4 / 50), rel=0.02)


def test_grey_images_become_rgb_of_the_same_size():
    image = PILImage.fromarray(np.full((7, 9), 100, np.uint8))
    for name in CORRUPTIONS:
        made = ImageCorruption(name, 1).corrupt(image)
        assert made.mode == "RGB" and made.size == (9, 7)


def test_images_are_made_rgb_before_they_are_corrupted_as_for_any_model():
    """Grey of 16 bits is scaled, not clipped to white; a palette with transparency gives no warning of Pillow's."""
    grey = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint16)
    palette = picture(size=(8, 8)).quantize(4)
    palette.info["transparency"] = bytes([0, 128])
    shallow = PILImage.fromarray(grey.astype(np.uint8))
    corruption = ImageCorruption("contrast", 1)
    deep = corruption.corrupt(PILImage.fromarray(grey * 257))
    assert np.array_equal(deep, corruption.corrupt(shallow)) and pixels_of(deep).std() > 10
    assert np.array_equal(corruption.corrupt(palette), corruption.corrupt(palette.convert("RGBA").convert("RGB")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gaussian_nois", 1), "Unknown corruption 'gaussian_nois'.*gaussian_noise, shot_noise"),
        (("gaussian_noise", 6), "severity must be a whole number from 1 to 5, got 6"),
        (("gaussian_noise", 0), "severity must be"),
        (("gaussian_noise", 2.5), "severity must be"),
        (("gaussian_noise", 1, -1), "non-negative"),
    ],
)
def test_unknown_corruptions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageCorruption(*arguments)


# ---- Images without labels ------------------------------------------------------------------------------------------


def test_images_are_loaded_from_any_split_without_labels(tmp_path):
    one = Dataset.from_dict({"photo": [picture(seed) for seed in range(3)]}, features=Features({"photo": Image()}))
    one.save_to_disk(str(tmp_path / "one"))
    assert load_images(str(tmp_path / "one")).column_names == ["image"]
    DatasetDict(train=one, val=one.select([1])).save_to_disk(str(tmp_path / "two"))
    assert len(load_images(str(tmp_path / "two"))) == 1
    assert len(load_images(str(tmp_path / "two"), split="train", image_column="photo")) == 3
    DatasetDict(train=one, extra=one).save_to_disk(str(tmp_path / "three"))
    with pytest.raises(ValueError, match="no test or validation split; it has train, extra"):
        load_images(str(tmp_path / "three"))
    with pytest.raises(ValueError, match="no split 'tests'; it has train, extra"):
        load_images(str(tmp_path / "three"), split="tests")
    DatasetDict(test=one.select([])).save_to_disk(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="empty/test cannot be loaded, for it is empty"):
        load_images(str(tmp_path / "empty"))
    (tmp_path / "plain").mkdir()
    picture().save(tmp_path / "plain" / "a.png")
    assert load_images(str(tmp_path / "plain"))["image"][0].size == (32, 32)
    assert len(load_images("digits")) == 1797
    picture().save(tmp_path / "b.png")
    Dataset.from_dict({"image": [str(tmp_path / "b.png")]}).save_to_disk(str(tmp_path / "paths"))
    assert load_images(str(tmp_path / "paths"))["image"][0].size == (32, 32)


# ---- Confident and selective prediction -----------------------------------------------------------------------------


def predictions(count=200, digits=None, seed=0):
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(count, 4))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    probabilities = softmax(logits, axis=1)
    if digits is not None:  # ties
        probabilities = probabilities.round(digits) + 1e-3
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return probabilities, labels


def test_confident_predictions_are_counted():
    probabilities, labels = predictions()
    found = confident_predictions(probabilities, labels, 0.9)
    kept = [(row.argmax() == label) for row, label in zip(probabilities, labels, strict=True) if row.max() >= 0.9]
    assert (found.count, found.share, found.accuracy) == (len(kept), len(kept) / 200, np.mean(kept))
    assert confident_predictions([[0.6, 0.4]], [0]).accuracy is None
    assert confident_predictions([[1.0, 0.0], [0.75, 0.25]], [0, 0], 1.0).count == 1
    assert confident_predictions([[0.75, 0.25]], [0], 0.75).count == 1


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.01, np.nan])
def test_thresholds_lie_above_0_and_reach_1(threshold):
    with pytest.raises(ValueError, match="threshold must lie in"):
        confident_predictions([[0.6, 0.4]], [0], threshold)


def plain_curve(confidences, wrong, order):
    errors, risks = 0, []
    for kept, index in enumerate(sorted(order, key=lambda index: -confidences[index]), start=1):  # a stable sort
        errors += wrong[index]
        risks.append(errors / kept)
    return risks


def test_risk_coverage_is_that_of_a_plain_loop():
    probabilities, labels = predictions()
    confidences, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != labels
    coverage, risk = risk_coverage_curve(probabilities, labels)
    expected = plain_curve(confidences, wrong, range(200))
    assert risk == pytest.approx(expected, abs=1e-12) and coverage.tolist() == [(k + 1) / 200 for k in range(200)]
    assert area_under_risk_coverage(probabilities, labels) == pytest.approx(np.mean(expected), abs=1e-12)
    assert risk[-1] == pytest.approx(wrong.mean())


def test_ties_count_as_the_mean_over_their_orders():
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.3, 0.7], [0.7, 0.3], [0.6, 0.4], [0.6, 0.4]])
    labels = np.array([0, 1, 1, 0, 1, 0])
    confidences, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != labels
    risks = [plain_curve(confidences, wrong, order) for order in permutations(range(6))]
    assert risk_coverage_curve(probabilities, labels)[1] == pytest.approx(np.mean(risks, axis=0), abs=1e-12)
    shuffled = np.random.default_rng(0).permutation(6)
    assert area_under_risk_coverage(probabilities[shuffled], labels[shuffled]) == pytest.approx(np.mean(risks))


def test_aurc_of_perfect_and_of_worst_rankings():
    probabilities = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]
    assert area_under_risk_coverage(probabilities, [0, 0, 1, 1]) == pytest.approx((1 / 3 + 2 / 4) / 4)
    assert area_under_risk_coverage(probabilities, [1, 1, 0, 0]) == pytest.approx((1 + 1 + 2 / 3 + 2 / 4) / 4)


def test_aurc_has_bootstrap_intervals():
    probabilities, labels = predictions()
    low, high = bootstrap_interval(area_under_risk_coverage, probabilities, labels, n_resamples=50)
    assert 0 < low < area_under_risk_coverage(probabilities, labels) < high < 1


def test_real_logits_are_scored_as_scikit_learn_and_plain_loops_do(test_data):
    with np.load(test_data / "logits" / "cifar10_densenet40.npz") as stored:
        logits, labels = stored["test_logits"], stored["test_labels"]
    probabilities = softmax(logits.astype(np.float64), axis=1)
    confidences, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != labels
    risk = risk_coverage_curve(probabilities, labels)[1]
    before = [np.mean(wrong[np.argsort(-confidences, kind="stable")[:kept]]) for kept in (5000, 8000, 10000)]
    assert risk[[4999, 7999, 9999]] == pytest.approx(before, abs=1e-9)
    # The errors in the place of what is out of distribution.
    for values in ood_scores(logits).values():
        assert auroc(values[~wrong], values[wrong]) == pytest.approx(roc_auc_score(wrong, values), abs=1e-12)
    assert confident_predictions(probabilities, labels).count == (confidences >= 0.99).sum()


# ---- Pictures -------------------------------------------------------------------------------------------------------


def test_roc_diagram_shows_points_and_areas(tmp_path):
    inside, outside = draw()
    figure = roc_diagram({"svhn": {"focal": {"before": (inside, outside), "after": (outside, inside)}}})
    (left,) = figure.axes
    assert left.get_title() == "svhn"
    drawn = left.get_lines()[0].get_xydata()
    assert np.array_equal(drawn, np.transpose(roc_points(inside, outside)))
    names = [text.get_text() for text in left.get_legend().get_texts()]
    area = auroc(inside, outside)
    assert names == [f"focal, before: {area:.1%}", f"focal, after: {1 - area:.1%}"]
    figure.savefig(tmp_path / "roc.png")
    assert (tmp_path / "roc.png").read_bytes().startswith(b"\x89PNG")


def test_severity_diagram_shows_metrics_by_severity():
    def row(value):
        return {"before": {"ece": value, "nll": 2 * value, "accuracy": 1 - value},
                "after": {"ece": value / 2, "nll": value, "accuracy": 1 - value}}  # fmt: skip

    figure = severity_diagram({"focal": {5: row(0.3), 0: row(0.1)}, "brier": {0: row(0.2), 5: row(0.4)}})
    ece, nll, error = figure.axes
    assert [line.get_xydata().tolist() for line in ece.get_lines()] == [
        [[0, 10], [5, 30]], [[0, 5], [5, 15]], [[0, 20], [5, 40]], [[0, 10], [5, 20]]
    ]  # fmt: skip
    assert nll.get_lines()[0].get_ydata().tolist() == [0.2, 0.6]
    assert ece.get_xticks().tolist() == [0, 5] and not ece.collections
    assert error.get_lines()[0].get_ydata() == pytest.approx([10, 30])
    assert [line.get_linestyle() for line in error.get_lines()] == ["-", "-"]


def test_severity_diagram_shows_intervals_and_every_severity():
    def row(value, low, high):
        numbers = {"ece": value, "nll": value, "accuracy": 1 - value}
        ends = {"ece": (low, high), "nll": (low, high), "accuracy": (1 - high, 1 - low)}
        return {moment: {**numbers, "intervals": ends} for moment in ("before", "after")}

    # A basic interval may leave the estimate out.
    figure = severity_diagram(
        {"focal": {0: row(0.1, 0.05, 0.2), 3: row(0.3, 0.31, 0.4)}, "b": {0: row(0.2, 0.1, 0.2)}}
    )
    for axis, scale, lines in zip(figure.axes, (100, 1, 100), (2, 2, 1), strict=True):
        drawn = [collection.get_segments() for collection in axis.collections]
        assert len(drawn) == 2 * lines
        found = np.array(drawn[0])
        assert found == pytest.approx(np.array([[[0, 0.05], [0, 0.2]], [[3, 0.31], [3, 0.4]]]) * [1, scale])
        assert axis.get_xticks().tolist() == [0, 3]


def test_risk_coverage_diagram_shows_the_curve_and_its_area():
    curve = risk_coverage_curve(*predictions())
    (axis,) = risk_coverage_diagram({"focal": {"after": curve}}).axes
    assert axis.get_lines()[0].get_xydata() == pytest.approx(100 * np.transpose(curve))
    assert axis.get_legend().get_texts()[0].get_text() == f"focal, after: {curve[1].mean():.2%}"


def test_twenty_models_look_different():
    values = {"ece": 0.1, "nll": 1.0, "accuracy": 0.5}
    models = {f"model {index}": {0: {"before": values, "after": values}} for index in range(20)}
    curve = np.array([0.5, 1.0]), np.array([0.1, 0.2])
    figures = [severity_diagram(models), risk_coverage_diagram({name: {"after": curve} for name in models})]
    for figure, lines in zip(figures, (40, 20), strict=True):
        looks = {
            (line.get_color(), line.get_marker(), line.get_linewidth(), line.get_linestyle())
            for line in figure.axes[0].get_lines()
        }
        assert len(looks) == lines


@pytest.mark.parametrize("function", [roc_diagram, severity_diagram, risk_coverage_diagram])
def test_a_picture_of_nothing_is_refused(function):
    with pytest.raises(ValueError, match="nothing to draw"):
        function({})
