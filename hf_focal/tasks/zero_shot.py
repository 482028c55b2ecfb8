# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Images and a list of labels in words, from which image-text models such as CLIP and SigLIP choose."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset
from transformers import AutoModelForZeroShotImageClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES

from ..metrics.scored import SIGMOID
from ..networks.zero_shot import TEMPLATE, choice_of, has_sigmoids, make_choice, zero_shot_classifier
from .base import CardWords, Task, register_task
from .columns import RENAME
from .image import ImageClassification, prepare_image_processor
from .multi_label import multi_hot
from .rows import NamedRows
from .transforms import ImageTransform


logger = logging.getLogger(__name__)

_SHOWN = 12  # labels, in a line of a card


@register_task
class ZeroShotImageClassification(ImageClassification):
    """
    Images with a class each, by a model that is told the classes in words, see [`zero_shot_classifier`]: a softmax
    over these labels, or of a SigLIP a sigmoid of each.
    """

    name = "zero-shot-image-classification"
    suffix = "ForZeroShotImageClassification"
    models = tuple(MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES.values())
    auto_class: ClassVar[Any] = AutoModelForZeroShotImageClassification
    processor = "processor"
    parts = ("image_processor", "tokenizer")
    unit = "images"
    example_options = ', candidate_labels=["a cat", "a dog"]'
    batch = ""  # an export has two inputs
    one_class_tells = True
    why_these = "a zero-shot model has one logit_scale for all labels, and a SigLIP one logit_bias: there is nothing "
    why_these += "of a class to fold more into"
    untrained = "has no head to train: its calibration is all that is fitted here. To fine-tune it as a classifier of "
    untrained += "images, use create_image_classifier, which makes a head."

    @classmethod
    def calibrators(cls, model: Any) -> dict[str, dict[str, Any]]:
        return {"platt": {"shared": True}, "temperature": {}} if has_sigmoids(model) else {"temperature": {}}

    def class_names_for(
        self, model: PreTrainedModel, processor: Any, data_names: Sequence[str] | None,
        candidate_labels: Sequence[str] | None = None, hypothesis_template: str | None = None,
    ) -> list[str]:  # fmt: skip
        labels = candidate_labels or data_names
        if not labels:
            raise ValueError("The data do not name their classes: name the labels by --candidate_labels.")
        if not candidate_labels and all(one.isdecimal() for one in labels):
            raise ValueError(
                f"The classes of the data are numbers ({', '.join(labels[:5])}, ...), which tell a model nothing: "
                "name them in their order by --candidate_labels."
            )
        template = TEMPLATE if hypothesis_template is None else hypothesis_template
        zero_shot_classifier(model, processor, labels, template)
        choice: Any = choice_of(model)
        logger.info("Texts to choose from: %s", ", ".join(map(repr, choice.prompts[:3])) + ", ..." * (len(labels) > 3))
        return list(labels)

    def match_classes(self, data: Dataset, model_names: Sequence[str], sigmoid: bool = False) -> Dataset:
        try:
            return super().match_classes(data, model_names, sigmoid)
        except ValueError as error:
            mend = "Name each class of the data among --candidate_labels, or rename it in the data."
            raise ValueError(str(error).replace(RENAME, mend)) from error

    def prepare(self, model: PreTrainedModel, processor: Any, max_length: int | None = None) -> None:
        prepare_image_processor(model, processor.image_processor)

    def encode(self, data: Dataset, processor: Any) -> Any:
        images = processor.image_processor
        if images.model_input_names == ["pixel_values"]:
            return super().encode(data, images)
        return NamedRows(multi_hot(data).with_transform(partial(_inputs, images)), "image")

    def sample_encoder(self, processor: Any) -> Callable[[Any, Any, Any], dict[str, Any]]:
        images = processor.image_processor
        if images.model_input_names == ["pixel_values"]:
            return ImageTransform(images).sample
        return Task.sample_encoder(self, processor)

    def size(self, processor: Any) -> str:
        images = processor.image_processor
        return super().size(images) if images.model_input_names == ["pixel_values"] else ""

    def has_processor(self, config: Any, folder: str | Path) -> bool:
        files = ("processor_config.json", "preprocessor_config.json")
        return any(Path(folder, file).is_file() for file in files) and Path(folder, "tokenizer_config.json").is_file()

    def record_facts(self, model: Any) -> dict[str, Any]:
        choice = choice_of(model)
        if choice is None:
            return {}
        return {
            "candidate_labels": list(choice.candidate_labels),
            "hypothesis_template": choice.hypothesis_template,
        }

    @classmethod
    def card_words(cls, record: Mapping[str, Any]) -> CardWords:
        sigmoid = record.get("activation") == SIGMOID
        head = "`logit_scale` and `logit_bias`" if sigmoid else "`logit_scale`"
        try:
            choice = make_choice(record.get("candidate_labels"), record.get("hypothesis_template"))
        except ValueError:  # it is of no calibration with labels
            return CardWords(cls.example_options, "", "", head)
        labels, template = list(choice.candidate_labels), choice.hypothesis_template
        shown = json.dumps(labels, ensure_ascii=False)
        if len(labels) > _SHOWN:
            shown = 'classifier.model.config.calibration["candidate_labels"]'
        options = f", candidate_labels={shown}, hypothesis_template={json.dumps(template, ensure_ascii=False)}"
        of_each = (
            "A score is the probability that its label fits the image, each by a sigmoid of its own: the scores of an "
            "image need not add up to 1."
        )
        among = "The scores are a softmax over the labels that are given, and so those of one image add up to 1."
        note = of_each if sigmoid else among
        limit = (
            f"It was measured for {len(labels):,} labels in the template {template!r}. Other labels, more or fewer of "
            "them, or another template have other scores, for which nothing was measured: calibrate anew for them."
        )
        return CardWords(options, note, limit, head)


def _inputs(processor: Any, batch: Mapping[str, list[Any]]) -> dict[str, Any]:
    made = processor(images=[image.convert("RGB") for image in batch["image"]], return_tensors="pt")
    return {**made, "labels": batch["label"]}
