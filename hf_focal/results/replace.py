# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
How files of a folder are replaced, so that whatever dies meanwhile leaves the old ones or the new ones.

They are written into `.saving-<kind>` and brought to the disk; that folder becomes `.saved-<kind>`, from where on the
new ones count. What they replace is removed, the mark of a finished run and the config first, so that nobody loads
half of it; the folder becomes `.moving-<kind>`; and its files move to their places, config and mark last.
[`mend_folder`] goes on wherever that was broken off.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME

from ..files import room
from ..models.original import ORIGINAL_HEAD
from ..models.record import ADAPTER_RECORD
from .dynamics_file import DYNAMICS
from .labels import BY_LABEL
from .lock import held


RESULTS = "all_results.json"
PREDICTIONS = "predictions.safetensors"
PICTURE = "reliability.png"
CARD = "README.md"
BEST = "best.json"  # in the folders of KeepBestCallback
UNFINISHED = ".unfinished"  # in the folder of a run, the one that is to replace it
SAVING, _SAVED, _MOVING, _REMOVED = ".saving-", ".saved-", ".moving-", ".removed-"
# In this order they are put in place, and in the other taken away.
_MARKS = (CONFIG_NAME, ADAPTER_CONFIG_NAME, RESULTS)

_MODEL = (
    *(CONFIG_NAME, "generation_config.json", ADAPTER_CONFIG_NAME, ADAPTER_RECORD, "training_args.bin"),
    *("model.safetensors", "model-?????-of-?????.safetensors", "model.safetensors.index.json"),
    *("adapter_model.safetensors", ORIGINAL_HEAD),
)
_RESULTS = (*_MODEL, RESULTS, PREDICTIONS, BY_LABEL, PICTURE, CARD)
_PROCESSORS = (
    *("preprocessor_config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"),
    *("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "chat_template.jinja"),
)


def is_checkpoint(path: Path) -> bool:
    """Whether a run wrote this folder as a checkpoint, by its name: `checkpoint-best` is somebody's own."""
    return re.fullmatch(r"checkpoint-\d+", path.name) is not None and path.is_dir()


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints in a folder, in the order of their steps."""
    found = filter(is_checkpoint, folder.glob("checkpoint-*"))
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def _named(*patterns: str) -> Callable[[Path], bool]:
    return lambda path: path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in patterns)


def of_a_run(path: Path) -> bool:
    """Whether a run of ours writes, or wrote, a file or folder of this name."""
    best = path.name.startswith("best-") and path.is_dir() and ((path / BEST).is_file() or path.suffix == ".tmp")
    return best or is_checkpoint(path) or path.name == UNFINISHED or _named(*_RESULTS, *_PROCESSORS, DYNAMICS)(path)


# What new files replace beside those of their own names.
_REPLACED: dict[str, Callable[[Path], bool]] = {
    "files": _named(),
    "card": _named(CARD, PICTURE),
    "model": _named(*_MODEL),
    "results": _named(*_RESULTS),
    "run": of_a_run,
}


@contextmanager
def replacing(folder: str | Path, kind: str, writes: bool = True) -> Iterator[Path]:
    """
    A folder to write files into, which replace those of `folder` once the context ends. If it ends in an error nothing
    is replaced.

    Args:
        folder (`str` or `Path`):
            Created if it is not there.
        kind (`str`):
            What goes beside files of the same names: `"files"` (nothing), `"card"`, `"model"`, `"results"` (with card
            and predictions; processors and tokenizers stay) or `"run"` (all that a run leaves).
        writes (`bool`, *optional*, defaults to `True`):
            Whether this is the process that writes; others get the name of the folder.

    Raises:
        OSError: If another process is writing into `folder`, or it cannot be written, as where the disk is full.
    """
    folder = Path(folder)
    staged = folder / f"{SAVING}{kind}"
    if not writes:
        yield staged
        return
    with room(folder, "do it again: what was there is as it was"), held(folder):
        _finish(folder)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        try:
            yield staged
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        _commit(folder, staged, kind)


def promote(folder: Path) -> None:
    """Put the run that is to replace the one in a folder into its place."""
    with held(folder):
        clean(folder / UNFINISHED)
        _commit(folder, folder / UNFINISHED, "run")


def _commit(folder: Path, written: Path, kind: str) -> None:
    _to_disk(written)
    written.rename(folder / f"{_SAVED}{kind}")
    _finish(folder)


def publish(written: Path, place: Path) -> None:
    """Move a folder that was written beside to its place, at once; one that is there is removed."""
    _to_disk(written)
    remove(place)
    written.rename(place)


def remove(path: Path) -> None:
    """Remove a file or folder. A folder is never seen half empty under its name."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    grave = path.with_name(f"{_REMOVED}{path.name}")
    shutil.rmtree(grave, ignore_errors=True)
    path.rename(grave)
    shutil.rmtree(grave)


def mend_folder(folder: str | Path) -> None:
    """
    Put in place what was written to its end in a folder, but not yet put there when its process died.

    Raises:
        OSError: If another process is at it and does not end soon, or the folder cannot be written.
    """
    folder, deadline = Path(folder), time.monotonic() + 10
    while any(_committed(folder)):
        try:
            with held(folder):
                _finish(folder)
        except BlockingIOError:  # who holds the lock is likely to be at it
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        except OSError as error:
            what = "was left half replaced by a run that died, and cannot be mended"
            raise OSError(f"{folder} {what}: {error}") from error


def clean(folder: Path) -> None:
    """[`mend_folder`], and remove what processes that died did not write to its end. The folder is to be locked."""
    _finish(folder)
    for path in (*folder.glob(f"{SAVING}*"), *folder.glob(f"{_REMOVED}*")):
        shutil.rmtree(path)
    unfinished = folder / UNFINISHED
    if unfinished.is_dir():
        clean(unfinished)
        if (unfinished / RESULTS).is_file():  # its mark, so that only the last step is missing
            _commit(folder, unfinished, "run")


def _committed(folder: Path) -> Iterator[Path]:
    for kind in _REPLACED:
        for stage in (_MOVING, _SAVED):
            if os.path.isdir(path := folder / f"{stage}{kind}"):  # the folder may be an id, or no name of a file
                yield path


def _finish(folder: Path) -> None:
    for committed in _committed(folder):
        stage, kind = committed.name.split("-")
        if f"{stage}-" == _SAVED:
            new = {path.name: path.is_dir() for path in committed.iterdir()}
            old = [path for path in folder.iterdir() if _REPLACED[kind](path) or new.get(path.name) is False]
            for path in sorted(old, key=_mark, reverse=True):
                remove(path)
            committed = committed.rename(folder / f"{_MOVING}{kind}")
        for path in sorted(committed.iterdir(), key=_mark):
            _move(path, folder / path.name)
        committed.rmdir()
        _directory_to_disk(folder)


def _mark(path: Path) -> int:
    return _MARKS.index(path.name) if path.name in _MARKS else -1


def _move(source: Path, target: Path) -> None:
    """Move a file or folder; what a folder of somebody's own holds beside it stays."""
    if not (source.is_dir() and target.is_dir()):
        os.replace(source, target)
        return
    for path in source.iterdir():
        _move(path, target / path.name)
    source.rmdir()


def _to_disk(folder: Path) -> None:
    """Bring a folder to the disk, its weights with the mode that files have."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with suppress(PermissionError), path.open("rb+") as file:  # it may be read-only
                os.fsync(file.fileno())
                if path.suffix == ".safetensors":  # which are made for their owner's eyes alone
                    path.chmod(mode)
        elif path.is_dir():
            _directory_to_disk(path)
    _directory_to_disk(folder)


def _directory_to_disk(folder: Path) -> None:
    with suppress(OSError):  # not of every system
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
