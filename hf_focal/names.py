# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Names that nothing has: the nearest that there is, and folders that are not there."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


def suggestion(name: object, names: Iterable[str], cutoff: float = 0.65) -> str:
    """A question for the end of an error: whether the nearest of the names is meant; nothing where none is near."""
    known = {one.lower(): one for one in names}
    near = get_close_matches(str(name).lower(), known, n=1, cutoff=cutoff)
    return f" Did you mean {known[near[0]]!r}?" if near else ""


def means_folder(name: str) -> bool:
    """Whether a name is a path; an id on the Hub is one word, or two with a slash between."""
    parts = name.split("/")
    return (
        name.startswith((".", "~"))
        or "\\" in name
        or "" in parts
        or len(parts) > 2
        or len(parts) == 2
        and Path(parts[0]).is_dir()
    )


def refuse_missing_folder(name: str | Path, on_hub: bool = True) -> None:
    """Refuse the name of a folder where there is nothing; what may be an id `on_hub` passes, unless it is a path."""
    path = Path(name)
    if path.exists() or on_hub and not means_folder(str(name)):
        return
    near = suggestion(path.name, (one.name for one in path.parent.iterdir()) if path.parent.is_dir() else ())
    if path.expanduser() != path and path.expanduser().exists():
        near = f" Did you mean {path.expanduser()}?"
    raise FileNotFoundError(f"There is no such folder: {name}.{near}")
