# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Bars: in a terminal alone, once work takes long, one at a time, and never in the way of what is computed."""

import io
import sys
import threading

import pytest

from hf_focal import progress as bars


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(bars, "_state", {"off": False, "busy": False})
    monkeypatch.setattr(bars, "DELAY", 0.0)
    monkeypatch.delenv("RANK", raising=False)

    def start():  # in the test: pytest puts its own stream there after the fixtures
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        return screen

    return start


def test_a_bar_tells_what_is_done_and_the_time_left(terminal):
    screen = terminal()
    assert list(bars.progress(range(5), "folds")) == [0, 1, 2, 3, 4]
    assert "folds:   0%|" in screen.getvalue() and "| 0/5 [" in screen.getvalue()
    screen.truncate(0)
    assert list(bars.progress(iter("ab"), "fits", 2)) == ["a", "b"] and "/2 [" in screen.getvalue()


def test_one_bar_at_a_time(terminal):
    screen = terminal()
    for _ in bars.progress(range(2), "outer"):
        assert list(bars.progress(range(3), "inner")) == [0, 1, 2]
    assert "inner" not in screen.getvalue() and "outer" in screen.getvalue()
    with pytest.raises(ZeroDivisionError):
        for _ in bars.progress(range(2), "failing"):
            _ / 0
    assert list(bars.progress(range(2), "again")) == [0, 1] and "again" in screen.getvalue()


def test_quick_work_has_none(terminal, monkeypatch):
    screen = terminal()
    monkeypatch.setattr(bars, "DELAY", 2.0)
    assert list(bars.progress(range(100), "quick")) == list(range(100))
    assert "quick" not in screen.getvalue()


@pytest.mark.parametrize("case", ["pipe", "no stream", "other process", "flag"])
def test_elsewhere_the_items_are_given_back_as_they_are(terminal, monkeypatch, case):
    screen = terminal()
    if case == "pipe":
        monkeypatch.setattr(sys, "stderr", io.StringIO())
    elif case == "no stream":
        monkeypatch.setattr(sys, "stderr", None)
    elif case == "other process":
        monkeypatch.setenv("RANK", "1")
    else:
        bars.no_bars()
    items, threads = [1, 2], threading.active_count()
    assert bars.progress(items, "x") is items and threading.active_count() == threads
    assert screen.getvalue() == ""
