# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Sounds as they are stored: decoded by what is installed, and brought to the sampling rate of a model."""

from __future__ import annotations

import importlib
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Audio, ClassLabel, Dataset
from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder
from datasets.utils.file_utils import xopen
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import resample_poly


@cache
def has_torchcodec() -> bool:
    """Whether `datasets` can decode: torchcodec is there, with the libraries of FFmpeg that it needs."""
    try:
        importlib.import_module("torchcodec.decoders")
    except (ImportError, RuntimeError, OSError):
        return False
    return True


def sound_files(files: Mapping[str, Sequence[str]], split: str) -> Dataset:
    """
    The split of a folder of sound files as `datasets` makes it with torchcodec: the names of their folders are the
    classes. `files` are those of all splits.
    """
    if not all(Path(file).is_file() for file in files[split]):
        raise ValueError("to read sound files of the Hub, please install torchcodec (pip install torchcodec)")
    if any(Path(file).name in AudioFolder.METADATA_FILENAMES for file in files[split]):
        needs = "to read sound files with a file of metadata, please install torchcodec (pip install torchcodec)"
        raise ValueError(f"{needs}, or sort them into folders that are called after their classes")
    sounds = {one: [Path(file) for file in of_split if Path(file).suffix.lower() in AudioFolder.EXTENSIONS]
              for one, of_split in files.items()}  # fmt: skip
    every = [path for of_split in sounds.values() for path in of_split]
    names = sorted({path.parent.name for path in every})
    data = Dataset.from_dict({"audio": [str(path) for path in sounds[split]]}).cast_column("audio", Audio())
    if len(names) < 2 or len({len(path.parts) for path in every}) > 1:
        return data
    labels = [names.index(path.parent.name) for path in sounds[split]]
    return data.add_column("label", labels, feature=ClassLabel(names=names))


def waveform(sound: Any, rate: int) -> NDArray[np.float32]:
    """
    The samples of a sound at a rate: of numbers, of `{"array": numbers, "sampling_rate": rate}`, which must be of it,
    of a stored recording, or of one that `datasets` decodes.
    """
    if sound is None:
        raise ValueError("the cell is empty")
    if isinstance(sound, (list, np.ndarray)):
        return np.asarray(sound, np.float32)
    if isinstance(sound, Mapping) and "array" not in sound:
        return resampled(*_decoded(sound), rate)
    own, samples = int(sound["sampling_rate"]), np.asarray(sound["array"], np.float32)
    if isinstance(sound, Mapping) and own != rate:
        raise ValueError(f"A waveform has {own} Hz, the model takes {rate}: resample the data.")
    return resampled(samples, own, rate)


def resampled(samples: NDArray[np.float32], own: int, rate: int) -> NDArray[np.float32]:
    """Samples of one rate at another, by a polyphase filter that lets no frequency fold."""
    if own == rate:
        return samples
    common = math.gcd(own, rate)
    return resample_poly(samples, rate // common, own // common).astype(np.float32)


def _decoded(cell: Mapping[str, Any]) -> tuple[NDArray[np.float32], int]:
    """Samples of a stored recording, the mean of its channels, and their rate."""
    stored = cell["bytes"]
    if stored is None:
        with xopen(cell["path"], "rb") as file:
            stored = file.read()
    if stored[:4] in (b"RIFF", b"RIFX", b"RF64"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks that say who made it
            rate, samples = wavfile.read(io.BytesIO(stored))
        if samples.dtype.kind in "iu":
            middle = 2 ** (8 * samples.itemsize - 1)
            samples = (samples.astype(np.float64) - (middle if samples.dtype.kind == "u" else 0)) / middle
    else:
        try:
            soundfile: Any = importlib.import_module("soundfile")
        except (ImportError, OSError) as error:
            found = "it is no WAV file, and what reads others is not installed"
            raise ValueError(f"{found}: pip install torchcodec, with FFmpeg, or soundfile") from error
        samples, rate = soundfile.read(io.BytesIO(stored), dtype="float32")
    samples = samples.mean(axis=1) if samples.ndim > 1 else samples
    return samples.astype(np.float32), int(rate)
