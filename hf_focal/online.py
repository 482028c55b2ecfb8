# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Whatever asks the Hub goes through this door: a lost connection is an `OSError`, and no token comes out of it."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError


_P = ParamSpec("_P")
_R = TypeVar("_R")

HIDDEN = "<token>"
_ODD = "is empty or holds characters that no token has."
# Libraries whose errors hold the request, and so its headers.
_CLIENTS = ("aiohttp", "httpcore", "httpx", "httpx2", "huggingface_hub", "requests", "urllib3")
# What no token of ours must be for: a header, the password of an address, and what looks like a token of the Hub.
_SHAPES = (
    (re.compile(r"(?i)\b(bearer)\s+(?!token\b|<token>)[!-&(-~]{4,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?i)\b(basic)\s+[a-z0-9+/=_-]{16,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"(://)[^\s/@'\"]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"\bhf_(?=[A-Za-z0-9]*[A-Z0-9])[A-Za-z0-9]{6,}"), HIDDEN),
)
_open: list[list[str]] = []  # the secrets of the doors that are being passed


def online(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """
    A decorator of what may ask the Hub. An error that a token is in, or behind (in a request that it holds, or in an
    error that it came from), is replaced by one of the same kind, with the token taken out and nothing behind it, and
    a lost connection by an `OSError`. Log records are cleaned likewise. All other errors pass as they are.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def door(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            given = signature.bind_partial(*args, **kwargs).arguments
        except TypeError:  # which the call itself will say
            given = {}
        own = getattr(given.get("self"), "args", None)
        secrets = known_secrets(given.get("token"), getattr(own, "hub_token", None))
        try:
            with _clean_records(secrets):
                return function(*args, **kwargs)
        except Exception as error:
            plain = _plain(error, secrets)
            if plain is None:
                raise
        del args, kwargs, given, own, secrets  # a report of the error may show what the frames hold
        raise plain  # not while the other is being handled, which would stay its context

    return door


def clean_token(token: str | bool | None) -> str | bool | None:
    """A token without space around it. One that cannot be sent is refused: the client's own error would quote it."""
    if token is not None and not isinstance(token, (str, bool)):
        raise ValueError(f"token must be a string, True, False or None, got {type(token).__name__}.")
    if not isinstance(token, str):
        return token
    if not re.fullmatch("[!-~]+", token.strip()):
        raise ValueError(f"The token {_ODD}")
    return token.strip()


def known_secrets(*tokens: Any) -> list[str]:
    """What must not be shown: these tokens, those of the environment and of the login, and their parts."""
    found = [token for token in tokens if isinstance(token, str)]
    found += [os.environ.get(name, "") for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")]
    try:
        found.append(Path(constants.HF_TOKEN_PATH).read_text(encoding="utf-8"))
    except (OSError, UnicodeError):
        pass
    parts = {part for token in found for part in re.findall("[!-~]+", token)} - {"Bearer", "bearer", "Basic", "basic"}
    whole = {re.sub(r"\s", "", token) for token in found}  # as the client sends it
    secrets = {secret for secret in parts | whole if len(secret) > 3}  # less would garble the text
    return sorted(secrets | {quote(secret, safe="") for secret in secrets}, key=len, reverse=True)


def scrub(text: str, secrets: list[str] | None = None) -> str:
    """A text with no token in it: neither one that is known nor what looks like one."""
    for secret in known_secrets() if secrets is None else secrets:
        text = text.replace(secret, HIDDEN)
    for shape, replacement in _SHAPES:
        text = shape.sub(replacement, text)
    return text


def plain_text(error: BaseException) -> str:
    """What an error and its cause say, in one line."""
    said, *behind = [" ".join(str(one).split()) or type(one).__name__ for one in (error, error.__cause__) if one]
    return " ".join([said, *(text for text in behind if text not in said)])


def _plain(error: Exception, secrets: list[str]) -> Exception | None:
    """The error to raise in place of this one; `None` where this one may pass."""
    chain = list(_chain(error))
    asked = any(_of_a_client(one) for one in chain)
    shown = "".join(f"{one!s} {one!r} {vars(one)!r}" for one in chain) if not asked else ""
    if not asked and scrub(shown, secrets) == shown:
        return None
    if any(isinstance(one, UnicodeEncodeError) and scrub(str(one.object), secrets) != one.object for one in chain):
        return ValueError(f"The token of HF_TOKEN or of the login {_ODD} Set it anew, as by `hf auth login`.")
    text = plain_text(error)
    behind = [" ".join(str(one).split()) for one in chain if _of_a_client(one)]
    if behind and not any(told in text for told in behind):
        text += f" The Hub could not be asked: {behind[0]}"
    text = scrub(text, secrets)
    if isinstance(error, OSError) or (asked and not isinstance(error, ValueError)):
        return OSError(text)
    return ValueError(text) if isinstance(error, ValueError) else RuntimeError(f"{type(error).__name__}: {text}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that it came from, suppressed or not."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and one not in seen:
            seen.append(one)
            waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    yield from seen


def _of_a_client(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError, LocalEntryNotFoundError)):
        return True
    return any(cls.__module__.split(".")[0] in _CLIENTS for cls in type(error).__mro__)


@contextmanager
def _clean_records(secrets: list[str]) -> Iterator[None]:
    """Meanwhile, log records of any library have no token: the client logs what a server says."""
    make = logging.getLogRecordFactory()
    if not isinstance(make, _CleanRecords):
        logging.setLogRecordFactory(_CleanRecords(make))
    _open.append(secrets)
    try:
        yield
    finally:
        _open.remove(secrets)


@dataclass(frozen=True)
class _CleanRecords:
    """What makes log records, without tokens while a door is being passed."""

    make: Callable[..., logging.LogRecord]

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self.make(*args, **kwargs)
        secrets = [secret for of_a_door in list(_open) for secret in of_a_door]
        if not _open or (record.args and not isinstance(record.msg, str)):
            return record
        try:
            text = said = record.getMessage()
        except (TypeError, ValueError, KeyError):  # whoever handles the record reports that
            return record
        if record.exc_info and record.exc_info[0]:
            told = "".join(traceback.format_exception(*record.exc_info))
            if scrub(told, secrets) != told:
                text, record.exc_info = f"{text}\n{told}", None
        if (clean := scrub(text, secrets)) != said:
            record.msg, record.args = clean, ()
        return record
