# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Decoders with a classification head: padding on either side, and the page of docs/ that trains an adapter of one."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from launching import blocks
from small_texts import SIZES, checkpoint, rows, write
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BioGptConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    OPTConfig,
    Qwen3Config,
    XLNetConfig,
)

from hf_focal import create_text_classifier, get_task


GPT = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 32}
HEADS = {**SIZES, "num_key_value_heads": 1}
DECODERS = {  # and the side that each pads on, if its tokenizer pads on the left
    "gpt2": (GPT2Config, GPT, "right"),
    "gpt-neo": (GPTNeoConfig, {"hidden_size": 8, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 32,
                               "attention_types": [[["global", "local"], 1]]}, "right"),
    "biogpt": (BioGptConfig, {**SIZES, "max_position_embeddings": 32}, "right"),
    "opt": (OPTConfig, {"hidden_size": 8, "ffn_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
                        "word_embed_proj_dim": 8, "max_position_embeddings": 32}, "left"),
    "llama": (LlamaConfig, HEADS, "left"),
    "qwen3": (Qwen3Config, {**HEADS, "head_dim": 4}, "left"),
    "xlnet": (XLNetConfig, {"d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8}, "left"),
}  # fmt: skip


def saved(folder, kind, auto_class=AutoModelForSequenceClassification, **options):
    cls, sizes, _ = DECODERS[kind]
    names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    config = cls(vocab_size=100, pad_token_id=None, bos_token_id=None, eos_token_id=None, **sizes, **names)
    checkpoint(folder, config, **options)
    torch.manual_seed(0)
    auto_class.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
@pytest.mark.parametrize("kind", DECODERS)
def test_a_text_is_answered_beside_longer_ones_as_it_is_alone(tmp_path, kind, task):
    token = task == "token-classification"
    if token and kind in ("opt", "llama", "biogpt"):
        pytest.skip("as the others")
    folder = saved(tmp_path, kind, AutoModelForTokenClassification if token else AutoModelForSequenceClassification,
                   padding_side="left")  # fmt: skip
    model, tokenizer = create_text_classifier(folder, ["bad", "good"], task=task)
    assert tokenizer.padding_side == DECODERS[kind][2] and not model.training
    tokenizer.save_pretrained(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again").padding_side == tokenizer.padding_side
    texts = ["a bore", "a fine film with no plot and every joke a bore"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        together = model(**batch).logits[0]
        alone = model(**tokenizer(texts[0], return_tensors="pt")).logits[0]
    kept = together[batch["attention_mask"][0].bool()] if token else together
    torch.testing.assert_close(kept, alone, atol=1e-5, rtol=1e-4)


def test_a_padding_token_that_only_the_tokenizer_lacks_is_the_models(tmp_path):
    folder = saved(tmp_path, "qwen3", pad_token=None, eos_token="[SEP]")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pad_token_id": 4}))
    model, tokenizer = create_text_classifier(folder, ["bad", "good"])
    assert tokenizer.pad_token_id == model.config.pad_token_id == 4


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoder_looks_for_the_padding_of_its_tokenizer(tmp_path, side, caplog):
    """Where its config names another one, it would answer from padding."""
    folder = saved(tmp_path, "qwen3", padding_side=side)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pad_token_id": 4}))
    model, tokenizer = create_text_classifier(folder, ["bad", "good"])
    batch = tokenizer(["a bore", "a fine film with no plot"], padding=True, return_tensors="pt")
    with torch.no_grad():
        alone = model(**tokenizer("a bore", return_tensors="pt")).logits[0]
        torch.testing.assert_close(model(**batch).logits[0], alone, atol=1e-5, rtol=1e-4)
    if side == "right":
        assert model.config.pad_token_id == tokenizer.pad_token_id == 0
        assert "Qwen3ForSequenceClassification looked for padding 4, but its tokenizer pads with 0" in caplog.text


def test_the_page_of_decoders_runs_from_top_to_bottom(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "llm", "qwen3")
    (tmp_path / "texts").mkdir()
    data = {split: rows(count) for split, count in (("train", 48), ("validation", 240), ("test", 40))}
    for columns in data.values():
        columns["label"] = ["good" if "fine" in text or "cast" in text else "bad" for text in columns["text"]]
    write(tmp_path / "texts", "csv", **data)
    snippets = "\n".join(blocks("python", [ROOT / "docs" / "decoders.md"]))
    assert snippets.count("path/to/llm") == snippets.count("path/to/texts") == 1
    snippets = snippets.replace("path/to/llm", str(tmp_path / "llm")).replace("path/to/texts", str(tmp_path / "texts"))
    snippets = snippets.replace(
        '"adapter", ', '"adapter", use_cpu=True, disable_tqdm=True, save_strategy="no", report_to="none", '
    )
    names = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(snippets, "decoders.md", "exec"), names)
    ours, stock = (json.loads(line.replace("'", '"')) for line in printed.getvalue().splitlines()[-2:])
    assert [one["label"] for one in ours] == [one["label"] for one in stock]
    assert np.allclose([one["score"] for one in ours], [one["score"] for one in stock], atol=1e-5)
    assert {path.name for path in (tmp_path / "adapter").iterdir()} >= {
        "adapter_model.safetensors",
        "calibration.json",
    }
    encoded = names["tokenizer"](names["texts"], padding=True, return_tensors="pt")
    with torch.no_grad():
        scores = names["lora"].merge_and_unload()(**encoded).logits.softmax(-1).max(dim=-1)[0]
    assert np.allclose(scores.numpy(), [one["score"] for one in stock], atol=1e-5)
    assert get_task("text-classification").unit == "samples"
