# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What the name of a checkpoint stands for, where it is neither here nor on the Hub."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers.utils import CONFIG_NAME, cached_file

from ..names import refuse_missing_folder, suggestion


_T = TypeVar("_T")


def look_up(name: str, ask: Callable[[], _T], others: Iterable[str] = ()) -> _T:
    """
    What `ask` finds of a checkpoint. An OSError says where it is neither a folder nor on the Hub, and which of the
    `others`, names that would do as well, is nearest.
    """
    refuse_missing_folder(name)
    try:
        return ask()
    except OSError as error:
        why = _what_is_missing(name, error.__cause__)
        if why is None:
            raise
    # With nothing behind it, for that is advice on ids and connections.
    raise OSError(f"{why}.{suggestion(name, others)}")


def find_config(name: str, others: Iterable[str] = (), **source: Any) -> None:
    """Find the config of a checkpoint before anything else of it is asked for; errors are those of [`look_up`]."""
    if look_up(name, lambda: cached_file(name, CONFIG_NAME, **source), others) is None:
        raise OSError(f"{name} holds no model: there is no {CONFIG_NAME} in it.")


def _what_is_missing(name: str, cause: BaseException | None) -> str | None:
    here = f"There is no folder {name!r} here"
    if Path(name).is_file():
        return f"{name} is a file, but a model is a folder"
    if isinstance(cause, HFValidationError):
        return f"{here}, and no model on the Hub can be called so"
    if isinstance(cause, RepositoryNotFoundError) and not isinstance(cause, GatedRepoError):
        return f"{here}, and the Hub has no such model (or it is private: log in with `hf auth login`)"
    if isinstance(cause, LocalEntryNotFoundError):
        return f"{here}, and it is not in the cache of the Hub, which cannot be asked"
    return None
