# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Images as inputs: what the processor makes of them, kept as bytes or not; crops and flips; images that are odd."""

import io
import logging
import warnings

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from torch.utils.data import DataLoader
from transformers import ViTImageProcessor, default_data_collator

from hf_focal import ImageTransform, create_image_classifier, create_image_inputs, load_image_dataset
from hf_focal.tasks.transforms import random_crop


FEATURES = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"])})


def pictures(count, size=(32, 32), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, size[1], size[0], 3)).astype(np.uint8)
    return {"image": [PILImage.fromarray(image) for image in pixels], "label": [index % 3 for index in range(count)]}


def dataset(count=12, size=(32, 32)):
    return Dataset.from_dict(pictures(count, size), features=FEATURES)


def encoded(*images):
    """A data set of files, one per image or bytes."""
    cells = []
    for image in images:
        if isinstance(image, PILImage.Image):
            file = io.BytesIO()
            image.save(file, "PNG")
            image = file.getvalue()
        cells.append(image)
    return Dataset.from_dict({"image": cells, "label": [i % 3 for i in range(len(cells))]}, features=FEATURES)


def all_inputs(inputs, batch_size=5, **kwargs):
    batches = list(DataLoader(inputs, batch_size, collate_fn=default_data_collator, **kwargs))
    return torch.cat([batch["pixel_values"] for batch in batches]), torch.cat([batch["labels"] for batch in batches])


@pytest.fixture(scope="module")
def processor():
    return create_image_classifier("test_resnet", ["a", "b", "c"], from_scratch=True, image_size=32)[1]


def test_plain_transform_is_what_the_processor_does(processor):
    images = pictures(4, (6, 6))
    inputs = ImageTransform(processor)(images)
    expected = processor(images["image"], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(torch.stack(inputs["pixel_values"]), expected, rtol=0, atol=1e-6)
    assert expected.shape == (4, 3, 32, 32)
    assert inputs["labels"] == images["label"]


@pytest.mark.parametrize("size", [(32, 32), (6, 6), (50, 40)])
@pytest.mark.parametrize("kind", ["timm", "transformers"])
@pytest.mark.parametrize("memory", [2**31, 100])
def test_inputs_are_what_the_processor_makes_whether_kept_as_bytes_or_not(processor, size, kind, memory):
    if kind == "transformers":
        processor = ViTImageProcessor(size={"height": 32, "width": 32})
    data = dataset(12, size)
    inputs = create_image_inputs({"test": data}, processor, memory=memory)["test"]
    if memory == 100:
        assert inputs.pixels is None
    else:
        assert inputs.pixels.shape == (12, 3, 32, 32) and inputs.pixels.dtype == torch.uint8
    pixels, labels = all_inputs(inputs)
    expected = processor(data["image"][:], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)
    assert labels.tolist() == data["label"][:] and len(inputs) == 12
    assert torch.equal(inputs[7]["pixel_values"], pixels[7])


def test_bytes_are_not_kept_where_they_would_lose_something(processor):
    def squared(images, return_tensors):
        return {"pixel_values": processor(images, return_tensors=return_tensors)["pixel_values"] ** 2}

    data = dataset()
    inputs = create_image_inputs({"test": data}, squared)["test"]
    assert inputs.pixels is None
    expected = squared(data["image"][:], "pt")["pixel_values"]
    torch.testing.assert_close(all_inputs(inputs)[0], expected, rtol=0, atol=1e-5)


# ---- Crops and flips ------------------------------------------------------------------------------------------------


def places(image, source, size):
    """Where `image` lies in `source`: rows and columns of its upper left corner."""
    windows = source.unfold(1, size, 1).unfold(2, size, 1)
    return (windows == image[:, None, None]).flatten(3).all(-1).all(0).nonzero().tolist()


def test_crop_shifts_each_image_by_at_most_the_padding():
    pixels = torch.rand(50, 3, 8, 8) + 1  # never 0, so that the border can be told
    cropped = random_crop(pixels, 2, np.random.default_rng(0))
    assert cropped.shape == pixels.shape
    padded = torch.nn.functional.pad(pixels, (2, 2, 2, 2))
    found = [places(after, before, 8) for before, after in zip(padded, cropped, strict=True)]
    assert all(len(place) == 1 for place in found)
    seen = {tuple(place[0]) for place in found}
    assert len(seen) > 15  # of 25 places
    assert {row for row, _ in seen} == {column for _, column in seen} == set(range(5))


@pytest.mark.parametrize("memory", [2**31, 100])
def test_training_images_are_cropped_over_black_and_half_of_them_flipped(processor, memory):
    data = Dataset.from_dict(pictures(100), features=FEATURES)
    inputs = create_image_inputs({"train": data, "test": data}, processor, "crop-flip", padding=3, memory=memory)
    turned, _ = all_inputs(inputs["train"], 100)
    plain, _ = all_inputs(inputs["test"], 100)
    levels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in data["image"]]
    offset, scale = inputs["train"].transform.offset, inputs["train"].transform.scale
    back = ((turned - offset) / scale).round().to(torch.uint8)
    flips = 0
    for image, source in zip(back, levels, strict=True):
        padded = torch.nn.functional.pad(source, (3, 3, 3, 3))
        straight, mirrored = places(image, padded, 32), places(image, padded.flip(-1), 32)
        assert len(straight) + len(mirrored) == 1
        flips += len(mirrored)
    assert 30 < flips < 70
    assert torch.equal(((plain - offset) / scale).round().to(torch.uint8), torch.stack(levels))


def test_crops_and_flips_depend_on_seed_and_batch_alone(processor):
    data = {"train": dataset(20)}
    first, again, other = (create_image_inputs(data, processor, "crop-flip", seed=seed)["train"] for seed in (1, 1, 2))
    torch.manual_seed(5)
    pixels, _ = all_inputs(first)
    torch.manual_seed(6)
    assert torch.equal(all_inputs(again)[0], pixels)
    assert torch.equal(all_inputs(again, num_workers=2)[0], pixels)
    decoded = create_image_inputs(data, processor, "crop-flip", seed=1, memory=100)["train"]
    torch.testing.assert_close(all_inputs(decoded)[0], pixels, rtol=0, atol=1e-6)
    assert not torch.equal(all_inputs(other)[0], pixels)
    straight, reverse = first.__getitems__([0, 1, 2, 3]), first.__getitems__([3, 2, 1, 0])
    assert not all(torch.equal(straight[i]["pixel_values"], reverse[3 - i]["pixel_values"]) for i in range(4))


@pytest.mark.parametrize("memory", [2**31, 100])
def test_a_sample_is_of_some_rows_without_crops_and_flips(processor, memory):
    data = dataset(20)
    inputs = create_image_inputs({"train": data}, processor, "crop-flip", memory=memory)["train"]
    plain = processor(data["image"][:], return_tensors="pt")["pixel_values"]
    rows = []
    for one in inputs.sample(8, seed=3):
        (row,) = [index for index in range(20) if (plain[index] - one["pixel_values"]).abs().max() < 1e-5]
        assert one["labels"] == data[row]["label"]
        rows.append(row)
    assert len(set(rows)) == 8 and rows != sorted(rows)
    assert [one["labels"] for one in inputs.sample(8, seed=3)] == [data[row]["label"] for row in rows]
    assert len(inputs.sample(50, seed=3)) == 20


def test_crops_are_padded_by_an_eighth_unless_told_otherwise(processor):
    batch = {"image": [PILImage.new("RGB", (32, 32), "white")] * 200}
    for padding, most in ((None, 4), (2, 2)):
        pixels = torch.stack(ImageTransform(processor, "crop", padding)(batch)["pixel_values"])
        border = (pixels < pixels.amax((0, 2, 3), keepdim=True) - 0.1).all(1)  # what came in, rows and columns
        assert border.all(2).sum(1).max() == border.all(1).sum(1).max() == most


def test_a_transform_draws_from_the_generator_of_torch(processor):
    transform = ImageTransform(processor, "crop-flip")
    torch.manual_seed(0)
    first, second = (torch.stack(transform(pictures(8))["pixel_values"]) for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(torch.stack(transform(pictures(8))["pixel_values"]), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("arguments", "message"), [(("flop",), "none, crop, crop-flip"), (("crop", 0), "at least 1")])
def test_an_augmentation_that_cannot_be_is_refused(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageTransform(processor, *arguments)


# ---- Odd images -----------------------------------------------------------------------------------------------------


def odd_images():
    grey = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) % 251
    rgb = PILImage.fromarray(np.stack([grey, grey // 2, 255 - grey], axis=2).astype(np.uint8))
    rgba, palette = rgb.copy(), rgb.quantize(16)
    rgba.putalpha(100)
    palette.info["transparency"] = bytes([0, 128])
    deep = PILImage.fromarray((grey * 257).astype(np.uint16))
    return {"RGB": rgb, "L": PILImage.fromarray(grey.astype(np.uint8)), "RGBA": rgba, "P": palette, "I;16": deep}


def test_images_of_every_mode_become_rgb_as_pipelines_make_them_and_it_is_said_once(processor, caplog):
    images = odd_images()
    data = encoded(*images.values(), images["L"])
    with caplog.at_level(logging.WARNING):
        inputs = create_image_inputs({"train": data, "test": data}, processor)["test"]
    all_inputs(inputs)
    found = inputs.pixels.permute(0, 2, 3, 1).numpy()
    grey = np.asarray(images["L"])
    for index, mode in enumerate(images):
        with warnings.catch_warnings():  # Pillow's own, about a palette with transparency
            warnings.simplefilter("ignore", UserWarning)
            expected = np.asarray(images[mode].convert("RGB"))
        if mode == "I;16":
            expected = np.stack([grey] * 3, axis=2)
        assert np.array_equal(found[index], expected), mode
    (message,) = [record.getMessage() for record in caplog.records]
    assert "4 of mode L, 2 of mode RGBA, 2 of mode P, 2 of mode I;16. Transparency is dropped." in message
    assert "Pipelines clip grey of 16 bits" in message


def test_images_of_mixed_size_are_resized_and_it_is_said_once(processor, caplog):
    data = encoded(*pictures(2, (32, 32))["image"], *pictures(2, (9, 7))["image"])
    with caplog.at_level(logging.WARNING):
        inputs = create_image_inputs({"train": data, "test": data}, processor)["test"]
    assert [record.getMessage() for record in caplog.records] == [
        "Images of 2 sizes, from 9x7 to 32x32, are resized to one."
    ]
    torch.testing.assert_close(
        all_inputs(inputs)[0], processor(data["image"][:], return_tensors="pt")["pixel_values"], rtol=0, atol=1e-6
    )


def test_the_largest_image_is_the_one_of_most_pixels(processor, caplog):
    data = encoded(*(pictures(1, size)["image"][0] for size in ((4, 30), (9, 2), (3, 8))))
    create_image_inputs({"train": data}, processor)
    assert caplog.records[0].getMessage() == "Images of 3 sizes, from 9x2 to 4x30, are resized to one."


def test_one_sample_is_taken_as_of_a_list(processor):
    inputs = create_image_inputs({"test": dataset(5)}, processor)["test"]
    assert torch.equal(inputs[-1]["pixel_values"], inputs[4]["pixel_values"]) and len(list(inputs)) == 5
    for index in (5, -6):
        with pytest.raises(IndexError):
            inputs[index]


def test_ordinary_images_give_no_message(processor, caplog):
    create_image_inputs({"train": dataset(), "test": dataset()}, processor)
    assert not caplog.records


def broken():
    file = io.BytesIO()
    pictures(1)["image"][0].save(file, "PNG")
    good = pictures(7)["image"]
    cut = file.getvalue()[:900]
    return encoded(*good[:3], cut, *good[3:5], b"no image", *good[5:], None)


@pytest.mark.parametrize("memory", [2**31, 100])
def test_corrupted_images_are_named_or_left_out(processor, caplog, memory):
    data = broken()
    with pytest.raises(ValueError, match=r"3 of 10 images of the split 'test' cannot be read: row 3 \(") as error:
        create_image_inputs({"test": data}, processor, memory=memory)
    for part in ("row 6 (cannot identify", "row 9 (", "--skip_corrupted_images"):
        assert part in str(error.value)
    inputs = create_image_inputs({"test": data}, processor, skip_corrupted=True, memory=memory)["test"]
    assert "row 6" in caplog.text and "They are left out." in caplog.text
    pixels, labels = all_inputs(inputs)
    rows = [0, 1, 2, 4, 5, 7, 8]
    assert labels.tolist() == [row % 3 for row in rows]
    expected = processor([data[row]["image"] for row in rows], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)


def test_a_corrupted_image_is_named_by_its_row_in_the_stored_split(processor):
    data = broken().shuffle(seed=1).select(range(9))
    rows = data.cast_column("image", Image(decode=False))["image"]
    bad = [index for index, cell in enumerate(rows) if cell and cell["bytes"] == b"no image"]
    assert bad and bad != [6]
    with pytest.raises(ValueError, match=r"row 6 \(cannot identify"):
        create_image_inputs({"test": data}, processor)


def test_a_split_without_any_readable_image_is_refused(processor):
    with pytest.raises(ValueError, match="2 of 2 images"):
        create_image_inputs({"test": encoded(b"x", b"y")}, processor, skip_corrupted=True)


def test_images_whose_range_is_not_known_are_refused(processor):
    file = io.BytesIO()
    PILImage.fromarray(np.random.rand(32, 32).astype(np.float32)).save(file, "TIFF")
    with pytest.raises(ValueError, match=r"row 0 \(the image is of mode F.*convert it to 8 bits"):
        create_image_inputs({"test": encoded(file.getvalue())}, processor)


def test_classes_that_are_missing_from_a_split_are_named(processor, caplog):
    data = dataset(12)
    create_image_inputs({"train": data, "test": data.select([0, 3, 6])}, processor)
    assert [record.getMessage() for record in caplog.records] == [
        "The split 'test' has no sample of 2 of 3 classes: b, c."
    ]


@pytest.mark.parametrize("name", ["inception_v3", "crossvit_9_240"])
def test_a_network_that_cannot_take_the_images_is_refused_before_training(name):
    with pytest.raises(ValueError, match=rf"'{name}' cannot take images of 32x32.*--image_size.*its own is (299|240)"):
        create_image_classifier(name, ["a", "b"], from_scratch=True, data_size=28)


def test_mean_and_deviation_of_the_colours_can_be_chosen(tmp_path):
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    model, processor = create_image_classifier(
        "cifar_resnet8", ["a", "b"], from_scratch=True, image_mean=mean, image_std=std
    )
    white = processor(PILImage.new("RGB", (32, 32), "white"), return_tensors="pt")["pixel_values"]
    expected = (1 - np.array(mean)) / np.array(std)
    assert white.mean((0, 2, 3)).tolist() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="image_std must hold one number per colour"):
        create_image_classifier("cifar_resnet8", ["a", "b"], from_scratch=True, image_std=[1.0, 0.0, 1.0])
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="image_mean=.*only applies"):
        create_image_classifier(str(tmp_path), ["a", "b"], image_mean=mean)


def test_cifar10_is_kept_as_bytes(test_data):
    data = load_image_dataset(str(test_data / "cifar10"))["test"].select(range(300))
    _, processor = create_image_classifier("cifar_resnet8", data.features["label"].names, from_scratch=True)
    inputs = create_image_inputs({"test": data}, processor)["test"]
    assert inputs.pixels is not None
    expected = processor(data["image"][:], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(all_inputs(inputs, 128)[0], expected, rtol=0, atol=1e-6)
