# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""One run a folder: a lock that its process holds, and that is gone with it."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)

_LOCK = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_held: dict[Path, tuple[int, int, list[Path]]] = {}  # folder to process, file, and the folders made for it


def hold(folder: Path) -> bool:
    """
    Lock a folder for this process, until [`release`] or its end, however it ends.

    The lock is one of POSIX records, which no child inherits: workers that outlive a killed process do not hold it. A
    file system without locks (some network mounts) gives none, and a warning.

    Args:
        folder (`Path`):
            What to lock, created if it is not there. The file `.lock` in it says who has it; it is removed with the
            lock, and so are folders that were created and are empty.

    Returns:
        `bool`: Whether it is new; a process may ask again for what it holds.

    Raises:
        OSError: If another process holds the lock, or no file can be written there.
    """
    folder = folder.resolve()
    if folder in _held and _held[folder][0] == os.getpid():  # not of the process that this one was forked from
        if (folder / _LOCK).is_file():
            return False
        release(folder)  # somebody removed it, as after an error in a notebook
    made = [one for one in (folder, *folder.parents) if not one.is_dir()]
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(file)
        except OSError as error:
            holder = os.read(file, 200).decode("utf-8", "replace") if sys.platform != "win32" else ""
            os.close(file)
            if error.errno in _UNSUPPORTED:
                logger.warning("%s lies where files cannot be locked: let no two runs write there at once.", folder)
                return False
            raise BlockingIOError(
                f"{folder} is being written by another run{f' ({holder})' if holder else ''}. Wait until it has "
                "ended, or give another --output_dir."
            ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(folder / _LOCK)):  # else its holder removed it meanwhile
                break
        os.close(file)
    os.truncate(file, 0)
    os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
    _held[folder] = os.getpid(), file, made
    return True


def release(folder: Path) -> None:
    """Give the lock of a folder back; one that this process does not hold is left alone."""
    process, file, made = _held.pop(folder.resolve(), (0, 0, []))
    if process != os.getpid():
        return
    with suppress(OSError):  # the folder may be gone, and Windows keeps files that are open
        (folder / _LOCK).unlink()
    os.close(file)
    with suppress(OSError):  # one holds something, and so do those around it
        for one in made:
            one.rmdir()


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The lock of a folder for a while, unless this process holds it anyway."""
    new = hold(folder)
    try:
        yield
    finally:
        if new:
            release(folder)


def _lock(file: int) -> None:
    if sys.platform == "win32":
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@atexit.register
def release_all() -> None:
    """Give back all locks of this process, as its end does."""
    for folder in list(_held):
        release(folder)
