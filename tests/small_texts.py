# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Sentences of a few words, data sets of them in files, and a small model saved to a folder."""

import numpy as np
from datasets import Dataset

from hf_focal.tasks.text import train_tokenizer


WORDS = "a fine film with no plot and every joke a bore but what a cast".split()


SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def sentences(count, seed=0):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(1, 9))) for _ in range(count)]


def rows(count, labels=("bad", "good"), **columns):
    return {"text": sentences(count), "label": [labels[i % len(labels)] for i in range(count)], **columns}


def write(folder, kind="csv", **splits):
    for split, columns in splits.items():
        data = Dataset.from_dict(columns)
        getattr(data, f"to_{kind}")(str(folder / f"{split}.{'jsonl' if kind == 'json' else kind}"))
    return str(folder)


def checkpoint(folder, config, **special):
    """A folder with a config and a tokenizer, as of a foreign model."""
    tokenizer = train_tokenizer(sentences(50))
    for name, value in special.items():
        setattr(tokenizer, name, value)
        if name == "padding_side":  # which is not saved otherwise
            tokenizer.init_kwargs[name] = value
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder), tokenizer
