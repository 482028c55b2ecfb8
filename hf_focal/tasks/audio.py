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
from .multi_label import multi_hot
from .rows import NamedRows
from .sounds import has_torchcodec, waveform


logger = logging.getLogger(__name__)


def _is_sound(feature: Any) -> bool:
    """Recordings, waveforms of numbers, or `{"array": waveform, "sampling_rate": rate}`."""
    waveform = feature.get("array") if isinstance(feature, Mapping) else feature
    number = getattr(waveform, "feature", None)
    return isinstance(feature, Audio) or str(getattr(number, "dtype", "")).startswith("float")


@register_task
class AudioClassification(Task):
    """
    Sounds with a class each. Recordings are brought to the sampling rate of the model: torchcodec decodes them, or
    without it SciPy, if they are WAV files, and soundfile. Waveforms that come as numbers have to be of that rate.
    """

    name = "audio-classification"
    suffix = "ForAudioClassification"
    models = tuple(MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES.values())  # most are called after sequences
    auto_class = AutoModelForAudioClassification
    processor = "feature_extractor"
    input = Column("audio", "sounds", _is_sound, ("audio", "sound", "speech", "waveform"))
    example = "sound.wav"
    card_note = (
        'The pipeline reads files by FFmpeg, and takes `{"raw": waveform, "sampling_rate": rate}` as well; a waveform '
        "alone has to be of the model's rate."
    )

    def check_inputs(self, data: Dataset, split: str, column: str) -> Dataset:
        if not _is_sound(feature := data.features[column]):
            raise ValueError(f"The column {column!r} of the split {split!r} must hold sounds: {feature}.")
        return data

    def encode(self, data: Dataset, processor: Any, longest: int | None = None) -> NamedRows:
        """As [`Task.encode`]; of a sound of more than `longest` samples so many, drawn anywhere in it each time."""
        data, feature = multi_hot(data), data.features["audio"]
        if isinstance(feature, Audio):
            how = {"sampling_rate": processor.sampling_rate} if has_torchcodec() else {"decode": False}
            data = data.cast_column("audio", Audio(**how))
        elif not isinstance(feature, Mapping):
            logger.warning("The waveforms have no sampling rate: it is taken for %d Hz.", processor.sampling_rate)
        return NamedRows(data.with_transform(partial(_inputs, processor, longest=longest)), "sound")

    def sample_encoder(self, processor: Any, longest: int | None = None) -> Callable[[Any, Any, Any], dict[str, Any]]:
        def encode(sound: Any, label: int, generator: Any) -> dict[str, Any]:
            inputs = _inputs(processor, {"audio": [sound], "label": [label]}, longest, generator)
            return {key: value[0] for key, value in inputs.items()}

        return encode

    def size(self, processor: Any) -> str:
        return f"sounds of {processor.sampling_rate:,} samples a second"

    def collator(self, processor: Any) -> Callable[[list[Any]], Any]:
        return partial(processor.pad, return_tensors="pt")

    def alone(self, model: PreTrainedModel, processor: Any) -> bool:
        rate, name = processor.sampling_rate, processor.model_input_names[0]
        noise = np.random.default_rng(0).normal(size=rate).astype(np.float32)
        lengths = {len(processor(sound, sampling_rate=rate)[name][0]) for sound in (noise, noise[: rate // 2])}
        masked = processor.return_attention_mask and getattr(model.config, "feat_extract_norm", "") != "group"
        return len(lengths) > 1 and not masked  # others cut and fill all sounds to one length themselves

    def probe(self, model: PreTrainedModel) -> dict[str, torch.Tensor] | None:
        config, name = model.config, model.main_input_name
        generator = torch.Generator().manual_seed(0)
        bins = getattr(config, "num_mel_bins", getattr(config, "feature_projection_input_dim", None))
        if bins is None:
            return {name: torch.randn(1, 16_000, generator=generator)} if name == "input_values" else None
        if hasattr(config, "max_source_positions"):  # Whisper, which halves the length
            return {name: torch.randn(1, bins, 2 * config.max_source_positions, generator=generator)}
        return {name: torch.randn(1, getattr(config, "max_length", None) or 100, bins, generator=generator)}


def _inputs(
    processor: Any, batch: Mapping[str, list[Any]], longest: int | None = None,
    generator: np.random.Generator | None = None,
) -> dict[str, Any]:  # fmt: skip
    rate = processor.sampling_rate
    waveforms = [waveform(sound, rate) for sound in batch["audio"]]
    if channels := [samples.shape for samples in waveforms if samples.ndim != 1]:
        raise ValueError(f"a waveform must be one row of numbers, got the shape {channels[0]}: mix its channels")
    if not all(len(samples) and np.all(np.isfinite(samples)) for samples in waveforms):
        raise ValueError("the waveform is empty, or holds NaN or infinity")
    if longest is not None:
        generator = generator or np.random.default_rng(int(torch.randint(2**62, ())))
        waveforms = [_part(samples, longest, generator) for samples in waveforms]
    return {**processor(waveforms, sampling_rate=rate), "labels": batch["label"]}


def _part(samples: np.ndarray, longest: int, generator: np.random.Generator) -> np.ndarray:
    """At most so many samples in a row, anywhere in a waveform."""
    start = generator.integers(max(0, len(samples) - longest) + 1)
    return samples[start : start + longest]
