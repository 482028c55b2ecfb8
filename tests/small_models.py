# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Models too small to learn much, samples that they take, and arguments to train them with."""

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PerceiverForImageClassificationLearned,
    PerceiverForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

import hf_focal
from hf_focal import CalibrationTrainingArguments


NUM_LABELS = 5


def vit():
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    config.num_labels = NUM_LABELS
    return ViTForImageClassification(config)


def bert():
    config = BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=NUM_LABELS,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def timm_vit():
    """A timm model without batch statistics, which would differ between micro-batches for reasons of their own."""
    names = [str(index) for index in range(NUM_LABELS)]
    model, _ = hf_focal.create_image_classifier("test_vit", names, from_scratch=True, image_size=32)
    return model


PERCEIVERS = [
    (PerceiverForImageClassificationLearned, {"image_size": 8}, 210),
    (PerceiverForSequenceClassification, {"vocab_size": 50, "max_position_embeddings": 8}, 1),
]


MODELS = {"vit": vit, "bert": bert, "timm": timm_vit}


def samples(kind, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, NUM_LABELS, (count,), generator=generator).tolist()
    if kind == "bert":
        inputs = torch.randint(0, 40, (count, 6), generator=generator)
        return [{"input_ids": row, "labels": label} for row, label in zip(inputs, labels, strict=True)]
    size = 16 if kind == "vit" else 32
    pixels = torch.randn(count, 3, size, size, generator=generator)
    return [{"pixel_values": row, "labels": label} for row, label in zip(pixels, labels, strict=True)]


def build(kind="vit", seed=0):
    torch.manual_seed(seed)
    return MODELS[kind]()


def arguments(folder, cls=CalibrationTrainingArguments, **kwargs):
    defaults = {
        "per_device_train_batch_size": 8, "num_train_epochs": 1, "learning_rate": 1e-2, "save_strategy": "no",
        "dataloader_pin_memory": False, "disable_tqdm": True, "use_cpu": True, "logging_strategy": "no",
    }  # fmt: skip
    return cls(str(folder), **{**defaults, **kwargs})


def flat(model):
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def without_head(record):
    """What a record says but for the fingerprint of the head it was fitted to, which must be there."""
    record = dict(record)
    assert record.pop("head")["modules"]
    return record


def data(kind, count, seed=0):
    return samples("timm" if kind == "cifar_resnet8" else kind, count, seed)


def padded(rows):
    """A batch of sentences with labels of words, as long as the longest."""
    longest = max(len(row["labels"]) for row in rows)
    fill = {"input_ids": 0, "labels": -100}
    batch = {
        name: torch.tensor([[*row[name], *[value] * (longest - len(row[name]))] for row in rows])
        for name, value in fill.items()
    }
    mask = [[1] * len(row["labels"]) + [0] * (longest - len(row["labels"])) for row in rows]
    return {**batch, "attention_mask": torch.tensor(mask)}
