# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Models of one channel: what their processor makes, in inputs, in pipelines and in what is measured."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from small_texts import SIZES
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import hf_focal
from hf_focal import ImageCorruption, ImageTransform, create_image_classifier, create_image_inputs
from hf_focal.calibrators import MatrixScaling
from hf_focal.robustness.study import UncalibratedModel
from hf_focal.tasks.image import prepare_image_processor


SCANS = np.random.default_rng(0).integers(0, 256, (12, 8, 8)).astype(np.uint8)
FEATURES = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"])})
DATA = Dataset.from_dict({"image": list(SCANS), "label": [0, 1, 2] * 4}, features=FEATURES)
EXPECTED = torch.from_numpy(SCANS)[:, None].float() / 255 / 0.25 - 0.5 / 0.25  # mean 0.5, deviation 0.25


def grey_model(channels=1):
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate("abc")), "label2id": {name: i for i, name in enumerate("abc")}}
    config = ViTConfig(**SIZES, **names, image_size=8, patch_size=4, num_channels=channels)
    model = ViTForImageClassification(config).eval()
    torch.nn.init.normal_(model.classifier.weight)
    return model


def processor(mean=(0.5,), std=(0.25,), **options):
    return ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=mean, image_std=std, **options)


@pytest.fixture
def folder(tmp_path):
    grey_model().save_pretrained(tmp_path)
    processor([0.5] * 3, [0.25] * 3).save_pretrained(tmp_path)  # as of a stock processor
    return tmp_path


@pytest.mark.parametrize(
    "one",
    [
        processor([0.5], [0.25]),
        processor(0.5, 0.25),
        processor([0.5] * 3, [0.25] * 3),
        processor([0.5], [0.25], do_convert_rgb=True),
    ],
)
def test_a_processor_is_made_to_normalise_what_the_model_takes(one):
    prepare_image_processor(grey_model(), one)
    assert list(one.image_mean) == [0.5] and list(one.image_std) == [0.25]
    pixels = torch.stack(ImageTransform(one)({"image": DATA["image"]})["pixel_values"])
    torch.testing.assert_close(pixels, EXPECTED)
    rgb = [image.convert("RGB") for image in DATA["image"]]
    torch.testing.assert_close(torch.stack(ImageTransform(one)({"image": rgb})["pixel_values"]), EXPECTED)
    prepare_image_processor(grey_model(3), one)
    assert list(one.image_mean) == [0.5] * 3
    assert ImageTransform(one)({"image": DATA["image"]})["pixel_values"][0].shape == (3, 8, 8)


def test_what_cannot_be_made_to_fit_is_refused():
    with pytest.raises(ValueError, match="The model takes images of 1 channel, but its image processor normalises 3"):
        prepare_image_processor(grey_model(), processor([0.4, 0.5, 0.6], [0.25] * 3))
    with pytest.raises(ValueError, match="images of 4 channels; only 1 .grey. and 3"):
        prepare_image_processor(grey_model(4), processor())


@pytest.mark.parametrize("memory", [2**31, 10])
def test_grey_inputs_are_kept_and_are_no_conversion_worth_a_word(folder, memory, caplog):
    model, one = create_image_classifier(str(folder), ["a", "b", "c"])
    inputs = create_image_inputs({"test": DATA}, one, memory=memory)["test"]
    assert (inputs.pixels is None) is (memory == 10) and not caplog.records
    torch.testing.assert_close(torch.stack([row["pixel_values"] for row in inputs]), EXPECTED)
    assert model(inputs[0]["pixel_values"][None]).logits.shape == (1, 3)


def test_a_pipeline_and_the_study_give_the_models_own_answers(folder, tmp_path):
    model = grey_model()
    with torch.no_grad():
        expected = model(EXPECTED).logits
    classify = hf_focal.pipeline(model=str(folder))
    for image, row in zip(DATA["image"], expected.softmax(-1), strict=True):
        for given in (image, image.convert("RGB")):
            scores = {score["label"]: score["score"] for score in classify(given, top_k=None)}
            assert [scores[name] for name in "abc"] == pytest.approx(row.tolist(), abs=1e-5)
    study = UncalibratedModel(str(folder), str(tmp_path / "out"))
    np.testing.assert_allclose(study.logits(DATA), expected.numpy(), atol=1e-5)
    assert study.labels([1, 0, 1], ["c", "A"]).tolist() == [0, 2, 0]  # data that lack a class
    with pytest.raises(ValueError, match="does not know the classes 'd'"):
        study.labels([1, 0], ["a", "d"])
    brighter = torch.clamp(torch.from_numpy(SCANS)[:, None] / 255 + 0.3, 0, 1).mul(255).floor() / 255
    with torch.no_grad():
        expected = model(brighter / 0.25 - 2).logits
    np.testing.assert_allclose(study.logits(DATA, ImageCorruption("brightness", 5)), expected.numpy(), atol=1e-4)


def test_the_study_has_the_logits_from_before_a_matrix_was_folded_in(folder, tmp_path):
    raw = UncalibratedModel(str(folder), str(tmp_path / "out")).logits(DATA)
    matrix = MatrixScaling(1.7, ((1.0, 0.2, 0.0), (0.0, 0.9, 0.3), (0.1, 0.0, 1.2)), (0.5, -0.5, 0.1))
    hf_focal.fold_calibrator(hf_focal.from_pretrained(folder), matrix).save_pretrained(folder)
    study = UncalibratedModel(str(folder), str(tmp_path / "out"))
    assert study.calibrator == matrix and np.array_equal(study.logits(DATA), raw)
    (folder / ".head_before_calibration.safetensors").unlink()
    study = UncalibratedModel(str(folder), str(tmp_path / "out"))
    np.testing.assert_allclose(study.logits(DATA), raw, atol=1e-5)


def test_noise_on_grey_images_is_as_strong_as_on_each_colour():
    """Noise of three colours, averaged to grey, would be weaker by a third."""
    flat = PILImage.new("L", (200, 200), 128)
    for name in ("gaussian_noise", "shot_noise", "gaussian_blur", "contrast", "jpeg_compression", "brightness"):
        colour, grey = ImageCorruption(name, 3), ImageCorruption(name, 3).of_mode("L")
        assert grey.corrupt(flat).mode == "L" and colour.corrupt(flat).mode == "RGB"
        spread = np.asarray(colour.corrupt(flat), float).std(axis=(0, 1)).mean()
        assert np.asarray(grey.corrupt(flat), float).std() == pytest.approx(spread, rel=0.03)
