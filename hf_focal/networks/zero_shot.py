# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Image-text models of two towers (CLIP, SigLIP) as classifiers of images: the features of the texts of some labels are
computed once, and the logits are `exp(logit_scale)` times their product with those of an image, plus `logit_bias`. A
CLIP has a softmax over the labels, and a SigLIP a sigmoid of each: it is a head of several labels a sample.
"""

from __future__ import annotations

import functools
import inspect
import reprlib
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput


TEMPLATE = "This is a photo of {}."  # that of the pipeline of transformers
SCALE, BIAS = "logit_scale", "logit_bias"  # the two numbers of a model
_FEATURES, _KNOWN = "_zero_shot_features", "_zero_shot"  # a buffer that is not saved, and an attribute
_PROMPTS = 256  # that are encoded at a time
_SIGLIP_LENGTH = 64  # tokens, as the pipeline pads and cuts
_IMAGE_INPUTS = "pixel_values", "pixel_attention_mask", "spatial_shapes"


@dataclass(frozen=True)
class Choice:
    """What a model chooses from: labels, and the template that makes texts of them."""

    candidate_labels: tuple[str, ...]
    hypothesis_template: str = TEMPLATE

    @property
    def prompts(self) -> list[str]:
        return [self.hypothesis_template.format(label) for label in self.candidate_labels]


def make_choice(candidate_labels: Any, hypothesis_template: Any = TEMPLATE) -> Choice:
    """Labels and template, or a `ValueError` that says what is wrong with them."""
    check_template(hypothesis_template)
    if isinstance(candidate_labels, str | bytes) or not isinstance(candidate_labels, Iterable):
        raise ValueError(f"candidate_labels must be a list of labels, got {candidate_labels!r}.")
    labels = tuple(candidate_labels)
    if wrong := [one for one in labels if not isinstance(one, str) or not one.strip()]:
        raise ValueError(f"candidate_labels must be words, got {wrong[0]!r} among them.")
    if len(labels) < 2:
        raise ValueError(f"A classifier needs at least two candidate_labels, got {list(labels)}.")
    counts = Counter(one.strip().casefold() for one in labels)
    if twice := [one for one, count in counts.items() if count > 1]:
        raise ValueError(
            f"candidate_labels holds {', '.join(map(repr, twice[:5]))} more than once (capitals count for nothing): "
            "name each label once."
        )
    return Choice(labels, hypothesis_template)


def check_template(template: Any) -> str:
    """The template, if labels can be put into it, or a `ValueError`."""
    needed = f"hypothesis_template must hold {{}} once, where the label goes, such as {TEMPLATE!r}"
    try:
        places = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{needed}, got {template!r}.") from error
    if places not in ([""], ["0"]):
        raise ValueError(f"{needed}, got {template!r}.")
    return template


def has_scale(model: Any) -> bool:
    """Whether it is an image-text model whose scores one number of its own multiplies."""
    own = getattr(model, "_parameters", {})
    return SCALE in own and hasattr(model, "get_image_features") and hasattr(model, "get_text_features")


def has_sigmoids(model: Any) -> bool:
    """Whether its scores become probabilities by a sigmoid each, as the pipeline of transformers has it."""
    return has_scale(model) and "siglip" in model.config.model_type


def choice_of(model: Any) -> Choice | None:
    """The labels that [`zero_shot_classifier`] gave a model; `None` where it did not."""
    return getattr(model, _KNOWN, None)


@torch.no_grad()
def zero_shot_classifier(
    model: PreTrainedModel, processor: Any, candidate_labels: Sequence[str], hypothesis_template: str = TEMPLATE
) -> PreTrainedModel:
    """
    Let an image-text model (CLIP, SigLIP) classify images: called with images alone it gives the logits of these
    labels, as the pipeline `zero-shot-image-classification` of transformers has them. The features of their texts are
    computed here, once. What is saved is the model as it was.

    A SigLIP, whose scores are sigmoids, becomes a classifier of several labels a sample, with
    `config.problem_type="multi_label_classification"`: labels of data are 1 where one fits the image, 0 where it does
    not, and -100 where that is not known. Where they are the index of a class a sample, no other label fits.

    Args:
        model (`transformers.PreTrainedModel`):
            Such as [`from_pretrained`] gives; changed in place. It can be called again, with other labels.
        processor (`transformers.ProcessorMixin` or a tokenizer):
            What makes tokens of the texts.
        candidate_labels (`Sequence[str]`):
            The labels to choose from, such as `["cat", "dog"]`.
        hypothesis_template (`str`, *optional*, defaults to `"This is a photo of {}."`):
            What makes texts of them, as in the pipeline.

    Returns:
        `transformers.PreTrainedModel`: The same model, whose `config.id2label` are these labels.

    Raises:
        ValueError: If the model has no `logit_scale` that multiplies its scores, the template has no `{}`, labels are
            fewer than two or not all different, or a text is too long.
    """
    name = type(model).__name__
    if not has_scale(model):
        raise ValueError(
            f"{name} has no logit_scale of its own, beside towers for images and texts, to calibrate: needed is a "
            "model such as CLIP, SigLIP, AltCLIP, Chinese-CLIP or MetaCLIP."
        )
    choice = make_choice(candidate_labels, hypothesis_template)
    tokens = _tokens(model, getattr(processor, "tokenizer", processor), choice)
    training = model.training
    model.eval()
    try:
        features = torch.cat([_texts(model, part) for part in _parts(tokens, len(choice.candidate_labels))])
        _prove(model, tokens, features)
    finally:
        model.train(training)
    model.register_buffer(_FEATURES, features, persistent=False)
    setattr(model, _KNOWN, choice)
    model.config.id2label = dict(enumerate(choice.candidate_labels))
    model.config.label2id = {label: index for index, label in enumerate(choice.candidate_labels)}
    if has_sigmoids(model):
        model.config.problem_type = "multi_label_classification"
    model.forward = functools.partial(_forward, model)
    return model


def _tokens(model: Any, tokenizer: Any, choice: Choice) -> dict[str, Tensor]:
    """The texts as the pipeline makes tokens of them."""
    options: dict[str, Any] = {"padding": True}
    if has_sigmoids(model):
        options = {"padding": "max_length", "max_length": _SIGLIP_LENGTH, "truncation": True}
    tokens = dict(tokenizer(choice.prompts, return_tensors="pt", **options))
    ids, most = tokens["input_ids"], getattr(model.config.text_config, "max_position_embeddings", None)
    if most is not None and ids.shape[1] > most:
        lengths = [len(tokenizer(text)["input_ids"]) for text in choice.prompts]
        longest = choice.prompts[max(range(len(lengths)), key=lengths.__getitem__)]
        raise ValueError(
            f"A text may have {most} tokens, and these have up to {ids.shape[1]}, such as {reprlib.repr(longest)}: "
            "shorten the label or the template."
        )
    first: dict[tuple[int, ...], str] = {}
    for label, row in zip(choice.candidate_labels, ids.tolist(), strict=True):
        if (other := first.setdefault(tuple(row), label)) != label:
            raise ValueError(
                f"The labels {other!r} and {label!r} are the same tokens to this tokenizer, so that the model cannot "
                "tell one from the other: name one of them otherwise."
            )
    taken = inspect.signature(model.get_text_features).parameters
    return {name: one.to(model.device) for name, one in tokens.items() if name in taken}


def _prove(model: Any, tokens: dict[str, Tensor], features: Tensor) -> None:
    """Refuse a model whose own scores are others than these features give."""
    images, some = probe_images(model), {name: one[:2] for name, one in tokens.items()}
    expected = type(model).forward(model, **some, **images).logits_per_image
    off = float((_scores(model, features[:2], images) - expected).abs().max())
    if not off <= max(1e-4, 8 * torch.finfo(expected.dtype).eps) * float(expected.abs().max()):
        raise ValueError(
            f"The scores of {type(model).__name__} are no product of features of images and texts by its logit_scale: "
            f"they are off by {off:g}, so that its texts cannot be encoded beforehand."
        )


def probe_images(model: Any) -> dict[str, Tensor]:
    """Two images of noise, as the model takes them."""
    vision, generator = model.config.vision_config, torch.Generator().manual_seed(0)
    channels = getattr(vision, "num_channels", 3)
    if "spatial_shapes" in inspect.signature(type(model).get_image_features).parameters:  # cut into patches beforehand
        sizes = {"pixel_attention_mask": torch.ones(2, 4).long(), "spatial_shapes": torch.full((2, 2), 2)}
        found = {"pixel_values": torch.randn(2, 4, channels * vision.patch_size**2, generator=generator), **sizes}
    else:
        size = getattr(vision, "image_size", None) or 224
        height, width = (size, size) if isinstance(size, int) else size
        found = {"pixel_values": torch.randn(2, channels, height, width, generator=generator)}
    dtypes = {name: model.dtype if one.is_floating_point() else one.dtype for name, one in found.items()}
    return {name: one.to(model.device, dtypes[name]) for name, one in found.items()}


def probe_batch(model: Any) -> dict[str, Tensor]:
    """The same with three texts of eight tokens."""
    vocabulary = model.config.text_config.vocab_size
    tokens = torch.randint(0, vocabulary, (3, 8), generator=torch.Generator().manual_seed(0)).to(model.device)
    return {**probe_images(model), "input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def _parts(tokens: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    starts = range(0, count, _PROMPTS)
    return [{name: one[start : start + _PROMPTS] for name, one in tokens.items()} for start in starts]


def _texts(model: Any, tokens: dict[str, Tensor]) -> Tensor:
    return _normalized(model.get_text_features(**tokens))


def _normalized(found: Any) -> Tensor:
    """Features of length 1."""
    features = found if isinstance(found, Tensor) else found.pooler_output
    return features / features.norm(p=2, dim=-1, keepdim=True)


def _forward(
    model: Any, input_ids: Tensor | None = None, pixel_values: Tensor | None = None,
    pixel_attention_mask: Tensor | None = None, spatial_shapes: Tensor | None = None, **kwargs: Any,
) -> Any:  # fmt: skip
    """As the model's own with texts; of images alone the logits of the labels that it was given."""
    given = zip(_IMAGE_INPUTS, (pixel_values, pixel_attention_mask, spatial_shapes), strict=True)
    images = {name: one for name, one in given if one is not None}
    if input_ids is not None or pixel_values is None:
        return type(model).forward(model, input_ids=input_ids, **images, **kwargs)
    kwargs.pop("return_dict", None)
    return ImageClassifierOutput(logits=_scores(model, getattr(model, _FEATURES), images, **kwargs))


def _scores(model: Any, texts: Tensor, images: dict[str, Tensor], **kwargs: Any) -> Tensor:
    """Of each image and text, in the order of the models themselves, so that the last digit is theirs."""
    features = _normalized(model.get_image_features(**images, **kwargs))
    scores = (texts.to(features) @ features.t()) * model.logit_scale.exp().to(features.device)
    if (bias := getattr(model, BIAS, None)) is not None:
        scores = scores + bias.to(features.device)
    return scores.t()


def scores_of(outputs: Any) -> Tensor:
    """The score of each image and text in what a model gave, with the labels of [`zero_shot_classifier`] or not."""
    logits = getattr(outputs, "logits_per_image", None)
    return outputs.logits if logits is None else logits


def with_scores(outputs: Any, change: Any) -> Any:
    """What the model itself gives, with the scores of images and texts changed."""
    if isinstance(outputs, tuple):  # return_dict=False: the loss, a scalar, may come first
        first = 0 if outputs[0].dim() else 1
        return tuple(change(one) if first <= place < first + 2 else one for place, one in enumerate(outputs))
    for name in ("logits_per_image", "logits_per_text"):
        outputs[name] = change(outputs[name])
    return outputs


def one_hot(model: Any, labels: Tensor) -> Tensor:
    """For a classifier of sigmoids, indices of labels `(N,)` as what holds of each, `(N, L)`; others as they are."""
    choice = choice_of(model)
    if choice is None or not has_sigmoids(model) or labels.dim() != 1:
        return labels
    count, unknown = len(choice.candidate_labels), labels == -100
    if (wrong := ((labels < 0) | (labels >= count)) & ~unknown).any():
        raise ValueError(
            f"The model chooses from {count} candidate_labels, and the data have the label {labels[wrong][0].item()}: "
            "needed is the place of one of them, from 0."
        )
    holds = (labels[:, None] == torch.arange(count, device=labels.device)).long()
    return holds.masked_fill(unknown[:, None], -100)


def refuse_without_labels(model: nn.Module | None) -> None:
    """A classifier of images for given labels it is only by [`zero_shot_classifier`]."""
    if has_scale(model) and choice_of(model) is None:
        raise ValueError(
            f"{type(model).__name__} classifies images once it has labels: call hf_focal.zero_shot_classifier(model, "
            "processor, candidate_labels) first."
        )
