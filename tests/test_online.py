# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""No token comes out of what asks the Hub: not in errors, nor behind them, nor in the log."""

import logging
import traceback
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from hf_focal import CalibrationTrainingArguments
from hf_focal.online import clean_token, known_secrets, online, scrub


SECRET = "hf_" + "verySecret"
HTTP_ERROR = next(cls for cls in HfHubHTTPError.__mro__ if cls.__module__.startswith("httpx"))


@pytest.fixture(autouse=True)
def no_login(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def everything(error):
    """All that can be seen of an error and of what is behind it."""
    seen, waiting = [], [error]
    while waiting:
        if (one := waiting.pop()) is not None and one not in seen:
            seen.append(one)
            waiting += [one.__cause__, one.__context__]
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [frame for frame in report.stack if frame.filename != __file__]
    locals_ = "".join(str(frame.locals) for frame in frames)
    return locals_ + "".join(f"{one} {one!r} {one.args} {vars(one)}" for one in seen) + str(report)


@online
def ask(error, token=None, cause=None, context=None):
    if context is not None:
        try:
            raise context
        except Exception:
            raise error from cause
    raise error from cause


# ---- Errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [OSError, ValueError, RuntimeError])
@pytest.mark.parametrize("where", ["error", "cause", "context", "note", "attribute"])
def test_an_error_with_a_token_in_it_or_behind_it_is_one_of_the_same_kind_without(kind, where):
    error, quoting = kind("the Hub said no"), Exception(f"header 'Bearer {SECRET}'")
    behind = {where: quoting} if where in ("cause", "context") else {}
    if where == "error":
        error = kind(f"the Hub said no to {SECRET}")
    elif where == "note":
        error.__notes__ = [f"sent: {SECRET}"]
    elif where == "attribute":
        error.server_message = f"who is {SECRET}?"
    with pytest.raises(kind, match="the Hub said no") as raised:
        ask(error, token=SECRET, **behind)
    assert SECRET not in everything(raised.value)
    assert raised.value.__cause__ is raised.value.__context__ is None


def test_an_error_without_a_token_passes_as_it_is(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    error = KeyError("pixel_values")
    with pytest.raises(KeyError) as raised:
        ask(error, cause=ValueError("deep inside"))
    assert raised.value is error and str(error.__cause__) == "deep inside"


@pytest.mark.parametrize("place", ["argument", "position", "variable", "older variable", "login", "arguments"])
def test_it_knows_the_token_wherever_it_is_from(place, monkeypatch, no_login):
    token = "unusual-token_of/mine"  # which does not look like one
    error = OSError(f"no access with {token}!")
    if place == "login":
        (no_login / "token").write_text(token + "\n")
    elif place.endswith("variable"):
        monkeypatch.setenv("HF_TOKEN" if place == "variable" else "HUGGING_FACE_HUB_TOKEN", f" {token}\n")

    class Owner:
        args = SimpleNamespace(hub_token=token if place == "arguments" else None)

        @online
        def ask(self, error, token=None):
            raise error

    positional, named = ([token] if place == "position" else []), {"token": token} if place == "argument" else {}
    with pytest.raises(OSError, match="no access with <token>!"):
        Owner().ask(error, *positional, **named)


@pytest.mark.parametrize("lost", [ConnectionError("down"), TimeoutError("slow"), HTTP_ERROR("the connection closed")])
def test_a_lost_connection_is_one_os_error(lost):
    lost.request = SimpleNamespace(headers={"Authorization": f"Bearer {SECRET}"})
    for error, behind in ((lost, {}), (RuntimeError("no model"), {"context": lost})):
        with pytest.raises(OSError, match=str(lost)) as raised:
            ask(error, **behind)
        assert SECRET not in everything(raised.value) and raised.value.__context__ is None


def test_a_token_that_no_header_can_hold_is_called_that(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET + "\u00e9")

    @online
    def send():
        return f"Bearer {SECRET}\u00e9".encode("ascii")

    with pytest.raises(ValueError, match="The token of HF_TOKEN or of the login .* characters") as raised:
        send()
    assert SECRET not in everything(raised.value)


@pytest.mark.parametrize("token", ["", " ", f"{SECRET}\n{SECRET}", f"Bearer {SECRET}", SECRET + "\u00e9", b"x", 3])
def test_what_cannot_be_a_token_is_refused(token):
    with pytest.raises(ValueError, match="token") as raised:
        clean_token(token)
    assert SECRET not in str(raised.value)
    assert clean_token(f" {SECRET}\n") == SECRET and clean_token(None) is None and clean_token(False) is False


# ---- Texts ----------------------------------------------------------------------------------------------------------


def test_a_text_is_rid_of_tokens_in_every_form():
    secrets = known_secrets(f"{SECRET}\nhf_Other/{SECRET[3:]}")
    for text in (
        SECRET, repr(f"{SECRET}\nhf_Other/{SECRET[3:]}"), f"Bearer {SECRET}", f"?token={SECRET}&x=1",
        f"https://user:{SECRET}@hub/x", "hf_Other%2FverySecret",
    ):  # fmt: skip
        assert "Secret" not in scrub(text, secrets) and "Other" not in scrub(text, secrets), text
    assert scrub("https://ann:pass@hub/x Bearer abcdef hf_abcDEF123") == "https://<token>@hub/x Bearer <token> <token>"


def test_nothing_else_is_taken_out_of_a_text():
    text = "hf_focal.push_to_hub('a', 'ann/b'): hf_hub_download, hf_transfer, https://hub:80/a?b@c, the bearer token"
    assert scrub(text) == text


# ---- The log, arguments ---------------------------------------------------------------------------------------------


def test_records_have_no_token_while_a_door_is_passed(caplog):
    logger = logging.getLogger("a.client")

    @online
    def talk(token):
        logger.warning("the server says: %s", f"hello {token}")
        try:
            raise OSError(f"retry with {token}")
        except OSError:
            logger.warning("again", exc_info=True)
        logger.warning("%d files", 3)

    talk("a-secret-of-mine")
    logger.warning("a-secret-of-mine, which is no longer one")
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "the server says: hello <token>" and messages[2] == "3 files"
    assert "retry with <token>" in messages[1] and "a-secret-of-mine" not in messages[1]
    assert caplog.records[1].exc_info is None and caplog.records[2].args == (3,)
    assert messages[3] == "a-secret-of-mine, which is no longer one"


def test_arguments_do_not_show_the_token(tmp_path):
    @dataclass
    class Own(CalibrationTrainingArguments):
        more: int = 1

    for cls in (CalibrationTrainingArguments, Own):
        args = cls(str(tmp_path), hub_token=SECRET, use_cpu=True)
        assert args.hub_token == SECRET
        assert SECRET not in repr(args) + str(args) + args.to_json_string() + str(args.to_sanitized_dict())
