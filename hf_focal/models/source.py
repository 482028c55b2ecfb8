# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What the name of a checkpoint stands for, where it is neither here nor on the Hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers.utils import CONFIG_NAME, cached_file

from ..checks import refuse_missing_folder, suggestion


@contextmanager
def naming_source(name: str, others: Iterable[str] = ()) -> Iterator[None]:
    """Refuse a missing folder. Where the Hub does not give a model, say what was looked for; `others` are near names."""
    refuse_missing_folder(name)
    try:
        yield
    except OSError as error:
        cause = error.__cause__
        if Path(name).is_file():
            raise OSError(f"{name} is a file, but a model is a folder.") from error
        if name and Path(name).exists() or isinstance(cause, GatedRepoError):
            raise
        if isinstance(cause, HFValidationError):
            why = "no model on the Hub can be called so"
        elif isinstance(cause, RepositoryNotFoundError):
            why = "the Hub has no such model (or it is private: log in with `hf auth login`)"
        elif isinstance(cause, LocalEntryNotFoundError):
            why = "it is not in the cache of the Hub, which cannot be reached"
        else:
            raise
        raise OSError(f"There is no folder {name!r} here, and {why}.{suggestion(name, others)}") from error


def find_config(name: str, others: Iterable[str] = (), **source: Any) -> None:
    """Find the config of a checkpoint, on the Hub or in a folder, before anything else of it is asked for."""
    with naming_source(name, others):
        if cached_file(name, CONFIG_NAME, **source) is None:
            raise OSError(f"{name} holds no model: there is no {CONFIG_NAME} in it.")
