# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Sounds with a class each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Audio, Dataset
from transformers import AutoModelForAudioClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES

from .base import Task, register_task
from .columns import Column
from .rows import NamedRows


logger = logging.getLogger(__name__)


def _is_sound(feature: Any) -> bool:
    """Recordings, waveforms of numbers, or `{"array": waveform, "sampling_rate": rate}`."""
    waveform = feature.get("array") if isinstance(feature, Mapping) else feature
    number = getattr(waveform, "feature", None)
    return isinstance(feature, Audio) or str(getattr(number, "dtype", "")).startswith("float")


@register_task
class AudioClassification(Task):
    """
    Sounds with a class each. Recordings need torchcodec and are brought to the model's sampling rate; waveforms that
    come as numbers have to be of that rate.
    """

    name = "audio-classification"
    suffix = "ForAudioClassification"
    models = tuple(MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES.values())  # most are called after sequences
    auto_class = AutoModelForAudioClassification
    processor = "feature_extractor"
    input = Column("audio", "sounds", _is_sound, ("audio", "sound", "speech", "waveform"))
    example = "sound.wav"

    def check_inputs(self, data: Dataset, split: str, column: str) -> Dataset:
        if not _is_sound(feature := data.features[column]):
            raise ValueError(f"The column {column!r} of the split {split!r} must hold sounds: {feature}.")
        return data

    def encode(self, data: Dataset, processor: Any) -> NamedRows:
        feature = data.features["audio"]
        if isinstance(feature, Audio):
            data = data.cast_column("audio", Audio(sampling_rate=processor.sampling_rate))
        elif not isinstance(feature, Mapping):
            logger.warning("The waveforms have no sampling rate: it is taken for %d Hz.", processor.sampling_rate)
        return NamedRows(data.with_transform(partial(_inputs, processor)), "sound")

    def sample_encoder(self, processor: Any) -> Callable[[Any, Any, Any], dict[str, Any]]:
        def encode(sound: Any, label: int, _: Any) -> dict[str, Any]:
            return {key: value[0] for key, value in _inputs(processor, {"audio": [sound], "label": [label]}).items()}

        return encode

    def size(self, processor: Any) -> str:
        return f"sounds of {processor.sampling_rate:,} samples a second"

    def collator(self, processor: Any) -> Callable[[list[Any]], Any]:
        return partial(processor.pad, return_tensors="pt")

    def probe(self, model: PreTrainedModel) -> dict[str, torch.Tensor] | None:
        if model.main_input_name != "input_values" or hasattr(model.config, "num_mel_bins"):
            return None
        return {"input_values": torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))}  # a second or so


def _inputs(processor: Any, batch: Mapping[str, list[Any]]) -> dict[str, Any]:
    rate, waveforms = processor.sampling_rate, []
    for sound in batch["audio"]:
        if sound is None:
            raise ValueError("the cell is empty")
        plain = isinstance(sound, (list, np.ndarray))
        if not plain and sound["sampling_rate"] != rate:
            raise ValueError(f"A waveform has {sound['sampling_rate']} Hz, the model takes {rate}: resample the data.")
        waveforms.append(np.asarray(sound if plain else sound["array"], np.float32))
        if not len(waveforms[-1]) or not np.all(np.isfinite(waveforms[-1])):
            raise ValueError("the waveform is empty, or holds NaN or infinity")
    return {**processor(waveforms, sampling_rate=rate), "labels": batch["label"]}
