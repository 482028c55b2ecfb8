# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Image-text models with random weights, and processors with a tokenizer made here."""

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2Processor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

from hf_focal.tasks.text import train_tokenizer


CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TEMPLATE = "a photo of a {}."
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SIZE = {"height": 32, "width": 32}


def tokenizer():
    """One that knows these labels and the words of the templates, and ends each text as CLIP's does."""
    texts = [f"this is a photo of a {word} low middle high no." for word in CIFAR]
    return train_tokenizer(texts, 400)


def clip(scale=2.0, image_size=32):
    """A CLIP whose scores differ from label to label, and its processor."""
    side = {"height": image_size, "width": image_size}
    images = CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size=side)
    return _made(CLIPConfig, CLIPModel, CLIPProcessor, images, scale, image_size, projection_dim=16)


def siglip(scale=2.0):
    return _made(SiglipConfig, SiglipModel, SiglipProcessor, SiglipImageProcessor(size=SIZE), scale)


def siglip2(scale=2.0):
    images = Siglip2ImageProcessor(patch_size=16, max_num_patches=4)
    return _made(Siglip2Config, Siglip2Model, Siglip2Processor, images, scale)


def _made(config_class, model_class, processor_class, images, scale, image_size=32, **kwargs):
    torch.manual_seed(0)
    made = tokenizer()
    text = {**SIZES, "vocab_size": len(made), "max_position_embeddings": 64, "projection_size": 16}
    text |= {"eos_token_id": made.sep_token_id, "bos_token_id": made.cls_token_id, "pad_token_id": made.pad_token_id}
    vision = {**SIZES, "image_size": image_size, "patch_size": image_size // 2, "num_patches": 4}
    config = config_class(text_config=text, vision_config=vision, **kwargs)
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=_std(name))
        model.logit_scale.fill_(scale)
        if hasattr(model, "logit_bias"):
            model.logit_bias.fill_(-3.0)
    return model, processor_class(images, made)


def _std(name):
    """Weights by which one word of a text makes a difference."""
    if not name.startswith("text"):
        return 0.3
    return next(
        (std for part, std in {"q_proj": 0.02, "k_proj": 0.02, "mlp": 0.01, "position": 0.1}.items() if part in name),
        1.5,
    )


def pixels(count, seed=0, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def rows(inputs, labels):
    return [{"pixel_values": one, "labels": int(label)} for one, label in zip(inputs, labels, strict=True)]
