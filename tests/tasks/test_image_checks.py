# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""How much of the images is looked at first: all of small data, a sample of large; shared out, and remembered."""

import io
import logging
import multiprocessing

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from hf_focal import ImageTransform, create_image_classifier, create_image_inputs
from hf_focal.tasks import image_checks


FEATURES = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})


def stored(rows, bad=(), size=(8, 8)):
    cells = []
    for row in range(rows):
        file = io.BytesIO()
        PILImage.fromarray(np.full((*size, 3), row % 256, np.uint8)).save(file, "PNG")
        cells.append(b"no image" if row in bad else file.getvalue())
    return Dataset.from_dict({"image": cells, "label": [row % 2 for row in range(rows)]}, features=FEATURES)


@pytest.fixture(scope="module")
def processor():
    return create_image_classifier("test_resnet", ["a", "b"], from_scratch=True, image_size=32)[1]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(image_checks, "FOLDER", tmp_path / "remembered")
    return tmp_path / "remembered"


@pytest.fixture
def looked(monkeypatch):
    """The rows that were looked at."""
    seen, one = [], image_checks.Looker._one

    def counting(self, row, cell):
        seen.append(row)
        return one(self, row, cell)

    monkeypatch.setattr(image_checks.Looker, "_one", counting)
    return seen


def large(monkeypatch, sample=4):
    """Let ten images be large data."""
    monkeypatch.setattr(image_checks, "SMALL", 9 * image_checks._EACH)
    monkeypatch.setattr(image_checks, "SAMPLE", sample)


def inputs_of(data, processor, **options):
    return create_image_inputs({"train": data}, processor, **options)["train"]


@pytest.mark.parametrize(("how", "count"), [(None, 4), ("sample", 4), ("all", 10), ("none", 0)])
def test_so_many_images_of_large_data_are_looked_at(processor, looked, monkeypatch, caplog, how, count):
    large(monkeypatch)
    with caplog.at_level(logging.INFO):
        inputs = inputs_of(stored(10), processor, check_images=how, memory=0)
    assert len(looked) == count
    assert ("Looked at 4 of 10 images of 'train'" in caplog.text) is (count == 4)
    assert len(inputs) == 10


@pytest.mark.parametrize(("how", "count"), [(None, 10), ("sample", 4)])
def test_all_images_of_small_data_are_looked_at_unless_a_sample_is_asked_for(
    processor, looked, monkeypatch, how, count
):
    monkeypatch.setattr(image_checks, "SAMPLE", 4)
    inputs_of(stored(10), processor, check_images=how, memory=0)
    assert len(looked) == count


def test_fewer_are_looked_at_where_images_are_large(processor, looked, monkeypatch):
    monkeypatch.setattr(image_checks, "SMALL", 0)
    monkeypatch.setattr(image_checks, "SAMPLED", 20 * 40 * 40)
    inputs_of(stored(60, size=(40, 40)), processor, memory=0)
    assert len(looked) == 20


@pytest.mark.parametrize("memory", [4e9, 0])
def test_images_that_were_not_looked_at_are_read_and_kept_when_they_are_met(processor, monkeypatch, memory):
    read, plain = [], ImageTransform.read
    monkeypatch.setattr(ImageTransform, "read", lambda self, cell: read.append(cell) or plain(self, cell))
    data = stored(10)
    inputs = inputs_of(data, processor, check_images="none", memory=memory)
    assert not read
    wanted = processor(data["image"][:], return_tensors="pt")["pixel_values"]
    for count in (10, 10 if memory else 20):
        found = torch.stack([one["pixel_values"] for one in inputs.__getitems__([*range(10)])])
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
        assert len(read) == count


@pytest.mark.parametrize("memory", [4e9, 0])
def test_an_image_that_was_not_looked_at_is_named_when_it_is_met(processor, memory):
    inputs = inputs_of(stored(10, bad=(6,)).select([9, 1, 6, 3]), processor, check_images="none", memory=memory)
    assert len(inputs.__getitems__([0, 1, 3])) == 3
    with pytest.raises(ValueError, match="The image in row 6 of the split.* cannot be used: cannot identify"):
        inputs.__getitems__([0, 2])


def test_what_a_sample_finds_is_told_as_such(processor, monkeypatch, caplog):
    large(monkeypatch, sample=9)
    data = stored(40, bad=range(0, 40, 2))
    with pytest.raises(ValueError, match=r"of 9 images of the split 'train' that were looked at cannot be read: row"):
        inputs_of(data, processor)
    assert [one["labels"] for one in inputs_of(data, processor, skip_corrupted=True)] == [1] * 20  # all are looked at


def test_what_was_found_is_remembered(processor, looked, caplog):
    data = stored(12, bad=(3,)).add_column("more", [0] * 12)
    told = []
    for again in (12, 1, 1):  # what could not be read is read again
        looked.clear()
        caplog.clear()
        inputs = inputs_of(data, processor, skip_corrupted=True, memory=0)
        assert len(looked) == again and len(inputs) == 11
        told.append([record.getMessage() for record in caplog.records])
    assert told[0] == told[1] == told[2] and "row 3 (cannot identify" in told[0][0]
    with pytest.raises(ValueError, match="1 of 12 images of the split 'train' cannot be read: row 3"):
        inputs_of(data, processor)
    looked.clear()
    inputs_of(stored(13), processor, memory=0)  # other data
    assert len(looked) == 13


def test_a_sample_that_is_remembered_does_not_stand_for_all(processor, looked, monkeypatch):
    large(monkeypatch)
    for how, count in (("sample", 4), ("sample", 0), ("all", 10), ("sample", 0), ("all", 0)):
        looked.clear()
        inputs_of(stored(10), processor, check_images=how, memory=0)
        assert len(looked) == count


def test_an_image_that_was_mended_is_no_longer_left_out(processor, tmp_path):
    paths = []
    for row in range(4):
        paths.append(str(tmp_path / f"{row}.png"))
        PILImage.new("RGB", (8, 8)).save(paths[-1])
    data = Dataset.from_dict({"image": paths, "label": [0, 1, 0, 1]}, features=FEATURES)
    (tmp_path / "2.png").write_bytes(b"broken")
    assert len(inputs_of(data, processor, skip_corrupted=True)) == 3
    PILImage.new("RGB", (8, 8)).save(paths[2])
    assert len(inputs_of(data, processor, skip_corrupted=True)) == 4


@pytest.mark.parametrize("content", ["", "[]", '{"form": 1, "images": 12}', '{"form": 1, "images": 12, "seen": 3}'])
def test_a_damaged_memory_is_found_out_again(processor, looked, folder, content):
    data = stored(12)
    folder.mkdir()
    (folder / f"{data._fingerprint}.json").write_text(content)
    inputs_of(data, processor, memory=0)
    assert len(looked) == 12


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(processor, folder):
    folder.write_text("a file")
    assert len(inputs_of(stored(5), processor)) == 5


def test_there_is_no_other_way_to_look(processor):
    with pytest.raises(ValueError, match="check_images must be one of all, sample, none, got 'some'"):
        inputs_of(stored(5), processor, check_images="some")


# ---- Processes ------------------------------------------------------------------------------------------------------


def look(rank, world, port, folder, queue, late):
    image_checks.FOLDER = folder
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    processor = create_image_classifier("test_resnet", ["a", "b"], from_scratch=True, image_size=32)[1]
    if rank and late:  # as under `main_process_first`
        torch.distributed.barrier()
    mine, one = [], image_checks.Looker._one

    def counting(self, row, cell):
        mine.append(row)
        return one(self, row, cell)

    image_checks.Looker._one = counting
    inputs = create_image_inputs({"train": stored(50, bad=(7, 30))}, processor, skip_corrupted=True)["train"]
    pixels = torch.stack([sample["pixel_values"] for sample in inputs.__getitems__([*range(48)])])
    if not rank and late:
        torch.distributed.barrier()
    torch.distributed.barrier()
    queue.put((rank, sorted(mine), len(inputs), float(pixels.double().sum())))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True])
def test_processes_share_the_images_out_and_all_know_what_was_found(tmp_path, late):
    context = multiprocessing.get_context("spawn")
    queue, port = context.Queue(), 29_500 + int(np.random.default_rng().integers(1, 400))
    workers = [
        context.Process(target=look, args=(rank, 2, port, tmp_path / str(rank), queue, late)) for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    found = sorted(queue.get(timeout=300) for _ in workers)
    for worker in workers:
        worker.join()
    rows = [mine for _, mine, _, _ in found]
    assert sorted(rows[0] + rows[1]) == [*range(50)] and (not late or not rows[1])
    assert [count for _, _, count, _ in found] == [48, 48] and found[0][3] == found[1][3]
