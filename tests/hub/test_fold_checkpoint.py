# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints that are folded on disk, against what loading, folding and saving makes of them."""

import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import build, samples
from transformers import PreTrainedModel

import hf_focal
from hf_focal import create_image_classifier, fold_calibrator, fold_checkpoint, unfold_calibrator
from hf_focal.calibrators.base import calibrator_of
from hf_focal.hub import saved as saved_checkpoints
from hf_focal.models.fingerprint import fingerprint
from hf_focal.models.original import ORIGINAL_HEAD
from hf_focal.models.record import record_of
from hf_focal.results import replace as replacing


sys.path.append(str(Path(__file__).resolve().parents[1] / "models"))
RECORDS = {
    "temperature": {"method": "temperature", "temperature": 1.7},
    "vector": {
        "method": "vector",
        "temperature": 1.2,
        "scale": [0.5, 1.5, 1.0, 0.7, 0.9],
        "shift": [0.1, -0.2, 0.3, 0.0, -0.4],
    },
    "matrix": {
        "method": "matrix",
        "temperature": 1.3,
        "matrix": (np.eye(5) + 0.1 * np.arange(25).reshape(5, 5) / 25).tolist(),
        "shift": [0.1, -0.2, 0.3, 0.0, -0.4],
    },
}


def put_in_config(model, record):
    """As `calibrate(fold=False)` leaves it."""
    calibrator = calibrator_of(record)
    model.config.calibration = record_of(calibrator, {"split": "validation"}, False, fingerprint(model))
    return calibrator


def saved(folder, record, kind="bert", dtype=torch.float32, **options):
    model = build(kind).to(dtype)
    put_in_config(model, record)
    model.save_pretrained(folder, **options)
    return folder


def weights(folder):
    found = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        found |= load_file(path)
    return found


def as_in_memory(folder, place):
    """Load the checkpoint, fold, save."""
    model = hf_focal.from_pretrained(folder)
    calibrator = calibrator_of(model.config.calibration)
    fold_calibrator(model, calibrator)
    model.save_pretrained(place)
    return place


def assert_same(ours, theirs):
    one, other = weights(ours), weights(theirs)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in one)
    records = [json.loads((Path(folder) / "config.json").read_text())["calibration"] for folder in (ours, theirs)]
    assert records[0] == records[1] and records[0]["folded"]
    kept = [load_file(Path(folder) / ORIGINAL_HEAD) for folder in (ours, theirs)]
    assert kept[0].keys() == kept[1].keys() and all(torch.equal(kept[0][key], kept[1][key]) for key in kept[0])


@pytest.fixture
def no_model(monkeypatch):
    """Whoever builds a model fails."""

    def refuse(*args, **kwargs):
        raise AssertionError("a model is built")

    def stop():
        monkeypatch.setattr(PreTrainedModel, "__init__", refuse)
        monkeypatch.setattr(PreTrainedModel, "from_pretrained", refuse)

    yield stop


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", RECORDS)
def test_it_is_what_loading_folding_and_saving_gives(tmp_path, no_model, name, dtype):
    folder = saved(tmp_path / "ours", RECORDS[name], dtype=dtype)
    as_in_memory(folder, tmp_path / "theirs")
    no_model()
    assert fold_checkpoint(str(folder)) == folder
    assert_same(folder, tmp_path / "theirs")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    fold_checkpoint(folder)  # twice is once
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_weights_in_several_files_change_where_the_head_is_alone(tmp_path, no_model):
    folder = saved(tmp_path / "ours", RECORDS["vector"], max_shard_size="8KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    before = {path.name: path.read_bytes() for path in shards}
    assert len(shards) > 2
    as_in_memory(folder, tmp_path / "theirs")
    no_model()
    fold_checkpoint(folder)
    assert_same(folder, tmp_path / "theirs")
    changed = {path.name for path in shards if path.read_bytes() != before[path.name]}
    assert changed == {index["classifier.weight"], index["classifier.bias"]}


def test_a_stock_user_gets_the_calibrated_probabilities_and_the_fold_can_be_undone(tmp_path):
    folder = saved(tmp_path / "model", RECORDS["matrix"])
    batch = {"input_ids": torch.stack([row["input_ids"] for row in samples("bert", 6)])}
    with torch.no_grad():
        expected = hf_focal.from_pretrained(folder)(**batch).logits.softmax(-1)
        before = build("bert").eval()(**batch).logits
        fold_checkpoint(folder)
        stock = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        torch.testing.assert_close(stock(**batch).logits.softmax(-1), expected, rtol=0, atol=1e-6)
        undone = unfold_calibrator(hf_focal.from_pretrained(folder))
        assert torch.equal(undone(**batch).logits, before)


def test_a_calibrator_that_changes_nothing_leaves_the_weights(tmp_path):
    folder = saved(tmp_path / "ours", {"method": "temperature", "temperature": 1.0})
    before = (folder / "model.safetensors").read_bytes()
    fold_checkpoint(folder)
    assert (folder / "model.safetensors").read_bytes() == before and not (folder / ORIGINAL_HEAD).exists()
    assert hf_focal.from_pretrained(folder).config.calibration["folded"]


def test_networks_of_timm_and_of_ours_fold_by_the_names_that_these_give(tmp_path, no_model):
    names = [str(index) for index in range(5)]
    folders = []
    for network in ("test_vit", "cifar_resnet8"):
        model, _ = create_image_classifier(network, names, from_scratch=True, image_size=32)
        put_in_config(model, RECORDS["temperature"])
        folder = tmp_path / network
        model.save_pretrained(folder)
        folders.append((folder, as_in_memory(folder, tmp_path / f"{network}-folded")))
    no_model()
    for folder, theirs in folders:
        fold_checkpoint(folder)
        assert_same(folder, theirs)


def test_of_the_weights_the_head_alone_is_read(tmp_path, monkeypatch):
    folder = saved(tmp_path / "model", RECORDS["temperature"])
    read = []

    class Watched:
        def __init__(self, path, framework):
            self.file = safe_open(path, framework)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def get_tensor(self, key):
            read.append(key)
            return self.file.get_tensor(key)

        def __getattr__(self, name):
            return getattr(self.file, name)

    monkeypatch.setattr(saved_checkpoints, "safe_open", Watched)
    fold_checkpoint(folder)
    assert sorted(read) == ["classifier.bias", "classifier.weight"]


# ---- What is refused ------------------------------------------------------------------------------------------------


def refused(folder, message, error=ValueError):
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(error, match=message):
        fold_checkpoint(folder)
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def edit(folder, **entries):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


def test_folders_that_hold_no_model_to_change_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no folder.*snapshot_download"):
        fold_checkpoint("user/model")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no model: there is no config.json")
    folder = saved(tmp_path / "model", RECORDS["temperature"])
    cached = tmp_path / "hub" / "snapshots" / "0" / ""
    shutil.copytree(folder, cached)
    refused(cached, "download in the cache")
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "holds an adapter")
    (folder / "adapter_config.json").unlink()
    edit(folder, calibration=None)
    refused(folder, "never calibrated")
    edit(folder, calibration={"temperature": "warm", "folded": False})
    refused(folder, "temperature")


def test_weights_that_are_missing_broken_or_quantised_are_refused(tmp_path):
    folder = saved(tmp_path / "model", RECORDS["temperature"])
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "elsewhere")
    refused(folder, "holds no weights in safetensors.*Load it by hf_focal.from_pretrained")
    (folder / "model.safetensors").write_bytes(b"\x10")
    refused(folder, "broken")
    save_file({**whole, "classifier.weight": whole["classifier.weight"].to(torch.int8)}, folder / "model.safetensors")
    refused(folder, "classifier.weight is of torch.int8: the weights are quantised")
    save_file(whole, folder / "model.safetensors")
    edit(folder, quantization_config={"load_in_8bit": True, "quant_method": "bitsandbytes"})
    refused(folder, "are quantised")


def test_heads_that_are_not_the_records_or_unknown_are_refused(tmp_path):
    folder = saved(tmp_path / "model", RECORDS["temperature"])
    whole = load_file(folder / "model.safetensors")
    save_file({**whole, "classifier.weight": whole["classifier.weight"] + 1}, folder / "model.safetensors")
    refused(folder, "of another head than the one there: its weights are others")
    other = {key.replace("classifier", "projection"): value for key, value in whole.items()}
    save_file(other, folder / "model.safetensors")
    refused(folder, "not known by its name.*projection", hf_focal.UnfoldableError)
    save_file(whole, folder / "model.safetensors")
    edit(folder, architectures=["MyBertForSequenceClassification"])
    refused(folder, "names MyBertForSequenceClassification, no classifier of transformers")
    edit(folder, architectures=["BertForTokenClassification"])
    refused(folder, "model \\*ForSequenceClassification, and this is BertForTokenClassification")


def test_maps_that_the_head_cannot_do_are_refused_and_the_folder_stays(tmp_path):
    folder = saved(tmp_path / "focal", {"method": "focal", "gamma": 2.0, "temperature": 1.0})
    refused(folder, "fold", hf_focal.UnfoldableError)
    folder, large = tmp_path / "small", build("bert")
    with torch.no_grad():
        large.classifier.weight.mul_(1e4)
    put_in_config(large.half(), {"method": "temperature", "temperature": 0.001})
    large.save_pretrained(folder)
    refused(folder, "cannot hold the numbers", hf_focal.UnfoldableError)
    folder = saved(tmp_path / "masked", RECORDS["matrix"])
    edit(folder, masked_classes=["LABEL_1"])
    refused(folder, "mixes classes into BertForSequenceClassification, some of whose classes are masked")
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20, num_labels=5, pad_token_id=0)
    model = transformers.GPT2ForSequenceClassification(config)
    put_in_config(model, RECORDS["vector"])
    model.save_pretrained(tmp_path / "gpt")
    refused(tmp_path / "gpt", "no bias, which a shift needs", hf_focal.UnfoldableError)


def test_two_heads_take_a_temperature_and_nothing_more(tmp_path):
    config = transformers.DeiTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16, patch_size=8
    )
    config.num_labels = 5
    model = transformers.DeiTForImageClassificationWithTeacher(config)
    put_in_config(model, RECORDS["temperature"])
    model.save_pretrained(tmp_path / "ours")
    as_in_memory(tmp_path / "ours", tmp_path / "theirs")
    fold_checkpoint(tmp_path / "ours")
    assert_same(tmp_path / "ours", tmp_path / "theirs")
    put_in_config(model, RECORDS["vector"])
    model.save_pretrained(tmp_path / "vector")
    refused(tmp_path / "vector", "come of 2 heads, cls_classifier, distillation_classifier", hf_focal.UnfoldableError)


def test_other_weights_beside_are_named(tmp_path, caplog):
    folder = saved(tmp_path / "model", RECORDS["temperature"])
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    with caplog.at_level(logging.WARNING, logger="hf_focal"):
        fold_checkpoint(folder)
    assert "safetensors of" in caplog.text and "pytorch_model.bin" in caplog.text


def test_one_that_dies_leaves_the_old_files_or_the_new(tmp_path, monkeypatch):
    """At every step of putting the files in place."""
    whole = saved(tmp_path / "whole", RECORDS["temperature"], max_shard_size="8KB")
    old = weights(whole)
    moves, rename = [0], Path.rename

    class Killed(BaseException):
        pass

    def fold(folder, after):
        shutil.copytree(whole, folder)
        moves[0] = 0

        def counted(*args, real):
            moves[0] += 1
            if moves[0] > after:
                raise Killed
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(replacing.os, "replace", lambda *args, real=replacing.os.replace: counted(*args, real=real))
            patch.setattr(Path, "rename", lambda *args: counted(*args, real=rename))
            try:
                fold_checkpoint(folder)
            except Killed:
                return False
        return True

    states = set()
    for after in range(20):
        folder = tmp_path / str(after)
        finished = fold(folder, after)
        model = hf_focal.from_pretrained(folder)  # which puts in place what is to be
        folded, state = model.config.calibration["folded"], weights(folder)
        assert torch.equal(state["classifier.weight"], old["classifier.weight"]) == (not folded)
        states.add((folded, finished))
        if finished:
            break
    assert states == {(False, False), (True, False), (True, True)}


# ---- Families -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_family_that_folds_in_memory_folds_on_disk_alike(tmp_path):
    import test_families as families

    record = {"method": "temperature", "temperature": 2.6}
    transformer = [(name, families.transformers_model) for name in families.TRANSFORMERS]
    for name, make in [*transformer, *((name, families.timm_model) for name in families.TIMM)]:
        model = make(name)
        calibrator = put_in_config(model, record)
        model.save_pretrained(tmp_path / "ours")
        fold_calibrator(model, calibrator, inputs=families.inputs_for(model))
        model.save_pretrained(tmp_path / "theirs")
        fold_checkpoint(tmp_path / "ours")
        one, other = weights(tmp_path / "ours"), weights(tmp_path / "theirs")
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), name
        shutil.rmtree(tmp_path / "ours")
        shutil.rmtree(tmp_path / "theirs")
