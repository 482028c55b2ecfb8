# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Files of a checkpoint that were copied by half, or are not what their names say, and a disk that is full: named."""

from __future__ import annotations

import errno
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open


# As transformers looks for them; an index names the files that the weights are in.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# What is read besides. Of other files, such as notes of somebody's, nothing is asked.
_READ = (
    "config.json", "*_config.json", "*.index.json", "tokenizer.json", "vocab.json", "added_tokens.json",
    "special_tokens_map.json", "calibration.json", "*.model", "*.safetensors", "pytorch_model*.bin",
)  # fmt: skip
# What libraries say where a disk, or what somebody may have of it, is full; PyTorch gives no number.
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SAY_FULL = re.compile("No space left on device|Disk quota exceeded|PytorchStreamWriter failed|unexpected pos")
_MAPPINGS = ("config.json", ".index.json", "tokenizer.json")


def check_weights(folder: Path) -> None:
    """
    Look at the weights that `from_pretrained` would read from a folder before any are.

    Raises:
        ValueError: If a file of them is broken or missing; the message names it.
    """
    first = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    for path in [first, folder / "adapter_model.safetensors"]:
        if path is None or not path.is_file():
            continue
        _refuse(path)
        if path.suffix == ".json":
            for shard in sorted({*json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()}):
                if not (folder / shard).is_file():
                    raise ValueError(f"{path.name} of {folder} names {shard}, which is not there: copy it, too.")
                _refuse(folder / shard)


@contextmanager
def explained(folder: str | Path) -> Iterator[None]:
    """Where something goes wrong with a folder, and a file in it is broken, that is the error."""
    try:
        yield
    except Exception as error:
        for path in sorted({path for name in _READ for path in Path(folder).glob(name)}):
            if found := broken(path):
                raise ValueError(found) from error
        if isinstance(error, RecursionError):
            raise ValueError(f"What a file of {folder} holds is nested too deep.") from None
        raise


@contextmanager
def room(place: str | Path, mend: str = "do it again") -> Iterator[None]:
    """
    Where a file or folder is written: a disk that is full is an `OSError` of one sentence, whatever library met it.

    Args:
        place (`str` or `Path`):
            What is written.
        mend (`str`, *optional*):
            What to do once there is room.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if getattr(error, "errno", None) not in _FULL and not _SAY_FULL.search(str(error)):
            raise
        raise OSError(f"The disk is full: {place} could not be written. Make room, and {mend}.") from error


def _refuse(path: Path) -> None:
    if found := broken(path):
        raise ValueError(found)


def broken(path: Path) -> str | None:
    """A sentence that says what is wrong with a file, by its name and content; `None` where nothing is."""
    with path.open("rb") as file:
        start = file.read(64)
    why = "it is empty" if not start else None
    if start.startswith(b"version https://git-lfs"):
        return f"{path} holds but a pointer of git-lfs, not the file itself: fetch it, as by `git lfs pull`."
    if start and path.suffix == ".json":
        why = _broken_json(path)
    elif start and path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            why = f"it does not hold what it says that it holds ({error})"
    elif start and path.suffix == ".bin":  # a zip archive of pickles, or one pickle
        if start.startswith(b"PK") and not zipfile.is_zipfile(path):
            why = "its end is missing"
        elif not start.startswith((b"PK", b"\x80")):
            why = "it holds no weights"
    return None if why is None else f"{path} is broken: {why}. Was it copied or downloaded by half? Do it again."


def _broken_json(path: Path) -> str | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        return f"it is not in UTF-8 ({error.reason} at byte {error.start})"
    except RecursionError:
        return "it is nested too deep"
    except json.JSONDecodeError as error:
        return f"it is no JSON ({error})"
    if path.name.endswith(_MAPPINGS) and not isinstance(values, dict):
        return f"it must hold a mapping, got {type(values).__name__}"
    if path.name.endswith(".index.json") and not isinstance(values.get("weight_map"), dict):
        return "it is no index: it lacks 'weight_map'"
    return None
