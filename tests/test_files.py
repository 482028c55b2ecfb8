# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints that were copied by half: the error names the file, whatever reads it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from hf_focal import create_text_classifier, from_pretrained, pipeline
from hf_focal.files import broken


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folders of the same model: one file of weights, several, and a pickle of tensors."""
    root = tmp_path_factory.mktemp("whole")
    model = BertForSequenceClassification(BertConfig(vocab_size=len(WORDS), **SIZES))
    for name, size in (("one", "1GB"), ("many", "2KB"), ("pickle", "1GB")):
        model.save_pretrained(root / name, max_shard_size=size)
        BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)}).save_pretrained(root / name)
    torch.save(model.state_dict(), root / "pickle" / "pytorch_model.bin")
    (root / "pickle" / "model.safetensors").unlink()
    return root


@pytest.fixture
def copy(whole, tmp_path):
    def make(kind):
        return shutil.copytree(whole / kind, tmp_path / kind)

    return make


def half(data):
    return data[: len(data) // 2]


READERS = {
    "from_pretrained": from_pretrained,
    "pipeline": lambda folder: pipeline(model=str(folder)),
    "create": lambda folder: create_text_classifier(str(folder), ["no", "yes"]),
}
SHARD, INDEX = "model-00002-of-", "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("kind", "file", "change", "why"),
    [
        ("one", "model.safetensors", half, "not hold what it says"),
        ("one", "model.safetensors", lambda data: data[:-4], "not hold what it says"),
        ("one", "model.safetensors", lambda data: b"", "it is empty"),
        ("one", "model.safetensors", lambda data: POINTER, "pointer of git-lfs"),
        ("many", SHARD, half, "not hold what it says"),
        ("many", SHARD, None, f"{INDEX} of .* names {SHARD}.*, which is not there"),
        ("many", INDEX, half, "it is no JSON"),
        ("many", INDEX, lambda data: b"{}", "lacks 'weight_map'"),
        ("pickle", "pytorch_model.bin", half, "its end is missing"),
        ("pickle", "pytorch_model.bin", lambda data: b"<html>", "holds no weights"),
        ("one", "config.json", half, "it is no JSON"),
        ("one", "config.json", lambda data: data.replace(b"{", b'{"caf\xe9": 1,', 1), "not in UTF-8"),
        ("one", "config.json", lambda data: b"[]", "must hold a mapping, got list"),
    ],
)
@pytest.mark.parametrize("reader", READERS)
def test_a_broken_file_is_named_by_whatever_reads_it(copy, reader, kind, file, change, why):
    folder = copy(kind)
    (path,) = (path for path in folder.iterdir() if path.name.startswith(file))
    path.unlink() if change is None else path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{path.name}.*{why}" if change else why):
        READERS[reader](folder)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("change", [half, lambda data: POINTER, lambda data: b"\xff\xfe" + data])
def test_a_broken_tokenizer_is_named(copy, file, change):
    path = copy("one") / file
    path.write_bytes(change(path.read_bytes()))
    for reader in ("pipeline", "create"):
        with pytest.raises(ValueError, match=file):
            READERS[reader](path.parent)


def test_whole_files_and_files_that_are_not_read_are_no_fault(copy):
    for kind in ("one", "many", "pickle"):
        folder = copy(kind)
        (folder / "notes.json").write_text("{")
        assert [path.name for path in sorted(folder.iterdir()) if broken(path)] == ["notes.json"]
        stale = folder / (INDEX if kind == "one" else "pytorch_model.bin.index.json")
        stale.write_text(json.dumps({"weight_map": {"a": "not-there.bin"}}))  # of which the weights need nothing
        assert pipeline(model=str(folder))("good")[0]["score"] > 0.5


def test_adapters_too(copy, tmp_path):
    peft = pytest.importorskip("peft")
    base = BertForSequenceClassification.from_pretrained(copy("one"))
    settings = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
    peft.get_peft_model(base, settings).save_pretrained(tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(half(weights.read_bytes()))
    with pytest.raises(ValueError, match="adapter_model.safetensors is broken"):
        from_pretrained(tmp_path / "adapter")


def test_an_error_of_another_kind_stays_what_it_is(copy):
    folder = copy("one")
    save_file({"other": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks weights of BertForSequenceClassification"):
        from_pretrained(folder)
