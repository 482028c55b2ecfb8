# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Pictures as they are stored: what is decoded is what `datasets` and Pillow decode, in bounded memory, once."""

import io
import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessor, ConvNextImageProcessor, ViTImageProcessor, default_data_collator

from hf_focal import ImageTransform, create_image_classifier, create_image_inputs
from hf_focal.tasks import pictures
from hf_focal.tasks.image import ImageClassification
from hf_focal.tasks.kept import keep, shared_bytes
from hf_focal.tasks.levels import Levels
from hf_focal.tasks.pictures import Room, about, decode, planes, rows_at_once, to_rgb, undecoded
from hf_focal.tasks.transforms import ImageInputs


FEATURES = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})


def picture(width=90, height=70, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return PILImage.fromarray(small).resize((width, height), PILImage.Resampling.BICUBIC)


def stored(image, format="JPEG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return {"bytes": file.getvalue(), "path": None}


def dataset(*cells):
    return Dataset.from_dict({"image": list(cells), "label": [i % 2 for i in range(len(cells))]}, features=FEATURES)


def pixels_of(inputs, **options):
    loader = DataLoader(inputs, 4, collate_fn=default_data_collator, **options)
    return torch.cat([batch["pixel_values"] for batch in loader])


@pytest.fixture(scope="module")
def timm():
    return create_image_classifier("test_resnet", ["a", "b"], from_scratch=True, image_size=32)[1]


def turned(image, orientation):
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    return stored(image, exif=exif)


@pytest.mark.parametrize(
    "cell",
    [
        stored(picture()),
        stored(picture(), quality=95, subsampling=0),
        stored(picture(), progressive=True),
        stored(picture().convert("L")),
        stored(picture().convert("CMYK")),
        turned(picture(), 6),
        turned(picture(), 3),
        stored(picture(), "PNG"),
        stored(picture().convert("RGBA"), "PNG"),
        stored(picture().quantize(16), "PNG"),
    ],
)
def test_pictures_are_those_that_datasets_decodes(cell, tmp_path):
    (tmp_path / "file").write_bytes(cell["bytes"])
    for one in (cell, {"bytes": None, "path": str(tmp_path / "file")}):
        expected = Image().decode_example(one)
        assert np.array_equal(np.asarray(decode(one)), np.asarray(expected))
        assert about(one) == (PILImage.open(io.BytesIO(cell["bytes"])).mode, expected.size)
        for mode in ("RGB", "L"):
            wanted = np.asarray(expected.convert("RGB").convert(mode))
            wanted = wanted[None] if mode == "L" else wanted.transpose(2, 0, 1)
            assert np.array_equal(planes(one, mode).numpy(), wanted)


def test_jpeg_files_are_decoded_by_torchvision_where_pixels_are_the_same(monkeypatch):
    calls = []
    real = pictures.decode_jpeg
    monkeypatch.setattr(pictures, "decode_jpeg", lambda *args: calls.append(1) or real(*args))
    assert pictures._decodes_alike()  # of the versions that the tests run with
    calls.clear()
    planes(stored(picture()), "RGB")
    assert len(calls) == 1
    monkeypatch.setattr(pictures, "_decodes_alike", lambda: False)
    wanted = np.asarray(picture()).shape
    assert planes(stored(picture()), "RGB").shape == (3, *wanted[:2]) and len(calls) == 1


def test_a_broken_jpeg_file_is_told_of_in_the_words_of_pillow():
    cut = stored(picture(300, 200))["bytes"][:1500]
    with pytest.raises(OSError, match="truncated"):
        planes({"bytes": cut, "path": None}, "RGB")
    with pytest.raises(ValueError, match="the cell is empty"):
        planes(None, "RGB")


def test_an_rgb_image_is_not_copied():
    image = picture()
    assert to_rgb(image) is image and decode(image) is image


def test_blocks_are_bounded_in_bytes_and_not_in_images():
    small = dataset(*[stored(picture(20, 20))] * 4)
    noise = PILImage.fromarray(np.random.default_rng(0).integers(0, 256, (1100, 1100, 3), dtype=np.uint8))
    large = dataset(*[stored(noise, "BMP")] * 4)  # 3.6 MB each
    assert rows_at_once(small) == 512
    assert (
        rows_at_once(large)
        == rows_at_once(large.select([3, 1]))
        == pictures.ENCODED // len(large.data[0][0].as_py()["bytes"])
    )


def test_threads_hold_no_more_than_there_is_room_for():
    room, held, most, lock = Room(100), [0], [0], threading.Lock()

    def work(count):
        with room.take(count):
            with lock:
                held[0] += count
                most[0] = max(most[0], held[0])
            time.sleep(0.002)
            with lock:
                held[0] -= count

    threads = [threading.Thread(target=work, args=(count,)) for count in [40, 50, 60, 30] * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 40 < most[0] <= 100 and held == [0]
    work(1000)  # more than there is, alone


@pytest.mark.parametrize("memory", [4e9, 0])
def test_a_batch_of_photos_is_decoded_one_by_one(timm, memory, monkeypatch):
    """At no time is more than one picture decoded beyond those that threads have room for."""
    alive, most = [0], [0]
    real = PILImage.Image.resize

    class Counted:
        def __enter__(self):
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __exit__(self, *_):
            alive[0] -= 1

    def resize(self, *args, **kwargs):
        with Counted():
            return real(self, *args, **kwargs)

    monkeypatch.setattr(PILImage.Image, "resize", resize)
    monkeypatch.setattr(pictures.Room.__init__, "__defaults__", (1,))  # room for one
    data = dataset(*[stored(picture(seed=seed)) for seed in range(9)])
    inputs = create_image_inputs({"train": data}, timm, memory=memory)["train"]
    found = pixels_of(inputs)
    assert most == [1]
    torch.testing.assert_close(found, timm(data["image"][:], return_tensors="pt")["pixel_values"], rtol=0, atol=1e-6)


PROCESSORS = {
    "ViT": ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.485, 0.456, 0.406], image_std=[0.2] * 3),
    "CLIP": CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
    "ConvNeXT": ConvNextImageProcessor(size={"shortest_edge": 32}),
    "no normalising": ViTImageProcessor(size={"height": 32, "width": 32}, do_normalize=False),
    "no rescaling": ViTImageProcessor(size={"height": 32, "width": 32}, do_normalize=False, do_rescale=False),
}


@pytest.mark.parametrize("name", ["timm", "imagenet", *PROCESSORS])
def test_every_kind_of_processor_is_followed_by_bytes(name, timm):
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "image_size": 32}
    one = PROCESSORS.get(name, timm)
    if name == "imagenet":
        one = create_image_classifier("test_resnet", ["a", "b"], from_scratch=True, **imagenet)[1]
    images = [picture(90, 70), picture(33, 200, 1), picture(32, 32, 2), picture(9, 11, 3), picture(500, 375, 4)]
    levels = Levels(one, "RGB")
    assert levels.exact
    for image in images:
        expected = one([image], return_tensors="pt")["pixel_values"].float()
        for cell in (image, stored(image, "PNG")):
            found = levels.normalize(levels.of(cell)[None])
            assert found.shape == expected.shape == (1, *levels.shape)
            assert (found - expected).abs().max() <= 1e-6 * max(1, float(expected.abs().max()))


def test_a_processor_that_does_more_is_not_followed(caplog):
    def gamma(images, return_tensors):
        return {"pixel_values": PROCESSORS["ViT"](images, return_tensors=return_tensors)["pixel_values"].exp()}

    assert not Levels(gamma, "RGB").exact
    with caplog.at_level(logging.INFO):
        assert keep({"train": dataset(stored(picture()))}, Levels(gamma, "RGB"))["train"] is None
    assert "decoded whenever they are read: their image processor does more" in caplog.text
    padded = ViTImageProcessor(size={"height": 32, "width": 32})

    def bordered(images, return_tensors):  # zeros around wide pictures, after normalising
        pixels = padded(images, return_tensors=return_tensors)["pixel_values"]
        if images[0].size[0] > images[0].size[1]:
            pixels[..., :4, :] = 0
        return {"pixel_values": pixels}

    assert not Levels(bordered, "RGB").exact


def test_the_budget_is_of_all_splits_together_and_the_log_says_why(timm, caplog):
    data = dataset(*[stored(picture())] * 10)
    splits = {"train": data, "validation": data, "test": data.select(range(2))}
    one = 10 * 3 * 32 * 32
    with caplog.at_level(logging.INFO):
        inputs = create_image_inputs(splits, timm, memory=1.5 * one)
    assert [inputs[split].pixels is not None for split in splits] == [True, False, True]
    assert [inputs[split].decoding for split in splits] == [False, True, False]
    first, second, third = [record.getMessage() for record in caplog.records]
    assert first == "Images of the split 'train' are kept in memory once they are read: 0.0 MB as bytes."
    assert "'validation' are decoded whenever they are read: they take 0.0 MB as bytes, and 0.0 MB of 0.0 MB" in second
    assert "--image_cache_gb" in second and "'test' are kept" in third
    assert create_image_inputs(splits, timm, memory=0)["test"].pixels is None
    with pytest.raises(ValueError, match=r"--image_cache_gb\) must be a number of at least 0, got -1"):
        create_image_inputs(splits, timm, memory=-1)
    with pytest.raises(ValueError, match="at least 0"):
        create_image_inputs(splits, timm, memory=float("nan"))


def test_images_that_were_not_read_before_are_kept_once_they_are_even_by_workers(timm):
    data = dataset(*[stored(picture(seed=seed), "PNG") for seed in range(8)])
    expected = timm(data["image"][:], return_tensors="pt")["pixel_values"]
    for workers in (0, 2):
        room, filled = (
            shared_bytes(8, 3, 32, 32),
            shared_bytes(8).bool() if workers == 0 else shared_bytes(8).view(torch.bool),
        )
        inputs = ImageInputs(data, ImageTransform(timm), room, filled=filled)
        assert inputs.decoding and not filled.any()
        torch.testing.assert_close(pixels_of(inputs, num_workers=workers), expected, rtol=0, atol=1e-6)
        assert filled.all()
        broken = dataset(*[{"bytes": b"x", "path": None}] * 8)
        again = ImageInputs(broken, ImageTransform(timm), room, filled=filled)
        torch.testing.assert_close(pixels_of(again), expected, rtol=0, atol=1e-6)


def test_leaving_out_images_keeps_the_room_that_there_is(timm):
    good = [stored(picture(seed=seed), "PNG") for seed in range(5)]
    data = dataset(*good[:2], {"bytes": b"no image", "path": None}, *good[2:])
    inputs = create_image_inputs({"test": data}, timm, skip_corrupted=True)["test"]
    assert len(inputs) == len(inputs.pixels) == 5 and inputs.pixels.untyped_storage().nbytes() == 6 * 3 * 32 * 32
    expected = timm([Image().decode_example(cell) for cell in good], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels_of(inputs), expected, rtol=0, atol=1e-6)


def test_an_image_that_cannot_be_read_is_named_when_it_is_met(timm):
    data = dataset(stored(picture()), {"bytes": b"no image", "path": None}, None)
    inputs = ImageClassification().encode(data.select([2, 1, 0]), timm)
    with pytest.raises(ValueError, match=r"The image in row 1 of the split cannot be used: cannot identify.*Mend or"):
        inputs.__getitems__([2, 1])
    with pytest.raises(ValueError, match=r"row 2 of the split cannot be used: the cell is empty"):
        inputs[0]
    assert inputs[2]["pixel_values"].shape == (3, 32, 32)


def test_a_transform_takes_images_that_are_not_decoded(timm):
    data = dataset(*[stored(picture(seed=seed)) for seed in range(3)])
    wanted = data.with_transform(ImageTransform(timm))[:]["pixel_values"]
    found = undecoded(data).with_transform(ImageTransform(timm))[:]["pixel_values"]
    assert torch.equal(torch.stack(found), torch.stack(wanted))


def test_the_mode_of_a_column_is_heeded(timm):
    grey = dataset(stored(picture(), "PNG")).cast_column("image", Image(mode="L"))
    inputs = create_image_inputs({"test": grey}, timm)["test"]
    expected = timm([picture().convert("L").convert("RGB")], return_tensors="pt")["pixel_values"]
    for one in (inputs, create_image_inputs({"test": grey}, timm, memory=0)["test"]):
        torch.testing.assert_close(pixels_of(one), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["timm", "ViT"])
def test_fast_images_are_nearly_those_of_the_processor_and_never_by_default(kind, timm, monkeypatch):
    one = PROCESSORS["ViT"] if kind == "ViT" else timm
    sizes = []
    real = pictures.as_planes
    monkeypatch.setattr(pictures, "as_planes", lambda image: sizes.append(image.size) or real(image))
    cell = stored(picture(800, 600), quality=95)
    exact = ImageTransform(one).read(cell).float()
    fast = ImageTransform(one, fast=True)
    sizes.clear()
    gap = (fast.read(cell).float() - exact).abs()
    assert sizes == [(100, 75)]  # an eighth, of which both sides have twice 32 pixels
    assert 0 < gap.mean() < 3
    expected = one([picture(800, 600)], return_tensors="pt")["pixel_values"]
    assert (fast.levels.normalize(fast.read(cell)[None]) - expected).abs().mean() < 0.05


def test_files_stay_closed(tmp_path):
    paths = [tmp_path / f"{index}.jpg" for index in range(3)]
    for path in paths:
        path.write_bytes(stored(picture())["bytes"])
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    for path in paths:
        planes({"bytes": None, "path": str(path)}, "RGB")
        about({"bytes": None, "path": str(path)})
    assert not before or len(list(Path("/proc/self/fd").iterdir())) <= before
